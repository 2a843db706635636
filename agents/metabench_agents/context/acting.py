"""Acting on a guess of the task: PEARL's test protocol, for any way of remembering a trial."""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metabench import Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.context.posterior import DiagonalGaussian, Guess
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.view import Sight


class GuessingBelief(NamedTuple):
    """What the agent remembers of B trials."""

    memory: Any  # of everything seen in the trial, as `GuessingAgent.take_in` makes it
    guess: Guess  # what this episode acts on
    observation: Tensor  # [B, O] the last one
    elapsed: np.ndarray  # [B] steps of the episode before it
    action: Tensor  # [B, A] that stands, in the policy's units


class GuessingAgent(abc.ABC):
    """Acts by the policy's mean on a guess that is drawn where an episode begins; what is remembered is a subclass's.

    Args:
        network: With an `actor_critic.LatentActorCritic` as `core`.
        exploration_episodes: Of a trial, with guesses from the prior; from then on they are from the posterior.
        protocol: The version that it is to be played under. Under `slots-1` an agent is not told how an episode ended,
            and the episode's last transition does not enter its memory.
        seed: Of the guesses.
        sight: What the policy is shown, and for how long its decisions stand; what is remembered is every step.
    """

    def __init__(
        self,
        network: Any,
        exploration_episodes: int,
        protocol: str = PROTOCOL_VERSION,
        *,
        seed: int = 0,
        sight: Sight | None = None,
    ):
        self.network, self.exploration_episodes = network, exploration_episodes
        self.protocol, self.seed, self.sight = protocol, seed, sight

    @abc.abstractmethod
    def nothing(self, num_trials: int) -> Any:
        """The memory of B trials before their first transition."""

    @abc.abstractmethod
    def take_in(self, seen: Transitions, counts: Tensor, memory: Any) -> tuple[Any, DiagonalGaussian]:
        """The memory with one more transition `[B, ...]` where `counts` `[B]` is true, and the posterior from it."""

    def begin(self, num_trials: int) -> GuessingBelief:
        """Nothing seen."""
        core = self.network.core
        guess = Guess.begin(num_trials, core.latent, self.seed)
        columns = core.observation - (core.features.extra if self.sight else 0)
        nothing = torch.zeros(num_trials, columns), np.zeros(num_trials, dtype=np.int64)
        return GuessingBelief(self.nothing(num_trials), guess, *nothing, torch.zeros(num_trials, core.actions.size))

    @torch.inference_mode()
    def act(self, step: Timestep, belief: GuessingBelief) -> tuple[np.ndarray, GuessingBelief]:
        """Takes in the transition just completed; where an episode begins, guesses anew."""
        core, first = self.network.core, np.asarray(step.first)
        observation, reward = torch.as_tensor(step.observation).float(), torch.as_tensor(step.reward).float()
        action = core.actions.from_env(step.action)
        counts = ~first if self.protocol == "slots-1" else belief.guess.episode >= 0  # nothing precedes a trial
        led_to = torch.as_tensor(np.where(first[:, None], step.final, step.observation)).float()
        seen = Transitions(belief.observation, action, reward, led_to, torch.zeros_like(reward))
        memory, posterior = self.take_in(seen, torch.from_numpy(counts), belief.memory)
        guess = belief.guess.renew(first, posterior, self.exploration_episodes)
        elapsed = np.where(first, 0, belief.elapsed + 1)
        shown = self.sight(observation, torch.from_numpy(elapsed)) if self.sight else observation
        chosen = core.act(core.see(shown, guess.z), torch.zeros_like(action)).action
        if self.sight and self.sight.view.hold > 1:
            decides = torch.from_numpy(elapsed % self.sight.view.hold == 0)
            chosen = torch.where(decides[:, None], chosen, belief.action)
        return core.actions.to_env(chosen), GuessingBelief(memory, guess, observation, elapsed, chosen)
