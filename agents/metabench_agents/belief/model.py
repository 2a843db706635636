"""Encoder and decoders of the hidden task as one model, its passes over a buffer, and the agent on its belief."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench import Timestep
from metabench_agents.belief.decoders import CellRewardDecoder, TransitionDecoder
from metabench_agents.belief.encoders import Encoder, make_latent
from metabench_agents.belief.policy import ActorCritic
from metabench_agents.parts.losses import reward_log_likelihood
from metabench_agents.parts.memory import TrialBuffer, Trials

PROBE_TRIALS, PROBE_SEED = 64, 2**62  # what tells whether a benchmark's rewards take two values; no training uses it


class Draws(NamedTuple):
    """All that chance decides of one ELBO, so that the rest is a pure function."""

    terms: Tensor  # [K] int64 the ticks whose beliefs are decoded
    steps: Tensor  # [M] int64 the ticks whose transitions are decoded
    noise: Tensor  # [K, B, Z] of the latents


class Likelihood(NamedTuple):
    """What the decoders say of M drawn transitions under latents drawn from K beliefs."""

    value: Tensor  # [K, M, B] log likelihood of a pair, up to a constant
    terms: Tensor  # [K] the ticks of the beliefs
    steps: Tensor  # [M] the ticks of the transitions
    share: float  # what part of all pairs that is


class BeliefModel(nn.Module):
    """q(m | tau_{:t}) and p(x_t | m).

    Args:
        config: `varibad.Config`, or one with the same fields for the model.
        env: A native vector environment of the benchmark.
        ticks: Length of a trial.
        latent: "gaussian" or "categorical".
        core: Keywords of `inference.make_core` beside the inputs.
        classes: Of each categorical variable.
    """

    def __init__(self, config: Any, env: Any, ticks: int, *, latent: str, core: dict[str, Any], classes: int = 0):
        super().__init__()
        self.latent = make_latent(latent, config.latent, classes)
        observations, actions = env.single_observation_space, env.single_action_space
        self.encoder = Encoder(observations, actions, self.latent, config.encoder_embed, core, config.products)
        self.reward_loss = config.reward_loss
        self.ticks, self.terms, self.steps = ticks, config.terms or ticks, config.steps or ticks
        if config.decoder == "cells":
            self.reward: CellRewardDecoder | TransitionDecoder = CellRewardDecoder(
                observations, self.latent.size, config.decoder_hidden
            )
        else:
            self.reward = TransitionDecoder(
                observations, actions, self.latent.size, config.decoder_hidden, config.decoder, 1, config.products
            )
        self.state = None
        if config.state_decoder:
            width = observations.shape[0]
            self.state = TransitionDecoder(
                observations, actions, self.latent.size, config.decoder_hidden, "step", width, config.products
            )

        self.reading = sum(config.decoder_hidden) if config.reading else 0  # columns that `read` adds

    def read(self, belief: Tensor, observation: Tensor) -> Tensor:
        """What the policy is shown: features and what the decoder makes of it, `[..., parameters + reading]`.

        The second are the reward decoder's hidden layers at the belief's mean and the observation, `[..., O]`: the
        decoder has learned what the latent's code means where one stands. No gradient goes through them.
        """
        features = self.latent.features(belief)
        if not self.reading:
            return features
        with torch.no_grad():
            return torch.cat((features, self.reward.hidden(self.latent.mean(belief), observation)), dim=-1)

    def draw(self, trials: Trials, generator: torch.Generator) -> Draws:
        """Terms, steps and noise for one pass over a batch, on its device."""
        terms, steps = _some(self.ticks, self.terms, generator), _some(self.ticks, self.steps, generator)
        noise = self.latent.noise(len(terms), trials.reward.shape[1], generator=generator)
        return Draws(*(drawn.to(trials.reward.device) for drawn in (terms, steps, noise)))

    def likelihood(self, belief: Tensor, trials: Trials, draws: Draws) -> Likelihood:
        """Decodes every pair of a drawn latent and a drawn transition; each latent is decoded once.

        Args:
            belief: `[T, B, P]`.
            trials: What was played.
            draws: From `draw`.
        """
        terms, steps = draws.terms, draws.steps
        z = self.latent.place(belief[terms], draws.noise)
        drawn = trials if len(steps) == self.ticks else trials.at(steps)
        value = reward_log_likelihood(self.reward(z, drawn)[..., 0], drawn.reward, self.reward_loss)
        if self.state is not None:
            error = self.state(z, drawn) - self.state.scaler(drawn.next_observation)
            value = value - (error**2).sum(-1)
        return Likelihood(value, terms, steps, len(terms) * len(steps) / self.ticks**2)


def _some(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """`wanted` of 0 .. count - 1, all in order if that is all."""
    return torch.arange(count) if wanted >= count else torch.randperm(count, generator=generator)[:wanted]


def resolve_reward_loss(kind: str, benchmark: str) -> str:
    """Either "mse" or "bernoulli"; "auto" takes what fits. ValueError for a coin with more than two sides.

    A few trials of random actions tell: rewards with two values are told apart (bernoulli), others regressed (mse).
    """
    if kind not in ("auto", "mse", "bernoulli"):
        raise ValueError(f"unknown reward_loss {kind!r}; there are auto, mse and bernoulli")
    if kind == "mse":
        return kind
    env = metabench.make_vec(benchmark, PROBE_TRIALS)
    env.reset(seed=PROBE_SEED)
    env.action_space.seed(0)
    spec, seen = metabench.spec(benchmark), set()
    for _ in range(min(spec.horizon * spec.episodes, 60)):
        seen |= set(np.unique(env.step(env.action_space.sample())[1]).tolist())
    two = len(seen) <= 2
    if kind == "bernoulli" and not two:
        raise ValueError(f"rewards of {benchmark} take more than two values; use reward_loss mse")
    return "bernoulli" if two else "mse"


Pure = Callable[[Any, Any, Trials, Draws], tuple[Tensor, dict[str, Tensor]]]  # (model, config, batch, draws) to loss


def compiled(pure: Pure) -> Pure:
    """The ELBO as a compiled graph: fused loops on the CPU, a CUDA graph on a GPU. The GRU between stays as it is."""
    mode = "reduce-overhead" if torch.cuda.is_available() else None
    return torch.compile(pure, mode=mode)


Loss = Callable[[Trials, torch.Generator], tuple[Tensor, dict[str, Tensor]]]


def update_model(
    loss: Loss,
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    buffer: TrialBuffer,
    *,
    updates: int,
    learning_rates: tuple[float, float],
    trials: int,
    max_grad_norm: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """Gradient steps on batches from the buffer; returns the metrics' means.

    Args:
        loss: A pure function of a batch.
        parameters: What it trains.
        optimiser: Theirs.
        buffer: Past trials.
        updates: How many steps; there may be none.
        learning_rates: Of the first and the last, linear between them.
        trials: Per batch.
        max_grad_norm: Gradient clipping; 0 for none.
        generator: For batches and draws.
    """
    sums: dict[str, Tensor] = {}
    first, last = learning_rates
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = first + (last - first) * update / updates
        total, metrics = loss(buffer.sample(trials, generator), generator)
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        if max_grad_norm:
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimiser.step()
        for name, value in metrics.items():
            sums[name] = sums.get(name, torch.zeros(())) + value
    return {name: float(total) / updates for name, total in sums.items()}


def model_schedule(config: Any, iteration: int, left: float) -> tuple[int, tuple[float, float]]:
    """How many gradient steps on the ELBO an iteration makes, and their first and last learning rate.

    None while the first trials are gathered, many at the end of this warm-up, then a few each. A belief that has
    settled before the policy learns keeps its meaning: while its code still moves, a policy cannot learn to read it.

    Args:
        config: With `warmup`, `warmup_updates`, `warmup_learning_rate`, `model_updates`, `model_learning_rate`.
        iteration: From 0.
        left: The share of the training that is left.
    """
    rate = config.model_learning_rate * left
    if iteration + 1 < config.warmup:
        return 0, (rate, rate)
    if iteration + 1 == config.warmup:
        return config.warmup_updates, (config.warmup_learning_rate, config.model_learning_rate)
    return config.model_updates, (rate, rate)


class BeliefAgent:
    """A trained policy on a trained belief. Takes the most probable action; its belief is the encoder's memory."""

    def __init__(self, name: str, model: BeliefModel, actor: ActorCritic, track: str = "online"):
        self.name, self.track = name, track
        self.model, self.encoder, self.actor = model.eval(), model.encoder, actor.eval()

    def begin(self, num_trials: int) -> Any:
        """Nothing has been seen."""
        return self.encoder.begin(num_trials)

    @torch.inference_mode()
    def infer(self, step: Timestep, belief: Any) -> tuple[Tensor, Any]:
        """The posterior's parameters `[B, P]` after this tick, and the belief."""
        observation, action, reward, first = (torch.as_tensor(column) for column in step[:4])
        return self.encoder.step(self.encoder.tick(observation.float(), action, reward.float(), first), belief)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: Any) -> tuple[np.ndarray, Any]:
        """Actions for this tick, and the belief after it."""
        posterior, belief = self.infer(step, belief)
        observation = torch.as_tensor(step.observation).float()
        params, _ = self.actor(observation, self.model.read(posterior, observation))
        return self.actor.policy.to_env(self.actor.policy.sample(params, None)), belief
