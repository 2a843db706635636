"""Meta-World's own environments as the reference backend, and pictures of its scenes."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import mujoco
import numpy as np

from metabench.physics.foreign import Reply
from metabench.physics.metaworld.classes import TARGET, describe, find
from metabench.physics.metaworld.models import Start, make_reference, reset_reference
from metabench.physics.mujoco.kernel import STATE
from metabench.physics.mujoco.screen import Screen
from metabench.rng import Array

MAX_CONTEXTS = 8  # of OpenGL: scenes of different classes share nothing
CAMERA = "corner4"  # like all of their corner cameras, it hangs upside down


class Screens:
    """What draws the scenes: a context per model and mode, the last used ones kept."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, int], tuple[Any, Screen]] = OrderedDict()

    def draw(self, mode: str, model: mujoco.MjModel, state: Array) -> Array | None:
        """A state `[S]` as a picture `[480, 480, 3]` uint8; None where it goes to a window."""
        key = mode, id(model)
        if key not in self._open:
            while len(self._open) >= (1 if mode == "human" else MAX_CONTEXTS):  # one window at a time
                self._open.popitem(last=False)[1][1].close()
            self._open[key] = model, Screen(CAMERA, mode)  # the model, so that its id stays its own
        self._open.move_to_end(key)
        picture = self._open[key][1].draw(model, state)
        return None if picture is None else picture[::-1, ::-1].copy()

    def draw_start(self, mode: str, start: Start, state: Array) -> Array | None:
        """The same in the scene of a task, whose goal is marked in it."""
        _, own, env = start.keep
        for field, values in own.items():
            getattr(env.model, field)[:] = values
        return self.draw(mode, env.model, state[: len(start.state)])

    def close(self) -> None:
        """Closes the window and frees what draws."""
        while self._open:
            self._open.popitem()[1][1].close()


class Reference:
    """One environment of theirs per class, made when a task first needs it."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self._made: dict[str, Any] = {}
        self._name = names[0]
        self._seen = np.empty(0)
        self._screens = Screens()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied without its episode, which `ForeignSimulator` plays again: Meta-World forgets it."""
        return type(self), (self.names,)

    @property
    def env(self) -> Any:
        """Their environment of the class that is on; ValueError before an episode has begun."""
        if self._name not in self._made:
            raise ValueError("there is no episode yet: a copy has to begin one")
        return self._made[self._name]

    def begin(self, task: Array) -> Array:
        """Their reset; of several classes, the first number of the task says which."""
        placement = task if len(self.names) == 1 else task[1:]
        self._name = self.names[0 if len(self.names) == 1 else int(task[0])]
        if self._name not in self._made:
            self._made[self._name] = make_reference(self._name)
        self._seen = reset_reference(self.env, find(self._name), placement.tolist())
        return self._seen.copy()

    def step(self, action: Array) -> Reply:
        """Their step."""
        observation, reward, _, _, info = self.env.step(action)
        self._seen = np.array(observation)
        return Reply(self._seen.copy(), float(reward), False, bool(info["success"]))

    def draw(self, mode: str) -> Array | None:
        """As `Screens.draw`."""
        state = np.zeros(mujoco.mj_stateSize(self.env.model, STATE))
        mujoco.mj_getState(self.env.model, self.env.data, state, STATE)
        return self._screens.draw(mode, self.env.model, state)

    def text(self) -> str:
        """As `describe`."""
        return describe(self._name, self.env.data.time, self._seen, getattr(self.env, TARGET))
