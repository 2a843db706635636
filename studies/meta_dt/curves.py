"""Draws the learning curves of the offline agents, and what they reach, of what `study --keep` has kept.

    python -m studies.meta_dt.curves studies/meta_dt/results/PointRobot-v0/offline-mixed --out learning.png

Left: the world model's loss on held-out episodes of the training tasks. Middle: the transformers' losses, every run
thin and their mean bold. Right: returns on the split `test`, episode by episode of a trial, between the stored
references of random and oracle.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import metabench
from metabench.evaluation.results import Result
from metabench.runs import METRICS

INK, FAINT = "#282C34", "#C9C6BE"
COLOURS = {"meta-dt": "#0072B2", "prompt-dt": "#009E73", "dt": "#D55E00", "bc": "#8A8F99"}


def curves(folder: Path, agent: str, phase: str, key: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Updates and values of one metric, of every run of an agent that is finished."""
    found = []
    for path in sorted(folder.glob(f"{agent}-s[0-9]*-{METRICS}")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [row for row in rows if row["phase"] == phase and key in row]
        found.append((np.array([r["update"] for r in rows]), np.array([r[key] for r in rows])))
    return [(x, y) for x, y in found if len(x)]


def draw(folder: Path, target: Path) -> None:
    """Writes the picture of one quality's runs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=144, layout="constrained", facecolor="white")
    world, loss, reached = figure.subplots(1, 3)
    figure.suptitle(
        f"Learning from {folder.parent.name}, {folder.name.removeprefix('offline-')} data", x=0.01, ha="left", color=INK
    )
    for axis, phase, key, agents in (
        (world, "world model", "held_out_loss", ("meta-dt",)),
        (loss, "transformer", "loss", ("meta-dt", "prompt-dt", "dt")),
    ):
        for agent in agents:
            runs = curves(folder, agent, phase, key)
            for x, y in runs:
                axis.plot(x, y, color=COLOURS[agent], lw=0.8, alpha=0.35)
            if runs:
                mean = np.mean([y for _, y in runs], axis=0)
                axis.plot(runs[0][0], mean, color=COLOURS[agent], lw=2.2, label=agent)
    _label(world, "updates of the world model", "squared error on held-out episodes")
    _label(loss, "updates of the transformer", "squared error of the actions, training")
    loss.legend(frameon=False)
    for agent, colour in COLOURS.items():
        results = [Result.load(p).trials().mean(0) for p in sorted(folder.glob(f"{agent}-s[0-9]*-test.json"))]
        for values in results:
            reached.plot(range(1, len(values) + 1), values, color=colour, lw=0.8, alpha=0.35, marker="o", ms=3)
        if results:
            mean = np.mean(results, axis=0)
            reached.plot(range(1, len(mean) + 1), mean, color=colour, lw=2.2, marker="o", label=agent)
            reached.set_xticks(range(1, len(mean) + 1))
    for name, known in metabench.spec(folder.parent.name).references("test").items():
        if name in ("random", "oracle"):
            reached.axhline(known["mean"], color=FAINT, lw=1.2, ls=(0, (4, 3)), zorder=0)
            reached.text(
                1, known["mean"], f" {name}", color=INK, fontsize=8, va="bottom" if name == "oracle" else "top"
            )
    _label(reached, "episode of a trial (1: zero-shot)", "return on the test tasks")
    reached.legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.74))
    figure.savefig(target)
    print(f"written: {target}")


def _label(axis: Any, x: str, y: str) -> None:
    axis.set_xlabel(x, color=INK)
    axis.set_ylabel(y, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)


def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one benchmark's and quality's results")
    parser.add_argument("--out", type=Path, default=Path("learning.png"))
    arguments = parser.parse_args()
    draw(arguments.folder, arguments.out)


if __name__ == "__main__":
    main()
