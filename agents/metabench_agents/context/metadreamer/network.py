"""MetaDreamer's networks, and the agent that acts with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metabench_agents.context.acting import GuessingAgent
from metabench_agents.context.actor_critic import LatentActorCritic
from metabench_agents.context.dreaming import LatentGaussianPolicy
from metabench_agents.context.metadreamer.settings import NAME, RENAMED, Config
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import make_decoder
from metabench_agents.context.task_encoder import TaskModel
from metabench_agents.parts.config import read_config
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.features import Features
from metabench_agents.parts.run import by_part, load_checkpoint, load_config
from metabench_agents.parts.view import ViewConfig, extra_columns, sight_of


class MetaDreamerNetwork(nn.Module):
    """The model of tasks, and the networks that act on guesses about them."""

    def __init__(self, config: Config, env: Any):
        super().__init__()
        fields, space = env.family.observation_fields, env.single_action_space
        if config.learner == "ppo":
            self.core: Any = LatentGaussianPolicy(sight_of(env, config.view), space, config.latent, config.dream)
            features, actions = Features(fields), self.core.actions.size
        else:
            self.core = LatentActorCritic(fields, space, config.latent, config.sac, extra_columns(config.view))
            features, actions = self.core.features, self.core.actions.size
        decoder = make_decoder(config.model.decoder, env.family, features, actions, config.latent)
        self.model = TaskModel(features, decoder, actions, config.latent, config.model)


class MetaDreamerAgent(GuessingAgent):
    """The trained networks under PEARL's test protocol, with the recurrent encoder. Nothing is imagined any more."""

    name = NAME

    def nothing(self, num_trials: int) -> Tensor:
        """The encoder's state `[B, H]` at the start."""
        return torch.zeros(num_trials, self.network.model.memory.hidden)

    def take_in(self, seen: Transitions, counts: Tensor, memory: Tensor) -> tuple[Tensor, DiagonalGaussian]:
        """One more step of the encoder."""
        model = self.network.model
        hidden = torch.where(counts[:, None], model.memory.step(model.embedded(seen), memory), memory)
        return hidden, DiagonalGaussian.of(model.out(hidden))


def load(path: Path) -> MetaDreamerAgent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path).tensors
    config = read_config(Config, settings["config"], RENAMED)
    in_rounds = config.learner == "ppo"
    view = ViewConfig() if in_rounds else config.view
    env = make_viewed(settings["benchmark"], 1, view, split=config.split)
    network = MetaDreamerNetwork(config, env)
    network.load_state_dict(by_part(saved)["network"])  # nothing else is in published policies
    sight = sight_of(env, config.view) if in_rounds else None
    agent = MetaDreamerAgent(network, config.exploration_episodes, settings["protocol"], sight=sight)
    return agent if in_rounds else deciding(agent, settings["benchmark"], config.view)
