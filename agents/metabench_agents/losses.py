"""Losses as pure functions of tensors; each returns `(loss, metrics)`."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(
    rewards: Tensor, values: Tensor, last_value: Tensor, discount: float, trace: float, ends: Tensor | None = None
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    A_t = sum_l (discount * trace)^l delta_{t+l}, delta_t = r_t + discount V_{t+1} - V_t. In meta-RL the return to
    maximise is the trial's, so values flow across the borders of its episodes; only where `ends` is set do they stop.

    Args:
        rewards: `[T, B]`.
        values: `[T, B]` V_t before the reward of step t.
        last_value: `[B]` value after the last step: 0 at the end of a trial.
        discount: gamma.
        trace: lambda.
        ends: `[T, B]` bool, true where nothing after the step counts.

    Returns:
        Advantages `[T, B]`; targets of the values are advantages + values.
    """
    advantages, running, following = torch.empty_like(rewards), torch.zeros_like(last_value), last_value
    for t in range(len(rewards) - 1, -1, -1):
        going = 1.0 if ends is None else 1.0 - ends[t].to(rewards.dtype)
        delta = rewards[t] + discount * following * going - values[t]
        running = delta + discount * trace * running * going
        advantages[t], following = running, values[t]
    return advantages


def ppo_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7), negated for minimisation.

    L = -mean(min(rho A, clip(rho, 1 - clip, 1 + clip) A)), rho the ratio of new to old probabilities.
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    with torch.no_grad():
        metrics = {
            "kl": ((ratio - 1.0) - log_ratio).mean(),  # low-variance estimate, never negative
            "clipped": ((ratio - 1.0).abs() > clip).float().mean(),
        }
    return loss, metrics


def value_loss(
    value: Tensor, target: Tensor, old_value: Tensor, clip: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the mean squared error; with `clip`, the larger of it and the error of a value that moved at most `clip`."""
    error = (value - target) ** 2
    if clip is not None:
        bounded = old_value + (value - old_value).clamp(-clip, clip)
        error = torch.maximum(error, (bounded - target) ** 2)
    loss = 0.5 * error.mean()
    with torch.no_grad():
        explained = 1.0 - (target - value).var(correction=0) / target.var(correction=0).clamp_min(1e-8)
    return loss, {"explained_variance": explained}
