"""What a generative model of tasks imagines for a policy to learn from, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metabench_agents.context.actor_critic import ActorCritic
from metabench_agents.context.disentanglement import match, mig, monotone_information
from metabench_agents.context.imagination import Imagined, choose, imagination_errors, interpolate, rollouts, simulated
from metabench_agents.context.posterior import Gaussian
from metabench_agents.context.replay import TaskReplay
from metabench_agents.context.task_decoders import NeuralDecoder

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Dreaming:
    """How much is imagined at a time."""

    tasks: int  # imagined ones: meta-imagination; 0 for none
    rollouts: str  # MDP-imagination: of "all" tasks, of "imagined" ones, "none"
    density: int  # D: parts that a gap between neighbouring tasks is cut into
    episodes: int  # imagined ones of each task
    steps: int  # the most of an imagined episode
    anywhere: bool  # whether they start in any real state, or where real episodes do


class Known(NamedTuple):
    """Of the R real tasks."""

    beliefs: Gaussian  # [R, C, L] after C contexts of each
    factors: Array  # [R, K] their parameters
    starts: Tensor  # [R, O] a first observation of each
    replay: TaskReplay  # their experience


class Dream(NamedTuple):
    """What one imagination gives the policy to learn from."""

    beliefs: Gaussian  # [R, C, L] about the real tasks
    imagined: Imagined | None  # M tasks
    variance: Tensor  # [R + M, L] of guesses about them
    replay: TaskReplay | None  # of R + M tasks, where there were rollouts


def factor_map(beliefs: Gaussian, factors: Array) -> tuple[int, ...]:
    """f(k): the latent dimension of each factor, by mutual information over all beliefs about real tasks."""
    contexts = beliefs.mean.shape[1]
    table = monotone_information(beliefs.mean.flatten(0, 1).numpy(), np.repeat(factors, contexts, axis=0))
    return match(table)


def dream_of(
    decoder: NeuralDecoder, core: ActorCritic, known: Known, settings: Dreaming, generator: torch.Generator
) -> Dream:
    """Tasks between the real ones, and rollouts of the policy in the decoder.

    Half of the rollouts act on guesses from the prior, as half of the real episodes do.
    """
    beliefs = known.beliefs
    centers, spread = beliefs.mean.mean(1), beliefs.variance.mean(1)
    imagined, latents, variance, bases = None, centers, spread, np.arange(len(centers))
    if settings.tasks:
        every = interpolate(centers, known.factors, factor_map(beliefs, known.factors), settings.density)
        imagined = choose(every, settings.tasks, generator)
        latents = torch.cat((centers, imagined.z))
        variance = torch.cat((spread, spread[torch.as_tensor(imagined.base)]))
        bases = np.concatenate((bases, imagined.base))
    if settings.rollouts == "none":
        return Dream(beliefs, imagined, variance, None)
    first = 0 if settings.rollouts == "all" else len(centers)
    played, count, steps = list(range(first, len(latents))), settings.episodes, settings.steps
    world = latents[first:].repeat_interleave(count, 0)
    guess = torch.randn(world.shape, generator=generator)
    informed = (torch.arange(len(world)) % 2 == 0)[:, None]
    deviation = variance[first:].sqrt().repeat_interleave(count, 0)
    guess = torch.where(informed, world + deviation * guess, guess)
    if settings.anywhere:  # short rollouts from the start would never come to what is late in an episode
        starts = known.replay.sample(bases[first:].tolist(), count, generator).observation.flatten(0, 1)
    else:
        starts = known.starts[torch.as_tensor(bases[first:])].repeat_interleave(count, 0)
    replay = TaskReplay(len(latents), starts.shape[1], core.actions.size, count * steps)
    for number, rows in enumerate(rollouts(decoder, core, starts, world, guess, steps, generator)):
        replay.add(played[number // count], rows, context=False)
    return Dream(beliefs, imagined, variance, replay)


def quality(
    decoder: NeuralDecoder,
    core: ActorCritic,
    beliefs: Gaussian,
    factors: Array,
    density: int,
    benchmark: str,
    steps: int,
    generators: tuple[torch.Generator, torch.Generator],
) -> dict[str, float]:
    """How disentangled beliefs are (MIG), and how far imagined tasks are from the simulator's (state, reward).

    `imagination` compares rollouts of interpolated latents with the simulator at the factors they should stand for;
    `model` does the same for real tasks, and `neighbour` plays the imagined tasks with the latent of the real task they
    were made from: what interpolation has to beat.

    Args:
        decoder: The generative model.
        core: The policy that plays.
        beliefs: `[R, C, L]` about the real tasks.
        factors: `[R, K]` their parameters.
        density: Parts that a gap between neighbouring tasks is cut into.
        benchmark: An id.
        steps: The most of a rollout.
        generators: For the choice of tasks, and (each time the same) for the actions.
    """
    means, count, horizon = beliefs.mean.flatten(0, 1).numpy(), 32, steps
    scores = {"mig": mig(means, np.repeat(factors, beliefs.mean.shape[1], axis=0))}
    centers = beliefs.mean.mean(1)
    every = interpolate(centers, factors, factor_map(beliefs, factors), density)
    between, real = choose(every, count, generators[0]), np.resize(np.arange(len(centers)), count)
    cases = {
        "imagination": (between.factors, between.z),
        "neighbour": (between.factors, centers[torch.as_tensor(between.base)]),
        "model": (factors[real], centers[torch.as_tensor(real)]),
    }
    state = generators[1].get_state()
    for name, (targets, z) in cases.items():
        generators[1].set_state(state)
        errors = imagination_errors(decoder, *simulated(benchmark, targets, core, z, horizon, 0, generators[1]), z)
        scores |= {f"{name}_state": float(errors.state.mean()), f"{name}_reward": float(errors.reward.mean())}
    return scores
