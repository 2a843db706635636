"""Half-cheetah families: run at a hidden speed, or in a hidden direction; with sessions, either changes on the way.

Which of the published code bases ours follows, and how the others differ:

| | ours | PEARL (oyster) | VariBAD | MACAW | Meta-DT |
| --- | --- | --- | --- | --- | --- |
| target speed, m/s | U[0, 3], 45 / 5 | U[0, 3], 100 / 30 | U[0, 3], no split | pickles, 35 / 5 | U[0, 3], 45 / 5 |
| reward | -abs(v - v*) - 0.05 sum a^2 | the same | the same | the same | the same |
| observation | 20: qpos[1:], qvel, torso xyz | the same | the same | not known | the same |
| steps, episodes | 200, 2 | 200, 3 | 200, 2 | 200 | 200 |

Ours has Meta-DT's tables (the list published by its sibling repositories) and Gymnasium 1.4's HalfCheetah-v5 model.
Sources: Rakelly et al. 2019 (arXiv 1903.08254), Zintgraf et al. 2020 (arXiv 1910.08348), Meta-DT (arXiv 2410.11448).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
from gymnasium import spaces

from metabench.family import Field
from metabench.physics.compiled import compiled
from metabench.physics.mujoco.family import MujocoFamily, MujocoState
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import latent, param

CONTROL_COST = 0.05  # per squared action
JOINTS = ("back thigh", "back shin", "back foot", "front thigh", "front shin", "front foot")
INF = float("inf")

C = TypeVar("C")


@dataclass(frozen=True)
class TargetSpeed:
    """How fast to run."""

    speed: Array = param(0.0, 4.5, "m/s", "target speed", train=(0.0, 3.0))


@dataclass(frozen=True)
class Direction:
    """Which way to run."""

    direction: Array = param(-1, 1, "", "+1 forward, -1 backward", integer=True)


@compiled
def seen(qpos: Array, qvel: Array, torso: Array) -> Array:
    """The observation: positions but the first, velocities, and where the torso is."""
    return np.concatenate((qpos[:, 1:], qvel, torso), axis=1)


@compiled
def pace_reward(before: Array, after: Array, speed: Array, action: Array, dt: float) -> Array:
    """-abs(v - v*) - 0.05 sum a^2; `before` and `after` are positions `[B, 9]`, `dt` s apart."""
    pace = (after[:, 0] - before[:, 0]) / dt
    return -np.abs(pace - speed) - action.dtype.type(CONTROL_COST) * np.sum(action * action, axis=1)


@compiled
def direction_reward(before: Array, after: Array, direction: Array, action: Array, dt: float) -> Array:
    """Direction times velocity - 0.05 sum a^2."""
    pace = (after[:, 0] - before[:, 0]) / dt
    return direction * pace - action.dtype.type(CONTROL_COST) * np.sum(action * action, axis=1)


class _Cheetah(MujocoFamily[C], Generic[C]):
    """The body and what is seen of it."""

    xml = "half_cheetah.xml"
    frame_skip = 5
    outputs = ("xpos",)
    observation_fields = (
        Field("z", -INF, INF, "m", "height of the torso over its rest"),
        Field("pitch", -INF, INF, "rad", "angle of the torso"),
        *(Field(f"{name.replace(' ', '_')}_angle", -INF, INF, "rad", f"angle of the {name}") for name in JOINTS),
        Field("x_velocity", -INF, INF, "m/s", "forward velocity"),
        Field("z_velocity", -INF, INF, "m/s", "upward velocity"),
        Field("pitch_velocity", -INF, INF, "rad/s", "angular velocity of the torso"),
        *(Field(f"{name.replace(' ', '_')}_velocity", -INF, INF, "rad/s", f"of the {name}") for name in JOINTS),
        Field("torso_x", -INF, INF, "m", "position of the torso, along the track"),
        Field("torso_y", -INF, INF, "m", "across it; always 0", constant=True),
        Field("torso_z", -INF, INF, "m", "height"),
    )
    action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = tuple(f"torque on the {name}" for name in JOINTS)
    horizon = 200
    dt = 0.05
    render_fps = 20

    def observation(self, state: MujocoState) -> Array:
        """Positions but the first, velocities, and where the torso is."""
        return seen(state.qpos, state.qvel, self.body(state, "torso"))


class CheetahVel(_Cheetah[TargetSpeed]):
    """The half-cheetah runs at a hidden speed.

    The reward is minus the distance between its speed and the target, minus a control cost; it never falls or ends
    early. Splits beside the usual: `interpolation_train` (speeds in [0, 0.5] and [3, 3.5]) and `interpolation_test`
    (0.75 to 2.75), disjoint as LDM defines them; `ood` has speeds of 3.5 to 4.5 m/s.
    """

    context_type = TargetSpeed

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: TargetSpeed) -> Array:
        """-abs(v - v*) - 0.05 sum a^2."""
        return pace_reward(state.qpos, next_state.qpos, context.speed, action, self.dt)


class CheetahDir(_Cheetah[Direction]):
    """The half-cheetah runs forward or backward; which one is hidden.

    There are only two tasks, so `test` has the training tasks, as in every published form. In `ood` the direction is
    drawn again after every 100 steps.
    """

    context_type = Direction

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: Direction) -> Array:
        """Direction times velocity - 0.05 sum a^2."""
        return direction_reward(state.qpos, next_state.qpos, context.direction, action, self.dt)

    def reject(self, context: Direction) -> str:
        """0 is no direction."""
        return "direction must be +1 or -1" if (context.direction == 0).any() else ""


@dataclass(frozen=True)
class Season:
    """Where on its course of wind and speed a task begins, and how many sessions have passed since."""

    start: Array = param(0, 999, "session", "number of the first session", integer=True)
    passed: Array = latent(1_000_000, "sessions since the first")

    @property
    def number(self) -> Array:
        """`[B]` number i of the session that is on."""
        return self.start + self.passed

    @property
    def wind(self) -> Array:
        """`[B]` N along the track: 10 sin(0.2 i)."""
        return 10.0 * np.sin(0.2 * self.number)

    @property
    def speed(self) -> Array:
        """`[B]` m/s: target 1.5 + 1.5 sin(0.5 i)."""
        return 1.5 + 1.5 * np.sin(0.5 * self.number)


class CheetahWindVel(_Cheetah[Season]):
    """The half-cheetah runs at a hidden speed against a hidden wind; both follow their course, session by session.

    Wind and speed are LILAC's (Xie et al. 2020): in session i a force of 10 sin(0.2 i) N along the track on the torso
    and the target 1.5 + 1.5 sin(0.5 i) m/s. LILAC's sessions are whole episodes of 50 steps; here they end inside the
    episode. A task is the number of its first session. In `ood` sessions are half as long, and start later than any in
    training.
    """

    context_type = Season

    def transition(self, state: MujocoState, action: Array, context: Season, rng: SlotRng) -> MujocoState:
        """A step in the wind."""
        physics = state.physics.copy()
        physics[:, self.force_column + 6 * self.model.body("torso").id] = context.wind
        return super().transition(state._replace(physics=physics), action, context, rng)

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: Season) -> Array:
        """-abs(v - v*) - 0.05 sum a^2."""
        return pace_reward(state.qpos, next_state.qpos, context.speed, action, self.dt)


_SOURCES = (
    "Rakelly et al. 2019 (PEARL), arXiv 1903.08254, rlkit/envs/half_cheetah_vel.py and half_cheetah_dir.py",
    "Meta-DT, arXiv 2410.11448: tables",
    "Gymnasium 1.4, HalfCheetah-v5: model and reset",
)
_SWITCH = "sessions: our definition, the numbers of DynaMITE-RL (arXiv 2402.15957) are not known"
register(
    Spec(
        id="CheetahVel-v0",
        entry_point=f"{__name__}:CheetahVel",
        summary="A half-cheetah runs at a hidden speed.",
        sources=(*_SOURCES, "LDM: interpolation splits"),
        horizon=200,
        episodes=2,
        repeats=4,
        extra="mujoco",
        digests={
            "train": "edd3600c831fd7d658825a35159a56b77f6bc7cc4c18ab3e9925e1167e2c4508",
            "test": "fb03f1b887a1ae9bd9ac49363486394039512604c43cd59f9da2f31e8ac1a1b4",
            "ood": "68e0877c5f8d3ae80937a3b988e0a647638b9819f96e69ba87aff28b796e50fb",
            "interpolation_train": "e76cbce651d9b11b91053553257d2aebab8385b0e0c5116d20b601cbefc417f6",
            "interpolation_test": "2e17784dc96a8bccf15209d428269243e0b2440049d3dd9c831ca34effc89b37",
        },
    )
)
register(
    Spec(
        id="CheetahDir-v0",
        entry_point=f"{__name__}:CheetahDir",
        summary="A half-cheetah runs forward or backward, which one is hidden.",
        sources=_SOURCES,
        horizon=200,
        episodes=2,
        repeats=10,
        extra="mujoco",
        shared_tasks=True,
        split_sessions={"ood": {"kind": "fixed", "length": 100}},
        digests={
            "train": "8a116b2373675fcf8d13d2ed0a4497b7eec32903b263c81aacea560bc561ab6e",
            "test": "ea414c0e3aaa25b36d8b4da1c453b0802d5130a8fcb41f234234b0fdff491e84",
            "ood": "6ad464565819845288be65df71ee43981eaf5056ff6b4a722d746fa0cc6bc42a",
        },
    )
)
register(
    Spec(
        id="CheetahVelSwitch-v0",
        entry_point=f"{__name__}:CheetahVel",
        summary="The half-cheetah's hidden target speed changes session by session (a DLCMDP).",
        sources=(*_SOURCES, _SWITCH),
        horizon=200,
        episodes=1,
        repeats=4,
        extra="mujoco",
        sessions={"kind": "geometric", "p": 0.02},
        split_sessions={"ood": {"kind": "geometric", "p": 0.04}},
        digests={
            "train": "e7e6f7168ae5635bb2cd86b2c18aa5fe46bff1c972ebcb2a0a8276a93313ae18",
            "test": "35faa57c543ea7f0236fbd0d7c81b846e69aa223db740faef43d65bc29c3b992",
            "ood": "e5be0eed5c10fe7caf31513f476f22346e7476f39884907184d91d61e328f034",
        },
    )
)
register(
    Spec(
        id="CheetahDirSwitch-v0",
        entry_point=f"{__name__}:CheetahDir",
        summary="The half-cheetah's hidden direction changes session by session (a DLCMDP).",
        sources=(*_SOURCES, _SWITCH),
        horizon=200,
        episodes=1,
        repeats=10,
        extra="mujoco",
        shared_tasks=True,
        sessions={"kind": "geometric", "p": 0.02},
        split_sessions={"ood": {"kind": "geometric", "p": 0.04}},
        digests={
            "train": "d7955e67bd48912a460b4e719f61a8fbd5b17cbbcff3913aa598a92b306f8ba8",
            "test": "e52dbc24842bb8108e0c834ee7bcb4c8541c7cf7b275a1631506ff7d41f4a510",
            "ood": "a86ab5bdb12bc58e567fab4e90c960998b0fc46bd68e3e8f160ce240b4cd722e",
        },
    )
)
register(
    Spec(
        id="CheetahWindVelSwitch-v0",
        entry_point=f"{__name__}:CheetahWindVel",
        summary="Hidden wind and target speed of a half-cheetah follow their course, session by session.",
        sources=(*_SOURCES, "Xie et al. 2020 (LILAC), arXiv 2006.10701: wind and speed of a session", _SWITCH),
        horizon=200,
        episodes=1,
        repeats=4,
        extra="mujoco",
        oracle="metabench.yardsticks.filtering:wind_vel",
        sessions={"kind": "geometric", "p": 0.02, "count": ["passed"]},
        split_sessions={"ood": {"kind": "geometric", "p": 0.04, "count": ["passed"]}},
        digests={
            "train": "630744402cac91ade3a3814483b4645b93524730c313d98a796f794b78fa5351",
            "test": "357c18e5f273185a7b3d981fb2dc400721da829a9d50061a2e03dfb87a0c4068",
            "ood": "d1e2fe9d0b45e51253001a5fcfa710810ec1f3c9c277fdffb9370e92255c4d0e",
        },
    )
)
