"""What a board asks of an entry before anything is played: a submitter is told in the words of the verifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metabench.evaluation.evaluate import versions
from metabench.evaluation.results import PlayedAs, played_as
from metabench.leaderboard.records import Board, Submission
from metabench.leaderboard.replay import Fault
from metabench.leaderboard.track import TRACKS
from metabench.registry import spec
from metabench.runs import policy_sha256


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


def check_policies(policies: Mapping[int, Mapping[str, bytes]], submission: Submission) -> None:
    """Fault unless policies are published of all runs or of none, and are those whose hashes are declared."""
    if not policies:
        return
    if sorted(policies) != list(range(len(submission.runs))):
        raise Fault(f"there are policies of the runs {sorted(policies)}, but {len(submission.runs)} runs")
    for index, run in enumerate(submission.runs):
        if policy_sha256(policies[index]) != run.policy_sha256:
            raise Fault(f"the policy of run {index} is not the one whose sha256 is declared")
