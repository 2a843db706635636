"""A robot arm scratches an itch on the arm of a person in a wheelchair; where it itches is hidden, and may change.

ScratchItchJaco of Assistive Gym 1.0 (Erickson et al. 2020, arXiv 1910.04700) built again in MuJoCo: geometry, limits,
control, reward and its weights, target law and start are those of its code; the contact physics is MuJoCo's.
DynaMITE-RL (arXiv 2402.15957) uses that task with "evolving user preferences of itch location"; its numbers are not
known, so the sessions of ScratchItchSwitch are our definition. What differs from Assistive Gym, and why:

- The observation has not the itch (Assistive Gym shows its place twice): it is the hidden task.
- The forces are those at the end of a step; there, contacts without force count as touches, here they do not.
- Only the tool's tip scratches, not its stem, and its contact is taken on the limb it is deeper in.
- The start is the same place of the gripper, but its direction follows from the joints: exactly level is beyond the
  limit of the Jaco's sixth joint for most starts. Robot and person are at least 0.06 m apart there.
- The person has neither tremor nor weakness. Springs of 20 N m/rad hold shoulder and elbow, where Bullet has motors.
  The skin is soft: a press of 2 N dents it by 2 mm. The robot's links pass through each other.
- A step is 10 of MuJoCo's 10 ms, not 5 of Bullet's 20 ms. The servos ask for the speed of Bullet's position motors.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from metabench.family import Field
from metabench.physics import scratch_itch
from metabench.physics.mujoco.family import MujocoFamily, MujocoState
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import param

if TYPE_CHECKING:
    import mujoco

INCREMENT = 0.25  # rad a full action moves the target of a joint's servo beyond the joint
SCRATCH_REWARD = 5.0  # for each scratch
ACTION_WEIGHT, VELOCITY_WEIGHT = 0.01, 0.25
FORCE_WEIGHT, HARD_FORCE_WEIGHT = 0.01, 0.05  # per N: anywhere but at the itch; at the itch, where it is too much
HARD_FORCE = 10.0  # N at the itch from which it is no scratch, and costs
REACH = 0.025  # m around the itch where a contact is at the itch
STROKE = 0.01  # m from the last scratch to the next, at least
SUCCESS = 25  # scratches of an episode

BASE = np.array([-0.35, -0.30, 0.36])  # m, the robot's base in the world; turned by -90 degrees
START, SPREAD = np.array([-0.6, 0.0, 0.8]), 0.05  # m, the gripper at the start, and how far it varies along each axis
HOME = np.array([-1.54, 4.66, 2.06, 1.96, 0.03, 4.95, 0.0])  # rad, the gripper near START, pointing at the person
HOME_STEPS = 6  # of the iteration from there to the start: the gripper is less than 0.1 mm off
TIP_RADIUS = 0.01  # m
ASSETS = Path(__file__).parent / "assets"


class Body(NamedTuple):
    """Sizes of a person, and where the right shoulder is; numbers, or `[B]`."""

    shoulder_x: Any  # m
    shoulder_z: Any  # m
    upper_length: Any  # m, shoulder to elbow
    upper_radius: Any  # m
    fore_length: Any  # m, elbow to where the wrist begins
    fore_radius: Any  # m
    mass: Any  # kg, of all of them


WOMAN = Body(-0.159, 0.992, 0.264, 0.0355, 0.234, 0.027, 62.5)  # 50th percentile, as in Assistive Gym
MAN = Body(-0.179, 1.031, 0.279, 0.043, 0.257, 0.033, 78.4)
# [2, 4] m: lengths of upper arm and forearm, then their radii, of woman and man
_SIZES = np.array([[b.upper_length, b.fore_length, b.upper_radius, b.fore_radius] for b in (WOMAN, MAN)])


@dataclass(frozen=True)
class Itch:
    """Where it itches, and on whose arm. Body and pose show in the observation and never change in an episode."""

    along: Array = param(0.0, 2.0, "", "place along the arm: 0 at the shoulder, 1 at the elbow, 2 at the wrist")
    around: Array = param(
        0.0, 2 * np.pi, "rad", "side of the limb: 0 outward, pi/2 in front (of a bent forearm: above)"
    )
    size: Array = param(-0.5, 1.5, "", "0 a woman, 1 a man of the 50th percentile", train=(0.0, 1.0), fixed=True)
    abduction: Array = param(0.0, 1.2, "rad", "upper arm away from the body", train=(np.pi / 6, np.pi / 6), fixed=True)
    elbow: Array = param(0.0, 2.2, "rad", "bend of the elbow", train=(np.pi / 2, np.pi / 2), fixed=True)

    @property
    def body(self) -> Body:
        """The person, `[B]` each."""
        return Body(*(woman + self.size * (man - woman) for woman, man in zip(WOMAN, MAN, strict=True)))


class Touch(NamedTuple):
    """What the person feels."""

    total: Array  # [B] N, normal forces of robot and tool anywhere on the person
    at_itch: Array  # [B] N, of the tip within REACH of the itch
    place: Array  # [B, 3] m, the point of the limbs' skin that is nearest to the tip, or the deepest


class ScratchItch(MujocoFamily[Itch]):
    """A Jaco arm scratches a person's arm where it itches, which it is not told.

    A scratch is a contact of the tool's tip within 2.5 cm of the itch, more than 1 cm from the scratch before, with
    less than 10 N; it pays 5. The reward is minus the distance from the tip to the itch (m), minus small costs of
    actions, speed and force: where it itches can be inferred from it. Splits: `ood` has other bodies and poses.
    """

    xml = "scratch_itch.xml"
    assets = ASSETS
    frame_skip = 10
    forward_after = True
    varies_model = True
    model_fields = ("size", "abduction", "elbow")
    camera = "front"
    outputs = ("sensordata", "xpos", "xmat", "xquat")
    context_type = Itch
    observation_fields = (
        *(Field(f"tip_{axis}", -np.inf, np.inf, "m", "the tool's tip from the robot's base") for axis in "xyz"),
        *(
            Field(f"tool_quaternion_{axis}", -1, 1, "", "the tool's orientation; its x axis points ahead")
            for axis in "wxyz"
        ),
        *(Field(f"joint_{i}", -np.pi, np.pi, "rad", "angle of the robot's joint, wrapped") for i in range(1, 8)),
        Field("shoulder_x", -np.inf, np.inf, "m", "the person's shoulder from the robot's base", constant=True),
        *(
            Field(f"{name}_{axis}", -np.inf, np.inf, "m", f"the person's {name} from the robot's base")
            for name, axes in (("shoulder", "yz"), ("elbow", "xyz"), ("wrist", "xyz"))
            for axis in axes
        ),
        Field("tool_force", 0, np.inf, "N", "normal forces on the tool"),
    )
    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = tuple(f"turn joint {i}, 0.25 rad" for i in range(1, 8))
    horizon = 200
    dt = 0.1
    render_fps = 10

    def configure(self, model: mujoco.MjModel, context: Itch, slot: int) -> None:
        """Makes the man of the file another person in another pose."""
        import mujoco

        body = Body(*(float(field[slot]) for field in context.body))
        wide, tall = (
            body.shoulder_x / MAN.shoulder_x,
            (body.shoulder_z - 0.5) / (MAN.shoulder_z - 0.5),
        )  # above the seat
        for k in np.flatnonzero(model.geom_bodyid == model.body("trunk").id):
            model.geom_pos[k] *= (wide, 1.0, tall)
            model.geom_size[k] *= (wide, tall, tall)
        model.body("upper_arm").pos[:] = body.shoulder_x, 0.03, body.shoulder_z
        model.body("forearm").pos[2] = -body.upper_length
        model.body("wrist").pos[2] = -body.fore_length - body.fore_radius
        for name, radius, length in (
            ("upper_arm", body.upper_radius, body.upper_length),
            ("forearm", body.fore_radius, body.fore_length),
        ):
            model.geom(name).size[:2] = radius, length / 2
            model.geom(name).pos[2] = -length / 2
        capsules = model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE
        model.geom_rbound[capsules] = model.geom_size[capsules, :2].sum(axis=1)
        for name in ("upper_arm", "forearm"):
            k = model.body(name).id
            model.body_mass[k] *= body.mass / MAN.mass
            model.body_inertia[k] *= body.mass / MAN.mass
        model.qpos_spring[:4] = pose(context)[slot]
        mujoco.mj_setConst(model, mujoco.MjData(model))

    def initial(self, context: Itch, rng: SlotRng) -> MujocoState:
        """The gripper at START, give or take 5 cm along each axis, the person in their pose; nothing moves."""
        wanted = START + rng.uniform(-SPREAD, SPREAD, 3)
        joints = np.concatenate((pose(context), np.tile(HOME, (len(wanted), 1))), axis=1)
        still = np.zeros_like(joints)
        for _ in range(HOME_STEPS):
            error = wanted - self.body(self.place(context, joints, still), "gripper")
            for axis in range(3):  # a sum in a fixed order: matrix products round by the size of the batch
                joints[:, 4:] += error[:, axis : axis + 1] * self._home_inverse[:, axis]
        return self.place(context, joints, still)

    @functools.cached_property
    def _home_inverse(self) -> Array:
        """`[7, 3]` rad/m: how the joints must turn at HOME for the gripper to move."""
        import mujoco

        data, jacobian = mujoco.MjData(self.model), np.zeros((3, self.model.nv))
        data.qpos[4:] = HOME
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)
        mujoco.mj_jacBody(self.model, data, jacobian, None, self.model.body("gripper").id)
        return np.linalg.pinv(jacobian[:, 4:])

    def transition(self, state: MujocoState, action: Array, context: Itch, rng: SlotRng) -> MujocoState:
        """A tenth of a second in which each joint's servo, of 1 N m at most, turns towards its new target."""
        low, high = self._limits
        target = scratch_itch.aim(state.qpos[:, 4:], action, low, high, INCREMENT)
        after = super().transition(state, target, context, rng)
        scratch_itch.remember(state.physics, after.physics, self.felt(after, context), HARD_FORCE, STROKE)
        return after

    @functools.cached_property
    def _limits(self) -> tuple[Array, Array]:
        low, high = self.model.jnt_range[4:].T.copy()
        return low, high

    @functools.cached_property
    def _memory(self) -> slice:
        """MuJoCo's user data, the end of a state without plugins: place of the last scratch, and their number."""
        return slice(self._state_size - 4, self._state_size)

    def last_scratch(self, state: MujocoState) -> Array:
        """`[B, 3]` m where the last scratch was; the world's origin before the first."""
        return state.physics[:, self._memory][:, :3]

    def scratches(self, state: MujocoState) -> Array:
        """`[B]` scratches since the episode began."""
        return state.physics[:, self._memory][:, 3]

    def success(self, state: MujocoState) -> Array:
        """25 scratches."""
        return self.scratches(state) >= SUCCESS

    @functools.cached_property
    def _columns(self) -> Array:
        """Where `itching` finds what it reads of the outputs."""
        start, body = {name: self.output_columns[name].start for name in self.outputs}, self.model.body
        places = [start["xpos"] + 3 * body(name).id for name in ("tip", "upper_arm", "forearm", "wrist")]
        turns = [start["xmat"] + 9 * body(name).id for name in ("upper_arm", "forearm")]
        return np.array([*places, *turns, start["xquat"] + 4 * body("tool").id, start["sensordata"]])

    def felt(self, state: MujocoState, context: Itch) -> Array:
        """`[B, 10]` what `scratch_itch.feel` finds, its columns named there."""
        c = context
        return scratch_itch.feel(state.outputs, self._columns, c.along, c.around, c.size, _SIZES, TIP_RADIUS, REACH)

    def itch(self, state: MujocoState, context: Itch) -> Array:
        """`[B, 3]` m where it itches: it moves with the limb."""
        return self.felt(state, context)[:, scratch_itch.ITCH : scratch_itch.ITCH + 3]

    def rotation(self, state: MujocoState, name: str) -> Array:
        """`[B, 9]` rotation matrix of a body, row by row."""
        start = self.output_columns["xmat"].start + 9 * self.model.body(name).id
        return state.outputs[:, start : start + 9]

    def force(self, state: MujocoState, name: str) -> Array:
        """`[B]` N, the normal forces on a body, by its sensor."""
        return state.outputs[:, self.output_columns["sensordata"].start + self.model.sensor(name).adr[0]]

    def touch(self, felt: Array) -> Touch:
        """What the person feels at the end of a step."""
        return Touch(
            felt[:, scratch_itch.TOTAL],
            felt[:, scratch_itch.AT_ITCH],
            felt[:, scratch_itch.SKIN : scratch_itch.SKIN + 3],
        )

    def observation(self, state: MujocoState) -> Array:
        """Assistive Gym's without the itch, positions and orientations from the robot's base; see the fields."""
        return scratch_itch.observe(state.outputs, state.qpos[:, 4:], self._columns, BASE)

    def distance(self, felt: Array) -> Array:
        """`[B]` m from the tip's centre to the itch."""
        return felt[:, scratch_itch.DISTANCE]

    def effort(self, action: Array) -> Array:
        """`[B]` the Euclidean norm of the action, each entry clipped to [-1, 1]."""
        return scratch_itch.norm(action)

    def speed(self, felt: Array) -> Array:
        """`[B]` m/s of the gripper."""
        return felt[:, scratch_itch.SPEED]

    def force_elsewhere(self, touch: Touch) -> Array:
        """`[B]` N on the person, but not at the itch."""
        return touch.total - touch.at_itch

    def hard_force(self, touch: Touch) -> Array:
        """`[B]` N at the itch where that is 10 N or more, else 0."""
        return touch.at_itch * (touch.at_itch >= HARD_FORCE)

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: Itch) -> Array:
        """5 for a scratch - distance - 0.01 |a| - 0.25 |v| - 0.01 force elsewhere - 0.05 force too hard."""
        felt = self.felt(next_state, context)
        touch = self.touch(felt)
        return (
            SCRATCH_REWARD * (self.scratches(next_state) - self.scratches(state))
            - self.distance(felt)
            - ACTION_WEIGHT * self.effort(action)
            - VELOCITY_WEIGHT * self.speed(felt)
            - FORCE_WEIGHT * self.force_elsewhere(touch)
            - HARD_FORCE_WEIGHT * self.hard_force(touch)
        )

    def drawn_model(self, context: Itch, slot: int) -> mujoco.MjModel:
        """With all that `model` discards because nothing touches it."""
        import mujoco

        spec = mujoco.MjSpec.from_file(str(ASSETS / self.xml))
        spec.compiler.discardvisual = False
        model = spec.compile()
        self.configure(model, context, slot)
        return model

    def markers(self, state: MujocoState, context: Itch, slot: int) -> list[dict[str, Any]]:
        """The itch as a red spot."""
        import mujoco

        sphere = int(mujoco.mjtGeom.mjGEOM_SPHERE)
        color = np.array([0.84, 0.15, 0.11, 1.0])
        place = self.itch(state, context)[slot]
        return [{"type": sphere, "pos": place, "size": np.full(3, 0.012), "rgba": color, "label": ""}]


