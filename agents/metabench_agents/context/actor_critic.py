"""Soft actor-critic whose networks are also given a latent task: what PEARL and MetaDreamer learn their policies with.

It is the form of Haarnoja et al. 2018 (arXiv 1801.01290) with a state-value network and a fixed temperature of 1, which
PEARL's code uses; the reward scale takes the temperature's place.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.context.replay import Transitions
from metabench_agents.parts.device import Device, laid_out
from metabench_agents.parts.fast.linear import Linear
from metabench_agents.parts.features import Features

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # of the policy before tanh, as in PEARL's code
HIDDEN_BIAS, OUTPUT_BOUND = 0.1, 3e-3  # how networks start, as all of PEARL's but its policy's last layer


@dataclass(frozen=True)
class LatentSACConfig:
    """Settings of the networks and their update; the defaults are oyster's."""

    hidden: int = 300  # width of policy, action and state values
    layers: int = 3  # their hidden layers
    normalised_values: bool = False  # layer norms in action and state values, which oyster has not
    learning_rate: float = 3e-4  # Adam's, of all networks, an encoder that learns with the critics included
    discount: float = 0.99  # gamma
    reward_scale: float = 5.0  # of rewards in the critics' targets
    target_rate: float = 5e-3  # how far the target value moves to the value in an update
    temperature: float = 1.0  # weight of the policy's entropy, or where it starts if it is learned
    learned_temperature: bool = False  # whether it is, so that the entropy comes to `entropy_per_action`
    entropy_per_action: float = -1.0  # nats that a learned temperature aims at, times the action's columns
    mean_weight: float = 1e-3  # penalty on the square of the policy's mean before tanh
    std_weight: float = 1e-3  # penalty on the square of its log deviation


def mlp(inputs: int, hidden: int, layers: int, outputs: int, normalised: bool = False) -> nn.Sequential:
    """ReLU layers that start uniform within 1 / sqrt(inputs), with biases 0.1 and outputs next to zero.

    PEARL's code bounds a hidden layer's weights by 1 / sqrt(outputs) (its `fanin_init` reads the first axis of a matrix
    `[outputs, inputs]`) and its policy's last layer by 1e-3 instead of 3e-3. Of equal width the hidden layers start the
    same; the first one starts larger here wherever it has fewer inputs than units. With theirs PointRobot was learned
    slower: -14.8 instead of -10.0 after 59,400 steps.

    `normalised` puts a layer norm (Ba et al. 2016, arXiv 1607.06450) before each ReLU, which PEARL has not.
    """
    widths = [inputs, *[hidden] * layers]
    parts: list[nn.Module] = []
    for width, following in pairwise(widths):
        layer = Linear(width, following)
        nn.init.uniform_(layer.weight, -1.0 / math.sqrt(width), 1.0 / math.sqrt(width))
        nn.init.constant_(layer.bias, HIDDEN_BIAS)
        parts += [layer, *([nn.LayerNorm(following)] if normalised else []), nn.ReLU()]
    last = Linear(widths[-1], outputs)
    nn.init.uniform_(last.weight, -OUTPUT_BOUND, OUTPUT_BOUND)
    nn.init.uniform_(last.bias, -OUTPUT_BOUND, OUTPUT_BOUND)
    return nn.Sequential(*parts, last)


class ActionScale:
    """Between a bounded Box and the policy's units, [-1, 1] along each axis."""

    def __init__(self, space: Any):
        if not isinstance(space, spaces.Box) or not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(f"this agent acts in bounded Box spaces only, not in {space}")
        self.low, self.high = np.asarray(space.low), np.asarray(space.high)
        self.center, self.half = (self.high + self.low) / 2, (self.high - self.low) / 2
        self.space, self.size = space, int(np.prod(space.shape))

    def to_env(self, action: Tensor) -> npt.NDArray[Any]:
        """Actions in the environment's units, inside the box."""
        raw = action.float().numpy().reshape(-1, *self.low.shape)
        return np.clip(self.center + self.half * raw, self.low, self.high).astype(self.low.dtype)

    def from_env(self, action: npt.NDArray[Any]) -> Tensor:
        """The inverse: `[B, A]` float32; what lay outside the box comes back on its border."""
        unit = np.clip((np.asarray(action) - self.center) / self.half, -1.0, 1.0)
        return torch.as_tensor(unit.reshape(len(unit), self.size), dtype=torch.float32)


