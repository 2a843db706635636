"""What all engines have in common: jobs and a folder in, events out, and a finished job is never done again."""

from __future__ import annotations

import heapq
import itertools
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from metabench.sweep.folder import Outcome, Place
from metabench.sweep.jobs import Job

# One thread per process: several jobs share the machine, and sums over threads have another order, hence other bits.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "METABENCH_THREADS")
FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0  # seconds until a job that somebody else is at is looked at again


class Event(NamedTuple):
    """Something that happened to a job."""

    state: Literal["started", "done", "failed"]
    job: Job
    reason: str = ""  # why it failed
    ran: bool = False  # whether this engine did it; False if that was settled before, or by somebody else
    seconds: float = 0.0  # that it took


class Engine(ABC):
    """Does jobs."""

    @abstractmethod
    def check(self) -> None:
        """Refuses to start where it cannot work.

        Raises:
            ValueError: In one sentence.
            ImportError: A package is missing, with the command that installs it.
        """

    @abstractmethod
    def events(self, jobs: Iterable[Job], out: Path) -> Iterator[Event]:
        """Does what nobody has done yet, and tells what happens; a job that fails stops no other.

        Jobs that somebody else is at, in another process or on another machine, are waited for.
        """

    @property
    @abstractmethod
    def width(self) -> int:
        """How many jobs are done at a time, as far as is known."""

    def map(self, jobs: Iterable[Job], out: Path) -> Iterator[Path]:
        """The folders of the results, as they come; failed jobs have none."""
        self.check()
        for event in self.events(jobs, out):
            if event.state == "done":
                yield Place(out).result(event.job.key())


def one_thread() -> dict[str, str]:
    """The environment of a process that does jobs."""
    return dict.fromkeys(THREADS, "1")


def python_path() -> str:
    """What makes another Python find the modules that this one finds."""
    return os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)


def settled_event(job: Job, outcome: Outcome) -> Event:
    """The event that an outcome makes; not of a job that was taken."""
    assert outcome.state != "taken"
    return Event(outcome.state, job, outcome.reason, outcome.ran, outcome.seconds)


class Backlog:
    """Jobs that are still to be handed out: those not asked for yet, and those that somebody else was at.

    It takes jobs from the iterable one by one, so that a long one costs no memory.
    """

    def __init__(self, jobs: Iterable[Job]):
        self._jobs = iter(jobs)
        self._later: list[tuple[float, int, Job]] = []
        self._waits: dict[Job, float] = {}
        self._number = itertools.count()
        self.exhausted = False

    def take(self) -> Job | None:
        """The next job to hand out now."""
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[2]
        job = None if self.exhausted else next(self._jobs, None)
        self.exhausted = self.exhausted or job is None
        return job

    def later(self, job: Job) -> None:
        """Puts back a job that somebody else is at."""
        wait = min(2 * self._waits.get(job, FIRST_WAIT / 2), LONGEST_WAIT)
        self._waits[job] = wait
        heapq.heappush(self._later, (time.monotonic() + wait, next(self._number), job))

    def forget(self, job: Job) -> None:
        """Says that a job is settled."""
        self._waits.pop(job, None)

    @property
    def empty(self) -> bool:
        """Whether nothing is left, now or later."""
        return self.exhausted and not self._later

    @property
    def pause(self) -> float | None:
        """Seconds until a job that was put back is due; None if there is none."""
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
