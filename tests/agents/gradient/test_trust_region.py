"""Conjugate gradients against dense solves, the natural step and its line search by hand."""

import pytest
import torch
from metabench_agents.gradient.trust_region import (
    NaturalStep,
    TrustRegion,
    conjugate_gradients,
    line_search,
    natural_step,
)


def positive(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64)


def test_conjugate_gradients_solve_as_a_dense_solver_does():
    matrix, target = positive(8), torch.randn(8, dtype=torch.float64)
    x = conjugate_gradients(lambda v: matrix @ v, target, 30)
    assert torch.allclose(x, torch.linalg.solve(matrix, target), atol=1e-5)
    early = conjugate_gradients(lambda v: matrix @ v, target, 2)
    assert not torch.allclose(early, x, atol=1e-3)
    assert torch.equal(conjugate_gradients(lambda v: matrix @ v, torch.zeros(8, dtype=torch.float64), 5), 0 * target)


def test_the_natural_step_of_a_quadratic_is_the_dense_one():
    """Loss g x + x^3 terms, divergence (x - a) H (x - a) / 2: the step is known in closed form."""
    matrix, gradient = positive(6), torch.randn(6, dtype=torch.float64)
    start = torch.randn(6, dtype=torch.float64)
    settings = TrustRegion(kl=0.02, iterations=30, damping=0.1)
    damped = matrix + 0.1 * torch.eye(6, dtype=torch.float64)

    def measured(theta):
        away = theta - start
        return gradient @ theta + (away**3).sum(), away @ matrix @ away / 2

    found = natural_step(measured, start, settings)
    downhill = -torch.linalg.solve(damped, gradient)
    expected = downhill * torch.sqrt(2 * 0.02 / (downhill @ damped @ downhill))
    assert torch.allclose(found.step, expected, atol=1e-6)
    assert float(found.loss) == pytest.approx(float(gradient @ start))
    assert float(found.gradient_norm) == pytest.approx(float(gradient.norm()))


def search(judged, **settings):
    start = NaturalStep(torch.tensor([1.0]), torch.tensor(0.0), torch.tensor(1.0))
    return line_search(judged, torch.zeros(1), start, TrustRegion(**settings))


def test_the_line_search_takes_the_first_candidate_that_is_lower_and_near():
    tried = []

    def judged(theta):
        x = float(theta)
        tried.append(x)
        return torch.tensor(x - 0.6), torch.tensor(x)  # lower below 0.6, near below 0.3

    theta, told = search(judged, kl=0.3, shrink=0.5)
    assert float(theta) == 0.25 and tried == [1.0, 0.5, 0.25]
    assert told["kl"] == 0.25 and told["gain"] == pytest.approx(0.35) and told["backtracks"] == 2


def test_where_nothing_is_better_nothing_moves():
    worse = lambda theta: (theta.sum(), torch.tensor(0.0))  # noqa: E731
    theta, told = search(worse, backtracks=4)
    assert float(theta) == 0.0 and told["backtracks"] == 4 and told["gain"] == 0.0
    broken = lambda theta: (torch.tensor(float("nan")), torch.tensor(0.0))  # noqa: E731
    assert float(search(broken)[0]) == 0.0
