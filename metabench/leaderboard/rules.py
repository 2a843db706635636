"""What a board asks of an entry before anything is played: a submitter is told in the words of the verifier."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from metabench.evaluation.evaluate import versions
from metabench.evaluation.results import PlayedAs, played_as
from metabench.leaderboard.logs import read_log
from metabench.leaderboard.records import Board, Submission, kept
from metabench.leaderboard.replay import Fault
from metabench.leaderboard.track import TRACKS
from metabench.plugins import agent_names
from metabench.registry import spec
from metabench.rng import Array
from metabench.runs import CONFIG, POLICY, open_tensors, parse_record, policy_sha256, raw_policy_sha256, state_of

NEAR, MOVED = 1e-2, 0.5  # two trainings from different seeds differ by more than 1 % in 96 to 99 % of their numbers
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_RECORD = {"agent", "benchmark", "seed", "protocol", "config"}  # what a run's record has


def check_rules(submission: Submission, sha256: str) -> None:
    """Fault unless an entry was made under the rules that are in force, or is one that keeps the first.

    Args:
        submission: The record.
        sha256: Of its file; empty before there is one.
    """
    if submission.rules == 1 and sha256 not in kept():
        raise Fault(
            "it was made under the first rules, which only the entries keep that were on the boards before the second: "
            "submit it again"
        )
    latest = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)  # somewhere it is tomorrow
    if submission.date > latest:
        raise Fault(f"it is dated {submission.date}, which lies in the future")


def check_names(submission: Submission) -> None:
    """Fault where an entry has another agent's name, or one that does not train a hash of the submitter's choice."""
    if submission.agent != submission.plugin and submission.agent in agent_names():
        raise Fault(
            f"{submission.agent} is the name of a plug-in, and the entry is played by "
            f"{submission.plugin or 'another agent'}: choose another name"
        )
    if submission.rules > 1 and not submission.trains and submission.plugin in agent_names():
        asked = untrained_sha256(submission.plugin, submission.versions.get("metabench", ""))
        if any(run.policy_sha256 != asked for run in submission.runs):
            raise Fault(f"the sha256 of an agent that does not train follows from its name: {asked[:12]}...")


def untrained_sha256(plugin: str, version: str) -> str:
    """What stands for the policy of an agent that does not train."""
    return hashlib.sha256(json.dumps(["untrained", plugin, version]).encode()).hexdigest()


def check_board(submission: Submission, board: Board) -> None:
    """Fault unless track, tasks and versions are the board's."""
    if submission.track not in board.tracks:
        raise Fault(f"the board {board.id} has no track {submission.track}; it has {', '.join(board.tracks)}")
    chosen = spec(board.benchmark)
    if chosen.table().digest(board.split) != board.task_digest:
        raise Fault(f"the installed tasks of {chosen.id} are not the board's: another table digest")
    if wrong := board.broken_pin(submission.versions):
        raise Fault(f"it was evaluated with {wrong}")
    if wrong := board.broken_pin(versions()):
        raise Fault(f"this machine has {wrong}: it cannot verify the submission")


def check_runs(submission: Submission, board: Board) -> None:
    """Fault unless all runs are there, none twice, and enough."""
    runs, seeds = submission.runs, [run.train_seed for run in submission.runs]
    if submission.trains:
        if None in seeds:
            raise Fault("a run of an agent that trains has no training seed")
        if sorted(seeds) != list(range(len(seeds))):  # pyright: ignore[reportArgumentType]
            raise Fault(
                f"the training seeds are {', '.join(str(s) for s in seeds)}; all runs of a sweep must be there, "
                f"with the seeds 0 to {len(seeds) - 1}: no choice of the best"
            )
        if submission.rules > 1 and seeds != sorted(seeds):  # pyright: ignore[reportArgumentType]
            raise Fault("the runs stand in another order than that of their training seeds")
        if len({run.policy_sha256 for run in runs}) < len(runs):
            raise Fault("two runs have the same policy: a run stands twice")
    elif any(seed is not None for seed in seeds) or len({run.policy_sha256 for run in runs}) > 1:
        raise Fault("the runs of an agent that does not train are repetitions of one policy, without training seeds")
    if len(runs) < board.min_runs:
        raise Fault(f"there are {len(runs)} runs; the board {board.id} asks for at least {board.min_runs}")


