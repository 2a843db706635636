"""PEARL: off-policy meta-RL with a probabilistic context; the policy acts on a sampled guess of the task.

Source: Rakelly et al. 2019, "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context Variables"
(arXiv 1903.08254) and its code (katerakelly/oyster, commit 44e20fd), whose settings are the defaults here. Each
transition (s, a, r) gives a Gaussian factor; the posterior over the latent task z is their product. Soft actor-critic
learns with z beside the state; the encoder learns from the critics' loss and a KL to N(0, 1), weighted 0.1 and summed
over tasks. Its context comes from recent data only, the policy's transitions from all data.

At test time (section 4.1, Algorithm 2): z is drawn from the prior for the exploration episodes and from the posterior
given everything seen in this trial afterwards, once per episode. What the agent has learned from never enters: a
known fault of another implementation, whose evaluation context came from the training buffers.

`published(benchmark)` gives oyster's settings for a benchmark where it has some.

Deviations, with reasons:
- Data are collected in whole episodes (2 and 2 of 200 steps where oyster counts 400 and 400 steps), the tasks of an
  iteration are distinct, and they are played side by side: faster, and the same number of steps.
- A transition is stored once, in float32; the context is a range of the same rows (oyster: two float64 arrays).
- Encoder and critics share one Adam, as their learning rates are equal: the same steps.
- The last transition of an episode is not in the evaluation context: under metabench's protocol an agent sees the next
  episode's first observation in its place.
- The networks are told observations standardised by the initial data, and distances between point masses (`Features`):
  benchmarks mix metres and radians. Oyster's benchmarks need no scaling.
- `normalised_values` (off by default) puts layer norms into the action and state values: without them, at ten
  times oyster's learning rate, HighwayMerge's values grew beyond what any policy can earn, and returns fell.
- Oyster's sparse-reward option (train on dense rewards, infer from sparse ones) is not offered: benchmarks have one
  reward.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench_agents.context.acting import GuessingAgent
from metabench_agents.context.actor_critic import ActorCritic, Learner, Settings, mlp, placed
from metabench_agents.context.collect import Collector, adaptation, gather
from metabench_agents.context.posterior import Evidence, Gaussian
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.parts.run import Run, load_checkpoint, load_config, stream

NAME = "pearl"


@dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    split: str = "train"  # tasks to learn from
    tasks: int = 0  # how many of them, the first of the table; 0 for all
    iterations: int = 500  # rounds of collecting and updating
    initial_episodes: int = 10  # per task, before the first update, with z from the prior
    tasks_per_iteration: int = 5  # tasks that new data are collected for
    prior_episodes: int = 2  # of each of them with z from the prior: the new context
    posterior_episodes: int = 2  # of each, further; the first still with z from the prior, as in oyster
    updates: int = 2000  # of all networks per iteration
    meta_batch: int = 16  # tasks of an update
    batch: int = 256  # transitions of each task in an update
    context: int = 64  # transitions of each task that the encoder sees in an update
    next_observation: bool = False  # whether the encoder sees s' too: needed where dynamics differ between tasks
    latent: int = 5  # dimensions of z
    hidden: int = 300  # width of policy, action and state values
    layers: int = 3  # their hidden layers
    normalised_values: bool = False  # layer norms in action and state values, which oyster has not
    encoder_hidden: int = 200  # width of the encoder
    encoder_layers: int = 3  # its hidden layers
    kl_weight: float = 0.1  # of the divergence from the prior
    learning_rate: float = 3e-4  # Adam's, of everything
    discount: float = 0.99  # gamma
    reward_scale: float = 5.0  # of rewards in the critics' targets
    target_rate: float = 5e-3  # how far the target value moves to the value in an update
    replay: int = 1_000_000  # the most transitions kept per task
    exploration_episodes: int = 1  # of a trial at test time, with z from the prior
    evaluate_every: int = 0  # iterations between evaluations for the learning curve; 0 for none
    evaluate_splits: tuple[str, ...] = ("test", "ood")  # what it is measured on; nothing is chosen by it
    bf16: bool = False  # matrix products in bfloat16: faster on CPUs that have it
    compile: bool = False  # torch.compile the losses
    device: str = "auto"  # of the updates: "cpu", "cuda", or CUDA where there is some; it plays on the CPU


PUBLISHED: dict[str, dict[str, Any]] = {  # oyster's configs, in our terms; what is not named is the default
    "CheetahVel-v0": {"posterior_episodes": 3, "context": 100, "exploration_episodes": 2},
    "CheetahDir-v0": {"meta_batch": 4, "prior_episodes": 5, "posterior_episodes": 5, "context": 256},
    "AntDir-v0": {"meta_batch": 4, "posterior_episodes": 3, "updates": 4000, "context": 256},
    "AntGoal-v0": {"meta_batch": 10, "updates": 4000, "kl_weight": 1.0, "context": 256},
    "HumanoidDir-v0": {"updates": 4000, "context": 256},
    "WalkerParam-v0": {"meta_batch": 10, "updates": 4000, "context": 100, "next_observation": True},
    "HopperParam-v0": {"meta_batch": 10, "updates": 4000, "context": 100, "next_observation": True},
    "PointRobot-v0": {"prior_episodes": 10, "posterior_episodes": 10, "updates": 1000, "reward_scale": 100.0},
}


def published(benchmark: str) -> Config:
    """Oyster's settings for a benchmark; its defaults where it has none."""
    return replace(Config(), **PUBLISHED.get(metabench.spec(benchmark).id, {}))


