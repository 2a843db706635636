"""PEARL: off-policy meta-RL with a probabilistic context; the policy acts on a sampled guess of the task.

Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context Variables"
(arXiv 1903.08254) and its code (katerakelly/oyster, commit 44e20fd), whose settings are the defaults here. Each
transition (s, a, r) gives a Gaussian factor; the posterior over the latent task z is their product. Soft actor-critic
learns with z beside the state; the encoder learns from the critics' loss and a KL to N(0, 1), weighted 0.1 and summed
over tasks. Its context comes from recent data only, the policy's transitions from all data.

At test time (section 4.1, Algorithm 2): z is drawn from the prior for the exploration episodes and from the posterior
given every transition of this trial afterwards, once per episode. The transition that ends an episode enters where the
next one begins; under the protocol `slots-1` no agent was told of it, and policies trained then do without. What the
agent has learned from never enters: a known fault of another implementation, whose evaluation context came from the
training buffers.

`published(benchmark)` gives oyster's settings for a benchmark where it has some.

Deviations, with reasons:
- Data are collected in whole episodes (2 and 2 of 200 steps where oyster counts 400 and 400 steps), the tasks of an
  iteration are distinct, and they are played side by side: faster, and the same number of steps.
- A transition is stored once, in float32; the context is a range of the same rows (oyster: two float64 arrays).
- Encoder and critics share one Adam, as their learning rates are equal: the same steps.
- The networks are told observations standardised by the initial data, and distances between point masses (`Features`):
  benchmarks mix metres and radians. Oyster's benchmarks need no scaling.
- `normalised_values` (off by default) puts layer norms into the action and state values: without them, at ten
  times oyster's learning rate, HighwayMerge's values grew beyond what any policy can earn, and returns fell.
- Oyster's sparse-reward option (train on dense rewards, infer from sparse ones) is not offered: benchmarks have one
  reward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench_agents.context.acting import GuessingAgent
from metabench_agents.context.actor_critic import LatentActorCritic, LatentSAC, LatentSACConfig, mlp
from metabench_agents.context.collect import CollectionConfig, Collector, adaptation, gather
from metabench_agents.context.posterior import DiagonalGaussian, Evidence
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.parts.config import for_benchmark, read_config
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Computing, Device, Updates, follow, learner
from metabench_agents.parts.run import Run, by_part, load_checkpoint, load_config, named, stream
from metabench_agents.parts.view import ViewConfig, extra_columns

NAME = "pearl"


@dataclass(frozen=True)
class FactorEncoderConfig:
    """Settings of the encoder and what it learns from."""

    context: int = 64  # transitions of each task that it sees in an update
    next_observation: bool = False  # whether it sees s' too: needed where dynamics differ between tasks
    hidden: int = 200  # its width
    layers: int = 3  # its hidden layers
    kl_weight: float = 0.1  # of the divergence from the prior


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    split: str = "train"  # tasks to learn from
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides
    tasks: int = 0  # how many of them, the first of the table; 0 for all
    iterations: int = 500  # rounds of collecting and updating
    collection: CollectionConfig = field(default_factory=CollectionConfig)  # what is played
    updates: int = 2000  # of all networks per iteration
    meta_batch: int = 16  # tasks of an update
    batch: int = 256  # transitions of each task in an update
    replay: int = 1_000_000  # the most transitions kept per task
    latent: int = 5  # dimensions of z
    encoder: FactorEncoderConfig = field(default_factory=FactorEncoderConfig)  # transitions to factors of the posterior
    sac: LatentSACConfig = field(default_factory=LatentSACConfig)  # policy and values
    exploration_episodes: int = 1  # of a trial at test time, with z from the prior
    evaluate_every: int = 0  # iterations between evaluations for the learning curve; 0 for none
    evaluate_splits: tuple[str, ...] = ("test", "ood")  # what it is measured on; nothing is chosen by it


RENAMED = {  # flat settings of the first runs whose names stand in several groups now
    "hidden": "sac.hidden",
    "layers": "sac.layers",
    "encoder_hidden": "encoder.hidden",
    "encoder_layers": "encoder.layers",
}

ANT = {"collection.posterior_episodes": 3, "updates": 4000, "encoder.context": 256, "exploration_episodes": 2}
PARAM = {**ANT, "meta_batch": 10, "encoder.context": 100, "encoder.next_observation": True}
PUBLISHED: dict[str, dict[str, Any]] = {  # oyster's configs, in our terms; what is not named is the default
    "CheetahVel-v0": {"collection.posterior_episodes": 3, "encoder.context": 100, "exploration_episodes": 2},
    "CheetahDir-v0": {
        "meta_batch": 4,
        "collection.prior_episodes": 5,
        "collection.posterior_episodes": 5,
        "encoder.context": 256,
        "exploration_episodes": 2,
    },
    "AntDir-v0": {**ANT, "meta_batch": 4},
    "AntGoal-v0": {**ANT, "meta_batch": 10, "encoder.kl_weight": 1.0},
    "HumanoidDir-v0": ANT,
    "WalkerParam-v0": PARAM,
    "HopperParam-v0": PARAM,
    "PointRobot-v0": {
        "collection.prior_episodes": 10,
        "collection.posterior_episodes": 10,
        "updates": 1000,
        "sac.reward_scale": 100.0,
    },
    "SparsePointRobot-v0": {
        "collection.tasks_per_iteration": 10,
        "collection.prior_episodes": 5,
        "collection.context_episodes": 45,
        "collection.posterior_episodes": 0,
        "updates": 1000,
        "encoder.context": 1024,
        "encoder.kl_weight": 1.0,
        "sac.discount": 0.9,
        "sac.reward_scale": 100.0,
        "exploration_episodes": 5,
    },
}


def published(benchmark: str) -> Config:
    """Oyster's settings for a benchmark; its defaults where it has none."""
    return for_benchmark(Config(), PUBLISHED, benchmark)


