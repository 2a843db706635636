"""Verifies a submission: every number is recomputed from its traces, every piece of them replayed in the simulator."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabench.evaluation.evaluate import versions
from metabench.evaluation.results import Result, write_atomically
from metabench.evaluation.stats import normalise
from metabench.evaluation.summary import reference_levels
from metabench.evaluation.traces import Trace, read_header, spec_digest
from metabench.leaderboard.folder import MAX_CARD, Folder
from metabench.leaderboard.keys import fits
from metabench.leaderboard.records import (
    CARD,
    RESULT,
    VERIFICATION,
    Board,
    Check,
    Rerun,
    Results,
    Submission,
    Tier,
    Verification,
    board_of,
    dump,
    evaluation_seed,
)
from metabench.leaderboard.replay import Fault, replay
from metabench.leaderboard.rerun import rerun, rerunnable
from metabench.leaderboard.rules import (
    check_board,
    check_names,
    check_played,
    check_policies,
    check_rules,
    check_runs,
    check_shown,
    check_training,
)
from metabench.registry import Spec, spec
from metabench.rng import Array

TOO_GOOD = 1.02  # a score above this is worth a look: the oracle has 1
COPY = 1e-6  # returns that all differ by less, relative above 1, are the same steps
_VOID = f"{VERIFICATION} is void: it is of another content, or was edited, or is an old one"
_LONGEST = 600  # letters of a fault: what is wrong may quote what somebody wrote

Progress = Callable[[int, int], None]  # (steps replayed, of how many)


class Verdict(NamedTuple):
    """What a verification found."""

    folder: Path
    checks: tuple[Check, ...]  # what was found in order, up to the first fault
    fault: str  # the first fault, in words; empty if there is none
    tier: Tier  # claimed where there is a fault, or no evidence
    flags: tuple[str, ...]
    rerun: Rerun | None
    submission: Submission | None
    sha256: str = ""  # of the submission.json that was read

    @property
    def accepted(self) -> bool:
        """Whether the evidence proves the scores."""
        return not self.fault and self.tier != "claimed"


def verify(
    path: Path,
    boards: Mapping[str, Board],
    *,
    rerun_seed: int | None = None,
    optional: bool = False,
    progress: Progress | None = None,
) -> Verdict:
    """Verifies the submission in folder `path`, which may come from anybody.

    Args:
        path: The folder; it is read, nothing in it is executed.
        boards: The boards it may belong to.
        rerun_seed: Also plays the submitted policies again, with seeds that follow from this number. Every agent's code
            is the installed one; only weights and settings are the submission's. A verification.json that claims the
            tier reproduced is checked so by default, with its own seed.
        optional: Whether an entry without policies that can be played again is only replayed, instead of refused.
        progress: Called with the steps replayed so far and in all.

    Returns:
        The checks made and the first fault in words. There is no exception for anything a submission may contain.
    """
    work = _Verification(path, boards, progress or (lambda done, total: None))
    try:
        work.run()
        fault, tier = "", ("replayed" if work.traced else "claimed")
        if rerun_seed is None:
            rerun_seed = work.recorded_seed()
        if rerun_seed is not None and not (optional and work.nothing_to_run()):
            work.again(rerun_seed)
            tier = "reproduced"
        work.finish()
    except Fault as error:
        fault, tier = _clipped(str(error)), "claimed"
    except (ValueError, ImportError, OSError, MemoryError, RecursionError, OverflowError) as error:
        fault, tier = _clipped(f"it cannot be verified: {type(error).__name__}: {str(error)[:300]}"), "claimed"
    return Verdict(path, tuple(work.checks), fault, tier, tuple(work.flags), work.rerun, work.submission, work.sha256)


def record(verdict: Verdict) -> Path:
    """Writes verification.json beside what was verified, and removes what a killed writer left there.

    The time of the first verification of the same content stays.

    Raises:
        ValueError: It was not accepted, or was changed since.
    """
    if not verdict.accepted:
        raise ValueError(f"{verdict.folder.name} was not accepted: {verdict.fault or 'it has no traces'}")
    folder = Folder(verdict.folder)
    if folder.sha256() != verdict.sha256 or folder.hashes() != (verdict.submission and verdict.submission.files):
        raise ValueError(f"{verdict.folder.name} was changed while it was verified; verify it again")
    folder.clean()
    before = folder.verification()
    found = Verification(
        submission_sha256=verdict.sha256,
        since=before.since if before else datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        tier=verdict.tier,
        checks=verdict.checks,
        flags=tuple(flag for flag in verdict.flags if flag != _VOID),  # it is replaced now
        rerun=verdict.rerun,
        versions=versions(),
    )
    target = verdict.folder / VERIFICATION
    write_atomically(target, dump(found.sealed()))
    return target


def _clipped(sentence: str) -> str:
    line = " ".join(sentence.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


class _Verification:
    """The checks in the order of their cost; each raises Fault or adds to `checks`."""

    def __init__(self, path: Path, boards: Mapping[str, Board], progress: Progress):
        self.path, self.boards, self.progress = path, boards, progress
        self.checks: list[Check] = []
        self.flags: list[str] = []
        self.submission: Submission | None = None
        self.sha256 = ""
        self.rerun: Rerun | None = None
        self.traced = False

    def found(self, name: str, what: str) -> None:
        self.checks.append(Check(name=name, found=what))

    def run(self) -> None:
        folder = Folder(self.path)
        self.folder = folder
        self.sha256 = folder.sha256()
        self.submission = submission = folder.submission()
        self._files(folder, submission)
        board = self._board(submission)
        check_rules(submission, self.sha256)
        self._runs(submission, board)
        self._policies(folder, submission, board)
        results = folder.results()
        self._results(results, submission, board)
        self.results, self.board = results, board
        if folder.traces():
            self._traces(folder, submission, results, board)
        else:
            self.found("traces", "none: the scores are a claim")
        self.flags += flags(submission, results, board)

    def recorded_seed(self) -> int | None:
        """The seed of the re-run that the folder's own verification.json speaks of, if it does."""
        record = self.folder.verification()
        if record is None or record.tier != "reproduced":
            return None
        if record.rerun is None:
            raise Fault(f"{VERIFICATION} says reproduced and names no re-run")
        return record.rerun.seed

    def finish(self) -> None:
        """What is looked at last: names, and whether the folder's own record says what was found."""
        assert self.submission is not None
        check_names(self.submission)
        self.flags += lookalikes(self.path, self.submission, self.results)
        record = self.folder.verification()
        if record is None:
            if VERIFICATION in self.folder.names:
                self.flags.append(_VOID)
            return
        told, found = record.rerun, self.rerun
        if told is not None and found is not None and told.seed == found.seed:
            for name in ("submitted", "again"):
                one, other = getattr(told, name), getattr(found, name)
                if abs(one - other) > max(found.detectable, COPY * max(1.0, abs(other))):
                    raise Fault(f"{VERIFICATION} says {name} {one:.6g} of the re-run, and it is {other:.6g}")

    def nothing_to_run(self) -> bool:
        """Whether there is nothing to be played again; the checks then say why."""
        assert self.submission is not None
        try:
            rerunnable(self.folder, self.submission)
        except Fault as fault:
            self.found("re-run", f"none: {fault}")
            return True
        return not self.traced

    def again(self, seed: int) -> None:
        assert self.submission is not None
        if not self.traced:
            raise Fault("there are no traces: what was not replayed cannot be reproduced")
        self.rerun = rerun(self.folder, self.submission, self.results, self.board, seed)
        low, high = self.rerun.difference
        self.found(
            "re-run",
            f"{self.rerun.again:.2f} against {self.rerun.submitted:.2f}; the difference is {low:+.2f} to {high:+.2f}",
        )

    def _files(self, folder: Folder, submission: Submission) -> None:
        count = check_files(folder, submission)
        folder.text(CARD, MAX_CARD)
        self.found("files", f"{count} files, every sha256 as declared, no links")

    def _board(self, submission: Submission) -> Board:
        board = board_of(self.boards, submission.board)
        check_board(submission, board)
        if board.superseded_by:
            self.flags.append(f"the board is superseded by {board.superseded_by}")
        self.found(
            "board", f"{board.id}: {board.benchmark}, split {board.split}, track {submission.track}; versions as pinned"
        )
        return board

    def _runs(self, submission: Submission, board: Board) -> None:
        check_runs(submission, board)
        runs = submission.runs
        self.found("runs", f"{len(runs)}, none left out" if submission.trains else f"{len(runs)} repetitions")

    def _policies(self, folder: Folder, submission: Submission, board: Board) -> None:
        policies = folder.policies()
        check_training(folder.training(), policies, submission)
        if not policies:
            self.found("policies", "only their sha256: they are not part of the submission")
            return
        check_policies(policies, submission, board)
        self.found("policies", f"{len(policies)}, every sha256 as declared")

    def _results(self, results: Results, submission: Submission, board: Board) -> None:
        check_results(results, submission, board)
        self.found("results", f"{len(results.results)}, with the seeds that follow from the policies' hashes")

    def _traces(self, folder: Folder, submission: Submission, results: Results, board: Board) -> None:
        names = folder.traces()
        if names != [f"traces/run_{index:03d}.npz" for index in range(len(submission.runs))]:
            raise Fault(f"there are {len(names)} traces, but {len(submission.runs)} runs: each run needs its own")
        chosen = spec(board.benchmark)
        trials = chosen.table().size(board.split) * board.repeats
        most = trials * board.episodes * chosen.horizon * len(names)
        steps, pieces, state_error, reward_error, done = 0, 0, 0.0, 0.0, 0
        actions: list[bytes] = []
        for index, name in enumerate(names):
            try:
                self._protocol(folder.path / name, results.results[index], board)
                trace = _load(folder.path / name, trials, chosen, board)
                self._header(trace, index, submission, chosen)
                _same_scores(trace, results.results[index])

                def tell(count: int, start: int = done) -> None:
                    nonlocal done
                    done += count
                    self.progress(done, most)

                seen = replay(trace, tell)
            except Fault as fault:
                raise Fault(f"run {index}: {fault}") from None
            steps, pieces = steps + seen.steps, pieces + seen.pieces
            state_error, reward_error = max(state_error, seen.state_error), max(reward_error, seen.reward_error)
            actions.append(trace.actions.tobytes())
        if submission.trains and len(set(actions)) < len(actions):
            self.flags.append("two runs did exactly the same")
        self.traced = True
        self.found("scores", "recomputed from the rewards, every return equal")
        self.found(
            "replay",
            f"{steps:,} steps in {pieces:,} pieces; states within {state_error:.1e}, rewards within {reward_error:.1e}",
        )

    def _protocol(self, path: Path, result: Result, board: Board) -> None:
        """Before anything is read whose size the trace itself tells."""
        header = _fault(lambda: read_header(path))
        _same_protocol("the trace", header.protocol, result.protocol)
        _same_digest("the trace", header.task_digest, board)

    def _header(self, trace: Trace, index: int, submission: Submission, chosen: Spec) -> None:
        if trace.header.spec_digest != spec_digest(chosen):
            raise Fault(f"the trace is of another version of {chosen.id} than the installed one")
        check_shown(index, trace.header.privileged, submission)


