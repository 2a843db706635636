"""What MetaDreamer acts with: the networks, and the agent under PEARL's test protocol. `metadreamer.py` trains them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metabench_agents.context.acting import GuessingAgent
from metabench_agents.context.actor_critic import ActorCritic
from metabench_agents.context.posterior import Gaussian
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import make_decoder
from metabench_agents.context.task_encoder import TaskModel

NAME = "metadreamer"


class Network(nn.Module):
    """The model of tasks, and the networks that act on guesses about them; `config` is `metadreamer.Config`."""

    def __init__(self, config: Any, env: Any):
        super().__init__()
        fields, space = env.family.observation_fields, env.single_action_space
        self.core = ActorCritic(fields, space, config.latent, config.hidden, config.layers, config.normalised_values)
        actions, sizes = self.core.actions.size, (config.decoder_hidden, config.decoder_layers)
        decoder = make_decoder(config.decoder, env.family, self.core.features, actions, config.latent, *sizes)
        self.model = TaskModel(self.core.features, decoder, actions, config.latent, config.core)


class Agent(GuessingAgent):
    """The trained networks under PEARL's test protocol, with the recurrent encoder. Nothing is imagined any more."""

    name = NAME

    def nothing(self, num_trials: int) -> Tensor:
        """The encoder's state `[B, H]` at the start."""
        return torch.zeros(num_trials, self.network.model.memory.hidden)

    def take_in(self, seen: Transitions, counts: Tensor, memory: Tensor) -> tuple[Tensor, Gaussian]:
        """One more step of the encoder."""
        model = self.network.model
        hidden = torch.where(counts[:, None], model.memory.step(model.embedded(seen), memory), memory)
        return hidden, Gaussian.of(model.out(hidden))
