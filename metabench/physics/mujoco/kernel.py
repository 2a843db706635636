"""Batched MuJoCo stepping: libmujoco called from compiled code without the GIL, chunks of slots taken by any thread.

The state of a slot is MuJoCo's `mjSTATE_INTEGRATION` (time, positions, velocities, activations, the solver's warm
start, controls, applied forces, mocap): what an exact continuation needs. One `mjData` serves a thread, not a slot:
it is set to the slot's state, stepped, and read back, so slots differ in nothing but their rows.

Threads share one word, (generation << 32) | next slot. A thread takes a chunk by compare-and-swap on it, so a thread
that comes late can neither take work of another generation nor lose any.
"""

# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportPrivateImportUsage=false
# MuJoCo is a compiled module without type stubs, and numba gives intrinsics other arguments than they are written with.

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import mujoco
import numba as nb
from numba.core import cgutils, types
from numba.core.typing import signature
from numba.extending import intrinsic

from metabench.physics.compiled import cached_njit

LIBRARY = next(Path(mujoco.__file__).parent.glob("libmujoco.*"))
llvm.load_library_permanently(str(LIBRARY))  # so that the kernel can name its symbols, and be cached on disk

STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
SPINS = 2000  # pauses before a waiting thread naps
NAPS = 400  # sleeps before it parks in Python, where it costs nothing
NAP_MICROSECONDS = 20

# Words of the control block, each on its own cache line; the job's stay together, nobody writes them during a batch.
WORD, DONE, BAD, STOP, JOB, PARKED = 0, 8, 16, 24, 32, 40  # PARKED + 8 k belongs to thread k
COUNT, CHUNK, FRAME_SKIP, RNE, FORWARD, LEAST = range(JOB, JOB + 6)
CLOSED = (1 << 31) - 1  # the next slot of a generation that is over: late threads find nothing to take

# What a thread works on, as addresses and sizes: row 0 of its table is of the batch, row 1 + k of the slots of kind k,
# whose models share their sizes. A source is an address in the kind's mjData, 0 for a gap, and a number of doubles.
MODELS, KINDS, STATES, STATE_SIZE, CONTROLS, CONTROL_SIZE, OUTPUTS, OUTPUT_SIZE = range(8)
DATA, CONTROL, NU, FINITE, SOURCES = range(5)

_pointer = types.intp
_mj_step = types.ExternalFunction("mj_step", signature(types.void, _pointer, _pointer))
_mj_forward = types.ExternalFunction("mj_forward", signature(types.void, _pointer, _pointer))
_mj_rne = types.ExternalFunction("mj_rnePostConstraint", signature(types.void, _pointer, _pointer))
_mj_get = types.ExternalFunction("mj_getState", signature(types.void, _pointer, _pointer, _pointer, types.uint32))
_mj_set = types.ExternalFunction("mj_setState", signature(types.void, _pointer, _pointer, _pointer, types.uint32))
_mju_copy = types.ExternalFunction("mju_copy", signature(types.void, _pointer, _pointer, types.int32))
_usleep = types.ExternalFunction("usleep", signature(types.int32, types.uint32))


def _element(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    array = context.make_array(sig.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def atomic_load(typing: Any, array: Any, index: Any) -> Any:
    """array[index], sequentially consistent."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_element(context, builder, sig, args), "seq_cst", 8)

    return types.int64(array, types.intp), codegen


@intrinsic
def atomic_store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] = value, sequentially consistent."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _element(context, builder, sig, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), codegen


@intrinsic
def atomic_add(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index] += value; gives the value before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _element(context, builder, sig, args), args[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def compare_and_swap(typing: Any, array: Any, index: Any, old: Any, new: Any) -> Any:
    """Sets array[index] to new if it is old; whether it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _element(context, builder, sig, args)
        result = builder.cmpxchg(place, args[2], args[3], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), codegen


@intrinsic
def load_int(typing: Any, address: Any) -> Any:
    """The int64 at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.intp), codegen


@intrinsic
def load_double(typing: Any, address: Any) -> Any:
    """The float64 at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.DoubleType().as_pointer()))

    return types.float64(types.intp), codegen


