"""One run as a picture and a page: learning curve, reward around a switch, table of scores."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench.evaluation.results import write_atomically
from metabench.evaluation.switches import SwitchCurve

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


_STYLE = """
:root { color-scheme: light dark; --ink: #282c34; --soft: #6b6f76; --line: #d6d3cb; --paper: #faf9f6; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --soft: #a4a7ad; --line: #44474d; --paper: #1d1f23; --card: #26292e; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 60rem; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p.lead { color: var(--soft); margin: 0 0 1.5rem; }
figure { margin: 0; } img { max-width: 100%; border: 1px solid var(--line); border-radius: 8px; background: #fff; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; color: var(--soft); font-size: .85rem; }
td .dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
tr.learner td { font-weight: 650; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; overflow-x: auto;
  font-size: .85rem; }
"""


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
    image = base64.b64encode(picture.read_bytes()).decode()
    tables = "".join(_table(split, rows, learner) for split in dict.fromkeys(row.split for row in rows))
    page = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head>
<body>
<h1>{html.escape(title)}</h1>
<p class="lead">{html.escape(lead)}</p>
<figure><img alt="Learning curve, and mean reward around a switch" src="data:image/png;base64,{image}"></figure>
{tables}
<h2>How it was made</h2>
<pre>{html.escape(command)}</pre>
<pre>{html.escape(json.dumps(config, indent=2))}</pre>
</body>
</html>
"""
    write_atomically(path, page.encode())


def _table(split: str, rows: Sequence[Row], learner: str) -> str:
    body = []
    for row in sorted((r for r in rows if r.split == split), key=lambda r: -r.mean):
        share = "" if row.share is None else f"{round(row.share, 2) + 0.0:.0%}"
        body.append(
            f"<tr{' class=learner' if row.agent == learner else ''}>"
            f'<td><span class="dot" style="background:{COLORS.get(row.agent, _OTHER)}"></span>'
            f"{html.escape(row.agent)}</td>"
            f"<td>{row.mean:.2f} ± {row.stderr:.2f}</td><td>{row.normalised:.3f}</td>"
            f"<td>[{row.low:.3f}, {row.high:.3f}]</td><td>{share}</td></tr>"
        )
    return f"""<h2>Split <code>{html.escape(split)}</code></h2>
<div class="scroll"><table><thead><tr><th>agent</th><th>return</th><th>normalised (IQM)</th><th>95 % interval</th>
<th>share of Bayes</th></tr></thead><tbody>{"".join(body)}</tbody></table></div>
"""
