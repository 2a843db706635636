"""MetaDreamer: PEARL's frame with a generative model that imagines tasks between the real ones, and plays in them.

Source: Wen, Zhang, Tseng and Peng 2023, "MetaDreamer: Efficient Meta-Reinforcement Learning with Imaginary Tasks"
(arXiv 2311.06673; IEEE RA-L 9(11), 2024). Its full text and code could not be had; what follows is known from the
abstract and from public reviews that describe and quote it:

- PEARL's frame, but with a GRU as encoder, trained by reconstruction and decoupled from the policy;
- a beta-VAE over the latent context, beta 5 (1 as the variant), with two cluster losses: compactness within a task, and
  separation between tasks up to a threshold sigma;
- a physics-informed decoder: accelerations are 3 tanh(.), p' = p + v dt, v' = v + a dt; a plain network elsewhere;
- meta-imagination: interpolation of one latent dimension at a time, f(k) being the dimension of factor k, with
  density D_k;
- MDP-imagination: the policy is rolled out in the decoder from real starts, for real and imagined tasks; no gradient
  through the model;
- runs named R8, R16, R8I8, R8IR8, R16I8; 100 to 1000 times less real data than PEARL to the same return.

Everything else is our choice, not the paper's: the weights of the cluster losses and sigma, all network sizes, the
decoder's deviation, the number and length of rollouts, the share of imagined data, and how the runs' names are read
(`RUNS`).

Choices and deviations, with reasons:
- f(k) is measured, not found by eye: the assignment of factors to dimensions with the most mutual information of the
  Gaussian copula between posterior means and the training tasks' parameters. Only training tasks are used.
- Beliefs at half of the reconstructed positions are those after a random part of the context, so that short contexts,
  as a trial begins with, are in the training data.
- The policy's guesses for real tasks are drawn from beliefs computed once per imagination: the encoder stands still
  while the policy learns.
- Imagined tasks are drawn anew from all interpolations, and imagined data thrown away, at every imagination: latents
  move while the encoder learns. Half of the imagined episodes act on guesses from the prior, as half of the real ones
  do.
- The decoder also predicts whether the task's own rule ends the episode.
- Observations are told to all networks as in `pearl.py`; the decoder's units are moments of the initial data.
- Soft actor-critic, its option `normalised_values`, data collection and test protocol are PEARL's as in `pearl.py`; so
  the encoder is told of the transition that ends an episode where the next one begins, unless it was trained under the
  protocol `slots-1`.
"""

from __future__ import annotations

import copy
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
from metabench_agents.context.actor_critic import LatentActorCritic, LatentSAC, LatentSACConfig, restore_adam
from metabench_agents.context.collect import CollectionConfig, Collector, adaptation, gather
from metabench_agents.context.dreaming import DreamConfig, LatentGaussianPolicy
from metabench_agents.context.fidelity import quality
from metabench_agents.context.imagination import Dream, ImaginationConfig, Known, dream_of, relabel
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.context.rounds import Known as KnownTasks
from metabench_agents.context.rounds import RoundsConfig, collect_round, dream_round, everything, fit_round
from metabench_agents.context.task_decoders import make_decoder
from metabench_agents.context.task_encoder import ModelDraws, TaskModel, TaskModelConfig, model_draws, model_loss
from metabench_agents.parts.config import for_benchmark, read_config
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Computing, Device, Updates, descend, follow, learner
from metabench_agents.parts.features import Features
from metabench_agents.parts.run import Run, load_checkpoint, load_config, stream
from metabench_agents.parts.view import Sight, ViewConfig, extra_columns, sight_of, view_of

NAME = "metadreamer"


