"""What it is worth that Meta-DT's z lasts from one episode of a trial to the next: finished runs, played both ways.

    python -m studies.meta_dt.lasting cheetah-vel-offline "meta-dt, running mean"

Plays the runs of a line of the evidence queue (their folders lie in `runs/evidence`) on the *training* tasks, one trial
of three episodes each: as they are, and with z begun anew with every episode. Nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import metabench
from metabench.evaluation.results import Protocol
from metabench.plugins import load_run
from metabench.sweep.folder import Place
from studies.evidence import RUNS, read_queue


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line of Markdown for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("row")
    given = parser.parse_args(arguments)
    jobs = [
        job
        for t in read_queue()
        if t.name == given.table
        for row in t.rows
        if row.name == given.row
        for job in row.jobs
    ]
    print("| seed | as it is, episodes 1 / 2 / 3 | begun anew with each |\n| --- | --- | --- |")
    for job in jobs:
        benchmark, cells = job.settings["benchmark"], []
        protocol = Protocol(benchmark=benchmark, split="train", episodes=3, repeats=1, seed=0)
        for lasts in (None, "episode"):
            agent = load_run(Place(RUNS).result(job.key())).agent
            if lasts:
                agent.recall.__self__.lasts = lasts  # pyright: ignore[reportAttributeAccessIssue]
            returns = metabench.evaluate(agent, protocol).array().mean(axis=(0, 1))
            cells.append(" / ".join(f"{value:.1f}" for value in np.round(returns, 1)))
        print(f"| {job.seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
