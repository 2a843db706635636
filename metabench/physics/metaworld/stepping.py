"""B slots of Meta-World classes stepped together: one kernel call, then compiled observation and rewards.

A step is theirs: the mocap body moves by the action, five `mj_step`, and the `mj_forward` that changes the solver's
warm start; physics therefore equals their environment bit for bit. Rewards are computed in double precision; theirs are
in single precision where NumPy 2 lets a float32 action decide.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from metabench.family import Diverged
from metabench.physics.metaworld import grasping, observing, opening, pressing, pushing, tools
from metabench.physics.metaworld import vocabulary as words
from metabench.physics.metaworld.classes import NOTHING, UNTURNED, TaskClass, find
from metabench.physics.metaworld.models import FRAME, OBSERVATION, Start, starts
from metabench.physics.mujoco.kernel import STATE
from metabench.physics.mujoco.workers import Kind, Stepper
from metabench.physics.threads import default_threads
from metabench.rng import Array

GROUPS = {"pushing": pushing, "grasping": grasping, "pressing": pressing, "opening": opening, "tools": tools}
FRAME_SKIP = 5
WIDEST = 320  # numbers in a state row, at least as many as in any class
ACTION_SCALE = 0.01  # m a step at full action
TOUCH = "stick-push"  # the class whose success asks whether the fingers touch the object
_STEPPERS = 4  # batch sizes whose buffers are kept


class SawyerState(NamedTuple):
    """The state of B slots and what the last step gave; nobody writes into states."""

    physics: Array  # [B, S] float64 mjSTATE_INTEGRATION, padded where there are several classes
    kind: Array  # [B] int64 class, a number into the batch's names
    observation: Array  # [B, 39]
    first: Array  # [B] m, the object's distance from the target after the first step; -1 before it
    reward: Array  # [B]
    success: Array  # [B] bool


class Prepared(NamedTuple):
    """What a batch of tasks looks like to the stepping; made once per batch of tasks."""

    kind: Array  # [B] int64
    stepper_kind: Array  # [B] int64 the same among the scenes that are loaded
    models: Array  # [B] int64 addresses
    look: Array  # [B, 9]
    constants: Array  # [B, 12]
    mocap: Array  # [B] int64 column of the mocap position in the state
    low: Array  # [B, 3] m where the mocap may be
    high: Array  # [B, 3] m
    which: tuple[tuple[Any, Array], ...]  # (group, [B] number of the class in it or -1)
    starts: tuple[Start, ...]
    touch: bool  # whether a slot's success asks for a touch


class SawyerBatch:
    """Steps slots of the given classes. Scenes are loaded when a task first needs them."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self.threads: int | None = None  # METABENCH_THREADS or all cores by default
        self._lock = threading.Lock()
        self._loaded: list[int] = []  # the classes with a scene, in the order of the stepper's kinds
        self._steppers: dict[tuple[int, int], Stepper] = {}
        self._profiles: dict[int, tuple[Array, int, Array, Array]] = {}
        self._groups = {name: GROUPS[find(name).group] for name in self.names}

    def prepare(self, tasks: Sequence[tuple[int, tuple[float, ...]]]) -> Prepared:
        """Looks the tasks up: (number of the class, placement) of each slot."""
        known = starts()
        found = tuple(known.get(self.names[kind], placement) for kind, placement in tasks)
        kind = np.array([kind for kind, _ in tasks], dtype=np.int64)
        for k in dict.fromkeys(kind.tolist()):
            if k not in self._profiles:
                self._profiles[k] = self._profile(self.names[k])
                self._loaded.append(k)
        look, mocap, low, high = zip(*(self._profiles[k] for k in kind.tolist()), strict=True)
        places = {k: place for place, k in enumerate(self._loaded)}
        which = []
        for module in dict.fromkeys(self._groups[self.names[k]] for k in kind.tolist()):
            numbers = {k: module.ORDER.index(n) for k, n in enumerate(self.names) if self._groups[n] is module}
            which.append((module, np.array([numbers.get(k, -1) for k in kind.tolist()], dtype=np.int64)))
        return Prepared(
            kind,
            np.array([places[k] for k in kind.tolist()], dtype=np.int64),
            np.array([start.model for start in found], dtype=np.int64),
            np.stack(look),
            np.stack([start.constants for start in found]),
            np.array(mocap, dtype=np.int64),
            np.stack(low),
            np.stack(high),
            tuple(which),
            found,
            TOUCH in {self.names[k] for k in kind.tolist()},
        )

    def start(self, prepared: Prepared) -> SawyerState:
        """The states after a reset: copies of what their reset left behind."""
        count = len(prepared.kind)
        physics = np.zeros((count, self._width(prepared)))
        observation = np.empty((count, OBSERVATION))
        for i, start in enumerate(prepared.starts):
            physics[i, : len(start.state)] = start.state
            observation[i] = start.observation
        nothing = np.zeros(count, dtype=bool)
        return SawyerState(physics, prepared.kind, observation, np.full(count, -1.0), np.zeros(count), nothing)

    def step(self, state: SawyerState, action: Array, prepared: Prepared) -> SawyerState:
        """One step of every slot.

        Raises:
            Diverged: If a slot's state is no longer finite, or MuJoCo has reset it.
        """
        count = len(state.kind)
        delta = np.clip(action[:, :3], -1, 1) * ACTION_SCALE  # in the action's own precision, as theirs
        grip = action[:, 3].astype(np.float64)
        observation, reward, success = np.empty((count, OBSERVATION)), np.zeros(count), np.zeros(count, dtype=bool)
        first = state.first.copy()
        with self._lock:
            stepper = self._stepper(count, state.physics.shape[1])
            stepper.states[:] = state.physics
            observing.steer(stepper.states, prepared.mocap, prepared.low, prepared.high, delta)
            stepper.models[:] = prepared.models
            stepper.kinds[:] = prepared.stepper_kind
            stepper.controls[:, 0] = grip
            stepper.controls[:, 1] = -grip
            before = stepper.states.copy() if prepared.touch else None
            bad = stepper.step(count, FRAME_SKIP, rne=False, forward=True)
            physics, outputs = stepper.states.copy(), stepper.outputs
            observing.observe(outputs, prepared.look, state.observation, observation)
            observing.remember(observation, prepared.constants, first)
            for module, which in prepared.which:
                module.evaluate(which, outputs, observation, prepared.constants, grip, first, reward, success)
        if before is not None:
            for slot in np.flatnonzero(success & (prepared.kind == self.names.index(TOUCH))):
                success[slot] = self._touches(prepared.starts[slot], before[slot], grip[slot])
        after = SawyerState(physics, state.kind, observation, first, reward, success)
        if bad:
            raise self._divergence(state, after, prepared)
        return after

    def _divergence(self, before: SawyerState, after: SawyerState, prepared: Prepared) -> Diverged:
        timestep = starts().scene(self.names[int(before.kind[0])]).model.opt.timestep
        sound = np.isfinite(after.physics).all(axis=1)
        sound &= after.physics[:, 0] - before.physics[:, 0] > timestep * (FRAME_SKIP - 0.5)
        rest = before._replace(physics=before.physics, reward=np.zeros(len(sound)), success=np.zeros_like(sound))
        parts = (
            np.where(sound if new.ndim == 1 else sound[:, None], new, old) for new, old in zip(after, rest, strict=True)
        )
        slot = int(np.flatnonzero(~sound)[0])
        task = f"{self.names[int(before.kind[slot])]}, goal {np.round(prepared.constants[slot, :3], 3).tolist()}"
        text = f"the simulation of slot {slot} diverged (task {task}): try smaller actions or another task"
        return Diverged(text, SawyerState(*parts), ~sound)

    def _width(self, prepared: Prepared) -> int:
        """Of the state rows: of several classes the widest of all, so that any may follow any in a slot."""
        return len(prepared.starts[0].state) if len(self.names) == 1 else WIDEST

    def _stepper(self, count: int, width: int) -> Stepper:
        key = (count, len(self._loaded))
        if key not in self._steppers:
            if len(self._steppers) >= _STEPPERS:
                self._steppers.pop(next(iter(self._steppers)))
            kinds = [self._kind(self.names[k]) for k in self._loaded]
            self._steppers[key] = Stepper(kinds, count, self.threads or default_threads(), width)
        return self._steppers[key]

    def _kind(self, name: str) -> Kind:
        return Kind(starts().scene(name).model, outputs_of(find(name)))

    def _profile(self, name: str) -> tuple[Array, int, Array, Array]:
        """What holds for a class: its look, the mocap's column and its box."""
        scene, kinds = starts().scene(name), mujoco.mjtState
        lower = (int(kinds.mjSTATE_MOCAP_POS) - 1) & int(kinds.mjSTATE_INTEGRATION)  # the parts before it
        column = mujoco.mj_stateSize(scene.model, lower)
        return look_of(scene.task_class), column, scene.env.mocap_low.copy(), scene.env.mocap_high.copy()

    def _touches(self, start: Start, row: Array, grip: float) -> bool:
        """Whether both pads press on the object: the step is played again, because contacts are not kept."""
        scene = starts().scene(TOUCH)
        _, own, env = start.keep
        for field, values in own.items():
            getattr(env.model, field)[:] = values
        data = mujoco.MjData(env.model)
        mujoco.mj_setState(env.model, data, row[: len(start.state)], STATE)
        data.ctrl[:] = grip, -grip
        mujoco.mj_step(env.model, data, nstep=FRAME_SKIP)
        mujoco.mj_forward(env.model, data)
        geoms = [env.model.geom(name).id for name in ("leftpad_geom", "rightpad_geom")]
        object_geom = env.model.geom("objGeom").id
        pairs = [{int(contact.geom1), int(contact.geom2)} for contact in data.contact]
        forces = [data.efc_force[contact.efc_address] for contact in data.contact]
        del scene
        return all(sum(f for p, f in zip(pairs, forces, strict=True) if {pad, object_geom} <= p) > 0 for pad in geoms)


