"""The learner "sac": policy and values learn from real and imagined data while the model is fitted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench_agents.context.actor_critic import LatentSAC, restore_adam
from metabench_agents.context.collect import Collector, adaptation, gather
from metabench_agents.context.fidelity import quality
from metabench_agents.context.imagination import Dream, Known, dream_of, relabel
from metabench_agents.context.metadreamer.in_rounds import train_in_rounds
from metabench_agents.context.metadreamer.network import MetaDreamerAgent, MetaDreamerNetwork
from metabench_agents.context.metadreamer.settings import NAME, RENAMED, Config, real_tasks
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.context.task_encoder import ModelDraws, model_draws, model_loss
from metabench_agents.parts.config import read_config
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Device, Updates, descend, follow, learner
from metabench_agents.parts.run import Run, by_part, load_checkpoint, load_config, named, stream


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
    return named(parts)


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
