"""The losses that several of these agents share, as pure functions: FOCAL's metric, BRAC's divergence, IQL's three."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from metabench_agents.parts.losses import advantage_weighted_loss, expectile_loss

EPSILON = 1e-3  # of FOCAL's released code: under the root, and a hundredfold in the denominator
TINY = 1e-8  # keeps a logarithm finite


def distance_metric_loss(z: Tensor, task: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, dict[str, Tensor]]:
    """FOCAL's distance metric loss (Li et al. 2021, arXiv 2010.01112, eq. 13 with power 2), as its code has it.

    The mean of sqrt(d + eps) over the pairs of one task plus the mean of 1 / (d + 100 eps) over the pairs of two, d the
    mean of the squared differences over the latent dimensions. Each mean divides by the number of its pairs + eps, so
    that a kind without pairs counts nothing.

    Args:
        z: `[T, L]` one of each context.
        task: `[T]` whose context it is of.
        epsilon: See above.
    """
    square = (z**2).sum(-1)
    distance = (square[:, None] + square - 2.0 * z @ z.t()).clamp_min(0.0) / z.shape[-1]
    upper = torch.ones_like(distance, dtype=torch.bool).triu(1)
    same = task[:, None] == task
    near, far = upper & same, upper & ~same
    # The root's argument is kept away from what is not used: 0 times an infinite gradient is no number.
    pull = torch.where(near, torch.sqrt(torch.where(near, distance, 1.0) + epsilon), 0.0).sum()
    push = torch.where(far, 1.0 / (distance + 100.0 * epsilon), 0.0).sum()
    pull, push = pull / (near.sum() + epsilon), push / (far.sum() + epsilon)
    return pull + push, {"pull": pull.detach(), "push": push.detach()}


def dual_divergence(of_policy: Tensor, of_data: Tensor) -> Tensor:
    """BRAC's estimate of KL(policy || data) in its dual form (Wu et al. 2019, arXiv 1911.11361): `[...]`.

    log s(c(a_p)) - s(c(a_d)) + 1, s the softplus; its supremum over functions c is the divergence.

    Args:
        of_policy: c of actions of the policy.
        of_data: c of the data's actions at the same observations.
    """
    return torch.log(F.softplus(of_policy) + TINY) - F.softplus(of_data) + 1.0


def dual_critic_loss(of_policy: Tensor, of_data: Tensor, between: Tensor, penalty: float) -> Tensor:
    """The negative of `dual_divergence`, and a penalty on values beyond 1 of actions between the two.

    BRAC penalises the gradient of c there; FOCAL's released code, which is followed, its value.
    """
    beyond = (torch.sqrt(TINY + between**2) - 1.0).clamp_min(0.0)
    return -dual_divergence(of_policy, of_data).mean() + penalty * (beyond**2).mean()


def iql_value_loss(min_q: Tensor, value: Tensor, expectile: float) -> Tensor:
    """IQL's expectile regression of V on the target critics' min Q (Kostrikov et al. 2022, arXiv 2110.06169, eq. 5)."""
    return expectile_loss(min_q.detach() - value, expectile)[0]


def iql_policy_loss(
    log_prob: Tensor, advantage: Tensor, temperature: float, max_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """IQL's weighted regression (eq. 7), the advantage in units of its spread in the batch.

    So one temperature serves families whose rewards differ by orders of magnitude; IQL scales the rewards by hand.
    """
    spread = advantage.detach().std().clamp_min(TINY)
    return advantage_weighted_loss(log_prob.flatten(), advantage.flatten() / spread, temperature, max_weight)


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """`[...]` log density of actions `[..., A]` under a Gaussian that is not squashed: data lie on the border too."""
    return (-0.5 * ((action - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2.0 * math.pi)).sum(-1)
