"""MAML: the runs behind docs/agents/maml.md.

    python -m studies.maml.study --benchmark PointRobot-v0 --seeds 0 1 2
    python -m studies.maml.study --benchmark CheetahDir-v0 --seeds 0 1 2
    python -m studies.maml.study --benchmark CheetahVel-v0 --seeds 0 1 2

A run is a job of `metabench sweep` (see `studies.sweeping`; `--engine local`, `ray` or `slurm`) in `runs/study/maml`;
what is kept of it goes to `results/BENCHMARK` beside this file: the evaluations, the job, a learning curve as CSV
(environment frames, mean return of an episode before and after the inner step), and NAME-unadapted.json, the test
evaluation once more with an inner step of size 0: what the trained parameters earn by their most probable actions.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from metabench_agents.gradient import maml
from metabench_agents.parts.config import with_settings

import metabench
from metabench.evaluation.results import Result, write_atomically
from metabench.runs import read_metrics
from metabench.sweep import Job
from studies.sweeping import add_options, folders, keep, run, training

ROOT = Path(__file__).parent.parent.parent
RUNS, RESULTS = ROOT / "runs" / "study" / "maml", Path(__file__).parent / "results"


class Variant(NamedTuple):
    """One line of the tables."""

    changes: dict[str, Any]  # of `maml.Config`
    episodes: int  # of an evaluation's trial; the last is the adapted one
    repeats: int  # trials of each task


PROXIMAL = {"outer": "ppo", "ppo.trace": 0.95, "inner.rate": 1.0, "inner.episodes": 4, "after": 2}
VARIANTS: dict[str, dict[str, Variant]] = {
    "PointRobot-v0": {
        "maml": Variant({"frames": 240_000}, 2, 20),
        "maml-8": Variant({"frames": 400_000, "trials_per_task": 2, "after": 2, "inner.episodes": 8}, 9, 20),
    },
    "CheetahDir-v0": {"maml-4": Variant(PROXIMAL | {"frames": 800_000, "tasks": 4, "trials_per_task": 5}, 5, 10)},
    "CheetahVel-v0": {
        "maml-4": Variant(
            PROXIMAL
            | {"frames": 480_000, "tasks": 20, "trials_per_task": 1}
            | {"inner.rate": 0.3, "ppo.epochs": 6, "ppo.minibatches": 4},
            5,
            4,
        )
    },
}


def jobs(benchmark: str, names: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The runs of these variants, seeds outermost: a sweep that is cut short has whole seeds."""
    found = []
    for seed in seeds:
        for name in names:
            changes, episodes, repeats = VARIANTS[benchmark][name]
            found.append(training("maml", benchmark, name, changes, seed, episodes=episodes, repeats=repeats))
    return found


def keep_run(job: Job, folder: Path, results: Path = RESULTS) -> None:
    """Writes the records of a finished run, and its learning curve."""
    name, target = f"{job.settings['name']}-s{job.seed}", results / job.settings["benchmark"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("frames", "before", "after"))
    for row in read_metrics(folder):
        writer.writerow((row["frames"], round(row["before"], 3), round(row["return"], 3)))
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(target / f"{name}-curve.csv", text.getvalue().encode())
    if not (target / f"{name}-unadapted.json").exists():
        unadapted(job, folder).save(target / f"{name}-unadapted.json")
    keep(folder, target, name)


def unadapted(job: Job, folder: Path) -> Result:
    """The run's evaluation on `test` with inner steps of size 0."""
    agent: Any = maml.load(folder)
    agent.config = with_settings(agent.config, {"inner.rate": 0.0})
    counts = {name: job.settings[name] for name in ("episodes", "repeats")}
    protocol = metabench.standard_protocol(job.settings["benchmark"]).model_copy(update=counts)
    return metabench.evaluate(agent, protocol, train_seed=job.seed, name=f"{job.settings['name']}-unadapted")


def curve(path: Path, parts: int) -> np.ndarray:
    """`[parts, 3]` frames at the end of so many equal parts of a run, and their mean returns before and after."""
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    return np.array([[part[-1, 0], *part[:, 1:].mean(0)] for part in np.array_split(table, parts)])


def main() -> None:
    """Runs what is missing and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=VARIANTS, default="PointRobot-v0")
    parser.add_argument("--agents", nargs="+", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=RUNS, help="the sweep's folder")
    add_options(parser)
    arguments = parser.parse_args()
    known = VARIANTS[arguments.benchmark]
    names = arguments.agents or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown variant {unknown[0]!r}; there are {', '.join(known)}")
    grid = jobs(arguments.benchmark, names, arguments.seeds)
    try:
        run(grid, arguments.out, arguments)
    finally:
        for job in () if arguments.dry_run else grid:
            for folder in folders([job], arguments.out):
                keep_run(job, folder)


if __name__ == "__main__":
    main()