def _smaller() -> LatentSACConfig:
    return LatentSACConfig(hidden=128, layers=2, learning_rate=1e-3)


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run; the defaults are the run R8IR8."""

    split: str = "train"  # tasks to learn from
    view: ViewConfig = field(default_factory=ViewConfig)  # what the policy is shown, how often it decides
    learner: str = "sac"  # of the policy: "sac" on real and imagined data, "ppo" in the model alone, in rounds
    tasks: int = field(default=8, metadata={"low": 0})  # how many, spread evenly over the table; 0 for all
    iterations: int = 100  # rounds of collecting and updating
    collection: CollectionConfig = field(default_factory=CollectionConfig)  # what is played
    updates: int = 500  # of policy and values per iteration
    meta_batch: int = 16  # tasks of an update
    batch: int = 64  # transitions of each task in an update
    replay: int = 1_000_000  # the most transitions kept per task
    latent: int = 4  # dimensions of z
    model: TaskModelConfig = field(default_factory=TaskModelConfig)  # encoder and decoder
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)  # what the policy learns from besides
    sac: LatentSACConfig = field(default_factory=_smaller)  # policy and values of the learner "sac"
    rounds: RoundsConfig = field(default_factory=RoundsConfig)  # how the learner "ppo" divides its work
    dream: DreamConfig = field(default_factory=DreamConfig)  # how it learns in the model
    exploration_episodes: int = 1  # of a trial at test time, with z from the prior
    evaluate_every: int = 0  # iterations between evaluations for the learning curve; 0 for none
    evaluate_splits: tuple[str, ...] = ("test", "ood")  # what it is measured on; nothing is chosen by it


RENAMED = {  # flat settings of the first runs that are called otherwise now, or whose names stand in several groups
    "imagined_tasks": "imagination.tasks",
    "imagine_every": "imagination.every",
    "rollouts_per_task": "imagination.episodes",
    "rollout_steps": "imagination.steps",
    "imagined_share": "imagination.share",
    "model_updates": "model.updates",
    "model_rate": "model.learning_rate",
    "core": "model.width",
    "decoder": "model.decoder.kind",
    "decoder_hidden": "model.decoder.hidden",
    "decoder_layers": "model.decoder.layers",
    "hidden": "sac.hidden",
    "layers": "sac.layers",
    "learning_rate": "sac.learning_rate",
    "discount": "sac.discount",
    "deviation": "model.deviation",
    "reward_scale": "sac.reward_scale",
}
RUNS: dict[str, dict[str, Any]] = {  # the paper's names; the reading is ours
    "R8": {"tasks": 8, "imagination.tasks": 0, "imagination.rollouts": "none"},
    "R16": {"tasks": 16, "imagination.tasks": 0, "imagination.rollouts": "none"},
    "R8I8": {"tasks": 8, "imagination.tasks": 8, "imagination.rollouts": "imagined"},
    "R8IR8": {"tasks": 8, "imagination.tasks": 8, "imagination.rollouts": "all"},
    "R16I8": {"tasks": 16, "imagination.tasks": 8, "imagination.rollouts": "imagined"},
}
ABLATIONS: dict[str, dict[str, Any]] = {  # of any run
    "no-meta-imagination": {"imagination.tasks": 0},
    "no-mdp-imagination": {"imagination.rollouts": "none"},
    "no-physics": {"model.decoder.kind": "neural"},
    "beta-1": {"model.beta": 1.0},
}


MERGE: dict[str, Any] = {  # in rounds, on the eight real tasks of the run R8IR8
    "split": "R8",
    "learner": "ppo",
    "iterations": 2,
    "collection.initial_episodes": 6,
    "collection.prior_episodes": 3,
    "collection.posterior_episodes": 2,
    "model.updates": 600,
    "model.targets": 48,
    "model.context": 80,
    "model.separation": 0.3,
    "model.starts": 1.0,
    "model.partial": "foretell",
    "model.decoder.kind": "vehicles",
    "model.decoder.hidden": 32,
    "rounds.tasks": "hull",
    "evaluate_every": 1,
}
RECOMMENDED: dict[str, dict[str, Any]] = {"HighwayMerge-v0": MERGE, "HighwayMergeHidas-v0": MERGE}
ROUNDS: dict[str, dict[str, Any]] = {  # ablations of a run in rounds
    "no-meta-imagination": {"rounds.tasks": "real"},
    "one-factor-at-a-time": {"rounds.tasks": "lines"},
    "box": {"rounds.tasks": "box"},
    "one-start": {"rounds.starts": "one"},
    "no-physics": {"model.decoder.kind": "neural", "model.decoder.hidden": 128},
    "beta-1": {"model.beta": 1.0},
    "supervised": {"model.supervision": 10.0},
    "old-policy": {"dream.fresh": False},
    "few-dreams": {"dream.steps": 550_000},
}


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: those of our studies for a benchmark, the defaults elsewhere."""
    return replace(for_benchmark(Config(), RECOMMENDED, benchmark), view=view_of(benchmark))


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


