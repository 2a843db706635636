"""The picture on MetaDreamer's page: what HighwayMerge's agents return after so many real steps.

    python -m studies.metadreamer.headline docs/images/highway-merge-rounds.png

Made of the learning curves of `studies/evidence` (tables highway-merge-rounds and highway-merge-rl2) and of the older
runs of PEARL in `results/`: a trial's last episode on the split `test`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import metabench
from metabench.colors import color_of
from metabench.plotting.style import FAINT, INK, clean, new_figure
from metabench.sweep import Job
from studies.efficiency import Curve
from studies.evidence import CURVE, KEPT, read_queue
from studies.steps import curve_of

BENCHMARK = "HighwayMerge-v0"
EARLIER = Path(__file__).parent / "results" / BENCHMARK
LINES = (  # label, agent, how its lines are drawn; table and row, or None for the older runs of PEARL
    ("MetaDreamer in rounds", "metadreamer", "-", ("highway-merge-rounds", "R8IR8")),
    ("PEARL, tuned, the same view", "pearl", "-", ("highway-merge-rounds", "pearl-tuned")),
    (
        "PEARL, its published schedule, the same view",
        "pearl",
        "--",
        ("highway-merge-rounds", "pearl, published schedule"),
    ),
    ("PEARL, 40 iterations, without the view", "pearl", ":", None),
    ("RL², the same view", "rl2", "-", ("highway-merge-rl2", "rl2, the same view")),
)


def jobs_of(table: str, row: str) -> list[Job]:
    """The runs of a row that are kept."""
    found = next(t for t in read_queue() if t.name == table)
    return [job for r in found.rows if r.name == row for job in r.jobs if (KEPT / job.key() / CURVE).exists()]


def curves(table: str, row: str) -> list[Curve]:
    """Their learning curves."""
    found = [curve_of(KEPT / job.key() / CURVE) for job in jobs_of(table, row)]
    return [curve for curve in found if curve is not None]


def earlier() -> list[Curve]:
    """Those of PEARL without the view."""
    found = [curve_of(path) for path in sorted(EARLIER.glob("pearl-R8-s[0-9]-curve.csv"))]
    return [curve for curve in found if curve is not None]


def draw(path: Path) -> None:
    """Writes the picture."""
    figure = new_figure(9.0, 4.6)
    axis = figure.subplots()
    references = metabench.spec(BENCHMARK).references("test")
    low, high = references["random"]["mean"], references["oracle"]["mean"]
    for share in (0.0, 0.5, 0.75, 1.0):
        level = low + share * (high - low)
        axis.axhline(level, color=FAINT, lw=0.8, zorder=0)
        name = {0.0: "random", 1.0: "planner that knows the drivers"}.get(share, f"{100 * share:.0f} % of the way")
        axis.text(1.15e5, level + 0.08, name, color=INK, fontsize=8)  # where no curve crosses a level
    for label, agent, style, where in LINES:
        _lines(axis, curves(*where) if where else earlier(), label, color_of(agent), style)
    axis.set(xscale="log", xlim=(1e3, 5e6), xlabel="real environment steps", ylim=(-1.7, 6.0))
    axis.set_ylabel("return of the third episode, test")
    clean(axis)
    axis.grid(visible=False)  # the levels are its lines
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    figure.savefig(path)


def _lines(axis: Any, found: Sequence[Curve], label: str, colour: str, style: str) -> None:
    for curve in found:
        axis.plot(curve.frames, curve.returns, color=colour, lw=0.9, ls=style, alpha=0.45)
    if found:
        rows = min(len(curve.frames) for curve in found)
        frames, returns = (
            np.mean([column[:rows] for column in columns], axis=0) for columns in zip(*found, strict=True)
        )
        axis.plot(frames, returns, color=colour, lw=2.4, ls=style, marker="o" if rows < 4 else "", label=label)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