class PEARLNetwork(nn.Module):
    """The encoder and the networks that act on its guesses."""

    def __init__(self, config: Config, env: Any):
        super().__init__()
        fields = env.family.observation_fields
        extra = extra_columns(config.view)
        self.core = LatentActorCritic(fields, env.single_action_space, config.latent, config.sac, extra)
        self.next_observation, self.latent = config.encoder.next_observation, config.latent
        inputs = self.core.features.size * (2 if self.next_observation else 1) + self.core.actions.size + 1
        self.encoder = mlp(inputs, config.encoder.hidden, config.encoder.layers, 2 * config.latent)

    def factors(self, context: Transitions) -> DiagonalGaussian:
        """What each transition says of the task: `[..., L]`."""
        parts = [self.core.features(context.observation), context.action, context.reward[..., None]]
        if self.next_observation:
            parts.append(self.core.features(context.next_observation))
        return DiagonalGaussian.of(self.encoder(torch.cat(parts, dim=-1)))

    def posterior(self, context: Transitions) -> DiagonalGaussian:
        """The product over a context `[T, N, ...]`: `[T, L]`."""
        return Evidence.total(self.factors(context)).posterior()


class PEARLAgent(GuessingAgent):
    """The trained networks under PEARL's test protocol, which remembers what the factors say together."""

    name = NAME

    def nothing(self, num_trials: int) -> Evidence:
        """No factor yet."""
        return Evidence.none(num_trials, self.network.latent)

    def take_in(self, seen: Transitions, counts: Tensor, memory: Evidence) -> tuple[Evidence, DiagonalGaussian]:
        """One more factor, and the product."""
        evidence = memory.plus(self.network.factors(seen), counts)
        return evidence, evidence.posterior()


class PEARLState(NamedTuple):
    """Everything of a run that changes."""

    network: PEARLNetwork  # plays, on the CPU
    learner: PEARLNetwork  # learns, where it learns: the same one on the CPU
    sac: LatentSAC
    replay: TaskReplay
    collector: Collector
    updates: Updates


def collect(state: PEARLState, tasks: Sequence[int], config: Config, generator: torch.Generator) -> dict[str, float]:
    """New data of some tasks; posteriors come from `context` transitions drawn from their contexts."""

    def infer() -> DiagonalGaussian:
        return state.network.posterior(state.replay.sample_context(tasks, config.encoder.context, generator))

    core = state.network.core
    return gather(core, state.collector, state.replay, tasks, infer, config.collection, generator)[0]


def update_of(network: PEARLNetwork, sac: LatentSAC, kl_weight: float) -> Callable[..., dict[str, Tensor]]:
    """One update as a pure function: posterior of each task's context, one guess per task, critics and encoder, rest.

    It takes transitions `[T, N, ...]` of T tasks, contexts `[T, C, ...]`, and the draws of z `[T, L]` and of actions
    `[T, N, A]`. The critics' loss is that of `actor_critic` plus kl_weight * sum over tasks of KL(q(z | c) || N(0, 1)).
    """

    def update(batch: Transitions, context: Transitions, draws: Tensor, noise: Tensor) -> dict[str, Tensor]:
        with sac.precision():
            posterior = network.posterior(context)
        kl = posterior.kl()
        metrics = sac.update(batch, posterior.sample(draws), noise, kl_weight * kl.sum())
        return metrics | {"kl": kl.detach().mean()}

    return update


