"""Learning curves against real environment steps: how many steps a return takes, and by what factor runs differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Curve(NamedTuple):
    """The points of one training run, in order."""

    frames: Array  # [P] real environment steps of training
    returns: Array  # [P] after adaptation


def read_curve(metrics: Path, column: str) -> Curve:
    """From a run's metrics: the rows that have `column`, "test/last" for instance; a half-written row is left out."""
    points = []
    for line in metrics.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if column in row:
            points.append((row["frames"], row[column]))
    frames, returns = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return Curve(frames, returns)


def smoothed(returns: Array, window: int = 3) -> Array:
    """The mean of each point and those before it, `window` at most: one lucky evaluation reaches nothing."""
    return np.array([returns[max(0, i - window + 1) : i + 1].mean() for i in range(len(returns))])


def steps_to_reach(curve: Curve, threshold: float, window: int = 3) -> float:
    """Real steps until the mean of `window` evaluations first reaches `threshold`; infinity if it never does."""
    reached = np.flatnonzero(smoothed(curve.returns, window)[window - 1 :] >= threshold)
    return float(curve.frames[window - 1 + reached[0]]) if len(reached) else float("inf")


def thresholds(random: float, oracle: float, shares: Sequence[float] = (0.5, 0.75, 0.9)) -> dict[float, float]:
    """Returns at these shares of the way from random to oracle."""
    return {share: random + share * (oracle - random) for share in shares}


class Efficiency(NamedTuple):
    """Steps to one threshold over several runs."""

    median: float  # infinity if fewer than half of the runs reach it
    steps: tuple[float, ...]  # of each run
    reached: int  # how many runs reach it


def efficiency(curves: Sequence[Curve], threshold: float, window: int = 3) -> Efficiency:
    """Of several runs that differ by their seed; `window` evaluations are averaged."""
    steps = tuple(steps_to_reach(curve, threshold, window) for curve in curves)
    # With infinities numpy's median of an even count is infinite or nan; the upper of the two middle ones is meant.
    median = sorted(steps)[len(steps) // 2] if steps else float("inf")
    return Efficiency(median, steps, sum(np.isfinite(steps)))


def ratio(reference: Efficiency, other: Efficiency, lengths: tuple[float, float]) -> tuple[float, str]:
    """How many times the steps of `other` the reference takes, and "", ">=" or "<=" where one never arrives.

    Args:
        reference: Steps of the runs compared with: PEARL's.
        other: Steps of the runs that are to be better: MetaDreamer's.
        lengths: Steps that the runs of each were given, of the shortest: a bound for what never arrived.
    """
    if np.isfinite(reference.median) and np.isfinite(other.median):
        return reference.median / other.median, ""
    if np.isfinite(other.median):
        return lengths[0] / other.median, ">="
    if np.isfinite(reference.median):
        return reference.median / lengths[1], "<="
    return float("nan"), ""
