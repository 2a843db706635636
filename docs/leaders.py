"""What leads each board: README's table, and that of the page Results. Made of leaderboards/ and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from metabench.leaderboard.ranking import Row, Table
from metabench.leaderboard.site.charts import number
from metabench.leaderboard.site.pages import link

README = Path(__file__).parent.parent / "README.md"
PLACE = re.compile(r"(<!-- boards: leaders -->\n).*?(<!-- end of boards -->)", re.DOTALL)
WHY = "<!-- no records: made of leaderboards/ by `python docs/generate.py --readme` -->\n"
HEAD = ("board", "track", "leads", "score (95 %)", "return", "random", "oracle")
LEAD = (
    "The best ranked entry of every track that has one with a trained agent. Scores lie between random (0) and the oracle that sees the "
    "task (1); returns are of an episode."
)


class Leader(NamedTuple):
    """A line of the table."""

    table: Table
    row: Row | None  # None: no trained agent is on the board yet

    @property
    def cells(self) -> tuple[str, ...]:
        """Track, score, return, and the yardsticks' returns; None's are empty."""
        levels = (_level(self.table, "random"), _level(self.table, "oracle"))
        if self.row is None:
            return ("", "", "", *levels)
        score = self.row.score
        interval = f"{number(score.estimate)} ({number(score.low)} to {number(score.high)})"
        return (self.table.track, interval, f"{self.row.mean:.2f}", *levels)


def leaders(tables: Sequence[Table]) -> Iterator[Leader]:
    """A line for every track of a current board that a trained agent is ranked in; one for a board without any."""
    current = {table.board.id: table.board for table in tables if not table.board.superseded_by}
    for id in current:
        own = [table for table in tables if table.board.id == id]
        found = [Leader(table, row) for table in own if table.track != "oracle" and (row := _best(table))]
        yield from found or [Leader(own[0], None)]


def _best(table: Table) -> Row | None:
    return next((row for row in table.rows if row.entry.submission.trains), None)


def _level(table: Table, name: str) -> str:
    return f"{table.levels[name]:.2f}" if name in table.levels else ""


def readme_table(tables: Sequence[Table]) -> str:
    """The table as Markdown whose links lead to the entries' folders."""
    return _table(tables, "leaderboards/{board}", "leaderboards/{place}", "no entry yet")


def results_table(tables: Sequence[Table]) -> str:
    """The table as Markdown of a page beside which the boards' site lies; every cell tells its column on a phone."""
    board, enter = "boards/boards/{board}.html", "[no entry yet: enter one](boards/boards/{board}.html#enter)"
    text = _table(tables, board, "boards/{page}", enter)
    html = re.sub(r"\[([^]]+)\]\(([^)]+)\)", r'<a href="\2">\1</a>', text)
    return f"::::{{container}} stack\n{html}::::\n"


def _table(tables: Sequence[Table], board: str, entry: str, none: str) -> str:
    lines = [HEAD, ("---",) * len(HEAD)]
    for leader in leaders(tables):
        id = leader.table.board.id
        track, score, mean, random, oracle = leader.cells
        name, who = f"[{id}]({board.format(board=id)})", none.format(board=id)
        if leader.row is not None:
            s = leader.row.entry.submission
            where = entry.format(place=s.place.as_posix(), page=link(leader.row.entry))
            who = f"[{_plain(s.title)}]({where})"
        lines.append((name, track, who, score, mean, random, oracle))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plain(title: str) -> str:
    """A title, which may come from anybody, as text that no Markdown or HTML is read in."""
    return re.sub(r"[^\w ().,:+²³-]", "", title)


def update_readme(text: str, tables: Sequence[Table]) -> str:
    """README with its table made anew; ValueError in one sentence if it has no place for it."""
    if not PLACE.search(text):
        raise ValueError("README.md has no place for the table: <!-- boards: leaders --> and <!-- end of boards -->")
    return PLACE.sub(lambda match: f"{match[1]}{WHY}{readme_table(tables)}{match[2]}", text)
