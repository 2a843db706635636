"""A walker whose body is the hidden task.

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

JOINTS = ("right_thigh", "right_leg", "right_foot", "left_thigh", "left_leg", "left_foot")
SIZES = {"body_mass": (8,), "body_inertia": (8, 3), "dof_damping": (9,), "geom_friction": (8, 3)}
Body = exponents(SIZES, __name__)


class WalkerParam(RandomBody):
    """A walker runs on a body it has to get to know: 65 masses, inertias, dampings and frictions are hidden."""

    xml = "walker2d_v5.xml"
    sizes = SIZES
    context_type = Body
    observation_fields = runner_fields(JOINTS)
    action_space = spaces.Box(-1.0, 1.0, (6,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = tuple(f"torque on the {joint}" for joint in JOINTS)


register(
    Spec(
        id="WalkerParam-v0",
        entry_point=f"{__name__}:WalkerParam",
        summary="A walker runs on a body with hidden masses, inertias, damping and friction.",
        sources=(
            "rand_param_envs, as in PEARL (arXiv 1903.08254) and Meta-DT (arXiv 2410.11448)",
            "Gymnasium 1.4, Walker2d-v5",
        ),
        horizon=200,
        episodes=2,
        repeats=4,
        extra="mujoco",
        digests={
            "train": "77d0ad4bd881ec53e5f52a43a4d2cd44455a4856b0691f4cc6ce8c929517e1b8",
            "test": "88f9a555c43a794cbc9203f298f33170d20a856d2fea004d41cb6b221a71be4c",
            "ood": "36ce32802cc3d44b1004c69b09a01db07dea2e11f90b6436535a10dbf359a798",
        },
    )
)
