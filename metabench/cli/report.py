"""One run as a picture and a page: learning curve, reward around a switch, table of scores."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench.evaluation.results import write_atomically
from metabench.evaluation.switches import SwitchCurve
from metabench.leaderboard.site.render import environment

# One colour per agent, the same in every picture (Okabe and Ito: told apart by most colour-blind people).
COLORS = {
    "oracle": "#009E73",
    "bayes": "#CC79A7",
    "win-stay-lose-shift": "#E69F00",
    "random": "#8C8C8C",
    "rl2": "#0072B2",
}
_OTHER = "#56B4E9"
_INK, _FAINT = "#282C34", "#D6D3CB"


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
    from matplotlib.figure import Figure  # half a second to import, and only reports need it
    from matplotlib.ticker import MultipleLocator

    figure = Figure(figsize=(12, 4.6), dpi=144, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    frames, returns = [f / 1e6 for f, _ in curve], [r for _, r in curve]
    smooth = _smooth(returns)
    left.plot(frames, returns, color=COLORS.get(learner, _OTHER), lw=0.8, alpha=0.35)
    left.plot(frames, smooth, color=COLORS.get(learner, _OTHER), lw=2.2)
    span = max(frames)
    labels = sorted([*levels.items(), (learner, smooth[-1])], key=lambda item: item[1])
    for name, level in levels.items():
        left.axhline(level, color=COLORS.get(name, _OTHER), lw=1.2, ls=(0, (4, 3)), zorder=0)
    for (name, level), place in zip(labels, _apart([level for _, level in labels], 3.6), strict=True):
        left.annotate(
            f"{name}  {level:.1f}",
            (span * 1.02, place),
            color=COLORS.get(name, _OTHER),
            va="center",
            fontsize=9,
            fontweight="bold" if name == learner else "normal",
            annotation_clip=False,
        )
    left.set(xlabel="environment frames (millions)", xlim=(0, span))
    left.set_title("return per episode while learning", loc="left", fontsize=10, color=_INK)
    _clean(left)
    for name, c in switches.items():
        color = COLORS.get(name, _OTHER)
        right.plot(c.offset, c.reward, color=color, lw=2.2 if name == learner else 1.5, label=name)
        right.fill_between(c.offset, c.reward - 2 * c.stderr, c.reward + 2 * c.stderr, color=color, alpha=0.15, lw=0)
    right.axvline(-0.5, color=_INK, lw=1)
    right.set(xlabel="steps since the hidden goal switched")
    right.xaxis.set_major_locator(MultipleLocator(5))
    seen = max((c.switches for c in switches.values()), default=0)
    right.set_title(
        f"mean reward around a switch (about {seen} switches, ± 2 s.e.)", loc="left", fontsize=10, color=_INK
    )
    right.legend(frameon=False, fontsize=9, loc="lower right")
    _clean(right)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _smooth(values: Sequence[float], share: float = 0.03) -> list[float]:
    """Each value's mean with those before it, over a share of the curve."""
    window = max(1, round(share * len(values)))
    parts = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _apart(levels: Sequence[float], gap: float) -> list[float]:
    """Heights for labels that would overlap, in ascending order, each at least `gap` above the one below."""
    placed: list[float] = []
    for level in levels:
        placed.append(max(level, placed[-1] + gap) if placed else level)
    lift = max(0.0, placed[-1] - levels[-1] - gap / 2) if placed else 0.0
    return [place - lift for place in placed]


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, length=3, labelsize=9)
    axes.grid(axis="y", color=_FAINT, lw=0.6)
    axes.set_axisbelow(True)


def write_page(
    path: Path,
    title: str,
    lead: str,
    picture: Path,
    rows: Sequence[Row],
    config: Mapping[str, Any],
    command: str,
    learner: str,
) -> None:
    """Writes one HTML file with the picture inside it: it opens from anywhere, needs no network and no script."""
    tables = {
        split: sorted((row for row in rows if row.split == split), key=lambda row: -row.mean)
        for split in dict.fromkeys(row.split for row in rows)
    }
    page = _TEMPLATES.get_template("report.html").render(
        title=title,
        lead=lead,
        image=base64.b64encode(picture.read_bytes()).decode(),
        tables=tables,
        learner=learner,
        command=command,
        config=json.dumps(config, indent=2),
    )
    write_atomically(path, page.encode())


_TEMPLATES = environment(
    Path(__file__).parent / "templates",
    filters={
        "color": lambda agent: COLORS.get(agent, _OTHER),
        "percent": lambda share: f"{round(share, 2) + 0.0:.0%}",  # the sum turns -0 into 0
    },
)
