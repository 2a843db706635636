"""Meta-World's own environments as the source of models and of starts: what a reset leaves behind, kept per task.

A reset of theirs is about 100 steps of physics and comes out the same every time for the same class and placement, so
it is played once by their code and remembered: the state, the observation, what the reward needs to know, and the
places in the model that it moved. The model of a task is the class's model but for those places; as they are two of
its 380 arrays, a task's model is a copy of the struct that points to arrays of its own.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import contextlib
import ctypes
import functools
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from metabench.physics.metaworld import vocabulary as words
from metabench.physics.metaworld.classes import TARGET, TCP, TaskClass, find
from metabench.physics.mujoco.kernel import STATE
from metabench.rng import Array

MOVED = ("body_pos", "site_pos")  # all that any reset changes in a model; a test looks at every array of every class
MAX_STARTS = 8192  # remembered per process; one takes about 7 KB
OBSERVATION, FRAME = 39, 18  # numbers of the observation, and of one of the two frames in it


class Start(NamedTuple):
    """What a reset leaves behind. Read-only."""

    model: int  # address of the task's mjModel
    state: Array  # [S] mjSTATE_INTEGRATION
    observation: Array  # [39]
    constants: Array  # [12] target, start, first place of the finger tips, extra: see `vocabulary`
    keep: tuple[Any, ...]  # what the model's address needs alive


class Scene:
    """One class: Meta-World's environment, made when it is first needed, and the starts that it has played."""

    def __init__(self, name: str):
        self.task_class: TaskClass = find(name)
        self.env = make_reference(name)
        self._struct, self._pointers = _read_struct(self.env.model)

    @property
    def model(self) -> mujoco.MjModel:
        """The class's model: sizes, and every array but the moved ones."""
        return self.env.model

    def play(self, placement: Sequence[float]) -> Start:
        """Resets their environment to a placement."""
        observation = reset_reference(self.env, self.task_class, placement)
        env, own = self.env, {field: getattr(self.env.model, field).copy() for field in MOVED}
        struct = ctypes.create_string_buffer(self._struct, len(self._struct))
        for field, pointer in self._pointers.items():
            ctypes.c_int64.from_buffer(struct, pointer).value = own[field].ctypes.data
        state = np.zeros(mujoco.mj_stateSize(env.model, STATE))
        mujoco.mj_getState(env.model, env.data, state, STATE)
        constants = np.zeros(words.CONSTANTS)
        columns = (words.TARGET, TARGET), (words.START, self.task_class.start), (words.TCP, TCP)
        for column, attribute in (*columns, (words.EXTRA, self.task_class.extra)):
            if attribute:
                value = np.atleast_1d(getattr(env, attribute))
                constants[column : column + len(value)] = value
        return Start(ctypes.addressof(struct), state, observation, constants, (struct, own, env))


def _read_struct(model: mujoco.MjModel) -> tuple[bytes, dict[str, int]]:
    """The bytes of an mjModel struct, and where in it the pointers to the moved arrays stand."""
    from mujoco.introspect import structs

    names = [field.name for field in structs.STRUCTS["mjModel"].fields]
    first = names.index("body_pos")  # from here on there are only pointers
    words_of_struct = (ctypes.c_int64 * 4096).from_address(model._address)
    start = 8 * next(k for k in range(4096) if words_of_struct[k] == model.body_pos.ctypes.data)
    raw = ctypes.string_at(model._address, start + 8 * (len(names) - first))
    pointers = {field: start + 8 * (names.index(field) - first) for field in MOVED}
    for field, pointer in pointers.items():
        found = int.from_bytes(raw[pointer : pointer + 8], "little")
        if found != getattr(model, field).ctypes.data:
            raise RuntimeError(
                f"this MuJoCo lays mjModel out otherwise than it says: {field} is not where it should be"
            )
    return raw, pointers


class Starts:
    """The starts of all classes, by class and placement; the oldest are forgotten."""

    def __init__(self) -> None:
        self._scenes: dict[str, Scene] = {}
        self._starts: OrderedDict[tuple[str, tuple[float, ...]], Start] = OrderedDict()
        self._lock = threading.RLock()

    def scene(self, name: str) -> Scene:
        """The scene of a class."""
        with self._lock:
            if name not in self._scenes:
                self._scenes[name] = Scene(name)
            return self._scenes[name]

    def get(self, name: str, placement: tuple[float, ...]) -> Start:
        """The start of a task, played if it is not known."""
        key = (name, placement)
        with self._lock:
            start = self._starts.get(key)
            if start is None:
                if len(self._starts) >= MAX_STARTS:
                    self._starts.popitem(last=False)
                start = self._starts[key] = self.scene(name).play(placement)
            return start


@functools.cache
def starts() -> Starts:
    """The process's starts: scenes are large, and families of different benchmarks share them."""
    return Starts()


def make_reference(name: str) -> Any:
    """Meta-World's environment of a class, version V2 of its reward, without a task."""
    with _global_stream_untouched():
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        env = ALL_V3_ENVIRONMENTS[f"{name}-v3"](reward_function_version="v2")
    env.max_path_length = 2**62  # horizons are ours to keep
    return env


def reset_reference(env: Any, task_class: TaskClass, placement: Sequence[float]) -> Array:
    """Sets a task with a hidden goal, as ML1 does, and resets; the observation `[39]`."""
    from metaworld.types import Task

    vector = np.array(placement[: len(task_class.box)], dtype=np.float64)
    # Their tasks are pickles; this one is made and read here, none is taken from outside.
    data = pickle.dumps({"rand_vec": vector, "env_cls": type(env), "partially_observable": True})
    with _global_stream_untouched():
        env.set_task(Task(env_name=f"{task_class.name}-v3", data=data))
        observation, _ = env.reset()
    return np.array(observation, dtype=np.float64)


@contextlib.contextmanager
def _global_stream_untouched() -> Iterator[None]:
    """Meta-World draws from NumPy's global stream; the user's stays as it was."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
