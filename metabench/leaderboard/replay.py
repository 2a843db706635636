"""Replays a trace piece by piece in the simulator: do the actions lead from each checkpoint to the next?

The pieces do not depend on one another, so a thousand of them are the slots of one batch and run on all cores. What a
piece must show: the rewards of its steps, an episode's end where the trace has one and nowhere else, and the next
checkpoint. The first checkpoint of a trial must be the verifier's own reset for that task and seed; that of a later
episode, what the verifier's reset gives with the streams as the piece before it left them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from metabench.evaluation.evaluate import SEED_STRIDE
from metabench.evaluation.traces import Places, Trace, checkpoint_places
from metabench.registry import Spec, spec
from metabench.rng import Array, SlotRng
from metabench.simulator import Replayable, Trials

TOLERANCE = 1e-8  # of states and rewards, relative above 1: 2000 times the noise between machines over 10 steps
HUGE = 1e9  # no state, action or reward of any family comes near
_SLACK = 1e-6  # of the action space's bounds: 0.1 as a float32 exceeds 0.1 as a float64
_BATCH = 1024  # pieces replayed together


class Fault(ValueError):
    """What is wrong with a submission, in one sentence."""


class Replayed(NamedTuple):
    """What a replay has seen."""

    steps: int
    pieces: int
    state_error: float  # largest difference of a state's number from the replay's, relative above 1
    reward_error: float  # the same for rewards


def replay(trace: Trace, progress: Callable[[int], None] | None = None) -> Replayed:
    """Replays every piece of a trace.

    Args:
        trace: As read from a file that anybody may have written; its header has been compared with the board's.
        progress: Called with the number of steps replayed since the last call.

    Raises:
        Fault: For the first thing that is not as the simulator has it.
    """
    with warnings.catch_warnings():  # a simulation that diverges is a fault or ends its episode; it needs no warning
        warnings.simplefilter("ignore")
        return _Replay(trace).run(progress or (lambda steps: None))


def check_actions_inside(actions: Array, space: Any) -> None:
    """Fault if an action is not one of the space's."""
    if isinstance(space, spaces.Discrete):
        if actions.dtype.kind not in "iu" or actions.ndim != 1:
            raise Fault(f"actions are {actions.dtype} {list(actions.shape[1:])}; the space has whole numbers")
        if actions.size and (actions.min() < 0 or actions.max() >= space.n):
            raise Fault(f"an action lies outside the space: there are the actions 0 to {int(space.n) - 1}")
        return
    if actions.dtype.kind != "f" or actions.shape[1:] != space.shape:
        raise Fault(f"actions are {actions.dtype} {list(actions.shape[1:])}; the space has floats {list(space.shape)}")
    slack = _SLACK * np.maximum(1.0, np.abs(space.high))
    bad = ~((actions >= space.low - slack) & (actions <= space.high + slack))
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise Fault(
            f"the action {actions[row, column]:g} of step {row} lies outside the space: "
            f"[{space.low[column]:g}, {space.high[column]:g}]"
        )


