"""Plays submitted policies again on fresh seeds: does who reached these scores reach them once more?

The agent's code is the installed plug-in; from the submission come only weights (safetensors) and settings (JSON). It
runs in a process of its own, with bounds on memory and time: settings may ask for a network of any size.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from metabench.evaluation.evaluate import evaluate
from metabench.evaluation.results import played_as
from metabench.evaluation.stats import iqm
from metabench.evaluation.summary import reference_levels
from metabench.leaderboard.folder import Folder
from metabench.leaderboard.records import Board, Rerun, Results, Submission, evaluation_seed
from metabench.leaderboard.replay import Fault
from metabench.leaderboard.rules import check_played
from metabench.leaderboard.track import TRACKS
from metabench.plugins import agent_names, load_plugin, load_run
from metabench.rng import Array
from metabench.runs import CONFIG, POLICY, lay_out, parse_record

FALSE_ALARM = 0.01  # of a whole comparison: how often it may refuse the same policies
POWER = 0.9  # of which `Rerun.detectable` tells
TRIALS = 4  # of every run and task that are played again at least
_DRAWS = 1999  # permutations
_TESTS = 5  # in `compare`
_CHUNK = 2**20  # numbers permuted at a time
_SAME = 1e-3  # of the way from random to the oracle (or of the spread): what differs by less is called equal
_MEMORY = 16 * 2**30  # bytes that the process may ask for
_TAIL = {FALSE_ALARM / _TESTS / 2: 3.0902, 1 - POWER: 1.2816}  # standard normal quantiles
_CAP = 2.5758  # of the 99 % interval


def rerun(folder: Folder, submission: Submission, results: Results, board: Board, seed: int) -> Rerun:
    """Evaluates every run's policy again and compares.

    Args:
        folder: The submission, its files and hashes already checked.
        submission: Its record.
        results: What it says was reached.
        board: The board it belongs to.
        seed: Each run's evaluation seeds follow from this and the policy's hash.

    Raises:
        Fault: There is nothing to run, it takes more than the board allows, or what is reached differs.
    """
    rerunnable(folder, submission)
    before = np.stack([result.array() for result in results.results])
    rounds = -(-TRIALS // board.repeats)
    again = _apart(folder, board, seed, rounds)
    return compare(before, again, seed, TRACKS[submission.track].judged, scale_of(board), rounds)


def rerunnable(folder: Folder, submission: Submission) -> None:
    """Fault unless the entry has what it takes to be played again, as far as can be told without loading it."""
    if submission.plugin not in agent_names():
        raise Fault(f"the agent {submission.plugin or submission.agent!r} is not installed here: nothing to run again")
    policies = folder.policies()
    if submission.trains and any(
        policies.get(run, {}).keys() != {CONFIG, POLICY} for run in range(len(submission.runs))
    ):
        raise Fault("the policies are not part of the submission: nothing to run again")


def scale_of(board: Board) -> float:
    """The return that lies between random and the oracle; 0 where the benchmark has no such references."""
    levels = reference_levels(board.benchmark, board.split)
    return abs(levels["oracle"] - levels["random"]) if {"random", "oracle"} <= levels.keys() else 0.0


def compare(
    before: Array, again: Array, seed: int, judged: slice = slice(None), scale: float = 0.0, rounds: int = 1
) -> Rerun:
    """Compares returns `[run, task, repeat, episode]` with those of another evaluation, which may have more repeats.

    Under the same policy all trials of one run and task are alike, whichever evaluation they are from; so the labels
    "before" and "again" are drawn anew, 1999 times, within every run and task, and five differences are held against
    theirs, two-sided: of the rank's own statistic (IQM over runs and tasks of the judged episodes), of any one task,
    of any one run, of any one episode of a trial, and of all runs and tasks together. A policy is refused where one of
    the five is as rare as 0.2 %: the same policy is refused once in a hundred times.

    Args:
        before: What was submitted.
        again: What the policies reached on fresh seeds.
        seed: Of the re-run; kept in the record.
        judged: The episodes of a trial that the rank uses.
        scale: What counts as a large difference; differences below a thousandth of it count as none.
        rounds: How often the protocol was played again; kept in the record.

    Returns:
        Both statistics, the interval of their difference, and how small a difference would have been found.

    Raises:
        Fault: They differ by more than chance.
    """
    both = np.concatenate([before, again], axis=2)
    trials = np.concatenate([both[..., judged].mean(axis=-1, keepdims=True), both], axis=-1)  # judged, each episode
    slack = _SAME * (scale or max(float(np.ptp(both)), abs(float(both.mean())) * _SAME))
    even = np.ptp(trials, axis=2, keepdims=True) <= slack
    trials = np.where(even, trials.mean(axis=2, keepdims=True), trials)
    count = before.shape[2]
    own = np.zeros((1, *trials.shape[:2], trials.shape[2]), dtype=bool)
    own[..., :count] = True
    seen = _Differences.of(trials, own)
    draws = _Differences.drawn(trials, count)
    p, which = _smallest(seen, draws)
    spread = float(draws.rank.std())
    first, second = float(iqm(before[..., judged].mean(axis=(2, 3)))), float(iqm(again[..., judged].mean(axis=(2, 3))))
    if p <= FALSE_ALARM / _TESTS:
        raise Fault(
            f"played again on fresh seeds, the policies reach {second:.4g} instead of {first:.4g} (IQM): the two "
            f"differ {which}, p = {p:.2g}"
        )
    return Rerun(
        seed=seed,
        rounds=rounds,
        submitted=first,
        again=second,
        difference=(second - first - _CAP * spread, second - first + _CAP * spread),
        detectable=max(slack, sum(_TAIL.values()) * spread),
        p=p,
    )


class _Differences:
    """The differences before - again of one labelling of the trials, or of many."""

    def __init__(self, trials: Array, labels: Array):
        """`trials` `[run, task, trial, what]`, `labels` `[n, run, task, trial]` bool: before."""
        count, total = int(labels[0, 0, 0].sum()), trials.sum(axis=2)
        own = np.einsum("nrtk,rtkf->nrtf", labels.astype(np.float64), trials)
        one, other = own / count, (total - own) / (trials.shape[2] - count)
        cells = one - other
        self.rank = iqm(one[..., 0]) - iqm(other[..., 0])  # [n]
        self.tasks = cells[..., 0].mean(axis=1)  # [n, task]
        self.runs = cells[..., 0].mean(axis=2)  # [n, run]
        self.episodes = cells[..., 1:].mean(axis=(1, 2))  # [n, episode]
        self.cells = cells[..., 0].reshape(len(cells), -1)  # [n, run * task]

    @classmethod
    def of(cls, trials: Array, labels: Array) -> _Differences:
        """Of given labels."""
        return cls(trials, labels)

    @classmethod
    def drawn(cls, trials: Array, count: int) -> _Differences:
        """Of labels drawn anew within every run and task."""
        rng, shape = np.random.default_rng(0), trials.shape[:3]
        step = max(1, _CHUNK // int(np.prod(shape)))
        parts = []
        for start in range(0, _DRAWS, step):
            keys = rng.random((min(step, _DRAWS - start), *shape))
            parts.append(cls(trials, keys <= np.partition(keys, count - 1, axis=-1)[..., count - 1 : count]))
        joined = object.__new__(cls)
        for name in parts[0].__dict__:
            setattr(joined, name, np.concatenate([getattr(part, name) for part in parts]))
        return joined


def _smallest(seen: _Differences, draws: _Differences) -> tuple[float, str]:
    """The smallest of the p-values, and in words what differs there."""
    found = [(_share(np.abs(seen.rank), np.abs(draws.rank)), "in what the rank uses")]
    for name, words in (("tasks", "in task {}"), ("runs", "in run {}"), ("episodes", "in episode {} of a trial")):
        one, many = getattr(seen, name), getattr(draws, name)
        unit = _unit(many)
        size, sizes = np.abs(one) / unit, np.abs(many) / unit
        found.append((_share(size.max(axis=1), sizes.max(axis=1)), words.format(int(size[0].argmax()))))
    unit = _unit(draws.cells)
    size, sizes = ((part / unit) ** 2 for part in (seen.cells, draws.cells))
    found.append((_share(size.sum(axis=1), sizes.sum(axis=1)), "over all runs and tasks together"))
    return min(found, key=lambda one: one[0])


def _unit(draws: Array) -> Array:
    """The deviation of each column; 1 where it has none, for there all are alike."""
    deviation = draws.std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)


def _share(seen: Array, draws: Array) -> float:
    """How rare what was seen is among the draws, itself counted."""
    return float((1 + (draws >= seen[0] * (1 - 1e-9) - 1e-12).sum()) / (1 + len(draws)))


def _apart(folder: Folder, board: Board, seed: int, rounds: int) -> Array:
    """`[run, task, rounds * repeat, episode]` returns, played in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out.json"
        asked = {"folder": str(folder.path.absolute()), "board": board.model_dump(mode="json"), "seed": seed}
        asked |= {"rounds": rounds, "out": str(out)}
        (Path(name) / "asked.json").write_text(json.dumps(asked))
        with (Path(name) / "asked.json").open("rb") as told:
            process = subprocess.Popen(
                [sys.executable, "-m", "metabench.leaderboard.rerun"],
                stdin=told,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            process.wait(board.rerun_seconds)
        except subprocess.TimeoutExpired:
            raise Fault(
                f"the policies take more than the {board.rerun_seconds} seconds that the board {board.id} allows for "
                "playing them again"
            ) from None
        finally:
            _end(process)
        if not out.is_file():
            raise Fault(f"the policies cannot be played again: their process ended with {process.returncode}")
        answer = json.loads(out.read_text())
    if "fault" in answer:
        raise Fault(answer["fault"])
    return np.array(answer["returns"], dtype=np.float64)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process with all that it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def main() -> None:
    """The process that plays: reads on its standard input what, writes returns or a fault."""
    asked = json.load(sys.stdin)
    _bound()
    try:
        told: dict[str, Any] = {"returns": _play(asked).tolist()}
    except Fault as fault:
        told = {"fault": str(fault)}
    except Exception as error:  # weights and settings may be anything; the sentence is for the submitter
        words = " ".join(str(error).split())[:200]
        told = {"fault": f"the policies cannot be played again: {type(error).__name__}: {words}"}
    Path(asked["out"]).write_text(json.dumps(told))


def _bound() -> None:
    """Bounds the memory of this process, where the platform can."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY if hard < 0 else min(_MEMORY, hard), hard))


def _play(asked: dict[str, Any]) -> Array:
    folder, board = Folder(Path(asked["folder"])), Board.model_validate(asked["board"])
    submission, policies = folder.submission(), folder.policies()
    again = []
    for index, run in enumerate(submission.runs):
        rounds = []
        for nth in range(asked["rounds"]):
            fresh = evaluation_seed(f"{board.id}/{asked['seed']}/{nth}", run.policy_sha256, index)
            agent = _agent(submission, policies.get(index), board, run.train_seed, fresh)
            if not TRACKS[submission.track].allows(bool(getattr(agent, "privileged", False))):
                raise Fault(
                    f"the agent {submission.plugin} sees what the track {submission.track} does not show, or less"
                )
            check_played(index, played_as(agent), submission)
            rounds.append(evaluate(agent, board.played(fresh)).array())
        again.append(np.concatenate(rounds, axis=1))
    return np.stack(again)


def _agent(submission: Submission, files: Any, board: Board, train_seed: int | None, fresh: int) -> Any:
    plugin: Any = load_plugin(submission.plugin)
    if not submission.trains:
        if not hasattr(plugin, "build"):
            raise Fault(f"{submission.plugin} is an agent that trains, but was submitted as one that does not")
        return plugin.build(board.benchmark, board.split, fresh)
    try:
        run = parse_record(files[CONFIG])
    except ValueError:
        raise Fault(f"{CONFIG} of a policy is no training run's settings") from None
    told = (run.agent, run.benchmark, run.seed)
    if told != (submission.plugin, board.benchmark, train_seed):
        raise Fault(f"the policy is of the run {told}, not of {(submission.plugin, board.benchmark, train_seed)}")
    with tempfile.TemporaryDirectory() as name:
        lay_out(files, Path(name))
        try:
            return load_run(Path(name)).agent
        except Exception as error:  # as above
            raise Fault(f"the policy cannot be loaded: {type(error).__name__}: {str(error)[:200]}") from None


if __name__ == "__main__":
    main()
