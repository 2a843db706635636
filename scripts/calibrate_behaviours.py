"""Finds the share of random actions with which a diluted oracle is `medium`: 0.42 of the way from random to the oracle.

    python scripts/calibrate_behaviours.py                  # every benchmark whose oracle is a closed form
    python scripts/calibrate_behaviours.py PointRobot-v0     # this one
    python scripts/calibrate_behaviours.py MetaWorld-Reach-v0 --trials 300   # from fewer episodes, where they are long

Played on training tasks only. The numbers belong into MEDIUM_RANDOM of oracle/behaviours.py, to two decimals.
"""

from __future__ import annotations

import argparse
from typing import Any

from metabench_agents.oracle.behaviours import Diluted, noise_of
from metabench_agents.oracle.weights import has_weights

import metabench
from metabench.evaluation.results import Protocol
from metabench.yardsticks import simple

GOAL, SEED, TRIALS = 0.42, 30_000, 1000  # share of the way; no evaluation uses the seed; trials at least


def level(agent: Any, benchmark: str, trials: int) -> float:
    """Mean return of single episodes on the training tasks."""
    size = metabench.spec(benchmark).table().size("train")
    protocol = Protocol(benchmark=benchmark, split="train", episodes=1, repeats=-(-trials // size), seed=SEED)
    return float(metabench.evaluate(agent, protocol).array().mean())


def diluted(benchmark: str, random: float) -> Diluted:
    """The oracle with this share of random actions."""
    space: Any = metabench.spec(benchmark).family().action_space
    return Diluted(simple.oracle.build(benchmark, "train", SEED), space, random, noise_of(benchmark), SEED)


def calibrate(benchmark: str, trials: int) -> tuple[float, float]:
    """The share of random actions, and how far the policy comes with it."""
    low = level(simple.random.build(benchmark, "train", SEED), benchmark, trials)
    high = level(simple.oracle.build(benchmark, "train", SEED), benchmark, trials)

    def share(random: float) -> float:
        return (level(diluted(benchmark, random), benchmark, trials) - low) / (high - low)

    good, bad = 0.0, 1.0
    for _ in range(7):
        middle = (good + bad) / 2
        good, bad = (middle, bad) if share(middle) > GOAL else (good, middle)
    chosen = round((good + bad) / 2, 2)
    return chosen, share(chosen)


def main() -> None:
    """Prints one line per benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*")
    parser.add_argument("--trials", type=int, default=TRIALS, help="episodes played per candidate, at least")
    wanted = parser.parse_args()
    for chosen in wanted.benchmarks or [s.id for s in metabench.specs()]:
        try:
            simple.oracle.build(chosen, "train", SEED)
        except ValueError:
            continue
        if has_weights(chosen):
            continue
        random, share = calibrate(chosen, wanted.trials)
        print(f'    "{chosen}": {random},  # {share:.3f} of the way', flush=True)


if __name__ == "__main__":
    main()