def check_shown(index: int, privileged: bool, submission: Submission) -> None:
    """Fault if a run's agent was shown the hidden task where its track does not, or the other way round."""
    if not TRACKS[submission.track].allows(privileged):
        shown = "was shown the hidden task (a privileged observation)"
        shown = shown if privileged else "was not shown the hidden task"
        raise Fault(f"run {index}: the agent {shown}, which does not go with the track {submission.track}")


def check_played(index: int, played: PlayedAs, submission: Submission) -> None:
    """Fault if a run was played as agents of another track are."""
    if played != TRACKS[submission.track].played_as:
        raise Fault(f"run {index} was played as {played}, which does not go with {submission.track}")


def check_agent(index: int, agent: Any, submission: Submission, board: Board) -> None:
    """Fault if an agent may not enter: it is of another track, or was trained for another protocol than is played.

    A trial of one episode looks the same under every version of the protocol, so there any will do.
    """
    check_shown(index, bool(getattr(agent, "privileged", False)), submission)
    check_played(index, played_as(agent), submission)
    told = getattr(agent, "protocol", board.protocol)
    if told != board.protocol and board.episodes > 1:
        other = f"; enter {board.superseded_by}" if board.superseded_by else ""
        raise Fault(
            f"run {index}: the agent was trained under the protocol {told}, and the board {board.id} is played under "
            f"{board.protocol}{other}"
        )


def check_policies(policies: Mapping[int, Mapping[str, bytes]], submission: Submission, board: Board) -> None:
    """Fault unless policies are published of all runs or of none, and are those whose hashes are declared."""
    if not policies:
        return
    if sorted(policies) != list(range(len(submission.runs))):
        raise Fault(f"there are policies of the runs {sorted(policies)}, but {len(submission.runs)} runs")
    sha256 = raw_policy_sha256 if submission.rules == 1 else policy_sha256
    for index, run in enumerate(submission.runs):
        size = sum(len(content) for content in policies[index].values())
        if size > board.max_policy_bytes:
            raise Fault(
                f"the policy of run {index} has {size:,} bytes, more than the {board.max_policy_bytes:,} of the board"
            )
        if sha256(policies[index]) != run.policy_sha256:
            raise Fault(f"the policy of run {index} is not the one whose sha256 is declared")
    if submission.trains:
        _check_different(policies)
    if submission.rules > 1:
        for index in policies:
            _check_plain(index, policies[index])
            if submission.plugin in agent_names():
                _check_algorithm(index, policies[index], submission, board)


def _check_algorithm(index: int, files: Mapping[str, bytes], submission: Submission, board: Board) -> None:
    """Fault where a policy that goes by a plug-in's name tells of another algorithm, benchmark or run."""
    try:
        run = parse_record(files[CONFIG]) if CONFIG in files else None
    except ValueError as error:
        raise Fault(f"run {index}: {error}") from None
    told = (run.agent, run.benchmark, run.seed) if run else None
    asked = (submission.plugin, board.benchmark, submission.runs[index].train_seed)
    if told != asked:
        raise Fault(f"the policy of run {index} is of the run {told}, not of {asked}")


