"""How inference and a policy on it are learned together, whatever the ELBO: VariBAD's loop, as a mechanism."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from metabench_agents.belief.model import Elbo, FitConfig, Fitting, resolve_reward_loss
from metabench_agents.belief.policy import (
    BeliefAgent,
    Improvement,
    collect,
    make_actor,
    renew,
)
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Device, DeviceName, Form, follow, learner
from metabench_agents.parts.fast.precision import Precision
from metabench_agents.parts.layers import watch
from metabench_agents.parts.losses import PPO, next_rate, next_reward_scale
from metabench_agents.parts.memory import TrialBuffer, has_sessions, trial_length, trial_steps
from metabench_agents.parts.run import Checkpoint, Run, pack, stream, unpack
from metabench_agents.parts.view import ViewConfig


@dataclass(frozen=True)
class WarmupConfig:
    """What comes before the model learns and the policy that is kept begins."""

    iterations: int = 40  # how long it takes
    scout: bool = True  # whether a policy that is thrown away plays them; else random actions, each kept for a while
    scout_entropy: float = 0.2  # weight of its entropy bonus
    learning_rate: float = 5e-3  # of the ELBO at the end of the warm-up, falling to the fit's
    updates: int = 1500  # gradient steps on the ELBO at the end of the warm-up


LEARNING_RENAMED = {  # what settings of the loop were called before they were grouped
    "warmup": "warmup.iterations",
    "warmup_learning_rate": "warmup.learning_rate",
    "warmup_updates": "warmup.updates",
    "learning_rate": "ppo.learning_rate",
    "max_grad_norm": "ppo.max_grad_norm",
    "discount": "ppo.discount",  # which SAC has, too, where it is to teach the policy
    "entropy": "ppo.entropy",
}


class LearningConfig(Protocol):
    """What `learn` and `restore` read of an algorithm's settings."""

    @property
    def device(self) -> DeviceName:
        """Where it learns."""
        ...

    @property
    def precision(self) -> Precision:
        """Of products."""
        ...

    @property
    def form(self) -> Form:
        """Of updates."""
        ...

    @property
    def frames(self) -> int:
        """Environment steps in all."""
        ...

    @property
    def trials(self) -> int:
        """Trials played together."""
        ...

    @property
    def model(self) -> Any:
        """The model of the hidden task: `ModelConfig`, or what an algorithm has instead."""
        ...

    @property
    def fit(self) -> FitConfig:
        """How it learns."""
        ...

    @property
    def warmup(self) -> WarmupConfig:
        """What comes before."""
        ...

    @property
    def ppo(self) -> PPO:
        """How the policy learns."""
        ...

    @property
    def width(self) -> int:
        """Of the policy's and value's hidden layers."""
        ...

    @property
    def buffer(self) -> int:
        """Past trials that the model learns from."""
        ...

    @property
    def view(self) -> ViewConfig:
        """What is shown, how often it decides."""
        ...

    @property
    def split(self) -> str:
        """Tasks to learn from."""
        ...


Make = Callable[[Any, Any, int], Any]  # (settings, env, ticks of a trial) to `BeliefModel` or `SessionModel`


class Learned(NamedTuple):
    """Networks and optimisers, which a checkpoint holds under these names."""

    modules: dict[str, nn.Module]  # model, actor
    optimisers: dict[str, torch.optim.Optimizer]  # model_adam, actor_adam


def model_schedule(
    warmup: WarmupConfig, config: FitConfig, iteration: int, left: float
) -> tuple[int, tuple[float, float]]:
    """How many gradient steps on the ELBO an iteration makes, and their first and last learning rate.

    None while the first trials are gathered, many at the end of this warm-up, then a few each. A belief that has
    settled before the policy learns keeps its meaning: while its code still moves, a policy cannot learn to read it.

    Args:
        warmup: How long it takes, and what is done at its end.
        config: What is done from then on.
        iteration: From 0.
        left: The share of the training that is left.
    """
    rate = config.learning_rate * left
    if iteration + 1 < warmup.iterations:
        return 0, (rate, rate)
    if iteration + 1 == warmup.iterations:
        return warmup.updates, (warmup.learning_rate, config.learning_rate)
    return config.updates, (rate, rate)


