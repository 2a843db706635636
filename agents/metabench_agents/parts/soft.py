"""Soft actor-critic on features of any making, for both kinds of action spaces; losses are pure functions.

Sources: Haarnoja et al. 2018 (arXiv 1812.05905) for boxes, with actions squashed by tanh; Christodoulou 2019 (arXiv
1910.07207) for Discrete, where the expectations over actions are sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from metabench_agents.parts.device import descend
from metabench_agents.parts.layers import ActionHead, Space, action_size, linear

LOG_STD_LOW, LOG_STD_HIGH = -5.0, 2.0  # of a Gaussian before tanh, as CleanRL bounds it
MARGIN = 1e-6  # keeps the logarithm of tanh's derivative finite


@dataclass(frozen=True)
class SoftConfig:
    """Settings of soft actor-critic."""

    learning_rate: float = 3e-4  # Adam's for policy, critics and temperature
    discount: float = 0.97  # gamma
    target_rate: float = 0.005  # share of the target critics' way to the critics per update
    entropy: float = 1.0  # entropy to hold: minus this per dimension of a box; 0.3 of this times log n for Discrete
    temperature: float = 0.2  # alpha at the start
    max_grad_norm: float = 1.0  # gradient clipping of policy and of critics; 0 for none


def mlp(inputs: int, width: int, outputs: int, gain: float = 1.0) -> nn.Sequential:
    """Two hidden layers."""
    hidden = (linear(inputs, width), nn.ReLU(), linear(width, width), nn.ReLU())
    return nn.Sequential(*hidden, linear(width, outputs, gain))


def check_space(name: str, space: object) -> None:
    """ValueError for actions in a box without bounds, which tanh cannot reach."""
    if isinstance(space, spaces.Box) and not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"{name} needs actions in a bounded box or Discrete ones, and these are {space}")


class SoftActor(ActionHead):
    """Features to a distribution over actions: a Gaussian squashed into the box, or a categorical one."""

    def __init__(self, inputs: int, width: int, space: Space):
        super().__init__(width, space)
        if not self.discrete:
            del self.log_std  # the spread depends on the features here
        self.out = mlp(inputs, width, action_size(space) * (1 if self.discrete else 2), gain=0.01)

    def draw(self, params: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Actions `[..., A]` in [-1, 1] with log densities `[...]`, for boxes; the most probable without noise.

        log pi(a) = sum_i log N(u_i) - log(1 - tanh(u_i)^2), a = tanh(u), u = mean + std * noise.
        """
        mean, log_std = self._gaussian(params)
        drawn = torch.zeros_like(mean) if noise is None else noise
        action = torch.tanh(mean + log_std.exp() * drawn)
        density = -0.5 * drawn**2 - log_std - 0.5 * math.log(2.0 * math.pi)
        return action, (density - torch.log(1.0 - action**2 + MARGIN)).sum(-1)

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions in the policy's units; the most probable ones without a generator."""
        if self.discrete:
            return super().sample(params, generator)
        shape = (*params.shape[:-1], params.shape[-1] // 2)
        noise = None if generator is None else torch.empty(shape).normal_(generator=generator)
        return self.draw(params, noise)[0]

    def uniform(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """Actions even over the space, in the policy's units, as many as `params` has rows."""
        return scaled_uniform(self.space, params.shape[:-1], generator)

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log probability (density) `[...]` of the actions; those at the box's edge count as just inside."""
        if self.discrete:
            return super().log_prob(params, action)
        mean, log_std = self._gaussian(params)
        inside = action.clamp(MARGIN - 1.0, 1.0 - MARGIN)
        return self.draw(params, (torch.atanh(inside) - mean) / log_std.exp())[1]

    def _gaussian(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before tanh, `[..., A]` each."""
        mean, raw = params.chunk(2, dim=-1)
        return mean, LOG_STD_LOW + 0.5 * (LOG_STD_HIGH - LOG_STD_LOW) * (torch.tanh(raw) + 1.0)

    def chance(self, *shape: int, generator: torch.Generator) -> Tensor:
        """What `soft_value` needs of chance for features `[*shape, I]`; nothing for Discrete."""
        return torch.empty(*shape, 0 if self.discrete else action_size(self.space)).normal_(generator=generator)


class SoftCritics(nn.Module):
    """Two Q functions: of features and an action in a box, or of features with a value per Discrete action."""

    def __init__(self, inputs: int, width: int, space: Space):
        super().__init__()
        self.discrete, actions = isinstance(space, spaces.Discrete), action_size(space)
        columns, outputs = (inputs, actions) if self.discrete else (inputs + actions, 1)
        self.first, self.second = mlp(columns, width, outputs), mlp(columns, width, outputs)

    def taken(self, features: Tensor, action: Tensor) -> Tensor:
        """`[2, ...]` values of actions taken: `[...]` int64, or `[..., A]` in [-1, 1]."""
        if self.discrete:
            index = action.long()[..., None]
            return torch.stack([net(features).gather(-1, index)[..., 0] for net in (self.first, self.second)])
        x = torch.cat((features, action), dim=-1)
        return torch.stack([net(x)[..., 0] for net in (self.first, self.second)])

    def every(self, features: Tensor) -> Tensor:
        """`[..., n]` the smaller value of every Discrete action."""
        return torch.minimum(self.first(features), self.second(features))


def soft_value(
    actor: SoftActor, critics: SoftCritics, params: Tensor, features: Tensor, alpha: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """E_pi[min Q - alpha log pi] and the entropy -E_pi[log pi], `[...]` each; a sum over Discrete actions, else a draw.

    Args:
        actor: Whose distribution `params` are of.
        critics: The Q functions.
        params: `[..., P]` of the policy.
        features: `[..., I]` what the critics read.
        alpha: The temperature.
        noise: From `SoftActor.chance`.
    """
    if actor.discrete:
        log_p = params.log_softmax(-1)
        p = log_p.exp()
        return (p * (critics.every(features) - alpha * log_p)).sum(-1), -(p * log_p).sum(-1)
    action, log_prob = actor.draw(params, noise)
    return critics.taken(features, action).min(0).values - alpha * log_prob, -log_prob


def entropy_target(space: Space, config: SoftConfig) -> float:
    """Nats that the temperature holds the policy's entropy at."""
    size = action_size(space)
    return config.entropy * math.log(size) * 0.3 if isinstance(space, spaces.Discrete) else -config.entropy * size


def critic_loss(value: Tensor, target: Tensor) -> Tensor:
    """Squared errors of both `[2, ...]` against one target `[...]`, mean over rows, summed over the two."""
    return ((value - target) ** 2).flatten(1).mean(1).sum()


def temperature_loss(log_alpha: Tensor, entropy: Tensor, target: float) -> Tensor:
    """`log alpha (H - H*)`: the temperature rises while the entropy is below its target."""
    return log_alpha * (entropy.detach().mean() - target)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Moves a network's slow copy a little towards it."""
    for target, own in zip(slow.parameters(), fast.parameters(), strict=True):
        target.lerp_(own, rate)


def step(optimiser: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float) -> None:
    """One gradient step, clipped; the gradients of other networks that the loss reaches are left alone."""
    descend(loss, optimiser, max_grad_norm)


def scaled_uniform(space: Space, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Actions even over the space in the policy's units: `[*size]` or `[*size, A]`."""
    if isinstance(space, spaces.Discrete):
        return torch.randint(int(space.n), size, generator=generator)
    return 2.0 * torch.rand((*size, action_size(space)), generator=generator) - 1.0
