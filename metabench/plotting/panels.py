"""Draws what `curves` reads: one figure per benchmark, a panel for each thing that the runs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metabench.colors import color_of
from metabench.evaluation.summary import Group, group, reference_levels
from metabench.plotting.curves import (
    TrainedRun,
    X,
    adaptation,
    band,
    improvements,
    label_runs,
    profile,
    scores,
    sources,
)
from metabench.plotting.style import INK, clean, headline, new_figure, title

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # groups of one agent have its colour and differ in these
AXES = {"frames": "environment steps (millions)", "updates": "updates", "seconds": "seconds of training"}


def draw_benchmark(benchmark: str, found: Sequence[TrainedRun], x: X = "frames") -> Any:
    """One figure of all runs on a benchmark: learning curves; then, for each split, what was measured."""
    labelled = label_runs(found)
    learned = {name: [r.learning for r in runs if r.learning] for name, runs in labelled.items()}
    learned = {name: curves for name, curves in learned.items() if curves}
    by_split: dict[str, list[Group]] = {}
    for members in group(sources(found)):
        by_split.setdefault(members.results[0].protocol.split, []).append(members)
    styles = _styles([*labelled, *(g.label for groups in by_split.values() for g in groups)])
    panels: list[Any] = [lambda axes: _learning(axes, benchmark, learned, styles, x)] if learned else []
    for split, groups in sorted(by_split.items(), key=lambda item: (item[0] != "test", item[0])):
        panels.append(lambda axes, s=split, g=groups: _profiles(axes, s, g, styles))
        if groups[0].results[0].protocol.episodes > 1:
            panels.append(lambda axes, s=split, g=groups: _adaptation(axes, s, g, styles))
        if len(groups) > 1:
            panels.append(lambda axes, s=split, g=groups: _improvement(axes, s, g))
    if not panels:
        raise ValueError(f"the runs on {benchmark} have neither returns of training nor results: nothing to plot")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.8 * columns + 0.6, 3.7 * rows + 0.5)
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        panel(axes)
        clean(axes)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    headline(figure, benchmark)
    return figure


def _styles(labels: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Colour and dash of every group: an agent's colour, and a dash for each group of that agent."""
    seen: dict[str, int] = {}
    styles = {}
    for label in dict.fromkeys(labels):
        agent = label.partition(" ")[0]
        styles[label] = (color_of(label), DASHES[seen.get(agent, 0) % len(DASHES)])
        seen[agent] = seen.get(agent, 0) + 1
    return styles


def _learning(axes: Any, benchmark: str, learned: Mapping[str, Any], styles: Mapping[str, Any], x: X) -> None:
    scale = 1e6 if x == "frames" else 1.0
    for name, curves in learned.items():
        color, dash = styles[name]
        b = band(curves)
        axes.plot(b.x / scale, b.middle, color=color, ls=dash, lw=2, label=f"{name}, {_runs(len(curves))}")
        if len(curves) > 1:
            axes.fill_between(b.x / scale, b.low, b.high, color=color, alpha=0.16, lw=0)
    for name, level in reference_levels(benchmark, "train").items():
        if name == "zero":  # close to random, and no more than that
            continue
        axes.axhline(level, color=color_of(name), lw=1, ls=(0, (4, 3)), zorder=0)
        axes.annotate(
            name,
            (1.0, level),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color=color_of(name),
        )
    axes.set(xlabel=AXES[x])
    title(axes, "return per episode while learning (mean, 95 % over runs)")
    axes.legend(frameon=False, fontsize=8)


def _profiles(axes: Any, split: str, groups: Sequence[Group], styles: Mapping[str, Any]) -> None:
    tables = {g.label: scores(g) for g in groups}
    low = min(float(table.min()) for table, _ in tables.values())
    high = max(float(table.max()) for table, _ in tables.values())
    for name, (table, _) in tables.items():
        thresholds, share = profile(table, low, high)
        color, dash = styles[name]
        axes.plot(thresholds, share, color=color, ls=dash, lw=2, label=f"{name}, {_runs(len(table))}")
    normalised = all(known for _, known in tables.values())
    axes.set(xlabel="score (0 random, 1 oracle)" if normalised else "return", ylim=(-0.02, 1.02))
    title(axes, f"{split}: share of runs x tasks above a score")
    axes.legend(frameon=False, fontsize=8)


def _adaptation(axes: Any, split: str, groups: Sequence[Group], styles: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    for g in groups:
        color, dash = styles[g.label]
        points = adaptation(g)
        episodes = np.arange(1, len(points) + 1)
        axes.plot(episodes, [p.estimate for p in points], "o", color=color, ls=dash, lw=2, ms=4, label=g.label)
        axes.fill_between(episodes, [p.low for p in points], [p.high for p in points], color=color, alpha=0.16, lw=0)
    protocol = groups[0].results[0].protocol
    for name, level in reference_levels(protocol.benchmark, split).items():
        if name in ("random", "oracle"):
            axes.axhline(level, color=color_of(name), lw=1, ls=(0, (4, 3)), zorder=0)
    axes.set(xlabel="episode of a trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    title(axes, f"{split}: return by episode (95 % over runs)")
    axes.legend(frameon=False, fontsize=8)


def _improvement(axes: Any, split: str, groups: Sequence[Group]) -> None:
    found = improvements(groups)
    for place, (_, interval) in enumerate(found):
        axes.plot((interval.low, interval.high), (place, place), color=INK, lw=6, alpha=0.25, solid_capstyle="butt")
        axes.plot(interval.estimate, place, "o", color=INK)
    axes.axvline(0.5, color=INK, lw=1, ls=(0, (4, 3)))
    axes.set(xlim=(0, 1.02), ylim=(-0.6, len(found) - 0.4), xlabel="probability of improvement")
    axes.set_yticks(range(len(found)), [name for name, _ in found])
    title(axes, f"{split}: the best beside the others")


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
