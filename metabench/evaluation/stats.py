"""Statistics of scores: aggregates, seeded stratified bootstrap intervals, adaptation curves.

Scores are matrices `[runs, tasks]`: a run is an independent training seed (or, for agents that do not train, a
repetition), a task is a stratum. Definitions of the aggregates follow Agarwal et al. 2021, "Deep Reinforcement
Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264). Randomness comes from the Generator handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from metabench.rng import Array

TRIM = 0.25  # the share cut from each end by the interquartile mean
REPS = 2000  # bootstrap replications
CONFIDENCE = 0.95
_CHUNK = 2**22  # numbers resampled at a time: 32 MB

Statistic: TypeAlias = Callable[[Array], Array]  # reduces the last two axes [..., runs, tasks] to [...]


class Interval(NamedTuple):
    """A point estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


class AdaptationCurve(NamedTuple):
    """How the return changes over the episodes of a trial."""

    curve: Array  # [episodes] mean return R_j of the j-th episode over all trials
    zero_shot: float  # R_1
    few_shot: float  # R_k, the last
    area: float  # mean of the curve


def _matrix(scores: Array, name: str = "scores") -> Array:
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim < 2 or not all(matrix.shape[-2:]):
        raise ValueError(
            f"{name} must be a matrix [runs, tasks] with at least one of each, got the shape {matrix.shape}"
        )
    return matrix


def mean(scores: Array) -> Array:
    """Mean over runs and tasks; `[..., runs, tasks]` to `[...]`."""
    return _matrix(scores).mean(axis=(-2, -1))


def median(scores: Array) -> Array:
    """Median over tasks of the mean over runs; `[..., runs, tasks]` to `[...]`."""
    return np.median(_matrix(scores).mean(axis=-2), axis=-1)


def iqm(scores: Array) -> Array:
    """Interquartile mean: the mean of the middle half of all runs x tasks; `[..., runs, tasks]` to `[...]`.

    A quarter of the scores, rounded down, is cut from each end, as `scipy.stats.trim_mean` does.
    """
    matrix = _matrix(scores)
    flat = np.sort(matrix.reshape(*matrix.shape[:-2], -1), axis=-1)
    cut = int(TRIM * flat.shape[-1])
    return flat[..., cut : flat.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: Array, target: float = 1.0) -> Array:
    """How far the scores fall short of `target` on average, what exceeds it not counting; `[...]`."""
    return target - np.minimum(_matrix(scores), target).mean(axis=(-2, -1))


def stratified_bootstrap(
    scores: Array,
    rng: np.random.Generator,
    statistic: Statistic = iqm,
    reps: int = REPS,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile interval of a statistic: in every replication, each task draws its runs again with replacement.

    With one run there is nothing to draw, and the interval is a point.

    Args:
        scores: `[runs, tasks]`.
        rng: Where the draws come from; the same state gives the same interval.
        statistic: Reduces `[..., runs, tasks]` to `[...]`.
        reps: Replications.
        confidence: Coverage aimed at.
    """
    matrix = _matrix(scores)
    draws = _replicate(
        matrix.shape, rng, reps, lambda index: statistic(np.take_along_axis(matrix[None], index, axis=1))
    )
    return _interval(float(statistic(matrix)), draws, confidence)


def paired_difference(
    a: Array,
    b: Array,
    rng: np.random.Generator,
    statistic: Statistic = iqm,
    reps: int = REPS,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of statistic(a) - statistic(b) for agents that played the same tasks with the same seeds.

    Both matrices are resampled with the same indices, so that what they share cancels.

    Raises:
        ValueError: If the shapes differ.
    """
    first, second = _matrix(a, "a"), _matrix(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"paired scores must have one shape, got {first.shape} and {second.shape}")

    def difference(index: Array) -> Array:
        return statistic(np.take_along_axis(first[None], index, 1)) - statistic(
            np.take_along_axis(second[None], index, 1)
        )

    draws = _replicate(first.shape, rng, reps, difference)
    return _interval(float(statistic(first) - statistic(second)), draws, confidence)


def probability_of_improvement(x: Array, y: Array) -> Array:
    """Mean over tasks of P(X > Y) + P(X = Y) / 2 for random runs X of `x` and Y of `y`.

    `[..., runs_x, tasks]` and `[..., runs_y, tasks]` to `[...]`. Source: Agarwal et al. 2021, section 4.3.
    """
    first, second = _matrix(x, "x"), _matrix(y, "y")
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"both agents must have played the same tasks, got {first.shape[-1]} and {second.shape[-1]}")
    difference = first[..., :, None, :] - second[..., None, :, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-3, -2, -1))