def _check_plain(index: int, files: Mapping[str, bytes]) -> None:
    """Fault where a policy's files say more than what a policy is: room for anything that its hash does not cover."""
    if CONFIG in files:
        told = _json(files[CONFIG])
        more = sorted(told.keys() - _RECORD) if isinstance(told, dict) and "agent" in told else []
        if more:
            raise Fault(f"{CONFIG} of run {index} has {more[0][:60]!r}, which the record of no run has")
    if POLICY in files:
        head = _head(index, files)
        more = sorted(head.get("__metadata__", {}).keys() - {"state"})
        if more:
            raise Fault(f"{POLICY} of run {index} has the metadata {more[0][:60]!r}, which no policy has")


def _head(index: int, files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        return open_tensors(files[POLICY])[0]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise Fault(f"the tensors of run {index} are no safetensors file") from None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _check_different(policies: Mapping[int, Mapping[str, bytes]]) -> None:
    """Fault where two runs have the same weights, or nearly: other seeds lead elsewhere."""
    weights = {index: _weights(index, files) for index, files in policies.items() if POLICY in files}
    for (i, one), (j, other) in itertools.combinations(weights.items(), 2):
        if len(one) != len(other):
            continue
        with np.errstate(invalid="ignore"):  # masks hold infinities
            moved = np.abs(one - other) > NEAR * np.maximum(np.abs(one), np.abs(other))
        if len(one) and moved.mean() < MOVED:
            raise Fault(f"the runs {i} and {j} have the same weights, or nearly: a run stands twice")


def _weights(index: int, files: Mapping[str, bytes]) -> Array:
    """`[N]` all floating-point numbers of a policy, by the tensors' names."""
    try:
        head, data = open_tensors(files[POLICY])
        parts = []
        for name in sorted(head.keys() - {"__metadata__"}):
            begin, end = head[name]["data_offsets"]
            content = data[begin:end]
            if head[name]["dtype"] == "BF16":
                parts.append((np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4"))
            elif kind := _FLOATS.get(head[name]["dtype"]):
                parts.append(np.frombuffer(content, kind))
            else:
                parts.append(np.frombuffer(content, np.uint8))
        return np.concatenate([part.astype(np.float64) for part in parts]) if parts else np.zeros(0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise Fault(f"the tensors of run {index} are no safetensors file") from None


def check_training(
    logs: Mapping[int, str], policies: Mapping[int, Mapping[str, bytes]], submission: Submission
) -> None:
    """Fault where the runs' logs, or the counters saved with their weights, do not go with what is declared.

    Both are the submitter's own words: they show what was forgotten or changed in one place, not what was made up.
    """
    declared = submission.training.env_steps
    if logs and sorted(logs) != list(range(len(submission.runs))):
        raise Fault(f"there are logs of the runs {sorted(logs)}, but {len(submission.runs)} runs")
    for index, text in logs.items():
        frames, iteration = _read_log(index, text)
        if frames > declared and not submission.training.datasets:
            raise Fault(f"the log of run {index} tells of {frames:,} environment steps; {declared:,} are declared")
        saved = _iteration(policies.get(index, {}))
        if saved is not None and iteration is not None and saved > iteration:
            raise Fault(f"the weights of run {index} are of iteration {saved}; its log ends with iteration {iteration}")
    if submission.trains and TRACKS[submission.track].must_explore:
        for index, files in policies.items():
            if (saved := _iteration(files)) is not None and saved > declared:
                raise Fault(
                    f"the weights of run {index} are of iteration {saved}, which {declared:,} environment steps do not "
                    "reach"
                )


def _read_log(index: int, text: str) -> tuple[int, int | None]:
    """Environment steps and iteration at the end of a log."""
    rows = read_log(index, text)
    frames = [row["frames"] for row in rows if "frames" in row]
    iterations = [row["iteration"] for row in rows if "iteration" in row]
    return (frames[-1] if frames else 0), (iterations[-1] if iterations else None)


def _iteration(files: Mapping[str, bytes]) -> int | None:
    """The iteration that a policy's weights were saved after, where they tell."""
    try:
        found = state_of(open_tensors(files[POLICY])[0].get("__metadata__", {})).get("iteration")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    return found if type(found) is int else None
