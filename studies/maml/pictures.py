"""MAML's learning curves: before and after the inner step, PointRobot beside CheetahDir.

python -m studies.maml.pictures      # docs/images/maml-learning.png
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from metabench.colors import color_of
from metabench.plotting.style import FAINT, INK, clean, new_figure, title

HERE = Path(__file__).parent
PICTURE = HERE.parent.parent / "docs" / "images" / "maml-learning.png"
SHOWN = (("PointRobot-v0", "maml"), ("CheetahDir-v0", "maml-4"))
WINDOW = 5  # points of the running mean


def curves(benchmark: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Environment frames `[K]`, and returns before and after the inner step `[runs, K]` each, running means."""
    paths = sorted((HERE / "results" / benchmark).glob(f"{name}-s[0-9]-curve.csv"))
    tables = [
        [[float(cell) for cell in row] for row in list(csv.reader(path.read_text().splitlines()))[1:]] for path in paths
    ]
    told = np.array(tables)  # [runs, K, 3]
    kernel = np.ones(WINDOW) / WINDOW
    before, after = (np.stack([np.convolve(run[:, column], kernel, mode="valid") for run in told]) for column in (1, 2))
    return told[0, WINDOW - 1 :, 0], before, after


def panel(axes: Any, benchmark: str, name: str) -> None:
    """One benchmark: thin lines for the runs, thick ones for their mean."""
    frames, before, after = curves(benchmark, name)
    for returns, color, label in ((before, INK, "before the step"), (after, color_of("maml"), "after it")):
        axes.plot(frames / 1e6, returns.T, color=color, linewidth=0.7, alpha=0.4)
        axes.plot(frames / 1e6, returns.mean(axis=0), color=color, linewidth=2.2, label=f"{label}, {len(returns)} runs")
    axes.set(xlabel="million environment steps", ylabel="return of an episode")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.legend(frameon=False, fontsize=9)
    title(axes, f"{benchmark}: while training, mean of {WINDOW} iterations")
    clean(axes)


def draw(path: Path = PICTURE) -> None:
    """Writes the picture."""
    figure = new_figure(10.0, 3.8)
    for axes, (benchmark, name) in zip(figure.subplots(1, 2), SHOWN, strict=True):
        panel(axes, benchmark, name)
    figure.savefig(path)
    print(f"written: {path}")


if __name__ == "__main__":
    draw()
