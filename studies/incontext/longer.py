"""What an agent of DarkRoom reaches in longer episodes than those it was trained on, by episode of the trial.

python -m studies.incontext.longer runs/DarkRoom-v0-dpt-s0 --steps 100 --episodes 40

A decision-pretrained transformer is not told the time, so nothing keeps it from playing episodes of 100 steps, as those
of its own code, after training on episodes of 20.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import metabench
from metabench.agent import Agent
from metabench.evaluation.play import play
from metabench.loading import load_agent
from metabench.rng import Array
from studies.incontext.exact import BEST, CENTRE, EPISODES, ID, NEXT, goals

REPEATS = 2  # trials of each goal


def longer(agent: Agent, split: str, steps: int, episodes: int) -> Array:
    """`[B, episodes]` returns on the goals of a split, each played `REPEATS` times."""
    rows = np.repeat(np.arange(len(goals(split))), REPEATS)
    env = metabench.make_vec(ID, len(rows), split=split, max_episode_steps=steps, episodes_per_task=episodes)
    observation, _ = env.reset(seed=0, options={"task": rows})
    returns = np.zeros((len(rows), episodes))
    ticks = play(agent, env, observation)
    for number in range(steps * episodes):
        returns[:, number // steps] += next(ticks).reward
    env.close()
    return returns


def optimum(split: str, steps: int) -> float:
    """The mean return of who knows the goal."""
    hidden = goals(split)
    cell, total = np.full(len(hidden), CENTRE), np.zeros(len(hidden))
    for _ in range(steps):
        cell = NEXT[cell, BEST[cell, hidden]]
        total += cell == hidden
    return float(total.mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line of Markdown for each run and split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="of an episode; 100")
    parser.add_argument("--episodes", type=int, default=40, metavar="N", help="of a trial; 40")
    given = parser.parse_args(arguments)
    shown = [k for k in EPISODES if k <= given.episodes]
    print("| run | split | " + " | ".join(map(str, shown)) + " | last ten | of the oracle |")
    print("| --- " * (4 + len(shown)) + "|")
    for path in given.runs:
        for split in ("test", "ood"):
            curve = longer(load_agent(path), split, given.steps, given.episodes).mean(axis=0)
            last = curve[-10:].mean()
            cells = [f"{curve[k - 1]:.1f}" for k in shown] + [
                f"{last:.1f}",
                f"{last / optimum(split, given.steps):.1%}",
            ]
            print(f"| {path.name} | {split} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
