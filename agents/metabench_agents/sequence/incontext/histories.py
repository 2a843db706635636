"""Histories of learning as flat tensors: every step of every learner, in order, beside what the oracle would have done.

A history is all episodes of one learner; its steps lie side by side, across the borders of its episodes. Row `i + 1` of
the same history is the step after row i.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench_agents.sequence.incontext.moves import moves_of


class Histories(NamedTuple):
    """H histories, laid end to end."""

    observation: Tensor  # [N, O] before the step
    action: Tensor  # [N] uint8 what the learner did; or [N, A] in half widths of the box, see `moves`
    reward: Tensor  # [N] what followed
    following: Tensor  # [N, O] what was seen then, before any reset
    first: Tensor  # [N] bool: an episode starts here
    time: Tensor  # [N] int16 step of the episode
    expert: Tensor  # likewise what the oracle would have done; [0] where nobody knows
    start: Tensor  # [H] int64 row of a history's first step
    length: Tensor  # [H] int64 steps

    def __len__(self) -> int:
        return len(self.start)


def load_histories(benchmark: str, data: str, split: str, skip: int = 1) -> Histories:
    """The histories of one split of a data set, in memory.

    Args:
        benchmark: Whose.
        data: A quality ("history"), the id of a data set, or the folder of a split.
        split: Of the benchmark.
        skip: Only every so many-th episode of a learner: it then learns so many times as fast. No episode is lost: the
            others become histories of their own.

    Raises:
        ValueError: One sentence: there is no such set, or it is of another benchmark.
    """
    moves = moves_of(benchmark)
    id = data if "/" in data else str(metabench.DatasetId.of(benchmark, data))
    found = metabench.load_dataset(id, split)
    if found.manifest.benchmark != metabench.spec(benchmark).id:
        raise ValueError(f"{id} was played on {found.manifest.benchmark}, not on {metabench.spec(benchmark).id}")
    episodes = np.asarray(found.episodes)
    history, place = learners_of(episodes)
    label = history * skip + place % skip
    order = np.lexsort((place, label))
    length = episodes["length"].astype(np.int64)
    rows = _rows(np.cumsum(length) - length, length, order)
    ends = np.cumsum(length[order])
    first = np.zeros(len(rows), dtype=bool)
    first[ends - length[order]] = True
    begin = np.flatnonzero(np.diff(label[order], prepend=-1))  # episodes that begin a history
    start = (ends - length[order])[begin]
    expert = found.expert_actions()[rows] if "expert_actions.npy" in found.manifest.infos else None
    return Histories(
        observation=torch.from_numpy(np.array(found.column("observation"))[rows]).float(),
        action=moves.stored(np.array(found.column("action"))[rows]),
        reward=torch.from_numpy(np.array(found.column("reward"))[rows]).float(),
        following=torch.from_numpy(found.next_observations()[rows]).float(),
        first=torch.from_numpy(first),
        time=torch.from_numpy((np.arange(len(rows)) - np.repeat(ends - length[order], length[order])).astype(np.int16)),
        expert=moves.stored(expert) if expert is not None else torch.zeros(0, dtype=torch.uint8),
        start=torch.from_numpy(start),
        length=torch.from_numpy(np.diff(start, append=len(rows))),
    )


def learners_of(episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whose each episode is, and the how many-th of that learner's: `[E]` each.

    A learner that remembers plays one trial after the other. Where nobody does, as in the checkpoints of `sac-history`,
    a task's episodes are one learner's, in their order.
    """
    place = episodes["place"].astype(np.int64)
    if place.any():
        return np.cumsum(place == 0) - 1, place
    _, begin, task = np.unique(episodes["task"], return_index=True, return_inverse=True)
    if (np.diff(episodes["task"].astype(np.int64)) < 0).any():
        raise ValueError("the episodes of a data set lie task by task, and these do not")
    return task, np.arange(len(episodes)) - begin[task]


def _rows(start: np.ndarray, length: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows of the episodes `order`, one episode after the other."""
    lengths = length[order]
    ends = np.cumsum(lengths)
    return np.repeat(start[order] - (ends - lengths), lengths) + np.arange(int(ends[-1]))


def draw_stretches(
    histories: Histories, batch: int, steps: int, from_start: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows `[B, steps]` of stretches of histories, evenly drawn, and the histories `[B]` they are of.

    Args:
        histories: Where from.
        batch: How many.
        steps: Of a stretch.
        from_start: The share of stretches that begin where their history begins.
        generator: Where all randomness comes from.

    Raises:
        ValueError: If no history has so many steps.
    """
    long = torch.nonzero(histories.length >= steps)[:, 0]
    if not len(long):
        raise ValueError(f"no history has {steps} steps; the longest has {int(histories.length.max())}")
    which = long[torch.randint(len(long), (batch,), generator=generator)]
    room = histories.length[which] - steps + 1
    offset = (torch.rand(batch, generator=generator, dtype=torch.float64) * room).long()
    offset = torch.where(torch.rand(batch, generator=generator) < from_start, 0, offset)
    return (histories.start[which] + offset)[:, None] + torch.arange(steps), which