class Act(NamedTuple):
    """A squashed Gaussian policy at some observations, and an action drawn from it."""

    action: Tensor  # [..., A] in [-1, 1]
    log_prob: Tensor  # [...]
    mean: Tensor  # [..., A] before tanh
    log_std: Tensor  # [..., A]


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> Act:
    """An action, tanh of mean + std * noise, and its log density; log(1 - tanh^2 u) = 2 (log 2 - u - softplus(-2u))."""
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    u = mean + log_std.exp() * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    jacobian = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
    return Act(torch.tanh(u), (gaussian - jacobian).sum(-1), mean, log_std)


class LatentActorCritic(nn.Module):
    """Policy, two action values, a state value and its slow copy; all see (s, z), the action values a as well.

    Args:
        columns: Of the observation.
        action_space: A bounded Box.
        latent: Dimensions of z.
        config: Sizes; layer norms are in the action and state values, never in the policy.
        extra: How many of the columns are a view's, the last ones.
    """

    def __init__(self, columns: Sequence[Any], action_space: Any, latent: int, config: LatentSACConfig, extra: int = 0):
        super().__init__()
        self.latent = latent
        own = columns[: len(columns) - extra]
        self.features, self.actions = Features(own, extra), ActionScale(action_space)
        self.observation = self.features.observation
        state, sizes = self.features.size + latent, (config.hidden, config.layers, 1, config.normalised_values)
        self.policy = mlp(state, config.hidden, config.layers, 2 * self.actions.size)
        self.q1 = mlp(state + self.actions.size, *sizes)
        self.q2 = mlp(state + self.actions.size, *sizes)
        self.value = mlp(state, *sizes)
        self.target = mlp(state, *sizes).requires_grad_(False)
        self.target.load_state_dict(self.value.state_dict())

    def see(self, observation: Tensor, z: Tensor) -> Tensor:
        """The networks' input `[..., F + L]`."""
        return torch.cat((self.features(observation), z), dim=-1)

    def act(self, state: Tensor, noise: Tensor) -> Act:
        """An action at `see(...)`; the most probable one for zero noise."""
        mean, log_std = self.policy(state).float().chunk(2, dim=-1)
        return squash(mean, log_std, noise)

    def q(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both action values `[...]`."""
        x = torch.cat((state, action), dim=-1)
        return self.q1(x).float()[..., 0], self.q2(x).float()[..., 0]


def bellman_target(reward: Tensor, terminal: Tensor, next_value: Tensor, scale: float, discount: float) -> Tensor:
    """Targets scale * r + discount * V'(s'), nothing after the task's own end. PEARL scales rewards only here."""
    return scale * reward + (1.0 - terminal) * discount * next_value


def critic_loss(q1: Tensor, q2: Tensor, target: Tensor) -> Tensor:
    """The mean squared errors of both action values, added."""
    return F.mse_loss(q1, target) + F.mse_loss(q2, target)


