"""The inner step: a policy whose parameters are an argument, and one vanilla policy gradient on a task's episodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metabench_agents.parts.layers import ActionHead, linear, make_scaler

__all__ = [
    "Answer",
    "Batch",
    "InnerConfig",
    "NetworkConfig",
    "Parameters",
    "Policy",
    "adapted",
    "answers",
    "divergence",
    "inner_loss",
    "of_trials",
    "reply",
    "step_of_trials",
]

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class NetworkConfig:
    """The policy's network."""

    hidden: int = 64  # width of each hidden layer
    layers: int = 2  # hidden layers
    log_std: float = -0.5  # of the Gaussian at the start, in half widths of the action space
    normalise: bool = True  # whether observations without bounds are brought to a running unit scale


@dataclass(frozen=True)
class InnerConfig:
    """The step that adapts."""

    rate: float = 0.1  # alpha, the step's size
    steps: int = 1  # inner steps of a trial
    episodes: int = 1  # of the trial that each of them learns from
    first_order: bool = False  # whether the outer gradient takes the inner one as a constant


class Policy(nn.Module):
    """Observation -> tanh layers -> distribution over actions."""

    def __init__(self, config: NetworkConfig, env: Any):
        super().__init__()
        self.scaler = make_scaler(env.single_observation_space, config.normalise)
        widths = [env.single_observation_space.shape[0], *[config.hidden] * config.layers]
        layers = [(linear(a, b), nn.Tanh()) for a, b in itertools.pairwise(widths)]
        self.trunk = nn.Sequential(*(part for layer in layers for part in layer))
        self.head = ActionHead(widths[-1], env.single_action_space, config.log_std)

    def params(self, observation: Tensor) -> Tensor:
        """Logits or means `[..., A]`."""
        return self.head(self.trunk(self.scaler(observation)))

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """`[...]` of actions in the policy's units."""
        return self.head.log_prob(self.params(observation), action)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(policy, *args)`: lets any function of the policy run with other parameters in it."""
        return function(self, *args)

    def with_parameters(self, parameters: Parameters, function: Callable[..., Any], *args: Any) -> Any:
        """`function(policy, *args)` with these parameters instead of its own."""
        return functional_call(self, parameters, (function, *args))


class Batch(NamedTuple):
    """Episodes that a step learns from; of one trial without B, of B trials with it."""

    observation: Tensor  # [B, N, T, O]
    action: Tensor  # [B, N, T] or [B, N, T, A] in the policy's units
    log_prob: Tensor  # [B, N, T] under the parameters that played
    advantage: Tensor  # [B, N, T]


class Answer(NamedTuple):
    """What adapted parameters say of the episodes after adaptation."""

    log_prob: Tensor  # [B, N, T] of the actions taken
    params: Tensor  # [B, N, T, A] of the distributions
    log_std: Tensor  # [B, A] of the Gaussians; empty where actions are discrete
    entropy: Tensor  # [B, N, T] nats


def inner_loss(policy: Policy, batch: Batch) -> Tensor:
    """-mean_t A_t log pi(a_t | s_t), the vanilla policy gradient's loss, of one trial's episodes."""
    return -(policy.log_prob(batch.observation, batch.action) * batch.advantage).mean()


def adapted(policy: Policy, parameters: Parameters, batch: Batch, settings: InnerConfig) -> Parameters:
    """One trial's theta - alpha grad L(theta); differentiable in theta, at first order only if so set."""

    def loss(own: Parameters) -> Tensor:
        return policy.with_parameters(own, inner_loss, batch)

    slope = grad(loss)(parameters)
    if settings.first_order:
        slope = {name: part.detach() for name, part in slope.items()}
    return {name: own - settings.rate * slope[name] for name, own in parameters.items()}


def step_of_trials(policy: Policy, parameters: Parameters, batch: Batch, settings: InnerConfig) -> Parameters:
    """One inner step of B trials at once: parameters and episodes lead with the trial."""
    return vmap(lambda own, told: adapted(policy, own, told, settings))(parameters, batch)


def _answer(policy: Policy, observation: Tensor, action: Tensor) -> Answer:
    params = policy.params(observation)
    head = policy.head
    spread = params.new_zeros(0) if head.discrete else head.clamped_log_std()
    return Answer(head.log_prob(params, action), params, spread, head.entropy(params))


def answers(policy: Policy, theta: Parameters, before: Sequence[Batch], after: Batch, settings: InnerConfig) -> Answer:
    """What theta says of B trials' last episodes once each trial has taken its inner steps on its first ones."""

    def one(learned: tuple[Batch, ...], last: Batch) -> Answer:
        own = theta
        for batch in learned:
            own = adapted(policy, own, batch, settings)
        return policy.with_parameters(own, _answer, last.observation, last.action)

    return vmap(one)(tuple(before), after)


def divergence(old: Answer, new: Answer, discrete: bool) -> Tensor:
    """KL(old || new) in nats, mean over ticks and trials."""
    if discrete:
        before, after = old.params.log_softmax(-1), new.params.log_softmax(-1)
        return (before.exp() * (before - after)).sum(-1).mean()
    spread, wider = (x.log_std[:, None, None] for x in (old, new))
    square = ((2 * spread).exp() + (old.params - new.params) ** 2) / (2 * (2 * wider).exp())
    return (wider - spread + square - 0.5).sum(-1).mean()


def reply(policy: Policy, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The action that the noise `[..., A]` picks, and its log probability."""
    params = policy.params(observation)
    action = policy.head.place(params, noise)
    return action, policy.head.log_prob(params, action)


def of_trials(policy: Policy, parameters: Parameters, function: Callable[..., Any], *args: Any) -> Any:
    """`function(policy, *args)` of B trials, each with parameters of its own; all lead with the trial."""
    return vmap(lambda own, *given: policy.with_parameters(own, function, *given))(parameters, *args)
