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
- Soft actor-critic, its option `normalised_values`, data collection and test protocol are PEARL's as in `pearl.py`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench_agents.context.actor_critic import Learner, Settings, placed, restore_adam
from metabench_agents.context.collect import Collector, adaptation, gather
from metabench_agents.context.dreamer import NAME, Agent, Network
from metabench_agents.context.dreams import Dream, Dreaming, Known, dream_of, quality
from metabench_agents.context.imagination import relabel
from metabench_agents.context.posterior import Gaussian
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.context.task_encoder import ModelWeights, model_loss
from metabench_agents.parts.run import Run, load_checkpoint, load_config, stream


@dataclass(frozen=True)
class Config:
    """Settings of one training run; the defaults are the run R8IR8."""

    split: str = "train"  # tasks to learn from
    tasks: int = 8  # how many of them, spread evenly over the table; 0 for all
    imagined_tasks: int = 8  # played beside them: meta-imagination; 0 for none
    rollouts: str = "all"  # MDP-imagination: "all" tasks, "imagined" ones, "none" (imagined tasks relabel real steps)
    density: int = 4  # D: parts that a gap between neighbouring tasks is cut into
    iterations: int = 100  # rounds of collecting and updating
    initial_episodes: int = 10  # per task, before the first update, with z from the prior
    tasks_per_iteration: int = 5  # tasks that new data are collected for
    prior_episodes: int = 2  # of each of them with z from the prior: the new context
    posterior_episodes: int = 2  # of each, further; the first still with z from the prior
    model_updates: int = 200  # of encoder and decoder per iteration
    updates: int = 500  # of policy and values per iteration
    imagine_every: int = 100  # updates between imaginations
    rollouts_per_task: int = 16  # imagined episodes of each task at every imagination
    rollout_steps: int = 0  # their length, from real states; 0 for whole episodes from real starts
    imagined_share: float = 0.5  # of a real task's batch, with rollouts "all"
    meta_batch: int = 16  # tasks of an update
    batch: int = 64  # transitions of each task in an update
    context: int = 60  # consecutive transitions of each task that the encoder sees
    targets: int = 64  # transitions of each task that beliefs are asked to reconstruct
    latent: int = 4  # dimensions of z
    hidden: int = 128  # width of policy, action and state values
    layers: int = 2  # their hidden layers
    normalised_values: bool = False  # layer norms in action and state values, which oyster has not
    core: int = 64  # width of the GRU
    decoder: str = "auto"  # "physics" or "neural"; "auto" takes physics where point masses are observed
    decoder_hidden: int = 128  # width of the decoder
    decoder_layers: int = 2  # its hidden layers
    deviation: float = 0.1  # of reconstructed columns, in their standard deviations over a step
    beta: float = 5.0  # of the divergence from the prior
    within: float = 1.0  # weight of compactness within tasks
    between: float = 1.0  # weight of separation between tasks
    separation: float = 1.0  # sigma: how far apart tasks' centres are pushed
    model_rate: float = 3e-3  # Adam's learning rate, of encoder and decoder
    learning_rate: float = 1e-3  # of policy and values
    discount: float = 0.99  # gamma
    reward_scale: float = 5.0  # of rewards in the critics' targets
    target_rate: float = 5e-3  # how far the target value moves to the value in an update
    replay: int = 1_000_000  # the most transitions kept per task
    exploration_episodes: int = 1  # of a trial at test time, with z from the prior
    evaluate_every: int = 0  # iterations between evaluations for the learning curve; 0 for none
    evaluate_splits: tuple[str, ...] = ("test", "ood")  # what it is measured on; nothing is chosen by it
    bf16: bool = False  # matrix products of policy and values in bfloat16
    compile: bool = False  # torch.compile their losses
    device: str = "auto"  # of all updates: "cpu", "cuda", or CUDA where there is some; it plays on the CPU


RUNS: dict[str, dict[str, Any]] = {  # the paper's names; the reading is ours
    "R8": {"tasks": 8, "imagined_tasks": 0, "rollouts": "none"},
    "R16": {"tasks": 16, "imagined_tasks": 0, "rollouts": "none"},
    "R8I8": {"tasks": 8, "imagined_tasks": 8, "rollouts": "imagined"},
    "R8IR8": {"tasks": 8, "imagined_tasks": 8, "rollouts": "all"},
    "R16I8": {"tasks": 16, "imagined_tasks": 8, "rollouts": "imagined"},
}
ABLATIONS: dict[str, dict[str, Any]] = {  # of any run
    "no-meta-imagination": {"imagined_tasks": 0},
    "no-mdp-imagination": {"rollouts": "none"},
    "no-physics": {"decoder": "neural"},
    "beta-1": {"beta": 1.0},
}


