"""Encoder and decoders of the hidden task as one model, and its learning on a buffer of past trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench_agents.belief.decoders import CellRewardDecoder, DecoderConfig, TransitionDecoder
from metabench_agents.belief.encoders import BeliefEncoder, EncoderConfig, LatentConfig, make_latent
from metabench_agents.parts.device import Device, descend, set_rate
from metabench_agents.parts.losses import reward_log_likelihood
from metabench_agents.parts.memory import TrialBuffer, Trials

Settings = TypeVar("Settings")

PROBE_TRIALS, PROBE_SEED = 64, 2**62  # what tells whether a benchmark's rewards take two values; no training uses it


@dataclass(frozen=True)
class ModelConfig:
    """Settings of `BeliefModel` and of its ELBO."""

    latent: LatentConfig = field(default_factory=LatentConfig)  # the hidden task
    encoder: EncoderConfig = field(default_factory=EncoderConfig)  # trial to belief
    decoder: DecoderConfig = field(default_factory=DecoderConfig)  # hidden task to rewards, and to next observations
    products: bool = True  # whether encoder and decoders read second-order terms
    normalise: bool = False  # whether they and the policy see observations without bounds at a running unit scale
    reading: bool = True  # whether the policy is also shown the reward decoder's hidden layers
    reward_loss: str = "auto"  # mse, bernoulli (is it positive), or auto: bernoulli where rewards take two values
    terms: int = 8  # ELBO terms drawn per trial; 0 for all
    steps: int = 20  # decoded transitions drawn per trial; 0 for all
    kl_weight: float = 0.1  # of the KL to the prior


@dataclass(frozen=True)
class FitConfig:
    """How a model learns on past trials."""

    learning_rate: float = 2e-3  # Adam's for encoder and decoders, falling linearly to zero
    updates: int = 16  # gradient steps on the ELBO, each time it is fitted
    trials: int = 32  # trials per such step
    max_grad_norm: float = 0.0  # gradient clipping; 0 for none


# What the settings above were called before they were grouped, where they were called otherwise.
MODEL_RENAMED = {
    "latent": "model.latent.size",
    "latent_kind": "model.latent.kind",
    "encoder": "model.encoder.kind",
    "encoder_layers": "model.encoder.layers",
    "encoder_heads": "model.encoder.heads",
    "encoder_embed": "model.encoder.embed",
    "encoder_hidden": "model.encoder.hidden",
    "decoder": "model.decoder.sees",
    "decoder_hidden": "model.decoder.hidden",
    "state_decoder": "model.decoder.states",
    "model_learning_rate": "fit.learning_rate",
    "model_updates": "fit.updates",
    "model_trials": "fit.trials",
    "model_max_grad_norm": "fit.max_grad_norm",
}


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
        config: Its settings, `reward_loss` being no longer "auto" where anything is to be learned.
        env: A native vector environment of the benchmark.
        ticks: Length of a trial.
    """

    def __init__(self, config: ModelConfig, env: Any, ticks: int):
        super().__init__()
        self.config, self.ticks = config, ticks
        self.latent = make_latent(config.latent)
        observations, actions = env.single_observation_space, env.single_action_space
        shaped = (config.products, config.normalise)
        self.encoder = BeliefEncoder(config.encoder, observations, actions, self.latent, ticks, *shaped)
        size, sees, hidden = self.latent.size, config.decoder.sees, config.decoder.hidden
        if sees == "cells":
            self.reward: CellRewardDecoder | TransitionDecoder = CellRewardDecoder(observations, size, hidden)
        else:
            self.reward = TransitionDecoder(observations, actions, size, hidden, sees, 1, *shaped)
        self.state = None
        if config.decoder.states:
            width = observations.shape[0]
            self.state = TransitionDecoder(observations, actions, size, hidden, "step", width, *shaped)
        self.reading = sum(hidden) if config.reading else 0  # columns that `read` adds

    @property
    def base(self) -> BeliefModel:
        """Itself: what infers and decodes, whatever is learned around it (`SessionModel`)."""
        return self

    def beliefs(self, batch: Trials) -> Tensor:
        """`[T, B, P]` the belief at every tick of whole trials."""
        return self.encoder(*batch.ticks())

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
        terms, steps = (_some(self.ticks, n or self.ticks, generator) for n in (self.config.terms, self.config.steps))
        noise = self.latent.noise(len(terms), trials.reward.shape[1], generator=generator)
        return Draws(*(drawn.to(trials.reward.device) for drawn in (terms, steps, noise)))

    def likelihood(self, belief: Tensor, trials: Trials, draws: Draws, mask: Tensor | None = None) -> Likelihood:
        """Decodes every pair of a drawn latent and a drawn transition; each latent is decoded once.

        Args:
            belief: `[T, B, P]`.
            trials: What was played.
            draws: From `draw`.
            mask: `[K, M, B]` bool, the pairs that count; what is said of others is of no use. None for all.
        """
        terms, steps = draws.terms, draws.steps
        z = self.latent.place(belief[terms], draws.noise)
        drawn = trials if len(steps) == self.ticks else trials.at(steps)
        value = reward_log_likelihood(self.reward(z, drawn, mask)[..., 0], drawn.reward, self.config.reward_loss)
        if self.state is not None:
            error = self.state(z, drawn) - self.state.scaler(drawn.next_observation)
            value = value - (error**2).sum(-1)
        return Likelihood(value, terms, steps, len(terms) * len(steps) / self.ticks**2)


