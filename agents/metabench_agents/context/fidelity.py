"""How true imagination is: imagined trajectories against the simulator's, and how disentangled the latent space is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import metabench
from metabench_agents.context.actor_critic import LatentActorCritic
from metabench_agents.context.imagination import choose, factor_map, interpolate
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import NeuralDecoder
from metabench_agents.parts.disentanglement import mig

Array = npt.NDArray[Any]


class ImaginationErrors(NamedTuple):
    """How imagined trajectories differ from simulated ones with the same start and actions, by step."""

    state: Array  # [H] root mean square over tasks and columns, in standard deviations of each column
    reward: Array  # [H] root mean square, in the reward's own unit


def simulated(
    benchmark: str,
    factors: Array,
    core: LatentActorCritic,
    guess: Tensor,
    steps: int,
    seed: int | Sequence[int],
    generator: torch.Generator,
) -> tuple[Transitions, Tensor]:
    """Episodes of the simulator on tasks with these factors, by the policy: columns `[B, H, ...]`, alive `[B, H]`."""
    env = metabench.make_vec(benchmark, len(factors))
    names = metabench.spec(benchmark).table().ranges
    tasks = [dict(zip(names, row.tolist(), strict=True)) for row in factors]
    observation, _ = env.reset(seed=seed, options={"task": tasks})
    alive, rows, lives = np.ones(len(factors), dtype=bool), [], []
    for _ in range(min(steps, metabench.spec(benchmark).horizon)):
        seen = torch.as_tensor(observation, dtype=torch.float32)
        with torch.inference_mode():
            noise = torch.randn(len(factors), core.actions.size, generator=generator)
            action = core.act(core.see(seen, guess), noise).action
        observation, reward, terminated, truncated, info = env.step(core.actions.to_env(action))
        done = terminated | truncated
        after = np.where(done[:, None], info["final_obs"], observation) if done.any() else observation
        columns = (seen, action, torch.from_numpy(reward), torch.as_tensor(after), torch.from_numpy(terminated))
        rows.append(Transitions(*columns).pack())
        lives.append(alive)
        alive = alive & ~done
    table = torch.stack(rows, dim=1)
    sizes = (table.shape[-1] - 2 - core.actions.size) // 2, core.actions.size
    return Transitions.unpack(table, *sizes), torch.from_numpy(np.stack(lives, axis=1))


@torch.inference_mode()
def dream(decoder: NeuralDecoder, played: Transitions, z: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder's own trajectory from each episode's start under its actions: next observations, rewards `[B, H]`."""
    observation, states, rewards = played.observation[:, 0], [], []
    for t in range(played.reward.shape[1]):
        step = decoder.imagine(observation, played.action[:, t], z)
        observation = step.next_observation
        states.append(observation)
        rewards.append(step.reward)
    return torch.stack(states, dim=1), torch.stack(rewards, dim=1)


def imagination_errors(decoder: NeuralDecoder, played: Transitions, alive: Tensor, z: Tensor) -> ImaginationErrors:
    """Compares `dream` with what the simulator played; steps after an episode's end do not count."""
    states, rewards = dream(decoder, played, z)
    weight = alive.double()
    count = weight.sum(0).clamp_min(1.0)
    squares = ((states - played.next_observation).double() ** 2 * weight[..., None]).sum(0) / count[:, None]  # [H, O]
    spread = played.next_observation[alive].double().std(0)
    scale = torch.where(spread > 1e-6, spread, 1.0)
    reward = (((rewards - played.reward).double() ** 2 * weight).sum(0) / count).sqrt()
    return ImaginationErrors((squares / scale**2).mean(-1).sqrt().numpy(), reward.numpy())


def quality(
    decoder: NeuralDecoder,
    core: LatentActorCritic,
    beliefs: DiagonalGaussian,
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
