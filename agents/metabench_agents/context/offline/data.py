"""Offline data by task: every transition once in memory, and batches of many tasks gathered by index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench_agents.context.actor_critic import ActionScale
from metabench_agents.context.replay import Transitions


@dataclass(frozen=True)
class TaskData:
    """The transitions of K tasks, laid end to end, the tasks in the order of their rows."""

    rows: Tensor  # [M, 2 O + A + 2] packed transitions; actions are in [-1, 1]
    sizes: tuple[int, int]  # columns of an observation and of an action
    task: Tensor  # [K] int64 row of each task in its split
    start: Tensor  # [K] int64 its first transition
    count: Tensor  # [K] int64 how many it has

    @classmethod
    def of(cls, transitions: Transitions, task: Tensor) -> TaskData:
        """From transitions `[M, ...]` and the task of each.

        Raises:
            ValueError: If there is none.
        """
        if not len(task):
            raise ValueError("there is no transition to learn from")
        order = torch.argsort(task, stable=True)
        known, count = torch.unique(task, return_counts=True)
        sizes = (transitions.observation.shape[-1], transitions.action.shape[-1])
        return cls(transitions.pack()[order], sizes, known, torch.cumsum(count, 0) - count, count)

    def __len__(self) -> int:
        return len(self.task)

    @property
    def all(self) -> Transitions:
        """Every transition, `[M, ...]`."""
        return Transitions.unpack(self.rows, *self.sizes)

    def draw_tasks(self, number: int, generator: torch.Generator) -> Tensor:
        """Numbers `[number]` of tasks, with replacement: pairs of one task are what contrasts are made of."""
        return torch.randint(len(self), (number,), generator=generator)

    def draw(self, tasks: Tensor, number: int, generator: torch.Generator) -> Transitions:
        """`[T, number, ...]` transitions of each of the tasks, even over all of its data, with replacement."""
        unit = torch.rand(len(tasks), number, generator=generator, dtype=torch.float64)
        pick = self.start[tasks, None] + (unit * self.count[tasks, None]).long()
        drawn = self.rows.index_select(0, pick.flatten()).view(*pick.shape, -1)
        return Transitions.unpack(drawn, *self.sizes)


class Scales(NamedTuple):
    """In what units rewards and steps are told to networks."""

    reward_center: Tensor  # []
    reward_scale: Tensor  # []
    step: Tensor  # [O] standard deviation of a column's change in one step

    @classmethod
    def of(cls, data: TaskData) -> Scales:
        """The mean and the standard deviations of all data; 1 where something never changes."""
        every = data.all
        spread, step = every.reward.std(), (every.next_observation - every.observation).std(0)
        one = torch.ones(())
        return cls(every.reward.mean(), torch.where(spread > 1e-6, spread, one), torch.where(step > 1e-6, step, one))


def load_task_data(benchmark: str, data: str, split: str, actions: ActionScale) -> TaskData:
    """The data of one split, in memory once.

    Args:
        benchmark: Whose.
        data: A quality ("mixed"), the id of a data set ("metabench/point-robot/mixed-v0"), or the folder of a split.
        split: Of the benchmark.
        actions: The policy's units.

    Raises:
        ValueError: One sentence: there is no such set, or it is of another benchmark.
    """
    id = data if "/" in data else str(metabench.DatasetId.of(benchmark, data))
    found = metabench.load_dataset(id, split)
    if found.manifest.benchmark != metabench.spec(benchmark).id:
        raise ValueError(f"{id} was played on {found.manifest.benchmark}, not on {metabench.spec(benchmark).id}")
    columns = found.to_torch()
    transitions = Transitions(
        columns["observations"].float(),
        actions.from_env(columns["actions"].numpy()),
        columns["rewards"].float(),
        columns["next_observations"].float(),
        columns["terminated"].float(),
    )
    return TaskData.of(transitions, columns["task"])


def find_task(contexts: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Numbers `[B]` in a list of hidden tasks `[n, C]` of those that are shown `[B, C]`; ValueError for a stranger."""
    table = torch.as_tensor(np.asarray(contexts, np.float32)).double()

    def find(task: Tensor) -> Tensor:
        distance = (task.double()[:, None] - table).norm(dim=-1)
        gap, row = distance.min(dim=1)
        if bool((gap > 1e-4 * (1.0 + table.abs().max())).any()):
            raise ValueError("the agent was shown a task for which it has no data")
        return row

    return find
