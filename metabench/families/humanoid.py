"""A humanoid that runs in a hidden direction.

| | ours | PEARL (oyster) | VariBAD |
| --- | --- | --- | --- |
| tasks | angles U[0, 2 pi], 45 / 5 | unseeded angles, 100 / 30 | angles, no split |
| observation | 348, as Humanoid-v5 | 376, with columns that are always 0 | 376 |
| ends early | no | when the torso leaves 1 <= z <= 2 | no |

The reward is PEARL's: 0.25 times the centre of mass's way along the heading over the 0.003 s of a substep, which is
1.25 times its velocity over the step.
Sources: Rakelly et al. 2019 (arXiv 1903.08254, `rlkit/envs/humanoid_dir.py`), Zintgraf et al. 2020 (arXiv 1910.08348).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from metabench.family import Field
from metabench.physics.mujoco.family import MujocoFamily, MujocoState, norm_squared
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import param

VELOCITY_WEIGHT = 1.25
CONTROL_COST = 0.1  # per squared action
IMPACT_COST, MAX_IMPACT_COST = 0.5e-6, 10.0  # per squared contact force, and at most
ALIVE = 5.0  # reward of every step
NOISE = 0.01  # of the initial positions (m, rad) and velocities, uniform
INF = float("inf")

BODIES = [
    "torso",
    "lower_waist",
    "pelvis",
    "right_thigh",
    "right_shin",
    "right_foot",
    "left_thigh",
    "left_shin",
    "left_foot",
    "right_upper_arm",
    "right_lower_arm",
    "left_upper_arm",
    "left_lower_arm",
]
JOINTS = [
    "abdomen_z",
    "abdomen_y",
    "abdomen_x",
    "right_hip_x",
    "right_hip_z",
    "right_hip_y",
    "right_knee",
    "left_hip_x",
    "left_hip_z",
    "left_hip_y",
    "left_knee",
    "right_shoulder_1",
    "right_shoulder_2",
    "right_elbow",
    "left_shoulder_1",
    "left_shoulder_2",
    "left_elbow",
]
ACTUATED = ("abdomen_y", "abdomen_z", *JOINTS[2:])


@dataclass(frozen=True)
class Heading:
    """Which way to run."""

    angle: Array = param(0.0, 2 * np.pi, "rad", "direction to run in")


class HumanoidDir(MujocoFamily[Heading]):
    """The humanoid runs in a hidden direction.

    The reward is the velocity of its centre of mass along it, minus control and impact costs, plus 5 for every step; it
    may fall and get up. In `ood` the direction is drawn again after every 100 steps.
    """

    xml = "humanoid.xml"
    frame_skip = 5
    outputs = ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    remembered = ("xipos",)
    contact_forces = True
    context_type = Heading
    observation_fields = (
        Field("z", -INF, INF, "m", "height of the torso"),
        *(Field(f"quaternion_{axis}", -INF, INF, "", "orientation of the torso") for axis in "wxyz"),
        *(Field(f"{joint}_angle", -INF, INF, "rad", f"angle of {joint}") for joint in JOINTS),
        *(Field(f"{axis}_velocity", -INF, INF, "m/s", "of the torso") for axis in "xyz"),
        *(Field(f"{axis}_spin", -INF, INF, "rad/s", "angular velocity of the torso") for axis in "xyz"),
        *(Field(f"{joint}_velocity", -INF, INF, "rad/s", f"of {joint}") for joint in JOINTS),
        *(
            Field(f"{body}_inertia_{k}", -INF, INF, "kg m^2, kg", "mass and inertia about the centre of mass", k == 9)
            for body in BODIES
            for k in range(10)
        ),
        *(Field(f"{body}_spatial_velocity_{k}", -INF, INF, "rad/s, m/s", "") for body in BODIES for k in range(6)),
        *(Field(f"{joint}_actuation", -INF, INF, "N m", "force of the actuator") for joint in JOINTS),
        *(
            Field(f"{body}_contact_{k}", -INF, INF, "N m, N", "external force", True)
            for body in BODIES
            for k in range(6)
        ),
    )
    action_space = spaces.Box(-0.4, 0.4, (17,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = tuple(f"torque on {joint}" for joint in ACTUATED)
    horizon = 200
    dt = 0.015
    render_fps = 67

    def initial(self, context: Heading, rng: SlotRng) -> MujocoState:
        """The rest position with uniform noise on positions and velocities."""
        model = self.model
        noise = rng.uniform(-NOISE, NOISE, model.nq + model.nv)
        return self.place(context, model.qpos0 + noise[:, : model.nq], noise[:, model.nq :])

    def observation(self, state: MujocoState) -> Array:
        """Positions without x and y, velocities; inertias, velocities and contact forces of the bodies; actuation."""
        return np.concatenate(
            (
                state.qpos[:, 2:],
                state.qvel,
                self.output(state, "cinert")[:, 10:],
                self.output(state, "cvel")[:, 6:],
                self.output(state, "qfrc_actuator")[:, 6:],
                self.output(state, "cfrc_ext")[:, 6:],
            ),
            axis=1,
        )

    def centre_of_mass(self, state: MujocoState) -> Array:
        """`[B, 2]` m in the plane."""
        mass = self.model.body_mass
        places = self.output(state, "xipos").reshape(-1, len(mass), 3)
        return (places * mass[:, None]).sum(axis=1)[:, :2] / mass.sum()

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: Heading) -> Array:
        """1.25 v - 0.1 sum a^2 - min(0.5e-6 sum f^2, 10) + 5, v the centre of mass's velocity along the heading."""
        velocity = (self.centre_of_mass(next_state) - self.centre_of_mass(state)) / self.dt
        along = velocity[:, 0] * np.cos(context.angle) + velocity[:, 1] * np.sin(context.angle)
        impact = IMPACT_COST * np.square(self.output(next_state, "cfrc_ext")).sum(axis=1)
        cost = CONTROL_COST * norm_squared(action) + np.minimum(impact, MAX_IMPACT_COST)
        return VELOCITY_WEIGHT * along - cost + ALIVE


register(
    Spec(
        id="HumanoidDir-v0",
        entry_point=f"{__name__}:HumanoidDir",
        summary="A humanoid runs in a hidden direction.",
        sources=("Rakelly et al. 2019, arXiv 1903.08254, rlkit/envs/humanoid_dir.py", "Gymnasium 1.4, Humanoid-v5"),
        horizon=200,
        episodes=2,
        repeats=4,
        extra="mujoco",
        split_sessions={"ood": {"kind": "fixed", "length": 100}},
        digests={
            "train": "7459a2c41af2888be6971d97c024f4188266dd362ff3bc765159b8857287f0e6",
            "test": "9e08e923d1c4e74f8ed681fc1212abe49d4870216befccf9b37af7ce351b1a0f",
            "ood": "4c15080e3d9c5fb2f7c130e3717d339d79bf35580e6ea7ea505cd30131d52f74",
        },
    )
)
