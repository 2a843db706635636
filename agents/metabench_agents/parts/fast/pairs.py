"""The end of a pair decoder on the CPU, block by block: two ReLU layers and one number per pair, kept in the cache.

Tensor by tensor, every layer of all K x M x B pairs goes through memory several times, forwards and backwards; a block
of a few thousand pairs stays in the second-level cache, and is computed again for the gradients. What is not a product
is done in three compiled loops, each of which reads its block once. Same equations as `decoders.PairDecoder` with two
hidden layers and one output; gradients by hand, of first order only. Where only some pairs count, as under session
reconstruction masking, the others are not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metabench.physics.compiled import cached_njit
from metabench_agents.parts.fast.linear import prefers_onednn
from metabench_agents.parts.fast.recording import recording

BLOCK = 6_000  # pairs
WORTH = 20_000  # pairs from which on it is faster than tensor by tensor


class _Layers(NamedTuple):
    """What the pairs share."""

    latent: Tensor  # [K, B, H]
    transition: Tensor  # [M, B, H]
    weight: Tensor  # [J, H]
    bias: Tensor  # [J]
    last: Tensor  # [J]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """`x weight^T + bias`, and its positive part if asked for."""
    if prefers_onednn():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
    out = torch.nn.functional.linear(x, weight, bias)
    return out.relu_() if relu else out


@cached_njit(nogil=True, fastmath=True)
def _enter(latent, transition, h):
    """Fills `h` `[k, M, N]` with the positive part of `latent` `[k, N]` + `transition` `[M, N]`."""
    zero = np.float32(0.0)
    for i in range(h.shape[0]):
        for m in range(h.shape[1]):
            one, other, out = latent[i], transition[m], h[i, m]
            for j in range(h.shape[2]):
                x = one[j] + other[j]
                out[j] = x if x > zero else zero


@cached_njit(nogil=True, fastmath=True)
def _leave(given, last, a, d, of_bias, of_last):
    """Fills `d` `[n, J]`, the gradient of what `a` is the positive part of; adds to those of its bias and of `last`."""
    zero, size = np.float32(0.0), a.shape[1]
    bias_sum, last_sum = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for p in range(a.shape[0]):
        g, row, out = given[p], a[p], d[p]
        for j in range(size):
            x = g * last[j] if row[j] > zero else zero
            out[j] = x
            bias_sum[j] += x
            last_sum[j] += g * row[j]
    for j in range(size):
        of_bias[j] += bias_sum[j]
        of_last[j] += last_sum[j]


@cached_njit(nogil=True, fastmath=True)
def _gather(back, h, of_latent, of_transition):
    """Adds `back` `[k, M, N]`, where `h` is positive, to the gradients `[k, N]` and `[M, N]` of its two parts."""
    zero = np.float32(0.0)
    for i in range(h.shape[0]):
        for m in range(h.shape[1]):
            b, row, one, other = back[i, m], h[i, m], of_latent[i], of_transition[m]
            for j in range(h.shape[2]):
                x = b[j] if row[j] > zero else zero
                one[j] += x
                other[j] += x


@cached_njit(nogil=True, fastmath=True)
def _enter_some(latent, transition, of_latent, of_transition, h):
    """Fills `h` `[n, H]` with the positive part of rows of `latent` and of `transition`, added."""
    zero = np.float32(0.0)
    for p in range(h.shape[0]):
        one, other, out = latent[of_latent[p]], transition[of_transition[p]], h[p]
        for j in range(h.shape[1]):
            x = one[j] + other[j]
            out[j] = x if x > zero else zero


@cached_njit(nogil=True, fastmath=True)
def _gather_some(back, h, of_latent, of_transition, latent, transition):
    """Adds `back` `[n, H]`, where `h` is positive, to the rows of both gradients that `_enter_some` read."""
    zero = np.float32(0.0)
    for p in range(h.shape[0]):
        b, row, one, other = back[p], h[p], latent[of_latent[p]], transition[of_transition[p]]
        for j in range(h.shape[1]):
            x = b[j] if row[j] > zero else zero
            one[j] += x
            other[j] += x


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


class _Block(NamedTuple):
    """Some of the pairs."""

    place: slice | Tensor  # among all `K M B`
    h: Tensor  # [n, H] the first layer's activations
    a: Tensor  # [n, J] the second layer's
    gather: Callable[[Tensor, _Layers], None]  # adds gradients [n, H] of what `h` is made of, where it is positive


def _all_blocks(layers: _Layers) -> Iterator[_Block]:
    """All pairs, a few latents at a time."""
    (count, batch, size), ticks = layers.latent.shape, len(layers.transition)
    some = max(1, BLOCK // (ticks * batch))
    space = torch.empty(some, ticks, batch, size)
    for start in range(0, count, some):
        part = slice(start, min(start + some, count))
        h = space[: part.stop - start]
        _enter(*_arrays(layers.latent[part].flatten(1), layers.transition.flatten(1), h.flatten(2)))

        def gather(back: Tensor, grads: _Layers, part: slice = part, h: Tensor = h) -> None:
            into = (grads.latent[part].flatten(1), grads.transition.flatten(1))
            _gather(*_arrays(back.view_as(h).flatten(2), h.flatten(2), *into))

        rows, pairs = h.view(-1, size), ticks * batch
        a = _product(rows, layers.weight, layers.bias, relu=True)
        yield _Block(slice(start * pairs, part.stop * pairs), rows, a, gather)


def _kept(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a mask `[K, M, B]`, `[n]` each: place among all, row of latents `[K B]`, row of transitions `[M B]`."""
    k, m, b = mask.nonzero(as_tuple=True)
    _, ticks, batch = mask.shape
    return (k * ticks + m) * batch + b, k * batch + b, m * batch + b


