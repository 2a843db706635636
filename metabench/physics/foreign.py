"""A third party's environments behind the Simulator protocol: one of theirs per slot, stepped by their own code.

This is what `backend="reference"` runs. Tasks, trials, horizons and autoreset are ours and stay the same; dynamics,
observations, rewards and success are theirs.

Their environments cannot be relied on to copy or pickle what they are in the middle of. So a copy is made by playing:
each slot's episode is begun again and its actions are taken again, and what is seen then must be what was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

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
    """One environment of theirs, as this module needs it.

    Pickled and copied it may forget its episode, which is played again; an episode must follow from its task and
    actions.
    """

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
        self._actions: list[list[Array]] = [[] for _ in range(len(rng))]  # of each slot's episode
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
            self._actions[row] = []

    def step(self, action: Array) -> Outcome:
        """One step in every slot."""
        replies = [one.step(own) for one, own in zip(self._environments, action, strict=True)]
        self._observations = [reply.observation for reply in replies]
        for taken, own in zip(self._actions, action, strict=True):
            taken.append(np.array(own))
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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Plays a copy's episodes up to where they were.

        Raises:
            ValueError: If that leads elsewhere: then they cannot be copied.
        """
        self.__dict__.update(state)
        self._nowhere.setflags(write=False)  # copies of arrays can be written to
        for slot, (environment, actions) in enumerate(zip(self._environments, self._actions, strict=True)):
            seen = environment.begin(self._values[slot])
            for action in actions:
                seen = environment.step(action).observation
            if not np.array_equal(seen, self._observations[slot], equal_nan=True):
                raise ValueError(
                    "the backend 'reference' cannot be copied in the middle of this episode: played again, slot "
                    f"{slot} is elsewhere after {len(actions)} steps; copy after reset(), or use backend='batched'"
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