class Network(nn.Module):
    """The encoder and the networks that act on its guesses."""

    def __init__(self, config: Config, env: Any):
        super().__init__()
        fields = env.family.observation_fields
        sizes = (config.latent, config.hidden, config.layers)
        self.core = ActorCritic(fields, env.single_action_space, *sizes, config.normalised_values)
        self.next_observation, self.latent = config.next_observation, config.latent
        inputs = self.core.features.size * (2 if config.next_observation else 1) + self.core.actions.size + 1
        self.encoder = mlp(inputs, config.encoder_hidden, config.encoder_layers, 2 * config.latent)

    def factors(self, context: Transitions) -> Gaussian:
        """What each transition says of the task: `[..., L]`."""
        parts = [self.core.features(context.observation), context.action, context.reward[..., None]]
        if self.next_observation:
            parts.append(self.core.features(context.next_observation))
        return Gaussian.of(self.encoder(torch.cat(parts, dim=-1)))

    def posterior(self, context: Transitions) -> Gaussian:
        """The product over a context `[T, N, ...]`: `[T, L]`."""
        return Evidence.total(self.factors(context)).posterior()


class Agent(GuessingAgent):
    """The trained networks under PEARL's test protocol, which remembers what the factors say together."""

    name = NAME

    def nothing(self, num_trials: int) -> Evidence:
        """No factor yet."""
        return Evidence.none(num_trials, self.network.latent)

    def take_in(self, seen: Transitions, counts: Tensor, memory: Evidence) -> tuple[Evidence, Gaussian]:
        """One more factor, and the product."""
        evidence = memory.plus(self.network.factors(seen), counts)
        return evidence, evidence.posterior()


def collect(
    network: Network,
    collector: Collector,
    replay: TaskReplay,
    tasks: Sequence[int],
    config: Config,
    generator: torch.Generator,
) -> dict[str, float]:
    """New data of some tasks; posteriors come from `context` transitions drawn from the new prior episodes."""

    def infer() -> Gaussian:
        return network.posterior(replay.sample_context(tasks, config.context, generator))

    episodes = (config.prior_episodes, config.posterior_episodes)
    return gather(network.core, collector, replay, tasks, infer, episodes, generator)[0]


