"""How pictures look: colours of text and grid, axes without a box, labels that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metabench.extras import missing

INK, FAINT = "#282C34", "#D6D3CB"


def new_figure(width: float, height: float) -> Any:
    """An empty white figure, in inches.

    Raises:
        ImportError: matplotlib is not installed; the sentence says how to.
    """
    try:
        from matplotlib.figure import Figure  # half a second to import, and only pictures need it
    except ModuleNotFoundError as error:
        raise missing("drawing curves", error.name, "plots") from error
    return Figure(figsize=(width, height), dpi=144, layout="constrained", facecolor="white")


def headline(figure: Any, text: str) -> None:
    """What stands above everything, at the left."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)


def title(axes: Any, text: str) -> None:
    """What stands above one picture of several."""
    axes.set_title(text, loc="left", fontsize=10, color=INK)


def clean(axes: Any) -> None:
    """Takes the box away and leaves faint lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=3, labelsize=9)
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)


def smooth(values: Sequence[float], share: float = 0.03) -> list[float]:
    """Each value's mean with those before it, over a share of the curve."""
    window = max(1, round(share * len(values)))
    parts = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def apart(levels: Sequence[float], gap: float) -> list[float]:
    """Heights for labels that would overlap, in ascending order, each at least `gap` above the one below."""
    placed: list[float] = []
    for level in levels:
        placed.append(max(level, placed[-1] + gap) if placed else level)
    lift = max(0.0, placed[-1] - levels[-1] - gap / 2) if placed else 0.0
    return [place - lift for place in placed]
