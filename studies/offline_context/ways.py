"""Finished runs of the encoders of contexts, played in all four ways of `study`: twenty trials a goal.

    python -m studies.offline_context.ways point-robot-contexts focal unicorn csro corro

The runs are the first of lines of the evidence queue; their folders lie in `runs/evidence`. Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import metabench
from metabench.evaluation.results import Protocol
from metabench.plugins import load_run
from metabench.sweep.folder import Place
from studies.evidence import RUNS, read_queue
from studies.offline_context.study import WAYS, Item, played


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line of Markdown for each run and way: returns of the trial's episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--split", default="test", help="whose tasks; test. Train says what is learned at all")
    given = parser.parse_args(arguments)
    print("| agent | context | episodes 1, 2, 3 |\n| --- | --- | --- |")
    for row in (row for t in read_queue() if t.name == given.table for row in t.rows if row.name in given.rows):
        job = row.jobs[0]
        benchmark, data = job.settings["benchmark"], job.settings.get("config", {}).get("data", "mixed")
        protocol = Protocol(benchmark=benchmark, split=given.split, episodes=3, repeats=20, seed=0)
        agent: Any = load_run(Place(RUNS).result(job.key())).agent
        for way in WAYS:
            item = Item(benchmark, data, job.settings["agent"], "", job.seed)
            returns = metabench.evaluate(played(agent, way, item), protocol).array().mean(axis=(0, 1))
            print(f"| `{row.name}` | {way} | {', '.join(f'{value:.2f}' for value in returns)} |", flush=True)


if __name__ == "__main__":
    main()
