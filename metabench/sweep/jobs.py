"""Jobs: what there is to do, as JSON; and the plan of a sweep, a file with one of them per line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metabench.evaluation.results import write_atomically
from metabench.tasks import suggest

KINDS = ("train", "evaluate", "generate", "study")
_FIELDS = {"kind", "settings", "seed"}


@dataclass(frozen=True)
class Job:
    """One piece of work, and all that decides about its result.

    What the kinds do with their settings stands in `metabench.sweep.work`.

    Args:
        kind: One of `KINDS`.
        settings: JSON: mappings with words as keys, lists, words, numbers, true, false, null.
        seed: Of whatever is random in it.

    Raises:
        ValueError: In one sentence, for an unknown kind, a seed below zero, or settings that are no JSON.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of job {self.kind!r}; {suggest(str(self.kind), KINDS)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"the seed of a job is a whole number of at least 0, got {self.seed!r}")
        try:
            settings = json.loads(canonical(self.settings))  # a copy, with lists where there were tuples
        except (TypeError, ValueError) as error:
            raise ValueError(f"the settings of a job are JSON: {error}") from None
        if not isinstance(settings, dict):
            raise ValueError(f"the settings of a job are names with values, got {settings!r}")
        object.__setattr__(self, "settings", settings)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """The canonical JSON, in one line: equal jobs have equal text."""
        return canonical({"kind": self.kind, "settings": self.settings, "seed": self.seed})

    def key(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits: the name of the result's folder."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Reads a job; ValueError in one sentence if it is none."""
        try:
            values = json.loads(text)
        except ValueError:
            raise ValueError(f"this is no job, for it is no JSON: {text[:80]!r}") from None
        if not isinstance(values, dict) or values.keys() != _FIELDS:
            raise ValueError(f"a job has the fields kind, settings and seed, and no others: {text[:80]!r}")
        return cls(**values)

    @property
    def group(self) -> str:
        """What it is about, in words, without settings and seed: jobs of one group cost about the same."""
        names = ("function", "agent", "id", "benchmark")
        return " ".join([self.kind, *(str(self.settings[name]) for name in names if name in self.settings)])

    @property
    def label(self) -> str:
        """The job in words."""
        extra = {"shard", "split", "config", "arguments"} & self.settings.keys()
        parts = [text for name in sorted(extra) if (text := _short(self.settings[name]))]
        return " ".join([self.group, *parts, f"seed {self.seed}"])


def canonical(value: Any) -> str:
    """JSON with sorted names and no spaces; TypeError or ValueError for what is no JSON, numbers like nan included."""
    _check_names(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_names(value: Any) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise TypeError(f"a name must be a word, got {name!r}")
            _check_names(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_names(inner)


def _short(value: Any, group: str = "") -> str:
    if isinstance(value, Mapping):
        return " ".join(_short(inner, f"{group}.{name}" if group else name) for name, inner in value.items())
    text = value if isinstance(value, str) else canonical(value)
    return f"{group}={text}" if group else text


def read_plan(path: Path) -> list[Job]:
    """The jobs in a file of one per line; ValueError in one sentence naming the line that is none."""
    if not path.is_file():
        raise ValueError(f"there is no file of jobs {path}")
    jobs = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            jobs.append(Job.from_json(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return jobs


def add_to_plan(path: Path, jobs: Iterable[Job]) -> list[Job]:
    """Adds the jobs that a plan has not yet, each once, and returns all of it.

    A line keeps its number for ever: members of a running array of jobs know theirs.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        known = dict.fromkeys(read_plan(path) if path.exists() else ())
        count = len(known)
        known |= dict.fromkeys(jobs)
        if len(known) > count or not path.exists():
            write_atomically(path, "".join(f"{job.to_json()}\n" for job in known).encode())
    return list(known)