def check_files(folder: Folder, submission: Submission) -> int:
    """How many files an entry has; Fault unless it lies where it belongs and every file is the declared one."""
    here = Path(*folder.path.absolute().parts[-3:])
    if here != submission.place:
        raise Fault(f"the folder is {here}, but its content belongs into {submission.place}")
    hashes = folder.hashes()
    for name in sorted({*hashes, *submission.files}):
        if name not in hashes:
            raise Fault(f"{name[:120]} is declared and missing")
        if name not in submission.files:
            raise Fault(f"{name[:120]} is there and not declared")
        if hashes[name] != submission.files[name]:
            raise Fault(f"{name} is not the file whose sha256 is declared: it was changed afterwards")
    return len(hashes)


def check_results(results: Results, submission: Submission, board: Board) -> None:
    """Fault unless every run has its result, played as the board asks with the seed that follows from its policy."""
    if len(results.results) != len(submission.runs):
        raise Fault(f"{RESULT} has {len(results.results)} results, but {len(submission.runs)} runs are declared")
    for index, (result, run) in enumerate(zip(results.results, submission.runs, strict=True)):
        played = board.played(evaluation_seed(board.id, run.policy_sha256, index, submission.rules))
        _same_protocol(f"the result of run {index}", result.protocol, played)
        _same_digest(f"the result of run {index}", result.task_digest, board)
        if result.track == "oracle":
            check_shown(index, True, submission)
        check_played(index, result.track, submission)
        if result.train_seed != run.train_seed:
            raise Fault(f"the result of run {index} has the training seed {result.train_seed}, not {run.train_seed}")
        if wrong := board.broken_pin(result.versions):
            raise Fault(f"run {index} was evaluated with {wrong}")
        count = spec(board.benchmark).table().size(board.split)
        if len(result.returns) != count:
            raise Fault(f"the result of run {index} has {len(result.returns)} tasks, the split has {count}")


