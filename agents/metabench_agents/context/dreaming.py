"""A policy that learns in a generative model alone: PPO over whole imagined episodes of imagined tasks.

Rollouts are made of the decoder's own steps, with decisions that stand as long as the view says, from first states
that are generated for the imagined task. Nothing is differentiated through the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from metabench_agents.context.actor_critic import Act, ActionScale
from metabench_agents.parts.fast.adam import Adam
from metabench_agents.parts.features import Features
from metabench_agents.parts.layers import linear
from metabench_agents.parts.losses import PPO, gae, ppo_policy_loss, value_loss
from metabench_agents.parts.view import Sight, held_steps


def _ppo() -> PPO:
    return PPO(learning_rate=1e-3, discount=0.99, epochs=4, minibatches=8, entropy=0.0, value_weight=1.0)


@dataclass(frozen=True)
class DreamConfig:
    """How a policy learns in the model."""

    steps: int = field(default=5_500_000, metadata={"low": 0})  # imagined ones of a round, those after an end included
    slots: int = 512  # imagined episodes played together
    hidden: int = 64  # width of policy and value
    layers: int = 2  # their hidden layers
    deviation: float = 0.7  # of the policy's actions at the start
    reward_scale: float = 0.2  # what imagined rewards are multiplied by
    fresh: bool = True  # whether each round's policy starts anew; an old one is bound to an old model's faults
    tries: int = field(default=1, metadata={"low": 1})  # policies of a round; the one that earns most there stays
    ppo: PPO = field(default_factory=_ppo)  # how it learns


class LatentGaussianPolicy(nn.Module):
    """Policy and value given (s, z): tanh layers, a Gaussian around the mean whose deviation is learned.

    Args:
        sight: What is shown of observations.
        action_space: A bounded Box.
        latent: Dimensions of z.
        config: Sizes.
    """

    def __init__(self, sight: Sight, action_space: Any, latent: int, config: DreamConfig):
        super().__init__()
        own = sight.fields[: len(sight.fields) - sight.extra]
        self.latent = latent
        self.features, self.actions = Features(own, sight.extra), ActionScale(action_space)
        self.observation = len(sight.fields)
        inputs = self.features.size + latent
        self.mean = _tanh_layers(inputs, config.hidden, config.layers, self.actions.size, 0.01)
        self.value = _tanh_layers(inputs, config.hidden, config.layers, 1, 1.0)
        self.log_std = nn.Parameter(torch.full((self.actions.size,), math.log(config.deviation)))

    def see(self, observation: Tensor, z: Tensor) -> Tensor:
        """The networks' input `[..., F + L]` from what is shown `[..., O + extra]`."""
        return torch.cat((self.features(observation), z), dim=-1)

    def act(self, state: Tensor, noise: Tensor) -> Act:
        """An action at `see(...)`, the mean for zero noise: played clipped to [-1, 1]."""
        mean = self.mean(state)
        action = mean + self.log_std.exp() * noise
        return Act(action.clamp(-1.0, 1.0), self.log_prob(mean, action), mean, self.log_std.expand_as(mean))

    def log_prob(self, mean: Tensor, action: Tensor) -> Tensor:
        """`[...]` of unclipped actions, up to a constant."""
        return (-0.5 * ((action - mean) / self.log_std.exp()) ** 2 - self.log_std).sum(-1)


def _tanh_layers(inputs: int, hidden: int, layers: int, outputs: int, gain: float) -> nn.Sequential:
    parts: list[nn.Module] = []
    for width in [inputs, *[hidden] * layers][:-1]:
        parts += [linear(width, hidden), nn.Tanh()]
    return nn.Sequential(*parts, linear(hidden if layers else inputs, outputs, gain))


class World(Protocol):
    """What a policy learns in: whole episodes of B slots."""

    def begin(self, count: int, generator: torch.Generator) -> tuple[Any, Tensor, Tensor]:
        """B fresh episodes: their state, the latents `[B, L]` that the policy believes in, first observations."""
        ...

    def hold(self, state: Any, action: Tensor, alive: Tensor, steps: int) -> tuple[Any, Tensor, Tensor, int]:
        """Some steps under actions `[B, A]` in [-1, 1]; see `NeuralDecoder.hold`."""
        ...

    def observe(self, state: Any) -> Tensor:
        """`[B, O]`."""
        ...


class Imagined(NamedTuple):
    """Decisions of imagined episodes: T of each of B."""

    seen: Tensor  # [T, B, F + L]
    action: Tensor  # [T, B, A] unclipped
    log_prob: Tensor  # [T, B]
    value: Tensor  # [T, B]
    reward: Tensor  # [T, B] of the held steps together
    live: Tensor  # [T, B] bool: the episode had not ended
    steps: int  # imagined ones that count


