"""What networks are told of an observation: standardised columns, and distances where point masses are observed.

Observations come in the benchmark's own units: metres over hundreds, speeds over tens, angles over one. A gap of a
metre between two cars is then lost in the fourth decimal of two positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

VELOCITY_UNITS = ("m/s", "rad/s")
POSITION_UNITS = ("m", "rad")
VELOCITY_WORDS = ("velocity", "speed", "v", "vel")
POSITION_WORDS = ("position", "x", "pos", "angle", "distance", "gap", "")


class Pair(NamedTuple):
    """Columns of an observation that are a position and its velocity."""

    position: int
    velocity: int


def kinematic_pairs(fields: Sequence[Any]) -> tuple[Pair, ...]:
    """The positions and velocities among named observation columns.

    A velocity is a column in m/s or rad/s whose name contains the word velocity, speed, vel or v (`ego_speed`,
    `front_vx`); its position is the column in m or rad with the same name but for that word (`ego_x`, `front_x`,
    `ego`). Velocities without a position of their own get none.
    """
    names = {f.name: index for index, f in enumerate(fields) if f.unit in POSITION_UNITS}
    pairs = []
    for index, f in enumerate(fields):
        if f.unit in VELOCITY_UNITS:
            wanted = [name for name in _positions(f.name) if name in names]
            if wanted:
                pairs.append(Pair(names[wanted[0]], index))
    return tuple(pairs)


def _positions(velocity: str) -> list[str]:
    """What the position of a velocity of this name may be called, the likeliest first."""
    parts, found = velocity.split("_"), []
    for at, part in enumerate(parts):
        axis = part[1:] if part in ("vx", "vy", "vz") else None
        if axis:
            found.append("_".join([*parts[:at], axis, *parts[at + 1 :]]))
        elif part in VELOCITY_WORDS:
            rest = [*parts[:at], *parts[at + 1 :]]
            found += ["_".join([*parts[:at], word, *parts[at + 1 :]]) for word in POSITION_WORDS if word]
            found.append("_".join(rest))
    return [name for name in found if name and name != velocity]


def point_masses(fields: Sequence[Any]) -> bool:
    """Whether the whole observation is positions in m and their velocities in m/s, and nothing else."""
    columns = {index for pair in kinematic_pairs(fields) for index in pair}
    return columns == set(range(len(fields))) and all(f.unit in ("m", "m/s") for f in fields)


class Features(nn.Module):
    """A linear map of the observation, standardised: its columns, and for point masses their distances.

    Of n masses: the distance of each from the first, and of each from the one before. All agents of a benchmark are
    told the same.

    Args:
        fields: The observation's columns.
        extra: How many columns that are scaled already follow them and pass as they are, a view's for instance.
    """

    matrix: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, fields: Sequence[Any], extra: int = 0):
        super().__init__()
        self.observation, self.extra = len(fields) + extra, extra
        rows = [torch.eye(len(fields))]
        if point_masses(fields):
            places = torch.stack([torch.eye(len(fields))[pair.position] for pair in kinematic_pairs(fields)])
            rows += [places[1:] - places[:1], places[2:] - places[1:-1]]
        self.register_buffer("matrix", torch.block_diag(torch.cat(rows), torch.eye(extra)))
        self.size = len(self.matrix)
        self.register_buffer("center", torch.zeros(self.size))
        self.register_buffer("scale", torch.ones(self.size))

    def fit(self, observation: Tensor) -> None:
        """Takes mean and standard deviation from observations `[..., O]`; what never changes keeps the scale 1."""
        told = observation.reshape(-1, self.observation) @ self.matrix.T
        spread, own = told.std(0), self.size - self.extra
        self.center[:own] = told.mean(0)[:own]
        self.scale[:own] = torch.where(spread > 1e-4, spread, 1.0)[:own]

    def forward(self, observation: Tensor) -> Tensor:
        """`[..., O]` to `[..., F]`, always in float32: in bfloat16 a position of 200 m is known to a metre."""
        with torch.autocast(observation.device.type, enabled=False):
            return (observation.float() @ self.matrix.T - self.center) / self.scale
