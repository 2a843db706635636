"""Random windows out of a memory-mapped file of rows: what is drawn, and how it is copied.

With numba installed the copying is compiled (`metabench.datasets.kernel`); with numpy alone the batches are the same.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any, Protocol

import numpy as np

from metabench.rng import Array


class Draw:
    """Steps drawn uniformly from some episodes, from the `shortest`-th step of each on.

    Raises:
        ValueError: If `shortest` is below 1 or no episode is that long.
    """

    def __init__(self, start: Array, length: Array, shortest: int):
        if shortest < 1:
            raise ValueError(f"a window has at least one step, got {shortest}")
        self.start, self.skip = start, shortest - 1
        open_ends = np.maximum(length - self.skip, 0)
        self.total = int(open_ends.sum())
        if not self.total:
            raise ValueError(f"no episode has {shortest} steps; the longest has {int(length.max())}")
        self.even = int(open_ends[0]) if (open_ends == open_ends[0]).all() else 0
        self.cumulative = np.cumsum(open_ends)
        self.base = self.cumulative - open_ends

    def __call__(self, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
        """Episode, row of steps.npy, and step within the episode, each of `shape`."""
        drawn = rng.integers(self.total, size=shape)
        if self.even:
            episode, within = np.divmod(drawn, self.even)
        else:
            episode = np.searchsorted(self.cumulative, drawn, side="right")
            within = drawn - self.base[episode]
        within = within + self.skip
        return episode, self.start[episode] + within, within


class Gather(Protocol):
    """Copies windows of K rows."""

    def __call__(self, last: Array, missing: Array) -> Array:
        """`[B, K]` rows ending with the rows `last` `[B]`; the first `missing` `[B]` of each are zero."""
        ...

    def mark(self, within: Array) -> tuple[Array, Array]:
        """Step within the episode and mask, `[N, B, K]`, of windows that end at these steps `[N, B]`."""
        ...


def gather(steps: Array, length: int, batch_size: int) -> Gather:
    """The fastest there is for windows of `length` rows of `steps`; ValueError if a size is below 1."""
    if length < 1 or batch_size < 1:
        raise ValueError(f"length and batch_size must be at least 1, got {length} and {batch_size}")
    compiled = kernel()
    return CompiledGather(compiled, steps, length, batch_size) if compiled else PlainGather(steps, length, batch_size)


@functools.cache
def kernel() -> Any:
    """`metabench.datasets.kernel`, or None without numba."""
    try:
        return importlib.import_module("metabench.datasets.kernel")
    except ModuleNotFoundError:
        return None


class CompiledGather:
    """By memcpy, window after window, each asked of the memory before it is needed."""

    def __init__(self, compiled: Any, steps: Array, length: int, batch_size: int):
        self.kernel, self.length, self.shape = compiled, length, (batch_size, length)
        self.row, self.size = steps.dtype, steps.dtype.itemsize
        self.source = np.asarray(steps).view(np.uint8).reshape(-1)
        self.bytes = self.size * length * batch_size

    def __call__(self, last: Array, missing: Array) -> Array:
        """See `Gather`."""
        target = np.empty(self.bytes, np.uint8)
        fits = len(last) == len(missing) == self.shape[0]
        if not fits or not self.kernel.gather(self.source, last, missing, target, self.size, self.length):
            raise ValueError("a window lies outside the steps: the episodes are not those of this file")
        return np.ndarray(self.shape, self.row, target)

    def mark(self, within: Array) -> tuple[Array, Array]:
        """See `Gather`."""
        timesteps, mask = np.empty((*within.shape, self.length), np.int32), np.empty((*within.shape, self.length), bool)
        self.kernel.mark(within, timesteps, mask)
        return timesteps, mask


class PlainGather:
    """By numpy: the file is looked at as overlapping opaque items of K rows, and numpy copies each by one memmove."""

    def __init__(self, steps: Array, length: int, batch_size: int):
        self.row, self.length, self.shape = steps.dtype, length, (batch_size, length)
        self.steps = np.asarray(steps)
        size, count = self.row.itemsize, max(len(steps) - length + 1, 0)
        item, content = np.dtype((np.void, size * length)), self.steps.view(np.uint8).data
        self.items = np.ndarray((count,), item, buffer=content, strides=(size,))
        self.touched = np.ndarray((count,), np.uint8, buffer=content, strides=(size,))
        self.opaque = np.dtype((np.void, size))
        self.zero = np.zeros((), self.opaque)

    def __call__(self, last: Array, missing: Array) -> Array:
        """See `Gather`."""
        start = last - (self.length - 1)
        if start.min() < 0:  # windows that would begin before the file
            return self._careful(last, missing)
        self.touched[start]  # asks for all the pages at once; the copies then find them
        rows = self.items[start]
        windows = np.flatnonzero(missing)
        if len(windows):
            counts = missing[windows]
            ends = np.cumsum(counts)
            blank = np.repeat(windows * self.length - (ends - counts), counts) + np.arange(int(ends[-1]))
            rows.view(self.opaque)[blank] = self.zero
        return rows.view(self.row).reshape(self.shape)

    def _careful(self, last: Array, missing: Array) -> Array:
        rows = np.zeros(self.shape, self.row)
        for b, (stop, zeros) in enumerate(zip((last + 1).tolist(), missing.tolist(), strict=True)):
            rows[b, zeros:] = self.steps[stop - (self.length - zeros) : stop]
        return rows

    def mark(self, within: Array) -> tuple[Array, Array]:
        """See `Gather`."""
        steps = within.astype(np.int32)[..., None] + np.arange(1 - self.length, 1, dtype=np.int32)
        return np.maximum(steps, 0), steps >= 0
