"""Whether agents still learn: a handful of short runs whose returns must end where they ended before.

    make learn                              # trains every row of learn.toml; exit 1 where one is outside its interval
    python -m studies.learn --only rl2      # some of the agents
    python -m studies.learn --measure       # the seeds 0, 1 and 2 of every row, and the intervals that follow
    python -m studies.learn --out FOLDER    # goes on with what was begun there

A refactoring must not change what is learned, and most tests are too short to see it. A row of `studies/learn.toml` is
an agent, a benchmark, settings that make a run of minutes, a seed, an evaluation and an interval of its return. Bits
differ from one processor to another, and with them a run of one seed; so the interval is as wide as seeds differ: three
standard deviations of them about their mean, and at least 5 % of the way from doing nothing to the oracle, 10 % where
only two seeds were measured. Doing nothing is random actions, or none if that is better. A return above the interval
fails too: whoever made an agent better stores the new one.

All is trained anew every time, in a folder of its own below `runs/learn`. After a change that is meant to move returns,
`--measure` prints the lines to copy into learn.toml.
"""

from __future__ import annotations

import argparse
import datetime
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

import metabench
from metabench.evaluation.results import Record, Result
from metabench.runs import result_path
from metabench.sweep import Job
from metabench.sweep.folder import Place
from metabench.sweep.settings import changes_of
from metabench.sweep.work import check, trainable
from studies import sweeping

HERE = Path(__file__).parent
ROWS, RUNS = HERE / "learn.toml", HERE.parent / "runs" / "learn"
MEASURED = (0, 1, 2)  # the seeds that an interval is made of
DEVIATIONS, LEAST = 3.0, 0.05  # of the tolerance: standard deviations, and share of the way from nothing to the oracle


class Row(Record):
    """A run, and where its return must end."""

    agent: str
    benchmark: str
    seed: int = Field(ge=0)
    split: str
    metric: Literal["mean", "last"]  # return of an episode: of all of a trial, or of its last
    why: str = Field(min_length=10)  # what of the package it keeps watch over
    episodes: int | None = Field(default=None, ge=1)  # of an evaluation's trial
    repeats: int | None = Field(default=None, ge=1)  # of each task
    datasets: tuple[tuple[str, str], ...] = ()
    config: Mapping[str, object] = {}
    measured: tuple[float, ...] = ()  # of the seeds 0, 1 and so on, when the interval was stored
    low: float
    high: float

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.agent} on {self.benchmark}"

    def job(self, seed: int | None = None) -> Job:
        """Its training and evaluation; of another seed if one is given.

        Raises:
            ValueError: In one sentence: an agent, a benchmark, a split or a setting that does not exist.
        """
        settings: dict[str, object] = {"agent": self.agent, "benchmark": self.benchmark, "splits": [self.split]}
        settings |= {name: value for name in ("episodes", "repeats") if (value := getattr(self, name))}
        settings |= {"datasets": [list(pair) for pair in self.datasets]} if self.datasets else {}
        settings |= {"config": changes_of(trainable(self.agent), dict(self.config))} if self.config else {}
        job = Job("train", settings, self.seed if seed is None else seed)
        check(job)
        return job

    def value(self, result: Result) -> float:
        """What is compared, of an evaluation."""
        returns = result.array()
        return float((returns if self.metric == "mean" else returns[..., -1]).mean())


class Found(NamedTuple):
    """A row and the return it ended at; None if its run failed."""

    row: Row
    value: float | None

    @property
    def fault(self) -> str:
        """What is wrong, in a sentence; empty if nothing is."""
        row, value = self.row, self.value
        if value is None:
            return f"{row.name} has no result: its run failed."
        if row.low <= value <= row.high:
            return ""
        side = "above" if value > row.high else "below"
        return f"{row.name} ended at a return of {value:.2f}, {side} its interval {row.low:.2f} to {row.high:.2f}."