def _kept_blocks(layers: _Layers, *kept: Tensor) -> Iterator[_Block]:
    """Those of `_kept`."""
    size = layers.latent.shape[-1]
    space = torch.empty(min(BLOCK, len(kept[0])), size)
    for place, *rows in zip(*(column.split(BLOCK) for column in kept), strict=True):
        h = space[: len(place)]
        _enter_some(*_arrays(layers.latent.view(-1, size), layers.transition.view(-1, size), *rows, h))

        def gather(back: Tensor, grads: _Layers, rows: list[Tensor] = rows, h: Tensor = h) -> None:
            into = (grads.latent.view(-1, size), grads.transition.view(-1, size))
            _gather_some(*_arrays(back, h, *rows, *into))

        yield _Block(place, h, _product(h, layers.weight, layers.bias, relu=True), gather)


class _Pairs(torch.autograd.Function):
    """All pairs, or those of a mask, as one node of the graph; the others are 0 and have no gradient."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor | None, offset: Tensor, *tensors: Tensor) -> Tensor:
        layers = _Layers(*(x.detach().contiguous() for x in tensors))
        kept = () if mask is None else _kept(mask)
        out = torch.zeros(len(layers.latent), *layers.transition.shape[:2])
        for block in _kept_blocks(layers, *kept) if kept else _all_blocks(layers):
            out.view(-1)[block.place] = torch.addmv(offset, block.a, layers.last)
        ctx.save_for_backward(*layers, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        count = len(_Layers._fields)
        layers, kept = _Layers(*ctx.saved_tensors[:count]), ctx.saved_tensors[count:]
        given = upstream[0].contiguous().view(-1)
        grads, turned = _Layers(*(torch.zeros_like(x) for x in layers)), layers.weight.t().contiguous()
        for block in _kept_blocks(layers, *kept) if kept else _all_blocks(layers):
            d = torch.empty_like(block.a)
            _leave(*_arrays(given[block.place], layers.last, block.a, d, grads.bias, grads.last))
            grads.weight.addmm_(d.t(), block.h)
            block.gather(_product(d, turned, None, relu=False), grads)
        return None, (given[kept[0]] if kept else given).sum()[None], *grads


def pair_outputs(
    latent: Tensor,
    transition: Tensor,
    weight: Tensor,
    bias: Tensor,
    last: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """`relu(relu(latent + transition) weight^T + bias) last + offset` for all pairs, `[K, M, B]`.

    Args:
        latent: `[K, B, H]` the first layer's part of each latent.
        transition: `[M, B, H]` its part of each transition, the bias included.
        weight: `[J, H]` of the second layer.
        bias: `[J]` of the second layer.
        last: `[J]` weight of the output.
        offset: `[1]` its bias.
        mask: `[K, M, B]` bool, the pairs that are wanted; all others come out as 0. None for all.
    """
    return _Pairs.apply(mask, offset, latent, transition, weight, bias, last)  # pyright: ignore[reportReturnType]


def worth_it(latent: Tensor, transition: Tensor) -> bool:
    """Whether `pair_outputs` is the faster way for these: many pairs, in float32 on the CPU, not being compiled."""
    plain = latent.dtype == torch.float32 and latent.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    plain = plain and not recording() and not torch.compiler.is_compiling()
    return plain and len(latent) * transition[..., 0].numel() >= WORTH
