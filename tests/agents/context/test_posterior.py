"""Products of Gaussians against hand-computed values and against the densities themselves."""

import math

import pytest
import torch
from metabench_agents.context.posterior import MIN_VARIANCE, DiagonalGaussian, Evidence
from torch.distributions import Normal, kl_divergence


def test_product_by_hand():
    # N(1, 1) N(4, 1/2): precision 3, mean (1 + 8) / 3.
    factors = DiagonalGaussian(torch.tensor([[1.0], [4.0]]), torch.tensor([[1.0], [0.5]]))
    posterior = Evidence.total(factors).posterior()
    assert posterior.mean.tolist() == pytest.approx([3.0])
    assert posterior.variance.tolist() == pytest.approx([1.0 / 3.0])


def test_product_is_the_product_of_the_densities():
    torch.manual_seed(0)
    factors = DiagonalGaussian(torch.randn(4, 2), torch.rand(4, 2) + 0.1)
    posterior = Evidence.total(factors).posterior()
    x = torch.linspace(-2.0, 2.0, 9)[:, None]
    logs = Normal(factors.mean, factors.variance.sqrt()).log_prob(x[:, None]).sum(1)  # [9, 2], up to a constant
    ours = Normal(posterior.mean, posterior.variance.sqrt()).log_prob(x)
    assert torch.allclose((logs - ours), (logs - ours)[:1].expand(9, 2), atol=1e-4)


def test_one_at_a_time_equals_all_at_once_in_any_order():
    torch.manual_seed(1)
    factors = DiagonalGaussian(torch.randn(3, 7, 5), torch.rand(3, 7, 5) + 0.1)
    order, running = torch.randperm(7), Evidence.none(3, 5)
    for n in order.tolist():
        running = running.plus(
            DiagonalGaussian(factors.mean[:, n], factors.variance[:, n]), torch.ones(3, dtype=torch.bool)
        )
    for one, all_at_once in zip(running.posterior(), Evidence.total(factors).posterior(), strict=True):
        assert torch.allclose(one, all_at_once, atol=1e-5)


def test_no_factors_leave_the_prior():
    evidence = Evidence.none(2, 3)
    factor = DiagonalGaussian(torch.ones(2, 3), torch.full((2, 3), 0.5))
    after = evidence.plus(factor, torch.tensor([True, False])).posterior()
    assert after.mean.tolist() == [[1.0] * 3, [0.0] * 3]
    assert after.variance.tolist() == [[0.5] * 3, [1.0] * 3]


def test_kl_against_torch():
    torch.manual_seed(2)
    belief = DiagonalGaussian(torch.randn(4, 3), torch.rand(4, 3) + 0.1)
    expected = kl_divergence(Normal(belief.mean, belief.variance.sqrt()), Normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(belief.kl(), expected, atol=1e-6)
    assert DiagonalGaussian(torch.zeros(2, 3), torch.ones(2, 3)).kl().tolist() == [0.0, 0.0]
    # By hand: N(1, 4): 0.5 (4 + 1 - 1 - log 4).
    assert float(DiagonalGaussian(torch.ones(1), torch.full((1,), 4.0)).kl()) == pytest.approx(2.0 - math.log(2.0))


def test_parameters_of_a_network_and_samples():
    belief = DiagonalGaussian.of(torch.tensor([0.5, -1.0, 0.0, -100.0]))
    assert belief.mean.tolist() == [0.5, -1.0]
    assert belief.variance.tolist() == pytest.approx([math.log(2.0), MIN_VARIANCE])
    noise = torch.tensor([2.0, 0.0])
    assert belief.sample(noise).tolist() == pytest.approx([0.5 + 2.0 * math.sqrt(math.log(2.0)), -1.0])
