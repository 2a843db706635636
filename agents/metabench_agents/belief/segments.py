"""How long the current segment of a trial is: a belief over its length, and the segments that follow from it.

The recursion is that of Bayesian online change-point detection (Adams & MacKay 2007, arXiv 0710.3742), as SeCBAD (Chen
et al. 2022) has it. G_t is the number of transitions since the last change, the last one seen included; h(g) the
hazard, the probability that a segment of g transitions ends with them; L_g the likelihood of the new transition under
what its segment's g transitions so far say, L_0 under the prior:

    p(G_t = g + 1) ~ p(G_{t-1} = g) (1 - h(g)) L_g        p(G_t = 1) ~ sum_g p(G_{t-1} = g) h(g) L_0
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench.rng import SlotRng

SIMULATED, SEED, LOWEST = 10_000, 2**61, 1e-6  # segments that a hazard is estimated from, their seed, and its margin


class Lengths(NamedTuple):
    """A belief over the length of the current segment, over at most K lengths."""

    log_p: Tensor  # [B, K] log probabilities; -inf where a place is free
    length: Tensor  # [B, K] int64 transitions of the segment so far

    @classmethod
    def none(cls, trials: int, candidates: int, device: torch.device | None = None) -> Lengths:
        """Nothing has been seen: a segment of no transitions."""
        log_p = torch.full((trials, candidates), -torch.inf, device=device)
        log_p[:, 0] = 0.0
        return cls(log_p, torch.zeros(trials, candidates, dtype=torch.int64, device=device))

    def best(self) -> Tensor:
        """`[B]` the place of the most probable length."""
        return self.log_p.argmax(1)


def advance(now: Lengths, old: Tensor, new: Tensor, hazard: Tensor) -> tuple[Lengths, Tensor]:
    """The belief after one more transition, and the place `[B]` of the segment that began with it.

    Where all places are taken, the least probable length is given up for the new one; with as many places as ticks the
    belief is exact.

    Args:
        now: The belief before.
        old: `[B, K]` log likelihood of the transition under each length's segment.
        new: `[B]` under a segment that begins with it.
        hazard: `[G]` h(g); its last value counts for all longer segments. h(0) is 0: no segment is empty.
    """
    h = hazard[now.length.clamp_max(len(hazard) - 1)]
    grown = now.log_p + torch.log1p(-h) + old
    began = torch.logsumexp(now.log_p + h.log(), 1) + new
    place = grown.argmin(1)
    log_p = grown.scatter(1, place[:, None], began[:, None])
    length = (now.length + 1).scatter(1, place[:, None], 1)
    return Lengths(log_p - torch.logsumexp(log_p, 1, keepdim=True), length), place


def simulated_hazard(benchmark: str, split: str, ticks: int, hold: int = 1) -> Tensor:
    """`[ticks + 1]` h(g) of the benchmark's own sessions, from 10,000 drawn lengths.

    It is the share of those of length g among those of at least g. Where none are left, the last share counts on.
    Lengths are in decisions of `hold` steps.
    """
    lengths = -(-metabench.spec(benchmark).drift(split).lengths(SlotRng.counting(SEED, SIMULATED)) // hold)
    ends = np.bincount(np.minimum(lengths, ticks + 1), minlength=ticks + 2)[: ticks + 1]
    left = SIMULATED - np.concatenate(([0], np.cumsum(ends)[:-1]))
    hazard = np.full(ticks + 1, LOWEST)
    for g in range(1, ticks + 1):
        hazard[g] = ends[g] / left[g] if left[g] else hazard[g - 1]
    hazard = np.clip(hazard, LOWEST, 1.0 - LOWEST)
    hazard[0] = 0.0
    return torch.from_numpy(hazard).float()


def geometric_hazard(p: float, ticks: int) -> Tensor:
    """`[ticks + 1]` h(g) = p, whatever the length."""
    hazard = torch.full((ticks + 1,), min(max(p, LOWEST), 1.0 - LOWEST))
    hazard[0] = 0.0
    return hazard


def backtrack(best: Tensor) -> Tensor:
    """Which segment each transition belongs to, `[T, B]` int64, numbered along the trial.

    The last segment has the most probable length at the last tick; what was before it ends where it begins, and has the
    most probable length there; and so on.

    Args:
        best: `[T, B]` the most probable length at every tick, of the transitions seen by then: 0 at the first.
    """
    ticks = len(best)
    border = torch.zeros_like(best)
    at = torch.full_like(best[0], ticks - 1)
    for t in range(ticks - 1, 0, -1):
        start = t - best[t]
        ends_here = at == t
        border.scatter_add_(0, start.clamp(min=0)[None], (ends_here & (start > 0)).to(border.dtype)[None])
        at = torch.where(ends_here, start, at)
    return border.cumsum(0)
