"""The linear feature baseline of policy gradients, and the advantages it gives; batched over tasks.

Source: Duan et al. 2016, "Benchmarking Deep Reinforcement Learning for Continuous Control" (arXiv 1604.06778), whose
code MAML's builds on: returns are regressed on the observation, its square and powers of time, anew for every batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabench_agents.parts.losses import gae

__all__ = ["advantages", "features", "fitted_values", "returns_to_go"]

BOUND = 10.0  # observations count within plus and minus this
TIME_UNIT = 100.0  # steps


def features(observation: Tensor) -> Tensor:
    """`[..., T, O]` to `[..., T, 2 O + 4]`: the observation, its square, t, t^2, t^3 in hundreds of steps, and 1."""
    seen = observation.clamp(-BOUND, BOUND)
    t = torch.arange(seen.shape[-2], dtype=seen.dtype, device=seen.device)[:, None] / TIME_UNIT
    clock = torch.cat((t, t**2, t**3, torch.ones_like(t)), dim=-1)
    return torch.cat((seen, seen**2, clock.expand(*seen.shape[:-2], *clock.shape)), dim=-1)


def returns_to_go(reward: Tensor, discount: float) -> Tensor:
    """`[..., T]` rewards to the discounted sums of what is left of the episode."""
    togo, running = torch.empty_like(reward), torch.zeros_like(reward[..., 0])
    for t in range(reward.shape[-1] - 1, -1, -1):
        running = reward[..., t] + discount * running
        togo[..., t] = running
    return togo


def fitted_values(observation: Tensor, reward: Tensor, discount: float, ridge: float) -> Tensor:
    """Values `[G, N, T]` by one ridge regression in each of G groups of N episodes.

    Args:
        observation: `[G, N, T, O]`, of the order of one.
        reward: `[G, N, T]`.
        discount: Of the returns that are fitted.
        ridge: Added to the normal equations' diagonal, in squared features.
    """
    columns = features(observation.double())
    rows = columns.flatten(1, 2)  # [G, N T, F]
    target = returns_to_go(reward.double(), discount).flatten(1)[..., None]
    square = rows.mT @ rows + ridge * torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    weights = torch.linalg.solve(square, rows.mT @ target)
    return (columns @ weights[:, None])[..., 0].to(reward.dtype)


def advantages(
    observation: Tensor, reward: Tensor, discount: float, trace: float, ridge: float, normalise: bool = True
) -> Tensor:
    """Generalised advantages `[G, N, T]` on the fitted values, of mean 0 and deviation 1 in each group if wished.

    Nothing comes after an episode's last step: its value is 0.
    """
    values = fitted_values(observation, reward, discount, ridge)
    columns, guesses = (x.flatten(0, 1).T.contiguous() for x in (reward, values))
    own = gae(columns, guesses, torch.zeros_like(columns[0]), discount, trace).T.reshape(reward.shape)
    if not normalise:
        return own
    mean, deviation = own.mean((1, 2), keepdim=True), own.std((1, 2), keepdim=True)
    return (own - mean) / (deviation + 1e-8)
