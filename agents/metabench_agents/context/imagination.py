"""Imagination: new latent tasks between known ones, and experience of real and imagined tasks in a generative model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import metabench
from metabench_agents.context.actor_critic import ActorCritic
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import NeuralDecoder

Array = npt.NDArray[Any]


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
    core: ActorCritic,
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


class Errors(NamedTuple):
    """How imagined trajectories differ from simulated ones with the same start and actions, by step."""

    state: Array  # [H] root mean square over tasks and columns, in standard deviations of each column
    reward: Array  # [H] root mean square, in the reward's own unit
    columns: Array  # [H, O] root mean square of every column in its own unit


def simulated(
    benchmark: str,
    factors: Array,
    core: ActorCritic,
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


def imagination_errors(decoder: NeuralDecoder, played: Transitions, alive: Tensor, z: Tensor) -> Errors:
    """Compares `dream` with what the simulator played; steps after an episode's end do not count."""
    states, rewards = dream(decoder, played, z)
    weight = alive.double()
    count = weight.sum(0).clamp_min(1.0)
    squares = ((states - played.next_observation).double() ** 2 * weight[..., None]).sum(0) / count[:, None]  # [H, O]
    spread = played.next_observation[alive].double().std(0)
    scale = torch.where(spread > 1e-6, spread, 1.0)
    reward = (((rewards - played.reward).double() ** 2 * weight).sum(0) / count).sqrt()
    return Errors((squares / scale**2).mean(-1).sqrt().numpy(), reward.numpy(), squares.sqrt().numpy())
