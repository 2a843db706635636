"""A family of MDPs, written once over arrays whose first axis is the slot `[B]`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from gymnasium import spaces

from metabench.rng import Array, SlotRng
from metabench.tasks import param_ranges

S = TypeVar("S", bound="tuple[Array, ...]")  # a NamedTuple of arrays [B, ...]
C = TypeVar("C")  # a frozen dataclass of arrays [B], its fields made by param() and latent()
ActionSpace: TypeAlias = "spaces.Box | spaces.Discrete"


class Field(NamedTuple):
    """One column of the observation."""

    name: str
    low: float
    high: float
    unit: str = ""
    doc: str = ""
    constant: bool = False  # need not change: kept where the published observation has it, or changed by skill alone


class Diverged(ArithmeticError):
    """The simulation of some slots has left the finite numbers: raised by `transition`, all other slots are sound.

    Attributes:
        state: The state after the step; the rows of failed slots are as they were before it.
        slots: `[B]` bool: which have failed.
    """

    def __init__(self, message: str, state: Any, slots: Array):
        super().__init__(message)
        self.state, self.slots = state, slots


class DivergenceWarning(RuntimeWarning):
    """An episode has ended because its simulation diverged; the message names slot and task."""


class Family(abc.ABC, Generic[S, C]):
    """Dynamics, observation and reward of one task family.

    The five functions are pure: arrays in, fresh arrays out, all randomness from the streams handed in. The context is
    an argument of the dynamics and the reward; `observation` is not given it, so that what the agent must infer cannot
    leak. A family knows nothing of sessions, trials, splits or Gymnasium.
    """

    context_type: type[C]  # frozen dataclass; what varies between tasks
    observation_fields: tuple[Field, ...]  # names, bounds and units of the observation's columns
    observation_dtype: ClassVar[type[np.floating]] = np.float32
    action_space: ActionSpace  # of one slot
    action_meanings: ClassVar[tuple[str, ...]]  # what each action, or each column of it, does
    horizon: int  # steps of an episode
    dt: float = 1.0  # seconds a step lasts; 1 where time has no unit
    render_fps: int = 10
    render_modes: tuple[str, ...] = ("rgb_array", "ansi")
    longest: int | None = (
        None  # steps that `max_episode_steps` may stretch an episode to; no more than `horizon` if None
    )
    diverges: ClassVar[bool] = False  # whether `transition` may raise Diverged
    backends: tuple[str, ...] = ("batched",)  # ways to step it, the default first; see `simulator`

    @abc.abstractmethod
    def initial(self, context: C, rng: SlotRng) -> S:
        """The state at the start of an episode."""

    @abc.abstractmethod
    def transition(self, state: S, action: Array, context: C, rng: SlotRng) -> S:
        """The state after one step; actions are `[B]` int64 or `[B, A]`, inside the space for Discrete.

        Raises:
            Diverged: If the simulation of a slot fails; the simulator then ends that slot's episode.
        """

    @abc.abstractmethod
    def observation(self, state: S) -> Array:
        """`[B, O]` of `observation_dtype`: the columns of `observation_fields`, in a fresh array."""

    @abc.abstractmethod
    def reward(self, state: S, action: Array, next_state: S, context: C) -> Array:
        """`[B]` float64."""

    def terminal(self, state: S) -> Array:
        """`[B]` bool: the episode ends here by the task's own rule; never, by default."""
        return np.zeros(len(state[0]), dtype=bool)

    def success(self, state: S) -> Array | None:
        """`[B]` bool: the task is achieved in this state; None, by default, for families that know no success."""
        return None

    def reject(self, context: C) -> str:
        """Why parameters that are legal each are no task together, for the first such of B slots; empty if all are.

        Tasks that are drawn, given by hand and checked all follow this one rule.
        """
        return ""

    def rows(self) -> Mapping[str, Array] | None:
        """Split -> `[n, K]` float64: the frozen tables, where they do not lie in `tables/<id>.json`."""
        return None

    def pack(self, state: S) -> dict[str, Array]:
        """What an exact continuation needs of a state, by name; every field, by default. The arrays may be shared."""
        return dict(zip(state._fields, state, strict=True))  # pyright: ignore[reportAttributeAccessIssue]

    def unpack(self, saved: Mapping[str, Array], like: S) -> S:
        """The inverse of `pack`; `like` is any state of this family."""
        return type(like)(**saved)

    def simulator(self, backend: str, drift: Any, tasks: Any, rng: SlotRng, horizon: int) -> Any:
        """The `Simulator` of this family's own for one of `backends`; None for the one made of the five functions.

        A third party's environments are stepped so: `backend="reference"` runs their own code with the same tasks,
        starts and semantics, to compare with or to fall back on.

        Args:
            backend: One of `backends`.
            drift: What happens inside an episode, a `metabench.drift.Drift`.
            tasks: The slots' first tasks, a `metabench.tasks.TaskBatch`.
            rng: The slots' streams.
            horizon: Steps of an episode.
        """
        return None

    def picture(self, state: S, context: C, slot: int) -> Array:
        """An RGB image `[H, W, 3]` uint8 of one slot, hidden task included: it is for people, not for agents."""
        raise ValueError(f"{type(self).__name__} draws no pictures")

    def show(self, state: S, context: C, slot: int) -> None:
        """Draws one slot in a window of the family's own, where "human" is among its `render_modes`."""
        raise ValueError(f"{type(self).__name__} opens no window")

    def close(self) -> None:
        """Closes the window, if there is one."""

    def text(self, state: S, context: C, slot: int) -> str:
        """The same in characters."""
        raise ValueError(f"{type(self).__name__} draws no text pictures")

    @property
    def observation_space(self) -> spaces.Box:
        """The Box of one slot's observation, from `observation_fields`."""
        low, high = (np.array([f[side] for f in self.observation_fields], self.observation_dtype) for side in (1, 2))
        return spaces.Box(low, high, dtype=self.observation_dtype)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the task parameters."""
        return tuple(param_ranges(self.context_type))
