"""What the benchmark asks of an agent: a stream goes in, actions come out, all memory is in the belief."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from metabench.rng import Array

Belief = TypeVar("Belief")


class Timestep(NamedTuple):
    """One tick of B trials that advance together; the only thing an agent ever sees. The arrays are its own.

    Where an episode begins (`first`), `action` and `reward` are those that ended the trial's previous episode, and
    `final` is the observation it ended in; at the trial's own start all three are zero.
    """

    observation: Array  # [B, O] what the agent sees now
    action: Array  # [B] or [B, A] the last action: it led here, or it ended the episode before
    reward: Array  # [B] the reward that came with it
    first: Array  # [B] bool: an episode starts here; the task has not changed since the trial began
    final: Array  # [B, O] where `first`: the observation in which the episode before ended; zeros elsewhere


class Agent(Protocol[Belief]):
    """An adapted or adapting policy.

    An optional attribute ``privileged = True`` declares that the agent must see the hidden task:
    the evaluator then appends the context to its observation and files the result under the oracle track.
    An optional attribute ``track`` says otherwise: "offline" for agents that learned from data alone, "prompt-k" for
    those that are shown demonstrations of the task (which they find by the context).
    An optional attribute ``protocol`` names the version of the protocol it was trained under, "slots-1" for instance:
    it is played so unless the caller says otherwise.
    """

    def begin(self, num_trials: int) -> Belief:
        """The belief before anything has been seen, for `num_trials` independent trials."""
        ...

    def act(self, step: Timestep, belief: Belief) -> tuple[Array, Belief]:
        """Actions `[B]` or `[B, A]` for this tick, and the belief after it. Must not modify `belief`."""
        ...


@runtime_checkable
class Algorithm(Protocol):
    """What a learning plug-in offers; a module satisfies it, so the plug-in is the file you read.

    It may have a `Run` of its own, called as `Run(folder, show=True)`: a `metabench.runs.Run` with checkpoints of its
    kind. A plug-in without one is handed a `metabench.runs.Run`.
    """

    Config: type  # a frozen dataclass, a comment per field

    def train(self, benchmark: str, config: Any, *, seed: int, run: Any) -> Agent[Any]:
        """Trains on the benchmark's `train` split and returns the agent to evaluate.

        `run.begin` opens the run's folder, where everything that `load` needs is to be written.
        """
        ...

    def load(self, path: Path) -> Agent[Any]:
        """The agent of the run in the folder `path`."""
        ...


@runtime_checkable
class Yardstick(Protocol):
    """What a plug-in without training offers: an agent made from the benchmark's own definition."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The agent for one benchmark and split; ValueError in one sentence where it is not defined."""
        ...


class Behaviour(NamedTuple):
    """A policy that plays for a dataset."""

    name: str  # in words
    step: int  # environment steps it was trained for: orders a learning history
    sha256: str  # of its weights; empty for closed-form policies
    settings: Mapping[str, float | str]  # whatever else defines it
    make: Callable[[int], Agent[Any]]  # the agent, from a seed for its own randomness


@runtime_checkable
class Demonstrator(Protocol):
    """What a plug-in in the group `metabench.behaviours` offers: policies of every quality for offline datasets."""

    def behaviours(self, benchmark: str, split: str, quality: str) -> Sequence[Behaviour]:
        """The policies of a quality, by rising skill; ValueError in one sentence where it knows none.

        Qualities: random; medium (a third to a half of the way from random to the oracle); expert; replay (a learning
        history in order). `mixed` is made of medium and expert.
        """
        ...