class _Replay:
    def __init__(self, trace: Trace):
        self.trace, self.protocol = trace, trace.header.protocol
        self.spec: Spec = spec(self.protocol.benchmark)
        self.table, self.family = self.spec.table(), self.spec.family()
        self.rows = np.repeat(np.arange(self.table.size(self.protocol.split)), self.protocol.repeats)
        self.places: Places = checkpoint_places(trace.lengths, trace.header.every)
        seeds = [self.protocol.seed * SEED_STRIDE + i for i in range(len(self.rows))]
        self.keys = SlotRng.from_seeds(seeds).state()[0]
        self.checkpoints: dict[str, Array] = {}
        self.state_error = self.reward_error = 0.0
        self.won = np.zeros(trace.lengths.shape, dtype=bool)
        self.knows_success = False

    def run(self, progress: Callable[[int], None]) -> Replayed:
        """All checks."""
        if len(self.trace.lengths) != len(self.rows):
            raise Fault(f"the trace has {len(self.trace.lengths)} trials, the protocol {len(self.rows)}")
        check_actions_inside(self.trace.actions, self.family.action_space)
        simulator = self._simulator(np.arange(1))
        self.checkpoints = self._fitting(simulator.checkpoint())
        for name, values in (*self.checkpoints.items(), ("rewards", self.trace.rewards)):
            if values.dtype.kind == "f" and values.size and not np.abs(values).max() < HUGE:
                raise Fault(f"{name} has a value beyond {HUGE:g}, which no simulation here reaches")
        firsts = np.flatnonzero((self.places.episode == 0) & (self.places.elapsed == 0))
        for start in range(0, len(firsts), _BATCH):
            rows = firsts[start : start + _BATCH]
            own = self._simulator(self.places.trial[rows])
            self._compare(own.checkpoint(), rows, "the episode does not start as its task and seed demand")
        for length in np.unique(self.places.length):  # so that the pieces of a batch end together
            pieces = np.flatnonzero(self.places.length == length)
            for start in range(0, len(pieces), _BATCH):
                rows = pieces[start : start + _BATCH]
                self._pieces(simulator, rows, int(length))
                progress(len(rows) * int(length))
        self._check_successes()
        return Replayed(len(self.trace.rewards), len(self.places.trial), self.state_error, self.reward_error)

    def _simulator(self, trials: Array) -> Any:
        """The verifier's own reset of these trials."""
        drift = self.spec.drift(self.protocol.split)
        own = Trials(self.family, self.table, drift, self.protocol.split, self.protocol.episodes)
        rng = SlotRng(self.keys[trials], np.zeros(len(trials), dtype=np.uint64))
        own.start(rng, self.table.batch(self.protocol.split, self.rows[trials]))
        if not isinstance(own.simulator, Replayable):
            raise Fault(f"{self.spec.id} keeps no checkpoints: it cannot be verified by replay")
        return own.simulator

    def _fitting(self, own: Mapping[str, Array]) -> dict[str, Array]:
        """The trace's checkpoints in the simulator's types; Fault if they are none of this simulator's."""
        given = self.trace.checkpoints
        if given.keys() != own.keys():
            names = sorted({*given} ^ {*own})
            raise Fault(f"the checkpoints are not of this simulator: {', '.join(names)[:200]} stand on one side only")
        fitted = {}
        for name, like in own.items():
            value = given[name]
            exact, integer = value.dtype == like.dtype, value.dtype.kind in "iu" and like.dtype.kind in "iu"
            if value.shape[1:] != like.shape[1:] or not (exact or integer):
                raise Fault(
                    f"checkpoint {name} is {value.dtype} {list(value.shape[1:])}, "
                    f"the simulator's is {like.dtype} {list(like.shape[1:])}"
                )
            if integer and value.size:
                limits = np.iinfo(like.dtype)
                if int(value.min()) < int(limits.min) or int(value.max()) > int(limits.max):
                    raise Fault(f"checkpoint {name} has a number that {like.dtype} cannot hold")
            fitted[name] = value.astype(like.dtype)
        return fitted

    def _pieces(self, simulator: Any, rows: Array, length: int) -> None:
        places, trace = self.places, self.trace
        trial, elapsed, last = places.trial[rows], places.elapsed[rows], places.last[rows]
        saved = {name: value[rows] for name, value in self.checkpoints.items()}
        simulator.restore(SlotRng(self.keys[trial], saved["counter"].copy()), elapsed, saved)
        discrete = trace.actions.dtype.kind in "iu"
        for t in range(length):
            step = places.step[rows] + t
            action = trace.actions[step].astype(np.int64) if discrete else trace.actions[step]
            try:
                outcome = simulator.step(action)
            except (ValueError, IndexError, FloatingPointError) as error:
                raise Fault(f"the simulator cannot go on from a checkpoint: {error}") from None
            self._check_step(outcome, rows, t, step, last & (t == length - 1))
        following = last & (places.episode[rows] + 1 < self.protocol.episodes)
        slots = np.flatnonzero(following)
        if len(slots):
            simulator.begin(slots, self.table.batch(self.protocol.split, self.rows[trial[slots]]))
            self._compare(
                simulator.checkpoint(slots), rows[slots] + 1, "the episode does not start as its task and seed demand"
            )
        slots = np.flatnonzero(~last)
        if len(slots):
            self._compare(
                simulator.checkpoint(slots), rows[slots] + 1, "the actions do not lead to the state of the trace"
            )

    def _check_step(self, outcome: Any, rows: Array, t: int, step: Array, ends: Array) -> None:
        wanted = self.trace.rewards[step]
        error = np.abs(outcome.reward - wanted) / np.maximum(1.0, np.abs(outcome.reward))
        bad = ~(error <= TOLERANCE)
        if bad.any():
            k = int(np.flatnonzero(bad)[0])
            raise Fault(
                f"{self._where(rows[k], t)}: the trace has the reward {wanted[k]:.9g}, "
                f"the replay gives {outcome.reward[k]:.9g}"
            )
        self.reward_error = max(self.reward_error, float(error.max()))
        ended, place = outcome.terminated | outcome.truncated, (self.places.trial[rows], self.places.episode[rows])
        bad = ended != ends
        if bad.any():
            k = int(np.flatnonzero(bad)[0])
            here = "ends in the replay and goes on" if ended[k] else "goes on in the replay and ends"
            raise Fault(f"{self._where(rows[k], t)}: the episode {here} in the trace")
        bad = ends & (outcome.terminated != self.trace.terminated[place])
        if bad.any():
            raise Fault(f"{self._where(rows[int(np.flatnonzero(bad)[0])], t)}: the trace has another kind of end")
        if outcome.success is not None:
            self.knows_success = True
            np.logical_or.at(self.won, place, outcome.success)

    def _compare(self, own: Mapping[str, Array], rows: Array, words: str) -> None:
        for name, value in own.items():
            given = self.checkpoints[name][rows]
            if value.dtype.kind != "f":
                bad = (value != given).reshape(len(rows), -1).any(axis=1)
                size = "is another one"
            else:
                error = np.abs(value - given) / np.maximum(1.0, np.abs(value))
                error = error.reshape(len(rows), -1).max(axis=1, initial=0.0)
                bad = ~(error <= TOLERANCE)
                size = f"differs by {error[bad][0]:.3g}" if bad.any() else ""
                if not bad.any():
                    self.state_error = max(self.state_error, float(error.max(initial=0.0)))
            if bad.any():
                k = int(np.flatnonzero(bad)[0])
                raise Fault(f"{self._where(rows[k], 0)}: {words}: {name} {size}")

    def _check_successes(self) -> None:
        given = self.trace.successes
        if (given is not None) != self.knows_success:
            raise Fault("the trace has successes exactly where the benchmark has none")
        if given is not None and (given != self.won).any():
            trial, episode = (int(i) for i in np.argwhere(given != self.won)[0])
            raise Fault(f"{self._name(trial, episode)}: the trace has another success than the replay")

    def _where(self, row: int, t: int) -> str:
        places = self.places
        name = self._name(int(places.trial[row]), int(places.episode[row]))
        return f"{name}, step {int(places.elapsed[row]) + t}"

    def _name(self, trial: int, episode: int) -> str:
        task, repeat = divmod(trial, self.protocol.repeats)
        return f"task {task}, repeat {repeat}, episode {episode}"