def pose(context: Itch) -> Array:
    """`[B, 4]` rad: abduction, flexion and rotation of the shoulder, bend of the elbow."""
    zero = np.zeros_like(context.elbow)
    return np.stack([context.abduction, zero, zero, context.elbow], axis=1)


_SOURCES = (
    "Erickson et al. 2020 (Assistive Gym), arXiv 1910.04700, ScratchItchJaco-v1 of release 1.0: the task",
    "Kinova, kinova-ros, kinova_description, j2s7s300: kinematics and limits of the arm",
)
_SWITCH = (
    "Liang et al. 2024 (DynaMITE-RL), arXiv 2402.15957: the idea of drifting itches; the numbers are our definition"
)
register(
    Spec(
        id="ScratchItch-v0",
        oracle="metabench.yardsticks.scratch_itch:oracle",
        entry_point=f"{__name__}:ScratchItch",
        summary="A robot arm scratches a person's arm where it itches, which is hidden.",
        sources=_SOURCES,
        horizon=200,
        episodes=2,
        repeats=4,
        extra="mujoco",
        digests={
            "train": "ef68914eda8c3b8a12cda48eac2a43963e5160af66157405486a8b47fec6f2aa",
            "test": "4ca1c73b30e3201c3351332edcfac1babc3242b0ee2ba7188288218db22cf6de",
            "ood": "05d2366377d578eadd85503daf91a5fba25d2d2868899222fba4d9dc21854484",
        },
    )
)
register(
    Spec(
        id="ScratchItchSwitch-v0",
        oracle="metabench.yardsticks.scratch_itch:oracle",
        entry_point=f"{__name__}:ScratchItch",
        summary="The hidden itch that a robot arm scratches moves session by session (a DLCMDP).",
        sources=(*_SOURCES, _SWITCH),
        horizon=200,
        episodes=1,
        repeats=4,
        extra="mujoco",
        sessions={"kind": "geometric", "p": 0.01},
        split_sessions={"ood": {"kind": "geometric", "p": 0.02}},
        digests={
            "train": "fd5313c2b91ab484aad726c17844677fddb2c45e9659263ffd7015d1af7ec14f",
            "test": "15ee3f3a86b0347a2cfbcb246d22ce8beb948f464afad387eeab85d67d7eb850",
            "ood": "19ac74cbe8759064475940302906288c3aa8c326c87d3b8964e4ec004d24c43d",
        },
    )
)
