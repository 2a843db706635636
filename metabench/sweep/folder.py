"""The folder of a sweep: what is done, under way and failed; how one job is done exactly once; the digest of a result.

    OUT/jobs.jsonl         the plan: one job per line
    OUT/results/KEY/       a finished job; the folder appears by one rename, when everything in it is on the disk
    OUT/work/KEY/          an unfinished one; KEY.lock is held by who works on it, and gone with its process
    OUT/failed/KEY.json    why it failed; KEY.log has what it printed, and the traceback

Any number of processes, on any number of machines that see the folder, may work in it: who holds a job's lock does it,
and nobody does what is finished. The locks are flock's: a shared file system must support them (NFS does since version
4, Lustre with `-o flock`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from metabench.evaluation.results import write_atomically
from metabench.sweep.jobs import Job, canonical
from metabench.sweep.work import do

JOB = "job.json"  # in a result: the job, and what it took
TIME = "time/"  # what begins so may differ between two equal runs
_SIZES = "metrics_bytes"  # a checkpoint's note of how long the metrics were: their times have more digits or fewer
_TENSORS = ".safetensors"

State = Literal["done", "failed", "running", "waiting"]


class Outcome(NamedTuple):
    """What became of one attempt at a job."""

    state: Literal["done", "failed", "taken"]  # taken: somebody else is at it
    reason: str = ""  # why it failed
    ran: bool = False  # whether it was done by this attempt; False if that was settled before
    seconds: float = 0.0  # that this attempt took


class Failure(NamedTuple):
    """Why a job failed."""

    reason: str
    log: Path
    attempt: int  # how many times it has failed
    again: bool  # whether it is to be tried again


class Place:
    """The paths of a sweep's folder."""

    def __init__(self, out: Path):
        self.out = Path(out)
        self.plan, self.results = self.out / "jobs.jsonl", self.out / "results"
        self.work, self.failures = self.out / "work", self.out / "failed"

    def result(self, key: str) -> Path:
        """Where a finished job lies."""
        return self.results / key

    def lock(self, key: str) -> FileLock:
        """The right to work on a job; not waited for."""
        return FileLock(self.work / f"{key}.lock", timeout=0)

    def log(self, key: str) -> Path:
        """What a job under way prints."""
        return self.work / f"{key}.log"

    def failure(self, key: str) -> Failure | None:
        """Why a job failed, if it did."""
        try:
            record = json.loads((self.failures / f"{key}.json").read_text())
        except FileNotFoundError:
            return None
        return Failure(record["reason"], self.failures / f"{key}.log", record["attempt"], record["again"])

    def settled(self, key: str) -> Outcome | None:
        """What has become of a job that nobody needs to work on; None if somebody does."""
        if self.result(key).exists():
            return Outcome("done")
        failure = self.failure(key)
        return Outcome("failed", failure.reason) if failure and not failure.again else None

    def state(self, key: str) -> State:
        """What has become of a job."""
        if settled := self.settled(key):
            return "done" if settled.state == "done" else "failed"
        if not (self.work / key).exists():
            return "waiting"
        try:
            with self.lock(key):
                return "waiting"
        except Timeout:
            return "running"

    def seconds(self, key: str) -> float:
        """How long a finished job took; 0 for others."""
        try:
            return float(json.loads((self.result(key) / JOB).read_text())[f"{TIME}seconds"])
        except FileNotFoundError:
            return 0.0

    def running(self) -> list[str]:
        """The keys of the jobs that somebody works on."""
        if not self.work.exists():
            return []
        return [path.name for path in self.work.iterdir() if path.is_dir() and self.state(path.name) == "running"]

    def fail(self, job: Job, reason: str) -> None:
        """Writes down that a job failed. Only for who holds its lock."""
        key, previous = job.key(), self.failure(job.key())
        self.failures.mkdir(parents=True, exist_ok=True)
        log = self.log(key)
        if not log.exists():
            log.write_text(f"{reason}\n")
        log.replace(self.failures / f"{key}.log")
        self._note(job, reason, previous.attempt + 1 if previous else 1, again=False)

    def forgive(self, job: Job) -> bool:
        """Lets a failed job be tried again; whether it was one."""
        failure = self.failure(job.key())
        if failure is None or failure.again or self.result(job.key()).exists():
            return False
        self._note(job, failure.reason, failure.attempt, again=True)
        return True

    def _note(self, job: Job, reason: str, attempt: int, *, again: bool) -> None:
        record = {"job": json.loads(job.to_json()), "reason": reason, "attempt": attempt, "again": again}
        write_atomically(self.failures / f"{job.key()}.json", json.dumps(record, indent=1).encode())

    def publish(self, job: Job) -> None:
        """Shows a finished job's folder under its name. Only for who holds its lock."""
        key = job.key()
        folder = self.work / key
        for leftover in folder.rglob(".*"):  # locks, and temporary files of attempts that were killed
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for path in (*folder.rglob("*"), folder):
            _sync(path)
        self.results.mkdir(parents=True, exist_ok=True)
        folder.rename(self.result(key))
        _sync(self.results)
        for path in (self.failures / f"{key}.json", self.failures / f"{key}.log", self.log(key)):
            path.unlink(missing_ok=True)
        # who opened the lock before it goes away looks for the result first, and finds it
        (self.work / f"{key}.lock").unlink(missing_ok=True)


