"""What z tells of the task, whatever the behaviour; and how many drawn steps a trial should begin with.

Meta-DT claims that its z does not depend on the policy that collected the data. Here that is measured: the task's
parameters are read off z by ridge regression on z and 400 random features of it, fitted on some tasks' steps; `R^2` on
other tasks' steps, step by step of the episode and behaviour by behaviour, says how much of the parameters' variance
between training tasks is explained. 1 is all, 0 none; below 0 z misleads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metabench_agents.parts.run import stream
from metabench_agents.sequence.episodes import Episodes

STEPS = (1, 2, 4, 8, 16)  # of an episode, at which z is looked at
FEATURES = 400
FITTED = 20_000  # steps that a probe is fitted on, at most
FOLDS = 5  # of tasks: a probe is asked about tasks that it was not fitted on
RIDGE = 1e-2
MOVES = 0.5  # share of the first actions' size that all tasks have in common, from which on nothing is drawn
FIRST_ACTIONS = 4  # steps of an episode that are its first
KNOWN = 0.97  # share of what a model learns about the task in an episode that the drawn steps should bring
GOOD = 0.1  # share of a task's episodes that are its good ones
MOST_DRAWN = 8  # steps, at most
FEW_TASKS = 10  # below, episodes are left out instead of tasks


class Probe(NamedTuple):
    """Reads the task's parameters, in units of their deviations between training tasks, off z."""

    mean: Tensor  # [Z]
    std: Tensor  # [Z]
    weight: Tensor  # [Z, FEATURES]
    bias: Tensor  # [FEATURES]
    solution: Tensor  # [Z + FEATURES + 1, P] float64

    def __call__(self, z: Tensor) -> Tensor:
        """`[..., Z]` to `[..., P]`."""
        return (self.features(z) @ self.solution).float()

    def features(self, z: Tensor) -> Tensor:
        """`[..., Z + FEATURES + 1]` float64."""
        scaled = (z - self.mean) / self.std
        bent = torch.relu(scaled @ self.weight + self.bias)
        return torch.cat((scaled, bent, torch.ones(*z.shape[:-1], 1)), dim=-1).double()


def fit_probe(z: Tensor, target: Tensor) -> Probe:
    """By ridge regression of `[M, P]` on `[M, Z]`; at most 20,000 of them, drawn evenly."""
    chance = stream(0)
    if len(z) > FITTED:
        pick = torch.randperm(len(z), generator=chance)[:FITTED]
        z, target = z[pick], target[pick]
    size = z.shape[1]
    weight = torch.randn(size, FEATURES, generator=chance) / size**0.5
    bias = torch.randn(FEATURES, generator=chance)
    empty = Probe(z.mean(dim=0), z.std(dim=0).clamp_min(1e-6), weight, bias, torch.zeros(0))
    x = empty.features(z)
    gram = x.T @ x + RIDGE * len(x) ** 0.5 * torch.eye(x.shape[1], dtype=torch.float64)
    return empty._replace(solution=torch.linalg.solve(gram, x.T @ target.double()))


def parameters(contexts: Tensor, training: Tensor) -> Tensor:
    """Tasks' parameters `[n, P]` in units of their deviation between training tasks `[m, C]`, without constants."""
    std = training.std(dim=0)
    varies = std > 1e-6
    return ((contexts - training.mean(dim=0)) / std)[:, varies]


def explained(probe: Probe, z: Tensor, target: Tensor) -> float:
    """R^2 of what the probe reads off `[M, Z]`, against the variance 1 of the parameters `[M, P]` of training tasks."""
    return float(1.0 - (probe(z) - target).square().mean())


def rows_of(episodes: Episodes, which: Tensor) -> Tensor:
    """`[M]` the rows of every step of these episodes."""
    return episodes.take(which).rows()[0]


