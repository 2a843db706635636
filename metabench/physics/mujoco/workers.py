"""The threads under the kernel: one batch of slots stepped together by this thread and its helpers."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from metabench.physics.mujoco import kernel
from metabench.rng import Array

MIN_SLOTS_PER_THREAD = 4  # fewer are stepped faster by one thread than shared out


def least_advance(model: mujoco.MjModel, frame_skip: int) -> int:
    """By how many nanoseconds the clock must advance: half a step less than it does if MuJoCo resets nothing."""
    return round(1e9 * model.opt.timestep * (frame_skip - 0.5)) if frame_skip else -1


class Kind(NamedTuple):
    """Models that share their sizes, and what is copied out of their mjData after a step.

    An output is a field, "xpos" for all of it or "xpos:hand" for the row of that body; or "gap:3", three doubles of
    nothing, so that the outputs of different kinds can stand in the same columns.
    """

    model: mujoco.MjModel  # any of them
    outputs: tuple[str, ...]  # fields are float64 arrays of fixed size


def find_output(model: mujoco.MjModel, data: mujoco.MjData, output: str) -> tuple[int, int]:
    """The address of an output and its number of doubles."""
    name, _, part = output.partition(":")
    if name == "gap":
        return 0, int(part)
    field = getattr(data, name)
    if not part:
        return field.ctypes.data, field.size
    if name == "qpos":
        return field.ctypes.data + 8 * int(model.joint(part).qposadr[0]), 1
    element = {"geom": model.geom, "site": model.site}.get(name.split("_")[0], model.body)(part)
    return field[element.id].ctypes.data, field[element.id].size


class Stepper:
    """Steps up to `capacity` slots of models of one or several kinds. Results do not depend on the threads.

    Args:
        kinds: What models there are, all with the same time step; slot i has the kind `kinds[i]`, the first unless
            that is set.
        capacity: Slots at most.
        threads: Threads, this one included.
        width: Numbers in a row of `states`, where the caller's rows are wider than any kind needs.
    """

    def __init__(self, kinds: Sequence[Kind], capacity: int, threads: int, width: int = 0):
        self.threads = max(1, min(threads, capacity // MIN_SLOTS_PER_THREAD))
        self._data = [[mujoco.MjData(kind.model) for kind in kinds] for _ in range(self.threads)]
        size = max(width, *(mujoco.mj_stateSize(kind.model, kernel.STATE) for kind in kinds))
        self.states = np.zeros((capacity, size))
        self.controls = np.zeros((capacity, max(1, *(kind.model.nu for kind in kinds))))
        sources = [
            [
                [find_output(kind.model, data, output) for output in kind.outputs]
                for kind, data in zip(kinds, own, strict=True)
            ]
            for own in self._data
        ]
        size = max(sum(size for _, size in found) for found in sources[0])
        self.outputs = np.zeros((capacity, max(1, size)))
        self.models = np.zeros(capacity, dtype=np.int64)
        self.kinds = np.zeros(capacity, dtype=np.int64)
        self._job_written: tuple[int, ...] = ()
        self._control = np.zeros(kernel.PARKED + 8 * (self.threads + 1), dtype=np.int64)
        self._control[kernel.PARKED :: 8] = 1
        self._tables = [self._bind(kinds, *own) for own in zip(self._data, sources, strict=True)]
        self._wake = [threading.Event() for _ in range(self.threads)]
        # The data hold views into the models.
        self._kinds = tuple(kinds)
        alive = (self._kinds, self._data, self.models, self.kinds, self.states, self.controls, self.outputs)
        for k in range(1, self.threads):
            # The thread holds what it works on, not this object, so that this object can go.
            arguments = (self._control, k, self._tables[k])
            threading.Thread(
                target=_help, args=(arguments, self._wake[k], alive), daemon=True, name=f"metabench-{k}"
            ).start()
        weakref.finalize(self, _stop, self._control, self._wake)

    def _bind(
        self, kinds: Sequence[Kind], data: Sequence[mujoco.MjData], sources: Sequence[Sequence[tuple[int, int]]]
    ) -> Array:
        """The table of addresses and sizes of one thread."""
        batch = [self.models.ctypes.data, self.kinds.ctypes.data, self.states.ctypes.data, self.states.shape[1]]
        batch += [self.controls.ctypes.data, self.controls.shape[1], self.outputs.ctypes.data, self.outputs.shape[1]]
        rows = [batch]
        for (model, _), own, found in zip(kinds, data, sources, strict=True):
            finite = 1 + model.nq + model.nv
            rows.append([own._address, own.ctrl.ctypes.data, model.nu, finite, len(found), *sum(found, ())])
        table = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for filled, row in zip(table, rows, strict=True):
            filled[: len(row)] = row
        return table

    def step(self, count: int, frame_skip: int, rne: bool = False, forward: bool = False) -> int:
        """Steps the first `count` rows of `states` in place, each with its row of `models` and `controls`.

        Returns:
            How many slots are no longer finite, or were reset by MuJoCo because they diverged.
        """
        job = (count, frame_skip, rne, forward)
        if job != self._job_written:
            chunk = max(1, count // (8 * self.threads))
            least = least_advance(self._kinds[0].model, frame_skip)
            self._control[kernel.COUNT : kernel.LEAST + 1] = (count, chunk, frame_skip, rne, forward, least)
            self._job_written = job
        if self.threads > 1:
            for k in range(1, self.threads):
                if self._control[kernel.PARKED + 8 * k]:
                    self._wake[k].set()
        return kernel.step_batch(self._control, self._tables[0])


def _help(arguments: tuple[Any, ...], wake: threading.Event, alive: tuple[Any, ...]) -> None:
    """A helper thread; `alive` keeps what its addresses point to."""
    control = arguments[0]
    while True:
        wake.wait()
        wake.clear()
        if control[kernel.STOP]:
            return
        kernel.wait_and_work(*arguments)
        if control[kernel.STOP]:
            return


def _stop(control: Array, wake: list[threading.Event]) -> None:
    control[kernel.STOP] = 1
    for event in wake:
        event.set()
