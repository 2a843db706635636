"""B slots of one family stepped together: the only stepping and resetting code in the package."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from metabench.drift import NEVER, Drift
from metabench.family import Diverged, DivergenceWarning, Family
from metabench.rng import Array, SlotRng
from metabench.tasks import TaskBatch, TaskTable, stack

S = TypeVar("S", bound="tuple[Array, ...]")
C = TypeVar("C")

LONG = 2**31 - 1  # steps: a checkpoint's word for a session that outlasts every episode


class Outcome(NamedTuple):
    """What one step of B slots gives. The three flags may be read-only and shared between steps."""

    observation: Array  # [B, O] at the end of the step, before any automatic reset
    reward: Array  # [B] float64
    terminated: Array  # [B] bool: the family's own rule ended the episode
    truncated: Array  # [B] bool: the horizon ended the episode
    session_ended: Array  # [B] bool: the latent task has changed after this step's reward; no agent may see this
    success: Array | None  # [B] bool: the task is achieved; None where the family knows no success
    diverged: Array | None = None  # [B] bool: the simulation failed, which ended the episode; None if it did nowhere


class Simulator(Protocol):
    """B slots, always mid-episode: there is no simulator without a state."""

    @property
    def observation(self) -> Array:
        """`[B, O]` what the agents see now, in a fresh array."""
        ...

    @property
    def session(self) -> Array:
        """`[B]` int64 how many sessions of each slot's episode have ended; belongs to the simulator, copy it."""
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


@runtime_checkable
class Replayable(Protocol):
    """A simulator whose slots can be written down and continued elsewhere to the same numbers."""

    def checkpoint(self, slots: Array | None = None) -> dict[str, Array]:
        """All that an exact continuation of these slots (None: all) needs, each array leading with `[B]`.

        Floats are compared within a tolerance by who checks a replay, everything else exactly. Arrays may be shared
        with the simulator as long as later steps do not write into them. The elapsed steps and the keys of the streams
        are not in it: whoever continues knows them.
        """
        ...

    def restore(self, rng: SlotRng, elapsed: Array, saved: Mapping[str, Array]) -> None:
        """Continues from checkpoints with these streams, `elapsed` `[B]` steps into their episodes; B may change."""
        ...


class FunctionalSimulator(Generic[S, C]):
    """The simulator of a family whose state is arrays."""

    state: S
    context: C

    def __init__(self, family: Family[S, C], drift: Drift, tasks: TaskBatch, rng: SlotRng, horizon: int | None = None):
        self.family, self.drift, self.rng = family, drift, rng
        self.horizon = family.horizon if horizon is None else horizon
        # Ends are kept as times on one clock, and the first of each kind as a number: most steps end nothing, and to
        # know that costs a comparison of two numbers instead of passes over arrays.
        self._clock = 0
        self._episode_end = np.zeros(len(rng), dtype=np.int64)  # [B] time
        self._session_end = np.zeros(len(rng), dtype=np.int64)  # [B] time
        self._nowhere = np.zeros(len(rng), dtype=bool)  # read-only, given out again and again
        self._nowhere.setflags(write=False)
        self._terminates = type(family).terminal is not Family.terminal
        self._succeeds = type(family).success is not Family.success
        self.session = np.zeros(len(rng), dtype=np.int64)  # [B] how many sessions of the episode have ended
        self.begin(None, tasks)

    @property
    def observation(self) -> Array:
        """`[B, O]` what the agents see now, in a fresh array."""
        return self.family.observation(self.state)

    @property
    def exposed(self) -> Array:
        """`[B, K]` the current context as columns."""
        columns = (getattr(self.context, f.name) for f in dataclasses.fields(self.family.context_type))  # pyright: ignore[reportArgumentType]
        return np.stack(tuple(columns), axis=1)

    @property
    def elapsed(self) -> Array:
        """`[B]` int64 steps taken in each slot's episode."""
        return self._clock - self._episode_end + self.horizon

    def begin(self, slots: Array | None, tasks: TaskBatch) -> None:
        """Starts an episode of `tasks[k]` in slot `slots[k]`; None stands for every slot."""
        rng = self.rng if slots is None else self.rng.at(slots)
        context = self.drift.begin(stack(self.family.context_type, tasks.values), rng)
        state, length = self.family.initial(context, rng), self.drift.lengths(rng)
        if slots is None:
            self.state, self.context = state, context
        else:
            self.state = type(self.state)(*(_put(a, slots, b) for a, b in zip(self.state, state, strict=True)))
            self.context = _put_fields(self.context, slots, context)
        rows = slice(None) if slots is None else slots
        self._episode_end[rows] = self._clock + self.horizon
        self._session_end[rows] = self._clock + length
        self.session[rows] = 0
        self._first_episode_end, self._first_session_end = _first(self._episode_end), _first(self._session_end)

    def step(self, action: Array) -> Outcome:
        """One step in every slot: transition, reward, and only then the end of a session."""
        family, before, context = self.family, self.state, self.context
        try:
            after, diverged = family.transition(before, action, context, self.rng), None
        except Diverged as failure:
            warnings.warn(str(failure), DivergenceWarning, stacklevel=3)
            after, diverged = failure.state, failure.slots
        self.state = after
        reward = family.reward(before, action, after, context)
        self._clock += 1
        truncated = self._nowhere if self._clock < self._first_episode_end else self._episode_end <= self._clock
        ended = self._nowhere if self._clock < self._first_session_end else self._end_sessions()
        terminated = family.terminal(after) if self._terminates else self._nowhere
        if diverged is not None:
            terminated = terminated | diverged
        success = family.success(after) if self._succeeds else None
        return Outcome(family.observation(after), reward, terminated, truncated, ended, success, diverged)

    def _end_sessions(self) -> Array:
        ended = self._session_end == self._clock
        self.session += ended
        if len(ended) == 1 or ended.all():
            self.context = self.drift.change(self.context, self.rng)
            self._session_end = self._clock + self.drift.lengths(self.rng)
        else:
            slots = np.flatnonzero(ended)
            rng = self.rng.at(slots)
            changed = self.drift.change(_take_fields(self.context, slots), rng)
            self.context = _put_fields(self.context, slots, changed)
            self._session_end[slots] = self._clock + self.drift.lengths(rng)
        self._first_session_end = _first(self._session_end)
        return ended

    def checkpoint(self, slots: Array | None = None) -> dict[str, Array]:
        """State, context, stream positions and sessions; see `Replayable`."""
        names = [f.name for f in dataclasses.fields(self.family.context_type)]  # pyright: ignore[reportArgumentType]
        saved = {f"state.{name}": value for name, value in self.family.pack(self.state).items()}
        saved |= {f"context.{name}": getattr(self.context, name) for name in names}
        remaining = np.minimum(self._session_end - self._clock, LONG)
        saved |= {"counter": self.rng.state()[1], "remaining": remaining, "session": self.session.copy()}
        return saved if slots is None else {name: value[slots] for name, value in saved.items()}

    def restore(self, rng: SlotRng, elapsed: Array, saved: Mapping[str, Array]) -> None:
        """The inverse of `checkpoint`; see `Replayable`."""
        parts: dict[str, dict[str, Array]] = {"state": {}, "context": {}}
        for name, value in saved.items():
            kind, _, field = name.partition(".")
            if field:
                parts[kind][field] = value
        self.rng, self._clock = rng, 0
        self.state = self.family.unpack(parts["state"], self.state)
        self.context = self.family.context_type(**parts["context"])
        self.session = saved["session"].copy()
        self._episode_end, self._session_end = self.horizon - elapsed, saved["remaining"].copy()
        self._session_end[self._session_end >= LONG] = NEVER
        self._nowhere = np.zeros(len(rng), dtype=bool)
        self._nowhere.setflags(write=False)
        self._first_episode_end, self._first_session_end = _first(self._episode_end), _first(self._session_end)

    def picture(self, slot: int) -> Array:
        """RGB image `[H, W, 3]` of a slot."""
        return self.family.picture(self.state, self.context, slot)

    def show(self, slot: int) -> None:
        """A slot in the family's window."""
        self.family.show(self.state, self.context, slot)

    def text(self, slot: int) -> str:
        """A slot in characters."""
        return self.family.text(self.state, self.context, slot)


