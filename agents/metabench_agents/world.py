"""Generative models of a task family: given s, a and the latent task z, the next s, the reward, and whether it ends.

Two decoders, one interface. The neural one predicts the change of every column. The kinematic one knows that some
columns are positions and others their velocities: its network only gives accelerations, bounded by `bound * tanh`,
and the rest is p' = p + v dt, v' = v + a dt (explicit Euler, as MetaDreamer's physics-informed decoder is described).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.latent_sac import mlp
from metabench_agents.nn import Scaler
from metabench_agents.posterior import Gaussian
from metabench_agents.replay import Transitions

MAX_ACCELERATION = 3.0  # m/s^2, the bound of the paper's decoder
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


class Prediction(NamedTuple):
    """What a decoder says of a step."""

    next_observation: Tensor  # [..., O] expected
    reward: Tensor  # [...] expected
    ends: Tensor  # [...] logit of the probability that the task's own rule ends the episode here


class Units(nn.Module):
    """How far columns of the observation move in a step, and how rewards lie: what errors are measured in."""

    step: Tensor
    center: Tensor
    reward_center: Tensor
    reward_scale: Tensor

    def __init__(self, observation: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(observation))
        self.register_buffer("step", torch.ones(observation))
        self.register_buffer("reward_center", torch.zeros(()))
        self.register_buffer("reward_scale", torch.ones(()))

    def fit(self, seen: Transitions) -> None:
        """Takes mean and standard deviation from experience; columns that never move keep the unit 1."""
        change = (seen.next_observation - seen.observation).reshape(-1, len(self.step))
        spread = change.std(0)
        self.center.copy_(change.mean(0))
        self.step.copy_(torch.where(spread > 1e-6, spread, 1.0))
        self.reward_center.copy_(seen.reward.mean())
        self.reward_scale.copy_(seen.reward.std().clamp_min(1e-6))


class NeuralDecoder(nn.Module):
    """(s, a, z) -> change of s, reward, end: one network, no physics."""

    def __init__(self, space: spaces.Box, action: int, latent: int, hidden: int, layers: int):
        super().__init__()
        self.scaler, self.units = Scaler(space), Units(space.shape[0])
        self.register_buffer("low", torch.as_tensor(space.low))
        self.register_buffer("high", torch.as_tensor(space.high))
        self.body = mlp(space.shape[0] + action + latent, hidden, layers, space.shape[0] + 2)

    def raw(self, observation: Tensor, action: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The network's outputs `[..., O]`, `[...]`, `[...]`."""
        out = self.body(torch.cat((self.scaler(observation), action, z), dim=-1)).float()
        return out[..., :-2], out[..., -2], out[..., -1]

    def forward(self, observation: Tensor, action: Tensor, z: Tensor) -> Prediction:
        """The expected step; leading axes are any and equal."""
        change, reward, ends = self.raw(observation, action, z)
        units = self.units
        after = self.move(observation, change)
        return Prediction(after, units.reward_center + units.reward_scale * reward, ends)

    def move(self, observation: Tensor, change: Tensor) -> Tensor:
        """The next observation from the network's outputs."""
        return observation + self.units.center + self.units.step * change

    def inside(self, observation: Tensor) -> Tensor:
        """Observations clipped to the space's bounds: for imagined states that are fed back."""
        return torch.minimum(torch.maximum(observation, self.low), self.high)  # pyright: ignore[reportArgumentType]


