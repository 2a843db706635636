"""The networks of one agent: the encoder that tells the task, and the actor-critic that is given what it tells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import metabench
from metabench_agents.context.actor_critic import ActionScale
from metabench_agents.context.offline.actor_critic import ActorCriticConfig, OfflineActorCritic
from metabench_agents.context.offline.data import TaskData
from metabench_agents.context.offline.encoder import EncoderConfig, TransitionEncoder
from metabench_agents.context.replay import Transitions


class OfflineNetwork(nn.Module):
    """Encoder and actor-critic for a benchmark.

    Args:
        benchmark: An id; ValueError if its actions are not a bounded Box.
        encoder: Sizes; what it sees may be left open.
        learning: Of the actor-critic.
    """

    def __init__(self, benchmark: str, encoder: EncoderConfig, learning: ActorCriticConfig):
        super().__init__()
        family: Any = metabench.spec(benchmark).family()
        self.actions = ActionScale(family.action_space)
        fields = family.observation_fields
        self.observation, self.latent = len(fields), encoder.latent
        self.encoder = TransitionEncoder(fields, self.actions, encoder.settled(benchmark))
        self.core = OfflineActorCritic(fields, self.actions, encoder.latent, learning)

    def fit_scales(self, data: TaskData) -> None:
        """Takes the units of all inputs from the data."""
        self.encoder.fit_scales(data)
        self.core.features.fit(data.all.observation)

    def told(self, seen: Transitions) -> Transitions:
        """The same with rewards in standard deviations, as the critics are told them; not moved to a mean of zero."""
        return seen._replace(reward=seen.reward / self.encoder.reward_scale)

    def act(self, observation: Tensor, z: Tensor) -> Tensor:
        """The most probable actions `[B, A]` in [-1, 1]."""
        return self.core.act(self.core.see(observation, z))

    @torch.no_grad()
    def z(self, context: Transitions) -> Tensor:
        """Of whole contexts `[T, C, ...]`: `[T, L]`."""
        return self.encoder.codes(context).mean(1)