def _some(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """`wanted` of 0 .. count - 1, all in order if that is all."""
    return torch.arange(count) if wanted >= count else torch.randperm(count, generator=generator)[:wanted]


def resolve_reward_loss(config: Settings, benchmark: str) -> Settings:
    """The settings with a reward loss of "mse" or "bernoulli" where "auto" takes what fits; others as they are.

    A few trials of random actions tell: rewards with two values are told apart (bernoulli), others regressed (mse).
    ValueError for a coin with more than two sides.
    """
    if not isinstance(config, ModelConfig):
        return config  # of a model that decodes no rewards
    kind = config.reward_loss
    if kind not in ("auto", "mse", "bernoulli"):
        raise ValueError(f"unknown reward_loss {kind!r}; there are auto, mse and bernoulli")
    if kind == "mse":
        return config
    env = metabench.make_vec(benchmark, PROBE_TRIALS)
    env.reset(seed=PROBE_SEED)
    env.action_space.seed(0)
    spec, seen = metabench.spec(benchmark), set()
    for _ in range(min(spec.horizon * spec.episodes, 60)):
        seen |= set(np.unique(env.step(env.action_space.sample())[1]).tolist())
    two = len(seen) <= 2
    if kind == "bernoulli" and not two:
        raise ValueError(f"rewards of {benchmark} take more than two values; use reward_loss mse")
    return replace(config, reward_loss="bernoulli" if two else "mse")


Elbo = Callable[[Any, Trials, Any], tuple[Tensor, dict[str, Tensor]]]  # (model, batch, draws) to loss and metrics


class Fitting:
    """Gradient steps of a model on its ELBO, in the form of a device.

    Args:
        model: `BeliefModel`, or `SessionModel`, on the device; changed in place.
        elbo: A pure function of it, a batch and draws: minus the ELBO to minimise, and metrics.
        optimiser: Of the model's parameters.
        config: How many trials make a batch, and the clipping.
        device: Where the model is.
    """

    def __init__(
        self, model: Any, elbo: Elbo, optimiser: torch.optim.Optimizer, config: FitConfig, device: Device | None = None
    ):
        self.model, self.optimiser, self.config, self.device = model, optimiser, config, device or Device()
        self.elbo, self.updates = self.device.compiled(elbo), self.device.updates(self.step)

    def step(self, batch: Trials, draws: Draws, rate: Tensor | float) -> dict[str, Tensor]:
        """One gradient step, as a pure function."""
        set_rate(self.optimiser, rate)
        with self.device.products():
            total, metrics = self.elbo(self.model, batch, draws)
        descend(total, self.optimiser, self.config.max_grad_norm)
        return metrics

    def fit(
        self, buffer: TrialBuffer, updates: int, learning_rates: tuple[float, float], generator: torch.Generator
    ) -> dict[str, float]:
        """So many steps on batches from the buffer; returns the metrics' means. See `fit`."""
        first, last = learning_rates
        for update in range(updates):
            batch = buffer.sample(self.config.trials, generator)
            draws = self.model.base.draw(batch, generator)
            self.updates.add(batch, draws, first + (last - first) * update / updates)
        return self.updates.means()


def fit(
    model: Any,
    elbo: Elbo,
    optimiser: torch.optim.Optimizer,
    buffer: TrialBuffer,
    config: FitConfig,
    *,
    updates: int,
    learning_rates: tuple[float, float],
    generator: torch.Generator,
) -> dict[str, float]:
    """Gradient steps on batches from the buffer; returns the metrics' means.

    Args:
        model: `BeliefModel`, or `SessionModel`; changed in place.
        elbo: A pure function of it, a batch and draws: minus the ELBO to minimise, and metrics. May be compiled.
        optimiser: Of the model's parameters.
        buffer: Past trials.
        config: How many trials make a batch, and the clipping.
        updates: How many steps; there may be none.
        learning_rates: Of the first and the last, linear between them.
        generator: For batches and draws.
    """
    return Fitting(model, elbo, optimiser, config).fit(buffer, updates, learning_rates, generator)
