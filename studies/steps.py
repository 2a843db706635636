"""Tables of the queue by real environment steps: how many an agent takes to shares of the way from random to oracle.

    python -m studies.steps highway-merge-rounds

A page has such a table under the name NAME-steps (`studies.evidence`). The returns are those of a trial's last episode
on the split `test`, played as training goes on; they only report. One evaluation is enough to have come so far. Made of
the learning curves that are kept, for agents whose metrics have `test/last`.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import metabench
from metabench.sweep import Job
from metabench.sweep.folder import JOB
from studies.efficiency import Curve, Efficiency, efficiency, thresholds
from studies.evidence import CURVE, KEPT, Table, read_queue

COLUMN = "test/last"


def curve_of(path: Path, column: str = COLUMN) -> Curve | None:
    """What a kept learning curve says of a column; None where it has none."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(column) and "frames" in row]
    if not rows:
        return None
    return Curve(np.array([float(row["frames"]) for row in rows]), np.array([float(row[column]) for row in rows]))


def _cell(found: Efficiency) -> str:
    count = f"({found.reached} of {len(found.steps)})"
    return f"{found.median:,.0f} {count}" if np.isfinite(found.median) else f"not by half {count}"


def render(table: Table, kept: Path = KEPT) -> str:
    """The table as Markdown, with the keys of its runs."""
    lines, keys = [], []
    for row in table.rows:
        jobs = [job for job in row.jobs if (kept / job.key() / JOB).exists()]
        found = [curve_of(kept / job.key() / CURVE) for job in jobs if (kept / job.key() / CURVE).exists()]
        curves = [curve for curve in found if curve is not None]
        if not curves:
            continue
        levels = _levels(jobs[0])
        cells = [_cell(efficiency(curves, level, window=1)) for level in levels.values()]
        last, real = np.mean([c.returns[-1] for c in curves]), np.mean([c.frames[-1] for c in curves])
        lines.append(f"| {row.name} | {len(curves)} | {' | '.join(cells)} | {real:,.0f} | {last:.2f} |")
        keys.append(f"{row.name}: {' '.join(job.key() for job in jobs)}")
    head = "| agent | runs | real steps to 50 % of the way | 75 % | 90 % | real steps in all | return then |"
    return "\n".join([head, "| --- " * 7 + "|", *lines, "", "<!-- keys", *keys, "-->", ""])


def _levels(job: Job) -> dict[float, float]:
    references = metabench.spec(job.settings["benchmark"]).references("test")
    return thresholds(references["random"]["mean"], references["oracle"]["mean"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="tables of studies/queue.toml")
    known = {table.name: table for table in read_queue()}
    for name in parser.parse_args(arguments).names:
        if name not in known:
            parser.error(f"unknown table {name!r}; available: {', '.join(known)}")
        print(f"{name}: {known[name].about}\n\n{render(known[name])}")


if __name__ == "__main__":
    main()
