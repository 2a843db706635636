"""Families whose hidden task is the body itself: masses, inertias, damping and friction, every element on its own.

The recipe is rand_param_envs' (PEARL's hopper and walker): an element is multiplied by base^e with its own exponent e,
base 1.5 for mass, inertia and friction, 1.3 for damping, e uniform in [-3, 3] in training. What MuJoCo derives from
these (subtree masses, inverse weights) is computed again for every model.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from metabench.family import Field
from metabench.physics.compiled import compiled
from metabench.physics.mujoco.family import MujocoFamily, MujocoState
from metabench.rng import Array, SlotRng
from metabench.tasks import param

if TYPE_CHECKING:
    import mujoco

BASES = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}
LIMIT, TRAIN_LIMIT = 4.0, 3.0  # of the exponents: legal, and in training
NOISE = 0.005  # of the initial positions (m, rad) and velocities, uniform
MAX_VELOCITY = 10.0  # velocities are clipped to this in the observation
ALIVE, CONTROL_COST = 1.0, 1e-3


def exponents(sizes: dict[str, tuple[int, ...]], module: str) -> type[Any]:
    """A context dataclass `Body` of `module`, with one exponent per element of the model fields of these sizes."""
    fields = []
    for name, shape in sizes.items():
        for index in np.ndindex(shape):
            label = f"{name}_{'_'.join(map(str, index))}"
            doc = f"{name}{list(index)} times {BASES[name]} to the power of this"
            fields.append((label, Array, param(-LIMIT, LIMIT, "", doc, train=(-TRAIN_LIMIT, TRAIN_LIMIT))))
    body = dataclasses.make_dataclass("Body", fields, frozen=True)
    body.__module__ = module  # where pickle finds it
    return body


def runner_fields(joints: tuple[str, ...]) -> tuple[Field, ...]:
    """The observation of a planar runner: torso, joints, and their clipped velocities."""
    clipped = -MAX_VELOCITY, MAX_VELOCITY
    return (
        Field("z", -np.inf, np.inf, "m", "height of the torso"),
        Field("pitch", -np.inf, np.inf, "rad", "angle of the torso"),
        *(Field(f"{joint}_angle", -np.inf, np.inf, "rad", f"angle of the {joint} joint") for joint in joints),
        Field("x_velocity", *clipped, "m/s", "forward, clipped"),
        Field("z_velocity", *clipped, "m/s", "upward, clipped"),
        Field("pitch_velocity", *clipped, "rad/s", "of the torso, clipped"),
        *(Field(f"{joint}_velocity", *clipped, "rad/s", f"of the {joint}, clipped") for joint in joints),
    )


@compiled
def seen(qpos: Array, qvel: Array) -> Array:
    """The observation: positions but the first, and clipped velocities."""
    return np.concatenate((qpos[:, 1:], np.minimum(np.maximum(qvel, -MAX_VELOCITY), MAX_VELOCITY)), axis=1)


@compiled
def run_reward(before: Array, after: Array, action: Array, dt: float) -> Array:
    """Forward velocity + 1 - 1e-3 sum a^2; `before` and `after` are positions `[B, nq]`, `dt` s apart."""
    pace = (after[:, 0] - before[:, 0]) / dt
    return pace + ALIVE - action.dtype.type(CONTROL_COST) * np.sum(action * action, axis=1)


class RandomBody(MujocoFamily[Any]):
    """A planar runner on a body of unknown parameters; never ends early."""

    sizes: ClassVar[dict[str, tuple[int, ...]]]  # of the model fields that vary
    frame_skip = 4
    timestep = 0.004
    varies_model = True
    horizon = 200
    dt = 0.016
    render_fps = 62

    def configure(self, model: mujoco.MjModel, context: Any, slot: int) -> None:
        """Multiplies every element, then has MuJoCo compute what follows."""
        import mujoco

        values = [getattr(context, f.name)[slot] for f in dataclasses.fields(context)]
        start = 0
        for name, shape in self.sizes.items():
            count = int(np.prod(shape))
            factors = np.power(BASES[name], np.array(values[start : start + count])).reshape(shape)
            field = getattr(model, name)
            field[:] = field * factors
            start += count
        mujoco.mj_setConst(model, mujoco.MjData(model))

    def initial(self, context: Any, rng: SlotRng) -> MujocoState:
        """The rest position with uniform noise on positions and velocities."""
        model = self.model
        noise = rng.uniform(-NOISE, NOISE, model.nq + model.nv)
        return self.place(context, model.qpos0 + noise[:, : model.nq], noise[:, model.nq :])

    def observation(self, state: MujocoState) -> Array:
        """Positions but the first, and clipped velocities."""
        return seen(state.qpos, state.qvel)

    def reward(self, state: MujocoState, action: Array, next_state: MujocoState, context: Any) -> Array:
        """Forward velocity + 1 - 1e-3 sum a^2."""
        return run_reward(state.qpos, next_state.qpos, action, self.dt)
