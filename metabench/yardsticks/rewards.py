"""Rewards from what is seen: what a transition would have paid under any task, where the observations tell it.

Who may use them: filters that infer the task from the rewards they get, and learners that relabel what was played.
All are those of the families; tests play every one against the family's own rewards. (The cheetah's is off by up to
0.03 in an episode's first step.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metabench.families.cheetah import CONTROL_COST, JOINTS
from metabench.families.grid_navigation import REWARDS, SIZE
from metabench.families.reacher import DISC_RADIUS
from metabench.registry import spec
from metabench.rng import Array

# (before [..., O], action [...] or [..., A], after [..., O], contexts [..., K]) to rewards [...]; axes broadcast
SeenReward = Callable[[Array, Array, Array, Array], Array]

SPEED, TORSO_X, FINGERTIP = 8, 8 + 3 + len(JOINTS), 6  # columns of the cheetah's and the reacher's observations
SUBSTEP = 0.01  # s, of the cheetah's model


def season(number: Array) -> tuple[Array, Array]:
    """Wind (N) and target speed (m/s) of CheetahWindVel's session with a number."""
    return 10.0 * np.sin(0.2 * number), 1.5 + 1.5 * np.sin(0.5 * number)


def _place(observation: Array) -> Array:
    """Where the cheetah is, m: what is seen of its torso is one substep old, but for an episode's first observation."""
    return observation[..., TORSO_X] + SUBSTEP * observation[..., SPEED]


def _pace(before: Array, after: Array, dt: float) -> Array:
    return (_place(after) - _place(before)) / dt


def _cost(action: Array) -> Array:
    return CONTROL_COST * np.sum(np.square(action), axis=-1)


def _cheetah_vel(before: Array, action: Array, after: Array, context: Array) -> Array:
    return -np.abs(_pace(before, after, 0.05) - context[..., 0]) - _cost(action)


def _cheetah_dir(before: Array, action: Array, after: Array, context: Array) -> Array:
    return context[..., 0] * _pace(before, after, 0.05) - _cost(action)


def _cheetah_wind_vel(before: Array, action: Array, after: Array, context: Array) -> Array:
    _, speed = season(context[..., 0] + context[..., 1])
    return -np.abs(_pace(before, after, 0.05) - speed) - _cost(action)


def _reacher(before: Array, action: Array, after: Array, context: Array) -> Array:
    distance, bearing = DISC_RADIUS * np.sqrt(context[..., 0]), context[..., 1]
    goal = np.stack((distance * np.cos(bearing), distance * np.sin(bearing)), axis=-1)
    gap = after[..., FINGERTIP : FINGERTIP + 2] - goal
    return -np.sqrt(np.sum(gap**2, axis=-1)) - np.sum(np.square(action), axis=-1)


def _point(before: Array, action: Array, after: Array, context: Array) -> Array:
    return -np.sqrt(np.sum((after[..., :2] - context[..., :2]) ** 2, axis=-1))


def _cell(xy: Array) -> Array:
    return (xy[..., 0] * SIZE + xy[..., 1]).astype(np.int64)


def _grid(before: Array, action: Array, after: Array, context: Array) -> Array:
    return REWARDS.take((_cell(after[..., :2]) == context[..., 0]).astype(np.int64))


def _grid_switch(before: Array, action: Array, after: Array, context: Array) -> Array:
    goal = np.where(context[..., 2] == 0, context[..., 0], context[..., 1])
    return REWARDS.take((_cell(after[..., :2]) == goal).astype(np.int64))


_BY_FAMILY: dict[str, SeenReward] = {
    "CheetahVel": _cheetah_vel,
    "CheetahDir": _cheetah_dir,
    "CheetahWindVel": _cheetah_wind_vel,
    "ReacherGoal": _reacher,
    "PointRobot": _point,
    "GridNavigation": _grid,
    "GridSwitch": _grid_switch,
}


def seen_reward(benchmark: str) -> SeenReward:
    """The benchmark's reward as a function of what is seen and of the task; ValueError where it is not known."""
    family = type(spec(benchmark).family())
    if family.__name__ not in _BY_FAMILY or not family.__module__.startswith("metabench."):
        known = ", ".join(sorted(_BY_FAMILY))
        raise ValueError(f"rewards of {benchmark} are not known from its observations; those of {known} are")
    return _BY_FAMILY[family.__name__]
