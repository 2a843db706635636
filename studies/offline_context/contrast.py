"""What exact inference would make of CORRO's contrast on PointRobot: how many keys can be told at all.

    python -m studies.offline_context.contrast

A query and a key are transitions of one goal; the negatives are the query with another reward. Who knows the rule of
the reward (minus the distance to the goal) and where goals lie picks the reward that most goals explain together with
the key. A transition leaves a circle of goals, so that many a wrong reward is as likely as the right one: an encoder
that tells no more keys than this has not failed to learn.
"""

from __future__ import annotations

import numpy as np
import torch
from metabench_agents.context.actor_critic import ActionScale
from metabench_agents.context.offline.corro import ContrastConfig
from metabench_agents.context.offline.data import TaskData, load_task_data

import metabench
from metabench.rng import Array

ID = "PointRobot-v0"
SIDE = 60  # goals along a side of the grid
WIDTH = 0.03  # m within which a distance is taken for another; half the grid's step
NOISES = (0.5, 1.0, 1.5, 2.0)  # standard deviations of the noise, in those of the reward


def likelihood(place: Array, reward: Array, goals: Array) -> Array:
    """`[B, G]` of goals `[G, 2]`, given rewards `[B]` at places `[B, 2]`."""
    distance = np.linalg.norm(place[:, None] - goals[None], axis=-1)
    return np.exp(-0.5 * ((reward[:, None] + distance) / WIDTH) ** 2)


def told_apart(data: TaskData, noise: float, pairs: int = 1000, seed: int = 0) -> float:
    """Share of keys that exact inference tells among the negatives; `noise` in standard deviations of the reward."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    seen = data.draw(data.draw_tasks(pairs, generator), 2, generator)
    place, reward = seen.next_observation.double().numpy(), seen.reward.double().numpy()
    line = np.linspace(-1.0, 1.0, SIDE)  # where training goals lie
    goals = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    key, spread = likelihood(place[:, 1], reward[:, 1], goals), float(data.all.reward.std())
    wrong = ContrastConfig().negatives
    offered = reward[:, :1] + noise * spread * np.column_stack([np.zeros(pairs), rng.standard_normal((pairs, wrong))])
    together = np.stack([(likelihood(place[:, 0], one, goals) * key).mean(axis=1) for one in offered.T], axis=1)
    best = together == together.max(axis=1, keepdims=True)
    return float((best[:, 0] / best.sum(axis=1)).mean())  # of those that are as likely, one at random


def main() -> None:
    """Prints the table of CORRO's page."""
    data = load_task_data(ID, "mixed", "train", ActionScale(metabench.spec(ID).family().action_space))
    print("| noise, in standard deviations of the reward | keys told by exact inference |\n| --- | --- |")
    for noise in NOISES:
        print(f"| {noise} | {told_apart(data, noise):.0%} |")


if __name__ == "__main__":
    main()
