"""The pages: overview, all entries, one page per board, one per submission. The templates lie in `templates/`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabench.evaluation.stats import Interval
from metabench.leaderboard.logs import SHARES, Milestone
from metabench.leaderboard.ranking import THRESHOLDS, Entry, Row, Table
from metabench.leaderboard.records import Board, Playing
from metabench.leaderboard.site.charts import Line, bounds, color, interval_bar, legend, line_chart, number, shade
from metabench.leaderboard.site.heat import BASELINES, heat, leader
from metabench.leaderboard.site.render import card, environment
from metabench.leaderboard.track import TRACKS
from metabench.registry import spec

MAX_LINES = 12  # agents in a chart; the rest are in the table
NEWEST = 12  # entries on the first page
TIERS = {
    "reproduced": "replayed, and the policies were played again on fresh seeds",
    "replayed": "every piece of every trace was replayed in the simulator",
    "claimed": "nobody has checked it",
}
METRICS = {
    "iqm": "IQM over runs x tasks with a 95 % stratified bootstrap interval",
    "data-efficiency": "environment steps of training, among those that reach a score of {target}; then IQM",
}


class Column(NamedTuple):
    """A column of a table that can be sorted and filtered."""

    name: str
    classes: str = ""
    first: str = "ascending"  # which way the first click sorts; "" if the column is not sorted


ENTRY_COLUMNS = (
    Column("agent", "text"),
    Column("board", "text"),
    Column("track", "text wide"),
    Column("authors", "text wide"),
    Column("date", "", "descending"),
    Column("tier", "text"),
)


class Section(NamedTuple):
    """What a board's page shows of one track."""

    table: Table
    about: str
    columns: Sequence[Column]
    several: bool  # whether a trial has several episodes
    shown: Sequence[Row]  # those in the pictures
    legend: str
    figures: Sequence[tuple[str, str]]  # caption, picture
    bounds: tuple[float, float]  # of the scores by task


def overview(
    tables: Sequence[Table], entries: Sequence[Entry], boards: Mapping[str, Board], docs: str | None = None
) -> str:
    """The first page; `docs` is the way from the site's root to the documentation's, if they stand together."""
    return _page(
        "overview",
        title="metabench leaderboards",
        description="Leaderboards of meta-reinforcement learning with replayable evidence",
        up="",
        docs=docs,
        heat=heat(tables, boards),
        boards=[(board, [table for table in tables if table.board is board]) for board in boards.values()],
        newest=_by_date(entries)[:NEWEST],
        count=len(entries),
    )


def all_entries(entries: Sequence[Entry], docs: str | None = None) -> str:
    """The page of all entries."""
    title = "All entries - metabench leaderboards"
    return _page("entries", title=title, description="", up="", docs=docs, entries=_by_date(entries))


def board_page(board: Board, tables: Sequence[Table], boards: Mapping[str, Board], docs: str | None = None) -> str:
    """The page of one board: a section per track."""
    chosen = spec(board.benchmark)
    about = {
        "benchmark": board.benchmark,
        "split": board.split,
        "protocol": f"{board.repeats} x {board.episodes} episodes a task",
        "tasks": str(chosen.table().size(board.split)),
        "pins": ", ".join(f"{name} {version}" for name, version in board.pins.items()) or "none",
    }
    return _page(
        "board",
        title=f"{board.title} - metabench leaderboards",
        description=board.about,
        up="../",
        docs=docs,
        board=board,
        family=chosen.group or chosen.id,
        cite=cite(board),
        summary=chosen.summary,
        metric=METRICS[board.metric].format(target=board.target),
        successor=boards[board.superseded_by] if board.superseded_by else None,
        about=about,
        sections=[_section(table) for table in tables],
    )


def _playing(told: Playing | None) -> dict[str, str]:
    """The lines of what an agent needs to play; none where it is not told."""
    lines: dict[str, str] = {}
    if told and told.context is not None:
        lines["context"] = "the whole trial" if told.context == "trial" else f"{told.context:,} steps"
    if told and told.seconds_per_step is not None:
        lines["seconds a step of a trial"] = f"{told.seconds_per_step:.2g}"
    return lines


