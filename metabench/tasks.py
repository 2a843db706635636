"""What varies between the MDPs of one family: context fields, tasks, and the frozen tables tasks come from."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from metabench.rng import Array, SlotRng, whole_number, whole_numbers

C = TypeVar("C")

FRESH = "fresh"  # the split without a table: every draw is a new task from the training ranges
OFF_TABLE = -1  # the index of a task that is no row of a table


@dataclass(frozen=True, slots=True)
class Range:
    """The closed interval a context field may take, and the narrower one that training tasks are drawn from."""

    low: float
    high: float
    unit: str = ""
    doc: str = ""
    train: tuple[float, float] = (0.0, 0.0)
    integer: bool = False
    fixed: bool = False


def param(
    low: float,
    high: float,
    unit: str = "",
    doc: str = "",
    *,
    train: tuple[float, float] | None = None,
    integer: bool = False,
    fixed: bool = False,
) -> Any:
    """A task parameter: a field of a family's frozen context dataclass.

    Args:
        low: Smallest legal value.
        high: Largest legal value.
        unit: Physical unit, shown in tables.
        doc: What it is, in a few words.
        train: The part of the interval that training tasks come from; all of it by default.
        integer: Whether only whole numbers are legal.
        fixed: Whether it keeps its value when a session ends, as a body does while wishes change.
    """
    return field(metadata={"range": Range(low, high, unit, doc, train or (low, high), integer, fixed)})


def latent(values: int, doc: str = "") -> Any:
    """A context field with the values 0 .. values-1 that is no part of a task: sessions draw and change it."""
    return field(metadata={"latent": Range(0, values - 1, "", doc, (0, values - 1), integer=True)})


def param_ranges(context_type: type) -> dict[str, Range]:
    """The task parameters of a context dataclass, in order."""
    return {f.name: f.metadata["range"] for f in dataclasses.fields(context_type) if "range" in f.metadata}


def latent_ranges(context_type: type) -> dict[str, Range]:
    """The session-driven fields of a context dataclass, in order."""
    return {f.name: f.metadata["latent"] for f in dataclasses.fields(context_type) if "latent" in f.metadata}


@dataclass(frozen=True, slots=True)
class Task:
    """One MDP (or DLCMDP) of a benchmark: readable, hashable, JSON. `index` is its row in the split, or -1."""

    family: str
    context: tuple[float, ...]
    split: str
    index: int

    def to_json(self) -> str:
        """The task as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The inverse of `to_json`."""
        record = json.loads(text)
        return cls(record["family"], tuple(record["context"]), record["split"], record["index"])


class TaskBatch(NamedTuple):
    """The tasks of B slots as columns, because a batch of thousands of `Task` objects would cost milliseconds."""

    row: Array  # [B] int64 row in the split, -1 for tasks off the table
    values: Array  # [B, K] float64 task parameters in the order of the context's fields


def stack(context_type: type[C], values: Array) -> C:
    """A context whose fields are `[B]` columns of `values` `[B, K]`; latent fields start at 0."""
    params = iter(range(values.shape[1]))
    columns: dict[str, Array] = {}
    for f in dataclasses.fields(context_type):  # pyright: ignore[reportArgumentType]
        if "latent" in f.metadata:
            columns[f.name] = np.zeros(len(values), dtype=np.int64)
            continue
        column = values[:, next(params)]
        columns[f.name] = column.astype(np.int64) if f.metadata["range"].integer else column.copy()
    return context_type(**columns)


def real_number(value: Any) -> float | None:
    """A real number of any numeric type, 0-d arrays included, as Python's float; None for all else, booleans too."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return (
        float(value)
        if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        else None
    )


