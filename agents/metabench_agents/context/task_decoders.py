"""Generative models of a task family: given s, a and the latent task z, the next s, the reward, and whether it ends.

Two decoders, one interface. The neural one predicts the change of every column. The kinematic one knows that some
columns are positions and others their velocities: its network only gives accelerations, bounded by `bound * tanh`,
and the rest is p' = p + v dt, v' = v + a dt (explicit Euler, as MetaDreamer's physics-informed decoder is described).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.context.actor_critic import mlp
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.features import Features, Pair, kinematic_pairs, point_masses

MAX_ACCELERATION = 3.0  # m/s^2, the bound of the paper's decoder


@dataclass(frozen=True)
class TransitionDecoderConfig:
    """Which decoder, and how large."""

    kind: str = "auto"  # "physics", "vehicles" or "neural"; "auto" takes physics where point masses are observed
    hidden: int = 128  # width of its network
    layers: int = 2  # hidden layers


class Prediction(NamedTuple):
    """What a decoder says of a step."""

    next_observation: Tensor  # [..., O] expected
    reward: Tensor  # [...] expected
    ends: Tensor  # [...] logit of the probability that the task's own rule ends the episode here


class Units(nn.Module):
    """How far columns of the observation move in a step, and where rewards lie: what errors are measured in."""

    step: Tensor
    center: Tensor
    reward_center: Tensor
    reward_scale: Tensor
    reward_low: Tensor
    reward_high: Tensor

    def __init__(self, observation: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(observation))
        self.register_buffer("step", torch.ones(observation))
        self.register_buffer("reward_center", torch.zeros(()))
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("reward_low", torch.tensor(-float("inf")))
        self.register_buffer("reward_high", torch.tensor(float("inf")))

    def fit(self, seen: Transitions) -> None:
        """Takes mean and standard deviation from experience; columns that never move keep the unit 1."""
        change = (seen.next_observation - seen.observation).reshape(-1, len(self.step))
        spread = change.std(0)
        self.center.copy_(change.mean(0))
        self.step.copy_(torch.where(spread > 1e-6, spread, 1.0))
        self.reward_center.copy_(seen.reward.mean())
        self.reward_scale.copy_(seen.reward.std().clamp_min(1e-6))
        self.reward_low.copy_(seen.reward.min())
        self.reward_high.copy_(seen.reward.max())


class NeuralDecoder(nn.Module):
    """(s, a, z) -> change of s, reward, end: one network, no physics."""

    evidence_columns = 0  # of `evidence`; 0 where transitions are shown to an encoder as they are

    def __init__(
        self, features: Features, space: spaces.Box, action: int, latent: int, config: TransitionDecoderConfig
    ):
        super().__init__()
        self.features, self.units = features, Units(space.shape[0])
        self.register_buffer("low", torch.as_tensor(space.low))
        self.register_buffer("high", torch.as_tensor(space.high))
        self.body = mlp(features.size + action + latent, config.hidden, config.layers, space.shape[0] + 2)

    def raw(self, observation: Tensor, action: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The network's outputs `[..., O]`, `[...]`, `[...]`."""
        out = self.body(torch.cat((self.features(observation), action, z), dim=-1)).float()
        return out[..., :-2], out[..., -2], out[..., -1]

    def forward(self, observation: Tensor, action: Tensor, z: Tensor) -> Prediction:
        """The expected step; leading axes are any and equal."""
        change, reward, ends = self.raw(observation, action, z)
        units = self.units
        after = self.move(observation, change)
        return Prediction(after, units.reward_center + units.reward_scale * reward, ends)

    def told(self, observation: Tensor, action: Tensor, z: Tensor, ended: Tensor | None) -> Prediction:
        """A step of which it is known whether it ended the episode, as in training; None: that is foretold too."""
        return self(observation, action, z)

    def evidence(self, seen: Transitions) -> Tensor:
        """What each of several alike parts shows of the task in transitions `[...]`: `[F, V, N]` with N all of them."""
        raise NotImplementedError(f"{type(self).__name__} shows transitions as they are")

    def enter(self, observation: Tensor, z: Tensor) -> Any:
        """Imagined episodes of tasks z `[B, L]` at first observations `[B, O]`: what `hold` goes on from."""
        return observation, z

    def hold(self, state: Any, action: Tensor, alive: Tensor, steps: int) -> tuple[Any, Tensor, Tensor, int]:
        """Up to `steps` imagined steps of B episodes under one action each.

        Args:
            state: Of all of them.
            action: `[B, A]`.
            alive: `[B]` bool: which have not ended.
            steps: How many.

        Returns:
            Their new state, the sums of their rewards `[B]`, which have not ended, and how many steps those took.
        """
        (observation, z), total, count = state, torch.zeros(len(alive)), 0
        for _ in range(steps):
            step = self.imagine(observation, action, z)
            total = total + torch.where(alive, step.reward, 0.0)
            count += int(alive.sum())
            observation, alive = step.next_observation, alive & ~(step.ends > 0.0)
        return (observation, z), total, alive, count

    def observe(self, state: Any) -> Tensor:
        """`[B, O]` of such episodes."""
        return state[0]

    def fit_starts(self, starts: Tensor) -> None:
        """Takes the units of first observations `[M, O]`; nothing here: those seen are taken as they are."""

    def start_loss(self, starts: Tensor, z: Tensor) -> Tensor:
        """Minus the log likelihood of first observations `[..., O]` of tasks `[..., L]`; 0: nothing is learned."""
        return starts.new_zeros(starts.shape[:-1])

    def fresh_starts(self, z: Tensor, known: Sequence[Tensor], centers: Tensor, generator: torch.Generator) -> Tensor:
        """First observations `[B, O]` for imagined tasks `[B, L]`: any of those seen.

        Args:
            z: The imagined tasks.
            known: `[E, O]` first observations that were seen in each real task.
            centers: `[R, L]` the real tasks' latents.
            generator: For the choice.
        """
        every = torch.cat(tuple(known))
        return every[torch.randint(len(every), (len(z),), generator=generator)]

    def move(self, observation: Tensor, change: Tensor) -> Tensor:
        """The next observation from the network's outputs."""
        return observation + self.units.center + self.units.step * change

    def imagine(self, observation: Tensor, action: Tensor, z: Tensor) -> Prediction:
        """A step to learn from or to go on from: s' inside the space's bounds, the reward inside what has been seen.

        Imagined states are fed back, so they come to where the network has never been; its reward must not tempt there.
        """
        step = self(observation, action, z)
        after = torch.minimum(torch.maximum(step.next_observation, self.low), self.high)  # pyright: ignore[reportArgumentType]
        return Prediction(after, step.reward.clamp(self.units.reward_low, self.units.reward_high), step.ends)


