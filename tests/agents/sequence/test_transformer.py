"""The transformer: equal to torch's own layers, causal, the same with a cache, and dropout as it should be."""

import numpy as np
import pytest
import torch
from metabench_agents.sequence.transformer import MASKED, Dropout, TokenCache, Transformer, TransformerSettings, causal

EVERY = slice(None)


def model(heads=1, dropout=0.0, attention="plain", layers=3, width=32):
    torch.manual_seed(0)
    net = Transformer(TransformerSettings(layers, heads, width, dropout, attention))
    for parameter in net.parameters():  # weights large enough for faults to show
        parameter.data = torch.randn_like(parameter) * 0.2
    return net


def torchs_own(net):
    """The same weights in `torch.nn.TransformerEncoder`."""
    first = net.blocks[0]
    layer = torch.nn.TransformerEncoderLayer(
        first.out.in_features, first.heads, first.up.out_features, 0.0, "relu", batch_first=True, norm_first=True
    )
    other = torch.nn.TransformerEncoder(layer, len(net.blocks), net.norm, enable_nested_tensor=False)
    for block, layer in zip(net.blocks, other.layers, strict=True):
        layer.self_attn.in_proj_weight.data, layer.self_attn.in_proj_bias.data = block.qkv.weight, block.qkv.bias
        pairs = {
            layer.self_attn.out_proj: block.out,
            layer.linear1: block.up,
            layer.linear2: block.down,
            layer.norm1: block.norm1,
            layer.norm2: block.norm2,
        }
        for theirs, ours in pairs.items():
            theirs.load_state_dict(ours.state_dict())
    return other


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("attention", ["plain", "sdpa"])
def test_it_is_the_standard_transformer(heads, attention):
    net, x = model(heads, attention=attention), torch.randn(5, 12, 32)
    expected = torchs_own(net)(x, mask=causal(12)[0])
    assert torch.allclose(net(x, causal(12)), expected, atol=1e-5)


def test_the_last_rows_of_what_may_be_seen():
    assert torch.equal(causal(7, begin=3), causal(7)[:, 3:]) and torch.equal(causal(7, begin=0), causal(7))


def test_padding_that_differs_between_rows():
    net, x = model(heads=2), torch.randn(3, 10, 32)
    starts = torch.tensor([0, 4, 9])
    hidden = torch.arange(10)[None] < starts[:, None]
    bias = causal(10) + torch.where(hidden, MASKED, 0.0)[:, None]
    out = net(x, bias)
    for row, start in enumerate(starts.tolist()):
        alone = net(x[row : row + 1, start:], causal(10 - start))
        assert torch.allclose(out[row, start:], alone[0], atol=1e-5)


def test_a_token_sees_nothing_behind_it():
    net, x = model(), torch.randn(2, 9, 32)
    changed = x.clone()
    changed[:, 6:] *= -1.0  # a shift of all columns would be undone by the norms
    before, after = net(x, causal(9)), net(changed, causal(9))
    assert torch.equal(before[:, :6], after[:, :6]) and not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize("heads", [1, 4])
def test_kept_positions_and_their_gradients_are_those_of_the_whole(heads):
    net, x, keep = model(heads), torch.randn(4, 12, 32), slice(4, None, 3)
    gradients = []
    for out in (net(x, causal(12))[:, keep], net(x, causal(12), keep)):
        net.zero_grad()
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        gradients.append((out.detach(), {n: p.grad.clone() for n, p in net.named_parameters()}))
    (whole, of_whole), (part, of_part) = gradients
    assert torch.allclose(whole, part, atol=1e-5)
    for name, gradient in of_whole.items():
        assert torch.allclose(gradient, of_part[name], rtol=1e-3, atol=1e-2 * float(gradient.abs().max())), name


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("chunks", [[1] * 11, [5, 1, 3, 2]])
def test_with_a_cache_the_outputs_are_the_same(heads, chunks):
    net, x = model(heads).eval(), torch.randn(4, 11, 32)
    cache, outputs, done = TokenCache.empty(3, 4, 4, 32), [], 0  # too small at first: it grows
    with torch.inference_mode():
        for size in chunks:
            bias = causal(done + size)[:, done:]
            out, cache = net.extend(x[:, done : done + size], bias, cache, EVERY)
            outputs.append(out)
            done += size
        assert torch.allclose(torch.cat(outputs, dim=1), net(x, causal(11)), atol=1e-5)


def test_a_cache_is_a_value():
    """Two continuations of one cache do not disturb each other, nor the cache they started from."""
    net, x = model().eval(), torch.randn(2, 6, 32)
    with torch.inference_mode():
        _, start = net.extend(x[:, :3], causal(3), TokenCache.empty(3, 2, 10, 32), EVERY)
        kept = start.keys[:, :, :3].clone()
        one, first = net.extend(x[:, 3:4], causal(4)[:, 3:], start, EVERY)
        other, second = net.extend(x[:, 5:6], causal(4)[:, 3:], start, EVERY)
        again, _ = net.extend(x[:, 4:5], causal(5)[:, 4:], first, EVERY)
        assert torch.equal(start.keys[:, :, :3], kept) and start.length == 3
        assert not torch.equal(first.keys[:, :, 3], second.keys[:, :, 3])
        expected = net(torch.cat((x[:, :3], x[:, 5:6]), dim=1), causal(4))[:, 3:]
        assert torch.allclose(other, expected, atol=1e-5)
        assert torch.allclose(torch.cat((one, again), dim=1), net(x[:, :5], causal(5))[:, 3:], atol=1e-5)


def test_dropout_drops_the_share_it_says():
    drop = Dropout(0.1)
    drop.generator = torch.Generator().manual_seed(0)
    x = torch.ones(1001, 999)
    out = drop(x)
    share = 26 / 256
    assert float((out == 0).float().mean()) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / out.numel()))
    assert float(out.max()) == pytest.approx(1 / (1 - share))
    columns = (out == 0).view(-1)[: 8 * 120_000].view(-1, 8).float().mean(0)  # every byte of a word, not only some
    assert (columns - share).abs().max() < 0.01
    assert torch.equal(drop.eval()(x), x)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1"):
        Dropout(1.0)


def test_dropout_lets_the_gradient_through_where_it_kept():
    drop, x = Dropout(0.5), torch.ones(64, 64, requires_grad=True)
    out = drop(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="a multiple of the heads, got 32 and 5"):
        Transformer(TransformerSettings(layers=1, width=32, heads=5))
