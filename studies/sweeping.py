"""What all studies have in common: a grid of jobs given to an engine, and files made of their results.

A study says which jobs it consists of; `make` has an engine do what nobody has done yet, in a folder as `metabench
sweep` has it (`metabench sweep status OUT` tells how far it is, `metabench sweep retry OUT` tries again what failed).
What a reader wants to check is kept in the study's `results/`: the evaluations, and for every run NAME-job.json, the
job it came from, whose SHA-256 is its key. Results without one were measured before there were keys.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from metabench.evaluation.results import write_atomically
from metabench.runs import RESULT, read_results
from metabench.sweep.choice import EngineName, engine_of
from metabench.sweep.engine import Engine
from metabench.sweep.folder import JOB, Place
from metabench.sweep.jobs import Job, add_to_plan, read_plan
from metabench.sweep.settings import changes_of
from metabench.sweep.view import Progress, clock, estimate
from metabench.sweep.work import check


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a sweep: where jobs run, and whether they do."""
    group = parser.add_argument_group("where the jobs run")
    group.add_argument("--engine", choices=get_args(EngineName), default="local", help="this machine, Ray or Slurm")
    group.add_argument("--workers", type=int, help="processes of this machine; as many as cores by default")
    group.add_argument("--address", help="of a running Ray cluster: HOST:PORT or auto")
    group.add_argument("--sbatch", default="", help="options for Slurm's sbatch")
    group.add_argument("--retries", type=int, help="how many times a job is tried again whose process died")
    group.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def engine(options: argparse.Namespace) -> Engine:
    """The engine that the options ask for; ValueError or ImportError in one sentence if it cannot work here."""
    return engine_of(options.engine, options.workers, options.address, options.sbatch, options.retries)


def run(jobs: Sequence[Job], out: Path, options: argparse.Namespace) -> bool:
    """Does the jobs where the options say, or prints the plan for a dry run; whether it was a real one.

    Raises:
        SystemExit: With a sentence: an agent, a setting or an engine that does not exist; or some jobs failed.
    """
    try:
        for job in dict.fromkeys(jobs):
            check(job)
        chosen = engine(options)
        print(plan(jobs, out), flush=True)
        if not options.dry_run:
            make(jobs, out, chosen)
    except (ValueError, ImportError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on") from None
    return not options.dry_run


def plan(jobs: Sequence[Job], out: Path) -> str:
    """How many jobs there are, how many of them are done, and what the rest costs as far as is known."""
    place = Place(out)
    left = [job for job in jobs if place.settled(job.key()) is None]
    hours = estimate(place, jobs, left)
    cost = "what they cost is known after the first of each kind" if hours is None else f"about {hours:.2g} core hours"
    return f"{len(jobs)} jobs in {out}, {len(left)} left" + (f": {cost}" if left else "")


def make(jobs: Sequence[Job], out: Path, engine: Engine, say: Callable[[str], None] = print) -> None:
    """Does what is left to do, and says a line for each job.

    Raises:
        ValueError: In one sentence, at the end: some jobs failed.
    """
    place = Place(out)
    add_to_plan(place.plan, jobs)
    progress = Progress(place, jobs, engine)
    for event in engine.events(jobs, out):
        progress.take(event)
        if event.state == "failed":
            say(f"failed  {event.job.label}: {event.reason}\n        log: {place.failures / event.job.key()}.log")
        elif event.ran and event.state == "done":
            say(f"done    {event.job.label}, {clock(event.seconds)} ({progress.line()})")
    if progress.failures:
        raise ValueError(f"{len(progress.failures)} jobs failed; try again: metabench sweep retry {out}")


def folders(jobs: Sequence[Job], out: Path) -> list[Path]:
    """The folders of these jobs that are done, in their order."""
    place = Place(out)
    return [place.result(job.key()) for job in jobs if place.result(job.key()).exists()]


def seeds_of(out: Path) -> list[int]:
    """The seeds that a sweep's folder has runs of."""
    path = Place(out).plan
    return sorted({job.seed for job in read_plan(path)}) if path.exists() else []


def answer(job: Job, out: Path) -> Any:
    """What the step of a study returned."""
    return json.loads((Place(out).result(job.key()) / RESULT).read_text())


def keep(folder: Path, target: Path, name: str) -> None:
    """Copies the evaluations of a finished run to `target` as NAME-SPLIT.json, and then the job as NAME-job.json."""
    target.mkdir(parents=True, exist_ok=True)
    for split, result in read_results(folder).items():
        result.save(target / f"{name}-{split}.json")
    write_atomically(target / f"{name}-{JOB}", (folder / JOB).read_bytes())


def job_in(path: Path) -> Job:
    """The job of a kept run."""
    record = json.loads(path.read_text())
    return Job(record["kind"], record["settings"], record["seed"])


def training(agent: str, benchmark: str, name: str, changes: Mapping[str, Any], seed: int, **settings: Any) -> Job:
    """One run of an agent with some settings, and its evaluations; `settings` are further ones of the job."""
    from metabench.plugins import load_plugin

    config = {"config": changes_of(load_plugin(agent), changes)} if changes else {}
    return Job("train", {"agent": agent, "benchmark": benchmark, "name": name} | settings | config, seed)


def differences(config: Any, standard: Any, group: str = "") -> dict[str, Any]:
    """The settings in which a config differs from another of its kind, by their dotted names."""
    found: dict[str, Any] = {}
    for field in fields(config):
        mine, theirs, name = getattr(config, field.name), getattr(standard, field.name), f"{group}{field.name}"
        if is_dataclass(mine):
            found |= differences(mine, theirs, f"{name}.")
        elif mine != theirs:
            found[name] = mine
    return found
