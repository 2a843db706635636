"""`metabench sweep`: many jobs on this machine, on Ray or on Slurm; `sweep status` and `sweep retry`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.live import Live

from metabench.cli.console import out, plain, say
from metabench.sweep.choice import EngineName, engine_of
from metabench.sweep.engine import Engine, Event
from metabench.sweep.folder import Place
from metabench.sweep.grid import grid, parse_seeds, parse_setting, sort_out
from metabench.sweep.jobs import Job, add_to_plan, read_plan
from metabench.sweep.view import Progress, clock, estimate

Out = Annotated[Path, tyro.conf.Positional]
UNKNOWN = "what they cost is known after the first of each kind"
_LINE_SECONDS = 10.0  # between two lines of progress where there is no terminal
_SHOWN = 10  # failures that are listed


def sweep(
    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="AGENT... BENCHMARK...")],
    out: Annotated[Path, tyro.conf.arg(name="out")],
    seeds: str = "0-4",
    set: tuple[str, ...] = (),
    splits: tuple[str, ...] = ("test", "ood"),
    engine: EngineName = "local",
    workers: int | None = None,
    address: str | None = None,
    sbatch: str = "",
    retries: int | None = None,
    dry_run: bool = False,
) -> None:
    """Train and evaluate agents on benchmarks with several seeds and settings; everything that is done is skipped.

    The same command again, or several at the same time, go on with what is left; a job that was killed goes on from
    its checkpoint, to the same bits. `metabench sweep status OUT` tells how far it is, `metabench sweep retry OUT`
    tries again what failed.

    Examples:
      metabench sweep rl2 GridSwitch-v0 --out runs/rl2
      metabench sweep rl2 GridSwitch-v0 GridNavigation-v0 --seeds 0-9 --set clip=0.1,0.2 --out runs/clip
      metabench sweep rl2 GridSwitch-v0 --engine ray --address auto --out /shared/rl2
      metabench sweep rl2 GridSwitch-v0 --engine slurm --sbatch "--partition=cpu --time=2:00:00" --out /shared/rl2

    Args:
        names: Agents (names, or folders of runs) and benchmarks, in any order.
        out: The sweep's folder.
        seeds: 0-4, or 0,2,5.
        set: Settings of the agents to try, name=value,value,...; every combination.
        splits: To evaluate on.
        engine: Where jobs run: processes of this machine, a Ray cluster, or Slurm.
        workers: Processes of this machine; as many as cores by default.
        address: Of a running Ray cluster: HOST:PORT or auto.
        sbatch: Options for Slurm's sbatch.
        retries: How many times a job is tried again whose process, node or member died.
        dry_run: Print the plan and stop.
    """
    agents, benchmarks = sort_out(names)
    settings: dict[str, list[Any]] = {}
    for text in set:
        name, values = parse_setting(text)
        if name in settings:
            raise ValueError(f"the setting {name} is given twice: give all its values at once, {name}=A,B")
        settings[name] = values
    jobs = grid(agents, benchmarks, parse_seeds(seeds), settings, splits)
    chosen = engine_of(engine, workers, address, sbatch, retries)
    show_plan(jobs, out, chosen)
    if not dry_run:
        run(jobs, out, chosen)


def status(folder: Out) -> None:
    """Tell how far a sweep is: what runs, what is done, what failed and why.

    Example: metabench sweep status runs/rl2

    Args:
        folder: The sweep's folder.
    """
    place, jobs = open_sweep(folder)
    states = Counter(place.state(job.key()) for job in jobs)
    counts = ", ".join(f"{states[state]} {state}" for state in ("done", "running", "waiting", "failed"))
    say(plain(f"{len(jobs)} jobs: {counts}"))
    for job in jobs:
        if place.state(job.key()) == "running":
            say(plain(f"running  {job.label}"))
    show_failures(place, jobs)
    if states["waiting"]:
        say(plain(f"the rest: metabench sweep retry {folder}"))


def retry(
    folder: Out,
    engine: EngineName = "local",
    workers: int | None = None,
    address: str | None = None,
    sbatch: str = "",
    retries: int | None = None,
) -> None:
    """Try again what failed in a sweep, and do what is left of it.

    Example: metabench sweep retry runs/rl2

    Args:
        folder: The sweep's folder.
        engine: Where jobs run: processes of this machine, a Ray cluster, or Slurm.
        workers: Processes of this machine; as many as cores by default.
        address: Of a running Ray cluster: HOST:PORT or auto.
        sbatch: Options for Slurm's sbatch.
        retries: How many times a job is tried again whose process, node or member died.
    """
    place, jobs = open_sweep(folder)
    chosen = engine_of(engine, workers, address, sbatch, retries)
    again = sum(place.forgive(job) for job in jobs)
    left = [job for job in jobs if place.settled(job.key()) is None]
    say(plain(f"{len(left)} jobs to do, {again} of them failed before"))
    run(left, folder, chosen)


def open_sweep(folder: Path) -> tuple[Place, list[Job]]:
    """A sweep's folder and its plan; ValueError in one sentence if it is none."""
    place = Place(folder)
    if not place.plan.is_file():
        raise ValueError(f"there is no sweep in {folder}: it has no {place.plan.name}")
    return place, read_plan(place.plan)


