"""Gaussian beliefs over a latent task: products of factors, divergence from the prior, samples.

The prior is the standard normal throughout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from metabench import SlotRng

Array = npt.NDArray[Any]

MIN_VARIANCE = 1e-7  # of a factor, as in PEARL's code


class DiagonalGaussian(NamedTuple):
    """A Gaussian with a diagonal covariance."""

    mean: Tensor  # [..., L]
    variance: Tensor  # [..., L]

    @classmethod
    def of(cls, parameters: Tensor) -> DiagonalGaussian:
        """From a network's outputs `[..., 2 L]`: means, and variances through softplus."""
        mean, raw = parameters.float().chunk(2, dim=-1)
        return cls(mean, F.softplus(raw).clamp_min(MIN_VARIANCE))

    def sample(self, noise: Tensor) -> Tensor:
        """Mean + standard deviation * noise: differentiable in both."""
        return self.mean + self.variance.sqrt() * noise

    def kl(self) -> Tensor:
        """The divergence from the prior in nats, summed over the latent: `[...]`."""
        return 0.5 * (self.variance + self.mean**2 - 1.0 - self.variance.log()).sum(-1)


class Evidence(NamedTuple):
    """What Gaussian factors say together, as natural parameters: sums that a new factor is added to.

    The product of N(m_n, v_n) is the Gaussian with precision sum 1/v_n and mean (sum m_n / v_n) / (sum 1/v_n), so a
    context of any length is remembered in two numbers per dimension.
    """

    precision: Tensor  # [..., L] sum of 1 / variance
    weighted: Tensor  # [..., L] sum of mean / variance

    @classmethod
    def none(cls, *shape: int) -> Evidence:
        """Before any factor."""
        return cls(torch.zeros(shape), torch.zeros(shape))

    @classmethod
    def total(cls, factors: DiagonalGaussian) -> Evidence:
        """Of factors `[..., N, L]`, over N."""
        precision = factors.variance.reciprocal()
        return cls(precision.sum(-2), (factors.mean * precision).sum(-2))

    def plus(self, factor: DiagonalGaussian, counts: Tensor) -> Evidence:
        """With one more factor `[..., L]` where `counts` `[...]` is true."""
        precision = torch.where(counts[..., None], factor.variance.reciprocal(), 0.0)
        return Evidence(self.precision + precision, self.weighted + factor.mean * precision)

    def posterior(self) -> DiagonalGaussian:
        """The product of the factors; the prior where there are none. PEARL does not count the prior as a factor."""
        some = self.precision > 0
        variance = torch.where(some, self.precision, 1.0).reciprocal()
        return DiagonalGaussian(torch.where(some, self.weighted * variance, 0.0), variance)


class Guess(NamedTuple):
    """The latent that each of B trials acts on, drawn once per episode from a stream of the trial's own."""

    z: Tensor  # [B, L]
    episode: Array  # [B] number of the episode; -1 before the first
    key: Array  # [B] of the trials' streams
    counter: Array  # [B]

    @classmethod
    def begin(cls, num_trials: int, latent: int, seed: int) -> Guess:
        """Before the first episode."""
        streams = SlotRng.counting(seed * 2**32, num_trials).state()
        return cls(torch.zeros(num_trials, latent), np.full(num_trials, -1), *streams)

    def renew(self, first: Array, posterior: DiagonalGaussian, exploration_episodes: int) -> Guess:
        """A new draw where an episode begins: in a trial's first episodes from the prior, then from `posterior`."""
        if not first.any():
            return self
        episode, slots = self.episode + first, np.flatnonzero(first)
        rng = SlotRng(self.key, self.counter.copy())
        noise = torch.zeros_like(self.z)
        noise[slots] = torch.as_tensor(rng.at(slots).normal(1.0, (self.z.shape[1],)), dtype=torch.float32)
        explores = torch.as_tensor(episode < exploration_episodes)[:, None]
        drawn = torch.where(explores, noise, posterior.sample(noise))
        return Guess(torch.where(torch.as_tensor(first)[:, None], drawn, self.z), episode, *rng.state())
