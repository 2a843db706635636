"""A third party's environments behind the Simulator protocol: one of theirs per slot, stepped by their own code.

This is what `backend="reference"` runs. Tasks, trials, horizons and autoreset are ours and stay the same; dynamics,
observations, rewards and success are theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from metabench.drift import Drift
from metabench.rng import Array, SlotRng
from metabench.simulator import Outcome
from metabench.tasks import TaskBatch


class Reply(NamedTuple):
    """What one of their steps gave."""

    observation: Array  # [O]
    reward: float
    terminated: bool
    success: bool | None  # None where there is no such thing


class ForeignEnvironment(Protocol):
    """One environment of theirs, as this module needs it."""

    def begin(self, task: Array) -> Array:
        """Starts an episode of a task `[K]`; the first observation `[O]`, in a fresh array."""
        ...

    def step(self, action: Array) -> Reply:
        """One step."""
        ...

    def draw(self, mode: str) -> Array | None:
        """RGB image `[H, W, 3]` for "rgb_array"; a window for "human"."""
        ...

    def text(self) -> str:
        """The same in characters."""
        ...


class ForeignSimulator:
    """B environments of theirs, stepped one after the other.

    Args:
        make: Makes one environment.
        drift: Must be constant: their tasks do not change inside an episode.
        tasks: The first tasks.
        rng: The slots' streams; only their number matters.
        horizon: Steps of an episode.
    """

    def __init__(
        self, make: Callable[[], ForeignEnvironment], drift: Drift, tasks: TaskBatch, rng: SlotRng, horizon: int
    ):
        if not drift.constant:
            raise ValueError("the backend 'reference' cannot change tasks inside an episode: leave sessions out")
        self._environments = [make() for _ in range(len(rng))]
        self.horizon = horizon
        self._elapsed = np.zeros(len(rng), dtype=np.int64)
        self._nowhere = np.zeros(len(rng), dtype=bool)
        self._nowhere.setflags(write=False)
        self.session = np.zeros(len(rng), dtype=np.int64)
        self._values = tasks.values.copy()
        self._observations: list[Array] = [np.empty(0)] * len(rng)
        self.begin(None, tasks)

    @property
    def observation(self) -> Array:
        """`[B, O]` what the agents see now, in a fresh array."""
        return np.stack(self._observations)

    @property
    def exposed(self) -> Array:
        """`[B, K]` the tasks."""
        return self._values.copy()

    def begin(self, slots: Array | None, tasks: TaskBatch) -> None:
        """Starts an episode of `tasks[k]` in slot `slots[k]`; None stands for every slot."""
        rows = range(len(self._environments)) if slots is None else slots.tolist()
        for row, values in zip(rows, tasks.values, strict=True):
            self._values[row] = values
            self._observations[row] = self._environments[row].begin(values)
            self._elapsed[row] = 0

    def step(self, action: Array) -> Outcome:
        """One step in every slot."""
        replies = [one.step(own) for one, own in zip(self._environments, action, strict=True)]
        self._observations = [reply.observation for reply in replies]
        self._elapsed += 1
        success = None
        if replies[0].success is not None:
            success = np.array([reply.success for reply in replies])
        return Outcome(
            self.observation,
            np.array([reply.reward for reply in replies], dtype=np.float64),
            np.array([reply.terminated for reply in replies]),
            self._elapsed >= self.horizon,
            self._nowhere,
            success,
        )

    def picture(self, slot: int) -> Array:
        """RGB image `[H, W, 3]` of a slot."""
        drawn = self._environments[slot].draw("rgb_array")
        assert drawn is not None
        return drawn

    def show(self, slot: int) -> None:
        """Draws a slot in a window."""
        self._environments[slot].draw("human")

    def text(self, slot: int) -> str:
        """A slot in characters."""
        return self._environments[slot].text()
