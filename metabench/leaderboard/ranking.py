"""From submissions to tables: a leaderboard is a function of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metabench.evaluation.stats import Interval, iqm, normalise, performance_profile, stratified_bootstrap
from metabench.evaluation.summary import BOOTSTRAP_SEED, reference_levels
from metabench.leaderboard.folder import Folder, find
from metabench.leaderboard.records import Board, Results, Submission, Tier, Verification, board_of
from metabench.leaderboard.replay import Fault
from metabench.leaderboard.track import TRACKS, TrackName
from metabench.rng import Array

THRESHOLDS = np.linspace(0.0, 1.0, 41)  # of the performance profile, on the normalised scale


class Entry(NamedTuple):
    """One submission as it lies in the leaderboards."""

    submission: Submission
    results: Results
    verification: Verification | None  # of exactly this content
    sha256: str
    card: str

    @property
    def tier(self) -> Tier:
        """How far its scores are proven."""
        return self.verification.tier if self.verification else "claimed"


class Row(NamedTuple):
    """An entry in a table."""

    entry: Entry
    rank: int | None
    why_unranked: str  # in words; empty if it is ranked
    score: Interval  # IQM of what the track judges over runs x tasks
    mean: float  # return per episode
    curve: Array  # [episodes] score of the j-th episode of a trial
    tasks: Array  # [tasks] score, mean over the runs
    profile: Array | None  # [thresholds] share of runs x tasks above each; None without references
    reached: bool  # data-efficiency: whether the normalised score reaches the board's target


class Table(NamedTuple):
    """One track of one board."""

    board: Board
    track: TrackName
    normalised: bool  # scores between random (0) and oracle (1); else returns, because there are no references
    levels: Mapping[str, float]  # the yardsticks' mean returns
    rows: tuple[Row, ...]  # ranked, best first
    unranked: tuple[Row, ...]  # claims, superseded versions, entries that used test tasks


def read_entries(root: Path, boards: Mapping[str, Board]) -> list[Entry]:
    """Every submission below `root`; ValueError naming the first that cannot be read."""
    entries = []
    for path in find(root) if any(root.glob("*/*/*/submission.json")) else ():
        try:
            folder = Folder(path)
            submission = folder.submission()
            board_of(boards, submission.board)
            entries.append(
                Entry(submission, folder.results(), folder.verification(), folder.sha256(), folder.text("card.md"))
            )
        except (Fault, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None
    return entries


def rank(board: Board, track: TrackName, entries: Sequence[Entry]) -> Table:
    """The table of one track.

    Ranked are entries that were replayed or reproduced, have enough runs, used no test task, and are their agent's
    newest with that version. The score is the IQM over runs x tasks of the episodes the track judges; with the metric
    data-efficiency, those that reach the board's target come first, by the environment steps of their training.
    """
    levels = reference_levels(board.benchmark, board.split)
    scaled = {"random", "oracle"} <= levels.keys() and levels["oracle"] > levels["random"]
    mine = [e for e in entries if e.submission.board == board.id and e.submission.track == track]
    newest: dict[tuple[str, str], Entry] = {}
    for entry in sorted(mine, key=lambda e: (e.submission.date, e.submission.id)):
        if entry.tier != "claimed":
            newest[entry.submission.agent, entry.submission.version] = entry
    rows = [_row(board, track, entry, levels if scaled else None, newest) for entry in mine]
    ranked = sorted((row for row in rows if not row.why_unranked), key=lambda row: _order(board, row))
    rest = sorted((row for row in rows if row.why_unranked), key=lambda row: (-row.score.estimate, row.entry.sha256))
    placed = tuple(row._replace(rank=place) for place, row in enumerate(ranked, 1))
    return Table(board, track, scaled, levels, placed, tuple(rest))


def _order(board: Board, row: Row) -> tuple[float, ...]:
    name = float(int(row.entry.sha256[:8], 16))  # a tie is broken the same way every time
    if board.metric == "data-efficiency" and row.reached:
        return (0.0, row.entry.submission.training.env_steps, -row.score.estimate, name)
    return (1.0, -row.score.estimate, -row.mean, name)


def _row(
    board: Board,
    track: TrackName,
    entry: Entry,
    levels: Mapping[str, float] | None,
    newest: Mapping[tuple[str, str], Entry],
) -> Row:
    returns = np.stack([result.array() for result in entry.results.results])  # [run, task, repeat, episode]
    scores = normalise(returns, levels["random"], levels["oracle"]) if levels else returns
    judged = scores[..., TRACKS[track].judged].mean(axis=(2, 3))  # [run, task]
    interval = stratified_bootstrap(judged, np.random.default_rng(BOOTSTRAP_SEED), iqm)
    return Row(
        entry=entry,
        rank=None,
        why_unranked=_why_unranked(board, entry, newest),
        score=interval,
        mean=float(returns[..., TRACKS[track].judged].mean()),
        curve=scores.mean(axis=(0, 1, 2)),
        tasks=judged.mean(axis=0),
        profile=performance_profile(judged, THRESHOLDS) if levels else None,
        reached=levels is not None and board.target is not None and interval.estimate >= board.target,
    )


def _why_unranked(board: Board, entry: Entry, newest: Mapping[tuple[str, str], Entry]) -> str:
    submission = entry.submission
    if entry.tier == "claimed":
        return "claimed: not replayed"
    if submission.test_tasks != "none":
        return f"used test tasks for {submission.test_tasks}"
    if len(submission.runs) < board.min_runs:
        return f"{len(submission.runs)} runs, {board.min_runs} are needed"
    newer = newest[submission.agent, submission.version]
    if newer is not entry:
        return f"superseded by {newer.submission.id}"
    return ""
