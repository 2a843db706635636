"""Compiled copying of windows out of a memory-mapped file: one memcpy each, while the next ones are on their way.

Needs numba; `metabench.datasets.gather` does the same with numpy alone.
"""

# numba gives intrinsics other arguments than they are written with.
# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from metabench.physics.compiled import cached_njit
from metabench.rng import Array

LINE = 64  # bytes of a cache line
DISTANCE = 4  # windows asked for before they are copied: enough to hide the memory's latency, few enough for the L1


@intrinsic
def _prefetch(_context: Any, array: Any, index: Any) -> Any:
    """Asks for the cache line of `array[index]`; harmless for any index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        address = builder.bitcast(builder.gep(data, [args[1]]), pointer)
        builder.call(function, [address, word(0), word(0), word(1)])  # to read, once: the L2 is left to the batch
        return context.get_dummy_value()

    return types.void(array, index), generate


@intrinsic
def _copy(_context: Any, target: Any, there: Any, source: Any, here: Any, count: Any) -> Any:
    """`target[there : there + count] = source[here : here + count]` of bytes, by memcpy."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to = context.make_array(signature.args[0])(context, builder, args[0]).data
        of = context.make_array(signature.args[2])(context, builder, args[2]).data
        cgutils.raw_memcpy(builder, builder.gep(to, [args[1]]), builder.gep(of, [args[3]]), args[4], 1)
        return context.get_dummy_value()

    return types.void(target, there, source, here, count), generate


@cached_njit(nogil=True, error_model="numpy")
def gather(source: Array, last: Array, missing: Array, target: Array, row: int, length: int) -> bool:
    """Fills `target` with windows of `length` rows of `row` bytes; False, and nothing done, if one is not all inside.

    Args:
        source: All rows as bytes.
        last: `[B]` int64 the row each window ends with.
        missing: `[B]` int64 how many rows at its beginning are zeros instead.
        target: `[B * length * row]` uint8.
        row: Bytes of a row.
        length: Rows of a window.
    """
    size, count, rows = row * length, len(last), len(source) // row
    for b in range(count):
        if not (0 <= missing[b] <= length and length - 1 - missing[b] <= last[b] < rows):
            return False
    for b in range(min(DISTANCE, count)):
        begin = (last[b] + 1) * row - size
        for j in range(0, size, LINE):
            _prefetch(source, begin + j)
    for b in range(count):
        if b + DISTANCE < count:
            begin = (last[b + DISTANCE] + 1) * row - size
            for j in range(0, size, LINE):
                _prefetch(source, begin + j)
        zeros, there = missing[b] * row, b * size
        for j in range(there, there + zeros):
            target[j] = 0
        _copy(target, there + zeros, source, (last[b] + 1) * row - size + zeros, size - zeros)
    return True


@cached_njit(nogil=True, error_model="numpy")
def mark(within: Array, timesteps: Array, mask: Array) -> None:
    """For windows that end at these steps of their episodes, `[N, B]`, the step of every row and whether there is one.

    Fills `[N, B, K]` int32 and bool; the step is 0 where there is none.
    """
    count, length = within.size, timesteps.shape[2]
    flat, steps, real = within.reshape(count), timesteps.reshape(count, length), mask.reshape(count, length)
    for i in range(count):
        first = flat[i] - (length - 1)
        for k in range(length):
            steps[i, k] = max(first + k, 0)
            real[i, k] = first + k >= 0
