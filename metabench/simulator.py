"""B slots of one family stepped together: the only stepping and resetting code in the package."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from metabench.drift import Drift
from metabench.family import Family
from metabench.rng import Array, SlotRng
from metabench.tasks import TaskBatch, TaskTable, stack

S = TypeVar("S", bound="tuple[Array, ...]")
C = TypeVar("C")


class Outcome(NamedTuple):
    """What one step of B slots gives."""

    observation: Array  # [B, O] at the end of the step, before any automatic reset
    reward: Array  # [B] float64
    terminated: Array  # [B] bool: the family's own rule ended the episode
    truncated: Array  # [B] bool: the horizon ended the episode
    session_ended: Array  # [B] bool: the latent task has changed after this step's reward; no agent may see this
    success: Array | None  # [B] bool: the task is achieved; None where the family knows no success


class Simulator(Protocol):
    """B slots, always mid-episode: there is no simulator without a state."""

    @property
    def observation(self) -> Array:
        """`[B, O]` what the agents see now, in a fresh array."""
        ...

    @property
    def exposed(self) -> Array:
        """`[B, K]` the current context as columns: what is hidden from agents."""
        ...

    def begin(self, slots: Array | None, tasks: TaskBatch) -> None:
        """Starts an episode of `tasks[k]` in slot `slots[k]`; None stands for every slot."""
        ...

    def step(self, action: Array) -> Outcome:
        """One step in every slot."""
        ...

    def picture(self, slot: int) -> Array:
        """RGB image `[H, W, 3]` of a slot."""
        ...

    def text(self, slot: int) -> str:
        """A slot in characters."""
        ...


class FunctionalSimulator(Generic[S, C]):
    """The simulator of a family whose state is arrays."""

    def __init__(self, family: Family[S, C], drift: Drift, tasks: TaskBatch, rng: SlotRng, horizon: int | None = None):
        self.family, self.drift, self.rng = family, drift, rng
        self.horizon = family.horizon if horizon is None else horizon
        self.state, self.context, self._remaining = self._start(tasks, rng)
        self._elapsed = np.zeros(len(rng), dtype=np.int64)

    def _start(self, tasks: TaskBatch, rng: SlotRng) -> tuple[S, C, Array]:
        context = self.drift.begin(stack(self.family.context_type, tasks.values), rng)
        return self.family.initial(context, rng), context, self.drift.lengths(rng)

    @property
    def observation(self) -> Array:
        """`[B, O]` what the agents see now, in a fresh array."""
        return self.family.observation(self.state)

    @property
    def exposed(self) -> Array:
        """`[B, K]` the current context as columns."""
        columns = (getattr(self.context, f.name) for f in dataclasses.fields(self.family.context_type))  # pyright: ignore[reportArgumentType]
        return np.stack(tuple(columns), axis=1)

    def begin(self, slots: Array | None, tasks: TaskBatch) -> None:
        """Starts an episode of `tasks[k]` in slot `slots[k]`; None stands for every slot."""
        if slots is None:
            self.state, self.context, self._remaining = self._start(tasks, self.rng)
            self._elapsed[:] = 0
            return
        state, context, remaining = self._start(tasks, self.rng.at(slots))
        self.state = type(self.state)(*(_put(a, slots, b) for a, b in zip(self.state, state, strict=True)))
        self.context = _put_fields(self.context, slots, context)
        self._remaining[slots] = remaining
        self._elapsed[slots] = 0

    def step(self, action: Array) -> Outcome:
        """One step in every slot: transition, reward, and only then the end of a session."""
        family, before = self.family, self.state
        self.state = after = family.transition(before, action, self.context, self.rng)
        reward = family.reward(before, action, after, self.context)
        self._elapsed += 1
        return Outcome(
            observation=family.observation(after),
            reward=reward,
            terminated=family.terminal(after),
            truncated=self._elapsed >= self.horizon,
            session_ended=self._end_sessions(),
            success=family.success(after),
        )

    def _end_sessions(self) -> Array:
        if self.drift.constant:
            return np.zeros(len(self._remaining), dtype=bool)
        self._remaining -= 1
        ended = self._remaining == 0
        if ended.any():
            slots = np.flatnonzero(ended)
            rng = self.rng.at(slots)
            old = _take_fields(self.context, slots)
            self.context = _put_fields(self.context, slots, self.drift.change(old, rng))
            self._remaining[slots] = self.drift.lengths(rng)
        return ended

    def picture(self, slot: int) -> Array:
        """RGB image `[H, W, 3]` of a slot."""
        return self.family.picture(self.state, self.context, slot)

    def text(self, slot: int) -> str:
        """A slot in characters."""
        return self.family.text(self.state, self.context, slot)


def _put(full: Array, slots: Array, part: Array) -> Array:
    """A copy of `full` with the rows `slots` replaced: states are values, somebody may hold the old one."""
    full = full.copy()
    full[slots] = part
    return full


def _take_fields(record: C, slots: Array) -> C:
    names = [f.name for f in dataclasses.fields(record)]  # pyright: ignore[reportArgumentType]
    return type(record)(**{name: getattr(record, name)[slots] for name in names})


def _put_fields(record: C, slots: Array, part: C) -> C:
    names = [f.name for f in dataclasses.fields(record)]  # pyright: ignore[reportArgumentType]
    return type(record)(**{name: _put(getattr(record, name), slots, getattr(part, name)) for name in names})


class Trials:
    """Episodes grouped into trials: which task each slot plays, and when it gets the next one.

    A trial is `episodes_per_task` episodes of one task; then the slot's own stream draws another task of the split.
    """

    def __init__(
        self,
        family: Family[Any, Any],
        table: TaskTable,
        drift: Drift,
        split: str,
        episodes_per_task: int,
        horizon: int | None = None,
    ):
        self.family, self.table, self.drift, self.split = family, table, drift, split
        self.episodes_per_task, self.horizon = episodes_per_task, horizon
        self.simulator: Any = None  # made by the first `start`
        self.rng = SlotRng.from_seeds([])

    def start(self, rng: SlotRng, tasks: TaskBatch | None = None) -> None:
        """Begins a trial in every slot with these streams; tasks are drawn unless given."""
        self.rng = rng
        self.tasks = self.table.draw(rng, self.split) if tasks is None else tasks
        self.episode = np.zeros(len(rng), dtype=np.int64)
        self.session = np.zeros(len(rng), dtype=np.int64)
        self.simulator = FunctionalSimulator(self.family, self.drift, self.tasks, rng, self.horizon)

    def restart(self, slots: Array, tasks: TaskBatch) -> None:
        """Begins a trial of `tasks[k]` in slot `slots[k]`."""
        for full, part in zip(self.tasks, tasks, strict=True):
            full[slots] = part
        self.episode[slots] = 0
        self.session[slots] = 0
        self.simulator.begin(slots, tasks)

    def advance(self, slots: Array | None) -> None:
        """Begins the next episode in these slots (None: all), of the next task where the trial is over."""
        rows = np.arange(len(self.rng)) if slots is None else slots
        self.episode[rows] += 1
        self.session[rows] = 0
        over = rows[self.episode[rows] >= self.episodes_per_task]
        if len(over):
            drawn = self.table.draw(self.rng.at(over), self.split)
            self.tasks.row[over], self.tasks.values[over] = drawn.row, drawn.values
            self.episode[over] = 0
        tasks = self.tasks if slots is None else TaskBatch(self.tasks.row[slots], self.tasks.values[slots])
        self.simulator.begin(slots, tasks)

    def step(self, action: Array) -> Outcome:
        """One step in every slot, no reset."""
        outcome = self.simulator.step(action)
        if not self.drift.constant:
            self.session += outcome.session_ended
        return outcome
