"""Imagination: latent tasks between known ones, and experience of real and imagined tasks in a generative model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metabench_agents.context.actor_critic import LatentActorCritic
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.context.task_decoders import NeuralDecoder
from metabench_agents.parts.disentanglement import match, monotone_information

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ImaginationConfig:
    """What is imagined, and how much at a time."""

    tasks: int = field(default=8, metadata={"low": 0})  # played beside the real ones: meta-imagination; 0 for none
    rollouts: str = "all"  # MDP-imagination: "all" tasks, "imagined" ones, "none" (imagined tasks relabel real steps)
    density: int = 4  # D: parts that a gap between neighbouring tasks is cut into
    every: int = 100  # updates between imaginations
    episodes: int = 16  # imagined ones of each task
    steps: int = 0  # their length, from any real states; 0 for whole episodes from where real ones start
    share: float = field(default=0.5, metadata={"low": 0, "high": 1})  # imagined part of a real task's batch, for "all"


class Imagined(NamedTuple):
    """Tasks that nobody has played: latents, and the factors they should stand for."""

    z: Tensor  # [M, L]
    factors: Array  # [M, K] the generative factors a perfect latent space would give them
    base: Array  # [M] the real task whose other dimensions they share

    def take(self, rows: Array) -> Imagined:
        """Some of them."""
        return Imagined(self.z[torch.as_tensor(rows)], self.factors[rows], self.base[rows])


def interpolate(means: Tensor, factors: Array, dimensions: Sequence[int], density: int) -> Imagined:
    """Every task between neighbours along one latent dimension: meta-imagination.

    For factor k with sorted values v_1 .. v_I among the real tasks, z_{k,i} is the mean of dimension f(k) over the
    tasks whose factor is v_i. Imagined are, for i = 2 .. I, j = 1 .. D-1 and every real task,

        z_{f(k)} = z_{k,i-1} + j/D (z_{k,i} - z_{k,i-1}), the other dimensions as that task has them,

    and they should stand for v_{i-1} + j/D (v_i - v_{i-1}). This is our reading of the paper's interpolation.

    Args:
        means: `[R, L]` posterior means of the real tasks.
        factors: `[R, K]` their generative factors.
        dimensions: f(k) for every factor.
        density: D, the parts that a gap between neighbours is cut into.
    """
    latents, values, bases = [], [], []
    for factor, dimension in enumerate(dimensions):
        known, index = np.unique(factors[:, factor], return_inverse=True)
        levels = torch.stack([means[torch.as_tensor(index.ravel() == i), dimension].mean() for i in range(len(known))])
        for i in range(1, len(known)):
            for j in range(1, density):
                share = j / density
                z, value = means.clone(), factors.astype(np.float64).copy()
                z[:, dimension] = levels[i - 1] + share * (levels[i] - levels[i - 1])
                value[:, factor] = known[i - 1] + share * (known[i] - known[i - 1])
                latents.append(z)
                values.append(value)
                bases.append(np.arange(len(means)))
    if not latents:
        raise ValueError("nothing lies between the real tasks: no factor has two values, or the density is below 2")
    return Imagined(torch.cat(latents), np.concatenate(values), np.concatenate(bases))


def choose(imagined: Imagined, count: int, generator: torch.Generator) -> Imagined:
    """`count` of the tasks, drawn without replacement while there are enough."""
    order = torch.randperm(len(imagined.base), generator=generator).numpy()
    return imagined.take(np.resize(order, count))


@torch.inference_mode()
def rollouts(
    decoder: NeuralDecoder,
    core: LatentActorCritic,
    starts: Tensor,
    world: Tensor,
    guess: Tensor,
    steps: int,
    generator: torch.Generator,
) -> list[Tensor]:
    """Plays the policy in the decoder: MDP-imagination. Nothing is differentiated through the model.

    Args:
        decoder: The generative model.
        core: The policy, which acts at random as in training.
        starts: `[B, O]` real first observations.
        world: `[B, L]` latents of the tasks played.
        guess: `[B, L]` latents that the policy believes in.
        steps: The most per episode; those the model ends are shorter.
        generator: For the actions.

    Returns:
        Packed transitions `[n, W]` of each rollout.
    """
    observation, alive = starts, torch.ones(len(starts), dtype=torch.bool)
    rows, lives = [], []
    for _ in range(steps):
        noise = torch.randn(len(starts), core.actions.size, generator=generator)
        action = core.act(core.see(observation, guess), noise).action
        step = decoder.imagine(observation, action, world)
        after, ends = step.next_observation, step.ends > 0.0
        rows.append(Transitions(observation, action, step.reward, after, ends.float()).pack())
        lives.append(alive)
        observation, alive = after, alive & ~ends
        if not alive.any():
            break
    table, kept = torch.stack(rows), torch.stack(lives)
    return [table[kept[:, slot], slot].clone() for slot in range(len(starts))]


@torch.inference_mode()
def relabel(decoder: NeuralDecoder, seen: Transitions, z: Tensor) -> Transitions:
    """Real states and actions `[M, N, ...]` with the outcomes they would have in the tasks z `[M, L]`."""
    device = next(decoder.parameters()).device
    seen, z = seen.to(device), z.to(device)
    step = decoder.imagine(seen.observation, seen.action, z[:, None].expand(-1, seen.reward.shape[1], -1))
    ends = (step.ends > 0.0).float()
    return Transitions(seen.observation, seen.action, step.reward, step.next_observation, ends).to(torch.device("cpu"))


class Known(NamedTuple):
    """Of the R real tasks."""

    beliefs: DiagonalGaussian  # [R, C, L] after C contexts of each
    factors: Array  # [R, K] their parameters
    starts: Tensor  # [R, O] a first observation of each
    replay: TaskReplay  # their experience


class Dream(NamedTuple):
    """What one imagination gives the policy to learn from."""

    beliefs: DiagonalGaussian  # [R, C, L] about the real tasks
    imagined: Imagined | None  # M tasks
    variance: Tensor  # [R + M, L] of guesses about them
    replay: TaskReplay | None  # of R + M tasks, where there were rollouts


def factor_map(beliefs: DiagonalGaussian, factors: Array) -> tuple[int, ...]:
    """f(k): the latent dimension of each factor, by mutual information over all beliefs about real tasks."""
    contexts = beliefs.mean.shape[1]
    table = monotone_information(beliefs.mean.flatten(0, 1).numpy(), np.repeat(factors, contexts, axis=0))
    return match(table)


def dream_of(
    decoder: NeuralDecoder,
    core: LatentActorCritic,
    known: Known,
    config: ImaginationConfig,
    horizon: int,
    generator: torch.Generator,
) -> Dream:
    """Tasks between the real ones, and rollouts of the policy in the decoder.

    Half of the rollouts act on guesses from the prior, as half of the real episodes do.

    Args:
        decoder: The generative model.
        core: The policy.
        known: Of the real tasks.
        config: What to imagine.
        horizon: Steps of a whole episode.
        generator: For everything drawn.
    """
    beliefs = known.beliefs
    centers, spread = beliefs.mean.mean(1), beliefs.variance.mean(1)
    imagined, latents, variance, bases = None, centers, spread, np.arange(len(centers))
    if config.tasks:
        every = interpolate(centers, known.factors, factor_map(beliefs, known.factors), config.density)
        imagined = choose(every, config.tasks, generator)
        latents = torch.cat((centers, imagined.z))
        variance = torch.cat((spread, spread[torch.as_tensor(imagined.base)]))
        bases = np.concatenate((bases, imagined.base))
    if config.rollouts == "none":
        return Dream(beliefs, imagined, variance, None)
    first = 0 if config.rollouts == "all" else len(centers)
    played, count, steps = list(range(first, len(latents))), config.episodes, config.steps or horizon
    world = latents[first:].repeat_interleave(count, 0)
    guess = torch.randn(world.shape, generator=generator)
    informed = (torch.arange(len(world)) % 2 == 0)[:, None]
    deviation = variance[first:].sqrt().repeat_interleave(count, 0)
    guess = torch.where(informed, world + deviation * guess, guess)
    if config.steps:  # short rollouts from the start would never come to what is late in an episode
        starts = known.replay.sample(bases[first:].tolist(), count, generator).observation.flatten(0, 1)
    else:
        starts = known.starts[torch.as_tensor(bases[first:])].repeat_interleave(count, 0)
    replay = TaskReplay(len(latents), starts.shape[1], core.actions.size, count * steps)
    for number, rows in enumerate(rollouts(decoder, core, starts, world, guess, steps, generator)):
        replay.add(played[number // count], rows, context=False)
    return Dream(beliefs, imagined, variance, replay)