class KinematicDecoder(NeuralDecoder):
    """(s, a, z) -> accelerations, other columns' change, reward, end; positions and velocities follow.

    Args:
        space: Of observations.
        action: Columns of an action.
        latent: Columns of z.
        hidden: Width of the network.
        layers: Its hidden layers.
        pairs: Which columns are positions and velocities.
        dt: Seconds of a step.
        bound: Of accelerations, m/s^2.
    """

    def __init__(
        self,
        space: spaces.Box,
        action: int,
        latent: int,
        hidden: int,
        layers: int,
        pairs: Sequence[Pair],
        dt: float,
        bound: float = MAX_ACCELERATION,
    ):
        super().__init__(space, action, latent, hidden, layers)
        if not pairs:
            raise ValueError(
                "there are no positions with velocities among the observation columns: use the neural decoder"
            )
        self.position, self.velocity = ([pair[side] for pair in pairs] for side in (0, 1))
        self.dt, self.bound = dt, bound

    def move(self, observation: Tensor, change: Tensor) -> Tensor:
        """Kinematics p' = p + v dt and v' = v + bound tanh(.) dt; every other column as in the neural decoder."""
        after = super().move(observation, change)
        velocity = observation[..., self.velocity]
        after[..., self.position] = observation[..., self.position] + velocity * self.dt
        acceleration = self.bound * torch.tanh(change[..., self.velocity])
        after[..., self.velocity] = velocity + acceleration * self.dt
        return after


def reconstruction(predicted: Prediction, seen: Transitions, units: Units, deviation: float) -> Tensor:
    """Minus the log likelihood of transitions in nats up to a constant, `[...]`.

    Columns of s' and the reward are Gaussian around the prediction, with `deviation` of their own units; the end is
    Bernoulli.
    """
    state = ((predicted.next_observation - seen.next_observation) / units.step) ** 2
    reward = ((predicted.reward - seen.reward) / units.reward_scale) ** 2
    ends = F.binary_cross_entropy_with_logits(predicted.ends, seen.terminal, reduction="none")
    return (state.sum(-1) + reward) / (2.0 * deviation**2) + ends


def vae_loss(
    likelihood: Tensor, posterior: Gaussian, beta: float, transitions: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The beta-VAE's loss per task: transitions * mean reconstruction + beta * KL(q || N(0, 1)), averaged over tasks.

    Args:
        likelihood: `[..., M]` reconstruction of transitions.
        posterior: `[..., L]` beliefs they were decoded from.
        beta: Weight of the divergence (Higgins et al. 2017).
        transitions: For how many transitions z has to speak.
    """
    rebuilt, kl = likelihood.mean(), posterior.kl().mean()
    return transitions * rebuilt + beta * kl, {"reconstruction": rebuilt.detach(), "kl": kl.detach()}


def cluster_losses(means: Tensor, separation: float) -> tuple[Tensor, Tensor]:
    """Compactness within tasks and separation between them, of posterior means `[T, P, L]` of P contexts of T tasks.

    within = mean over tasks and contexts of |m - c_t|^2, c_t the task's centre;
    between = mean over pairs of tasks of max(0, separation - |c_t - c_u|)^2.
    """
    centers = means.mean(1)
    within = ((means - centers[:, None]) ** 2).sum(-1).mean()
    if len(centers) < 2:
        return within, torch.zeros(())
    first, second = torch.triu_indices(len(centers), len(centers), 1)
    gap = torch.linalg.vector_norm(centers[first] - centers[second] + 1e-12, dim=-1)  # its slope is finite at 0 too
    return within, ((separation - gap).clamp_min(0.0) ** 2).mean()


def make_decoder(kind: str, family: Any, space: spaces.Box, action: int, latent: int, hidden: int, layers: int) -> Any:
    """The decoder of a family: "physics", "neural", or "auto", which is physics where the family bounds accelerations.

    Raises:
        ValueError: For another kind, or physics where no columns are positions with velocities.
    """
    if kind not in ("auto", "physics", "neural"):
        raise ValueError(f"unknown decoder {kind!r}; available: auto, physics, neural")
    bound = getattr(family, "max_acceleration", None)
    if kind == "neural" or (kind == "auto" and bound is None):
        return NeuralDecoder(space, action, latent, hidden, layers)
    pairs, limit = kinematic_pairs(family.observation_fields), MAX_ACCELERATION if bound is None else float(bound)
    return KinematicDecoder(space, action, latent, hidden, layers, pairs, float(np.float64(family.dt)), limit)
