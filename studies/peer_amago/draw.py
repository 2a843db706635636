"""AMAGO's learning curve on GridSwitch beside RL²'s, by environment steps: `docs/images/amago-grid-switch.png`.

python -m studies.peer_amago.draw

RL² is that of the five entered runs on the board grid-switch-2: their training logs, as they were entered.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

import metabench
from metabench.colors import color_of
from metabench.evaluation.results import write_atomically
from metabench.plotting.curves import Learning, band
from metabench.plotting.style import FAINT, INK, clean, new_figure, smooth, title
from studies.learning_curves import GREY

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGET = ROOT / "docs" / "images" / "amago-grid-switch.png"
ID = "GridSwitch-v0"


def entered(board: str, agent: str) -> list[Learning]:
    """Training returns of an entry's runs."""
    curves = []
    for path in sorted((ROOT / "leaderboards" / board / agent).glob("*/training/run_*.jsonl")):
        rows = [row for row in map(json.loads, path.read_text().splitlines()) if "return" in row]
        x, y = ([row[name] for row in rows] for name in ("frames", "return"))
        curves.append(Learning(np.array(x, dtype=float), np.array(smooth(y))))
    return curves


def amago() -> Learning:
    """Returns on training tasks, of its one run."""
    with (HERE / "results" / f"{ID}-s0.csv").open() as file:
        rows = list(csv.DictReader(file))[1:]  # a logarithmic axis has no zero
    return Learning(*(np.array([float(row[name]) for row in rows]) for name in ("frames", "train_return")))


def draw() -> bytes:
    """The PNG."""
    figure = new_figure(7.2, 3.4)
    axes: Any = figure.subplots()
    curve, own = band(entered("grid-switch-2", "rl2")), amago()
    axes.plot(curve.x, curve.middle, color=color_of("rl2"), lw=2.2)
    axes.fill_between(curve.x, curve.low, curve.high, color=color_of("rl2"), alpha=0.18, lw=0)
    axes.plot(own.x, own.y, color=INK, lw=2.2)
    axes.annotate("AMAGO", (own.x[4], own.y[4]), xytext=(-6, 4), textcoords="offset points", ha="right", color=INK)
    middle = int(len(curve.x) * 0.3)
    place = (curve.x[middle], curve.middle[middle])
    axes.annotate("rl2", place, xytext=(6, -10), textcoords="offset points", color=color_of("rl2"))
    known = metabench.spec(ID).references("train")
    for name in ("random", "bayes"):
        axes.axhline(known[name]["mean"], color=FAINT, lw=1.2, ls=(0, (4, 3)), zorder=0)
        axes.annotate(
            name, (0.0, known[name]["mean"]), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color=GREY
        )
    axes.set_xscale("log")
    axes.set_xlabel("environment steps", color=INK)
    clean(axes)
    title(axes, f"{ID}: return on training tasks (AMAGO one run, rl2 five)")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


if __name__ == "__main__":
    write_atomically(TARGET, draw())