def flags(submission: Submission, results: Results, board: Board) -> list[str]:
    """What a person should look at, told by the records alone; no fault by itself."""
    found: list[str] = []
    levels = reference_levels(board.benchmark, board.split)
    returns = np.stack([result.array() for result in results.results])
    if {"random", "oracle"} <= levels.keys():
        first = float(normalise(returns[..., 0].mean(), levels["random"], levels["oracle"]))
        score = float(normalise(returns.mean(), levels["random"], levels["oracle"]))
        if score > TOO_GOOD:
            found.append(f"the mean score is {score:.3f}: better than the oracle")
        elif board.episodes > 1 and first > TOO_GOOD:
            found.append(f"the first episode scores {first:.3f}: better than the oracle, before any experience")
    if submission.test_tasks != "none":
        found.append(f"tasks of evaluation splits were used for {submission.test_tasks}")
    if submission.trains:
        for one in range(len(returns)):
            for other in range(one + 1, len(returns)):
                if same_returns(returns[one], returns[other]):
                    found.append(f"the runs {one} and {other} have the same returns in every trial")
    if submission.signature and not fits(submission.author_key, submission.signature, submission.signed):
        found.append("the signature is not that of the author's key: the entry counts as unsigned")
    return found


def lookalikes(path: Path, submission: Submission, results: Results) -> list[str]:
    """Flags for runs that reached in every trial what a run of another agent's entry beside this one did."""
    if not submission.trains:
        return []
    found = []
    for other in sorted(path.absolute().parents[1].glob("*/*")):
        try:
            folder = Folder(other)
            told = folder.submission()
            if not told.trains or told.agent == submission.agent:
                continue
            theirs = [result.array() for result in folder.results().results]
        except (ValueError, OSError):
            continue  # what cannot be read is not judged here
        for run, result in enumerate(results.results):
            same = [k for k, returns in enumerate(theirs) if same_returns(result.array(), returns)]
            if same:
                found.append(f"run {run} has the returns of run {same[0]} of {told.agent} ({told.id}) in every trial")
    return found


