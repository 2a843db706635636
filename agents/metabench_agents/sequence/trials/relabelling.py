"""Data with the rewards of other tasks: where one walks then tells nothing of the task, and rewards have to be read.

Where the data's policies know their task, a model of the data may read the task off the way they walk. The remedy is
BOReL's reward relabelling (Dorfman, Shenfeld & Tamar 2021, arXiv 2008.02598, 3.3): the same steps, paid as another task
of the split pays. It needs the true reward as a function of what is seen (`metabench.yardsticks.rewards`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench.yardsticks.rewards import seen_reward
from metabench_agents.sequence.episodes import Actions, Episodes, returns_to_go


def relabelled(
    episodes: Episodes, benchmark: str, split: str, codec: Actions, copies: int, generator: torch.Generator
) -> Episodes:
    """The episodes, and `copies` times all of them again, each with another task and that task's rewards.

    Episode e of E is `e + k E` in copy k. The other task is drawn evenly from those that the data were played on.

    Args:
        episodes: The whole data; not a part of it.
        benchmark: Whose.
        split: Whose tasks they are.
        codec: Of their actions.
        copies: How many.
        generator: Of the tasks.

    Raises:
        ValueError: In one sentence: the benchmark's reward is not known from its observations, or there is one task.
    """
    pays, rows = seen_reward(benchmark), episodes.rows()[0]
    known = torch.unique(episodes.task)
    if len(known) < 2:
        raise ValueError("rewards of other tasks need data of at least two tasks")
    before, after = (episodes.observation[at].double().numpy() for at in (rows, rows + 1))
    action = codec.to_env(episodes.action[rows]).astype(np.float64)
    contexts = np.asarray(metabench.spec(benchmark).table().rows[split], np.float64)
    rewards, tasks = [episodes.reward], [episodes.task]
    place = torch.searchsorted(known, episodes.task)
    for _ in range(copies):
        step = 1 + torch.randint(len(known) - 1, place.shape, generator=generator)
        task = known[(place + step) % len(known)]
        owner = torch.repeat_interleave(task, episodes.length)
        reward = torch.zeros_like(episodes.reward)
        reward[rows] = torch.from_numpy(pays(before, action, after, contexts[owner.numpy()])).float()
        rewards.append(reward)
        tasks.append(task)
    again, size = 1 + copies, len(episodes.reward)
    first = torch.cat([episodes.first + k * size for k in range(again)])
    length, reward = episodes.length.repeat(again), torch.cat(rewards)
    return replace(
        episodes,
        observation=episodes.observation.repeat(again, 1),
        action=episodes.action.repeat(again, 1),
        reward=reward,
        togo=returns_to_go(reward, first, length),
        first=first,
        length=length,
        task=torch.cat(tasks),
        behaviour=episodes.behaviour.repeat(again),
    )


def in_all_copies(numbers: Tensor, count: int, copies: int) -> Tensor:
    """The numbers of some of `count` episodes, and of what is made of them in each copy."""
    return torch.cat([numbers + k * count for k in range(1 + copies)])