def show_plan(jobs: Sequence[Job], folder: Path, engine: Engine) -> None:
    """Prints what is to be done, and what it costs as far as finished jobs tell."""
    place, groups = Place(folder), Counter(job.group for job in jobs)
    for group, count in groups.items():
        say(plain(f"{count:5d}  {group}"))
    states = Counter(place.state(job.key()) for job in jobs)
    failed = f", {states['failed']} failed (metabench sweep retry {folder})" if states["failed"] else ""
    text = f"{len(jobs)} jobs, {states['done']} of them done already{failed}; "
    left = [job for job in jobs if place.settled(job.key()) is None]
    hours = estimate(place, jobs, left)
    cost = (
        "what they cost is known after the first of each kind"
        if hours is None
        else f"about {hours:.2g} core hours left"
    )
    say(plain(text + (cost if left else "nothing is left to do")))


def run(jobs: Sequence[Job], folder: Path, engine: Engine) -> None:
    """Does the jobs under a live table, or with a line now and then where there is no terminal.

    Raises:
        ValueError: In one sentence, at the end: some jobs failed.
    """
    place = Place(folder)
    add_to_plan(place.plan, jobs)
    progress = Progress(place, jobs, engine)
    events = engine.events(jobs, folder)
    if out.is_terminal:
        with Live(console=out, get_renderable=progress.table, refresh_per_second=2) as live:
            _follow(events, progress, live.refresh)
    else:
        _follow(events, progress, _now_and_then(progress))
        say(plain(progress.line()))
    failed = [job for job in jobs if (settled := place.settled(job.key())) and settled.state == "failed"]
    show_failures(place, failed)
    if failed:
        raise ValueError(f"{len(failed)} of {len(jobs)} jobs failed; try again: metabench sweep retry {folder}")
    say(plain(f"{len(jobs)} jobs done: {place.results}"))


def _follow(events: Iterable[Event], progress: Progress, show: Callable[[], None]) -> None:
    """Notes every event and shows where things are; says what failed, and what it all costs after the first job."""
    told = False
    for event in events:
        progress.take(event)
        if event.state == "failed":
            say(plain(f"failed  {event.job.label}: {event.reason}"))
        if event.state == "done" and event.ran and not told:
            hours = estimate(progress.place, progress.jobs, progress.jobs)
            if hours is not None:
                say(plain(f"{event.job.label} took {clock(event.seconds)}: about {hours:.2g} core hours in all"))
                told = True
        show()


def _now_and_then(progress: Progress) -> Callable[[], None]:
    """Prints a line of progress, unless the last one was a moment ago."""
    last = time.monotonic()

    def show() -> None:
        nonlocal last
        if time.monotonic() - last > _LINE_SECONDS:
            say(plain(progress.line()))
            last = time.monotonic()

    return show


def show_failures(place: Place, jobs: Sequence[Job]) -> None:
    """Prints the failed ones of these jobs, with the reason and the log."""
    found = [(job, failure) for job in jobs if (failure := place.failure(job.key())) and not failure.again]
    for job, failure in found[:_SHOWN]:
        say(plain(f"failed  {job.label}: {failure.reason}\n        log: {failure.log}", lines=True))
    if len(found) > _SHOWN:
        say(plain(f"and {len(found) - _SHOWN} more in {place.failures}"))


def choose(given: Sequence[str]) -> tuple[str, Callable[..., Any], list[str]]:
    """Which of the commands the words mean: `status OUT`, `retry OUT`, or a sweep."""
    if given and given[0] in ("status", "retry"):
        return given[0], {"status": status, "retry": retry}[given[0]], list(given[1:])
    return "", sweep, list(given) or ["--help"]