def _first(times: Array) -> int:
    return int(times[0]) if len(times) == 1 else int(times.min())


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
        backend: str | None = None,
    ):
        self.family, self.table, self.drift, self.split = family, table, drift, split
        self.episodes_per_task = episodes_per_task
        self.horizon = family.horizon if horizon is None else horizon
        self.backend = family.backends[0] if backend is None else backend
        self.simulator: Simulator | None = None  # made by the first `start`
        self.rng = SlotRng.from_seeds([])

    @property
    def running(self) -> Simulator:
        """The simulator of trials that have begun."""
        assert self.simulator is not None, "no trial has begun"
        return self.simulator

    def start(self, rng: SlotRng, tasks: TaskBatch | None = None) -> None:
        """Begins a trial in every slot with these streams; tasks are drawn unless given."""
        self.rng = rng
        self.tasks = self.table.draw(rng, self.split) if tasks is None else tasks
        self.episode = np.zeros(len(rng), dtype=np.int64)
        own = self.family.simulator(self.backend, self.drift, self.tasks, rng, self.horizon)
        if own is None:
            own = FunctionalSimulator(self.family, self.drift, self.tasks, rng, self.horizon)
        self.simulator = own

    def restart(self, slots: Array, tasks: TaskBatch) -> None:
        """Begins a trial of `tasks[k]` in slot `slots[k]`."""
        for full, part in zip(self.tasks, tasks, strict=True):
            full[slots] = part
        self.episode[slots] = 0
        self.running.begin(slots, tasks)

    def renew(self, slots: Array, rng: SlotRng, tasks: TaskBatch | None) -> None:
        """Begins a trial in these slots with the streams `rng`; the task of each is drawn unless given."""
        self.rng.renew(slots, rng)
        self.restart(slots, self.table.draw(self.rng.at(slots), self.split) if tasks is None else tasks)

    def advance(self, slots: Array | None) -> None:
        """Begins the next episode in these slots (None: all), of the next task where the trial is over."""
        if slots is None:
            self.episode += 1
            over = np.flatnonzero(self.episode >= self.episodes_per_task)
        else:
            self.episode[slots] += 1
            over = slots[self.episode[slots] >= self.episodes_per_task]
        if len(over) == len(self.rng):
            self.tasks = self.table.draw(self.rng, self.split)
            self.episode[:] = 0
        elif len(over):
            drawn = self.table.draw(self.rng.at(over), self.split)
            self.tasks.row[over], self.tasks.values[over] = drawn.row, drawn.values
            self.episode[over] = 0
        tasks = self.tasks if slots is None else TaskBatch(self.tasks.row[slots], self.tasks.values[slots])
        self.running.begin(slots, tasks)
