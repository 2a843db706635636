"""The Ray engine: a job is a task of one core; what dies with its worker or its node is done again elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from metabench.sweep.engine import Backlog, Engine, Event, one_thread, settled_event
from metabench.sweep.folder import Outcome, Place, give_up, perform
from metabench.sweep.jobs import Job
from metabench.sweep.local import cores

RETRIES = 5  # how many times a task is tried again whose worker or node died
AHEAD = 2  # tasks handed to Ray per core of the cluster: enough that no core waits for the driver
CONNECT_SECONDS = 5.0  # until an address that does not answer counts as unreachable
_LOOK_SECONDS = 0.2  # how long to wait for a task before jobs put back are looked at again


class Ray(Engine):
    """Does jobs on a Ray cluster; the folder must be on a file system that all its nodes see.

    Args:
        address: Of a running cluster: `HOST:PORT`, or `auto` for the one this machine belongs to. Without one, a
            cluster of this machine alone is started, and stopped at the end.
        workers: Cores of the cluster that is started; all by default.
        retries: How many times a job is tried again whose worker or node died.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, retries: int = RETRIES):
        self.address, self.retries = address, retries
        self.workers = cores() if workers is None else workers
        self._cores = self.workers

    @property
    def width(self) -> int:
        """The cores of the cluster, once it is known."""
        return self._cores

    def check(self) -> None:
        """See `Engine`."""
        _ray()
        if self.workers < 1:
            raise ValueError(f"a sweep needs at least one worker, got {self.workers}")
        if self.address is None or self.address == "auto":
            return
        host, _, port = self.address.removeprefix("ray://").partition(":")
        if not host or not port.isdigit():
            raise ValueError(f"the address of a Ray cluster is HOST:PORT or auto, got {self.address!r}")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ValueError(f"no Ray cluster answers at {self.address}: {error}") from None

    def events(self, jobs: Iterable[Job], out: Path) -> Iterator[Event]:
        """See `Engine`."""
        ray = _ray()
        with self._cluster(ray):
            task = ray.remote(num_cpus=1, max_retries=self.retries)(work)
            yield from self._events(ray, task, Backlog(jobs), out.resolve())

    @contextlib.contextmanager
    def _cluster(self, ray: Any) -> Iterator[None]:
        """The connection; one that the caller has made is used, and left open."""
        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {"log_to_driver": False}
        if self.address is None:
            options |= {"num_cpus": self.workers, "include_dashboard": False}
        try:
            ray.init(address=self.address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            what = self.address or "this machine"
            raise ValueError(f"no Ray cluster can be used at {what}: {str(error).splitlines()[0]}") from None
        try:
            yield
        finally:
            ray.shutdown()

    def _events(self, ray: Any, task: Any, backlog: Backlog, out: Path) -> Iterator[Event]:
        place, pending = Place(out), {}
        while True:
            self._cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(pending) < AHEAD * self._cores and (job := backlog.take()) is not None:
                if (settled := place.settled(job.key())) is not None:
                    backlog.forget(job)
                    yield settled_event(job, settled)
                    continue
                pending[task.remote(job.to_json(), str(out), sys.path)] = job
                yield Event("started", job)
            if not pending and backlog.empty:
                return
            if not pending:
                time.sleep(backlog.pause or 0.0)
                continue
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_LOOK_SECONDS)
            for reference in ready:
                job = pending.pop(reference)
                outcome = _outcome(ray, reference, job, out)
                if outcome.state == "taken":
                    backlog.later(job)
                    continue
                backlog.forget(job)
                yield settled_event(job, outcome)


def _outcome(ray: Any, reference: Any, job: Job, out: Path) -> Outcome:
    try:
        return Outcome(*ray.get(reference))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error  # of an error in the task itself
        reason = str(cause).strip().splitlines() or [""]
        return give_up(job, out, f"{type(cause).__name__}: {reason[0]}")


def work(text: str, out: str, path: list[str]) -> tuple[Any, ...]:
    """One task: does a job and returns its outcome. Runs on any node.

    Raises:
        FileNotFoundError: If this node does not see the sweep's folder.
    """
    os.environ.update(one_thread())  # Ray itself has set OMP_NUM_THREADS before anything was loaded
    sys.path.extend(entry for entry in path if entry not in sys.path)
    if not Path(out).is_dir():
        node = socket.gethostname()
        raise FileNotFoundError(f"the node {node} does not see {out}: a sweep on Ray needs a folder that all nodes see")
    return tuple(perform(Job.from_json(text), Path(out)))


def _ray() -> Any:
    """Ray itself, loaded when it is used.

    Raises:
        ImportError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        name = error.name
        raise ImportError(
            f"the engine ray needs the package {name}, which is not installed: pip install 'metabench[ray]'"
        ) from None
