"""Offline actor-critics given z: implicit Q-learning, and behaviour-regularised soft actor-critic as FOCAL has it.

Sources: Kostrikov et al. 2022 (IQL, arXiv 2110.06169); Wu et al. 2019 (BRAC, arXiv 1911.11361) in the form of FOCAL's
released code: two action values, a state value with a slow copy, a fixed entropy temperature of 1, and a dual critic
that estimates the divergence of the policy from the data, weighed by an alpha that is adapted. z is an input like the
observation and passes no gradient to the encoder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metabench_agents.context.actor_critic import (
    Act,
    ActionScale,
    bellman_target,
    critic_loss,
    frozen,
    mlp,
    policy_loss,
    squash,
    value_loss,
)
from metabench_agents.context.offline.losses import (
    dual_critic_loss,
    dual_divergence,
    gaussian_log_prob,
    iql_policy_loss,
    iql_value_loss,
)
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.device import Device, descend, set_rate
from metabench_agents.parts.features import Features

LOG_STD_MIN, LOG_STD_MAX = -4.0, 0.0  # of IQL's Gaussian, in half widths of the action space


@dataclass(frozen=True)
class IQLConfig:
    """Settings of implicit Q-learning."""

    expectile: float = 0.8  # of the value's regression; 0.5 is the mean
    temperature: float = 2.0  # beta: how sharply better actions are preferred, per spread of the advantage
    max_weight: float = 100.0  # of a transition in the policy's regression


@dataclass(frozen=True)
class BRACConfig:
    """Settings of the behaviour regularisation; the defaults are those of FOCAL's and CSRO's code."""

    alpha: float = 500.0  # weight of the divergence at the start
    max_alpha: float = 2000.0  # its highest value
    alpha_rate: float = 1.0  # how fast it follows the divergence; 0: it stays as it is
    divergence: float = 0.05  # at which it stays
    value_penalty: bool = field(default=False)  # whether the divergence enters the targets too
    dual_updates: int = 3  # of the dual critic per update
    dual_rate: float = 1e-4  # its learning rate
    penalty: float = 5.0  # on its values beyond 1
    reward_scale: float = 5.0  # of rewards, in standard deviations, against the entropy
    mean_weight: float = 1e-3  # penalty on the square of the policy's mean before tanh
    std_weight: float = 1e-3  # penalty on the square of its log deviation


@dataclass(frozen=True)
class ActorCriticConfig:
    """Settings of the policy and how it is learned."""

    kind: Literal["iql", "brac"] = "iql"  # which of the two
    hidden: int = 128  # width of all its networks; published: 64 to 256
    layers: int = 2  # their hidden layers
    learning_rate: float = 1e-3  # Adam's; published: 3e-4, for far more updates
    discount: float = 0.99  # gamma
    target_rate: float = 5e-3  # share of the slow copies' way in an update
    iql: IQLConfig = field(default_factory=IQLConfig)
    brac: BRACConfig = field(default_factory=BRACConfig)


class OfflineActorCritic(nn.Module):
    """Policy, two action values, a state value and slow copies; all see (s, z).

    Args:
        fields: The observation's columns.
        actions: The policy's units.
        latent: Dimensions of z.
        config: Which networks there are, and their sizes.
    """

    alpha: Tensor

    def __init__(self, fields: Any, actions: ActionScale, latent: int, config: ActorCriticConfig):
        super().__init__()
        self.features, self.config = Features(fields), config
        state, sizes = self.features.size + latent, (config.hidden, config.layers)
        self.policy = mlp(state, *sizes, 2 * actions.size)
        self.q1, self.q2 = mlp(state + actions.size, *sizes, 1), mlp(state + actions.size, *sizes, 1)
        self.value = mlp(state, *sizes, 1)
        copied = ("value",) if config.kind == "brac" else ("q1", "q2")
        self.slow = nn.ModuleDict({name: self._like(name, state, actions.size, sizes) for name in copied})
        if config.kind == "brac":
            self.dual = mlp(state + actions.size, *sizes, 1)
            self.register_buffer("alpha", torch.tensor(config.brac.alpha))

    def _like(self, name: str, state: int, actions: int, sizes: tuple[int, int]) -> nn.Sequential:
        copy = mlp(state if name == "value" else state + actions, *sizes, 1).requires_grad_(False)
        copy.load_state_dict(getattr(self, name).state_dict())
        return copy

    def see(self, observation: Tensor, z: Tensor) -> Tensor:
        """The networks' input `[..., F + L]`."""
        return torch.cat((self.features(observation), z), dim=-1)

    def act(self, state: Tensor) -> Tensor:
        """The most probable actions `[..., A]` at `see(...)`, in [-1, 1]."""
        return torch.tanh(self.policy(state).float().chunk(2, dim=-1)[0])

    def q(self, state: Tensor, action: Tensor, *, slow: bool = False) -> tuple[Tensor, Tensor]:
        """Both action values `[...]`."""
        x, of = torch.cat((state, action), dim=-1), self.slow if slow else {"q1": self.q1, "q2": self.q2}
        return of["q1"](x).float()[..., 0], of["q2"](x).float()[..., 0]

    def follow(self) -> None:
        """Moves the slow copies a little towards their originals."""
        with torch.no_grad():
            for name, copy in self.slow.items():
                for slow, own in zip(copy.parameters(), getattr(self, name).parameters(), strict=True):
                    slow.lerp_(own, self.config.target_rate)


