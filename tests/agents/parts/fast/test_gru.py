"""The fast GRU: torch's values and gradients, by loops that vectorise and a BLAS of one thread."""

import platform
import re

import numba
import pytest
import torch
from metabench_agents.parts.fast import gru as fast
from metabench_agents.parts.fast.gru import BEST_UP_TO, gru_sequence
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


def test_large_states_are_torchs_own():
    trials = BEST_UP_TO // 4 + 1
    gru, x, start = nn.GRU(2, 4), torch.randn(3, trials, 2), torch.zeros(trials, 4)
    assert torch.equal(gru_sequence(gru, x, start), gru(x, start[None])[0])


def test_blas_has_one_thread_while_it_is_used(monkeypatch):
    kernel, seen = fast._forward, []
    before = [library["num_threads"] for library in fast._blas().info()]

    def watched(*arrays):
        seen.extend(library["num_threads"] for library in fast._blas().info())
        kernel(*arrays)

    monkeypatch.setattr(fast, "_forward", watched)
    gru_sequence(nn.GRU(2, 4), torch.randn(3, 2, 2), torch.zeros(2, 4))
    assert seen and set(seen) == {1}
    assert [library["num_threads"] for library in fast._blas().info()] == before


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the registers are x86's")
def test_loops_over_the_gates_vectorise():
    gru_sequence(nn.GRU(2, 4), torch.randn(3, 2, 2), torch.zeros(2, 4))
    kernel = fast._forward
    fresh = numba.jit(**kernel.targetoptions)(kernel.py_func)  # one from the cache has no assembly
    fresh.compile(kernel.nopython_signatures[0].args)
    (assembly,) = fresh.inspect_asm().values()
    packed = re.findall(r"\bv?(?:div|rcp|rcp14)ps\b", assembly)  # divisions of several numbers at once
    assert len(packed) >= 3, "one for each gate; none where a division may raise an error"
