"""One run as a picture and a page: learning curve, reward around a switch, table of scores."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench.colors import color_of
from metabench.evaluation.results import write_atomically
from metabench.evaluation.switches import SwitchCurve
from metabench.leaderboard.site.render import environment
from metabench.plotting.style import INK, apart, clean, headline, new_figure, smooth
from metabench.plotting.style import title as head


class Row(NamedTuple):
    """One agent's line in the table of one split."""

    agent: str
    split: str
    mean: float  # return per episode, mean over tasks and repeats
    stderr: float
    normalised: float  # 0 random, 1 oracle
    low: float  # 95 % interval of the normalised IQM
    high: float
    share: float | None  # of the best that is possible without seeing the task, where that is known


def draw(
    path: Path,
    title: str,
    curve: Sequence[tuple[float, float]],
    levels: Mapping[str, float],
    switches: Mapping[str, SwitchCurve],
    learner: str,
) -> None:
    """Writes the picture: the learning curve over the yardsticks' levels, and the reward around a switch.

    Args:
        path: Where the PNG goes.
        title: The headline.
        curve: (environment frames, mean return) of the learner while it trained.
        levels: Mean return of each yardstick on the training split's distribution.
        switches: Reward around a switch of the hidden task, per agent.
        learner: The name of the agent that learned.
    """
    figure = new_figure(12, 4.6)
    from matplotlib.ticker import MultipleLocator

    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    headline(figure, title)
    frames, returns = [f / 1e6 for f, _ in curve], [r for _, r in curve]
    smoothed = smooth(returns)
    left.plot(frames, returns, color=color_of(learner), lw=0.8, alpha=0.35)
    left.plot(frames, smoothed, color=color_of(learner), lw=2.2)
    span = max(frames)
    labels = sorted([*levels.items(), (learner, smoothed[-1])], key=lambda item: item[1])
    for name, level in levels.items():
        left.axhline(level, color=color_of(name), lw=1.2, ls=(0, (4, 3)), zorder=0)
    for (name, level), place in zip(labels, apart([level for _, level in labels], 3.6), strict=True):
        left.annotate(
            f"{name}  {level:.1f}",
            (span * 1.02, place),
            color=color_of(name),
            va="center",
            fontsize=9,
            fontweight="bold" if name == learner else "normal",
            annotation_clip=False,
        )
    left.set(xlabel="environment frames (millions)", xlim=(0, span))
    head(left, "return per episode while learning")
    clean(left)
    for name, c in switches.items():
        color = color_of(name)
        right.plot(c.offset, c.reward, color=color, lw=2.2 if name == learner else 1.5, label=name)
        right.fill_between(c.offset, c.reward - 2 * c.stderr, c.reward + 2 * c.stderr, color=color, alpha=0.15, lw=0)
    right.axvline(-0.5, color=INK, lw=1)
    right.set(xlabel="steps since the hidden goal switched")
    right.xaxis.set_major_locator(MultipleLocator(5))
    seen = max((c.switches for c in switches.values()), default=0)
    head(right, f"mean reward around a switch (about {seen} switches, ± 2 s.e.)")
    right.legend(frameon=False, fontsize=9, loc="lower right")
    clean(right)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def write_page(
    path: Path,
    title: str,
    lead: str,
    picture: Path,
    rows: Sequence[Row],
    config: Mapping[str, Any],
    command: str,
    learner: str,
    film: bytes = b"",
) -> None:
    """Writes one HTML file with the pictures inside it: it opens from anywhere, needs no network and no script."""
    tables = {
        split: sorted((row for row in rows if row.split == split), key=lambda row: -row.mean)
        for split in dict.fromkeys(row.split for row in rows)
    }
    page = _TEMPLATES.get_template("report.html").render(
        title=title,
        lead=lead,
        image=base64.b64encode(picture.read_bytes()).decode(),
        film=base64.b64encode(film).decode(),
        tables=tables,
        learner=learner,
        command=command,
        config=json.dumps(config, indent=2),
    )
    write_atomically(path, page.encode())


_TEMPLATES = environment(
    Path(__file__).parent / "templates",
    filters={
        "color": color_of,
        "percent": lambda share: f"{round(share, 2) + 0.0:.0%}",  # the sum turns -0 into 0
    },
)
