"""Counter-based random streams, one per slot, drawn as arrays.

The n-th number of a slot is a hash of (key of the slot, n). Nothing else enters, so row i of a batch equals the single
run with seed + i, and results depend neither on the number of slots nor on threads. The hash is the output
function of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_STEP = 0x9E3779B97F4A7C15  # odd integer nearest 2^64 / golden ratio: the step of the Weyl sequence
_GOLDEN = np.uint64(_STEP)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S11 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(11)
_WORD = 0xFFFFFFFFFFFFFFFF
_TO_UNIT = 2.0**-53  # a double in [0, 1) has 53 random bits


def whole_number(value: Any) -> int | None:
    """A whole number of any integer type, 0-d arrays too, as an int; None for all else, booleans and floats too."""
    if type(value) is int:
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None


def whole_numbers(values: Any) -> list[int] | None:
    """A sequence or 1-d array of whole numbers as Python's; None for all else."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence | np.ndarray) or np.ndim(values) != 1:
        return None
    numbers = [whole_number(value) for value in values]
    return None if None in numbers else numbers  # pyright: ignore[reportReturnType]


def _mix(z: Array) -> Array:
    """SplitMix64's bijective output function on uint64 arrays; `z` is overwritten."""
    z ^= z >> _S30
    z *= _MIX_1
    z ^= z >> _S27
    z *= _MIX_2
    z ^= z >> _S31
    return z


def _fold(seed: int) -> int:
    """A seed of any size as 64 bits; seeds below 2^64 are kept, so that they stay distinct."""
    word = seed & _WORD
    while seed := seed >> 64:
        hashed = _mix(np.array([word], dtype=np.uint64) + _GOLDEN)
        word = (int(hashed[0]) + seed) & _WORD
    return word


class SlotRng:
    """B independent streams. A draw returns an array that leads with `[B]` and advances the streams it drew from."""

    __slots__ = ("_counter", "_key", "_slots")

    def __init__(self, key: Array, counter: Array, slots: Array | None = None):
        self._key = key  # [B] uint64, never changes
        self._counter = counter  # [all slots] uint64, shared between a stream and its selections
        self._slots = slots  # [B] rows of `counter` that this object draws from; None means all

    @classmethod
    def from_seeds(cls, seeds: Sequence[int] | Array) -> SlotRng:
        """One stream per seed; ValueError unless seeds are non-negative integers, which may be of any size."""
        if isinstance(seeds, np.ndarray) and seeds.dtype.kind == "u" and seeds.ndim == 1:
            words = seeds.astype(np.uint64)
        else:
            numbers = seeds if isinstance(seeds, range) else [whole_number(seed) for seed in seeds]
            if any(number is None or number < 0 for number in numbers):
                raise ValueError(f"seeds must be non-negative integers, got {seeds!r}")
            words = np.array([_fold(number) for number in numbers], dtype=np.uint64)  # pyright: ignore[reportArgumentType]
        key = _mix(_mix(words + _GOLDEN) ^ _MIX_1)  # twice: neighbouring seeds must not give neighbouring streams
        return cls(key, np.zeros(len(words), dtype=np.uint64))

    @classmethod
    def counting(cls, seed: int, count: int) -> SlotRng:
        """The streams of `seed`, `seed + 1`, ...: `count` of them, as `from_seeds` makes them."""
        if 0 <= seed <= _WORD - count:
            return cls.from_seeds(np.uint64(seed) + np.arange(count, dtype=np.uint64))
        return cls.from_seeds(range(seed, seed + count))

    def __len__(self) -> int:
        return len(self._key)

    def at(self, slots: Array) -> SlotRng:
        """The streams of the slots with these indices; drawing from them advances this object's streams too."""
        rows = slots if self._slots is None else self._slots[slots]
        return SlotRng(self._key[slots], self._counter, rows)

    def renew(self, slots: Array, streams: SlotRng) -> None:
        """Gives these slots other streams, from where those stand; this object must hold all slots."""
        self._key[slots], self._counter[slots] = streams.state()

    def positions(self, slots: Array) -> Array:
        """How many numbers the streams of these slots have given, copied: what `rewind` takes them back to."""
        return self._counter[slots]

    def rewind(self, slots: Array, positions: Array) -> None:
        """Takes the streams of these slots back to where they once stood; this object must hold all slots."""
        self._counter[slots] = positions

    def bits(self, count: int) -> Array:
        """`[B, count]` uniform 64-bit words."""
        if len(self._key) == 1:
            return np.array((self._words_of_one(count),), dtype=np.uint64)
        start = self._counter if self._slots is None else self._counter[self._slots]
        if count == 1:
            start = start + np.uint64(1)
            words = _mix(start * _GOLDEN + self._key)[:, None]
        else:
            index = start[:, None] + np.arange(1, count + 1, dtype=np.uint64)
            words = _mix(index * _GOLDEN + self._key[:, None])
            start = index[:, -1]
        if self._slots is None:
            self._counter[:] = start
        else:
            self._counter[self._slots] = start
        return words

    def _words_of_one(self, count: int) -> list[int]:
        """The words of a single stream in Python's integers: there, arrays cost five times the arithmetic."""
        row = 0 if self._slots is None else int(self._slots[0])
        key, start, words = int(self._key[0]), int(self._counter[row]), []
        for index in range(start + 1, start + count + 1):
            z = (index * _STEP + key) & _WORD
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
            words.append(z ^ (z >> 31))
        self._counter[row] = start + count
        return words

    def random(self, size: int | tuple[int, ...] = ()) -> Array:
        """`[B, *size]` float64 uniform on [0, 1)."""
        if size == () and len(self._key) == 1:
            return np.array(((self._words_of_one(1)[0] >> 11) * _TO_UNIT,))
        shape = (size,) if isinstance(size, int) else size
        return ((self.bits(math.prod(shape)) >> _S11) * _TO_UNIT).reshape(len(self._key), *shape)

    def uniform(self, low: Array | float, high: Array | float, size: int | tuple[int, ...] = ()) -> Array:
        """`[B, *size]` float64 uniform on [low, high)."""
        return low + (high - low) * self.random(size)

    def normal(self, scale: Array | float = 1.0, size: int | tuple[int, ...] = ()) -> Array:
        """`[B, *size]` float64 Gaussian with mean 0 (Box-Muller, two words a number)."""
        shape = (size,) if isinstance(size, int) else size
        u = self.random((*shape, 2))
        radius = np.sqrt(-2.0 * np.log1p(-u[..., 0]))
        return scale * radius * np.cos(2.0 * np.pi * u[..., 1])

    def integers(self, high: Array | int, size: int | tuple[int, ...] = ()) -> Array:
        """`[B, *size]` int64 uniform on 0 .. high-1; `high` far below 2^53, so the bias is below 1e-15 times `high`."""
        return (self.random(size) * high).astype(np.int64)

    def state(self) -> tuple[Array, Array]:
        """Key and counter `[B]` uint64, copied: enough to continue the streams elsewhere."""
        counter = self._counter if self._slots is None else self._counter[self._slots]
        return self._key.copy(), counter.copy()