def read_rows(path: Path = ROWS) -> tuple[Row, ...]:
    """The rows of a file; ValueError in one sentence naming the first fault."""
    try:
        rows = TypeAdapter(tuple[Row, ...]).validate_python(tomllib.loads(path.read_text()).get("row", []))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{path}: row {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    for row in rows:
        if not row.low < row.high:
            raise ValueError(f"{path}: the interval of {row.name} is empty: {row.low:g} to {row.high:g}")
    return rows


def interval(row: Row, values: Sequence[float]) -> tuple[float, float]:
    """The interval that follows from what two seeds or more reached."""
    low, high = span(row)
    least = LEAST * max(1.0, 2 / (len(values) - 1)) * (high - low)
    tolerance = max(DEVIATIONS * float(np.std(values, ddof=1)), least)
    return float(np.mean(values)) - tolerance, float(np.mean(values)) + tolerance


def span(row: Row) -> tuple[float, float]:
    """Returns of doing nothing (random actions, or none if that is better) and of the oracle."""
    levels = metabench.spec(row.benchmark).references(row.split)
    return max(levels[name]["mean"] for name in ("random", "zero") if name in levels), levels["oracle"]["mean"]


def found_in(out: Path, row: Row, seed: int | None = None) -> Found:
    """What a row's run in a sweep's folder ended at."""
    path = result_path(Place(out).result(row.job(seed).key()), row.split)
    return Found(row, row.value(Result.load(path)) if path.exists() else None)


def report(found: Sequence[Found]) -> str:
    """A line for each row, and the verdict; the sentences of what is wrong last."""
    lines = [f"{'run':32} {'return':>9}  {'interval':>22}"]
    for one in found:
        row = one.row
        value = "failed" if one.value is None else f"{one.value:.2f}"
        wanted = f"{row.low:.2f} to {row.high:.2f}"
        lines.append(f"{row.name:32} {value:>9}  {wanted:>22}  {'OUTSIDE' * bool(one.fault)}".rstrip())
    faults = [one.fault for one in found if one.fault]
    if not found:
        return "nothing was to be trained"
    return "\n".join([*lines, "", *(faults or [f"all {len(found)} learn as they did"])])


def measured(out: Path, rows: Sequence[Row]) -> str:
    """The lines of learn.toml that follow from the seeds of MEASURED."""
    parts = []
    for row in rows:
        values = [value for seed in MEASURED if (value := found_in(out, row, seed).value) is not None]
        if len(values) < len(MEASURED):
            parts.append(f"# {row.name}: only {len(values)} of {len(MEASURED)} runs ended")
            continue
        low, high = interval(row, values)
        told = ", ".join(f"{value:.3f}" for value in values)
        parts.append(f"# {row.name}\nmeasured = [{told}]\nlow = {low:.3f}\nhigh = {high:.3f}")
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, trains, compares; exit 1 with a sentence where a run is outside."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="AGENT", help="agents of learn.toml; all by default")
    parser.add_argument("--measure", action="store_true", help="train the seeds 0, 1, 2 and print the intervals")
    parser.add_argument("--out", type=Path, help="folder of the runs; a new one below runs/learn by default")
    sweeping.add_options(parser)
    options = parser.parse_args(arguments)
    rows = read_rows()
    known = [row.agent for row in rows]
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"no row trains {unknown[0]!r}; there are {', '.join(known)}")
    rows = tuple(row for row in rows if row.agent in (options.only or known))
    out = options.out or RUNS / datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    seeds: Sequence[int | None] = MEASURED if options.measure else (None,)
    try:
        jobs = [row.job(seed) for seed in seeds for row in rows]
        sweeping.engine(options)
    except (ValueError, ImportError) as error:
        raise SystemExit(str(error)) from None
    try:
        if not sweeping.run(jobs, out, options):
            return
    except SystemExit as failed:  # some runs have failed, or it was stopped: the report says which are missing
        print(failed)
    if options.measure:
        print(measured(out, rows))
        return
    found = [found_in(out, row) for row in rows]
    print(report(found))
    if any(one.fault for one in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