def improvement_interval(
    x: Array, y: Array, rng: np.random.Generator, reps: int = REPS, confidence: float = CONFIDENCE
) -> Interval:
    """Stratified bootstrap interval of `probability_of_improvement`; both agents' runs are resampled."""
    first, second = _matrix(x, "x"), _matrix(y, "y")
    estimate = float(probability_of_improvement(first, second))
    size = first.shape[0] + second.shape[0]

    def improvement(uniform: Array) -> Array:
        pick_x = (uniform[:, : first.shape[0]] * first.shape[0]).astype(np.int64)
        pick_y = (uniform[:, first.shape[0] :] * second.shape[0]).astype(np.int64)
        return probability_of_improvement(
            np.take_along_axis(first[None], pick_x, 1), np.take_along_axis(second[None], pick_y, 1)
        )

    cost = first.shape[0] * second.shape[0] * first.shape[1]
    draws = _in_chunks(reps, cost, lambda n: improvement(rng.random((n, size, first.shape[1]))))
    return _interval(estimate, draws, confidence)


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """The share of runs x tasks that score above each threshold; `[runs, tasks]` and `[K]` to `[K]`."""
    return (_matrix(scores)[..., None] > np.asarray(thresholds)).mean(axis=(0, 1))


def normalise(returns: Array, random: float, oracle: float) -> Array:
    """Returns on the scale where the random agent is 0 and the oracle 1; ValueError unless the oracle is better."""
    if not oracle > random:
        raise ValueError(
            f"the oracle's return ({oracle:g}) must exceed the random agent's ({random:g}): nothing to normalise by"
        )
    return (np.asarray(returns, dtype=np.float64) - random) / (oracle - random)


def adaptation_curve(returns: Array) -> AdaptationCurve:
    """Mean return per episode of a trial, from returns `[trials, episodes]`."""
    curve = _matrix(returns, "returns").mean(axis=0)
    return AdaptationCurve(curve, float(curve[0]), float(curve[-1]), float(curve.mean()))


def regret(returns: Array, random: float, oracle: float) -> float:
    """What was lost against the oracle over a whole trial, in units of oracle - random: mean of sum_j (1 - R_j).

    Args:
        returns: `[trials, episodes]`.
        random: The random agent's mean return per episode.
        oracle: The oracle's.
    """
    return float((1.0 - normalise(_matrix(returns, "returns"), random, oracle)).sum(axis=1).mean())


def _replicate(shape: tuple[int, ...], rng: np.random.Generator, reps: int, statistic: Statistic) -> Array:
    """`[reps]` values of a function of indices `[n, runs, tasks]` into the runs."""
    runs, tasks = shape
    return _in_chunks(reps, runs * tasks, lambda n: statistic((rng.random((n, runs, tasks)) * runs).astype(np.int64)))


def _in_chunks(reps: int, cost: int, draw: Callable[[int], Array]) -> Array:
    """`draw(n)` until there are `reps`; streams are read in order, so the size of the chunks does not matter."""
    if reps < 1:
        raise ValueError(f"reps must be at least 1, got {reps}")
    step = max(1, _CHUNK // cost)
    return np.concatenate([draw(min(step, reps - start)) for start in range(0, reps, step)])


def _interval(estimate: float, draws: Array, confidence: float) -> Interval:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(draws, (tail, 100.0 - tail))
    return Interval(estimate, float(low), float(high))
