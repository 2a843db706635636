"""`metabench run-job`: one job of a sweep's plan, in this process."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

from metabench.cli.console import plain, say
from metabench.sweep.folder import perform
from metabench.sweep.jobs import read_plan

_TAKEN_SECONDS = 30.0  # how long a member waits for a job that somebody else is at before it leaves it to them


def command(
    file: Annotated[Path, tyro.conf.Positional],
    line: Annotated[int, tyro.conf.Positional],
    out: Path | None = None,
) -> None:
    """Do one job of a sweep's plan: what a member of a Slurm array runs.

    Example: metabench run-job runs/rl2/jobs.jsonl 3

    Args:
        file: The plan: one job per line.
        line: Which one; the first is 1.
        out: The sweep's folder; where the plan lies by default.
    """
    jobs = read_plan(file)
    if not 1 <= line <= len(jobs):
        raise ValueError(f"{file} has the lines 1 to {len(jobs)}, got {line}")
    job, start = jobs[line - 1], time.monotonic()
    folder = file.parent if out is None else out
    while (outcome := perform(job, folder)).state == "taken" and time.monotonic() - start < _TAKEN_SECONDS:
        time.sleep(1.0)
    words = {"done": "done", "failed": f"failed: {outcome.reason}", "taken": "somebody else is at it"}
    say(plain(f"{job.label}: {words[outcome.state]}"))
    if outcome.state == "failed":
        sys.exit(1)
