"""The block-wise end of a pair decoder against the same decoder tensor by tensor."""

import pytest
import torch
from metabench_agents.belief.decoders import PairDecoder
from metabench_agents.parts.fast import pairs
from metabench_agents.parts.run import stream


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("block", [12_000, 1_300, 1])
def test_values_and_gradients_are_the_decoders(monkeypatch, block, onednn):
    if onednn and not pairs.prefers_onednn():
        pytest.skip("float32 products do not go through oneDNN here")
    monkeypatch.setattr(pairs, "prefers_onednn", lambda: onednn)
    monkeypatch.setattr(pairs, "BLOCK", block)
    torch.manual_seed(0)
    decoder, generator = PairDecoder(5, 3, (32, 20), 1), stream(0)
    z = torch.randn(9, 11, 5, generator=generator, requires_grad=True)
    f = torch.randn(7, 11, 3, generator=generator, requires_grad=True)
    upstream = torch.randn(9, 7, 11, 1, generator=generator)
    read = (z, f, *decoder.parameters())
    answers = []
    for worth in (0, 10**9):
        monkeypatch.setattr(pairs, "WORTH", worth)
        out = decoder(z, f)
        answers.append((out, *torch.autograd.grad(out, read, upstream)))
    assert isinstance(answers[0][0].grad_fn, torch.autograd.graph.Node)
    for ours, plain in zip(*answers, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("block", [12_000, 130, 1])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_pairs_that_count_are_the_decoders_and_others_have_no_gradient(monkeypatch, block, share):
    monkeypatch.setattr(pairs, "BLOCK", block)
    torch.manual_seed(0)
    decoder, generator = PairDecoder(5, 3, (32, 20), 1), stream(0)
    z = torch.randn(9, 11, 5, generator=generator, requires_grad=True)
    f = torch.randn(7, 11, 3, generator=generator, requires_grad=True)
    mask = torch.rand(9, 7, 11, generator=generator) < share
    upstream = torch.randn(9, 7, 11, generator=generator)
    read, answers = (z, f, *decoder.parameters()), []
    for worth in (0, 10**9):
        monkeypatch.setattr(pairs, "WORTH", worth)
        out = torch.where(mask, decoder(z, f, mask)[..., 0], 0.0)
        answers.append((out, *torch.autograd.grad(out, read, upstream)))
    for ours, plain in zip(*answers, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=2e-6)
    assert bool(answers[0][0].any()) == (share > 0)


def test_only_many_pairs_of_plain_tensors_take_it():
    latent, transition = torch.zeros(61, 25, 32), torch.zeros(60, 25, 32)
    assert pairs.worth_it(latent, transition)
    assert not pairs.worth_it(latent[:3], transition)
    assert not pairs.worth_it(latent.bfloat16(), transition.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not pairs.worth_it(latent, transition)
