"""A hopper whose body is the hidden task.

Follows rand_param_envs as PEARL and Meta-DT use it: frame_skip 4 of 0.004 s, no early end, reward dx/dt + 1 -
1e-3 sum a^2. Differences: Gymnasium 1.4's model (current MuJoCo gives it slightly other base masses), and what MuJoCo
derives from mass and inertia follows them here, where the original leaves it as it was.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from gymnasium import spaces

from metabench.physics.random_parameters import RandomBody, exponents, runner_fields
from metabench.registry import Spec, register

JOINTS = ("thigh", "leg", "foot")
SIZES = {"body_mass": (5,), "body_inertia": (5, 3), "dof_damping": (6,), "geom_friction": (5, 3)}
Body = exponents(SIZES, __name__)


class HopperParam(RandomBody):
    """A hopper runs on a body it has to get to know: 41 masses, inertias, dampings and frictions are hidden."""

    xml = "hopper.xml"
    sizes = SIZES
    context_type = Body
    observation_fields = runner_fields(JOINTS)
    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = tuple(f"torque on the {joint}" for joint in JOINTS)


register(
    Spec(
        id="HopperParam-v0",
        entry_point=f"{__name__}:HopperParam",
        summary="A hopper runs on a body with hidden masses, inertias, damping and friction.",
        sources=(
            "rand_param_envs, as in PEARL (arXiv 1903.08254) and Meta-DT (arXiv 2410.11448)",
            "Gymnasium 1.4, Hopper-v5",
        ),
        horizon=200,
        episodes=2,
        repeats=4,
        extra="mujoco",
        digests={
            "train": "af88c305b4b84daf00055aecfab4f4419d47942efb68d69f2fe21f4ea829d892",
            "test": "2b45aad58b9907fef86b967d5880b4a561c5479c3cbe58e7e106e3eb372ef10d",
            "ood": "6026be66bd1221c44d4bff17ada6b9a8efc83e8169edc87590ffd308546f5ffd",
        },
    )
)
