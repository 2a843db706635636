"""The threads under the kernel: one batch of slots stepped together by this thread and its helpers."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import mujoco
import numpy as np

from metabench.physics import kernel
from metabench.rng import Array

THREADS_VARIABLE = "METABENCH_THREADS"  # how many threads step MuJoCo; all cores of this process by default
MIN_SLOTS_PER_THREAD = 4  # fewer are stepped faster by one thread than shared out


def default_threads() -> int:
    """As METABENCH_THREADS says, else the cores this process may use; ValueError if it says nonsense."""
    text = os.environ.get(THREADS_VARIABLE)
    if text is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{THREADS_VARIABLE} must be a whole number of at least 1, got {text!r}")
    return int(text)


def least_advance(model: mujoco.MjModel, frame_skip: int) -> int:
    """By how many nanoseconds the clock must advance: half a step less than it does if MuJoCo resets nothing."""
    return round(1e9 * model.opt.timestep * (frame_skip - 0.5)) if frame_skip else -1


class Stepper:
    """Steps up to `capacity` slots of models that share their sizes. Results do not depend on the threads.

    Args:
        model: Any of the models; gives the sizes.
        capacity: Slots at most.
        outputs: Fields of mjData copied out after a step, each a float64 array of fixed size: "xpos", "cfrc_ext", ...
        threads: Threads, this one included.
    """

    def __init__(self, model: mujoco.MjModel, capacity: int, outputs: tuple[str, ...], threads: int):
        self.threads = max(1, min(threads, capacity // MIN_SLOTS_PER_THREAD))
        self._data = [mujoco.MjData(model) for _ in range(self.threads)]
        self._model = model  # the data hold views into it
        size = mujoco.mj_stateSize(model, kernel.STATE)
        self.states = np.zeros((capacity, size))
        self.controls = np.zeros((capacity, max(1, model.nu)))
        size = sum(getattr(self._data[0], name).size for name in outputs)
        self.outputs = np.zeros((capacity, max(1, size)))
        self.models = np.zeros(capacity, dtype=np.int64)
        self._job_written: tuple[int, ...] = ()
        self._finite_columns = 1 + model.nq + model.nv
        self._control = np.zeros(kernel.PARKED + 8 * (self.threads + 1), dtype=np.int64)
        self._control[kernel.PARKED :: 8] = 1
        self._tables = [self._bind(data, outputs) for data in self._data]
        self._wake = [threading.Event() for _ in range(self.threads)]
        for k in range(1, self.threads):
            # The thread holds what it works on, not this object, so that this object can go.
            arguments = (self._control, k, self._tables[k])
            alive = (self._model, self._data, self.models, self.states, self.controls, self.outputs)
            threading.Thread(
                target=_help, args=(arguments, self._wake[k], alive), daemon=True, name=f"metabench-{k}"
            ).start()
        weakref.finalize(self, _stop, self._control, self._wake)

    def _bind(self, data: mujoco.MjData, outputs: tuple[str, ...]) -> Array:
        """The table of addresses and sizes of one thread."""
        table = [self.models.ctypes.data, self.states.ctypes.data, self.states.shape[1]]
        table += [self.controls.ctypes.data, self.controls.shape[1], self.outputs.ctypes.data, self.outputs.shape[1]]
        table += [data._address, data.ctrl.ctypes.data, len(outputs)]
        for name in outputs:
            field = getattr(data, name)
            table += [field.ctypes.data, field.size]
        return np.array(table, dtype=np.int64)

    def step(self, count: int, frame_skip: int, rne: bool = False, forward: bool = False) -> int:
        """Steps the first `count` rows of `states` in place, each with its row of `models` and `controls`.

        Returns:
            How many slots are no longer finite, or were reset by MuJoCo because they diverged.
        """
        job = (count, frame_skip, rne, forward)
        if job != self._job_written:
            chunk = max(1, count // (8 * self.threads))
            self._control[kernel.COUNT : kernel.LEAST + 1] = (
                count,
                chunk,
                frame_skip,
                rne,
                forward,
                self._finite_columns,
                least_advance(self._model, frame_skip),
            )
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
