"""Finished runs of the encoders of contexts, played in all four ways of `study`: twenty trials a goal.

    python -m studies.offline_context.ways point-robot-contexts focal unicorn csro corro

The runs are those of lines of the evidence queue whose folders lie in `runs/evidence`. Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

import metabench
from metabench.evaluation.results import Protocol
from metabench.plugins import load_run
from metabench.sweep.folder import Place
from metabench.sweep.jobs import Job
from studies.evidence import RUNS, read_queue
from studies.offline_context.study import WAYS, Item, played


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line of Markdown for each row and way: returns of the trial's episodes, the mean of its runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--split", default="test", help="whose tasks; test. Train says what is learned at all")
    given = parser.parse_args(arguments)
    print("| agent | runs | context | episodes 1, 2, 3 |\n| --- | --- | --- | --- |")
    for row in (row for t in read_queue() if t.name == given.table for row in t.rows if row.name in given.rows):
        jobs = [job for job in row.jobs if Place(RUNS).result(job.key()).exists()]
        if not jobs:
            parser.error(
                f"no run of {row.name!r} lies in {RUNS}; make some: python -m studies.evidence --only {given.table}"
            )
        for way in WAYS:
            returns = np.mean([episodes(job, way, given.split) for job in jobs], axis=0)
            print(
                f"| `{row.name}` | {len(jobs)} | {way} | {', '.join(f'{value:.2f}' for value in returns)} |", flush=True
            )


def episodes(job: Job, way: str, split: str) -> np.ndarray:
    """`[3]` returns of the episodes of a run's trials, twenty a goal."""
    benchmark, data = job.settings["benchmark"], job.settings.get("config", {}).get("data", "mixed")
    protocol = Protocol(benchmark=benchmark, split=split, episodes=3, repeats=20, seed=0)
    agent: Any = load_run(Place(RUNS).result(job.key())).agent
    item = Item(benchmark, data, job.settings["agent"], "", job.seed)
    return metabench.evaluate(played(agent, way, item), protocol).array().mean(axis=(0, 1))


if __name__ == "__main__":
    main()