class MetaDreamerState(NamedTuple):
    """Everything of a run that changes."""

    network: MetaDreamerNetwork  # plays and imagines, on the CPU
    learner: MetaDreamerNetwork  # learns, where it learns: the same one on the CPU
    sac: LatentSAC  # of policy and values
    model: torch.optim.Optimizer  # of encoder and decoder
    model_updates: Updates
    updates: Updates  # of policy and values
    replay: TaskReplay  # real experience
    collector: Collector
    rows: list[int]  # of the split: the real tasks
    factors: np.ndarray  # [R, K] their parameters
    starts: Tensor  # [R, O] a first observation of each


def collect(
    state: MetaDreamerState, tasks: Sequence[int], config: Config, generator: torch.Generator
) -> dict[str, float]:
    """New data of some of the real tasks, numbered 0 .. R-1."""

    def infer() -> DiagonalGaussian:
        context, lengths = state.replay.windows(tasks, config.model.context, generator)
        return state.network.model.posterior(context, lengths)

    real = [state.rows[task] for task in tasks]
    metrics, starts = gather(
        state.network.core, state.collector, state.replay, tasks, infer, config.collection, generator, rows=real
    )
    state.starts[list(tasks)] = starts
    return metrics


def model_step(
    network: MetaDreamerNetwork, optimiser: torch.optim.Optimizer, config: Config, device: Device
) -> Callable[..., dict[str, Tensor]]:
    """One step of encoder and decoder, as a pure function."""

    def step(context: Transitions, lengths: Tensor, seen: Transitions, draws: ModelDraws) -> dict[str, Tensor]:
        with device.float32():
            loss, metrics = model_loss(network.model, context, lengths, seen, config.model, draws)
            descend(loss, optimiser)
        return {f"model_{name}": value for name, value in metrics.items()}

    return step


def given_model(state: MetaDreamerState, config: Config, generator: torch.Generator) -> tuple[Any, ...]:
    """What the next one takes: two contexts of every real task (of `meta_batch` at most)."""
    tasks = torch.randperm(len(state.replay), generator=generator)[: config.meta_batch].tolist()
    twice = [task for task in tasks for _ in range(2)]
    context, lengths = state.replay.windows(twice, config.model.context, generator)
    context = Transitions(*(column.unflatten(0, (len(tasks), 2)) for column in context))
    seen = state.replay.sample(tasks, config.model.targets, generator)
    return context, lengths.view(-1, 2), seen, model_draws(lengths.view(-1, 2), config.latent, generator)