def entry_page(entry: Entry, row: Row, table: Table, docs: str | None = None) -> str:
    """The page of one submission: what it reached, from what, and what verification found."""
    s, board = entry.submission, table.board
    about = {
        "IQM, normalised" if table.normalised else "IQM of the return": number(row.score.estimate),
        "95 % interval": f"{number(row.score.low)} to {number(row.score.high)}",
        "return per episode": f"{row.mean:.2f}",
        "rank": f"{row.rank} of {len(table.rows)}" if row.rank else "unranked",
        "environment steps a run": f"{s.training.env_steps:,}" if s.training.env_steps else "none",
        **{f"steps to {m.share:.0%}".replace("%", " %"): _came(m) for m in row.milestones},
        "seconds a run": "not told" if s.training.hours is None else f"{s.training.hours * 3600:,.0f}",
        "cores a run": "not told" if s.training.cores is None else f"{s.training.cores}",
        "hardware": s.training.hardware or "not told",
        **_playing(s.playing),
    }
    if not s.trains:  # it has no run that took something
        about = {name: value for name, value in about.items() if value != "not told"}
    made_with = {
        **s.versions,
        "instruction sets": ", ".join(s.cpu_flags),
        "hardware of training": s.training.hardware,
        "tasks of evaluation splits used": s.test_tasks,
        **{f"dataset {d.id}": d.sha256 for d in s.training.datasets},
    }
    return _page(
        "entry",
        title=f"{s.title} on {board.title} - metabench leaderboards",
        description="",
        up="../../../",
        docs=docs,
        family=spec(board.benchmark).group or board.benchmark,
        published=any(run.policy_sha256 for run in s.runs) and any(name.startswith("policies/") for name in s.files),
        entry=entry,
        row=row,
        board=board,
        about=about,
        chart=_adaptation("Adaptation curve", [(s.title, s.agent)], [row], table) if len(row.curve) > 1 else "",
        learning=_learning(entry),
        logged=any(name.startswith("training/") for name in s.files),
        runs=list(zip(s.runs, entry.results.results, strict=True)),
        made_with=made_with,
        files={"submission.json": entry.sha256, **s.files},
    )


def cite(board: Board) -> str:
    """How a board is cited."""
    year = "2026"
    return (
        f"@misc{{metabench-{board.id},\n  title = {{metabench leaderboard {board.id}}},\n"
        f"  author = {{{{The metabench developers}}}},\n  year = {{{year}}},\n"
        f"  note = {{{board.benchmark}, split {board.split}, protocol {board.protocol}, tasks sha256 "
        f"{board.task_digest[:16]}}}\n}}"
    )


def _page(template: str, **values: Any) -> str:
    return _TEMPLATES.get_template(f"{template}.html").render(**values)


def _by_date(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.submission.date, entry.submission.id), reverse=True)


def _section(table: Table) -> Section:
    rows = table.rows[:MAX_LINES]
    several = any(len(row.curve) > 1 for row in (*table.rows, *table.unranked))
    names = [(row.entry.submission.title, row.entry.submission.agent) for row in rows]
    low_high = (0.0, 1.0)
    if rows and not table.normalised:
        low_high = bounds(np.stack([row.tasks for row in rows]))
    figures = _figures(table, names, rows) if rows else []
    return Section(
        table, TRACKS[table.track].about, _columns(table, several), several, rows, legend(names), figures, low_high
    )


def _columns(table: Table, several: bool) -> list[Column]:
    score = "IQM" if table.normalised else "IQM of return"
    columns = [Column("rank"), Column("agent", "text"), Column(score, "", "descending")]
    columns += [Column("95 % interval", "text wide", ""), Column("tier", "text wide"), Column("env steps")]
    columns += [
        Column("to 50 %", "wide"),
        Column("to 75 %", "wide"),
        Column("seconds", "wide"),
        Column("cores", "wide"),
    ]
    columns.append(Column("return", "wide", "descending"))
    if several:
        columns += [Column("first episode", "wide", "descending"), Column("last episode", "wide", "descending")]
    columns += [Column("datasets", "wide"), Column("runs", "wide", "descending")]
    return [*columns, Column("date", "wide", "descending")]


