"""A step within a trust region: conjugate gradients and a backtracking line search, for any loss and divergence.

Source: Schulman et al. 2015, "Trust Region Policy Optimization" (arXiv 1502.05477), appendix C. Vectors are flat. What
computes (`natural_step`, the judge of a candidate) is pure and fits into a graph; only the search reads numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NaturalStep", "TrustRegion", "conjugate_gradients", "line_search", "natural_step"]

RESIDUAL = 1e-10  # squared, below which conjugate gradients stay where they are


@dataclass(frozen=True)
class TrustRegion:
    """Settings of the step."""

    kl: float = field(default=0.01, metadata={"low": 0.0})  # the divergence that a step may make, nats
    iterations: int = 10  # of conjugate gradients
    damping: float = field(default=1e-5, metadata={"low": 0.0})  # times the identity is added to the curvature
    backtracks: int = 15  # candidates of the line search
    shrink: float = 0.8  # of one candidate to the one before


class NaturalStep(NamedTuple):
    """What `natural_step` finds."""

    step: Tensor  # [P] to the border of the trust region, as the quadratic model has it
    loss: Tensor  # where it begins
    gradient_norm: Tensor


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """Solves H x = target, all `[P]`, for a positive definite H that is known by its products with vectors."""
    x, residual = torch.zeros_like(target), target.clone()
    direction, square = residual.clone(), residual @ residual
    for _ in range(iterations):
        image = product(direction)
        goes_on = square > RESIDUAL  # a graph cannot leave a loop
        length = torch.where(goes_on, square / (direction @ image), 0.0)
        x = x + length * direction
        residual = residual - length * image
        following = residual @ residual
        direction = residual + torch.where(goes_on, following / square, 0.0) * direction
        square = following
    return x


def natural_step(
    measured: Callable[[Tensor], tuple[Tensor, Tensor]], theta: Tensor, settings: TrustRegion
) -> NaturalStep:
    """The step x = -sqrt(2 kl / g H^-1 g) H^-1 g, with g the loss's gradient and H the divergence's second derivative.

    Args:
        measured: Loss and divergence from the policy that played at parameters `[P]`.
        theta: `[P]` those parameters, where the divergence and its gradient are 0.
        settings: Of the region.
    """
    theta = theta.detach().requires_grad_()
    loss, divergence = measured(theta)
    (gradient,) = torch.autograd.grad(loss, theta, retain_graph=True)
    (slope,) = torch.autograd.grad(divergence, theta, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        (image,) = torch.autograd.grad(slope @ vector, theta, retain_graph=True)
        return image + settings.damping * vector

    downhill = conjugate_gradients(product, -gradient, settings.iterations)
    curvature = (downhill @ product(downhill)).clamp_min(1e-12)
    step = torch.sqrt(2.0 * settings.kl / curvature) * downhill
    return NaturalStep(step.detach(), loss.detach(), gradient.norm())


def line_search(
    judged: Callable[[Tensor], tuple[Tensor, Tensor]], theta: Tensor, found: NaturalStep, settings: TrustRegion
) -> tuple[Tensor, dict[str, float]]:
    """The first candidate within the region whose loss is lower; the parameters as they were where none is.

    Args:
        judged: Loss and divergence at parameters `[P]`.
        theta: `[P]` where the step begins.
        found: The step.
        settings: Of the region.
    """
    start, share = float(found.loss), 1.0
    told = {"loss": start, "grad_norm": float(found.gradient_norm)}
    for tried in range(settings.backtracks):
        candidate = theta + share * found.step
        loss, divergence = (float(number) for number in judged(candidate))
        if loss < start and divergence <= settings.kl:
            return candidate, told | {"kl": divergence, "gain": start - loss, "backtracks": float(tried)}
        share *= settings.shrink
    return theta, told | {"kl": 0.0, "gain": 0.0, "backtracks": float(settings.backtracks)}
