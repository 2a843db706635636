"""Pictures as places: intervals, adaptation curves, performance profiles. `templates/charts.html` draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metabench.colors import index_of
from metabench.evaluation.stats import Interval
from metabench.leaderboard.site.render import environment
from metabench.rng import Array

_DASHES = ("", "6 3", "2 3", "8 3 2 3")  # for the versions of one agent, which have its colour


class Line(NamedTuple):
    """One agent's line."""

    name: str
    agent: str  # whose colour it has
    x: Sequence[float]
    y: Sequence[float]


def color(agent: str) -> str:
    """An agent's colour as CSS: the style sheet has one for light and one for dark."""
    return f"var(--c{index_of(agent)})"


class Bar(NamedTuple):
    """A point with its interval, placed on an axis of 200 units."""

    label: str
    low: float
    estimate: float
    high: float
    zero: float | None  # where the axis crosses zero, if it does
    color: str


class Placed(NamedTuple):
    """One line of a chart, placed."""

    name: str
    points: list[tuple[float, float]]
    color: str
    dash: str


class Chart(NamedTuple):
    """A picture whose every place is known; a template draws it."""

    title: str
    x_label: str
    y_label: str
    y_ticks: list[tuple[float, str]]  # place, text
    x_ticks: list[tuple[float, str]]
    levels: list[tuple[float, str]]
    lines: list[Placed]
    dots: bool  # whether every point is marked
    width: int = 560
    height: int = 300
    left: int = 52  # the axes' corners
    right: int = 544
    top: int = 14
    bottom: int = 256


def interval_bar(interval: Interval, low: float, high: float, agent: str, unit: str = "") -> str:
    """A point with its interval on an axis from `low` to `high`, as wide as its cell: SVG."""
    return _drawing("interval_bar", _bar(interval, low, high, agent, unit))


def line_chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    y_label: str,
    levels: Sequence[tuple[str, float]] = (),
    whole_x: bool = False,
) -> str:
    """Lines over common axes, with horizontal reference levels: SVG; `whole_x` marks every point and its place."""
    return _drawing("line_chart", _chart(lines, title, x_label, y_label, levels, whole_x)) if lines else ""


def legend(lines: Sequence[tuple[str, str]]) -> str:
    """Which colour is whose, from (name, agent): HTML."""
    return _drawing("legend", lines)


def _drawing(macro: str, values: object) -> str:
    """What a macro of `templates/charts.html` makes of the values; texts are escaped there."""
    return getattr(_TEMPLATES.get_template("charts.html").module, macro)(values)


def _bar(interval: Interval, low: float, high: float, agent: str, unit: str) -> Bar:

    def place(value: float) -> float:
        return 4 + 192 * (min(max(value, low), high) - low) / ((high - low) or 1.0)

    label = f"{number(interval.estimate)}, 95 % interval {number(interval.low)} to {number(interval.high)} {unit}"
    zero = place(0) if low < 0 < high else None
    places = (place(interval.low), place(interval.estimate), place(interval.high))
    return Bar(label.strip(), *places, zero=zero, color=color(agent))


def _chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    y_label: str,
    levels: Sequence[tuple[str, float]],
    whole_x: bool,
) -> Chart:
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y] + [level for _, level in levels]
    y_ticks = ticks(min(ys), max(ys))
    x_ticks = sorted({float(x) for x in lines[0].x}) if whole_x else ticks(min(xs), max(xs))
    x0, x1 = (min(xs), max(xs)) if whole_x else (x_ticks[0], x_ticks[-1])
    y0, y1 = y_ticks[0], y_ticks[-1]
    empty = Chart(title, x_label, y_label, [], [], [], [], whole_x)

    def across(x: float) -> float:
        return empty.left + (empty.right - empty.left) * ((x - x0) / (x1 - x0) if x1 > x0 else 0.5)

    def up(y: float) -> float:
        return empty.bottom - (empty.bottom - empty.top) * (y - y0) / ((y1 - y0) or 1.0)

    placed = [
        Placed(
            line.name,
            [(across(x), up(y)) for x, y in zip(line.x, line.y, strict=True)],
            color(line.agent),
            _DASHES[sum(other.agent == line.agent for other in lines[:index]) % len(_DASHES)],
        )
        for index, line in enumerate(lines)
    ]
    return empty._replace(
        y_ticks=[(up(y), f"{y:g}") for y in y_ticks],
        x_ticks=[(across(x), f"{int(x)}" if whole_x else f"{x:g}") for x in x_ticks],
        levels=[(up(level), name) for name, level in levels],
        lines=placed,
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    span = (high - low) or max(abs(high), 1.0)
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, max(last, first + 1) + 1)]


def number(value: float) -> str:
    """A score in as many digits as it needs."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{round(value, 3) + 0.0:.3f}"  # the sum turns -0 into 0


def shade(value: float, low: float, high: float) -> str:
    """A table cell's background for a value between `low` and `high`."""
    share = 0.0 if high <= low else (min(max(value, low), high) - low) / (high - low)
    return f"--share:{share:.3f}"


def bounds(values: Array) -> tuple[float, float]:
    """Smallest and largest."""
    return float(values.min()), float(values.max())


_TEMPLATES = environment(Path(__file__).parent / "templates", filters={"color": color})
