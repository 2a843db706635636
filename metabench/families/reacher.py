"""A two-link arm that must find a hidden goal on the disc it can reach; with sessions, the goal moves.

Gymnasium 1.4's Reacher-v5 without the goal in its observation. DynaMITE-RL (arXiv 2402.15957) has a reacher whose goal
changes; its numbers are not known, so horizon and sessions of ReacherSwitch are our definition.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from metabench.family import Field
from metabench.physics.compiled import compiled
from metabench.physics.mujoco.family import MujocoFamily, MujocoState
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import param

DISC_RADIUS = 0.2  # m within which goals lie
POSITION_NOISE, VELOCITY_NOISE = 0.1, 0.005  # rad and rad/s, uniform
INF = float("inf")


@dataclass(frozen=True)
class Goal:
    """Where the goal is, so that even values are places even over the disc."""

    share: Array = param(0.0, 1.0, "", "(distance of the goal / 0.2 m) squared")
    bearing: Array = param(0.0, 2 * np.pi, "rad", "direction of the goal")

    @functools.cached_property
    def goal(self) -> Array:
        """`[B, 2]` m."""
        distance = DISC_RADIUS * np.sqrt(self.share)
        return np.stack([distance * np.cos(self.bearing), distance * np.sin(self.bearing)], axis=1)


@compiled
def reach_reward(fingertip: Array, goal: Array, action: Array) -> Array:
    """Minus the distance from the fingertip to the goal, `[B, 2]` m each, - sum a^2."""
    offset = fingertip - goal
    return -np.sqrt(np.sum(offset * offset, axis=1)) - np.sum(action * action, axis=1)


class ReacherGoal(MujocoFamily[Goal]):
    """A two-link arm reaches for a hidden goal.

    The reward is minus the distance from the fingertip to the goal and minus the squared torques. Goals cover the disc
    the arm can reach, so `ood` moves them instead: the goal is drawn again in the middle of the episode.
    """

    xml = "reacher.xml"
    frame_skip = 2
    outputs = ("xpos",)
    context_type = Goal
    observation_fields = (
        Field("shoulder_cosine", -1, 1, "", "cosine of the first joint's angle"),
        Field("elbow_cosine", -1, 1, "", "cosine of the second joint's angle"),
        Field("shoulder_sine", -1, 1, "", "sine of the first joint's angle"),
        Field("elbow_sine", -1, 1, "", "sine of the second joint's angle"),
        Field("shoulder_velocity", -INF, INF, "rad/s", "of the first joint"),
        Field("elbow_velocity", -INF, INF, "rad/s", "of the second joint"),
        Field("fingertip_x", -INF, INF, "m", "position of the fingertip"),
        Field("fingertip_y", -INF, INF, "m", "position of the fingertip"),
    )
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = ("torque on the shoulder", "torque on the elbow")
    horizon = 50
    dt = 0.02
    render_fps = 50

    def __init__(self, horizon: int = 50):
        super().__init__()
        self.horizon = horizon

    @property
    def arguments(self) -> dict[str, int]:
        """What a copy is made with."""
        return {"horizon": self.horizon}

    def initial(self, context: Goal, rng: SlotRng) -> MujocoState:
        """The stretched arm with uniform noise; the model's target, which nothing sees, stands at the goal."""
        arm = rng.uniform(-POSITION_NOISE, POSITION_NOISE, 2)
        velocity = rng.uniform(-VELOCITY_NOISE, VELOCITY_NOISE, 2)
        return self.place(context, np.append(arm, context.goal, axis=1), np.append(velocity, 0.0 * velocity, axis=1))

    def fingertip(self, state: MujocoState) -> Array:
        """`[B, 2]` m."""
        return self.body(state, "fingertip")[:, :2]

    def observation(self, state: MujocoState) -> Array:
        """Cosines and sines of the joints, their velocities, and the fingertip."""
        arm = state.qpos[:, :2]
        return np.concatenate((np.cos(arm), np.sin(arm), state.qvel[:, :2], self.fingertip(state)), axis=1)

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: Goal) -> Array:
        """Minus the distance to the goal (m) - sum a^2."""
        return reach_reward(self.fingertip(next_state), context.goal, action)


_SOURCES = ("Gymnasium 1.4, Reacher-v5: model, reset, reward",)
register(
    Spec(
        id="ReacherGoal-v0",
        entry_point=f"{__name__}:ReacherGoal",
        summary="A two-link arm reaches for a hidden goal.",
        sources=_SOURCES,
        horizon=50,
        episodes=3,
        repeats=4,
        extra="mujoco",
        split_sessions={"ood": {"kind": "fixed", "length": 25}},
        digests={
            "train": "c38a16bcd66257c84db3d0661135c69cf5eaf05ff4819fd366daab0648603fb2",
            "test": "7e67d36dd093520a5393f25456d4c2bad33b7051c5b6f624f30e612bc153dad6",
            "ood": "bbbe32ba1699837d0dcb9d4a4649da7bae27b336bd456e48715291347d9a4619",
        },
    )
)
register(
    Spec(
        id="ReacherSwitch-v0",
        entry_point=f"{__name__}:ReacherGoal",
        summary="The hidden goal of a two-link arm moves session by session (a DLCMDP).",
        sources=(*_SOURCES, "Liang et al. 2024 (DynaMITE-RL), arXiv 2402.15957: the idea; numbers are our definition"),
        horizon=100,
        kwargs={"horizon": 100},
        episodes=1,
        repeats=4,
        extra="mujoco",
        sessions={"kind": "geometric", "p": 0.04},
        split_sessions={"ood": {"kind": "geometric", "p": 0.08}},
        digests={
            "train": "43b08a549d3591c8c5e467a6b0a808d1d9ad38867c6a6e8b8ec80c209b47079a",
            "test": "c4f0424758593c373c2f112ea5e777309a9bc56cd15daf5c2db5aea90fc708cd",
            "ood": "005d640c2e8474d13451d888988388914d27632b4bd05f5e166677968da248e1",
        },
    )
)