class KinematicDecoder(NeuralDecoder):
    """(s, a, z) -> accelerations, other columns' change, reward, end; positions and velocities follow.

    Args:
        features: Of observations, for the network.
        space: Of observations.
        action: Columns of an action.
        latent: Columns of z.
        config: The network's size.
        pairs: Which columns are positions and velocities.
        dt: Seconds of a step.
        bound: Of accelerations, m/s^2.
    """

    def __init__(
        self,
        features: Features,
        space: spaces.Box,
        action: int,
        latent: int,
        config: TransitionDecoderConfig,
        pairs: Sequence[Pair],
        dt: float,
        bound: float = MAX_ACCELERATION,
    ):
        super().__init__(features, space, action, latent, config)
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
    likelihood: Tensor, posterior: DiagonalGaussian, beta: float, transitions: int
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
        return within, within.new_zeros(())
    first, second = torch.triu_indices(len(centers), len(centers), 1)
    gap = torch.linalg.vector_norm(centers[first] - centers[second] + 1e-12, dim=-1)  # its slope is finite at 0 too
    return within, ((separation - gap).clamp_min(0.0) ** 2).mean()


def make_decoder(
    config: TransitionDecoderConfig, family: Any, features: Features, action: int, latent: int
) -> NeuralDecoder:
    """The decoder of a family: "physics", "neural", or "auto", which is physics where `point_masses` are observed.

    Raises:
        ValueError: For another kind, or physics where no columns are positions with velocities.
    """
    kind = config.kind
    if kind not in ("auto", "physics", "vehicles", "neural"):
        raise ValueError(f"unknown decoder {kind!r}; available: auto, physics, vehicles, neural")
    fields, space = family.observation_fields, family.observation_space
    if kind == "neural" or (kind == "auto" and not point_masses(fields)):
        return NeuralDecoder(features, space, action, latent, config)
    pairs = kinematic_pairs(fields)
    if kind == "vehicles":
        from metabench_agents.context.vehicles import VehicleDecoder  # it is one of these decoders

        return VehicleDecoder(features, space, action, latent, config, pairs, float(family.dt))
    return KinematicDecoder(features, space, action, latent, config, pairs, float(family.dt))
