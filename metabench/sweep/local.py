"""The local engine: as many processes as cores, each with one thread, each doing one job after another."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from metabench.sweep.engine import Backlog, Engine, Event, one_thread, python_path, settled_event
from metabench.sweep.folder import Outcome, Place, give_up
from metabench.sweep.jobs import Job

RETRIES = 3  # how many times a job is tried again whose process died
STOP_SECONDS = 20.0  # that training runs have to reach a checkpoint when a sweep is stopped


class Local(Engine):
    """Does jobs on this machine.

    Args:
        workers: Processes; the cores this process may use by default.
        retries: How many times a job is tried again whose process died (killed for its memory, for instance).
    """

    def __init__(self, workers: int | None = None, retries: int = RETRIES):
        self.workers, self.retries = cores() if workers is None else workers, retries

    @property
    def width(self) -> int:
        """As many as there are processes."""
        return self.workers

    def check(self) -> None:
        """See `Engine`."""
        if self.workers < 1:
            raise ValueError(f"a sweep needs at least one worker, got {self.workers}")

    def events(self, jobs: Iterable[Job], out: Path) -> Iterator[Event]:
        """See `Engine`."""
        pool = _Pool(out, self.workers, self.retries)
        try:
            yield from pool.events(Backlog(jobs))
        finally:
            pool.close()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """One process, and a thread that listens to it."""

    def __init__(self, out: Path, heard: queue.SimpleQueue[tuple[_Worker, Outcome | None]]):
        self.job: Job | None = None
        environment = os.environ | one_thread() | {"PYTHONPATH": python_path()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "metabench.sweep.worker", str(out)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._heard = heard
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            if not line.endswith("\n"):  # it died in the middle of a word
                break
            self._heard.put((self, Outcome(**json.loads(line))))
        self._heard.put((self, None))

    def give(self, job: Job) -> None:
        """Hands over a job; a process that is dead will be heard of."""
        assert self.process.stdin
        self.job = job
        try:
            self.process.stdin.write(f"{job.to_json()}\n")
            self.process.stdin.flush()
        except OSError:
            self.process.kill()

    def ask_to_stop(self) -> None:
        """Ends the process: a training run behind a checkpoint, anything else at once."""
        self.process.terminate()

    def close(self) -> None:
        """Ends the process, whatever it is doing: the job goes on from its checkpoint another time."""
        assert self.process.stdin and self.process.stdout
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:  # an order was under way
                continue


class _Pool:
    """The processes of one sweep."""

    def __init__(self, out: Path, size: int, retries: int):
        self.out, self.place, self.size, self.retries = out, Place(out), size, retries
        self.heard: queue.SimpleQueue[tuple[_Worker, Outcome | None]] = queue.SimpleQueue()
        self.idle: list[_Worker] = []
        self.busy: list[_Worker] = []
        self.deaths: Counter[Job] = Counter()

    def events(self, backlog: Backlog) -> Iterator[Event]:
        """Until nothing is left to do."""
        while True:
            while len(self.busy) < self.size and (job := backlog.take()) is not None:
                if (settled := self.place.settled(job.key())) is not None:
                    backlog.forget(job)
                    yield settled_event(job, settled)
                    continue
                self._hand_out(job)
                yield Event("started", job)
            if not self.busy and backlog.empty:
                return
            try:
                free = len(self.busy) < self.size
                worker, outcome = self.heard.get(timeout=backlog.pause if free else None)
            except queue.Empty:
                continue
            if (event := self._heard(worker, outcome, backlog)) is not None:
                yield event

    def _hand_out(self, job: Job) -> None:
        worker = self.idle.pop() if self.idle else _Worker(self.out, self.heard)
        self.busy.append(worker)
        worker.give(job)

    def _heard(self, worker: _Worker, outcome: Outcome | None, backlog: Backlog) -> Event | None:
        job, worker.job = worker.job, None
        if worker in self.busy:
            self.busy.remove(worker)
        if outcome is not None:
            self.idle.append(worker)
        else:
            if worker in self.idle:
                self.idle.remove(worker)
            worker.close()
            if job is None:
                return None
            self.deaths[job] += 1
            if self.deaths[job] <= self.retries:
                backlog.later(job)
                return None
            outcome = give_up(job, self.out, self._obituary(worker, self.deaths[job]))
        assert job is not None
        if outcome.state == "taken":
            backlog.later(job)
            return None
        backlog.forget(job)
        del self.deaths[job]
        return settled_event(job, outcome)

    def _obituary(self, worker: _Worker, times: int) -> str:
        code = worker.process.returncode
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"its process died {times} times, last {how}"

    def close(self) -> None:
        """Ends all processes; training runs have a moment to write a checkpoint."""
        for worker in self.busy:
            worker.ask_to_stop()
        end = time.monotonic() + STOP_SECONDS
        try:
            for worker in self.busy:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, end - time.monotonic()))
        finally:  # Ctrl-C once more does not wait
            for worker in (*self.idle, *self.busy):
                worker.close()
