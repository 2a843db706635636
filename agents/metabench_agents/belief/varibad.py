"""VariBAD: infer the hidden task with a variational autoencoder, act on what is seen and on the whole belief.

Source: Zintgraf et al. 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning" (arXiv
1910.08348) and its code release. A recurrent encoder gives q(m | tau_{:t}) at every tick t; a decoder must predict
every reward (and, if asked, next observation) of the whole trial, past and future, from a draw of it:

    ELBO_t = E_q(m | tau_{:t}) [log p(tau_{:H} | m)] - KL(q(m | tau_{:t}) || q(m | tau_{:t-1}))        (eq. 8, 9)

with N(0, 1) before the first tick; the sum over t is maximised on a buffer of past trials, and PPO trains a policy that
sees the observation and (mean, log variance). No gradient of the policy reaches the encoder. The belief is kept across
the episodes of a trial.

Deviations, with reasons:
- The encoder sees the ticks an agent is shown: (o_t, a_{t-1}, r_{t-1}, whether an episode begins). So the first belief
  has seen the first observation, and the last transition of an episode is not encoded, only decoded.
- Log variances are bounded smoothly to +-6, so that a KL to a collapsed belief cannot overflow.
- The sums over terms and steps are divided by the share that was drawn: subsampling changes the noise, not the weights.
- Rewards are divided by a running scale of the discounted return for PPO; learning rates fall linearly to zero.
- A scout plays the warm-up: a policy with a large entropy bonus, which finds what pays before there is a belief. Then
  the model takes many steps on what it saw, and the policy begins anew: what one learns that cannot read the belief
  (find one goal, stay there) is in the way, and a belief that is good from the policy's first step is read. (The
  published code precollects with random actions: `scout=False`, `warmup`.)
- `reading`: beside (mean, log variance) the policy sees the reward decoder's hidden layers at the belief's mean and the
  current observation. The decoder has learned to read the latent's code, which a fresh policy would have to find out.
- `products`: first layers of encoder and decoders have second-order terms; so has the policy's, of observation and
  belief, whose columns are brought to unit scale.
- The tick is embedded by one layer instead of one per part. Trials must be of one length.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench_agents.belief.model import (
    BeliefAgent,
    BeliefModel,
    Draws,
    Pure,
    compiled,
    model_schedule,
    resolve_reward_loss,
    update_model,
)
from metabench_agents.belief.policy import (
    PPO,
    ActorCritic,
    collect,
    has_sessions,
    ppo_update,
    renew,
    tell,
    trial_length,
)
from metabench_agents.parts.losses import chained_prior, next_reward_scale, reconstruction_loss
from metabench_agents.parts.memory import TrialBuffer, Trials
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, stream, unpack

NAME = "varibad"


@dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    frames: int = 750_000  # environment steps in all
    trials: int = 64  # trials played together, one per slot
    latent: int = 5  # dimensions of the latent task
    encoder_embed: int = 64  # width of a tick's embedding
    encoder_hidden: int = 64  # width of the recurrent core
    products: bool = True  # whether encoder and decoders read second-order terms
    reading: bool = True  # whether the policy is also shown the reward decoder's hidden layers
    decoder: str = "next"  # what the reward decoder sees of a transition: next, step, all; cells for grids' multi-head
    decoder_hidden: tuple[int, ...] = (32, 32)  # widths of the decoders' hidden layers
    state_decoder: bool = False  # whether next observations are decoded too
    reward_loss: str = "auto"  # mse, bernoulli (is it positive), or auto: bernoulli where rewards take two values
    terms: int = 8  # ELBO terms drawn per trial; 0 for all
    steps: int = 20  # decoded transitions drawn per trial; 0 for all
    kl_weight: float = 0.1  # of the KL to the belief before
    model_learning_rate: float = 2e-3  # Adam's for encoder and decoders, falling linearly to zero
    model_updates: int = 16  # gradient steps on the ELBO per iteration
    model_trials: int = 32  # trials per such step
    model_max_grad_norm: float = 0.0  # gradient clipping of the ELBO; 0 for none
    warmup: int = 40  # iterations before the model learns and the policy that is kept begins
    scout: bool = True  # whether a policy that is thrown away plays them; else random actions, each kept for a while
    scout_entropy: float = 0.2  # weight of its entropy bonus
    warmup_learning_rate: float = 5e-3  # of the ELBO at the end of the warm-up, falling to model_learning_rate
    warmup_updates: int = 1500  # gradient steps on the ELBO at the end of the warm-up
    buffer: int = 8192  # past trials that the ELBO learns from
    width: int = 128  # of the policy's and value's two hidden layers
    learning_rate: float = 3e-3  # Adam's for policy and value, falling linearly to zero
    discount: float = 0.9  # gamma
    trace: float = 0.8  # lambda of GAE
    epochs: int = 4  # passes over each iteration's ticks
    minibatches: int = 4  # parts of a pass
    clip: float = 0.2  # of the policy ratio
    value_weight: float = 0.5  # of the value loss
    entropy: float = 0.1  # weight of the entropy bonus at the start, falling linearly to zero
    max_grad_norm: float = 0.5  # gradient clipping of policy and value
    compile: bool = False  # whether torch.compile is put around the ELBO: the same losses to 1e-5, needs a C++ compiler
    split: str = "train"  # tasks to learn from; "fresh" for endless ones


def make_model(config: Config, env: Any, ticks: int) -> BeliefModel:
    """A GRU to a diagonal Gaussian, and decoders."""
    core = {"kind": "gru", "hidden": config.encoder_hidden, "layers": 1, "heads": 1, "ticks": ticks}
    return BeliefModel(config, env, ticks, latent="gaussian", core=core)


def elbo(model: BeliefModel, config: Config, batch: Trials, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the ELBO, summed over its terms: -sum_t sum_s log p(x_s | m_t) + kl_weight sum_t KL(q_t || q_{t-1})."""
    belief = model.encoder(*batch.ticks())
    drawn = model.likelihood(belief, batch, draws)
    reconstruction, metrics = reconstruction_loss(drawn.value, None, drawn.share)
    kl = model.latent.kl(belief, chained_prior(belief)).sum(0).mean()
    metrics |= {"reconstruction": reconstruction.detach(), "belief_kl": kl.detach()}
    return reconstruction + config.kl_weight * kl, metrics


