"""Experience of many tasks for off-policy learning: each transition once, in float32, in memory that grows with it.

PEARL's code keeps two arrays of zeros per task, each for a million transitions in float64: 77 GB of address space for
its cheetah. Here a task owns one array that doubles when it is full; what the encoder may see is a range of rows in
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FIRST_ROWS = 1024  # rows a task's array starts with


class Transitions(NamedTuple):
    """Experience as columns; the leading axes are any."""

    observation: Tensor  # [..., O]
    action: Tensor  # [..., A] in the policy's units, [-1, 1]
    reward: Tensor  # [...]
    next_observation: Tensor  # [..., O]
    terminal: Tensor  # [...] 1 where the task's own rule ended the episode, else 0

    @classmethod
    def unpack(cls, rows: Tensor, observation: int, action: int) -> Transitions:
        """The columns of packed rows `[..., 2 O + A + 2]`, as views."""
        o, a, r, n, t = rows.split((observation, action, 1, observation, 1), dim=-1)
        return cls(o, a, r[..., 0], n, t[..., 0])

    def to(self, device: torch.device) -> Transitions:
        """The same on a device."""
        return Transitions(*(column.to(device) for column in self))

    def pack(self) -> Tensor:
        """Rows `[..., 2 O + A + 2]` float32: one gather fetches a whole transition."""
        parts = (self.observation, self.action, self.reward[..., None], self.next_observation)
        return torch.cat((*parts, self.terminal[..., None]), dim=-1).float()


class TaskReplay:
    """A ring of transitions per task, and within it the range of rows that are context for the encoder.

    Args:
        tasks: How many tasks.
        observation: Columns of an observation.
        action: Columns of an action.
        capacity: The most transitions that a task keeps; the oldest are overwritten.
    """

    def __init__(self, tasks: int, observation: int, action: int, capacity: int):
        self.sizes, self.capacity = (observation, action), capacity
        self.width = 2 * observation + action + 2
        self.rows = [torch.empty(min(FIRST_ROWS, capacity), self.width) for _ in range(tasks)]
        self.count = [0] * tasks  # transitions ever added
        self.context = [(0, 0)] * tasks  # [first, past the last) of the context, counted as `count` is

    def __len__(self) -> int:
        return len(self.rows)

    def begin_context(self, task: int) -> None:
        """Forgets the task's context: the transitions stay, the encoder no longer sees them."""
        self.context[task] = (self.count[task], self.count[task])

    def add(self, task: int, rows: Tensor, *, context: bool) -> None:
        """Appends packed transitions `[n, W]` in the order they were played.

        Raises:
            ValueError: If `context` rows do not follow the context's last ones, or n exceeds the capacity.
        """
        if len(rows) > self.capacity:
            raise ValueError(f"{len(rows)} transitions do not fit a replay of {self.capacity} per task")
        start, end = self.count[task], self.count[task] + len(rows)
        if context:
            first, last = self.context[task]
            if last != start:
                raise ValueError(f"context of task {task} must be added before its other transitions")
            self.context[task] = (first, end)
        self._grow(task, min(end, self.capacity))
        at = start % self.capacity
        head = min(len(rows), self.capacity - at)
        self.rows[task][at : at + head] = rows[:head]
        self.rows[task][: len(rows) - head] = rows[head:]
        self.count[task] = end

    def _grow(self, task: int, needed: int) -> None:
        old = self.rows[task]
        if needed > len(old):
            size = min(self.capacity, max(needed, 2 * len(old)))
            self.rows[task] = torch.empty(size, self.width)
            self.rows[task][: len(old)] = old

    def sample(self, tasks: Sequence[int], number: int, generator: torch.Generator) -> Transitions:
        """`number` transitions of each of the tasks, uniform with replacement: columns `[T, number, ...]`."""
        ranges = [(max(0, self.count[t] - self.capacity), self.count[t]) for t in tasks]
        return self._gather(tasks, self._uniform(ranges, number, generator))

    def sample_context(self, tasks: Sequence[int], number: int, generator: torch.Generator) -> Transitions:
        """The same from the tasks' contexts."""
        return self._gather(tasks, self._uniform([self._kept(t) for t in tasks], number, generator))

    def windows(self, tasks: Sequence[int], number: int, generator: torch.Generator) -> tuple[Transitions, Tensor]:
        """Up to `number` consecutive transitions of each task's context, in order.

        Returns:
            Columns `[T, number, ...]`, and the windows' lengths `[T]`; a context shorter than `number` is taken whole
            and its last transition repeated.
        """
        ranges = [self._kept(task) for task in tasks]
        lengths = torch.tensor([min(number, end - first) for first, end in ranges])
        starts = [(first, max(first + 1, end - number + 1)) for first, end in ranges]
        steps = torch.minimum(torch.arange(number), lengths[:, None] - 1)
        self._check([end - first for first, end in ranges])
        return self._gather(tasks, self._uniform(starts, 1, generator) + steps), lengths

    @staticmethod
    def _check(sizes: Sequence[int]) -> None:
        if min(sizes) <= 0:
            raise ValueError("a task has no transitions to sample from")

    def _kept(self, task: int) -> tuple[int, int]:
        first, end = self.context[task]
        return max(first, self.count[task] - self.capacity), end

    def _uniform(self, ranges: Sequence[tuple[int, int]], number: int, generator: torch.Generator) -> Tensor:
        """`[T, number]` whole numbers, uniform in each range."""
        self._check([end - first for first, end in ranges])
        first, end = torch.tensor(ranges, dtype=torch.float64).T[..., None]
        unit = torch.rand(len(ranges), number, generator=generator, dtype=torch.float64)
        return (first + unit * (end - first)).long()

    def _gather(self, tasks: Sequence[int], index: Tensor) -> Transitions:
        out = torch.empty(*index.shape, self.width)
        for row, task in enumerate(tasks):
            torch.index_select(self.rows[task], 0, index[row] % self.capacity, out=out[row])
        return Transitions.unpack(out, *self.sizes)

    def tensors(self) -> dict[str, Tensor]:
        """What it takes to go on from here: the kept rows of all tasks in one tensor, and the counters."""
        kept = [rows[: min(count, self.capacity)] for rows, count in zip(self.rows, self.count, strict=True)]
        counters = [(count, *context) for count, context in zip(self.count, self.context, strict=True)]
        return {"rows": torch.cat(kept), "counters": torch.tensor(counters)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        start = 0
        for task, (count, first, end) in enumerate(tensors["counters"].tolist()):
            size = min(count, self.capacity)
            self._grow(task, size)
            self.rows[task][:size] = tensors["rows"][start : start + size]
            self.count[task], self.context[task] = count, (first, end)
            start += size