def value_loss(value: Tensor, min_q: Tensor, log_prob: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """The mean squared error of V against min(Q1, Q2) - temperature * log pi, which has no gradient."""
    return F.mse_loss(value, (min_q - temperature * log_prob).detach())


def policy_loss(
    act: Act, min_q: Tensor, mean_weight: float, std_weight: float, temperature: Tensor | float = 1.0
) -> Tensor:
    """mean(temperature * log pi - min(Q1, Q2)) plus penalties on the squares of mean and log std."""
    penalty = mean_weight * (act.mean**2).mean() + std_weight * (act.log_std**2).mean()
    return (temperature * act.log_prob - min_q).mean() + penalty


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """-log(temperature) * mean(log pi + target entropy): Haarnoja et al. 2018 (arXiv 1812.05905), section 5.

    By log(temperature), as its authors' code has it.
    """
    return -(log_temperature * (log_prob + target_entropy).detach()).mean()


class LatentSAC:
    """Networks, their optimisers and one update.

    Args:
        network: Changed in place by `update`.
        config: See there.
        encoder: Parameters that learn with the critics: those of an encoder whose samples are given to `update`.
        device: Where the networks are.
    """

    def __init__(
        self,
        network: LatentActorCritic,
        config: LatentSACConfig,
        encoder: Sequence[nn.Parameter] = (),
        device: Device | None = None,
    ):
        self.network, self.config, self.device = network, config, device or Device()
        groups: dict[str, list[Tensor]] = {
            "critic": [*network.q1.parameters(), *network.q2.parameters(), *encoder],
            "value": list(network.value.parameters()),
            "policy": list(network.policy.parameters()),
        }
        rate = config.learning_rate
        start = torch.tensor(math.log(config.temperature), device=self.device.kind)
        self.log_temperature = start.requires_grad_(config.learned_temperature)
        if config.learned_temperature:
            groups["temperature"] = [self.log_temperature]
        self.target_entropy = config.entropy_per_action * network.actions.size
        self.optimisers = {name: self.device.adam(group, rate) for name, group in groups.items()}
        self._critic = self.device.compiled(self._critic_stage)
        self._actor = self.device.compiled(self._actor_stage)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which networks run: a fresh one per stage, because it caches the weights it has cast."""
        return self.device.products() if self.device.precision == "bf16" else self.device.float32()

    def _critic_stage(self, batch: Transitions, z: Tensor) -> tuple[Tensor, Tensor]:
        network, own = self.network, self.config
        with torch.no_grad():
            following = network.target(network.see(batch.next_observation, z)).float()[..., 0]
            target = bellman_target(batch.reward, batch.terminal, following, own.reward_scale, own.discount)
        q1, q2 = network.q(network.see(batch.observation, z), batch.action)
        return critic_loss(q1, q2, target), q1

    def _actor_stage(self, batch: Transitions, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Act]:
        network, own = self.network, self.config
        state = network.see(batch.observation, z)
        act = network.act(state, noise)
        min_q = torch.minimum(*network.q(state, act.action))
        temperature = self._temperature()
        value = value_loss(network.value(state).float()[..., 0], min_q, act.log_prob, temperature)
        return value, policy_loss(act, min_q, own.mean_weight, own.std_weight, temperature), act

    def _temperature(self) -> Tensor | float:
        return self.log_temperature.detach().exp() if self.config.learned_temperature else self.config.temperature

    def update(self, batch: Transitions, z: Tensor, noise: Tensor, penalty: Tensor | None = None) -> dict[str, Tensor]:
        """One step of critics (and encoder), then of value and policy with the new critics, then of the slow copy.

        Args:
            batch: `[T, N, ...]` of T tasks.
            z: `[T, L]`, one sample per task shared by its transitions; the critics' loss is differentiated through it,
                the other losses are not.
            noise: `[T, N, A]` standard normal, for the policy's actions.
            penalty: Added to the critics' loss: the encoder's own loss.
        """
        batch, z, noise = self.device.put((batch, z, noise))
        per_step = z[:, None].expand(-1, batch.reward.shape[1], -1)
        with self.precision():
            critic, q = self._critic(batch, per_step)
        _descend(critic if penalty is None else critic + penalty, self.optimisers["critic"])
        with self.precision(), frozen(self.network.q1, self.network.q2):
            value, policy, act = self._actor(batch, per_step.detach(), noise)
        # Neither loss depends on the other's parameters, so the gradient of the sum is both gradients.
        _descend(value + policy, self.optimisers["value"], self.optimisers["policy"])
        extra = {}
        if self.config.learned_temperature:
            loss = temperature_loss(self.log_temperature, act.log_prob, self.target_entropy)
            _descend(loss, self.optimisers["temperature"])
            extra = {"temperature": self.log_temperature.detach().exp()}
        with torch.no_grad():
            pairs = zip(self.network.target.parameters(), self.network.value.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, self.config.target_rate)
        named = {"critic_loss": critic, "value_loss": value, "policy_loss": policy, "q": q.mean()}
        told = {name: loss.detach() for name, loss in named.items()}
        return told | {"entropy": -act.log_prob.detach().mean()} | extra

    def tensors(self) -> dict[str, Tensor]:
        """The optimisers' moments and a learned temperature, by name."""
        learned = {"log_temperature": self.log_temperature.detach()} if self.config.learned_temperature else {}
        return learned | {
            f"{name}/{index}/{key}": value
            for name, optimiser in self.optimisers.items()
            for index, moments in optimiser.state_dict()["state"].items()
            for key, value in moments.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        if "log_temperature" in tensors:
            with torch.no_grad():
                self.log_temperature.copy_(tensors["log_temperature"])
        for name, optimiser in self.optimisers.items():
            restore_adam(optimiser, {k.removeprefix(f"{name}/"): t for k, t in tensors.items() if k.startswith(name)})


def restore_adam(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts moments named `index/key` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """The networks' weights get no gradients inside, so that none are computed; their inputs still do."""
    for network in networks:
        network.requires_grad_(False)
    try:
        yield
    finally:
        for network in networks:
            network.requires_grad_(True)


def _descend(loss: Tensor, *optimisers: torch.optim.Optimizer) -> None:
    """One step along the loss's gradient in the optimisers' own parameters, and in no others."""
    parameters = [p for optimiser in optimisers for group in optimiser.param_groups for p in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = laid_out(gradient, parameter)
    for optimiser in optimisers:
        optimiser.step()
