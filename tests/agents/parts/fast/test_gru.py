"""The fast GRU: torch's values and gradients."""

import pytest
import torch
from metabench_agents.parts.fast.gru import BEST_BELOW, gru_sequence
from torch import nn


@pytest.mark.parametrize(("ticks", "batch", "inputs", "hidden"), [(60, 25, 64, 64), (7, 1, 3, 5), (200, 10, 64, 128)])
def test_values_and_gradients_equal_torchs(ticks, batch, inputs, hidden):
    torch.manual_seed(0)
    gru = nn.GRU(inputs, hidden)
    x, start = torch.randn(ticks, batch, inputs, requires_grad=True), torch.randn(batch, hidden, requires_grad=True)
    weight = torch.randn(ticks, batch, hidden)
    outputs, gradients = [], []
    for run in (lambda: gru(x, start[None])[0], lambda: gru_sequence(gru, x, start)):
        y = run()
        outputs.append(y.detach())
        gradients.append(torch.autograd.grad((y * weight).sum(), [x, start, *gru.parameters()]))
    assert torch.allclose(*outputs, atol=2e-6)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()


def test_large_inputs_saturate():
    gru = nn.GRU(2, 4)
    x = torch.full((3, 2, 2), 1e4)
    start = torch.zeros(2, 4)
    assert torch.allclose(gru_sequence(gru, x, start), gru(x, start[None])[0], atol=1e-5)


def test_large_batches_are_torchs_own():
    gru, x = nn.GRU(2, 4), torch.randn(3, BEST_BELOW, 2)
    start = torch.zeros(BEST_BELOW, 4)
    assert torch.equal(gru_sequence(gru, x, start), gru(x, start[None])[0])
