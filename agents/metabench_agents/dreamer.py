"""What MetaDreamer acts with: the networks, and the agent under PEARL's test protocol. `metadreamer.py` trains them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metabench import Timestep
from metabench_agents.latent_sac import ActorCritic
from metabench_agents.posterior import Gaussian, Guess
from metabench_agents.replay import Transitions
from metabench_agents.task_model import TaskModel
from metabench_agents.world import make_decoder

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


class Belief(NamedTuple):
    """What the agent remembers of B trials."""

    hidden: Tensor  # [B, H] of the encoder
    guess: Guess  # what this episode acts on
    observation: Tensor  # [B, O] the last one


class Agent:
    """The trained networks under PEARL's test protocol, with the recurrent encoder. Nothing is imagined any more."""

    name = NAME

    def __init__(self, network: Network, exploration_episodes: int, seed: int = 0):
        self.network, self.exploration_episodes, self.seed = network, exploration_episodes, seed

    def begin(self, num_trials: int) -> Belief:
        """Nothing seen."""
        network, model = self.network, self.network.model
        guess = Guess.begin(num_trials, model.latent, self.seed)
        empty = torch.zeros(num_trials, network.core.observation)
        return Belief(torch.zeros(num_trials, model.memory.hidden), guess, empty)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: Belief) -> tuple[np.ndarray, Belief]:
        """Takes in the transition just completed; where an episode begins, guesses anew."""
        model, core, first = self.network.model, self.network.core, np.asarray(step.first)
        observation, reward = torch.as_tensor(step.observation).float(), torch.as_tensor(step.reward).float()
        action = core.actions.from_env(step.action)
        seen = Transitions(belief.observation, action, reward, observation, torch.zeros_like(reward))
        hidden = model.memory.step(model.embedded(seen), belief.hidden)
        hidden = torch.where(torch.from_numpy(first)[:, None], belief.hidden, hidden)
        guess = belief.guess.renew(first, Gaussian.of(model.out(hidden)), self.exploration_episodes)
        act = core.act(core.see(observation, guess.z), torch.zeros_like(action))
        return core.actions.to_env(act.action), Belief(hidden, guess, observation)
