"""How many threads step simulations, and compiled loops over slots shared out among them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

THREADS_VARIABLE = "METABENCH_THREADS"  # how many threads step simulations; all cores of this process by default


def default_threads() -> int:
    """As METABENCH_THREADS says, else the cores this process may use; ValueError if it says nonsense."""
    text = os.environ.get(THREADS_VARIABLE)
    if text is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{THREADS_VARIABLE} must be a whole number of at least 1, got {text!r}")
    return int(text)


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process and threads: a fork has no threads of its parent's


def share_out(function: Callable[..., Any], arguments: tuple[Any, ...], count: int, least: int, threads: int) -> None:
    """Calls `function(*arguments, low, high)` until all of `count` slots are covered.

    Args:
        function: Compiled without the GIL; works on the slots low .. high-1 and on nothing else.
        arguments: What it is given before the bounds.
        count: Slots.
        least: Slots below which a thread of its own costs more than it saves.
        threads: Threads at most, this one included.
    """
    parts = min(threads, count // least)
    if parts < 2:
        function(*arguments, 0, count)
        return
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads - 1, "metabench")
    bounds = [count * k // parts for k in range(parts + 1)]
    others = [_pools[key].submit(function, *arguments, bounds[k], bounds[k + 1]) for k in range(1, parts)]
    function(*arguments, 0, bounds[1])
    for other in others:
        other.result()
