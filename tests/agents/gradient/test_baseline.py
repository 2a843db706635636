"""The linear feature baseline and its advantages, against plain loops in NumPy."""

import numpy as np
import pytest
import torch
from metabench_agents.gradient.baseline import advantages, features, fitted_values, returns_to_go

DISCOUNT, TRACE, RIDGE = 0.9, 0.8, 1e-3


@pytest.fixture
def episodes():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 4, 9, 2)), rng.normal(size=(3, 4, 9))


def plain_features(observation, t):
    o, t = np.clip(observation, -10, 10), t / 100
    return np.array([*o, *(o**2), t, t**2, t**3, 1.0])


def plain_returns(reward):
    return [sum(DISCOUNT ** (k - t) * reward[k] for k in range(t, len(reward))) for t in range(len(reward))]


def plain_values(observation, reward):
    """One group's values: least squares with the ridge as further rows."""
    rows = np.array([plain_features(o, t) for episode in observation for t, o in enumerate(episode)])
    target = np.array([value for episode in reward for value in plain_returns(episode)])
    ridge = np.sqrt(RIDGE) * np.eye(rows.shape[1])
    weights = np.linalg.lstsq(np.vstack((rows, ridge)), np.append(target, np.zeros(len(ridge))), rcond=None)[0]
    return (rows @ weights).reshape(reward.shape)


def plain_advantages(values, reward):
    out = np.zeros_like(reward)
    for n, (v, r) in enumerate(zip(values, reward, strict=True)):
        following = [*v[1:], 0.0]
        delta = [r[t] + DISCOUNT * following[t] - v[t] for t in range(len(r))]
        for t in range(len(r)):
            out[n, t] = sum((DISCOUNT * TRACE) ** (k - t) * delta[k] for k in range(t, len(r)))
    return out


def test_features_are_clipped_and_know_the_time():
    observation = torch.tensor([[[3.0, -20.0], [1.0, 2.0]]])
    assert torch.allclose(
        features(observation),
        torch.tensor([[[3.0, -10.0, 9.0, 100.0, 0, 0, 0, 1], [1.0, 2.0, 1.0, 4.0, 0.01, 1e-4, 1e-6, 1]]]),
    )


def test_values_and_advantages_are_those_of_plain_loops(episodes):
    observation, reward = episodes
    ours = fitted_values(*map(torch.tensor, episodes), DISCOUNT, RIDGE).numpy()
    raw = advantages(*map(torch.tensor, episodes), DISCOUNT, TRACE, RIDGE, normalise=False).numpy()
    scaled = advantages(*map(torch.tensor, episodes), DISCOUNT, TRACE, RIDGE).numpy()
    for g in range(3):
        values = plain_values(observation[g], reward[g])
        expected = plain_advantages(values, reward[g])
        assert np.allclose(ours[g], values, atol=1e-8)
        assert np.allclose(raw[g], expected, atol=1e-8)
        assert np.allclose(scaled[g], (expected - expected.mean()) / expected.std(ddof=1), atol=1e-6)
    assert np.allclose(returns_to_go(torch.tensor(reward), DISCOUNT)[1, 2], plain_returns(reward[1, 2]))


def test_columns_that_never_change_do_no_harm():
    observation = torch.cat((torch.randn(2, 1, 30, 3), torch.zeros(2, 1, 30, 1)), dim=-1)
    assert torch.isfinite(advantages(observation, torch.randn(2, 1, 30), 0.99, 1.0, 1e-5)).all()
