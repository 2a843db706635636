"""MuJoCo families: the simulation as a pure function of rows of state, controls and models.

The state row is MuJoCo's `mjSTATE_INTEGRATION`, the solver's warm start included, so a step continues exactly where the
last one ended and equals `mj_step` bit for bit. Models are made once per context and cached. Nothing of MuJoCo is
imported before the first state is asked for: specs, tables and observation columns need no simulator.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from metabench.extras import missing
from metabench.family import Diverged, Family
from metabench.rng import Array, SlotRng

if TYPE_CHECKING:
    import mujoco

    from metabench.physics.mujoco.screen import Screen
    from metabench.physics.mujoco.workers import Stepper

C = TypeVar("C")
MODEL_BYTES = 256 * 2**20  # of the models kept per family, about 400 of a gym-sized one; the last one always is
_STEPPERS = 4  # batch sizes whose buffers are kept


class MujocoState(NamedTuple):
    """The state of B slots. `qpos` and `qvel` are columns of `physics` under their names; nobody writes into states."""

    physics: Array  # [B, S] float64 mjSTATE_INTEGRATION
    qpos: Array  # [B, nq] m, rad
    qvel: Array  # [B, nv] m/s, rad/s
    outputs: Array  # [B, K] what mjData holds after the step: the family's `outputs`, one after the other


class _Models(NamedTuple):
    """The models of the slots of one context."""

    context: weakref.ref[Any]
    addresses: Array  # [B] int64
    models: tuple[Any, ...]


class MujocoFamily(Family[MujocoState, C], Generic[C]):
    """A family on one MJCF model. What a context changes in the model, `configure` says."""

    xml: ClassVar[str]  # file name in `assets`
    assets: ClassVar[Path | None] = None  # folder of the file; Gymnasium's own by default
    frame_skip: ClassVar[int]
    outputs: ClassVar[tuple[str, ...]] = ()  # fields of mjData copied out after a step
    remembered: ClassVar[tuple[str, ...]] = ()  # those of `outputs` that `reward` reads of the state before the step
    contact_forces: ClassVar[bool] = False  # whether `cfrc_ext` is among the outputs: it has to be computed
    position_noise: ClassVar[float] = 0.1  # initial positions: uniform within this
    velocity_noise: ClassVar[float] = 0.1  # initial velocities: Gaussian with this deviation
    observation_dtype = np.float64
    timestep: ClassVar[float | None] = None  # s, instead of the file's
    varies_model: ClassVar[bool] = False  # whether `configure` does anything
    model_fields: ClassVar[tuple[str, ...] | None] = None  # the context's fields that it reads; all by default
    forward_after: ClassVar[bool] = False  # whether `mj_forward` follows a step, so that `outputs` are of its end
    render_modes = ("human", "rgb_array", "ansi")
    diverges = True
    camera: ClassVar[str] = "track"  # of the pictures, where the model has it
    threads: int | None = None  # of the stepping; METABENCH_THREADS or all cores by default

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steppers: dict[int, Stepper] = {}
        self._known: dict[int, _Models] = {}
        self._models: OrderedDict[tuple[float, ...], mujoco.MjModel] = OrderedDict()  # the last used last
        self._model_bytes = 0
        self._screens: dict[str, Screen] = {}  # by render mode

    @property
    def arguments(self) -> dict[str, Any]:
        """What the constructor was given: all that a copy needs."""
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by its arguments: models, data and threads belong to this object and are made anew."""
        return _remake, (type(self), self.arguments)

    @functools.cached_property
    def model(self) -> mujoco.MjModel:
        """The unchanged model."""
        import gymnasium

        mujoco = import_mujoco()
        folder = self.assets or Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
        model = mujoco.MjModel.from_xml_path(str(folder / self.xml))
        if self.timestep is not None:
            model.opt.timestep = self.timestep
        return model

    def configure(self, model: mujoco.MjModel, context: C, slot: int) -> None:
        """Changes a fresh copy of the model for the context of one slot; nothing, by default."""

    def model_of(self, context: C, slot: int = 0) -> mujoco.MjModel:
        """The model of one slot: made once per context, and kept while `MODEL_BYTES` hold it."""
        if not self.varies_model:
            return self.model
        names = self.model_fields or [f.name for f in dataclasses.fields(self.context_type)]  # pyright: ignore[reportArgumentType]
        key = tuple(float(getattr(context, name)[slot]) for name in names)
        if key not in self._models:
            model = copy.copy(self.model)
            self.configure(model, context, slot)
            self._remember(key, model)
        self._models.move_to_end(key)
        return self._models[key]

    def _remember(self, key: tuple[float, ...], model: mujoco.MjModel) -> None:
        """Keeps a model and forgets those that were not used the longest; who still steps one keeps it alive."""
        import mujoco

        self._models[key] = model
        self._model_bytes += mujoco.mj_sizeModel(model)
        while self._model_bytes > MODEL_BYTES and len(self._models) > 1:
            self._model_bytes -= mujoco.mj_sizeModel(self._models.popitem(last=False)[1])

    def initial(self, context: C, rng: SlotRng) -> MujocoState:
        """The model's rest position with uniform noise, and Gaussian noise as velocity."""
        model = self.model
        noise = rng.uniform(-self.position_noise, self.position_noise, model.nq)
        return self.place(context, model.qpos0 + noise, rng.normal(self.velocity_noise, model.nv))

    def place(self, context: C, qpos: Array, qvel: Array) -> MujocoState:
        """The state with these positions `[B, nq]` and velocities `[B, nv]`, as after a reset and `mj_forward`."""
        count, nq = len(qpos), self.model.nq
        physics = np.zeros((count, self._state_size))
        physics[:] = self._rest
        physics[:, 1 : 1 + nq] = qpos
        physics[:, 1 + nq : 1 + nq + self.model.nv] = qvel
        control = np.zeros((count, self.model.nu))
        state, _ = self._run(context, physics, control, frame_skip=0)
        if self.contact_forces:  # before the first step there are none
            state.outputs[:, self.output_columns["cfrc_ext"]] = 0.0
        return state

    def transition(self, state: MujocoState, action: Array, context: C, rng: SlotRng) -> MujocoState:
        """`frame_skip` steps of MuJoCo under the same controls.

        Raises:
            Diverged: If a slot's state is no longer finite, or MuJoCo has reset it.
        """
        after, bad = self._run(context, state.physics, action, self.frame_skip)
        if bad:
            raise self._divergence(state, after, context)
        return after

    def pack(self, state: MujocoState) -> dict[str, Array]:
        """The state row, and the outputs that the next reward reads."""
        return {"physics": state.physics} | {name: self.output(state, name) for name in self.remembered}

    def unpack(self, saved: Mapping[str, Array], like: MujocoState) -> MujocoState:
        """The inverse; outputs that nothing will read are NaN."""
        physics = saved["physics"]
        outputs = np.full((len(physics), like.outputs.shape[1]), np.nan)
        for name in self.remembered:
            outputs[:, self.output_columns[name]] = saved[name]
        return MujocoState(physics, physics[:, self._qpos], physics[:, self._qvel], outputs)

    def _divergence(self, before: MujocoState, after: MujocoState, context: C) -> Diverged:
        sound = np.isfinite(after.qpos).all(axis=1) & np.isfinite(after.qvel).all(axis=1)
        sound &= after.physics[:, 0] - before.physics[:, 0] > self.model.opt.timestep * (self.frame_skip - 0.5)
        state = MujocoState(*(np.where(sound[:, None], new, old) for new, old in zip(after, before, strict=True)))
        slot = int(np.flatnonzero(~sound)[0])
        more = f" and {(~sound).sum() - 1} more" if (~sound).sum() > 1 else ""
        names = [f.name for f in dataclasses.fields(self.context_type)][:4]  # pyright: ignore[reportArgumentType]
        task = ", ".join(f"{name}={getattr(context, name)[slot]:g}" for name in names)
        text = f"the simulation of slot {slot}{more} diverged (task {task}): try smaller actions or another task"
        return Diverged(text, state, ~sound)

    def _run(self, context: C, physics: Array, control: Array, frame_skip: int) -> tuple[MujocoState, int]:
        count = len(physics)
        with self._lock:
            stepper = self._steppers.get(count) or self._make_stepper(count)
            models = self._models_of(context, count) if self.varies_model else None  # alive until the step is done
            stepper.models[:] = self._address if models is None else models.addresses
            stepper.states[:] = physics
            stepper.controls[:] = control
            bad = stepper.step(
                count, frame_skip, self.contact_forces and frame_skip > 0, self.forward_after or frame_skip == 0
            )
            after, outputs = stepper.states.copy(), stepper.outputs.copy()
        return MujocoState(after, after[:, self._qpos], after[:, self._qvel], outputs), bad

    @functools.cached_property
    def _qpos(self) -> slice:
        return slice(1, 1 + self.model.nq)

    @functools.cached_property
    def _qvel(self) -> slice:
        return slice(1 + self.model.nq, 1 + self.model.nq + self.model.nv)

    def _make_stepper(self, count: int) -> Stepper:
        from metabench.physics.mujoco.workers import Kind, Stepper
        from metabench.physics.threads import default_threads

        if len(self._steppers) >= _STEPPERS:
            self._steppers.pop(next(iter(self._steppers)))
        kind = Kind(self.model, self.outputs)
        self._steppers[count] = Stepper((kind,), count, self.threads or default_threads())
        return self._steppers[count]

    def _models_of(self, context: C, count: int) -> _Models:
        """The slots' models; remembered per context object, because contexts are values."""
        key = id(context)
        known = self._known.get(key)
        if known is not None and known.context() is context:
            return known
        models = tuple(self.model_of(context, slot) for slot in range(count))
        addresses = np.array([model._address for model in models], dtype=np.int64)
        # The entry keeps its models alive, whatever the cache forgets, and goes when the context goes.
        entry = _Models(weakref.ref(context, lambda _: self._known.pop(key, None)), addresses, models)
        self._known[key] = entry
        return entry

    @functools.cached_property
    def _address(self) -> int:
        return self.model._address

    @functools.cached_property
    def _state_size(self) -> int:
        import mujoco

        return mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION)

    @functools.cached_property
    def _rest(self) -> Array:
        """`[S]` the state after `mj_resetData`."""
        import mujoco

        data, rest = mujoco.MjData(self.model), np.zeros(self._state_size)
        mujoco.mj_getState(self.model, data, rest, mujoco.mjtState.mjSTATE_INTEGRATION)
        return rest

    @functools.cached_property
    def output_columns(self) -> dict[str, slice]:
        """Where each of `outputs` lies in the state's last field."""
        import mujoco

        data, columns, start = mujoco.MjData(self.model), {}, 0
        for name in self.outputs:
            size = getattr(data, name).size
            columns[name] = slice(start, start + size)
            start += size
        return columns

    def output(self, state: MujocoState, name: str) -> Array:
        """One of `outputs`, flat, `[B, size]`."""
        return state.outputs[:, self.output_columns[name]]

    @functools.cached_property
    def force_column(self) -> int:
        """Where `xfrc_applied`, six numbers per body, begins in the state row."""
        import mujoco

        kinds = mujoco.mjtState
        before = (kinds.mjSTATE_PHYSICS, kinds.mjSTATE_TIME, kinds.mjSTATE_WARMSTART, kinds.mjSTATE_CTRL)
        return sum(mujoco.mj_stateSize(self.model, int(kind)) for kind in before) + self.model.nv  # and qfrc_applied

    def body(self, state: MujocoState, name: str) -> Array:
        """Position of a body after the step, `[B, 3]` m."""
        return state.outputs[:, self._body_columns[name]]

    @functools.cached_property
    def _body_columns(self) -> dict[str, slice]:
        start, model = self.output_columns["xpos"].start, self.model
        return {model.body(k).name: slice(start + 3 * k, start + 3 * k + 3) for k in range(model.nbody)}

    def external_forces(self, state: MujocoState) -> Array:
        """Contact forces on all bodies, clipped to [-1, 1], `[B, 6 nbody]`, as the Ant reward takes them."""
        return np.clip(self.output(state, "cfrc_ext"), -1.0, 1.0)

    def picture(self, state: MujocoState, context: C, slot: int) -> Array:
        """Gymnasium's picture `[480, 480, 3]`; ValueError in one sentence where there is nothing to draw with."""
        picture = self._draw("rgb_array", state, context, slot)
        assert picture is not None
        return picture

    def show(self, state: MujocoState, context: C, slot: int) -> None:
        """Draws one slot in Gymnasium's window, with its keys and mouse; ValueError where there is no display."""
        self._draw("human", state, context, slot)

    def close(self) -> None:
        """Closes the window and frees what draws; both are made anew when they are needed."""
        while self._screens:
            self._screens.popitem()[1].close()

    def drawn_model(self, context: C, slot: int) -> mujoco.MjModel:
        """The model of a slot's picture: the one that is stepped, or one that has its states and more to look at."""
        return self.model_of(context, slot)

    def markers(self, state: MujocoState, context: C, slot: int) -> list[dict[str, Any]]:
        """What people should see and the model does not have, as markers of MujocoRenderer; nothing, by default."""
        return []

    def _draw(self, mode: str, state: MujocoState, context: C, slot: int) -> Array | None:
        try:
            from metabench.physics.mujoco.screen import Screen
        except ModuleNotFoundError as error:
            raise missing("drawing with MuJoCo", error.name, "mujoco") from error
        if mode not in self._screens:
            self._screens[mode] = Screen(self.camera, mode)
        return self._screens[mode].draw(
            self.model_of(context, slot),
            state.physics[slot],
            self.markers(state, context, slot),
            lambda: self.drawn_model(context, slot),
        )

    def text(self, state: MujocoState, context: C, slot: int) -> str:
        """Time, the first positions and the task."""
        values = (f"{f.name} {getattr(context, f.name)[slot]:.3f}" for f in dataclasses.fields(self.context_type))  # pyright: ignore[reportArgumentType]
        position = " ".join(f"{x:+.2f}" for x in state.qpos[slot][:8])
        return f"time {state.physics[slot, 0]:.2f} s\nqpos {position}\ntask {', '.join(list(values)[:4])}\n\n\n"


def import_mujoco() -> Any:
    """The module `mujoco`; ValueError in one sentence where MUJOCO_GL keeps it from being imported."""
    try:
        import mujoco
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of whatever kind the OpenGL library that is named has
        gl = os.environ.get("MUJOCO_GL")
        if gl is None:
            raise
        raise ValueError(
            f"MuJoCo cannot be imported under MUJOCO_GL={gl} ({error}): start Python with MUJOCO_GL=egl in its "
            "environment, with none, or with what it needs installed"
        ) from error
    return mujoco


def _remake(kind: type[MujocoFamily[Any]], arguments: dict[str, Any]) -> MujocoFamily[Any]:
    return kind(**arguments)


def norm_squared(action: Array) -> Array:
    """Sum of squared actions `[B]`, in the actions' own precision, as Gymnasium computes control costs."""
    return np.add.reduce(np.square(action), axis=1)