class Training(NamedTuple):
    """Everything of a run that changes."""

    network: Network
    learner: Learner  # of policy and values
    model: torch.optim.Adam  # of encoder and decoder
    replay: TaskReplay  # real experience
    collector: Collector
    rows: list[int]  # of the split: the real tasks
    factors: np.ndarray  # [R, K] their parameters
    starts: Tensor  # [R, O] a first observation of each


def collect(state: Training, tasks: Sequence[int], config: Config, generator: torch.Generator) -> dict[str, float]:
    """New data of some of the real tasks, numbered 0 .. R-1."""

    def infer() -> Gaussian:
        context, lengths = state.replay.windows(tasks, config.context, generator)
        return state.network.model.posterior(context, lengths)

    real = [state.rows[task] for task in tasks]
    episodes = (config.prior_episodes, config.posterior_episodes)
    metrics, starts = gather(
        state.network.core, state.collector, state.replay, tasks, infer, episodes, generator, rows=real
    )
    state.starts[list(tasks)] = starts
    return metrics


def update_model(state: Training, config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """One step of encoder and decoder on two contexts of every real task (of `meta_batch` at most)."""
    tasks = torch.randperm(len(state.replay), generator=generator)[: config.meta_batch].tolist()
    twice = [task for task in tasks for _ in range(2)]
    context, lengths = state.replay.windows(twice, config.context, generator)
    context = Transitions(*(column.unflatten(0, (len(tasks), 2)) for column in context))
    seen = state.replay.sample(tasks, config.targets, generator)
    weights = ModelWeights(
        config.beta, config.within, config.between, config.separation, config.deviation, config.context
    )
    context, seen = context.to(state.learner.device), seen.to(state.learner.device)
    loss, metrics = model_loss(state.network.model, context, lengths.view(-1, 2), seen, weights, generator)
    state.model.zero_grad(set_to_none=True)
    loss.backward()
    state.model.step()
    return {f"model_{name}": value for name, value in metrics.items()}


@torch.inference_mode()
def real_beliefs(state: Training, config: Config, generator: torch.Generator, contexts: int = 16) -> Gaussian:
    """Beliefs `[R, C, L]` about every real task after C windows of its context."""
    tasks = [task for task in range(len(state.replay)) for _ in range(contexts)]
    belief = state.network.model.posterior(*state.replay.windows(tasks, config.context, generator))
    return Gaussian(*(column.unflatten(0, (-1, contexts)).clone() for column in belief))


def imagine(state: Training, config: Config, generator: torch.Generator) -> Dream:
    """Beliefs about the real tasks, tasks between them, and rollouts in the decoder."""
    beliefs = real_beliefs(state, config, generator)
    settings = Dreaming(
        tasks=config.imagined_tasks,
        rollouts=config.rollouts,
        density=config.density,
        episodes=config.rollouts_per_task,
        steps=config.rollout_steps or metabench.spec(state.collector.benchmark).horizon,
        anywhere=config.rollout_steps > 0,
    )
    known = Known(beliefs, state.factors, state.starts, state.replay)
    return dream_of(state.network.model.decoder, state.network.core, known, settings, generator)


def update(state: Training, dream: Dream, config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """One step of policy and values on real and imagined tasks, drawn evenly."""
    real = len(state.replay)
    count = real + (len(dream.imagined.base) if dream.imagined else 0)
    drawn = torch.randint(count, (config.meta_batch,), generator=generator)
    ours, theirs = drawn[drawn < real].tolist(), (drawn[drawn >= real] - real).tolist()
    parts, guesses = [], []
    if ours:
        dreamt = round(config.batch * config.imagined_share) if config.rollouts == "all" and dream.replay else 0
        batch = state.replay.sample(ours, config.batch - dreamt, generator)
        if dreamt and dream.replay:
            more = dream.replay.sample(ours, dreamt, generator)
            batch = Transitions(*(torch.cat(pair, dim=1) for pair in zip(batch, more, strict=True)))
        which = torch.randint(dream.beliefs.mean.shape[1], (len(ours),), generator=generator)
        belief = Gaussian(*(column[torch.as_tensor(ours), which] for column in dream.beliefs))
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
    return state.learner.update(batch, torch.cat(guesses), noise)


def diagnose(state: Training, config: Config, generator: torch.Generator) -> dict[str, float]:
    """How disentangled beliefs about the real tasks are, and how far imagined tasks are from the simulator's."""
    return quality(
        state.network.model.decoder,
        state.network.core,
        real_beliefs(state, config, generator, contexts=64),
        state.factors,
        config.density,
        state.collector.benchmark,
        config.rollout_steps or metabench.spec(state.collector.benchmark).horizon,
        (generator, stream(state.collector.seed, 7)),
    )


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> Agent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits.

    `frames` in the metrics are the real environment steps of training, those the generative model learns from included.
    """
    state = build(benchmark, config, seed)
    checkpoint = run.begin(NAME, benchmark, config, seed)
    agent, done = Agent(state.network, config.exploration_episodes), 0
    if checkpoint:
        done = checkpoint.iteration
        restore(state, checkpoint.tensors)
        state.collector.restore(checkpoint.state["collector"])
    everyone = list(range(len(state.replay)))
    with run.progress(config.iterations, done, "iterations") as advance:
        for iteration in range(done, config.iterations):
            start, generator = time.perf_counter(), stream(seed, iteration)
            if iteration == 0:
                initial = replace(config, prior_episodes=config.initial_episodes, posterior_episodes=0)
                collect(state, everyone, initial, generator)
                seen = state.replay.sample(everyone, 1000, generator)
                state.network.model.decoder.units.fit(seen)
                state.network.core.features.fit(seen.observation)
            chosen = torch.randperm(len(everyone), generator=generator)[: config.tasks_per_iteration].tolist()
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


def learn(state: Training, config: Config, generator: torch.Generator) -> dict[str, float]:
    """The updates of one iteration: the model's, then the policy's with an imagination every so often."""
    sums: dict[str, Tensor] = {}

    def count(metrics: dict[str, Tensor], share: int) -> None:
        for name, value in metrics.items():
            sums[name] = sums[name] + value / share if name in sums else value / share

    with placed(state.learner.device, state.network, state.model):
        for _ in range(config.model_updates):
            count(update_model(state, config, generator), config.model_updates)
    for start in range(0, config.updates, config.imagine_every):
        dream = imagine(state, config, generator)
        with placed(state.learner.device, state.network, *state.learner.optimisers.values()):
            for _ in range(min(config.imagine_every, config.updates - start)):
                count(update(state, dream, config, generator), config.updates)
    return {name: float(value) for name, value in sums.items()}


def spread(size: int, count: int) -> list[int]:
    """`count` rows of a table of `size`, evenly spaced: few real tasks should not be neighbours."""
    return np.unique(np.linspace(0, size - 1, count).round().astype(int)).tolist()


def build(benchmark: str, config: Config, seed: int) -> Training:
    """Everything a run starts with; ValueError where the benchmark or the settings do not fit."""
    table = metabench.spec(benchmark).table()
    size = table.size(config.split)
    if not 0 <= config.tasks <= size:
        raise ValueError(
            f"tasks must be 1 to {size}, the size of {benchmark}'s split {config.split!r}, or 0 for all of them;"
            f" got {config.tasks}"
        )
    if config.rollouts not in ("all", "imagined", "none"):
        raise ValueError(f"unknown rollouts {config.rollouts!r}; available: all, imagined, none")
    if config.rollouts == "imagined" and not config.imagined_tasks:
        raise ValueError("rollouts of imagined tasks need imagined_tasks of at least 1")
    env = metabench.make_vec(benchmark, 1, split=config.split)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network, rows = Network(config, env), spread(size, config.tasks or size)
    width = network.core.observation
    return Training(
        network,
        Learner(network.core, Settings.of(config)),
        torch.optim.Adam(network.model.parameters(), lr=config.model_rate, fused=True),
        TaskReplay(len(rows), width, network.core.actions.size, config.replay),
        Collector(benchmark, config.split, seed),
        rows,
        table.rows[config.split][rows],
        torch.zeros(len(rows), width),
    )


def tensors(state: Training, beliefs: Gaussian) -> dict[str, Tensor]:
    """Everything that a run continues from, and the last beliefs about the real tasks, by name."""
    moments = state.model.state_dict()["state"]
    parts = {
        "network": state.network.state_dict(),
        "adam": state.learner.tensors(),
        "model-adam": {f"{index}/{name}": t for index, own in moments.items() for name, t in own.items()},
        "replay": state.replay.tensors(),
        "last": {"starts": state.starts, "means": beliefs.mean, "variances": beliefs.variance},
    }
    return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}


def restore(state: Training, saved: dict[str, Tensor]) -> None:
    """The inverse of `tensors`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    state.network.load_state_dict(parts["network"])
    state.learner.restore(parts["adam"])
    restore_adam(state.model, parts["model-adam"])
    state.replay.restore(parts["replay"])
    state.starts.copy_(parts["last"]["starts"])


def load_training(path: Path) -> tuple[Training, Config]:
    """The whole state of the run in folder `path`, to look into; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config = _config(settings)
    state = build(settings["benchmark"], config, settings["seed"])
    restore(state, checkpoint.tensors)
    state.collector.restore(checkpoint.state["collector"])
    return state, config


def _config(settings: dict[str, Any]) -> Config:
    return Config(**{**settings["config"], "evaluate_splits": tuple(settings["config"]["evaluate_splits"])})


def load(path: Path) -> Agent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path).tensors
    config = _config(settings)
    network = Network(config, metabench.make_vec(settings["benchmark"], 1, split=config.split))
    kept = {name.removeprefix("network/"): own for name, own in saved.items() if name.startswith("network/")}
    network.load_state_dict(kept)  # an agent needs nothing else: published policies have nothing else
    return Agent(network, config.exploration_episodes)
