"""RL2's network, PPO's loss on it, and the agent that acts with it."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from metabench import Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.attention.ticks import CausalTransformer, TickCache
from metabench_agents.parts.layers import (
    GRU,
    ActionHead,
    action_size,
    encode_action,
    linear,
    make_scaler,
    nothing_before,
)
from metabench_agents.parts.losses import PPO, ppo_policy_loss, value_loss
from metabench_agents.parts.memory import Rollout
from metabench_agents.rl2.settings import NAME, Config, NetworkConfig, TransformerConfig

Memory: TypeAlias = Tensor | TickCache  # what a core remembers of B trials: its hidden state [B, H], or keys and values


class Network(nn.Module):
    """Tick -> embedding -> memory -> policy and value.

    Args:
        config: Sizes.
        env: Whose observations and actions it has.
        transformer: What remembers in place of a GRU.
    """

    def __init__(self, config: NetworkConfig, env: Any, transformer: TransformerConfig | None = None):
        super().__init__()
        self.space = env.single_action_space
        self.scaler = make_scaler(env.single_observation_space, config.normalise)
        ticks = env.single_observation_space.shape[0] + action_size(self.space) + 2
        self.embed = linear(ticks, config.embed)
        self.core = GRU(config.embed, config.hidden) if transformer is None else attending(config, transformer)
        self.skip = config.skip
        self.trunk = linear(config.hidden + (config.embed if config.skip else 0), config.head)
        self.policy = ActionHead(config.head, self.space)
        self.value = linear(config.head, 1, gain=1.0)

    def tick(self, observation: Tensor, action: Tensor, reward: Tensor, first: Tensor, absent: Tensor) -> Tensor:
        """The embedding `[..., E]` of what is seen at a tick; nothing came before where `absent`. Leading axes any."""
        code = encode_action(action, self.space, absent)
        last = torch.stack((reward, first.to(reward.dtype)), dim=-1)
        return torch.relu(self.embed(torch.cat((self.scaler(observation), code, last), dim=-1)))

    def begin(self, trials: int, device: torch.device | None = None) -> Memory:
        """What is remembered of trials that have not begun."""
        if isinstance(self.core, GRU):
            return torch.zeros(trials, self.core.hidden, device=device)
        return self.core.begin(trials, device)

    def remember(self, embedded: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """A tick `[B, E]` to what is known after it `[B, H]`, and the memory of it; the one before stays as it is."""
        if isinstance(memory, TickCache):
            assert isinstance(self.core, CausalTransformer)
            return self.core.step(embedded, memory)
        assert isinstance(self.core, GRU)
        hidden = self.core.step(embedded, memory)
        return hidden, hidden

    def heads(self, embedded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the policy `[..., A]` and values `[...]`."""
        x = torch.cat((hidden, embedded), dim=-1) if self.skip else hidden
        x = torch.relu(self.trunk(x))
        return self.policy(x), self.value(x)[..., 0]

    def forward(self, batch: Rollout) -> tuple[Tensor, Tensor]:
        """The same for every tick of whole trials: `[T, B, A]`, `[T, B]`."""
        absent = torch.zeros_like(batch.first)
        absent[0] = True
        embedded = self.tick(batch.observation, batch.previous_action, batch.previous_reward, batch.first, absent)
        if isinstance(self.core, CausalTransformer):
            return self.heads(embedded, self.core.sequence(embedded))
        start = embedded.new_zeros(embedded.shape[1], self.core.hidden)
        return self.heads(embedded, self.core(embedded, start))


def attending(config: NetworkConfig, transformer: TransformerConfig) -> CausalTransformer:
    """A transformer as the core."""
    sizes = {"layers": transformer.layers, "heads": transformer.heads}
    return CausalTransformer(config.embed, config.hidden, **sizes, place="rotary", gate=transformer.gate)


def loss(
    network: Network, batch: Rollout, advantage: Tensor, target: Tensor, settings: PPO, entropy_weight: Tensor | float
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's loss over whole trials: policy + value_weight * value - entropy_weight * entropy."""
    params, value = network(batch)
    log_prob = network.policy.log_prob(params, batch.action)
    policy, metrics = ppo_policy_loss(log_prob, batch.log_prob, advantage, settings.clip)
    critic, more = value_loss(value, target)
    entropy = network.policy.entropy(params).mean()
    total = policy + settings.value_weight * critic - entropy_weight * entropy
    parts = {"policy_loss": policy.detach(), "value_loss": critic.detach(), "entropy": entropy.detach()}
    return total, metrics | more | parts


class RL2Memory(NamedTuple):
    """What the agent remembers of its trials."""

    hidden: Memory  # of the core: [B, H], or a cache of keys and values
    begun: bool  # whether a tick has been seen


class Agent:
    """The trained policy. Takes the most probable action.

    Args:
        network: Trained.
        protocol: The version under which it learned. A policy of `slots-1` never reads how an episode ended.
    """

    name = NAME

    def __init__(self, network: Network, protocol: str = PROTOCOL_VERSION):
        self.network, self.protocol = network.eval(), protocol
        self.attends = None if isinstance(network.core, GRU) else "trial"  # which steps are seen at once

    def begin(self, num_trials: int) -> RL2Memory:
        """Nothing has been seen."""
        return RL2Memory(self.network.begin(num_trials), False)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: RL2Memory) -> tuple[np.ndarray, RL2Memory]:
        """Actions for this tick, and the memory after it."""
        observation, action, reward, first = (
            torch.as_tensor(column) for column in (step.observation, step.action, step.reward, step.first)
        )
        absent = nothing_before(first, belief.begun, self.protocol)
        reward = torch.where(absent, 0.0, reward.float())
        embedded = self.network.tick(observation.float(), action, reward, first, absent)
        known, memory = self.network.remember(embedded, belief.hidden)
        params, _ = self.network.heads(embedded, known)
        return self.network.policy.to_env(self.network.policy.sample(params, None)), RL2Memory(memory, True)


def fresh(config: Config, env: Any, seed: int) -> Network:
    """The network that a seed begins with."""
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    return Network(config.network, env, config.transformer if config.core == "transformer" else None)
