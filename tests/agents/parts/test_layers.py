"""Shared networks: what one tick computes equals what a sequence computes; distributions are distributions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.parts.layers import (
    GRU,
    ActionHead,
    ObservationScaler,
    Scaler,
    action_size,
    encode_action,
    linear,
    make_scaler,
    watch,
)


def test_scaler_maps_bounds_to_one():
    space = spaces.Box(np.array([0, -3, -np.inf], np.float32), np.array([4, 1, np.inf], np.float32))
    x = torch.tensor([[0.0, -3.0, 7.0], [4.0, 1.0, -7.0], [2.0, -1.0, 0.0]])
    assert Scaler(space)(x).tolist() == [[-1, -1, 7], [1, 1, -7], [0, 0, 0]]


def test_a_following_scaler_brings_columns_without_bounds_to_unit_scale():
    space = spaces.Box(np.array([0, -np.inf, -np.inf], np.float32), np.array([4, np.inf, np.inf], np.float32))
    assert type(make_scaler(space, False)) is Scaler
    scaler = make_scaler(space, True)
    assert isinstance(scaler, ObservationScaler)
    torch.manual_seed(0)
    x = torch.rand(50, 4, 3) * torch.tensor([4.0, 30.0, 0.0]) + torch.tensor([0.0, 5.0, 2.0])
    for part in (x[:10], x[10:]):
        watch((torch.nn.Sequential(scaler),), part)
    seen = scaler(x).flatten(0, 1)
    assert torch.allclose(seen[:, 0], Scaler(space)(x).flatten(0, 1)[:, 0])  # bounds count where there are some
    assert seen[:, 1].mean().abs() < 1e-5 and abs(seen[:, 1].std(correction=0) - 1.0) < 1e-5
    assert not seen[:, 2].any()
    assert scaler(torch.tensor([2.0, 1e9, 2.0])).tolist() == [0.0, 10.0, 0.0]


def test_gru_steps_equal_the_sequence():
    torch.manual_seed(0)
    core, x = GRU(5, 8), torch.randn(7, 3, 5)
    hidden, steps = torch.zeros(3, 8), []
    for tick in x:
        hidden = core.step(tick, hidden)
        steps.append(hidden)
    assert torch.allclose(core(x, torch.zeros(3, 8)), torch.stack(steps), atol=1e-6)


def test_linear_is_orthogonal():
    weight = linear(6, 4, gain=2.0).weight
    assert torch.allclose(weight @ weight.T, 4.0 * torch.eye(4), atol=1e-5)


def test_encode_action():
    absent = torch.tensor([False, True, False])
    code = encode_action(torch.tensor([1, 2, 0]), spaces.Discrete(3), absent)
    assert code.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    box = spaces.Box(-0.1, 0.1, (2,))
    code = encode_action(torch.full((3, 2), 0.05), box, absent)
    assert torch.allclose(code, torch.tensor([[0.5, 0.5], [0, 0], [0.5, 0.5]]))
    assert action_size(spaces.Discrete(3)) == 3 and action_size(box) == 2


def test_categorical_head():
    torch.manual_seed(0)
    head, params = ActionHead(4, spaces.Discrete(3)), torch.tensor([[1.0, 0.0, -1.0]]).expand(60_000, 3)
    drawn = head.sample(params, torch.Generator().manual_seed(1))
    expected = params[0].softmax(-1)
    assert torch.allclose(torch.bincount(drawn, minlength=3) / 60_000, expected, atol=0.01)
    assert torch.allclose(head.log_prob(params[:3], torch.tensor([0, 1, 2])), expected.log(), atol=1e-6)
    assert float(head.entropy(params[0])) == pytest.approx(float(-(expected * expected.log()).sum()), abs=1e-6)
    assert head.sample(params[:1], None).tolist() == [0]
    assert head.to_env(drawn).dtype == np.int64


def test_gaussian_head():
    head = ActionHead(4, spaces.Box(np.float32(-2), np.float32(4), (2,)), log_std=-0.5)
    mean = torch.tensor([[0.2, -0.3]]).expand(40_000, 2)
    drawn = head.sample(mean, torch.Generator().manual_seed(1)).detach()
    std = np.exp(-0.5)
    assert torch.allclose(drawn.mean(0), mean[0], atol=0.02)
    assert torch.allclose(drawn.std(0), torch.tensor(std).float(), atol=0.02)
    expected = torch.distributions.Normal(mean[:5], std)
    assert torch.allclose(head.log_prob(mean[:5], drawn[:5]), expected.log_prob(drawn[:5]).sum(-1), atol=1e-5)
    assert torch.allclose(head.entropy(mean[:5]), expected.entropy().sum(-1), atol=1e-5)
    assert head.to_env(torch.tensor([[0.0, 1.0], [-1.0, 9.0]])).tolist() == [[1, 4], [-2, 4]]


def test_unusual_boxes():
    """One-sided and unbounded spaces give finite codes and actions."""
    for low, high in ((-1.0, 0.0), (-np.inf, np.inf), (0.0, np.inf)):
        space = spaces.Box(np.float32(low), np.float32(high), (2,))
        head = ActionHead(4, space)
        action = head.to_env(torch.tensor([[-0.5, 0.5]]))
        assert np.isfinite(action).all() and (action >= low).all() and (action <= high).all()
        code = encode_action(torch.as_tensor(action), space)
        assert torch.isfinite(code).all()


@torch.no_grad()
def test_a_gru_carries_several_states_of_a_row_as_one_at_a_time():
    torch.manual_seed(0)
    gru = GRU(3, 4)
    for weight in gru.parameters():
        torch.nn.init.normal_(weight)
    x, h = torch.randn(5, 3), torch.randn(5, 6, 4)
    one_at_a_time = torch.stack([gru.step(x, h[:, k]) for k in range(6)], dim=1)
    assert torch.allclose(gru.each(x, h), one_at_a_time, atol=1e-6)
