"""The precision of matrix products, and the fastest way to make them that keeps it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]


@contextlib.contextmanager
def products(precision: Precision, device: str = "cpu") -> Iterator[None]:
    """Inside, matrix products are made the fastest way that keeps the precision.

    bf16: autocast, with float32 parameters and sums. tf32: on a GPU, products of numbers cut to ten bits behind the
    point, recurrent ones too; elsewhere as fp32. fp32: on a GPU never less than float32, whatever torch's defaults are;
    on the CPU oneDNN's products where they are float32 to the last bit (on AMD they take half the time of MKL's),
    torch's default elsewhere; torch offers oneDNN's under the name of a lower precision, which processors without bf16
    matrix units do not use.
    """
    if precision not in ("fp32", "tf32", "bf16"):
        raise ValueError(f"unknown precision {precision!r}; available: fp32, tf32, bf16")
    if precision == "bf16":
        with torch.autocast(device, torch.bfloat16):
            yield
        return
    if device == "cuda":
        with _on_cuda("tf32" if precision == "tf32" else "ieee"):
            yield
        return
    if device != "cpu":
        yield
        return
    switch: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        if not _exact():
            switch.fp32_precision = before
        yield
    finally:
        switch.fp32_precision = before


@contextlib.contextmanager
def _on_cuda(kind: str) -> Iterator[None]:
    """Inside, float32 products of a GPU are of a kind: "ieee" or "tf32"; cuDNN's default would be the second."""
    backends: Any = torch.backends
    switches = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = kind
        yield
    finally:
        for switch, kept in zip(switches, before, strict=True):
            switch.fp32_precision = kept


_known: dict[str, bool] = {}


def _exact() -> bool:
    """Whether products, as they are set now, have the error of float32 and not that of bf16."""
    if "exact" not in _known:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
        error = (a @ b - (a.double() @ b.double())).abs().max()
        _known["exact"] = bool(error < 1e-3)  # 5e-5 in float32, 1e-1 in bf16
    return _known["exact"]


@contextlib.contextmanager
def small_products() -> Iterator[None]:
    """Inside `products`, for batches of products of a few rows: torch's own way, which copies no strided operands."""
    switch: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before = switch.fp32_precision
    switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before
