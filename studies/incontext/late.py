"""How near the oracle a long trial ends: the last ten episodes of kept runs of the evidence queue, on the split `test`.

python -m studies.incontext.late dark-room
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import metabench
from metabench.evaluation.results import Result
from metabench.runs import result_path
from studies.evidence import KEPT, read_queue

LAST = 10  # episodes


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line of Markdown for each of the table's: the mean over its runs, and its share of the oracle's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    given = parser.parse_args(arguments)
    print(f"| agent | runs | return of the last {LAST} | of the oracle |\n| --- | --- | --- | --- |")
    for row in (row for t in read_queue() if t.name == given.table for row in t.rows):
        paths = [path for job in row.jobs if (path := result_path(KEPT / job.key(), "test")).exists()]
        if paths:
            oracle = metabench.spec(row.jobs[0].settings["benchmark"]).references("test")["oracle"]["mean"]
            mean = float(np.mean([Result.load(path).array()[..., -LAST:].mean() for path in paths]))
            print(f"| {row.name} | {len(paths)} | {mean:.2f} | {mean / oracle:.1%} |")


if __name__ == "__main__":
    main()
