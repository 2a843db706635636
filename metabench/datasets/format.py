"""The files of a dataset split: rows of steps, a table of episodes, last observations, and a manifest for them all.

A split is a folder:

| file | what |
| --- | --- |
| `steps.npy` | one row per step, in the order of `row_type`: observation, action, reward, return to go, four flags |
| `episodes.npy` | one row per episode (`EPISODE`), task by task; within a task as the behaviour learned |
| `final_observations.npy` | `[episodes, O]` what each episode ended in; so every next observation is there once |
| `expert_actions.npy` | optional: what the oracle would have done at each step; a row of zeros behind each episode |
| `states.npy` | optional: `[K, S]` float64 the simulator's state at every `state_every`-th step, row by row |
| `manifest.json` | what it is, how it was made, sha256 and bytes of every file, the returns of every task |

Rows are interleaved, because a training window is then one contiguous piece of the file; each field of `steps.npy` is a
memory-mapped column all the same. Observations and rewards are float32. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from gymnasium import spaces
from numpy.lib import format as npy
from pydantic import BaseModel, ConfigDict, Field, model_validator

from metabench.evaluation.results import parse
from metabench.evaluation.results import sync_folder as sync_folder  # by its older place
from metabench.family import Family
from metabench.rng import Array

SCHEMA = 1
MANIFEST = "manifest.json"
STEPS, EPISODES, FINAL, STATES = "steps.npy", "episodes.npy", "final_observations.npy", "states.npy"
ADVICE = "expert_actions.npy"  # kept like another format's infos: one row more per episode than there are steps
FLAGS = ("terminated", "truncated", "session_ended", "success")  # one byte each, the last columns of a row
EPISODE = np.dtype(
    [
        ("task", "<i4"),  # row in the split's task table
        ("policy", "<i4"),  # which of the manifest's policies played
        ("start", "<i8"),  # its first row in steps.npy
        ("length", "<i4"),  # steps
        ("place", "<i4"),  # number of the episode within its trial: 0 where the behaviour keeps no memory
        ("return", "<f8"),  # sum of its rewards, in float64
        ("seed", "<u8"),  # its trial's: reset(seed=..., options={"task": task}) begins the same way
        ("policy_step", "<i8"),  # environment steps the behaviour had been trained for
    ]
)
LICENCE = "CC0-1.0"
CITATION = "metabench; and the sources that `metabench show` names for the benchmark"


def row_type(
    observation: int,
    action: tuple[int, ...],
    observation_dtype: str = "<f4",
    action_dtype: str = "<f4",
    reward_dtype: str = "<f4",
) -> np.dtype[Any]:
    """The dtype of one step; rows are a multiple of four bytes long, and fields aligned, as tensors need it."""
    columns: list[Any] = [
        ("observation", observation_dtype, (observation,)),
        ("action", action_dtype, action),
        ("reward", reward_dtype),
        ("return_to_go", "<f4"),
    ]
    return np.dtype(columns + [(name, "?") for name in FLAGS], align=True)


def family_row_type(family: Family[Any, Any]) -> np.dtype[Any]:
    """That of a benchmark's generated data: float32, and int32 for discrete actions."""
    kind = "<i4" if isinstance(family.action_space, spaces.Discrete) else "<f4"
    return row_type(len(family.observation_fields), family.action_space.shape or (), action_dtype=kind)


def as_bytes(rows: Array, together: int = 1) -> Array:
    """Rows, so many `together`, as items without fields: what copies them copies whole items, not field by field."""
    return rows.view(np.dtype((np.void, rows.itemsize * together)))


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileRecord(_Record):
    """One file of a split."""

    name: str = Field(pattern=r"^[a-z_0-9]+\.npy$")  # no path: a manifest never points outside its folder
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class PolicyRecord(_Record):
    """A behaviour policy."""

    name: str  # in words
    step: int = Field(ge=0)  # environment steps it had been trained for
    sha256: str = ""  # of its weights; empty for closed-form policies
    settings: Mapping[str, float | str] = Field(default_factory=dict)


class TaskStatistics(_Record):
    """The returns of one task's episodes."""

    task: int = Field(ge=0)
    episodes: int = Field(ge=1)
    mean: float
    low: float
    high: float


