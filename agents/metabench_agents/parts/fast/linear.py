"""Linear layers whose float32 products go through oneDNN where PyTorch's own BLAS is slow.

PyTorch's CPU wheels multiply float32 matrices with MKL, which takes slow paths on processors that are not Intel's: on
an AMD EPYC (Zen 5) a 4096 x 300 x 300 product ran at 70 GFLOP/s with MKL and at 250 with oneDNN, which the same wheel
contains. Results differ in the last bits only, as between any two BLAS. Elsewhere, for small products, in bfloat16, on
a GPU and under torch.compile the layer is `nn.Linear`.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_ROWS = 128  # below, the call costs more than the product saves
_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def prefers_onednn() -> bool:
    """Whether this machine's float32 products are faster through oneDNN: x86 that is not Intel's."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    vendor = _CPUINFO.read_text() if _CPUINFO.exists() else platform.processor()
    return "AuthenticAMD" in vendor


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    """x W^T + b with oneDNN, and so its gradient by x; the weights' gradient is a product that MKL does as fast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = grads[0].reshape(-1, weight.shape[0])
        by_x = _product(flat, weight.t(), None).view_as(x) if ctx.needs_input_grad[0] else None
        by_weight = flat.t() @ x.reshape(-1, weight.shape[1]) if ctx.needs_input_grad[1] else None
        return by_x, by_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


class Linear(nn.Linear):
    """`nn.Linear`, faster in float32 on some machines."""

    def forward(self, input: Tensor) -> Tensor:
        """`[..., I]` to `[..., O]`."""
        large = input.dtype == torch.float32 and input.numel() >= MIN_ROWS * self.in_features
        if torch.compiler.is_compiling() or not large or not prefers_onednn():
            return F.linear(input, self.weight, self.bias)
        if input.is_cuda or torch.is_autocast_enabled("cpu"):
            return F.linear(input, self.weight, self.bias)
        return _OneDNNLinear.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]