def given(
    state: PEARLState, config: Config, generator: torch.Generator
) -> tuple[Transitions, Transitions, Tensor, Tensor]:
    """What the next update takes."""
    replay = state.replay
    tasks = torch.randint(len(replay), (config.meta_batch,), generator=generator).tolist()
    batch = replay.sample(tasks, config.batch, generator)
    context = replay.sample_context(tasks, config.encoder.context, generator)
    draws = torch.randn(len(tasks), config.latent, generator=generator)
    return batch, context, draws, torch.randn(batch.action.shape, generator=generator)


def update(state: PEARLState, config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """One update, now."""
    pure = update_of(state.learner, state.sac, config.encoder.kl_weight)
    return pure(*state.sac.device.put(given(state, config, generator)))


def learn(state: PEARLState, config: Config, generator: torch.Generator) -> dict[str, float]:
    """The updates of one iteration: their metrics' means."""
    follow(state.learner, state.network)  # scales of observations may have been fitted
    for _ in range(config.updates):
        state.updates.add(*given(state, config, generator))
    means = state.updates.means()
    follow(state.network, state.learner)
    return means


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> PEARLAgent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits."""
    state = build(benchmark, config, seed)
    checkpoint = run.begin(NAME, benchmark, config, seed)
    agent, done = deciding(PEARLAgent(state.network, config.exploration_episodes), benchmark, config.view), 0
    if checkpoint:
        done = checkpoint.iteration
        restore(state, checkpoint.tensors)
        state.collector.restore(checkpoint.state["collector"])
    everyone = list(range(len(state.replay)))
    with run.progress(config.iterations, done, "iterations") as advance:
        for iteration in range(done, config.iterations):
            start, generator = time.perf_counter(), stream(seed, iteration)
            if iteration == 0:
                collect(state, everyone, replace(config, collection=config.collection.initial()), generator)
                state.network.core.features.fit(state.replay.sample(everyone, 1000, generator).observation)
            count = min(config.collection.tasks_per_iteration, len(everyone))
            chosen = torch.randperm(len(everyone), generator=generator)[:count].tolist()
            row = collect(state, chosen, config, generator) | learn(state, config, generator)
            if config.evaluate_every and (iteration + 1) % config.evaluate_every == 0:
                row |= adaptation(agent, benchmark, config.evaluate_splits, config.exploration_episodes + 1)
            row["time/updates_per_s"] = config.updates / (time.perf_counter() - start)
            run.log({"iteration": iteration + 1, "frames": state.collector.frames} | row)
            advance(iteration + 1, f"return {row.get('return_posterior', row['return_prior']):8.2f}")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == config.iterations:
                last = iteration + 1 == config.iterations  # a finished run never goes on: its replay is not kept
                run.save(iteration + 1, tensors(state, with_replay=not last), {"collector": state.collector.state()})
    return agent


def build(benchmark: str, config: Config, seed: int) -> PEARLState:
    """Everything a run starts with; ValueError where the benchmark or the settings do not fit."""
    table = metabench.spec(benchmark).table()
    count = config.tasks or table.size(config.split)
    if not 1 <= count <= table.size(config.split):
        raise ValueError(
            f"tasks must be 1 to {table.size(config.split)}, the size of {benchmark}'s split {config.split!r}, or 0 "
            f"for all of them; got {config.tasks}"
        )
    env = make_viewed(benchmark, 1, config.view, split=config.split)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network = PEARLNetwork(config, env)
    device = Device.of(config)
    learns = learner(network, device)
    sac = LatentSAC(learns.core, config.sac, list(learns.encoder.parameters()), device)
    updates = device.updates(update_of(learns, sac, config.encoder.kl_weight))
    sizes = (network.core.observation, network.core.actions.size)
    replay = TaskReplay(count, *sizes, config.replay)
    collector = Collector(benchmark, config.split, seed, config.view)
    return PEARLState(network, learns, sac, replay, collector, updates)


def tensors(state: PEARLState, *, with_replay: bool) -> dict[str, Tensor]:
    """Everything that a run continues from, by name; without the replay what an agent and a curious reader need."""
    parts = {"network": state.network.state_dict(), "adam": state.sac.tensors()}
    if with_replay:
        parts["replay"] = state.replay.tensors()
    return named(parts)


def restore(state: PEARLState, saved: dict[str, Tensor]) -> None:
    """The inverse of `tensors`."""
    parts = by_part(saved)
    state.network.load_state_dict(parts["network"])
    follow(state.learner, state.network)
    state.sac.restore(parts["adam"])
    if "replay" in parts:
        state.replay.restore(parts["replay"])


def load(path: Path) -> PEARLAgent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path).tensors
    config = read_config(Config, settings["config"], RENAMED)
    network = PEARLNetwork(config, make_viewed(settings["benchmark"], 1, config.view, split=config.split))
    network.load_state_dict(by_part(saved)["network"])  # nothing else is in published policies
    agent = PEARLAgent(network, config.exploration_episodes, settings["protocol"])
    return deciding(agent, settings["benchmark"], config.view)
