"""DynaMITE-RL: VariBAD for a hidden task that changes inside the episode, session by session (a DLCMDP).

Source: Liang et al. 2024, "DynaMITE-RL: A Dynamic Model for Improved Temporal Meta-Reinforcement Learning" (arXiv
2402.15957). Inference and policy are VariBAD's; the ELBO knows the sessions of its training trials, in three parts:

(a) Session consistency. theta_t = KL(q(m | tau_{:t}) || q at the session's end); sum_t max(theta_{t+1} - theta_t, 0)
    over the ticks of a session is penalised: what is learned within a session may only lead towards its final belief.
(b) Latent-dynamics conditioning. The prior of a session's first belief is not the belief before it but
    p(m^i | m^{i-1}), a learned function of the last belief of the session before; a belief may jump at a border at no
    more cost than the latent's own dynamics say.
(c) Session reconstruction masking. A latent has to explain the transitions of its own session alone.

A head on the belief predicts whether the transition just seen was the first of a new session. Session ends are labels
of the training trials; encoder and policy are never shown them, in training nor in evaluation. With all three parts off
and `termination_weight` 0 this is VariBAD, number for number.

Which session a belief is about: at tick t the last transition seen is t-1, so q(m | tau_{:t}) is about the session of
transition t-1; at the first tick of an episode, where none is seen, about the session that begins.

The paper's appendix could not be read here: the formulas are second-hand, from a third-party replication that cites it
(github.com/sxxgwoo/IITP_AGI_Meta-RL) and names in early code of the first author, and no setting is known. Our choices,
with reasons:
- theta's final belief carries no gradient: otherwise the term can be lowered by making final beliefs vague.
- The last belief of the session before carries no gradient into the learned prior's input, as in the author's code: it
  must not become vague to be predictable. Inside a session the prior is the belief before, as in VariBAD.
- The termination head reads the belief, and its gradient shapes the encoder.
- Encoders: GRU, or a causal transformer (`encoder`). Latents: Gaussian, or categorical with Gumbel-softmax draws.
- Everything that `varibad` lists.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

import metabench
from metabench_agents.belief.model import BeliefAgent, compiled, model_schedule, resolve_reward_loss, update_model
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
from metabench_agents.belief.sessions import SessionModel, elbo, loss
from metabench_agents.parts.losses import next_reward_scale
from metabench_agents.parts.memory import TrialBuffer
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, stream, unpack

NAME = "dynamite"


@dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    frames: int = 750_000  # environment steps in all
    trials: int = 64  # trials played together, one per slot
    latent: int = 5  # dimensions of the latent task
    latent_kind: str = "gaussian"  # or categorical
    classes: int = 4  # values of each categorical variable
    encoder: str = "gru"  # or transformer
    encoder_layers: int = 2  # of the transformer
    encoder_heads: int = 4  # attention heads of each
    encoder_embed: int = 64  # width of a tick's embedding
    encoder_hidden: int = 64  # width of the recurrent core, or of the transformer
    products: bool = True  # whether encoder and decoders read second-order terms
    reading: bool = True  # whether the policy is also shown the reward decoder's hidden layers
    decoder: str = "next"  # what the reward decoder sees of a transition: next, step, all; cells for grids' multi-head
    decoder_hidden: tuple[int, ...] = (32, 32)  # widths of the decoders' hidden layers
    state_decoder: bool = False  # whether next observations are decoded too
    reward_loss: str = "auto"  # mse, bernoulli (is it positive), or auto: bernoulli where rewards take two values
    terms: int = 8  # ELBO terms drawn per trial; 0 for all
    steps: int = 20  # decoded transitions drawn per trial; 0 for all
    kl_weight: float = 0.1  # of the KL to the prior
    consistency: bool = True  # part (a)
    consistency_weight: float = 0.01  # of part (a)
    conditioning: bool = True  # part (b)
    prior_hidden: int = 32  # width of the learned prior's hidden layer
    masking: bool = True  # part (c)
    termination_weight: float = 0.1  # of the termination head's loss; 0 for no head
    termination_hidden: int = 32  # width of its hidden layer
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
    model = SessionModel(config, env, ticks)
    actor = ActorCritic(env, model.latent.parameters, config.width, model.base.reading)
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
            rollout = collect(model.base, actor, env, ticks, drifts, env_seed, stream(seed, iteration, 0), explore)
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
    return BeliefAgent(NAME, model.base, actor)


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
    model = SessionModel(config, env, trial_length(NAME, settings["benchmark"]))
    actor = ActorCritic(env, model.latent.parameters, config.width, model.base.reading)
    unpack(checkpoint.tensors, {"model": model, "actor": actor}, {})
    return BeliefAgent(NAME, model.base, actor)