def update(
    network: Network, learner: Learner, replay: TaskReplay, config: Config, generator: torch.Generator
) -> dict[str, Tensor]:
    """One update: posterior of each task's context, one guess per task, critics and encoder, value and policy.

    The critics' loss is that of `latent_sac` plus kl_weight * sum over tasks of KL(q(z | c) || N(0, 1)).
    """
    tasks = torch.randint(len(replay), (config.meta_batch,), generator=generator).tolist()
    batch = replay.sample(tasks, config.batch, generator)
    context = replay.sample_context(tasks, config.context, generator).to(learner.device)
    with learner.precision():
        posterior = network.posterior(context)
    z = posterior.sample(torch.randn(posterior.mean.shape, generator=generator).to(learner.device))
    kl = posterior.kl()
    noise = torch.randn(batch.action.shape, generator=generator)
    metrics = learner.update(batch, z, noise, config.kl_weight * kl.sum())
    return metrics | {"kl": kl.detach().mean()}


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> Agent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits."""
    checkpoint = run.begin(NAME, benchmark, config, seed)
    network, learner, replay, collector = build(benchmark, config, seed)
    agent, done = Agent(network, config.exploration_episodes), 0
    if checkpoint:
        done = checkpoint.iteration
        restore(network, learner, replay, checkpoint.tensors)
        collector.restore(checkpoint.state["collector"])
    everyone = list(range(len(replay)))
    with run.progress(config.iterations, done, "iterations") as advance:
        for iteration in range(done, config.iterations):
            start, generator = time.perf_counter(), stream(seed, iteration)
            if iteration == 0:
                initial = replace(config, prior_episodes=config.initial_episodes, posterior_episodes=0)
                collect(network, collector, replay, everyone, initial, generator)
                network.core.features.fit(replay.sample(everyone, 1000, generator).observation)
            count = min(config.tasks_per_iteration, len(everyone))
            chosen = torch.randperm(len(everyone), generator=generator)[:count].tolist()
            row = collect(network, collector, replay, chosen, config, generator)
            sums: dict[str, Tensor] = {}
            with placed(learner.device, network, *learner.optimisers.values()):
                for _ in range(config.updates):
                    for name, value in update(network, learner, replay, config, generator).items():
                        sums[name] = sums[name] + value if name in sums else value
            row |= {name: float(value) / config.updates for name, value in sums.items()}
            if config.evaluate_every and (iteration + 1) % config.evaluate_every == 0:
                row |= adaptation(agent, benchmark, config.evaluate_splits, config.exploration_episodes + 1)
            row["time/updates_per_s"] = config.updates / (time.perf_counter() - start)
            run.log({"iteration": iteration + 1, "frames": collector.frames} | row)
            advance(iteration + 1, f"return {row.get('return_posterior', row['return_prior']):8.2f}")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == config.iterations:
                kept = replay if iteration + 1 < config.iterations else None  # a finished run never goes on
                run.save(iteration + 1, tensors(network, learner, kept), {"collector": collector.state()})
    return agent


def build(benchmark: str, config: Config, seed: int) -> tuple[Network, Learner, TaskReplay, Collector]:
    """Everything a run starts with; ValueError where the benchmark or the settings do not fit."""
    table = metabench.spec(benchmark).table()
    count = config.tasks or table.size(config.split)
    if not 1 <= count <= table.size(config.split):
        raise ValueError(
            f"tasks must be 1 to {table.size(config.split)}, the size of {benchmark}'s split {config.split!r}, or 0 "
            f"for all of them; got {config.tasks}"
        )
    env = metabench.make_vec(benchmark, 1, split=config.split)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network = Network(config, env)
    learner = Learner(network.core, Settings.of(config), list(network.encoder.parameters()))
    sizes = (network.core.observation, network.core.actions.size)
    return network, learner, TaskReplay(count, *sizes, config.replay), Collector(benchmark, config.split, seed)


def tensors(network: Network, learner: Learner, replay: TaskReplay | None) -> dict[str, Tensor]:
    """Everything that a run continues from, by name."""
    parts = {"network": network.state_dict(), "adam": learner.tensors()}
    if replay is not None:
        parts["replay"] = replay.tensors()
    return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}


def restore(network: Network, learner: Learner | None, replay: TaskReplay | None, saved: dict[str, Tensor]) -> None:
    """The inverse of `tensors`, for whatever is wanted."""
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "adam": {}, "replay": {}}
    for key, tensor in saved.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor
    network.load_state_dict(parts["network"])
    if learner is not None:
        learner.restore(parts["adam"])
    if replay is not None and parts["replay"]:
        replay.restore(parts["replay"])


def load(path: Path) -> Agent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config = Config(**{**settings["config"], "evaluate_splits": tuple(settings["config"]["evaluate_splits"])})
    network = Network(config, metabench.make_vec(settings["benchmark"], 1, split=config.split))
    restore(network, None, None, checkpoint.tensors)
    return Agent(network, config.exploration_episodes)
