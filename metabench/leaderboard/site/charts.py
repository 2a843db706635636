"""Pictures as SVG text: intervals, adaptation curves, performance profiles. Colours come from the style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from metabench.evaluation.stats import Interval
from metabench.rng import Array

COLORS = 8  # --c0 .. --c7 of the style sheet, told apart by most colour-blind people
_DASHES = ("", "6 3", "2 3", "8 3 2 3")  # for the lines after the first COLORS


class Line(NamedTuple):
    """One agent's line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def color(index: int) -> str:
    """The index-th colour as CSS."""
    return f"var(--c{index % COLORS})"


def interval_bar(interval: Interval, low: float, high: float, index: int, unit: str) -> str:
    """A point with its interval on an axis from `low` to `high`, as wide as its cell."""

    def place(value: float) -> float:
        return 4 + 192 * (min(max(value, low), high) - low) / ((high - low) or 1.0)

    label = f"{number(interval.estimate)}, 95 % interval {number(interval.low)} to {number(interval.high)} {unit}"
    zero = f'<line class="axis" x1="{place(0):.1f}" x2="{place(0):.1f}" y1="1" y2="19"/>' if low < 0 < high else ""
    return (
        f'<svg class="bar" viewBox="0 0 200 20" role="img" aria-label="{html.escape(label.strip())}" '
        f'preserveAspectRatio="none">{zero}'
        f'<line x1="{place(interval.low):.1f}" x2="{place(interval.high):.1f}" y1="10" y2="10" '
        f'stroke="{color(index)}" stroke-width="5" stroke-opacity=".38"/>'
        f'<line x1="{place(interval.estimate):.1f}" x2="{place(interval.estimate):.1f}" y1="3" y2="17" '
        f'stroke="{color(index)}" stroke-width="4"/></svg>'
    )


def line_chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    y_label: str,
    levels: Sequence[tuple[str, float]] = (),
    whole_x: bool = False,
) -> str:
    """Lines over common axes, with horizontal reference levels."""
    if not lines:
        return ""
    width, height, left, right, top, bottom = 560, 300, 52, 16, 14, 44
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y] + [level for _, level in levels]
    y_ticks = ticks(min(ys), max(ys))
    x_ticks = sorted({float(x) for x in lines[0].x}) if whole_x else ticks(min(xs), max(xs))
    x0, x1 = (min(xs), max(xs)) if whole_x else (x_ticks[0], x_ticks[-1])
    y0, y1 = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        px = left + (width - left - right) * ((x - x0) / (x1 - x0) if x1 > x0 else 0.5)
        return px, height - bottom - (height - top - bottom) * (y - y0) / ((y1 - y0) or 1.0)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">',
        *(_tick_y(place(x0, y)[1], y, left, width - right) for y in y_ticks),
        *(_tick_x(place(x, y0)[0], x, height - bottom, whole_x) for x in x_ticks),
    ]
    for name, level in levels:
        y = place(x0, level)[1]
        parts.append(f'<line class="level" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{width - right}" y="{y - 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
        )
    for index, line in enumerate(lines):
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = _DASHES[index // COLORS % len(_DASHES)]
        parts.append(
            f'<g data-agent="{html.escape(line.name)}"><title>{html.escape(line.name)}</title>'
            f'<polyline points="{path}" fill="none" stroke="{color(index)}" stroke-width="2.2" '
            f'stroke-linejoin="round" stroke-dasharray="{dash}"/>'
        )
        if whole_x:
            parts += (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{color(index)}"/>' for x, y in points)
        parts.append("</g>")
    parts.append(
        f'<text class="label" x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
        f'<text class="label" transform="translate(13 {(top + height - bottom) / 2}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(y_label)}</text></svg>'
    )
    return "".join(parts)


def legend(names: Sequence[str]) -> str:
    """Which colour is whose."""
    items = "".join(
        f'<li><span class="dot" style="background:{color(index)}"></span>{html.escape(name)}</li>'
        for index, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


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


def _tick_y(y: float, value: float, left: float, right: float) -> str:
    return (
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _tick_x(x: float, value: float, y: float, whole: bool) -> str:
    text = f"{int(value)}" if whole else f"{value:g}"
    return f'<text class="tick" x="{x:.1f}" y="{y + 17}" text-anchor="middle">{text}</text>'
