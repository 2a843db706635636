"""From submissions to tables: a leaderboard is a function of records."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metabench.evaluation.stats import Interval, iqm, normalise, performance_profile, stratified_bootstrap
from metabench.evaluation.summary import BOOTSTRAP_SEED, reference_levels
from metabench.evaluation.traces import read_returns
from metabench.leaderboard.folder import MAX_CARD, Folder, entries_in
from metabench.leaderboard.logs import Curve, Milestone, curves_of, milestones, read_curves
from metabench.leaderboard.names import foreign, lent
from metabench.leaderboard.records import (
    CARD,
    TRAINING_NAME,
    Board,
    Results,
    Submission,
    Tier,
    Verification,
    board_of,
)
from metabench.leaderboard.replay import Fault
from metabench.leaderboard.rerun import rerunnable
from metabench.leaderboard.rules import check_rules, check_runs
from metabench.leaderboard.track import TRACKS, TrackName
from metabench.leaderboard.verify import check_files, check_results, flags
from metabench.registry import spec
from metabench.rng import Array

THRESHOLDS = np.linspace(0.0, 1.0, 41)  # of the performance profile, on the normalised scale


class Entry(NamedTuple):
    """One submission as it lies in the leaderboards."""

    submission: Submission
    results: Results
    verification: Verification | None  # of exactly this content
    sha256: str
    card: str
    foreign: str = ""  # why it is not ranked whatever its tier: its name or its policies are another's
    curves: tuple[Curve, ...] = ()  # how its runs learned, by their own logs

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
    milestones: tuple[Milestone, ...]  # environment steps to levels, by the curves; none where no curve is known


class Table(NamedTuple):
    """One track of one board."""

    board: Board
    track: TrackName
    normalised: bool  # scores between random (0) and oracle (1); else returns, because there are no references
    levels: Mapping[str, float]  # the yardsticks' mean returns
    rows: tuple[Row, ...]  # ranked, best first
    unranked: tuple[Row, ...]  # claims, superseded versions, entries that used test tasks


def read_entries(root: Path, boards: Mapping[str, Board]) -> list[Entry]:
    """Every entry below `root`, with all computed again that takes no simulator.

    That is its place, the hash of every file, every return from the traces' rewards; and of the verifier's record its
    seal, the flags that follow from the records, and the re-run's number of what was submitted. A record that says
    something else, or more than the evidence that is there, counts for nothing: the entry is then a claim.

    Raises:
        ValueError: In one sentence: the first that cannot be read or is not what its files say, or that is no entry.
    """
    entries = []
    for path in entries_in(root):
        try:
            entries.append(_entry(path, boards))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    known = read_curves(root)
    entries = [entry if entry.curves else _with(entry, known) for entry in entries]
    entries.sort(key=_since)
    whys = foreign([entry.submission for entry in entries], lent(root))
    told = [entry._replace(foreign=why) for entry, why in zip(entries, whys, strict=True)]
    return sorted(told, key=lambda entry: entry.submission.place.as_posix())


def _with(entry: Entry, known: Mapping[str, tuple[Curve, ...]]) -> Entry:
    """The entry with the curves that stand beside the boards."""
    return entry._replace(curves=known.get(entry.submission.place.as_posix(), ()))


def _entry(path: Path, boards: Mapping[str, Board]) -> Entry:
    folder = Folder(path)
    submission = folder.submission()
    board = board_of(boards, submission.board)
    check_files(folder, submission)
    results = folder.results()
    traced = _same_returns(folder, submission, results, board)
    found = folder.verification()
    if found is not None and not _told_rightly(found, folder, submission, results, board, traced):
        found = None
    curves = curves_of(folder.training(), [run.train_seed for run in submission.runs])
    return Entry(submission, results, found, folder.sha256(), folder.text(CARD, MAX_CARD), curves=curves)


def _same_returns(folder: Folder, submission: Submission, results: Results, board: Board) -> bool:
    """Whether every run has its trace; Fault where a result is not that of its run, or its return not the trace's."""
    check_rules(submission, folder.sha256())
    check_runs(submission, board)
    check_results(results, submission, board)
    names = folder.traces()
    if names != [f"traces/run_{index:03d}.npz" for index in range(len(submission.runs))]:
        return False
    chosen = spec(board.benchmark)
    trials = chosen.table().size(board.split) * board.repeats
    for name, result in zip(names, results.results, strict=True):
        if (read_returns(folder.path / name, trials, chosen.horizon, board.episodes) != result.trials()).any():
            raise Fault(f"{name} has other returns than result.json")
    return True


