"""The learner "ppo": in rounds of collecting, fitting the model and learning a policy in it; see `context.rounds`."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench_agents.context.collect import Collector, adaptation
from metabench_agents.context.dreaming import LatentGaussianPolicy
from metabench_agents.context.metadreamer.network import MetaDreamerAgent, MetaDreamerNetwork
from metabench_agents.context.metadreamer.settings import NAME, Config, real_tasks
from metabench_agents.context.replay import TaskReplay
from metabench_agents.context.rounds import Known as KnownTasks
from metabench_agents.context.rounds import collect_round, dream_round, everything, fit_round
from metabench_agents.parts.run import Run, by_part, named, stream
from metabench_agents.parts.view import Sight, sight_of


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
    return named(parts)


def restore_rounds(state: Rounds, saved: dict[str, Tensor]) -> None:
    """The inverse of `rounds_tensors`."""
    parts = by_part(saved)
    state.network.load_state_dict(parts["network"])
    state.known.replay.restore(parts["replay"])
    state.known.held.restore(parts["held"])
    for task in range(len(state.known.starts)):
        state.known.starts[task] = parts["starts"][str(task)]
