"""The learning curves on the agents' pages, drawn of the runs that are kept as evidence.

    python -m studies.learning_curves          # those whose runs have changed
    python -m studies.learning_curves focal    # one agent's

`learning_curves.toml` says which: an agent's runs in its colour, with the 95 % interval over runs, those of others on
the same tasks in grey, and the levels of random and oracle; on several benchmarks in panels. A picture names the keys
of the runs that it was drawn of, and a test holds it to them.
"""

from __future__ import annotations

import argparse
import csv
import io
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import metabench
from metabench.colors import color_of
from metabench.evaluation.results import write_atomically
from metabench.evaluation.summary import reference_levels
from metabench.plotting.curves import Learning, band
from metabench.plotting.style import FAINT, INK, apart, clean, new_figure, smooth, title
from metabench.sweep import Job
from metabench.sweep.folder import JOB
from studies.evidence import CURVE, KEPT, Row, read_queue

LIST = Path(__file__).with_suffix(".toml")
IMAGES = Path(__file__).parent.parent / "docs" / "images"
KEYS = "Description"  # of a PNG: where a picture names its runs
GREY = "#8A8F99"
WHAT = {  # by column
    "first": "first episode on training tasks",
    "last": "last episode on training tasks",
    "mean": "all episodes on training tasks",
}


class Panel(NamedTuple):
    """What is drawn on one benchmark."""

    column: str  # of the curves that are kept
    row: Row  # the agent's
    beside: tuple[Row, ...]
    called: str  # the agent's row in the picture; its own name if empty

    @property
    def kept(self) -> list[Row]:
        """The rows that have runs, the agent's first."""
        return [row for row in (self.row, *self.beside) if kept_jobs(row)]


class Picture(NamedTuple):
    """What is drawn of one agent."""

    agent: str
    panels: tuple[Panel, ...]

    @property
    def path(self) -> Path:
        """Where it goes."""
        return IMAGES / f"learning-{self.agent}.png"

    @property
    def shown(self) -> list[Panel]:
        """The panels whose agent has runs."""
        return [panel for panel in self.panels if kept_jobs(panel.row)]

    @property
    def text(self) -> str:
        """The keys of the runs that it is drawn of."""
        rows = [row for panel in self.shown for row in panel.kept]
        return "\n".join(f"{row.name}: {' '.join(job.key() for job in kept_jobs(row))}" for row in rows)


def read_list(path: Path = LIST) -> list[Picture]:
    """The pictures; ValueError in one sentence for a table or a row that the queue does not have."""
    tables = {table.name: {row.name: row for row in table.rows} for table in read_queue()}

    def row(named: str) -> Row:
        table, _, name = named.partition(": ")
        if name not in tables.get(table, {}):
            raise ValueError(f"{path} wants the row {named!r}, and the queue has none of that name")
        return tables[table][name]

    def panel(told: dict[str, Any], column: str) -> Panel:
        return Panel(column, row(told["row"]), tuple(map(row, told.get("beside", ()))), told.get("called", ""))

    return [
        Picture(agent, tuple(panel(own, told["column"]) for own in told.get("panels", [told])))
        for agent, told in tomllib.loads(path.read_text()).items()
    ]


def kept_jobs(row: Row) -> list[Job]:
    """The runs of a row whose curve is kept."""
    return [j for j in row.jobs if (KEPT / j.key() / JOB).exists() and (KEPT / j.key() / CURVE).exists()]


def read_kept(path: Path, column: str) -> Learning:
    """A kept curve by environment steps or by updates; ValueError in one sentence if it has no such column."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(column)]
    if not rows:
        raise ValueError(f"{path} has no values of {column}")
    x = [float(row.get("frames") or row["update"]) for row in rows]
    y = [float(row[column]) for row in rows]
    return Learning(np.array(x), np.array(smooth(y) if len(y) > 50 else y))


def draw(picture: Picture) -> bytes:
    """The PNG: two panels beside each other where there are several."""
    panels = picture.shown
    lines = -(-len(panels) // 2)
    figure = new_figure(7.2, 3.4) if len(panels) == 1 else new_figure(11.0, 3.4 * lines)
    every = figure.subplots(lines, min(len(panels), 2), squeeze=False).flatten()
    for axes, panel in zip(every, panels, strict=False):
        draw_panel(axes, panel, color_of(picture.agent), brief=len(panels) > 1)
    for axes in every[len(panels) :]:
        axes.remove()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={KEYS: picture.text, "Software": None})
    return stream.getvalue()


def draw_panel(axes: Any, panel: Panel, own: str, brief: bool) -> None:
    """The curves on one benchmark, the agent's in its colour; a brief title where there are several."""
    benchmark = panel.row.jobs[0].settings["benchmark"]
    shown = [(row, GREY, 1.2) for row in panel.kept[1:]] + [(panel.row, own, 2.2)]
    ends = []
    for row, color, width in shown:
        curve = band([read_kept(KEPT / job.key() / CURVE, panel.column) for job in kept_jobs(row)])
        axes.plot(curve.x, curve.middle, color=color, lw=width)
        name = panel.called if panel.called and row is panel.row else row.name
        ends.append((float(curve.middle[-1]), float(curve.x[-1]), name, color))
        if row is panel.row:
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.18, lw=0)
    for name, level in _levels(benchmark):
        axes.axhline(level, color=FAINT, lw=1.2, ls=(0, (4, 3)), zorder=0)
        axes.annotate(name, (0.0, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color=GREY)
    _names(axes, sorted(ends))
    jobs = kept_jobs(panel.row)
    steps = "frames" in (KEPT / jobs[0].key() / CURVE).read_text().partition("\n")[0]
    axes.set_xlabel("environment steps" if steps else "updates", color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if brief and value else f"{value:,.0f}")
    clean(axes)
    what = WHAT.get(panel.column.partition("/")[2], "return of an episode while learning")
    runs = f"{len(jobs)} runs, mean and 95 %" if len(jobs) > 1 else "one run"
    title(axes, f"{benchmark} ({runs})" if brief else f"{benchmark}: {what} ({runs})")


def _levels(benchmark: str) -> list[tuple[str, float]]:
    known = reference_levels(benchmark, "train")
    if not known:
        known = {name: told["mean"] for name, told in metabench.spec(benchmark).references("test").items()}
    return [(name, known[name]) for name in ("random", "oracle", "bayes") if name in known]


def _names(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes names where curves end, so that none covers another."""
    low, high = axes.get_ylim()
    for place, (_, x, name, color) in zip(apart([end[0] for end in ends], 0.06 * (high - low)), ends, strict=True):
        axes.annotate(
            f" {name}", (x, place), xytext=(2, 0), textcoords="offset points", va="center", fontsize=8.5, color=color
        )


def drawn_of(path: Path) -> str:
    """The keys that a picture names; empty if there is none."""
    from PIL import Image

    if not path.is_file():
        return ""
    with Image.open(path) as image:
        return str(image.info.get(KEYS, ""))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws what has changed, or what is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pictures = {picture.agent: picture for picture in read_list()}
    parser.add_argument("agents", nargs="*", choices=[[], *pictures], help="all by default")
    chosen = parser.parse_args(arguments).agents
    for agent, picture in pictures.items():
        if agent in chosen or (not chosen and drawn_of(picture.path) != picture.text):
            if not picture.shown:
                print(f"{agent}: no run is kept yet")
                continue
            write_atomically(picture.path, draw(picture))
            print(f"written: {picture.path.name}")


if __name__ == "__main__":
    main()