def _cells_of(row: Row) -> list[tuple[str, str]]:
    """What sorts the cells of a row's milestones, and what stands in them; a dash where no curve is known."""
    if not row.milestones:
        return [("", "-") for _ in SHARES]
    return [(repr(m.steps) if m.came else "", _steps(m)) for m in row.milestones]


def _steps(found: Milestone) -> str:
    return big(round(found.steps)) if math.isfinite(found.steps) else "not reached"


def _came(found: Milestone) -> str:
    """A milestone in words: median over the runs, and how many came so far where some did not."""
    some = f" ({found.came} of {found.runs} runs)" if 0 < found.came < found.runs else ""
    return f"{_steps(found)}{some}"


def _figures(table: Table, names: Sequence[tuple[str, str]], rows: Sequence[Row]) -> list[tuple[str, str]]:
    figures = []
    if len(rows[0].curve) > 1:
        levels = [("oracle", 1.0)] if table.normalised and table.track != "oracle" else []
        drawn = _adaptation("Adaptation curves", names, rows, table, levels)
        figures.append((f"Adaptation: {_label(table)} by episode", drawn))
    if table.normalised:
        lines = [
            Line(*name, THRESHOLDS.tolist(), row.profile.tolist())
            for name, row in zip(names, rows, strict=True)
            if row.profile is not None
        ]
        drawn = line_chart(lines, "Performance profiles", "score τ", "share of runs x tasks above τ")
        figures.append(("Performance profile", drawn))
    return figures


def _adaptation(
    title: str,
    names: Sequence[tuple[str, str]],
    rows: Sequence[Row],
    table: Table,
    levels: Sequence[tuple[str, float]] = (),
) -> str:
    lines = [
        Line(*name, range(1, len(row.curve) + 1), row.curve.tolist()) for name, row in zip(names, rows, strict=True)
    ]
    return line_chart(lines, title, "episode of the trial", _label(table), levels, whole_x=True)


def _learning(entry: Entry) -> str:
    """The learning curves of an entry's runs; empty where none are known."""
    s = entry.submission
    lines = [
        Line(f"{s.title}, seed {curve.seed}", s.agent, [step / 1e6 for step in curve.frames], curve.returns)
        for curve in entry.curves[:MAX_LINES]
    ]
    return line_chart(lines, "Learning curves", "million environment steps", "return while training") if lines else ""


def _label(table: Table) -> str:
    return "score" if table.normalised else "return"


def _bar(score: Interval, rows: Sequence[Row], table: Table, agent: str) -> str:
    """A row's interval on the axis that all rows of its table share."""
    low = min(0.0, *(row.score.low for row in rows))
    high = max(*(row.score.high for row in rows), 1.0 if table.normalised else low)
    return interval_bar(score, low, high, agent)


def link(entry: Entry) -> str:
    """An entry's page, from the site's root."""
    return f"entries/{entry.submission.place.as_posix()}.html"


def big(count: int) -> str:
    """A number of steps in few letters."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def _people(entry: Entry) -> str:
    authors = entry.submission.authors
    return authors[0] if len(authors) == 1 else f"{authors[0]} et al."


def _words(entry: Entry) -> str:
    s = entry.submission
    return " ".join((s.title, s.agent, s.board, s.track, str(s.date), *s.authors)).lower()


_TEMPLATES = environment(
    Path(__file__).parent / "templates",
    filters={
        "bar": _bar,
        "big": big,
        "milestones": _cells_of,
        "card": card,
        "color": color,
        "is_baseline": lambda row: row.entry.submission.agent in BASELINES,
        "leader": leader,
        "exactly": lambda value: repr(float(value)),  # every bit, for sorting
        "link": link,
        "number": number,
        "people": _people,
        "shade": lambda value, low, high: shade(float(value), low, high),
        "words": _words,
    },
    known={"TIERS": TIERS, "ENTRY_COLUMNS": ENTRY_COLUMNS},
)
