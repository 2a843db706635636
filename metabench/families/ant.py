"""Ant families: run in a hidden direction; go to a hidden place.

| | ours | PEARL (oyster) | VariBAD | Meta-DT |
| --- | --- | --- | --- | --- |
| AntDir tasks | angles, 45 / 5 | 2 unseeded angles, train = test | 2 directions | angles, 45 / 5 |
| AntDir observation | 27: qpos[2:], qvel | the same | the same | the same |
| ends early | no | outside 0.2 <= z <= 1 | no | no |
| AntGoal goals | radius 3 sqrt(U), 45 / 5 | the same, 150 / 30 | the same, no split | none |
| AntGoal observation | 29: qpos, qvel | 113, contact forces too | 113 | none |

Old MuJoCo versions left the contact forces of the reward at 0; here they are what Gymnasium 1.4's Ant-v5 has.
Sources: Rakelly et al. 2019 (arXiv 1903.08254, `rlkit/envs/ant_dir.py`, `ant_goal.py`), Zintgraf et al. 2020 (arXiv
1910.08348), Meta-DT (arXiv 2410.11448).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
from gymnasium import spaces

from metabench.family import Field
from metabench.physics.mujoco.family import MujocoFamily, MujocoState, norm_squared
from metabench.registry import Spec, register
from metabench.rng import Array
from metabench.tasks import param

CONTACT_COST = 0.5e-3  # per squared, clipped contact force
DIR_CONTROL_COST, GOAL_CONTROL_COST = 0.5, 0.1  # per squared action
ALIVE = 1.0  # reward of every step of AntDir
GOAL_RADIUS = 3.0  # m within which training goals lie
INF = float("inf")
JOINTS = tuple(f"{part}_{leg}" for leg in range(1, 5) for part in ("hip", "ankle"))
ACTUATED = ("hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3")  # the file's order

C = TypeVar("C")


@dataclass(frozen=True)
class Heading:
    """Which way to run."""

    angle: Array = param(0.0, 2 * np.pi, "rad", "direction to run in")


@dataclass(frozen=True)
class Place:
    """Where to go, so that even values are places even over the disc."""

    share: Array = param(0.0, 2.25, "", "(distance of the goal / 3 m) squared", train=(0.0, 1.0))
    bearing: Array = param(0.0, 2 * np.pi, "rad", "direction of the goal")

    @functools.cached_property
    def goal(self) -> Array:
        """`[B, 2]` m."""
        distance = GOAL_RADIUS * np.sqrt(self.share)
        return np.stack([distance * np.cos(self.bearing), distance * np.sin(self.bearing)], axis=1)


_POSE = (
    Field("z", -INF, INF, "m", "height of the torso"),
    *(Field(f"quaternion_{axis}", -INF, INF, "", "orientation of the torso") for axis in "wxyz"),
    *(Field(f"{joint}_angle", -INF, INF, "rad", f"angle of {joint}") for joint in JOINTS),
)
_MOTION = (
    *(Field(f"{axis}_velocity", -INF, INF, "m/s", "of the torso") for axis in "xyz"),
    *(Field(f"{axis}_spin", -INF, INF, "rad/s", "angular velocity of the torso") for axis in "xyz"),
    *(Field(f"{joint}_velocity", -INF, INF, "rad/s", f"of {joint}") for joint in JOINTS),
)
_XY = (Field("x", -INF, INF, "m", "position of the torso"), Field("y", -INF, INF, "m", "position of the torso"))


class _Ant(MujocoFamily[C], Generic[C]):
    """The body and its costs."""

    xml = "ant.xml"
    frame_skip = 5
    outputs = ("xpos", "cfrc_ext")
    remembered = ("xpos",)
    contact_forces = True
    action_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = tuple(f"torque on {joint}" for joint in ACTUATED)
    horizon = 200
    dt = 0.05
    render_fps = 20

    def velocity(self, state: MujocoState, next_state: MujocoState) -> Array:
        """Mean velocity of the torso in the plane over the step, `[B, 2]` m/s."""
        return (self.body(next_state, "torso")[:, :2] - self.body(state, "torso")[:, :2]) / self.dt

    def contact_cost(self, next_state: MujocoState) -> Array:
        """0.5e-3 times the sum of squared contact forces, clipped to [-1, 1]; `[B]`."""
        return CONTACT_COST * np.sum(np.square(self.external_forces(next_state)), axis=1)


class AntDir(_Ant[Heading]):
    """The ant runs in a hidden direction.

    The reward is the torso's velocity along it, minus control and contact costs, plus 1 for every step. Angles cover
    the whole circle, so `ood` changes the direction instead: it is drawn again after every 100 steps.
    """

    context_type = Heading
    observation_fields = (*_POSE, *_MOTION)

    def observation(self, state: MujocoState) -> Array:
        """Positions without x and y, and velocities."""
        return np.concatenate((state.qpos[:, 2:], state.qvel), axis=1)

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: Heading) -> Array:
        """Velocity along the heading - 0.5 sum a^2 - 0.5e-3 sum clip(f)^2 + 1."""
        velocity = self.velocity(state, next_state)
        along = velocity[:, 0] * np.cos(context.angle) + velocity[:, 1] * np.sin(context.angle)
        return along - DIR_CONTROL_COST * norm_squared(action) - self.contact_cost(next_state) + ALIVE


class AntGoal(_Ant[Place]):
    """The ant walks to a hidden place, training goals within 3 m, `ood` goals 3.5 to 4.5 m away."""

    context_type = Place
    observation_fields = (*_XY, *_POSE, *_MOTION)

    def observation(self, state: MujocoState) -> Array:
        """Positions and velocities."""
        return np.concatenate((state.qpos, state.qvel), axis=1)

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: Place) -> Array:
        """Minus the L1 distance to the goal - 0.1 sum a^2 - 0.5e-3 sum clip(f)^2."""
        distance = np.abs(self.body(next_state, "torso")[:, :2] - context.goal).sum(axis=1)
        return -distance - GOAL_CONTROL_COST * norm_squared(action) - self.contact_cost(next_state)


register(
    Spec(
        id="AntDir-v0",
        entry_point=f"{__name__}:AntDir",
        summary="An ant runs in a hidden direction.",
        sources=("Rakelly et al. 2019, arXiv 1903.08254", "Meta-DT, arXiv 2410.11448: tables", "Gymnasium 1.4, Ant-v5"),
        horizon=200,
        episodes=2,
        repeats=4,
        extra="mujoco",
        split_sessions={"ood": {"kind": "fixed", "length": 100}},
        digests={
            "train": "fd62f32e3a2f6cd1da255891d41b0413e234c37cc7b8bf4b744bee0b418411fe",
            "test": "4bb1eac0fa2a6e6b6d2bf4a797605fd59247c42cd0774be32ec0ec7b7864075d",
            "ood": "bc46bf6c06b867d9adc9b929b7e06623472d3da1e8e2a6a52045126f4113a9a6",
        },
    )
)
register(
    Spec(
        id="AntGoal-v0",
        entry_point=f"{__name__}:AntGoal",
        summary="An ant walks to a hidden place.",
        sources=("Rakelly et al. 2019, arXiv 1903.08254, rlkit/envs/ant_goal.py", "Gymnasium 1.4, Ant-v5"),
        horizon=200,
        episodes=2,
        repeats=4,
        extra="mujoco",
        digests={
            "train": "5d475d4b3e43431c8f072bd5167c07e51f261a368ba6bbb477445af3ddb66599",
            "test": "12312a8d2f05a1c3e9b378600f0adaef05d909a2048df0bd3cf88255f7d720a0",
            "ood": "3dd553463b4800c1ca0a2b11da3bd41ab6e7dcb414deba58098054a4a47a0a01",
        },
    )
)
