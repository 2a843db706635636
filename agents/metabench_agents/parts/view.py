"""What an agent is shown of a benchmark and how often it decides: near distances, time, what was paid, held actions.

The same for every agent, in training and in evaluation, and off by default. Whatever the view, real environment steps
are counted, and an agent is played under the benchmark's own protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import metabench
from metabench.family import Field
from metabench_agents.parts.features import kinematic_pairs, point_masses

REACH = 20.0  # m beyond which a neighbour is as far as one that is not there
CENTER, SCALE = 6.0, 3.0  # m of a gap between two positions that is shown as 0, and of its unit: about a car's length
RELATIVE_SPEED = 2.0  # m/s of a relative speed's unit
PLACE = 8.0  # m of the unit of the place beside the origin, where the road changes
APPROACH = (-30.0, 5.0)  # m about the origin within which the approach is shown
NEAR_DOCS = {  # the columns of `near`; of the order of one, and without bounds: they are not to be scaled again
    "ahead_gap": "to the nearest mass ahead of the first, in units of 3 m from 6 m",
    "ahead_speed": "its speed beyond the first mass's, in units of 2 m/s",
    "ahead_closeness": "exp(6 m - gap) of it, gaps in m",
    "behind_gap": "to the nearest mass behind the first",
    "behind_speed": "its speed beyond the first mass's",
    "behind_closeness": "exp(6 m - gap) of it, gaps in m",
    "place": "tanh of the first mass's position in units of 8 m",
    "approach": "the first mass's position within the last 30 m before the origin",
}
NEAR = tuple(Field(name, -float("inf"), float("inf"), "", doc) for name, doc in NEAR_DOCS.items())
TIME = Field("elapsed", -1.0, 1.0, "", "share of the episode that is over, from -1 to 1")
PAID = Field("paid", -float("inf"), float("inf"), "", "sum of the episode's rewards before the last decision's own")


@dataclass(frozen=True)
class ViewConfig:
    """What is shown beside the observation, and for how long an action stands."""

    near: bool = False  # columns at a car's scale: gaps and relative speeds ahead and behind, the place at the origin
    hold: int = field(default=1, metadata={"low": 1})  # environment steps from one decision to the next
    time: bool = False  # the share of the episode that is over as a column, and its limit as a true end
    paid: bool = False  # what the episode had paid before the last reward, as a column: earlier ones may decide later
    whole: bool = False  # whether an episode that ends early is rested out to the limit: trials of one length

    @property
    def plain(self) -> bool:
        """Whether it changes nothing."""
        return self == ViewConfig()


VIEWS: dict[str, ViewConfig] = {  # by benchmark: what its studies give every agent, ours and others' alike
    "HighwayMerge-v0": ViewConfig(near=True, hold=5, time=True),
    "HighwayMergeHidas-v0": ViewConfig(near=True, hold=5, time=True),
}


def view_of(benchmark: str) -> ViewConfig:
    """The view that suits a benchmark; the plain one where none is known."""
    return VIEWS.get(metabench.spec(benchmark).id, ViewConfig())


def whole_view(benchmark: str) -> ViewConfig:
    """The same for agents whose trials must be of one length."""
    view = view_of(benchmark)
    return view if view.plain else replace(view, whole=True)


class Sight:
    """Observations as a view shows them: the benchmark's columns first, then the view's own.

    Args:
        fields: The benchmark's columns.
        view: What is shown beside them.
        horizon: Steps of an episode.

    Raises:
        ValueError: If near distances are asked for where no point masses along one line are observed.
    """

    def __init__(self, fields: Sequence[Field], view: ViewConfig, horizon: int):
        self.view, self.horizon = view, horizon
        pairs = kinematic_pairs(fields)
        if view.near and (not point_masses(fields) or len(pairs) < 2):
            raise ValueError("near distances need point masses among the observation's columns; leave view.near out")
        self.position, self.velocity = ([pair[side] for pair in pairs] for side in (0, 1))
        extra = (NEAR if view.near else ()) + ((TIME,) if view.time else ()) + ((PAID,) if view.paid else ())
        self.fields: tuple[Field, ...] = (*fields, *extra)
        self.extra = len(extra)

    def __call__(self, observation: Tensor, elapsed: Tensor, paid: Tensor | None = None) -> Tensor:
        """`[..., O]`, the steps of the episode that are over and what it paid `[...]`: `[..., O + extra]` in float32.

        What it paid is the sum of its rewards before the last decision's own, which the agent is told apart: a decoder
        that is asked for a reward where a step ends cannot read it off.
        """
        observation = observation.float()
        parts = [observation]
        if self.view.near:
            parts.append(near(observation[..., self.position], observation[..., self.velocity]))
        if self.view.time:
            parts.append((elapsed.float() * (2.0 / self.horizon) - 1.0)[..., None])
        if self.view.paid:
            if paid is None:
                raise ValueError("view.paid needs the episode's rewards, which are not kept here; leave view.paid out")
            parts.append(paid.float()[..., None])
        return torch.cat(parts, dim=-1) if len(parts) > 1 else observation


def near(position: Tensor, velocity: Tensor) -> Tensor:
    """The columns `NEAR` `[..., 8]` of masses along a line, `[..., V]` m and m/s; the first is the one that acts."""
    distance, speed = position[..., 1:] - position[..., :1], velocity[..., 1:] - velocity[..., :1]
    columns = []
    for ahead, gap in ((distance >= 0, distance), (distance < 0, -distance)):
        least, which = torch.where(ahead, gap, 2 * REACH).min(-1)
        relative = torch.where(least < 2 * REACH, speed.gather(-1, which[..., None])[..., 0], 0.0)
        closeness = torch.exp((CENTER - least).clamp_max(SCALE))
        columns += [(least.clamp_max(REACH) - CENTER) / SCALE, relative / RELATIVE_SPEED, closeness]
    own = position[..., 0]
    approach = (own.clamp(*APPROACH) - APPROACH[0]) / 10.0 - 2.0
    return torch.stack([*columns, torch.tanh(own / PLACE), approach], dim=-1)


def held_steps(horizon: int, hold: int) -> int:
    """Decisions of an episode."""
    return -(-horizon // hold)


def extra_columns(view: ViewConfig) -> int:
    """How many columns a view adds."""
    return len(NEAR) * view.near + view.time + view.paid


def sight_of(env: Any, view: ViewConfig) -> Sight:
    """What a view shows of a benchmark's environment, to agents that dream: a dream's sums of rewards are not kept.

    Raises:
        ValueError: If the view shows what the episode paid.
    """
    if view.paid:
        raise ValueError("an agent that learns in dreams is not shown what its episode paid; leave view.paid out")
    return Sight(env.family.observation_fields, view, env.family.horizon)