def _told_rightly(
    found: Verification, folder: Folder, submission: Submission, results: Results, board: Board, traced: bool
) -> bool:
    """Whether a record says what the entry's own files say, and no more than they can show."""
    if not set(flags(submission, results, board)) <= set(found.flags):
        return False
    if found.tier == "claimed" or not traced:
        return found.tier == "claimed"
    if found.tier == "replayed":
        return True
    try:
        rerunnable(folder, submission)
    except Fault:
        return False
    if found.rerun is None:
        return False
    judged = np.stack([result.array() for result in results.results])[..., TRACKS[submission.track].judged]
    return bool(np.isclose(found.rerun.submitted, iqm(judged.mean(axis=(2, 3))), rtol=1e-9, atol=1e-9))


def _since(entry: Entry) -> tuple[bool, datetime.datetime, datetime.date, str]:
    """Since when an entry is known: by when the verifier saw it first, not by its own date."""
    s, found = entry.submission, entry.verification
    never = datetime.datetime.max.replace(tzinfo=datetime.UTC)
    return s.rules > 1, found.since if found else never, s.date, s.id


def rank(board: Board, track: TrackName, entries: Sequence[Entry]) -> Table:
    """The table of one track.

    Ranked are entries that were replayed or reproduced, have enough runs, used no test task, and are their agent's
    newest with that version. Those that were reproduced stand above those that were only replayed, whatever the scores:
    nobody else can run the latter. Within a tier, the score is the IQM over runs x tasks of the episodes the track
    judges; with the metric data-efficiency, those that reach the board's target come first, by the environment steps of
    their training, of which the runs' own logs must be there.
    """
    levels = reference_levels(board.benchmark, board.split)
    scaled = {"random", "oracle"} <= levels.keys() and levels["oracle"] > levels["random"]
    mine = [e for e in entries if e.submission.board == board.id and e.submission.track == track]
    newest: dict[tuple[str, str], Entry] = {}
    for entry in sorted(mine, key=lambda e: (e.submission.date, e.submission.id)):
        if entry.tier != "claimed" and not entry.foreign:
            newest[entry.submission.agent, entry.submission.version] = entry
    rows = [_row(board, track, entry, levels, scaled, newest) for entry in mine]
    ranked = sorted((row for row in rows if not row.why_unranked), key=lambda row: _order(board, row))
    rest = sorted((row for row in rows if row.why_unranked), key=lambda row: (-row.score.estimate, row.entry.sha256))
    placed = tuple(row._replace(rank=place) for place, row in enumerate(ranked, 1))
    return Table(board, track, scaled, levels, placed, tuple(rest))


def _order(board: Board, row: Row) -> tuple[float, ...]:
    name = float(int(row.entry.sha256[:8], 16))  # a tie is broken the same way every time
    tier = float(row.entry.tier != "reproduced")
    if board.metric == "data-efficiency" and row.reached:
        return (tier, 0.0, row.entry.submission.training.env_steps, -row.score.estimate, name)
    return (tier, 1.0, -row.score.estimate, -row.mean, name)


def _row(
    board: Board,
    track: TrackName,
    entry: Entry,
    yardsticks: Mapping[str, float],
    scaled: bool,
    newest: Mapping[tuple[str, str], Entry],
) -> Row:
    levels = yardsticks if scaled else None
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
        milestones=milestones(entry.curves, yardsticks),
    )


def _why_unranked(board: Board, entry: Entry, newest: Mapping[tuple[str, str], Entry]) -> str:
    submission = entry.submission
    if entry.tier == "claimed":
        return "claimed: not replayed"
    if submission.test_tasks != "none":
        return f"used test tasks for {submission.test_tasks}"
    if len(submission.runs) < board.min_runs:
        return f"{len(submission.runs)} runs, {board.min_runs} are needed"
    if entry.foreign:
        return entry.foreign
    if len(TRACKS[submission.track].sees) > 1 and entry.tier != "reproduced":
        return "shown the task for its demonstrations: ranked once its policies were played again"
    if (
        board.metric == "data-efficiency"
        and submission.trains
        and not any(TRAINING_NAME.match(n) for n in submission.files)
    ):
        return "the logs of its training are not there: its environment steps are a claim"
    newer = newest[submission.agent, submission.version]
    if newer is not entry:
        return f"superseded by {newer.submission.id}"
    return ""