def loss(
    model: BeliefModel, config: Config, batch: Trials, generator: torch.Generator, pure: Pure = elbo
) -> tuple[Tensor, dict[str, Tensor]]:
    """`elbo` of fresh draws; `pure` may be its compiled form."""
    return pure(model, config, batch, model.draw(batch, generator))


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> BeliefAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits.

    An iteration depends on nothing but parameters, optimisers, buffer, reward scale, seed and its own number.
    """
    checkpoint = run.begin(NAME, benchmark, config, seed)
    ticks, drifts = trial_length(NAME, benchmark), has_sessions(benchmark, config.split)
    config = dataclasses.replace(config, reward_loss=resolve_reward_loss(config.reward_loss, benchmark))
    env = metabench.make_vec(benchmark, config.trials, split=config.split)
    first, fresh = (int(word) for word in np.random.SeedSequence([seed]).generate_state(2))
    torch.manual_seed(first)
    model = make_model(config, env, ticks)
    actor = ActorCritic(env, model.latent.parameters, config.width, model.reading)
    modules = {"model": model, "actor": actor}
    optimisers = {
        "model_adam": torch.optim.Adam(model.parameters(), lr=config.model_learning_rate, fused=True),
        "actor_adam": torch.optim.Adam(actor.parameters(), lr=config.learning_rate, eps=1e-5, fused=True),
    }
    pure = compiled(elbo) if config.compile else elbo
    buffer, done, scale = TrialBuffer(config.buffer), 0, 1.0
    if checkpoint:
        done, scale = checkpoint.iteration, checkpoint.state["scale"]
        unpack(checkpoint.tensors, modules, optimisers)
        buffer.restore(checkpoint.tensors)
    iterations = -(-config.frames // (ticks * config.trials))
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start, left = time.perf_counter(), 1.0 - iteration / iterations
            optimisers["actor_adam"].param_groups[0]["lr"] = config.learning_rate * left
            env_seed = (seed * 2**32 + iteration) * 2**20  # slots add up to 2^20: no two iterations share a stream
            warm = iteration < config.warmup
            explore = warm and not config.scout
            rollout = collect(model, actor, env, ticks, drifts, env_seed, stream(seed, iteration, 0), explore)
            count = iteration if warm else iteration - config.warmup
            scale = next_reward_scale(scale, rollout.trials.reward, config.discount, count)
            metrics: dict[str, float] = {}
            if not explore:
                settings = ppo(config, left, scouting=warm)
                metrics = ppo_update(
                    actor, optimisers["actor_adam"], rollout, settings, scale, stream(seed, iteration, 1)
                )
            actor.watch(rollout.belief)
            buffer.add(rollout.trials)
            updates, rates = model_schedule(config, iteration, left)
            metrics |= update_model(
                partial(loss, model, config, pure=pure),
                list(model.parameters()),
                optimisers["model_adam"],
                buffer,
                updates=updates,
                learning_rates=rates,
                trials=config.model_trials,
                max_grad_norm=config.model_max_grad_norm,
                generator=stream(seed, iteration, 2),
            )
            if iteration + 1 == config.warmup and config.scout:
                renew(actor, optimisers["actor_adam"], env, config.width, fresh)
            tell(run, advance, iteration, rollout, metrics | {"scale": scale}, time.perf_counter() - start)
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(iteration + 1, pack(modules, optimisers) | buffer.tensors(), {"scale": scale})
    return BeliefAgent(NAME, model, actor)


def ppo(config: Config, left: float, scouting: bool = False) -> PPO:
    """PPO's settings when a share `left` of the training is left."""
    return PPO(
        config.discount,
        config.trace,
        config.epochs,
        config.minibatches,
        config.clip,
        config.value_weight,
        config.scout_entropy if scouting else config.entropy * left,
        config.max_grad_norm,
    )


def load(path: Path) -> BeliefAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config = Config(**settings["config"] | {"reward_loss": "mse"})  # it does not matter to acting
    env = metabench.make_vec(settings["benchmark"], 1)
    model = make_model(config, env, trial_length(NAME, settings["benchmark"]))
    actor = ActorCritic(env, model.latent.parameters, config.width, model.reading)
    unpack(checkpoint.tensors, {"model": model, "actor": actor}, {})
    return BeliefAgent(NAME, model, actor)
