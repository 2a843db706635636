"""Trains the task-conditioned SAC in pairs, float32 and bfloat16, and compares what they reach.

    python -m studies.oracle.precisions PointRobot-v0 --frames 40000 --seeds 0 1 2 3 4 --out runs/precision
    python -m studies.oracle.precisions CheetahVel-v0 --frames 128000 --seeds 0 1 2 --out runs/precision

Both runs of a pair have the same seed, tasks and settings. Returns are those of the mean action on the training tasks,
in the unit of the benchmark; the interval is a 95 % bootstrap of the mean difference over pairs. Every run is a job of
`metabench sweep` (see `studies.sweeping`; `--engine local`, `ray` or `slurm`): one that is there already is not trained
again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
from metabench_agents.oracle import sac_oracle
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run

from metabench.sweep import Job
from metabench.yardsticks import simple
from studies.sweeping import add_options, answer, run

PRECISIONS = ("fp32", "bf16")
SETTINGS = {  # of a benchmark whose runs are short; the defaults of the oracle elsewhere
    "PointRobot-v0": {
        "slots": 32,
        "random_episodes": 4,
        "sac.hidden": 64,
        "sac.batch": 128,
        "sac.actor_rate": 1e-3,
        "stage_every": 20,
    }
}


def trained(seed: int, folder: Path, benchmark: str, frames: int, precision: str) -> dict[str, float]:
    """Return on the training tasks and seconds of one run: one job."""
    changes = {
        "frames": frames,
        "precision": precision,
        "form": "compiled",
        **SETTINGS.get(benchmark, {}),
    }
    config = with_settings(sac_oracle.Config(), changes)
    start = time.process_time()
    agent = sac_oracle.train(benchmark, config, seed=seed, run=Run(folder, show=False))
    return {"return": sac_oracle.training_return(agent, benchmark), "time/seconds": time.process_time() - start}


def job_of(benchmark: str, frames: int, precision: str, seed: int) -> Job:
    """One run."""
    arguments = {"benchmark": benchmark, "frames": frames, "precision": precision}
    return Job("study", {"function": "studies.oracle.precisions:trained", "arguments": arguments}, seed)


def interval(differences: np.ndarray, draws: int = 10_000) -> tuple[float, float]:
    """95 % bootstrap of the mean."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, size=(draws, len(differences))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Prints a line per pair and what they make together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark")
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    add_options(parser)
    wanted = parser.parse_args()
    pairs = itertools.product(wanted.seeds, PRECISIONS)
    grid = {(seed, name): job_of(wanted.benchmark, wanted.frames, name, seed) for seed, name in pairs}
    if not run(list(grid.values()), wanted.out, wanted):
        return
    one = simple.random.build(wanted.benchmark, "train", 0)
    print(f"{wanted.benchmark}, {wanted.frames} steps; random {sac_oracle.training_return(one, wanted.benchmark):.2f}")
    differences = []
    for seed in wanted.seeds:
        pair = {name: answer(grid[seed, name], wanted.out) for name in PRECISIONS}
        differences.append(pair["bf16"]["return"] - pair["fp32"]["return"])
        print(json.dumps({"seed": seed, **pair}), flush=True)
    low, high = interval(np.array(differences))
    print(f"bf16 - fp32: {np.mean(differences):.2f} [{low:.2f}, {high:.2f}], {len(differences)} pairs")


if __name__ == "__main__":
    main()
