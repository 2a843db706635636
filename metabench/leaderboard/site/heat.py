"""Agents by boards in one table: every agent's score wherever it was ranked, newest board of a line first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from metabench.leaderboard.ranking import Row, Table
from metabench.leaderboard.records import Board

BASELINES = ("random", "zero")  # what every agent is measured above: never a leader


class Cell(NamedTuple):
    """An agent on a board."""

    row: Row
    table: Table
    old: bool  # of a board that has a successor


class Heat(NamedTuple):
    """The table: its columns, and a line of cells for every agent."""

    boards: tuple[Board, ...]  # those without a successor whose scores are normalised
    lines: tuple[tuple[str, tuple[Cell | None, ...]], ...]  # (agent, one cell per board), best first


def heat(tables: Sequence[Table], boards: Mapping[str, Board]) -> Heat:
    """Every agent that is ranked anywhere but in the oracle track, on every current board; baselines are left out."""
    normal = {table.board.id for table in tables if table.normalised}
    current = [board for board in boards.values() if not board.superseded_by and board.id in normal]
    columns = [_line(board, boards) for board in current]
    found: dict[str, list[Cell | None]] = {}
    for place, line in enumerate(columns):
        for age, id in enumerate(line):
            for agent, cell in _best(tables, id, age > 0).items():
                cells = found.setdefault(agent, [None] * len(columns))
                if cells[place] is None:
                    cells[place] = cell
    order = sorted(found.items(), key=lambda item: (-sum(_score(cell) for cell in item[1]), item[0]))
    filled = [k for k in range(len(columns)) if any(cells[k] for cells in found.values())]
    return Heat(
        tuple(current[k] for k in filled),
        tuple((agent, tuple(cells[k] for k in filled)) for agent, cells in order),
    )


def leader(table: Table) -> Row | None:
    """Who leads a track: the first that is no baseline; None if nobody has entered yet."""
    return next((row for row in table.rows if row.entry.submission.agent not in BASELINES), None)


def _line(board: Board, boards: Mapping[str, Board]) -> list[str]:
    """A board and those it has superseded, newest first."""
    line = [board.id]
    while older := next((b.id for b in boards.values() if b.superseded_by == line[-1]), None):
        line.append(older)
    return line


def _best(tables: Sequence[Table], id: str, old: bool) -> dict[str, Cell]:
    best: dict[str, Cell] = {}
    for table in tables:
        if table.board.id != id or table.track == "oracle" or not table.normalised:
            continue
        for row in table.rows:
            agent = row.entry.submission.agent
            if agent in BASELINES:
                continue
            if agent not in best or best[agent].row.score.estimate < row.score.estimate:
                best[agent] = Cell(row, table, old)
    return best


def _score(cell: Cell | None) -> float:
    return 0.0 if cell is None else max(0.0, cell.row.score.estimate)
