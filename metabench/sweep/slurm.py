"""The Slurm engine: one array of jobs, a plain script; what vanished without a word is handed in again.

A member runs `metabench run-job OUT/jobs.jsonl LINE` and needs nothing but the shared folder: a member that Slurm
requeues (preempted, its node lost) goes on from the checkpoint. Slurm marks some members as failed that have done
nothing wrong (NODE_FAIL, TIMEOUT, OUT_OF_MEMORY); what counts here is the folder alone. A job with neither a result nor
a failure, and no member in the queue, is handed in again, a few times.
"""

from __future__ import annotations

import getpass
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from metabench.evaluation.results import write_atomically
from metabench.runs import iterations_done
from metabench.sweep.engine import Engine, Event, one_thread, python_path, settled_event
from metabench.sweep.folder import Place, give_up
from metabench.sweep.jobs import Job, add_to_plan

RETRIES = 5  # how many times a job is handed in again whose member vanished
BLOCK = 1000  # members of an array at most: Slurm's own limit is 1001 unless it is configured otherwise
SUBMITTED = "submitted.json"  # [array, index, line] of every member that was handed in
WARNING_SECONDS = 30  # before its time limit a member is told to end, and a training run writes a checkpoint
_GRACE = 2  # looks at the queue without a member before it counts as gone: a new array shows up with some delay


class Slurm(Engine):
    """Does jobs as arrays on a Slurm cluster; the folder must be on a file system that all nodes see.

    Args:
        options: For `sbatch`, as one would type them: `--partition=cpu --time=4:00:00 --mem=4G`.
        retries: How many times a job is handed in again whose member vanished without a result, and without a later
            checkpoint than the one before.
        poll: Seconds between two looks at the folder and the queue.
    """

    def __init__(self, options: str = "", retries: int = RETRIES, poll: float = 10.0):
        self.options, self.retries, self.poll = shlex.split(options), retries, poll
        self._width = 1

    @property
    def width(self) -> int:
        """The members that were running when last looked at."""
        return self._width

    def check(self) -> None:
        """See `Engine`."""
        for command in ("sbatch", "squeue"):
            if shutil.which(command) is None:
                raise ValueError(f"the engine slurm needs {command}, which is not on the PATH: is this a login node?")

    def events(self, jobs: Iterable[Job], out: Path) -> Iterator[Event]:
        """See `Engine`."""
        out, wanted = out.resolve(), list(dict.fromkeys(jobs))
        place = Place(out)
        numbers = {job: line for line, job in enumerate(add_to_plan(place.plan, wanted), 1)}
        open_jobs, array = {job: numbers[job] for job in wanted}, _Arrays(out, self.options)
        tries: Counter[Job] = Counter()
        far: Counter[Job] = Counter()  # iterations of training runs that lie in their checkpoints
        missing: Counter[Job] = Counter()
        while True:
            active, running = array.active(), set(place.running())  # before the results: what ends between is not gone
            self._width = max(1, len(running))
            for job in list(open_jobs):
                if settled := place.settled(job.key()):
                    del open_jobs[job]
                    yield settled_event(job, settled._replace(ran=tries[job] > 0, seconds=place.seconds(job.key())))
            if not open_jobs:
                return
            if active is None:  # the queue is not to be seen now
                time.sleep(self.poll)
                continue
            alive = {job for job, line in open_jobs.items() if line in active or job.key() in running}
            missing.update(job for job in open_jobs if job not in alive)
            for job in alive:
                missing[job] = 0
            gone = [job for job in open_jobs if not tries[job] or missing[job] > _GRACE]
            for job in gone:  # a member that came further did not vanish for nothing: its time was up
                if (reached := iterations_done(place.work / job.key()) or 0) > far[job]:
                    far[job], tries[job] = reached, 0
            spent = [job for job in gone if tries[job] > self.retries]
            for job in spent:
                give_up(job, out, f"its member of the array vanished {tries[job]} times without a result{array.last}")
            again = [job for job in gone if job not in spent and job not in alive]
            if again:
                array.submit([open_jobs[job] for job in again])
                for job in again:
                    tries[job] += 1
                    missing[job] = 0
                    yield Event("started", job)
            time.sleep(self.poll)


class _Member(NamedTuple):
    array: str  # Slurm's number of it
    task: int  # its index


class _Arrays:
    """The arrays that were handed in."""

    def __init__(self, out: Path, options: Sequence[str]):
        self.out, self.options = out, options
        self.folder = out / "slurm"
        self.lines: dict[_Member, int] = {}
        if (self.folder / SUBMITTED).exists():  # by a sweep that was stopped: its members may still be there
            for number, index, line in json.loads((self.folder / SUBMITTED).read_text()):
                self.lines[_Member(number, index)] = line

    @property
    def last(self) -> str:
        """Where members wrote what they had to say."""
        return f"; what it printed is in {self.folder}"

    def submit(self, lines: Sequence[int]) -> None:
        """Hands in these lines of the plan.

        Raises:
            ValueError: In one sentence, if sbatch refuses.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for block in sorted({(line - 1) // BLOCK for line in lines}):
            chosen = [line - block * BLOCK for line in lines if (line - 1) // BLOCK == block]
            path = self.folder / f"block-{block:03d}.sh"
            write_atomically(path, script(self.out, block * BLOCK).encode())
            command = ["sbatch", "--parsable", f"--array={ranges(chosen)}", *self.options, str(path)]
            answer = subprocess.run(command, capture_output=True, text=True)
            if answer.returncode:
                raise ValueError(f"sbatch refused the jobs: {' '.join(answer.stderr.split()) or answer.returncode}")
            number = answer.stdout.strip().partition(";")[0]
            self.lines |= {_Member(number, index): index + block * BLOCK for index in chosen}
            record = [[*member, line] for member, line in self.lines.items()]
            write_atomically(self.folder / SUBMITTED, json.dumps(record).encode())

    def active(self) -> set[int] | None:
        """The lines whose members wait or run; None if the queue does not answer."""
        if not self.lines:
            return set()
        command = ["squeue", "--noheader", "--array", "--format=%F %K", f"--user={getpass.getuser()}"]
        answer = subprocess.run(command, capture_output=True, text=True)
        if answer.returncode:
            return None
        found = set()
        for row in answer.stdout.splitlines():
            if match := re.fullmatch(r"\s*(\d+)\s+(\d+)\s*", row):
                found.add(self.lines.get(_Member(match[1], int(match[2])), 0))
        return found


def script(out: Path, offset: int) -> str:
    """The script of an array whose member N does line N + offset of the plan."""
    exports = one_thread() | {"PYTHONPATH": python_path()}
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=metabench",
        "#SBATCH --requeue",
        f"#SBATCH --signal=B:TERM@{WARNING_SECONDS}",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={out / 'slurm'}/%A-%a.log",
        "#SBATCH --cpus-per-task=1",
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"exec {shlex.quote(sys.executable)} -m metabench.cli run-job {shlex.quote(str(out / 'jobs.jsonl'))} "
        f"$((SLURM_ARRAY_TASK_ID + {offset}))",
    ]
    return "\n".join(lines) + "\n"


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers as Slurm writes them: 1-3,7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)
