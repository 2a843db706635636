"""Records of evaluations: frozen, versioned, checked on reading, with errors in words."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from metabench.rng import Array

SCHEMA = 1  # the version of the record; one file of every version is kept among the tests
# Fixed slots: every trial is one slot and plays exactly its episodes. In `slots-2`, an agent also sees how the trial's
# previous episode ended; `slots-1`, which blanked it out, stays playable, so that what was measured under it can be
# verified for ever.
PROTOCOL_VERSIONS = ("slots-1", "slots-2")
PROTOCOL_VERSION = PROTOCOL_VERSIONS[-1]

# What an agent is played as; `metabench.agent.Agent` tells of it. What the tracks of a leaderboard mean is told in
# `leaderboard/track.py`.
PlayedAs: TypeAlias = Literal["online", "offline", "prompt-k", "oracle"]


def played_as(agent: Any) -> PlayedAs:
    """What an agent is played as: what it says, or what follows from what it is shown."""
    return getattr(agent, "track", "oracle" if getattr(agent, "privileged", False) else "online")


def check_version(version: str) -> str:
    """The version of a protocol that can be played; ValueError for an unknown one."""
    if version not in PROTOCOL_VERSIONS:
        raise ValueError(f"unknown version {version!r} of the protocol; there are {', '.join(PROTOCOL_VERSIONS)}")
    return version


class Record(BaseModel):
    """A frozen record: unknown fields and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Protocol(Record):
    """How a benchmark is played: every task `repeats` times, `episodes` episodes each, none dropped."""

    benchmark: str
    split: str
    episodes: int = Field(ge=1)
    repeats: int = Field(ge=1)
    seed: int = Field(ge=0)
    version: str = PROTOCOL_VERSION


class Result(Record):
    """One agent's evaluation: the raw returns, and what it takes to read and repeat them."""

    schema_version: Literal[1] = SCHEMA
    protocol: Protocol
    agent: str
    track: PlayedAs  # oracle: shown the task; prompt-k: demonstrations
    task_digest: str  # sha256 of the split's table
    train_seed: int | None = None
    versions: Mapping[str, str]
    returns: tuple[tuple[tuple[float, ...], ...], ...]  # [task][repeat][episode], undiscounted
    successes: tuple[tuple[tuple[bool, ...], ...], ...] | None = None  # the same, where the benchmark has success

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name in ("returns", "successes"):
            table = getattr(self, name)
            if table is None:
                continue
            for task, repeats in enumerate(table):
                if len(repeats) != self.protocol.repeats or any(len(r) != self.protocol.episodes for r in repeats):
                    shape = f"{self.protocol.repeats} repeats of {self.protocol.episodes} episodes"
                    raise ValueError(f"{name} of task {task} are not {shape}")
        if not self.returns:
            raise ValueError("returns are empty: a result needs at least one task")
        return self

    def array(self) -> Array:
        """Returns as an array `[task, repeat, episode]`."""
        return np.array(self.returns, dtype=np.float64)

    def trials(self) -> Array:
        """Returns as an array `[task * repeat, episode]`."""
        returns = self.array()
        return returns.reshape(-1, returns.shape[-1])

    def to_json(self) -> str:
        """The record as JSON; floats keep every bit."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Reads a record; ValueError in one sentence naming the first field that is wrong."""
        return parse(cls, text, "result")

    def save(self, path: Path) -> None:
        """Writes the record so that `path` is either the old file or the whole new one."""
        write_atomically(path, self.to_json().encode())

    @classmethod
    def load(cls, path: Path) -> Result:
        """Reads `path`; ValueError in one sentence if it is no result."""
        if not path.is_file():
            raise ValueError(f"there is no result file {path}")
        return cls.from_json(path.read_text())


def parse(model: type[Any], text: str, what: str) -> Any:
    """A record from JSON; ValueError in one sentence naming the first fault."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the record"
        raise ValueError(f"this is no valid {what}: {where}: {first['msg']}") from None


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable, where the platform can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_LEFT_OVER = re.compile(r"\.(.+)\.[a-z0-9_]{8}\Z")


def left_over(name: str) -> str:
    """The file that a killed `write_atomically` was to write, told by the name of what it left; empty if it is none."""
    match = _LEFT_OVER.match(name)
    return match[1] if match else ""


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a crash leaves the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp's own mode hides the file from others
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
