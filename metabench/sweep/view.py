"""How far a sweep is: what runs, frames per second, time left."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metabench.sweep.engine import Engine, Event
from metabench.sweep.folder import Place
from metabench.sweep.jobs import Job

if TYPE_CHECKING:
    from rich.table import Table

METRICS = "metrics.jsonl"
_TAIL = 8192  # bytes of the metrics' end that hold at least one row
_SAMPLES = 20  # finished jobs of a group whose times an estimate is made of


def estimate(place: Place, known: Sequence[Job], left: Sequence[Job]) -> float | None:
    """Core hours of the jobs `left`, from what finished ones of the same group among `known` took.

    A group without a finished job counts as the mean of those of its kind; None where no job of a kind is finished:
    what evaluations take says nothing about trainings.
    """
    times: dict[str, list[float]] = {}
    for job in known:
        taken = times.setdefault(job.group, [])
        if len(taken) < _SAMPLES and (seconds := place.seconds(job.key())):
            taken.append(seconds)
    seconds = _total(times, Counter(job.group for job in left))
    return None if seconds is None else seconds / 3600


def _total(times: Mapping[str, Sequence[float]], left: Mapping[str, int]) -> float | None:
    """Seconds of so many jobs of each group, from the times of finished ones; None where a kind has no finished one."""
    means = {group: sum(taken) / len(taken) for group, taken in times.items() if taken}
    kinds: dict[str, list[float]] = {}
    for group, mean in means.items():
        kinds.setdefault(_kind(group), []).append(mean)
    total = 0.0
    for group, count in left.items():
        if count and group not in means and _kind(group) not in kinds:
            return None
        if count:
            total += count * (means[group] if group in means else sum(same := kinds[_kind(group)]) / len(same))
    return total


def _kind(group: str) -> str:
    return group.partition(" ")[0]


class Progress:
    """What is known of a sweep under way."""

    def __init__(self, place: Place, jobs: Sequence[Job], engine: Engine):
        self.place, self.jobs, self.engine = place, jobs, engine
        self.counts: Counter[str] = Counter()
        self.failures: list[tuple[str, str]] = []
        self.names = {job.key(): job.label for job in jobs}
        self.groups = Counter(job.group for job in jobs)
        self._open = Counter(self.groups)
        self._times: dict[str, list[float]] = {}
        self._frames: dict[str, tuple[int, float]] = {}  # of a running job, when it was first seen: frames, their time

    def take(self, event: Event) -> None:
        """Notes an event."""
        if event.state == "started":
            return
        self.counts[event.state] += 1
        self._open[event.job.group] -= 1
        if event.state == "failed":
            self.failures.append((event.job.label, event.reason))
        elif event.seconds:
            self._times.setdefault(event.job.group, []).append(event.seconds)
            del self._times[event.job.group][:-_SAMPLES]

    def rates(self) -> dict[str, float | None]:
        """Frames per second of each job that runs, by its key; None where they are not known yet."""
        rates, seen = {}, {}
        for key in self.place.running():
            now, start = progress_of(self.place.work / key), self._frames.get(key)
            if now is not None:
                seen[key] = start or now
            rates[key] = None
            if now and start and now[1] > start[1] and now[0] > start[0]:
                rates[key] = (now[0] - start[0]) / (now[1] - start[1])
        self._frames = seen
        return rates

    def seconds_left(self) -> float | None:
        """Until all is done, if the engine stays as wide as it is; None while some kind has no finished job."""
        total = _total(self._times, self._open)
        return None if total is None else total / self.engine.width

    def line(self) -> str:
        """All of it in a line."""
        rates = self.rates()
        total = sum(rate for rate in rates.values() if rate)
        parts = [f"{self.counts['done']} of {len(self.jobs)} done", f"{len(rates)} running"]
        parts += [f"{self.counts['failed']} failed"] if self.counts["failed"] else []
        parts += [f"{total:,.0f} frames/s"] if total else []
        left = self.seconds_left()
        finished = self.counts["done"] + self.counts["failed"] >= len(self.jobs)
        parts += [f"{clock(left)} left"] if left is not None and not finished else []
        return ", ".join(parts)

    def table(self) -> Table:
        """The jobs that run, the last failures, and the line."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", caption=self.line(), caption_justify="left")
        table.add_column("running" if not self.failures else "running, failed", overflow="fold")
        table.add_column("frames/s", justify="right")
        for key, rate in self.rates().items():
            table.add_row(Text(self.names.get(key, f"another sweep's {key[:12]}")), f"{rate:,.0f}" if rate else "")
        for label, reason in self.failures[-5:]:
            table.add_row(Text(f"failed: {label}: {reason}", style="red"), "")
        return table


def progress_of(folder: Path) -> tuple[int, float] | None:
    """Environment steps of the run in a folder so far, and when they were written; None if it does not tell."""
    try:
        with (folder / METRICS).open("rb") as file:
            written = os.fstat(file.fileno()).st_mtime
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            rows = file.read().split(b"\n")
    except OSError:
        return None
    for row in reversed(rows):
        try:
            return int(json.loads(row)["frames"]), written
        except (ValueError, KeyError, TypeError):
            continue
    return None


def clock(seconds: float) -> str:
    """A duration in words: 12 s, 5 min, 3.2 h."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