def update_model(state: MetaDreamerState, config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """One step of encoder and decoder, now."""
    step = model_step(state.learner, state.model, config, state.sac.device)
    return step(*state.sac.device.put(given_model(state, config, generator)))


@torch.inference_mode()
def real_beliefs(
    state: MetaDreamerState, config: Config, generator: torch.Generator, contexts: int = 16
) -> DiagonalGaussian:
    """Beliefs `[R, C, L]` about every real task after C windows of its context."""
    tasks = [task for task in range(len(state.replay)) for _ in range(contexts)]
    belief = state.network.model.posterior(*state.replay.windows(tasks, config.model.context, generator))
    return DiagonalGaussian(*(column.unflatten(0, (-1, contexts)).clone() for column in belief))


def imagine(state: MetaDreamerState, config: Config, generator: torch.Generator) -> Dream:
    """Beliefs about the real tasks, tasks between them, and rollouts in the decoder."""
    known = Known(real_beliefs(state, config, generator), state.factors, state.starts, state.replay)
    network, horizon = state.network, metabench.spec(state.collector.benchmark).horizon
    return dream_of(network.model.decoder, network.core, known, config.imagination, horizon, generator)


def update(state: MetaDreamerState, dream: Dream, config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """One step of policy and values, now."""
    return state.sac.update(*given(state, dream, config, generator))


def given(
    state: MetaDreamerState, dream: Dream, config: Config, generator: torch.Generator
) -> tuple[Transitions, Tensor, Tensor]:
    """What the next step of policy and values takes: real and imagined tasks, drawn evenly."""
    real = len(state.replay)
    count = real + (len(dream.imagined.base) if dream.imagined else 0)
    drawn = torch.randint(count, (config.meta_batch,), generator=generator)
    ours, theirs = drawn[drawn < real].tolist(), (drawn[drawn >= real] - real).tolist()
    parts, guesses = [], []
    if ours:
        mixed = config.imagination.rollouts == "all" and dream.replay
        dreamt = round(config.batch * config.imagination.share) if mixed else 0
        batch = state.replay.sample(ours, config.batch - dreamt, generator)
        if dreamt and dream.replay:
            more = dream.replay.sample(ours, dreamt, generator)
            batch = Transitions(*(torch.cat(pair, dim=1) for pair in zip(batch, more, strict=True)))
        which = torch.randint(dream.beliefs.mean.shape[1], (len(ours),), generator=generator)
        belief = DiagonalGaussian(*(column[torch.as_tensor(ours), which] for column in dream.beliefs))
        parts.append(batch)
        guesses.append(belief.sample(torch.randn(belief.mean.shape, generator=generator)))
    if theirs and dream.imagined:
        z, base = dream.imagined.z[theirs], dream.imagined.base[theirs].tolist()
        if dream.replay:
            parts.append(dream.replay.sample([real + t for t in theirs], config.batch, generator))
        else:
            parts.append(relabel(state.network.model.decoder, state.replay.sample(base, config.batch, generator), z))
        noise = torch.randn(z.shape, generator=generator)
        guesses.append(z + dream.variance[[real + t for t in theirs]].sqrt() * noise)
    batch = Transitions(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    noise = torch.randn(batch.action.shape, generator=generator)
    return batch, torch.cat(guesses), noise


def diagnose(state: MetaDreamerState, config: Config, generator: torch.Generator) -> dict[str, float]:
    """How disentangled beliefs about the real tasks are, and how far imagined tasks are from the simulator's."""
    return quality(
        state.network.model.decoder,
        state.network.core,
        real_beliefs(state, config, generator, contexts=64),
        state.factors,
        config.imagination.density,
        state.collector.benchmark,
        config.imagination.steps or metabench.spec(state.collector.benchmark).horizon,
        (generator, stream(state.collector.seed, 7)),
    )


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> MetaDreamerAgent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits.

    `frames` in the metrics are the real environment steps of training, those the generative model learns from included.
    """
    if config.learner == "ppo":
        return train_in_rounds(benchmark, config, seed, run)
    if config.learner != "sac":
        raise ValueError(f"unknown learner {config.learner!r}; available: sac, ppo")
    state = build(benchmark, config, seed)
    checkpoint = run.begin(NAME, benchmark, config, seed)
    agent, done = deciding(MetaDreamerAgent(state.network, config.exploration_episodes), benchmark, config.view), 0
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
                seen = state.replay.sample(everyone, 1000, generator)
                state.network.model.decoder.units.fit(seen)
                state.network.core.features.fit(seen.observation)
            chosen = torch.randperm(len(everyone), generator=generator)[
                : config.collection.tasks_per_iteration
            ].tolist()
            row = collect(state, chosen, config, generator) | learn(state, config, generator)
            if config.evaluate_every and (iteration + 1) % config.evaluate_every == 0:
                row |= adaptation(agent, benchmark, config.evaluate_splits, config.exploration_episodes + 1)
                row |= diagnose(state, config, stream(seed, iteration, 1))
            row["time/seconds"] = time.perf_counter() - start
            run.log({"iteration": iteration + 1, "frames": state.collector.frames} | row)
            advance(iteration + 1, f"return {row.get('return_posterior', row['return_prior']):8.2f}")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == config.iterations:
                beliefs = real_beliefs(state, config, stream(seed, iteration, 2))
                run.save(iteration + 1, tensors(state, beliefs), {"collector": state.collector.state()})
    return agent


class Rounds(NamedTuple):
    """Everything of a run in rounds that changes."""

    network: MetaDreamerNetwork
    known: KnownTasks
    collector: Collector
    rows: list[int]  # of the split: the real tasks
    sight: Sight


def build_rounds(benchmark: str, config: Config, seed: int) -> Rounds:
    """Everything that a run in rounds starts with; ValueError where the benchmark or the settings do not fit."""
    rows, factors = real_tasks(benchmark, config)
    env = metabench.make_vec(benchmark, 1, split=config.split)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network, columns = MetaDreamerNetwork(config, env), len(env.family.observation_fields)
    sizes = (len(rows), columns, network.core.actions.size, config.replay)
    known = KnownTasks(TaskReplay(*sizes), TaskReplay(*sizes), [torch.empty(0, columns) for _ in rows], factors)
    return Rounds(network, known, Collector(benchmark, config.split, seed), rows, sight_of(env, config.view))


def train_in_rounds(benchmark: str, config: Config, seed: int, run: Run) -> MetaDreamerAgent:
    """The learner "ppo": each iteration collects, fits the model and learns a policy in it; see `rounds`."""
    state = build_rounds(benchmark, config, seed)
    network, known = state.network, state.known
    checkpoint = run.begin(NAME, benchmark, config, seed)
    agent, done = MetaDreamerAgent(network, config.exploration_episodes, sight=state.sight), 0
    if checkpoint:
        done = checkpoint.iteration
        restore_rounds(state, checkpoint.tensors)
        state.collector.restore(checkpoint.state["collector"])
    collection, context = config.collection, config.model.context
    with run.progress(config.iterations, done, "rounds") as advance:
        for iteration in range(done, config.iterations):
            start, generator = time.perf_counter(), stream(seed, iteration)
            given = (state.rows, state.sight, collection, context, config.rounds.held_out, generator, iteration == 0)
            row = collect_round(network.core, network.model, state.collector, known, *given)
            if iteration == 0:
                seen, _ = everything(known.replay)
                network.model.features.fit(seen.observation)
                network.model.decoder.units.fit(seen)
                network.model.decoder.fit_starts(torch.cat(known.starts))
            row |= fit_round(network.model, known, config.model, config.rounds, (seed, iteration, 3))
            row["trusted"] = float(row["held_skill"] >= config.rounds.least_skill)
            if row["trusted"]:
                row |= dream(state, config, (seed, iteration), generator)
            if config.evaluate_every and (iteration + 1) % config.evaluate_every == 0:
                row |= adaptation(agent, benchmark, config.evaluate_splits, config.exploration_episodes + 1)
            row["time/seconds"] = time.perf_counter() - start
            run.log({"iteration": iteration + 1, "frames": state.collector.frames} | row)
            advance(iteration + 1, f"return {row.get('return_posterior', row.get('return_prior', 0.0)):8.2f}")
            run.save(iteration + 1, rounds_tensors(state), {"collector": state.collector.state()})
    return agent


def dream(state: Rounds, config: Config, key: tuple[int, int], generator: torch.Generator) -> dict[str, float]:
    """Learns policies in the model, and keeps the one that earns most there; no real step is taken for the choice.

    Args:
        state: Its network's policy becomes the best one.
        config: How many, and how each learns.
        key: Seed and iteration.
        generator: Of the first; the others have streams of their own.
    """
    network, found = state.network, []
    given = (network.model, state.known, state.sight, config.model.context, config.rounds, config.dream)
    for number in range(config.dream.tries):
        if config.dream.fresh or number:
            renew(network, config, state.sight, (*key, 4, number) if number else (*key, 4))
        told = dream_round(network.core, *given, stream(*key, 5, number) if number else generator)
        found.append((told["dream_return"], told, copy.deepcopy(network.core.state_dict())))
    best = max(found, key=lambda each: each[0])
    network.core.load_state_dict(best[2])
    worst = {"dream_worst": min(each[0] for each in found)} if config.dream.tries > 1 else {}
    return best[1] | worst


def renew(network: MetaDreamerNetwork, config: Config, sight: Sight, key: Sequence[int]) -> None:
    """A fresh policy in place of the old one."""
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    core = network.core
    space = core.actions.space
    core.load_state_dict(LatentGaussianPolicy(sight, space, config.latent, config.dream).state_dict())


def rounds_tensors(state: Rounds) -> dict[str, Tensor]:
    """Everything that a run in rounds continues from, by name."""
    parts = {
        "network": state.network.state_dict(),
        "replay": state.known.replay.tensors(),
        "held": state.known.held.tensors(),
        "starts": {str(task): own for task, own in enumerate(state.known.starts)},
    }
    return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}


def restore_rounds(state: Rounds, saved: dict[str, Tensor]) -> None:
    """The inverse of `rounds_tensors`."""
    parts = by_part(saved)
    state.network.load_state_dict(parts["network"])
    state.known.replay.restore(parts["replay"])
    state.known.held.restore(parts["held"])
    for task in range(len(state.known.starts)):
        state.known.starts[task] = parts["starts"][str(task)]


def learn(state: MetaDreamerState, config: Config, generator: torch.Generator) -> dict[str, float]:
    """The updates of one iteration: the model's, then the policy's with an imagination every so often."""
    follow(state.learner, state.network)  # scales of observations may have been fitted
    for _ in range(config.model.updates):
        state.model_updates.add(*given_model(state, config, generator))
    told = state.model_updates.means()
    every = config.imagination.every
    for start in range(0, config.updates, every):
        state.updates.flush()
        follow(state.network, state.learner)
        dream = imagine(state, config, generator)
        for _ in range(min(every, config.updates - start)):
            state.updates.add(*given(state, dream, config, generator))
    told |= state.updates.means()
    follow(state.network, state.learner)
    return told


def spread(size: int, count: int) -> list[int]:
    """`count` rows of a table of `size`, evenly spaced: few real tasks should not be neighbours."""
    return np.unique(np.linspace(0, size - 1, count).round().astype(int)).tolist()


def real_tasks(benchmark: str, config: Config) -> tuple[list[int], np.ndarray]:
    """The rows of the split that are learned from, and their parameters `[R, K]`."""
    table = metabench.spec(benchmark).table()
    size = table.size(config.split)
    if not 0 <= config.tasks <= size:
        raise ValueError(
            f"tasks must be 1 to {size}, the size of {benchmark}'s split {config.split!r}, or 0 for all of them;"
            f" got {config.tasks}"
        )
    rows = spread(size, config.tasks or size)
    return rows, table.rows[config.split][rows]


def build(benchmark: str, config: Config, seed: int) -> MetaDreamerState:
    """Everything a run starts with; ValueError where the benchmark or the settings do not fit."""
    rows, factors = real_tasks(benchmark, config)
    imagination = config.imagination
    if imagination.rollouts not in ("all", "imagined", "none"):
        raise ValueError(f"unknown rollouts {imagination.rollouts!r}; available: all, imagined, none")
    if imagination.rollouts == "imagined" and not imagination.tasks:
        raise ValueError("rollouts of imagined tasks need imagination.tasks of at least 1")
    env = make_viewed(benchmark, 1, config.view, split=config.split)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network = MetaDreamerNetwork(config, env)
    width = network.core.observation
    device = Device.of(config)
    learns = learner(network, device)
    sac = LatentSAC(learns.core, config.sac, device=device)
    model = device.adam(learns.model.parameters(), config.model.learning_rate)
    return MetaDreamerState(
        network,
        learns,
        sac,
        model,
        device.updates(model_step(learns, model, config, device)),
        device.updates(sac.update),
        TaskReplay(len(rows), width, network.core.actions.size, config.replay),
        Collector(benchmark, config.split, seed, config.view),
        rows,
        factors,
        torch.zeros(len(rows), width),
    )


def tensors(state: MetaDreamerState, beliefs: DiagonalGaussian) -> dict[str, Tensor]:
    """Everything that a run continues from, and the last beliefs about the real tasks, by name."""
    moments = state.model.state_dict()["state"]
    parts = {
        "network": state.network.state_dict(),
        "adam": state.sac.tensors(),
        "model-adam": {f"{index}/{name}": t for index, own in moments.items() for name, t in own.items()},
        "replay": state.replay.tensors(),
        "last": {"starts": state.starts, "means": beliefs.mean, "variances": beliefs.variance},
    }
    return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}


def by_part(saved: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named `part/name` by part."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    return parts


def restore(state: MetaDreamerState, saved: dict[str, Tensor]) -> None:
    """The inverse of `tensors`."""
    parts = by_part(saved)
    state.network.load_state_dict(parts["network"])
    follow(state.learner, state.network)
    state.sac.restore(parts["adam"])
    restore_adam(state.model, parts["model-adam"])
    state.replay.restore(parts["replay"])
    state.starts.copy_(parts["last"]["starts"])


def load_training(path: Path) -> tuple[MetaDreamerState, Config]:
    """The whole state of the run in folder `path`, to look into; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config = read_config(Config, settings["config"], RENAMED)
    state = build(settings["benchmark"], config, settings["seed"])
    restore(state, checkpoint.tensors)
    state.collector.restore(checkpoint.state["collector"])
    return state, config


def load(path: Path) -> MetaDreamerAgent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path).tensors
    config = read_config(Config, settings["config"], RENAMED)
    in_rounds = config.learner == "ppo"
    view = ViewConfig() if in_rounds else config.view
    env = make_viewed(settings["benchmark"], 1, view, split=config.split)
    network = MetaDreamerNetwork(config, env)
    kept = {name.removeprefix("network/"): own for name, own in saved.items() if name.startswith("network/")}
    network.load_state_dict(kept)  # an agent needs nothing else: published policies have nothing else
    sight = sight_of(env, config.view) if in_rounds else None
    agent = MetaDreamerAgent(network, config.exploration_episodes, settings["protocol"], sight=sight)
    return agent if in_rounds else deciding(agent, settings["benchmark"], config.view)