class Manifest(_Record):
    """What a split is and how it was made. Two generations of the same data have the same manifest, byte for byte."""

    schema_version: Literal[1] = SCHEMA
    id: str  # metabench/cheetah-vel/mixed-v0
    benchmark: str  # CheetahVel-v0; empty for data of another origin
    spec: Mapping[str, Any]  # the benchmark's, as `Spec.to_json` has it
    split: str
    quality: str
    task_digest: str  # sha256 of the split's task table; empty where there is no such table
    observation: int = Field(ge=1)  # columns
    action: tuple[int, ...]  # shape; () for Discrete
    actions: int | None = None  # how many, for Discrete
    observation_dtype: Literal["<f4", "<f8"] = "<f4"
    action_dtype: Literal["<f4", "<f8", "<i4", "<i8"] = "<f4"
    reward_dtype: Literal["<f4", "<f8"] = "<f4"
    steps: int = Field(ge=1)
    episodes: int = Field(ge=1)
    state_every: int | None = Field(default=None, ge=1)
    sessions: bool = False  # whether tasks change inside episodes
    has_success: bool = False  # whether the benchmark knows success
    seed: int = Field(ge=0)
    policies: tuple[PolicyRecord, ...]
    infos: Mapping[str, str] = Field(default_factory=dict)  # file to name: what another format keeps beside every step
    statistics: tuple[TaskStatistics, ...]
    files: tuple[FileRecord, ...]
    versions: Mapping[str, str]
    command: str  # that makes it again
    licence: str = LICENCE
    citation: str = CITATION
    extra: Mapping[str, str] = Field(default_factory=dict)  # what another format's metadata held

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = [file.name for file in self.files]
        wanted = [STEPS, EPISODES, FINAL, *([STATES] if self.state_every else []), *self.infos]
        if sorted(names) != sorted(wanted):
            raise ValueError(f"the files are {', '.join(names)}, and should be {', '.join(wanted)}")
        if sum(s.episodes for s in self.statistics) != self.episodes:
            raise ValueError("the statistics do not cover all episodes")
        return self

    @property
    def row_type(self) -> np.dtype[Any]:
        """The dtype of steps.npy."""
        kinds = (self.observation_dtype, self.action_dtype, self.reward_dtype)
        return row_type(self.observation, self.action, *kinds)

    @property
    def bytes(self) -> int:
        """Of all files but the manifest."""
        return sum(file.bytes for file in self.files)

    def to_bytes(self) -> bytes:
        """The manifest file: canonical JSON with its own sha256 in the last line, so that any edit shows."""
        body = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(body.encode()).hexdigest()
        return f'{{"manifest": {body},\n"sha256": "{digest}"}}\n'.encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """Reads a manifest file; ValueError in one sentence if it is none or was edited."""
        try:
            record = json.loads(content)
            body = record["manifest"]
            text = json.dumps(body)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"this is no valid {MANIFEST}: it is damaged or no manifest at all") from None
        manifest: Manifest = parse(cls, text, MANIFEST)
        try:
            told = manifest.to_bytes()
        except (ValueError, RecursionError):  # what is nested too deep, or text that is no Unicode
            told = b""
        if told != content:
            raise ValueError(f"{MANIFEST} was changed after it was written: its sha256 does not fit its content")
        return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the split in `folder`; ValueError in one sentence if there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"there is no dataset in {folder}: it has no {MANIFEST}")
    try:
        return Manifest.from_bytes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def open_column(folder: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A file as a read-only memory map; ValueError naming the file if dtype or shape are not the expected ones."""
    try:
        column = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ValueError(f"{folder / name} cannot be read: {error}") from None
    if column.dtype != dtype or column.shape != shape:
        raise ValueError(
            f"{folder / name} holds {column.shape} of {column.dtype}, the manifest says {shape} of {dtype}"
        )
    return column


def hash_file(path: Path, block: int = 1 << 22) -> str:
    """The sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(block):
            digest.update(part)
    return digest.hexdigest()


def write_column(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], parts: Iterable[Array]) -> FileRecord:
    """Streams parts along the first axis into one .npy file, synced to the disk; returns its record.

    Raises:
        ValueError: If the parts do not make up `shape`: the file is left incomplete, for the caller to discard.
    """
    digest, rows = hashlib.sha256(), 0
    with path.open("wb") as file:

        def put(content: bytes | memoryview) -> None:
            file.write(content)
            digest.update(content)

        put(_header(dtype, shape))
        for part in parts:
            block = np.ascontiguousarray(part, dtype=dtype)
            rows += len(block)
            if block.size:
                put(block.reshape(-1).view(np.uint8).data)
        if rows != shape[0]:
            raise ValueError(f"{path.name} was to have {shape[0]} rows and got {rows}")
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return FileRecord(name=path.name, bytes=size, sha256=digest.hexdigest())


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    import io

    buffer = io.BytesIO()
    record = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, record)
    return buffer.getvalue()


def task_statistics(episodes: Array) -> tuple[TaskStatistics, ...]:
    """Per task, over the rows of episodes.npy."""
    records = []
    for task in np.unique(episodes["task"]):
        returns = episodes["return"][episodes["task"] == task]
        records.append(
            TaskStatistics(
                task=int(task),
                episodes=len(returns),
                mean=float(returns.mean()),
                low=float(returns.min()),
                high=float(returns.max()),
            )
        )
    return tuple(records)


def returns_to_go(rewards: Array, lengths: Array) -> Array:
    """`[N]` float32: from every step on to the end of its episode, summed from the end in float64."""
    togo = np.empty(len(rewards), dtype=np.float64)
    stop = 0
    if len(lengths) and (lengths == lengths[0]).all():
        block = rewards.astype(np.float64).reshape(len(lengths), int(lengths[0]))
        return np.cumsum(block[:, ::-1], axis=1)[:, ::-1].reshape(-1).astype(np.float32)
    longest = int(lengths.max()) if len(lengths) else 0
    if longest * len(lengths) <= 4 * len(rewards):  # zeros behind the ends change no sum
        inside = np.arange(longest) < lengths[:, None]
        block = np.zeros(inside.shape)
        block[inside] = rewards
        return np.cumsum(block[:, ::-1], axis=1)[:, ::-1][inside].astype(np.float32)
    for length in lengths.tolist():
        start, stop = stop, stop + length
        togo[start:stop] = np.cumsum(rewards[start:stop][::-1], dtype=np.float64)[::-1]
    return togo.astype(np.float32)
