"""Speeds: units per second of a work, and how many kernels one of its units takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from metabench_agents.parts.device import Device
from metabench_agents.parts.fast.capture import WARM_UP
from torch.utils._python_dispatch import TorchDispatchMode

from studies.gpu.works import Making

ROUNDS = 3


class _Counting(TorchDispatchMode):
    """Counts operations: on the CPU, what kernels are on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def settle(device: Device) -> None:
    """Waits until the device has nothing to do."""
    if device.kind.type == "cuda":
        torch.cuda.synchronize()


def kernels(step: Callable[[], None], device: Device) -> int:
    """How many kernels a step runs, inside of graphs too."""
    if device.kind.type != "cuda":
        with _Counting() as counting:
            step()
        return counting.count
    from torch.profiler import ProfilerActivity, profile

    settle(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        settle(device)
    cuda = torch.autograd.DeviceType.CUDA  # pyright: ignore[reportPrivateImportUsage]
    names = [event.name for event in profiler.events() or () if event.device_type == cuda]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in names)


def rate(made: Making, device: Device, seconds: float, deadline: float) -> dict[str, Any]:
    """Units per second (the median of three rounds), and kernels per step of `count` units.

    Args:
        made: The work.
        device: Where it is done.
        seconds: Of all rounds.
        deadline: By `time.monotonic`, after which no further round begins.
    """
    first = time.perf_counter()
    for _ in range(WARM_UP + 1):
        made.step()
    settle(device)
    begun, steps = time.perf_counter() - first, 1
    start = time.perf_counter()
    made.step()
    settle(device)
    steps = max(1, math.ceil(seconds / ROUNDS / max(1e-6, time.perf_counter() - start)))
    rates = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(steps):
            made.step()
        settle(device)
        rates.append(steps * made.units / (time.perf_counter() - start))
        if time.monotonic() > deadline:
            break
    return {
        "rate": statistics.median(rates),
        "rounds": [round(value, 2) for value in rates],
        "begun_s": round(begun, 2),
        "kernels": kernels(made.step, device) / made.units,
    }
