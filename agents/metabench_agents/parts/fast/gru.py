"""A GRU over whole sequences for small batches on the CPU: one BLAS call and one fused loop over the gates per tick.

torch's own spends most of its time between small kernels at the sizes of belief encoders (25 trials of 60 ticks, 64
units): this takes four tenths of it. Same equations and weights as `torch.nn.GRU`, values within 1e-6; gradients by
hand, of first order only. The weights' gradient is one large product at the end instead of one small one per tick.

The loops vectorise only where a division by zero gives infinity instead of an error (`error_model`). The BLAS, which is
SciPy's, is kept to one thread: on products this small a second one waits more than it works.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numba import njit
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from metabench.physics.compiled import cached_njit
from metabench_agents.parts.compiling import opaque
from metabench_agents.parts.fast.recording import recording

BEST_UP_TO = 16_384  # numbers of a hidden state of all trials: from there on torch's own way is as fast


@njit(inline="always", fastmath=True)
def exp(x: Any) -> Any:
    """e^x in float32 to about 1e-7 (range reduction and a polynomial as in Cephes' expf), in a form that vectorises."""
    x = np.float32(88.0) if x > np.float32(88.0) else x
    x = np.float32(-87.0) if x < np.float32(-87.0) else x
    k = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    x = x - k * np.float32(0.693359375)
    x = x + k * np.float32(2.12194440e-4)
    y = np.float32(1.9875691500e-4)
    y = y * x + np.float32(1.3981999507e-3)
    y = y * x + np.float32(8.3334519073e-3)
    y = y * x + np.float32(4.1665795894e-2)
    y = y * x + np.float32(1.6666665459e-1)
    y = y * x + np.float32(5.0000001201e-1)
    y = y * x * x + x + np.float32(1.0)
    return y * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


@cached_njit(nogil=True, fastmath=True, error_model="numpy")
def _forward(given, weight, bias, hidden, reset, update, new, candidate):
    """Fills `hidden` `[T + 1, B, H]` from its first row, and the gates `[T, B, H]`; `given` is W_i x + b_i."""
    ticks, batch, size = reset.shape
    one, two = np.float32(1.0), np.float32(2.0)
    own = np.empty((batch, 3 * size), np.float32)
    for t in range(ticks):
        np.dot(hidden[t], weight, out=own)
        for b in range(batch):
            g, q, h, o = given[t, b], own[b], hidden[t, b], hidden[t + 1, b]
            r, z, n, c = reset[t, b], update[t, b], new[t, b], candidate[t, b]
            for j in range(size):
                r[j] = one / (one + exp(-(g[j] + q[j] + bias[j])))
            for j in range(size):
                z[j] = one / (one + exp(-(g[size + j] + q[size + j] + bias[size + j])))
            for j in range(size):
                c[j] = q[2 * size + j] + bias[2 * size + j]
            for j in range(size):
                n[j] = one - two / (exp(two * (g[2 * size + j] + r[j] * c[j])) + one)
            for j in range(size):
                o[j] = n[j] + z[j] * (h[j] - n[j])


@cached_njit(nogil=True, fastmath=True)
def _backward(upstream, weight, hidden, reset, update, new, candidate, of_given, of_own, of_hidden):
    """Fills the gradients of W_i x + b_i and of W_h h + b_h, `[T, B, 3H]`, and of the first hidden state."""
    ticks, batch, size = reset.shape
    one = np.float32(1.0)
    back = np.empty((batch, size), np.float32)
    for t in range(ticks - 1, -1, -1):
        for b in range(batch):
            d, u, h = of_hidden[b], upstream[t, b], hidden[t, b]
            r, z, n, c = reset[t, b], update[t, b], new[t, b], candidate[t, b]
            x, y = of_given[t, b], of_own[t, b]
            for j in range(size):
                g = d[j] + u[j]
                dz = g * (h[j] - n[j]) * z[j] * (one - z[j])
                dn = g * (one - z[j]) * (one - n[j] * n[j])
                dr = dn * c[j] * r[j] * (one - r[j])
                x[j] = dr
                x[size + j] = dz
                x[2 * size + j] = dn
                y[j] = dr
                y[size + j] = dz
                y[2 * size + j] = dn * r[j]
                d[j] = g * z[j]
        np.dot(of_own[t], weight, out=back)
        for b in range(batch):
            for j in range(size):
                of_hidden[b, j] += back[b, j]


@functools.cache
def _blas() -> ThreadpoolController:
    """The BLAS that compiled code calls, once it is there."""
    import scipy.linalg.cython_blas  # pyright: ignore[reportMissingModuleSource, reportUnusedImport]  # noqa: F401

    return ThreadpoolController().select(internal_api="openblas")


def one_thread() -> Any:
    """Inside, the BLAS that compiled code calls keeps to one thread."""
    return _blas().limit(limits=1)


class _Sequence(torch.autograd.Function):
    """The whole sequence as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: Tensor, w_i: Tensor, w_h: Tensor, b_i: Tensor, b_h: Tensor) -> Tensor:
        ticks, batch, inputs = x.shape
        size = w_h.shape[1]
        given = torch.addmm(b_i, x.reshape(ticks * batch, inputs), w_i.t()).view(ticks, batch, 3 * size)
        hidden = torch.empty(ticks + 1, batch, size)
        hidden[0] = start
        gates = [torch.empty(ticks, batch, size) for _ in range(4)]
        arrays = [tensor.detach().numpy() for tensor in (given, w_h.t().contiguous(), b_h, hidden, *gates)]
        with one_thread():
            _forward(*arrays)
        ctx.save_for_backward(x, w_i, w_h, hidden, *gates)
        return hidden[1:]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
        x, w_i, w_h, hidden, *gates = ctx.saved_tensors
        ticks, batch, inputs = x.shape
        size = w_h.shape[1]
        of_given, of_own = torch.empty(ticks, batch, 3 * size), torch.empty(ticks, batch, 3 * size)
        of_hidden = torch.zeros(batch, size)
        tensors = (upstream[0].contiguous(), w_h.contiguous(), hidden, *gates, of_given, of_own, of_hidden)
        with one_thread():
            _backward(*(tensor.detach().numpy() for tensor in tensors))
        a, b = of_given.view(ticks * batch, -1), of_own.view(ticks * batch, -1)
        of_w_i, of_w_h = a.t() @ x.reshape(ticks * batch, inputs), b.t() @ hidden[:-1].reshape(ticks * batch, size)
        return (a @ w_i).view(x.shape), of_hidden, of_w_i, of_w_h, a.sum(0), b.sum(0)


@opaque
def gru_sequence(gru: nn.GRU, x: Tensor, start: Tensor) -> Tensor:
    """`gru(x, start[None])[0]`: `[T, B, I]`, `[B, H]` to the hidden states `[T, B, H]` after every tick.

    Takes the fast way for few trials in float32 on the CPU, and torch's otherwise.
    """
    small = start.numel() <= BEST_UP_TO and x.device.type == "cpu" and x.dtype == torch.float32
    if recording() or not small or gru.num_layers != 1 or gru.bidirectional or not gru.bias or gru.batch_first:
        return gru(x, start[None])[0]
    return _Sequence.apply(x, start, *gru.all_weights[0])  # pyright: ignore[reportReturnType]
