"""Takes the stages that the package ships out of a run of `metabench train sac-oracle`.

    python scripts/pack_oracle.py runs/CheetahVel-v0-sac-oracle-s0
    python scripts/pack_oracle.py runs/PointRobot-v0-sac-oracle-s0 --history   # where the oracle is a closed form

Kept are `medium`, the stage whose noisy policy comes nearest to 0.42 of the way from random to the best stage; the best
stage by return on the training tasks, as the last; and up to four more along the way, for `replay`. The choice is made
on training tasks alone. The file lands in agents/metabench_agents/oracle/weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from metabench_agents.oracle import actor, weights
from metabench_agents.parts.run import load_config

import metabench
from metabench.evaluation.results import Protocol
from metabench.yardsticks import simple

GOAL, SEED = 0.42, 40_000  # share of the way; no evaluation uses the seed
STAGES = 6  # at most: the file stays below a megabyte


def level(agent: Any, benchmark: str) -> float:
    """Mean return of single episodes on the training tasks, at least 100 of them."""
    size = metabench.spec(benchmark).table().size("train")
    protocol = Protocol(benchmark=benchmark, split="train", episodes=1, repeats=-(-100 // size), seed=SEED)
    return float(metabench.evaluate(agent, protocol).array().mean())


def pack(folder: Path, history: bool = False) -> Path:
    """Chooses, measures and writes; returns the file. A `history` serves data sets alone, and is no oracle."""
    settings, stages = load_config(folder), weights.Stages.load(folder / weights.STAGES)
    benchmark = settings["benchmark"]
    space: Any = metabench.spec(benchmark).family().action_space
    noisy = [level(actor.TrainedOracle(w, space, noise_seed=SEED), benchmark) for w in stages.weights]
    calm = [level(actor.TrainedOracle(w, space), benchmark) for w in stages.weights]
    random = level(simple.random.build(benchmark, "train", SEED), benchmark)
    best = int(np.argmax(calm))
    shares = [(value - random) / (noisy[best] - random) for value in noisy[: best + 1]]
    for record, share, value in zip(stages.records, shares, calm, strict=False):
        print(f"{record['frames']:>9} steps: noisy policy {share:6.3f} of the way, mean action {value:9.2f}")
    medium = int(np.argmin(np.abs(np.array(shares) - GOAL)))
    chosen = {medium, best}
    for index in np.linspace(0, best, STAGES).round().astype(int).tolist():
        if len(chosen) < STAGES:
            chosen.add(index)
    chosen = sorted(chosen)
    about = {
        "benchmark": benchmark,
        "config": settings["config"],
        "seed": settings["seed"],
        "medium": chosen.index(medium),
        "medium_share": round(shares[medium], 4),
        "frames_trained": stages.records[-1]["frames"],
        "random": random,
    }
    room = weights.WEIGHTS / weights.HISTORIES if history else weights.WEIGHTS
    target = room / f"{benchmark}.safetensors"
    target.parent.mkdir(exist_ok=True)
    kept = stages.pick(chosen)
    records = [{**r, "noisy": noisy[i], "return": calm[i]} for r, i in zip(kept.records, chosen, strict=True)]
    weights.Stages(records, kept.weights).save(target, about)
    print(
        f"{target}: {target.stat().st_size:,} bytes, stages {[r['frames'] for r in records]}, medium {about['medium']}"
    )
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--history", action="store_true", help="for the data set sac-history alone")
    arguments = parser.parse_args()
    for run in arguments.folders:
        pack(run, arguments.history)