def same_returns(one: Array, other: Array) -> bool:
    """Whether all returns are the same but for what a replay lets pass."""
    return one.shape == other.shape and bool((np.abs(one - other) <= COPY * np.maximum(1.0, np.abs(one))).all())


def _load(path: Path, trials: int, chosen: Spec, board: Board) -> Trace:
    return _fault(lambda: Trace.load(path, trials, chosen.horizon, board.episodes))


def _fault(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ValueError as error:
        raise Fault(str(error)) from None


def _same_protocol(what: str, found: object, wanted: object) -> None:
    told, asked = dict(found), dict(wanted)  # pyright: ignore[reportCallIssue, reportArgumentType]
    for name, value in asked.items():
        if told[name] != value:
            why = ", which follows from the policy's hash" if name == "seed" else ""
            raise Fault(f"{what} was played with {name} {told[name]!r}; the board asks for {value!r}{why}")


def _same_digest(what: str, found: str, board: Board) -> None:
    if found != board.task_digest:
        raise Fault(f"{what} has the table digest {found[:12]}; the tasks of {board.id} have {board.task_digest[:12]}")


def _same_scores(trace: Trace, result: Result) -> None:
    own, told = trace.returns(), result.trials()
    if (own != told).any():
        trial, episode = (int(i) for i in np.argwhere(own != told)[0])
        task, repeat = divmod(trial, result.protocol.repeats)
        raise Fault(
            f"task {task}, repeat {repeat}, episode {episode}: {RESULT} has the return {told[trial, episode]:.9g}, "
            f"the trace's rewards add up to {own[trial, episode]:.9g}"
        )
    won = None if result.successes is None else np.array(result.successes).reshape(own.shape)
    if (won is None) != (trace.successes is None) or (won is not None and (won != trace.successes).any()):
        raise Fault(f"{RESULT} has other successes than the trace")


def fresh_seed() -> int:
    """A seed nobody could have known: 128 bits of the system's randomness."""
    return secrets.randbits(128)