@torch.no_grad()
def imagine_episodes(
    policy: LatentGaussianPolicy, world: World, sight: Sight, slots: int, generator: torch.Generator
) -> Imagined:
    """One whole episode in every slot; the last step's value is 0, the limit being a true end in imagination."""
    state, guess, observation = world.begin(slots, generator)
    alive, count = torch.ones(slots, dtype=torch.bool), 0
    rows: list[tuple[Tensor, ...]] = []
    for decision in range(held_steps(sight.horizon, sight.view.hold)):
        begun = decision * sight.view.hold
        seen = policy.see(sight(observation, torch.full((slots,), begun)), guess)
        mean = policy.mean(seen)
        action = mean + policy.log_std.exp() * torch.randn(mean.shape, generator=generator)
        live, length = alive, min(sight.view.hold, sight.horizon - begun)
        state, total, alive, steps = world.hold(state, action.clamp(-1.0, 1.0), alive, length)
        count += steps
        rows.append((seen, action, policy.log_prob(mean, action), policy.value(seen)[..., 0], total, live))
        observation = world.observe(state)
    seen, action, log_prob, value, reward, live = (torch.stack(column) for column in zip(*rows, strict=True))
    return Imagined(seen, action, log_prob, value, reward, live, count)


def ppo_pass(
    policy: LatentGaussianPolicy,
    optimiser: torch.optim.Optimizer,
    batch: Imagined,
    config: DreamConfig,
    left: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """PPO's passes over the decisions of imagined episodes that had not ended."""
    own = config.ppo
    optimiser.param_groups[0]["lr"] = own.learning_rate * left
    reward, value = batch.reward * config.reward_scale, torch.where(batch.live, batch.value, 0.0)
    advantage = gae(reward, value, torch.zeros_like(value[0]), own.discount, own.trace)
    kept = batch.live.flatten()
    columns = (batch.seen, batch.action, batch.log_prob, advantage, advantage + value)
    seen, action, log_prob, advantage, target = (column.flatten(0, 1)[kept] for column in columns)
    sums: dict[str, Tensor] = {}
    for _ in range(own.epochs):
        for rows in torch.randperm(len(target), generator=generator).chunk(own.minibatches):
            part = advantage[rows]
            part = (part - part.mean()) / (part.std() + 1e-8)
            new = policy.log_prob(policy.mean(seen[rows]), action[rows])
            loss, metrics = ppo_policy_loss(new, log_prob[rows], part, own.clip)
            critic, more = value_loss(policy.value(seen[rows])[..., 0], target[rows])
            bonus = own.entropy * left * policy.log_std.sum()
            optimiser.zero_grad(set_to_none=True)
            (loss + own.value_weight * critic - bonus).backward()
            nn.utils.clip_grad_norm_(policy.parameters(), own.max_grad_norm)
            optimiser.step()
            for name, metric in (metrics | more).items():
                sums[name] = sums.get(name, torch.zeros(())) + metric.detach()
    return {name: float(total) / (own.epochs * own.minibatches) for name, total in sums.items()}


def learn_in(
    policy: LatentGaussianPolicy,
    world: World,
    sight: Sight,
    config: DreamConfig,
    generator: torch.Generator,
    watch: Callable[[int, float], None] | None = None,
) -> dict[str, float]:
    """Improves a policy by PPO over `config.steps` steps of a world; the last iteration's metrics.

    Args:
        policy: Changed in place; its features must have been fitted.
        world: What it plays in.
        sight: What it is shown.
        config: How it learns.
        generator: For everything drawn.
        watch: Told the steps so far and the mean return of the last episodes, after each iteration.
    """
    optimiser = Adam(policy.parameters(), lr=config.ppo.learning_rate, eps=1e-5, fused=True)
    iterations, steps, metrics = -(-config.steps // (config.slots * sight.horizon)), 0, {}
    for iteration in range(iterations):
        batch = imagine_episodes(policy, world, sight, config.slots, generator)
        metrics = ppo_pass(policy, optimiser, batch, config, 1.0 - iteration / iterations, generator)
        steps += batch.steps
        mean = float(batch.reward.sum(0).mean())
        metrics |= {"return": mean, "ended": float(1.0 - batch.live[-1].float().mean())}
        if watch:
            watch(steps, mean)
    deviation = float(policy.log_std.detach().exp().mean())
    return {f"dream_{name}": value for name, value in (metrics | {"steps": steps, "deviation": deviation}).items()}