def learn(
    name: str, benchmark: str, config: LearningConfig, make: Make, elbo: Elbo, *, seed: int, run: Run
) -> BeliefAgent | DecidingAgent:
    """Trains a model by its ELBO and a policy on its beliefs; continues the run in `run.folder` to the same bits.

    An iteration plays one trial per slot, improves the policy by PPO on them and the model on a buffer of past trials.
    It depends on nothing but parameters, optimisers, buffer, reward scale, seed and its own number.

    Args:
        name: The algorithm's.
        benchmark: Whose trials are played.
        config: The algorithm's settings.
        make: Makes the model.
        elbo: Minus the ELBO of it, a batch and draws.
        seed: Of the run.
        run: Its folder.
    """
    checkpoint = run.begin(name, benchmark, config, seed)
    ticks, drifts = trial_length(name, benchmark, config.view), has_sessions(benchmark, config.split)
    played = trial_steps(benchmark) * config.trials
    device, env = Device.of(config), make_viewed(benchmark, config.trials, config.view, split=config.split)
    first, fresh = (int(word) for word in np.random.SeedSequence([seed]).generate_state(2))
    torch.manual_seed(first)
    plays = make(resolve_reward_loss(config.model, benchmark), env, ticks)
    acts = make_actor(env, plays, config.width)
    model, actor = learner(plays, device), learner(acts, device)
    model_adam = device.adam(model.parameters(), config.fit.learning_rate)
    actor_adam = device.adam(actor.parameters(), config.ppo.learning_rate, eps=1e-5)
    learned = Learned({"model": model, "actor": actor}, {"model_adam": model_adam, "actor_adam": actor_adam})
    fitting, buffer = Fitting(model, elbo, model_adam, config.fit, device), TrialBuffer(config.buffer)
    improvement = Improvement(actor, actor_adam, config.ppo, device)
    (done, scale, rate), iterations = _continue(checkpoint, learned, buffer), -(-config.frames // played)
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start, left, warm = time.perf_counter(), 1.0 - iteration / iterations, iteration < config.warmup.iterations
            env_seed = (seed * 2**32 + iteration) * 2**20  # slots add up to 2^20: no two iterations share a stream
            explore = warm and not config.warmup.scout
            follow(plays, model)
            follow(acts, actor)
            rollout = collect(plays.base, acts, env, ticks, drifts, env_seed, stream(seed, iteration, 0), explore)
            count = iteration if warm else iteration - config.warmup.iterations
            scale, metrics = next_reward_scale(scale, rollout.trials.reward, config.ppo.discount, count), {}
            if not explore:
                weight, draws = config.warmup.scout_entropy if warm else None, stream(seed, iteration, 1)
                metrics = improvement.improve(rollout, scale, left, draws, weight, rate)
                rate = next_rate(rate, metrics["kl_end"], config.ppo)
            actor.watch(rollout.belief)
            watch((actor, model), rollout.trials.observation)
            buffer.add(rollout.trials)
            schedule = model_schedule(config.warmup, config.fit, iteration, left)
            metrics |= fitting.fit(buffer, *schedule, stream(seed, iteration, 2)) | {"scale": scale, "rate": rate}
            if iteration + 1 == config.warmup.iterations and config.warmup.scout:
                renew(actor, actor_adam, env, config.width, fresh)
                rate = 1.0
            tell(run, advance, iteration, played, rollout.mean_return(), metrics, time.perf_counter() - start)
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(iteration + 1, pack(*learned) | buffer.tensors(), {"scale": scale, "rate": rate})
    follow(plays, model)
    follow(acts, actor)
    return deciding(BeliefAgent(name, plays.base, acts), benchmark, config.view)


def _continue(checkpoint: Checkpoint | None, learned: Learned, buffer: TrialBuffer) -> tuple[int, float, float]:
    """Puts a checkpoint back where it came from; iterations done, the reward scale, the factor of PPO's rate."""
    if checkpoint is None:
        return 0, 1.0, 1.0
    unpack(checkpoint.tensors, *learned)
    buffer.restore(checkpoint.tensors)
    return checkpoint.iteration, checkpoint.state["scale"], checkpoint.state.get("rate", 1.0)


def tell(
    run: Run,
    advance: Any,
    iteration: int,
    played: int,
    mean_return: float,
    metrics: Mapping[str, float],
    seconds: float,
) -> None:
    """Logs an iteration of `played` environment steps that took `seconds`, and moves the progress bar."""
    head = {"iteration": iteration + 1, "frames": (iteration + 1) * played, "return": mean_return}
    run.log(head | dict(metrics) | {"time/frames_per_s": played / seconds, "time/seconds": seconds})
    advance(iteration + 1, f"return {mean_return:7.2f}   {played / seconds / 1000:5.0f}k frames/s")


def restore(
    name: str, record: Mapping[str, Any], config: LearningConfig, make: Make, tensors: Mapping[str, Tensor]
) -> BeliefAgent | DecidingAgent:
    """The agent that `learn` left in a run's folder.

    Args:
        name: The algorithm's.
        record: What the folder says of the run: its benchmark, and the protocol under which it learned.
        config: Its settings.
        make: As for `learn`.
        tensors: Of its checkpoint.
    """
    benchmark: str = record["benchmark"]
    env = make_viewed(benchmark, 1, config.view)
    model = make(config.model, env, trial_length(name, benchmark, config.view))
    actor = make_actor(env, model, config.width)
    unpack(dict(tensors), {"model": model, "actor": actor}, {})
    return deciding(BeliefAgent(name, model.base, actor, record["protocol"]), benchmark, config.view)
