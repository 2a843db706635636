"""Plays submitted policies again on fresh seeds: does who reached these scores reach them once more?

The agent's code is the installed plug-in; from the submission come only weights (safetensors) and settings (JSON).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from metabench.evaluation.evaluate import evaluate
from metabench.evaluation.stats import mean, stratified_bootstrap
from metabench.leaderboard.folder import Folder
from metabench.leaderboard.records import Board, Rerun, Results, Submission, evaluation_seed
from metabench.leaderboard.replay import Fault
from metabench.leaderboard.track import TRACKS
from metabench.plugins import agent_names, load_plugin, load_run
from metabench.runs import CONFIG, POLICY, lay_out, parse_record

CONFIDENCE = 0.99  # of the interval of the difference that must contain 0
_EQUAL = 1e-9  # relative: policies and benchmarks without chance give the same again


def rerun(folder: Folder, submission: Submission, results: Results, board: Board, seed: int) -> Rerun:
    """Evaluates every run's policy again and compares.

    Args:
        folder: The submission, its files and hashes already checked.
        submission: Its record.
        results: What it says was reached.
        board: The board it belongs to.
        seed: Each run's evaluation seed follows from this and the policy's hash.

    Raises:
        Fault: There is nothing to run, or what is reached differs: 0 lies outside the interval of the difference.
    """
    policies = folder.policies()
    again = []
    for index, run in enumerate(submission.runs):
        fresh = evaluation_seed(f"{board.id}/{seed}", run.policy_sha256, index)
        agent = _agent(submission, policies.get(index), board, run.train_seed, fresh)
        if not TRACKS[submission.track].allows(bool(getattr(agent, "privileged", False))):
            raise Fault(f"the agent {submission.plugin} sees what the track {submission.track} does not show, or less")
        again.append(evaluate(agent, board.played(fresh)).array())
    before = np.stack([result.array() for result in results.results])
    return compare(before, np.stack(again), seed)


def compare(before: Any, again: Any, seed: int) -> Rerun:
    """Of returns `[run, task, repeat, episode]`; Fault if they differ by more than chance."""
    difference = (again - before).mean(axis=(2, 3))
    interval = stratified_bootstrap(
        difference.reshape(-1, 1), np.random.default_rng(0), mean, confidence=CONFIDENCE
    )  # what differs between the two is the evaluation's chance only, so runs x tasks are one sample
    slack = _EQUAL * max(1.0, abs(float(before.mean())))
    if not interval.low - slack <= 0.0 <= interval.high + slack:
        raise Fault(
            f"played again on fresh seeds, the policies reach {again.mean():.4g} instead of {before.mean():.4g}; "
            f"the difference lies between {interval.low:+.4g} and {interval.high:+.4g}"
        )
    return Rerun(
        seed=seed,
        submitted=float(before.mean()),
        again=float(again.mean()),
        difference=(interval.low, interval.high),
    )


def _agent(submission: Submission, files: Any, board: Board, train_seed: int | None, fresh: int) -> Any:
    if submission.plugin not in agent_names():
        raise Fault(f"the agent {submission.plugin or submission.agent!r} is not installed here: nothing to run again")
    plugin: Any = load_plugin(submission.plugin)
    if not submission.trains:
        if not hasattr(plugin, "build"):
            raise Fault(f"{submission.plugin} is an agent that trains, but was submitted as one that does not")
        return plugin.build(board.benchmark, board.split, fresh)
    if files is None or set(files) != {CONFIG, POLICY}:
        raise Fault("the policies are not part of the submission: nothing to run again")
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
        except Exception as error:  # weights and settings may be anything; the sentence is for the submitter
            raise Fault(f"the policy cannot be loaded: {type(error).__name__}: {str(error)[:200]}") from None