def look_of(c: TaskClass) -> Array:
    """What a class's outputs mean, see `observing`."""
    row = np.zeros(observing.MAX_LOOK)
    row[observing.OFFSET : observing.OFFSET + 3] = c.offset
    row[observing.SECOND_OFFSET : observing.SECOND_OFFSET + 3] = c.second_offset
    row[observing.HOW] = _how(c.frame)
    row[observing.SECOND_HOW] = _how(c.second_frame) or (observing.FIXED if c.second else observing.NO_FRAME)
    row[observing.DIAL] = c.name == "dial-turn"
    return row


def _how(frame: str) -> int:
    if frame == UNTURNED:
        return observing.FIXED
    if frame == NOTHING:
        return observing.NO_FRAME
    return observing.QUATERNION if "quat" in frame.split(":")[0] else observing.MATRIX


def outputs_of(c: TaskClass) -> tuple[str, ...]:
    """What is copied out of mjData for a class, in the columns of `vocabulary`."""
    tips = ("site_xpos:rightEndEffector", "site_xpos:leftEndEffector")
    always = ("xpos:hand", "xpos:rightclaw", "xpos:leftclaw", *tips, "xpos:leftpad", "xpos:rightpad", c.object)
    gap = {observing.MATRIX: 0, observing.QUATERNION: words.FRAME_SIZE - 4}.get(_how(c.frame), words.FRAME_SIZE)
    seen = (c.second or "gap:3", *((c.frame,) if gap < words.FRAME_SIZE else ()), f"gap:{gap}")
    second = c.second_frame or f"gap:{words.SECOND_FRAME_SIZE}"
    missing = 3 * (words.MAX_POINTS - len(c.points))
    return (*always, *seen, second, *c.points, f"gap:{missing}", c.joint or "gap:1")


__all__ = ["FRAME", "GROUPS", "Prepared", "SawyerBatch", "SawyerState", "look_of", "outputs_of"]