@intrinsic
def pause(typing: Any) -> Any:
    """Tells the processor that this is a waiting loop; nothing where there is no such instruction."""
    machine = platform.machine().lower()

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if machine in ("x86_64", "amd64", "i686"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):
            builder.asm(ir.FunctionType(ir.VoidType(), []), "yield", "", [], side_effect=True)
        return context.get_dummy_value()

    return types.void(), codegen


@cached_njit(nogil=True)
def take_chunks(control, generation, table):
    """Steps chunks of slots until this generation has none left.

    Args:
        control: The shared words. The job among them: slots, chunk, frame_skip, whether to call mj_rnePostConstraint,
            whether to call mj_forward, and by how many nanoseconds the state's clock must advance.
        generation: The one this thread was called for.
        table: Addresses and sizes, in the order of the constants above: one array costs less to hand over than ten.
    """
    mask = (1 << 32) - 1
    width = 8 * table[0, STATE_SIZE]
    while True:
        word = atomic_load(control, WORD)
        if word >> 32 != generation:
            return
        low, count, chunk = word & mask, control[COUNT], control[CHUNK]
        if low >= count:
            return
        if not compare_and_swap(control, WORD, word, word + chunk):
            continue
        high = min(count, low + chunk)
        for i in range(low, high):
            row, model = table[0, STATES] + width * i, load_int(table[0, MODELS] + 8 * i)
            kind = 1 + load_int(table[0, KINDS] + 8 * i)
            data, time = table[kind, DATA], load_double(row)
            _mj_set(model, data, row, nb.uint32(STATE))
            controls = table[0, CONTROLS] + 8 * table[0, CONTROL_SIZE] * i
            _mju_copy(table[kind, CONTROL], controls, nb.int32(table[kind, NU]))
            for _ in range(control[FRAME_SKIP]):
                _mj_step(model, data)
            if control[RNE]:
                _mj_rne(model, data)
            if control[FORWARD]:
                _mj_forward(model, data)
            _mj_get(model, data, row, nb.uint32(STATE))
            finite = 0.0
            for column in range(table[kind, FINITE]):
                finite += 0.0 * load_double(row + 8 * column)  # 0, or NaN if any is not finite
            if finite != 0.0 or load_double(row) - time < 1e-9 * control[LEAST]:  # MuJoCo resets what diverges
                atomic_add(control, BAD, 1)
            place = table[0, OUTPUTS] + 8 * table[0, OUTPUT_SIZE] * i
            for k in range(table[kind, SOURCES]):
                source, length = table[kind, SOURCES + 1 + 2 * k], table[kind, SOURCES + 2 + 2 * k]
                if source != 0:
                    _mju_copy(place, source, nb.int32(length))
                place += 8 * length
        atomic_add(control, DONE, high - low)


@cached_njit(nogil=True)
def wait_and_work(control, thread, table):
    """A helper thread: works on every new generation, spins, then naps, then parks by returning."""
    parked = PARKED + 8 * thread
    atomic_store(control, parked, 0)
    seen = 0
    while True:
        waits = 0
        while atomic_load(control, WORD) >> 32 == seen:
            if atomic_load(control, STOP) != 0:
                return
            waits += 1
            if waits < SPINS:
                pause()
            elif waits < SPINS + NAPS:
                _usleep(nb.uint32(NAP_MICROSECONDS))
            else:
                atomic_store(control, parked, 1)
                if atomic_load(control, WORD) >> 32 == seen:
                    return
                atomic_store(control, parked, 0)
        seen = atomic_load(control, WORD) >> 32
        take_chunks(control, seen, table)


@cached_njit(nogil=True)
def step_batch(control, table):
    """The calling thread: opens a generation, takes chunks like the others, waits until all are done, closes it.

    Returns:
        How many slots are no longer finite or were reset by MuJoCo.
    """
    generation = (atomic_load(control, WORD) >> 32) + 1
    atomic_store(control, DONE, 0)
    atomic_store(control, BAD, 0)
    atomic_store(control, WORD, generation << 32)
    take_chunks(control, generation, table)
    while atomic_load(control, DONE) < control[COUNT]:
        pause()
    atomic_store(control, WORD, (generation << 32) + CLOSED)
    return atomic_load(control, BAD)