def perform(job: Job, out: Path) -> Outcome:
    """Does a job, unless it is finished, has failed, or somebody else is at it.

    A failure of the job is an outcome; what the job leaves when it is killed, the next attempt goes on with.
    """
    place, key = Place(out), job.key()
    if settled := place.settled(key):
        return settled
    place.work.mkdir(parents=True, exist_ok=True)
    try:
        with place.lock(key):
            return place.settled(key) or _attempt(job, place)
    except Timeout:
        return Outcome("taken")


def _attempt(job: Job, place: Place) -> Outcome:
    key, start, cpu = job.key(), time.perf_counter(), time.process_time()
    folder = place.work / key
    folder.mkdir(exist_ok=True)
    if not (folder / JOB).exists():  # otherwise only the rename is missing
        try:
            with _logged(place.log(key)):
                do(job, folder)
        except (Exception, SystemExit) as error:
            reason = _words(error)
            place.fail(job, reason)
            return Outcome("failed", reason, ran=True, seconds=time.perf_counter() - start)
        record = json.loads(job.to_json()) | {
            f"{TIME}seconds": round(time.perf_counter() - start, 6),
            f"{TIME}cpu_seconds": round(time.process_time() - cpu, 6),
        }
        part = folder / f".{JOB}"
        part.write_text(json.dumps(record, indent=1))
        part.replace(folder / JOB)
    place.publish(job)
    return Outcome("done", ran=True, seconds=time.perf_counter() - start)


def give_up(job: Job, out: Path, reason: str) -> Outcome:
    """Notes that a job cannot be done, because whoever tries it dies."""
    place = Place(out)
    place.work.mkdir(parents=True, exist_ok=True)
    try:
        with place.lock(job.key()):
            if settled := place.settled(job.key()):
                return settled
            place.fail(job, reason)
    except Timeout:
        return Outcome("taken")
    return Outcome("failed", reason, ran=True)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Sends what is printed, by whatever code, to a file, and the traceback of an error as well."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab", buffering=0) as log:
        try:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                yield
            except BaseException:
                log.write(traceback.format_exc().encode())
                raise
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
        finally:
            for number, original in enumerate(kept, 1):
                os.dup2(original, number)
                os.close(original)


def _words(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError | ImportError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(folder: Path) -> str:
    """SHA-256 of a result's files, without what is time: two equal runs have the same.

    All files are hashed, with their names, as they are, but for

    - JSON and lines of JSON: what is called `time/...`, at any depth, is left out;
    - safetensors: the same in the metadata, and `metrics_bytes`, the length of metrics.jsonl, in which times are
      written out; the tensors are hashed with names, shapes and types.
    """
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + _content(path))
    return total.hexdigest()


def _content(path: Path) -> bytes:
    """The hash of a file without what is time."""
    if path.suffix == ".json":
        return hashlib.sha256(canonical(_timeless(json.loads(path.read_text()))).encode()).digest()
    if path.suffix == ".jsonl":
        lines = [canonical(_timeless(json.loads(line))) for line in path.read_text().splitlines()]
        return hashlib.sha256("\n".join(lines).encode()).digest()
    if path.suffix == _TENSORS:
        return _tensors(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(v) for name, v in value.items() if not name.startswith(TIME) and name != _SIZES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def _tensors(path: Path) -> bytes:
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    head = json.loads(content[8 : 8 + size])
    notes = head.pop("__metadata__", {})
    for name, text in notes.items():
        try:
            notes[name] = _timeless(json.loads(text))
        except ValueError:
            continue
    return hashlib.sha256(canonical([notes, head]).encode() + content[8 + size :]).digest()