def suggest(name: str, known: Sequence[str], shown: Sequence[str] | None = None) -> str:
    """The end of an error message about an unknown name: a near one if there is any, then all, or those `shown`."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"{f'did you mean {near[0]!r}? ' if near else ''}available: {', '.join(known if shown is None else shown)}"


@dataclass(frozen=True)
class TaskTable:
    """The frozen splits of one benchmark, and the only place tasks are drawn."""

    family: str
    context_type: type
    rows: Mapping[str, Array]  # split -> [n, K] float64, read-only
    reject: Callable[[Any], str] | None = None  # context -> why it is no task; all are, by default

    @classmethod
    def load(cls, family: str, context_type: type, path: Path) -> TaskTable:
        """Reads the JSON table at `path`; ValueError where it does not fit the context's fields."""
        record = json.loads(path.read_text())
        names = list(param_ranges(context_type))
        if record["fields"] != names:
            raise ValueError(
                f"task table {path.name} has the fields {record['fields']}, the family {family} has {names}"
            )
        rows = {split: np.array(part["rows"], dtype=np.float64) for split, part in record["splits"].items()}
        for table in rows.values():
            table.setflags(write=False)
        return cls(family, context_type, rows)

    @property
    def ranges(self) -> dict[str, Range]:
        """The task parameters by name."""
        return param_ranges(self.context_type)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the frozen splits; `fresh` works besides them."""
        return tuple(self.rows)

    def check_split(self, split: str) -> None:
        """ValueError in one sentence if there is no such split."""
        if not isinstance(split, str) or (split != FRESH and split not in self.rows):
            raise ValueError(f"unknown split {split!r} of {self.family}; {suggest(str(split), [*self.rows, FRESH])}")

    def size(self, split: str) -> int:
        """The number of tasks in a frozen split."""
        self.check_split(split)
        if split == FRESH:
            raise ValueError(f"the split 'fresh' of {self.family} has no table: its tasks are drawn, not numbered")
        return len(self.rows[split])

    def fixed(self, split: str) -> tuple[Task, ...]:
        """Every task of a frozen split, in order."""
        return tuple(Task(self.family, tuple(self.rows[split][i].tolist()), split, i) for i in range(self.size(split)))

    def digest(self, split: str) -> str:
        """The sha256 of a split: benchmark, field names and the bytes of its rows."""
        self.size(split)
        head = json.dumps([self.family, split, list(self.ranges)]).encode()
        return hashlib.sha256(head + self.rows[split].astype("<f8").tobytes()).hexdigest()

    def draw(self, rng: SlotRng, split: str) -> TaskBatch:
        """One random task of `split` per stream."""
        if split != FRESH:
            rows = rng.integers(len(self.rows[split]))
            return TaskBatch(rows, self.rows[split].take(rows, axis=0))
        ranges = self.ranges.values()
        if any(r.integer for r in ranges):  # a finite set: what is not a training row may be a test row
            return TaskBatch(np.full(len(rng), OFF_TABLE), self.draw(rng, "train").values)
        low, high = (np.array([r.train[side] for r in ranges]) for side in (0, 1))
        values = rng.uniform(low, high, len(low))
        while self.reject and (bad := self._rejected(values)).size:
            values[bad] = rng.at(bad).uniform(low, high, len(low))
        return TaskBatch(np.full(len(rng), OFF_TABLE), values)

    def _rejected(self, values: Array) -> Array:
        """Which of the rows `[B, K]` are no tasks."""
        assert self.reject is not None
        if not self.reject(stack(self.context_type, values)):  # the rule: almost always
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero([bool(self.reject(stack(self.context_type, row[None]))) for row in values])

    def batch(self, split: str, index: Sequence[int] | Array) -> TaskBatch:
        """The rows `index` of a frozen split; ValueError if one does not exist."""
        rows, count = np.asarray(index), self.size(split)
        if rows.dtype == object and whole_numbers(index) is not None:  # beyond 64 bits
            rows = rows.astype(np.float64).clip(-1, count).astype(np.int64)
        if not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"task indices must be integers, got {rows.dtype}")
        if rows.size and (rows.min() < 0 or rows.max() >= count):
            wrong = int(np.asarray(index)[(rows < 0) | (rows >= count)][0])
            raise ValueError(
                f"task {wrong} does not exist: the split {split!r} of {self.family} has the tasks 0 to {count - 1}"
            )
        return TaskBatch(rows.astype(np.int64), self.rows[split][rows])

    def off_table(self, context: Mapping[str, Any], count: int = 1) -> TaskBatch:
        """`count` tasks given by their parameters, each a number for all or a column with one number per task.

        Raises:
            ValueError: One sentence: a name is missing or unknown, a value is no number or out of range.
        """
        ranges = self.ranges
        for name in context:
            if name not in ranges:
                raise ValueError(f"{self.family} has no task parameter {name!r}; {suggest(str(name), list(ranges))}")
        if missing := [name for name in ranges if name not in context]:
            raise ValueError(f"the task of {self.family} lacks {', '.join(missing)}; it needs {', '.join(ranges)}")
        values = np.empty((count, len(ranges)))
        for k, name in enumerate(ranges):
            values[:, k] = self._column(name, context[name], count)
        self.check_values(values)
        return TaskBatch(np.full(count, OFF_TABLE), values)

    def _column(self, name: str, given: Any, count: int) -> float | list[float]:
        if (number := real_number(given)) is not None:
            return number
        if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray) or np.ndim(given) == 0:
            raise ValueError(f"the parameter {name} of {self.family} must be a number, got {given!r}")
        numbers = [real_number(one) for one in given]
        if None in numbers:
            raise ValueError(
                f"the parameter {name} of {self.family} must be a number, got {given[numbers.index(None)]!r}"
            )
        if len(numbers) != count:
            raise ValueError(
                f"the column {name} has {len(numbers)} values for {count} slots; give one per slot or one for all"
            )
        return numbers  # pyright: ignore[reportReturnType]

    def given(self, task: Task, split: str) -> TaskBatch:
        """A task as an environment on `split` plays it: a row of that split, or off the table.

        Raises:
            ValueError: One sentence: it is another benchmark's, or its parts do not fit together.
        """
        names, size = ", ".join(self.ranges), len(self.ranges)
        numbers = [real_number(one) for one in task.context] if isinstance(task.context, Sequence) else []
        if task.family != self.family or len(numbers) != size or None in numbers:
            raise ValueError(f"the task {task} does not fit {self.family}, whose parameters are {names}")
        values = np.array([numbers], dtype=np.float64)
        self.check_values(values)
        self.check_split(task.split)
        index = whole_number(task.index)
        if index is None or index < OFF_TABLE:
            raise ValueError(f"the index of a task is a row number, or {OFF_TABLE} off the table, got {task.index!r}")
        if index != OFF_TABLE:
            row = self.batch(task.split, [index]).values
            if not np.array_equal(row, values):
                raise ValueError(
                    f"the parts of {task} do not fit together: row {index} of the split {task.split!r} "
                    f"has the context {tuple(row[0].tolist())}"
                )
        return TaskBatch(np.array([index if task.split == split else OFF_TABLE]), values)

    def check_values(self, values: Array) -> None:
        """ValueError naming the first of the parameters `[B, K]` that is outside its legal range."""
        for column, (name, legal) in zip(values.T, self.ranges.items(), strict=True):
            bad = ~((column >= legal.low) & (column <= legal.high))  # written so that NaN is bad
            if legal.integer:
                bad |= column != np.round(column)
            if bad.any():
                kind = "whole numbers " if legal.integer else ""
                unit = f" {legal.unit}" if legal.unit else ""
                allowed = f"{kind}{legal.low:g} to {legal.high:g}{unit}"
                raise ValueError(f"{name}={column[bad][0]:g} is outside what {self.family} allows: {allowed}")
