"""What an engine of `metabench sweep` costs: two local workers against one, and what a job costs beside its work.

    python -m studies.sweep_speed            # wants two idle cores; with Ray where it is installed

Prints a line per measurement: seconds of four training runs under one and two workers, and milliseconds per job of
jobs that do nothing, on the local engine and on Ray.
"""

import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from metabench.sweep import Engine, Job, Local, Ray

__all__ = ["idle", "main", "nothing", "trained"]

FRAMES, RUNS, TRIVIAL, REPEATS = 150_000, 4, 200, 3


def nothing(seed: int, folder: str) -> int:
    """A job's work: none."""
    return seed


@contextmanager
def seconds() -> Iterator[Callable[[], float]]:
    start = time.perf_counter()
    yield lambda: time.perf_counter() - start


def trained(workers: int) -> float:
    """Seconds of `RUNS` training runs of RL2 on GridSwitch, the processes' start included."""
    settings = {"agent": "rl2", "benchmark": "GridSwitch-v0", "config": {"frames": FRAMES}}
    jobs = [Job("train", settings, seed) for seed in range(RUNS)]
    with tempfile.TemporaryDirectory() as folder, seconds() as passed:
        list(Local(workers).map(jobs, Path(folder)))
        return passed()


def idle(engine: Engine) -> float:
    """Milliseconds per job that does nothing, behind two that start the workers; the median of `REPEATS`."""

    def jobs(first: int, count: int) -> list[Job]:
        return [Job("study", {"function": "studies.sweep_speed:nothing"}, first + i) for i in range(count)]

    found = []
    with tempfile.TemporaryDirectory() as folder:
        list(engine.map(jobs(0, 2), Path(folder)))
        for repeat in range(REPEATS):
            with seconds() as passed:
                list(engine.map(jobs(2 + TRIVIAL * repeat, TRIVIAL), Path(folder)))
                found.append(1000 * passed() / TRIVIAL)
    return statistics.median(found)


def main() -> None:
    """Prints what is found."""
    one, two = (statistics.median(trained(workers) for _ in range(REPEATS)) for workers in (1, 2))
    print(
        f"{RUNS} runs of RL2 on GridSwitch-v0, {FRAMES:,} frames each: {one:.1f} s by one worker, {two:.1f} s by two:"
    )
    print(f"{one / two:.2f} times, on {os.cpu_count()} cores")
    print(f"local, {TRIVIAL} jobs of nothing: {idle(Local(2)):.1f} ms each")
    if importlib.util.find_spec("ray") is not None:
        print(f"ray, {TRIVIAL} jobs of nothing: {idle(Ray()):.1f} ms each")


if __name__ == "__main__":
    main()
