"""Exact Bayes in DarkRoom: why a decision-pretrained transformer looks last for goals it was not trained on.

    python -m studies.incontext.exact
    python -m studies.incontext.exact --steps 100 --window 400 --episodes 40   # episodes as long as in DPT's code

An agent that knows the room, the training goals and Bayes' rule plays test goals as a DPT does, without any network: it
weighs each goal by the prior, rules out those where it has been without reward, and draws an action from what is best
for the goals that are left. Four ways to draw:

- step: a new action at every step, from all goals that are left: what a DPT without answers is taught.
- number: the same, with one random number for the whole episode.
- answers: as step, but goals for which an action of the running episode was not the best weigh a thousandth: what a DPT
  with answers is taught.
- goal: a goal is drawn and walked to; where it was not there, another: posterior sampling.

The prior has the training goals alone, or 5 % of it on all 81 cells. Memory is as the network's: 160 steps, whose older
half is dropped when it is full.

DarkRoom's episodes have 20 steps, as Algorithm Distillation's; DPT's public code plays 100. A walk that draws anew at
every step gets everywhere in 100 steps and nowhere in 20.
"""

from __future__ import annotations

import argparse
from typing import Literal

import numpy as np

import metabench
from metabench.families.dark_room import CELLS, CENTRE, MOVES, NEXT, SIZE, DarkRoom
from metabench.rng import Array
from metabench.yardsticks.grid_switch import walk

ID = "DarkRoom-v0"
Way = Literal["step", "number", "answers", "goal"]
BEST = np.stack([walk(np.arange(CELLS), np.full(CELLS, goal), SIZE) for goal in range(CELLS)], axis=1)  # [cell, goal]
STRAY = 1e-3  # weight of goals that an action of the episode speaks against
EPISODES = (1, 2, 5, 10, 20, 30, 50, 75, 100)


def goals(split: str) -> Array:
    """The goals of a split, as cells."""
    return metabench.spec(ID).table().rows[split][:, 0].astype(np.int64)


def prior(everywhere: float) -> Array:
    """`[81]` the training goals alike, with a share of it on all cells."""
    own = np.zeros(CELLS)
    own[np.unique(goals("train"))] = 1.0
    return (1.0 - everywhere) * own / own.sum() + everywhere / CELLS


def weights(believed: Array, visited: Array, keeps: Array | None) -> Array:
    """`[B, 81]` of the goals: those visited are ruled out; all alike where none is left.

    Args:
        believed: `[81]` the prior.
        visited: `[B, 81]` bool.
        keeps: `[B, 81]` bool, goals for which the episode's actions were best; None where they do not count.
    """
    left = np.where(visited, 0.0, believed)
    if keeps is not None:
        left = left * np.where(keeps, 1.0, STRAY)
    total = left.sum(axis=1, keepdims=True)
    return np.where(total > 0, left / np.where(total > 0, total, 1.0), 1.0 / CELLS)


def draw(share: Array, number: Array) -> Array:
    """`[B]` indices from probabilities `[B, N]` and uniform numbers `[B]`."""
    return np.minimum((number[:, None] > share.cumsum(axis=1)).sum(axis=1), share.shape[1] - 1)


def play(
    hidden: Array,
    believed: Array,
    way: Way,
    *,
    episodes: int = 100,
    window: int = 160,
    steps: int = DarkRoom.horizon,
    seed: int = 0,
) -> Array:
    """Returns `[B, episodes]` on hidden goals `[B]`, of episodes of `steps` steps and with `window` steps of memory."""
    rng, count, each = np.random.default_rng(seed), len(hidden), np.arange(len(hidden))
    returns, memory = np.zeros((count, episodes)), []
    for episode in range(episodes):
        cell, keeps = np.full(count, CENTRE), np.ones((count, CELLS), dtype=bool)
        number, target = rng.random(count), np.full(count, -1)
        for _ in range(steps):
            memory = memory if len(memory) <= window else memory[-(window // 2) :]
            visited = np.zeros((count, CELLS), dtype=bool)
            for past in memory:
                visited[each, past] = True
            left = weights(believed, visited, keeps if way == "answers" else None)
            number = number if way == "number" else rng.random(count)
            if way == "goal":
                target = np.where((target < 0) | visited[each, target], draw(left, number), target)
                action = BEST[cell, target]
            else:
                wanted = np.eye(len(MOVES))[BEST[cell]]  # [B, goal, action]
                action = draw(np.einsum("bg,bga->ba", left, wanted), number)
            action = np.where(visited[each, hidden], BEST[cell, hidden], action)  # the reward has been seen
            keeps &= BEST[cell] == action[:, None]
            cell = NEXT[cell, action]
            memory.append(cell)
            returns[:, episode] += cell == hidden
    return returns


def main() -> None:
    """Prints the table of the page."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.incontext.exact", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=DarkRoom.horizon, metavar="N", help="of an episode; 20")
    parser.add_argument("--window", type=int, default=160, metavar="N", help="steps of memory; 160")
    parser.add_argument("--episodes", type=int, default=100, metavar="N", help="of a trial; 100")
    asked = parser.parse_args()
    shown_at = [k for k in EPISODES if k <= asked.episodes]
    print("| split | prior | way | " + " | ".join(map(str, shown_at)) + " | mean | last ten |")
    print("| --- " * (5 + len(shown_at)) + "|")
    for split in ("test", "ood"):
        hidden = np.repeat(goals(split), 4)
        for everywhere in (0.0, 0.05):
            for way in ("step", "number", "answers", "goal"):
                believed = prior(everywhere)
                curve = play(
                    hidden, believed, way, episodes=asked.episodes, window=asked.window, steps=asked.steps
                ).mean(axis=0)
                shown = [curve[k - 1] for k in shown_at] + [curve.mean(), curve[-10:].mean()]
                print(f"| {split} | {everywhere:.0%} | {way} | " + " | ".join(f"{value:.2f}" for value in shown) + " |")


if __name__ == "__main__":
    main()