def tells(
    z: Tensor, episodes: Episodes, target: Tensor, probe: Probe, steps: Sequence[int] = STEPS
) -> dict[int, float]:
    """R^2 at every step of `steps` that all episodes reach.

    Args:
        z: `[N, Z]` at every row of the episodes.
        episodes: Of one behaviour.
        target: `[E, P]` the parameters of each one's task.
        probe: Fitted on other episodes.
        steps: Of the episode.
    """
    shortest = int(episodes.length.min())
    return {t: explained(probe, z[episodes.first + t], target) for t in steps if t < shortest}


def invariance(z: Tensor, episodes: Episodes, tasks: Tensor) -> Mapping[str, dict[int, float]]:
    """R^2 by behaviour of the data and by step, on training tasks that the probe has not been fitted on.

    Where there are fewer than ten tasks it is episodes that are left out.

    Args:
        z: `[N, Z]` at every row.
        episodes: Of the training tasks.
        tasks: `[n, C]` the parameters of the tasks, by row of their split.
    """
    known, number = torch.unique(episodes.task, return_inverse=True)
    target = parameters(tasks[known], tasks[known])[number] if len(known) > 1 else torch.zeros(len(number), 0)
    if not target.shape[1]:
        return {}
    fold = number % FOLDS if len(known) >= FEW_TASKS else torch.arange(len(number)) % FOLDS
    sums: dict[str, dict[int, list[float]]] = {}
    for left_out in range(FOLDS):
        learn = torch.nonzero(fold != left_out)[:, 0]
        owner = torch.repeat_interleave(learn, episodes.length[learn])
        probe = fit_probe(z[rows_of(episodes, learn)], target[owner])
        for index, name in enumerate(episodes.behaviours):
            mine = torch.nonzero((fold == left_out) & (episodes.behaviour == index))[:, 0]
            if len(mine):
                for t, value in tells(z, episodes.take(mine), target[mine], probe).items():
                    sums.setdefault(name, {}).setdefault(t, []).append(value)
    return {name: {t: sum(v) / len(v) for t, v in by_step.items()} for name, by_step in sums.items()}


def common_share(episodes: Episodes) -> float:
    """How much of the size of good first actions all tasks have in common, from 0 to 1.

    The squared length of their mean over tasks, over the mean of the tasks' own squared lengths: 0 where every task
    wants another direction, so that an agent that clones their mean stands still; 1 where all want the same.
    """
    means = []
    for task in torch.unique(episodes.task):
        mine = torch.nonzero(episodes.task == task)[:, 0]
        count = max(1, round(GOOD * len(mine)))
        best = mine[torch.argsort(episodes.returns[mine], descending=True, stable=True)[:count]]
        time = torch.arange(min(FIRST_ACTIONS, int(episodes.length[best].min())))
        means.append(episodes.action[episodes.first[best, None] + time].mean(dim=0))
    own = torch.stack(means)  # [tasks, t, A]
    return float(own.mean(dim=0).square().sum() / own.square().sum(dim=(1, 2)).mean().clamp_min(1e-12))


def drawn_steps(episodes: Episodes, error: Tensor | None = None) -> int:
    """How many drawn steps a trial should begin with, by the training tasks' data alone.

    None where the good first actions of all tasks have half their size in common: their mean moves, and whatever moves
    is told the task. Otherwise an agent that clones the mean stands still and is told nothing; then as many steps as
    bring the world model 97 % of what an episode teaches it about its task, at most eight; four without a model.

    Args:
        episodes: Of the training tasks.
        error: `[N]` how badly z before each row foretells steps of other episodes of its task; None without a model.
    """
    if common_share(episodes) >= MOVES:
        return 0
    if error is None:
        return FIRST_ACTIONS
    steps = min(MOST_DRAWN * 2, int(episodes.length.min()))
    curve = error[episodes.first[:, None] + torch.arange(steps)].mean(dim=0)
    drop = curve[0] - curve.min()
    enough = torch.nonzero(curve[0] - curve >= KNOWN * drop)[:, 0]
    return min(MOST_DRAWN, max(1, int(enough[0])))
