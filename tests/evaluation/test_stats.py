"""Aggregates against frozen values of rliable, intervals against their meaning, errors in words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import trim_mean

from metabench.evaluation import stats

# rliable 1.2.0 (pandas 2.3.3, arch 7.2.0, numpy 2.4.6): aggregate_mean, _median, _iqm, _optimality_gap of
# np.round(np.random.default_rng(k).normal(0.6, 0.3, shape), 6) for the k-th shape.
FROZEN = [
    ((5, 7), (0.5634248571428571, 0.5911244, 0.5609002105263158, 0.4368591142857142)),
    ((10, 50), (0.5892785039999999, 0.5873633, 0.591958096, 0.4205263560000001)),
    ((3, 1), (0.525324, 0.525324, 0.525324, 0.474676)),
    ((1, 4), (0.55016875, 0.5775495, 0.5775495, 0.5029002499999999)),
    ((8, 3), (0.5790470833333333, 0.6175612500000001, 0.5692799166666668, 0.43960391666666665)),
]


def scores(k):
    return np.round(np.random.default_rng(k).normal(0.6, 0.3, FROZEN[k][0]), 6)


@pytest.mark.parametrize("k", range(len(FROZEN)))
def test_aggregates_equal_rliable(k):
    ours = [float(f(scores(k))) for f in (stats.mean, stats.median, stats.iqm, stats.optimality_gap)]
    assert ours == pytest.approx(FROZEN[k][1], abs=1e-14)


def test_intervals_equal_rliable():
    """rliable.library.get_interval_estimates, 20,000 repetitions of the 10 x 50 matrix: they agree up to its noise."""
    interval = stats.stratified_bootstrap(scores(1), np.random.default_rng(0), reps=20_000)
    assert interval == pytest.approx((0.591958096, 0.56821442, 0.6159068), abs=8e-4)
    interval = stats.stratified_bootstrap(scores(1), np.random.default_rng(0), stats.median, reps=20_000)
    assert interval == pytest.approx((0.5873633, 0.55743573, 0.62013856), abs=2e-3)


def test_probability_of_improvement_equals_rliable():
    """rliable.metrics.probability_of_improvement on matrices with ties."""
    a = np.round(np.random.default_rng(10).normal(0.6, 0.3, (6, 5)), 2)
    b = np.round(np.random.default_rng(11).normal(0.5, 0.3, (4, 5)), 2)
    assert float(stats.probability_of_improvement(a, b)) == pytest.approx(0.475, abs=1e-12)
    assert float(stats.probability_of_improvement(a, a)) == 0.5
    low, high = stats.improvement_interval(a, b, np.random.default_rng(0))[1:]
    assert low < 0.475 < high


def test_performance_profile_by_hand():
    profile = stats.performance_profile(np.array([[0.0, 0.5], [1.0, 0.5]]), np.array([-1.0, 0.0, 0.5, 1.0]))
    assert profile.tolist() == [1.0, 0.75, 0.25, 0.0]


def test_the_same_generator_gives_the_same_interval(monkeypatch):
    def once():
        return (
            stats.stratified_bootstrap(scores(1), np.random.default_rng(7)),
            stats.improvement_interval(scores(0), scores(0) + 0.1, np.random.default_rng(7)),
        )

    first = once()
    np.random.rand(3)  # noqa: NPY002  somebody else's use of the global stream
    assert once() == first
    monkeypatch.setattr(stats, "_CHUNK", 1000)
    assert once() == first


def test_intervals_cover():
    """For the mean of normal scores, the 95 % interval holds the truth about 95 times of 100."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        sample = rng.normal(0.0, 1.0, (20, 5))
        _, low, high = stats.stratified_bootstrap(sample, rng, stats.mean, reps=400)
        hits += low <= 0.0 <= high
    assert 0.89 <= hits / 300 <= 0.99


def test_pairing_takes_away_what_is_shared():
    rng = np.random.default_rng(1)
    shared = rng.normal(0.0, 1.0, (10, 8))
    a, b = shared + 0.1 + rng.normal(0, 0.05, shared.shape), shared
    paired = stats.paired_difference(a, b, rng)
    assert paired.low > 0.0
    alone = stats.stratified_bootstrap(a, rng)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


finite = st.floats(-1e3, 1e3)
matrices = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=finite)


@given(matrices, finite)
def test_iqm_properties(matrix, shift):
    value = float(stats.iqm(matrix))
    assert matrix.min() - 1e-9 <= value <= matrix.max() + 1e-9
    assert float(stats.iqm(matrix + shift)) == pytest.approx(value + shift, abs=1e-8)
    assert value == pytest.approx(trim_mean(matrix.ravel(), 0.25), abs=1e-9)
    assert float(stats.iqm(np.stack([matrix, matrix]))[1]) == pytest.approx(value, abs=1e-12)


@given(matrices, st.floats(-100, 100), st.floats(0.1, 100))
def test_normalisation_maps_the_yardsticks_to_0_and_1(matrix, random, gap):
    assert stats.normalise(np.array([random, random + gap]), random, random + gap) == pytest.approx([0.0, 1.0])


def test_adaptation_by_hand():
    returns = np.array([[0.0, 4.0, 8.0], [2.0, 6.0, 10.0]])
    curve = stats.adaptation_curve(returns)
    assert curve.curve.tolist() == [1.0, 5.0, 9.0]
    assert (curve.zero_shot, curve.few_shot, curve.area) == (1.0, 9.0, 5.0)
    # Oracle 10, random 0: losses 0.9 + 0.5 + 0.1.
    assert stats.regret(returns, 0.0, 10.0) == pytest.approx(1.5)


def test_one_run_gives_a_point():
    interval = stats.stratified_bootstrap(scores(3), np.random.default_rng(0))
    assert interval.low == interval.high == interval.estimate


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: stats.iqm(np.zeros(3)), r"scores must be a matrix \[runs, tasks\].*got the shape \(3,\)"),
        (lambda r: stats.mean(np.zeros((0, 3))), r"got the shape \(0, 3\)"),
        (
            lambda r: stats.normalise(np.zeros(3), 1.0, 1.0),
            r"oracle's return \(1\) must exceed the random agent's \(1\)",
        ),
        (lambda r: stats.normalise(np.zeros(3), float("nan"), 1.0), "must exceed"),
        (
            lambda r: stats.paired_difference(np.zeros((2, 3)), np.zeros((3, 3)), r),
            r"one shape, got \(2, 3\) and \(3, 3\)",
        ),
        (lambda r: stats.probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 4))), "same tasks, got 3 and 4"),
        (lambda r: stats.stratified_bootstrap(np.zeros((2, 3)), r, reps=0), "reps must be at least 1, got 0"),
        (lambda r: stats.stratified_bootstrap(np.zeros((2, 3)), r, confidence=95), "between 0 and 1, got 95"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.random.default_rng(0))
