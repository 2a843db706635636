"""Losses against hand-computed and brute-force values."""

import numpy as np
import pytest
import torch
from metabench_agents.parts.losses import PPO, gae, next_rate, ppo_policy_loss, value_loss, went_too_far


def brute_force_gae(rewards, values, last, discount, trace):
    """A_t = sum over l of (discount trace)^l delta_{t+l}, by two plain loops."""
    T = len(rewards)
    following = [*values[1:], last]
    delta = [r + discount * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    out = []
    for t in range(T):
        total, weight = 0.0, 1.0
        for k in range(t, T):
            total += weight * delta[k]
            weight *= discount * trace
        out.append(total)
    return out


@pytest.mark.parametrize(("discount", "trace"), [(0.95, 0.9), (1.0, 1.0), (0.9, 0.0)])
def test_gae_equals_brute_force(discount, trace):
    rng = np.random.default_rng(0)
    rewards, values, last = rng.normal(size=(13, 3)), rng.normal(size=(13, 3)), rng.normal(size=3)
    ours = gae(*(torch.tensor(x) for x in (rewards, values, last)), discount, trace)
    for b in range(3):
        expected = brute_force_gae(rewards[:, b], values[:, b], last[b], discount, trace)
        assert ours[:, b].numpy() == pytest.approx(expected, abs=1e-12)


def test_gae_without_trace_decay_is_return_minus_value():
    rewards, values = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.5], [0.5], [0.5]])
    advantage = gae(rewards, values, torch.zeros(1), 0.5, 1.0)
    assert (advantage + values)[:, 0].tolist() == [1 + 0.5 * (2 + 0.5 * 3), 2 + 0.5 * 3, 3.0]


def test_policy_loss_by_hand():
    ratio, advantage = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]), torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    loss, metrics = ppo_policy_loss(ratio.log(), torch.zeros(5), advantage, clip=0.2)
    # Kept terms: 1.2 (clipped), -1.5, 0.5, -0.8 (clipped), 2.2.
    assert float(loss) == pytest.approx(-(1.2 - 1.5 + 0.5 - 0.8 + 2.2) / 5, abs=1e-6)
    assert float(metrics["clipped"]) == pytest.approx(0.8)
    assert float(metrics["kl"]) == pytest.approx(float((ratio - 1 - ratio.log()).mean()), abs=1e-6)


def test_clipped_terms_have_no_gradient():
    log_prob = torch.log(torch.tensor([1.5, 0.5, 1.1])).requires_grad_()
    loss, _ = ppo_policy_loss(log_prob, torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]), clip=0.2)
    loss.backward()
    assert log_prob.grad.tolist() == pytest.approx([0.0, 0.0, -1.1 / 3], abs=1e-6)


def test_policy_gradient_at_the_old_policy_is_the_advantage():
    log_prob, advantage = torch.zeros(4, requires_grad=True), torch.tensor([1.0, -2.0, 0.5, 3.0])
    ppo_policy_loss(log_prob, torch.zeros(4), advantage, clip=0.2)[0].backward()
    assert torch.allclose(log_prob.grad, -advantage / 4)


def test_value_loss_by_hand():
    value, target = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.5])
    assert float(value_loss(value, target)[0]) == pytest.approx(0.5 * (1.0 + 0.25) / 2)
    assert float(value_loss(target, target)[1]["explained_variance"]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.021, 1 / 1.5), (0.02, 1.0), (0.01, 1.0), (0.005, 1.0), (0.0049, 1.5), (0.0, 1.5), (float("inf"), 1 / 1.5)],
)
def test_the_rate_follows_the_kl_by_hand(kl, factor):
    """Target 0.01: divided by 1.5 above 0.02, multiplied by 1.5 below 0.005, kept between."""
    assert next_rate(0.4, kl, PPO(target_kl=0.01, adaptive=True)) == pytest.approx(0.4 * factor)


def test_the_rate_stays_without_a_target_and_within_its_bounds():
    assert next_rate(0.4, 1.0, PPO(target_kl=0.01)) == next_rate(0.4, 1.0, PPO(adaptive=True)) == 0.4
    settings = PPO(target_kl=0.01, adaptive=True)
    assert next_rate(0.0101, 1.0, settings) == 0.01 and next_rate(9.0, 0.0, settings) == 10.0


def test_passes_end_above_one_and_a_half_times_the_target():
    settings = PPO(target_kl=0.02)
    assert not went_too_far(torch.tensor(0.0299), settings) and went_too_far(torch.tensor(0.0301), settings)
    assert not went_too_far(torch.tensor(5.0), PPO())