def iql_loss(network: OfflineActorCritic, batch: Transitions, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """IQL's three losses, added: none of them depends on another's parameters.

    Args:
        network: Made for IQL.
        batch: `[T, N, ...]`, rewards in standard deviations.
        z: `[T, N, L]`.
    """
    own = network.config
    state, following = network.see(batch.observation, z), network.see(batch.next_observation, z)
    with torch.no_grad():
        next_value = network.value(following).float()[..., 0]
        target = bellman_target(batch.reward, batch.terminal, next_value, 1.0, own.discount)
        min_q = torch.minimum(*network.q(state, batch.action, slow=True))
    value = network.value(state).float()[..., 0]
    of_value = iql_value_loss(min_q, value, own.iql.expectile)
    q1, q2 = network.q(state, batch.action)
    of_critic = critic_loss(q1, q2, target)
    mean, raw = network.policy(state).float().chunk(2, dim=-1)
    log_prob = gaussian_log_prob(batch.action, torch.tanh(mean), raw.clamp(LOG_STD_MIN, LOG_STD_MAX))
    advantage = (min_q - value).detach()
    of_policy, _ = iql_policy_loss(log_prob, advantage, own.iql.temperature, own.iql.max_weight)
    parts = {"policy_loss": of_policy, "critic_loss": of_critic, "value_loss": of_value, "q": q1.mean()}
    return of_value + of_critic + of_policy, {name: part.detach() for name, part in parts.items()}


class Draws(NamedTuple):
    """The random numbers of one batch of the behaviour-regularised update."""

    noise: Tensor  # [T, N, A] standard normal, of the policy's actions
    share: Tensor  # [T, N, 1] even in [0, 1): where between the policy's action and the data's one is looked at

    @classmethod
    def of(cls, batch: Transitions, generator: torch.Generator) -> Draws:
        """For a batch `[T, N, ...]`."""
        noise = torch.randn(batch.action.shape, generator=generator)
        return cls(noise, torch.rand((*batch.reward.shape, 1), generator=generator))


class OfflineLearner:
    """The actor-critic, its optimisers and one update.

    Args:
        network: Changed in place.
        device: Where it is.
    """

    def __init__(self, network: OfflineActorCritic, device: Device | None = None):
        self.network, config = network, network.config
        self.device = device = device or Device()
        groups: dict[str, list[nn.Parameter]] = {"all": [p for p in network.parameters() if p.requires_grad]}
        if config.kind == "brac":
            groups = {
                "critic": [*network.q1.parameters(), *network.q2.parameters()],
                "actor": [*network.value.parameters(), *network.policy.parameters()],
                "dual": list(network.dual.parameters()),
            }
        self.optimisers = {name: device.adam(group, self._rate(name)) for name, group in groups.items()}
        self._iql = device.compiled(iql_loss)

    def _rate(self, name: str) -> float:
        own = self.network.config
        return own.brac.dual_rate if name == "dual" else own.learning_rate

    def set_rates(self, share: Tensor | float) -> None:
        """Sets all learning rates to a share of theirs."""
        for name, optimiser in self.optimisers.items():
            set_rate(optimiser, share * self._rate(name))

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which networks run: a fresh one per loss, because it caches the weights it has cast."""
        return self.device.products() if self.device.precision == "bf16" else self.device.float32()

    def update(self, batches: Sequence[Transitions], z: Tensor, draws: Sequence[Draws] = ()) -> dict[str, Tensor]:
        """One update.

        Args:
            batches: `[T, N, ...]` each, of T tasks, rewards in standard deviations: the first for all networks, the
                others for the dual critic's steps before.
            z: `[T, L]`, without gradient.
            draws: The random numbers of each batch; none for IQL.
        """
        wide = z[:, None].expand(-1, batches[0].reward.shape[1], -1)
        if self.network.config.kind == "iql":
            metrics = self._update_iql(batches[0], wide)
        else:
            for batch, own in zip(batches[1:], draws[1:], strict=True):
                self._dual_step(batch, wide, own)
            metrics = self._update_brac(batches[0], wide, draws[0])
        self.network.follow()
        return metrics

    def _update_iql(self, batch: Transitions, z: Tensor) -> dict[str, Tensor]:
        with self.precision():
            total, metrics = self._iql(self.network, batch, z)
        descend(total, self.optimisers["all"])
        return metrics

    def _update_brac(self, batch: Transitions, z: Tensor, draws: Draws) -> dict[str, Tensor]:
        """The critics, then value and policy with the new ones, then alpha."""
        network, own = self.network, self.network.config
        with self.precision():
            state = network.see(batch.observation, z)
            act = self._act(state, draws.noise)
            with frozen(network.dual):
                divergence = dual_divergence(self._dual(state, act.action), self._dual(state, batch.action))
            with torch.no_grad():
                following = network.slow["value"](network.see(batch.next_observation, z)).float()[..., 0]
                if own.brac.value_penalty:
                    following = following - network.alpha * divergence
                target = bellman_target(batch.reward, batch.terminal, following, own.brac.reward_scale, own.discount)
            q1, q2 = network.q(state, batch.action)
            of_critic = critic_loss(q1, q2, target)
        descend(of_critic, self.optimisers["critic"])
        with self.precision(), frozen(network.q1, network.q2):
            min_q = torch.minimum(*network.q(state, act.action))
            of_value = value_loss(network.value(state).float()[..., 0], min_q, act.log_prob)
            of_policy = policy_loss(act, min_q, own.brac.mean_weight, own.brac.std_weight)
        descend(of_value + of_policy + network.alpha * divergence.mean(), self.optimisers["actor"])
        gap = divergence.detach().mean() - own.brac.divergence
        network.alpha.add_(own.brac.alpha_rate * gap).clamp_(0.0, own.brac.max_alpha)
        parts = {"policy_loss": of_policy, "critic_loss": of_critic, "value_loss": of_value, "q": q1.mean()}
        parts |= {"divergence": divergence.mean(), "alpha": network.alpha.clone(), "entropy": -act.log_prob.mean()}
        return {name: part.detach() for name, part in parts.items()}

    def _act(self, state: Tensor, noise: Tensor) -> Act:
        mean, log_std = self.network.policy(state).float().chunk(2, dim=-1)
        return squash(mean, log_std, noise)

    def _dual(self, state: Tensor, action: Tensor) -> Tensor:
        return self.network.dual(torch.cat((state, action), dim=-1)).float()[..., 0]

    def _dual_step(self, batch: Transitions, z: Tensor, draws: Draws) -> None:
        with self.precision():
            with torch.no_grad():
                state = self.network.see(batch.observation, z)
                mine = self._act(state, draws.noise).action
                between = torch.lerp(mine, batch.action, draws.share)
            of_policy, of_data, amid = (self._dual(state, action) for action in (mine, batch.action, between))
            loss = dual_critic_loss(of_policy, of_data, amid, self.network.config.brac.penalty)
        descend(loss, self.optimisers["dual"])
