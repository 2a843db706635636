"""What could be foretold of RL²'s returns on DarkKeyToDoor without knowing where key and door are; what its value says.

    python -m studies.incontext.explained RUN

`RUN` is the folder of a trained RL². 128 trials of training tasks are played, actions drawn. A linear regression on
what was found in the episode and before, the time and the place stands beside the network's value.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from metabench_agents import rl2
from metabench_agents.parts.device import Device

import metabench
from metabench.rng import Array

BENCHMARK, TRIALS, DISCOUNT = "DarkKeyToDoor-v0", 128, 0.99
EARLY = 7  # episodes from the beginning: the end of the trial is far


def features(reward: Array, first: Array, place: Array) -> Array:
    """`[T, B, F]` of rewards and beginnings of episodes `[T, B]` and places `[T, B, 2]`."""
    found, ever, since = np.zeros(reward.shape[1]), np.zeros(reward.shape[1]), np.zeros(reward.shape[1])
    rows = []
    for t in range(len(reward)):
        found, since = np.where(first[t], 0.0, found), np.where(first[t], 0.0, since + 1.0)
        key, door, late = found >= 1, found >= 2, since / 50.0
        x, y = place[t].T
        everything = (1.0, key, door, late, late**2, key * late, door * late, ever, t / len(reward), x, y, x**2, y**2)
        rows.append(np.stack([np.broadcast_to(one, found.shape).astype(float) for one in everything], axis=-1))
        found, ever = found + reward[t], np.maximum(ever, reward[t] > 0)
    return np.stack(rows)


def discounted(reward: Array) -> Array:
    """`[T, B]` the discounted return of the trial from each tick on."""
    total, out = np.zeros(reward.shape[1]), np.zeros_like(reward)
    for t in range(len(reward) - 1, -1, -1):
        out[t] = total = reward[t] + DISCOUNT * total
    return out


def explained(given: Array, target: Array) -> float:
    """The share of the variance of `[N]` that a linear regression on `[N, F]` explains."""
    weight = np.linalg.lstsq(given, target, rcond=None)[0]
    return float(1.0 - ((target - given @ weight) ** 2).mean() / target.var())


def main(folder: Path) -> None:
    """Prints what is found in each episode, and what is explained in the first ones."""
    network, device = rl2.load(folder).network, Device()  # pyright: ignore[reportAttributeAccessIssue]
    spec = metabench.spec(BENCHMARK)
    envs = rl2.vector_envs(BENCHMARK, TRIALS, rl2.Config(trials=TRIALS), device)
    out = rl2.empty_rollout(network, envs[0], spec.episodes * spec.horizon, TRIALS)
    rl2.collect(network, envs, out, 123, torch.Generator().manual_seed(0), device)
    reward, first, place, value = (x.numpy().astype(float) for x in (out.reward, out.first, out.observation, out.value))
    got = reward.reshape(spec.episodes, spec.horizon, TRIALS).sum(axis=1)
    print("key found, by episode: ", *(f"{share:.2f}" for share in (got >= 1).mean(axis=1)))
    print("door found, by episode:", *(f"{share:.2f}" for share in (got >= 2).mean(axis=1)))
    part = slice(0, EARLY * spec.horizon)
    given, target = features(reward, first > 0, place)[part], discounted(reward)[part].ravel()
    print(f"a linear regression explains {explained(given.reshape(len(target), -1), target):.3f}")
    print(f"the value's correlation with the return is {np.corrcoef(value[part].ravel(), target)[0, 1]:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
