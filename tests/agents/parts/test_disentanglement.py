"""Scores of disentanglement: against scikit-learn and hand-computed values, and that they tell good from bad."""

import math

import numpy as np
import pytest
from metabench_agents.parts.disentanglement import (
    dci,
    dci_scores,
    discretised,
    entropy,
    information_table,
    match,
    mig,
    monotone_information,
    mutual_information,
)

RNG = np.random.default_rng(0)


def test_information_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    a, b = RNG.integers(5, size=500), RNG.integers(7, size=500)
    b[:200] = a[:200]
    assert mutual_information(a, b) == pytest.approx(metrics.mutual_info_score(a, b), abs=1e-12)


def test_information_by_hand():
    a = np.array([0, 0, 1, 1])
    assert entropy(a) == pytest.approx(math.log(2))
    assert mutual_information(a, a) == pytest.approx(math.log(2))
    assert mutual_information(a, np.array([0, 1, 0, 1])) == pytest.approx(0.0)
    assert discretised(np.array([0.0, 0.31, 1.0, 0.31]), bins=2).tolist() == [0, 0, 1, 0]
    assert discretised(np.array([5.0, 7.0, 5.0])).tolist() == [0, 1, 0]


def test_mig_by_hand():
    factor = np.repeat([0.0, 1.0], 50)[:, None]
    alone = np.concatenate((factor * 3.0, np.tile([0.0, 1.0], 50)[:, None]), axis=1)
    assert mig(alone, factor) == pytest.approx(1.0)
    assert mig(np.concatenate((factor, -factor), axis=1), factor) == pytest.approx(0.0)
    assert information_table(alone, factor).shape == (1, 2)


def test_copula_information_of_a_gaussian_is_exact():
    rho, count = 0.8, 20_000
    x = RNG.normal(size=count)
    y = rho * x + math.sqrt(1 - rho**2) * RNG.normal(size=count)
    table = monotone_information(np.stack((np.exp(y), RNG.normal(size=count)), axis=1), (x**3)[:, None])
    assert table[0, 0] == pytest.approx(-0.5 * math.log(1 - rho**2), rel=0.03)
    assert table[0, 1] < 1e-3


def test_the_map_follows_monotone_relations_among_few_tasks():
    """Eight tasks told apart by every dimension: in bins a scramble tells the most, the copula finds the right ones."""
    first, second = np.repeat([0.0, 1, 2, 3], 2), np.tile([0.0, 1.0], 4)
    factors = np.repeat(np.stack((first + 0.01 * second, second + 0.01 * first), axis=1), 20, axis=0)
    scrambled = RNG.permutation(8).astype(float)
    latents = np.stack((scrambled, -second - 0.02 * first, first**3 + 0.1 * second), axis=1).repeat(20, axis=0)
    latents += 0.001 * RNG.normal(size=latents.shape)
    assert match(monotone_information(latents, factors)) == (2, 1)
    assert information_table(latents, factors).argmax(1).tolist() == [0, 0]  # the scrambled one


def test_every_factor_gets_a_dimension_of_its_own():
    assert match(np.array([[5.0, 4.0, 0.0], [5.0, 1.0, 0.0]])) == (1, 0)
    with pytest.raises(ValueError, match="3 factors do not fit 2"):
        match(np.zeros((3, 2)))


def test_dci_by_hand():
    assert dci_scores(np.eye(3)) == pytest.approx((1.0, 1.0))
    assert dci_scores(np.ones((2, 2))) == pytest.approx((0.0, 0.0))
    # One factor told by two dimensions evenly, the other by one: completeness (1 - log 2 / log 3 + 1) / 2.
    assert dci_scores(np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])) == pytest.approx(
        (1.0, (2.0 - math.log(2) / math.log(3)) / 2)
    )


def test_dci_tells_aligned_from_rotated():
    pytest.importorskip("sklearn")
    factors = RNG.uniform(-1, 1, (600, 2))
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    aligned, rotated = dci(factors**3, factors), dci(factors @ turn, factors)
    assert aligned.disentanglement > 0.95 and aligned.completeness > 0.95 and aligned.informativeness > 0.95
    assert rotated.disentanglement < 0.5 and rotated.informativeness > 0.8
    many = RNG.uniform(-1, 1, (5000, 2))
    assert mig(-2.0 * many, many) > 0.9 > 0.1 > mig(many @ turn, many)
