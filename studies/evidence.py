"""The evidence queue: the runs that the docs' tables need, most important first; made for as long as it is left alone.

    make evidence                                  # goes on with what is missing; kill it at any moment
    python -m studies.evidence --missing           # only says what is missing
    python -m studies.evidence --only grid-switch  # one table's runs
    python -m studies.evidence --pages             # writes the tables into the pages that have a place for them

`studies/queue.toml` is the queue. A run is a job of `metabench sweep` in `runs/evidence`; what a reader wants to check
of it (the results, the settings, the learning curve) is kept in `studies/evidence/KEY`, KEY being the job's. Tables are
made of what is kept there and of nothing else, and name the keys. The studies' own tables (`studies/*/tables.py`) are
made of what their `results/` keep, and name keys, or the files and their hash where runs are older than keys.

In a page (`docs/`, `studies/*/NOTES.md`), a table stands between

    <!-- evidence: NAME -->
    <!-- end of evidence -->

NAME being a table's of the queue or of a study; a table of the queue is also there episode by episode, as
NAME-by-episode, and by the real steps to shares of the way from random to the oracle, as NAME-steps.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabench.evaluation.results import Result, write_atomically
from metabench.evaluation.stats import Interval, mean, stratified_bootstrap
from metabench.runs import CONFIG, METRICS, read_metrics, read_results, result_path
from metabench.runs import CURVE as PLAYED
from metabench.sweep import Engine, Job
from metabench.sweep.folder import JOB, Place
from metabench.sweep.grid import parse_seeds
from metabench.sweep.jobs import add_to_plan
from metabench.sweep.settings import changes_of
from metabench.sweep.work import SPLITS, trainable
from studies import sweeping
from studies.dynamite import tables as dynamite
from studies.highway import tables as highway
from studies.incontext import tables as incontext
from studies.itch import tables as itch
from studies.maml import tables as maml
from studies.meta_dt import tables as meta_dt
from studies.metadreamer import tables as metadreamer

HERE = Path(__file__).parent
QUEUE, KEPT, RUNS = HERE / "queue.toml", HERE / "evidence", HERE.parent / "runs" / "evidence"
CURVE = "curve.csv"
CURVE_COLUMNS = ("return", "test/first", "test/last", "ood/first", "ood/last")
PLACE = re.compile(r"(<!-- evidence: (?P<name>[\w-]+) -->\n).*?(<!-- end of evidence -->)", re.DOTALL)
STUDIES: Mapping[str, Callable[[], str]] = {
    name: make
    for study in (dynamite, meta_dt, metadreamer, highway, incontext, itch, maml)
    for name, make in study.TABLES.items()
}
_OPTIONS = {"episodes", "repeats", "datasets", "splits", "curve"}  # of a table, handed on to its jobs


class Row(NamedTuple):
    """One line of a table: the runs of an agent with some settings."""

    name: str
    jobs: tuple[Job, ...]


class Table(NamedTuple):
    """What one table needs."""

    name: str
    about: str
    rows: tuple[Row, ...]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All its runs, seeds outermost: every line has one run before any has two."""
        longest = max((len(row.jobs) for row in self.rows), default=0)
        return tuple(row.jobs[k] for k in range(longest) for row in self.rows if k < len(row.jobs))


def read_queue(path: Path = QUEUE) -> list[Table]:
    """The tables in order of importance.

    Raises:
        ValueError: In one sentence: an agent or a setting that does not exist, a name that is missing.
    """
    tables = []
    for record in tomllib.loads(path.read_text())["table"]:
        common = record.get("config", {})
        options = {name: record[name] for name in _OPTIONS & record.keys()}
        rows = []
        for row in record["rows"]:
            settings = {"agent": row["agent"], "benchmark": record["benchmark"], "name": row["name"]}
            settings |= options | {name: row[name] for name in _OPTIONS & row.keys()}
            changes = merged(common, row.get("config", {}))
            if changes:
                settings["config"] = changes_of(trainable(row["agent"]), changes)
            seeds = parse_seeds(row.get("seeds", record["seeds"]))
            rows.append(Row(row["name"], tuple(Job("train", settings, seed) for seed in seeds)))
        tables.append(Table(record["name"], record["about"], tuple(rows)))
    return tables


def merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A table's settings with a row's on top, group by group: a row that sets one of a group keeps the others."""
    groups = {
        name for name in common.keys() & own.keys() if isinstance(own[name], dict) and isinstance(common[name], dict)
    }
    return {**common, **own, **{name: merged(common[name], own[name]) for name in groups}}


def keep(job: Job, out: Path = RUNS, kept: Path = KEPT) -> None:
    """Copies what a reader wants to check of a finished run."""
    source, target = Place(out).result(job.key()), kept / job.key()
    if (target / JOB).exists():
        return
    for split, result in read_results(source).items():
        target.mkdir(parents=True, exist_ok=True)
        result.save(result_path(target, split))
    write_atomically(target / CONFIG, (source / CONFIG).read_bytes())
    if played := read_metrics(source, PLAYED):
        write_atomically(target / CURVE, _played(played).encode())
    elif (source / METRICS).exists():
        write_atomically(target / CURVE, _curve((source / METRICS).read_text().splitlines()).encode())
    write_atomically(target / JOB, (source / JOB).read_bytes())  # last: it says that the others are there


def _curve(lines: Sequence[str]) -> str:
    """Environment steps, mean return and what was evaluated meanwhile, of every row of the metrics that has some."""
    rows = [row for row in map(json.loads, lines) if "frames" in row]
    columns = [name for name in CURVE_COLUMNS if any(name in row for row in rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("frames", *columns))
    for row in rows:
        if any(name in row for name in columns):
            writer.writerow((row["frames"], *(round(row[name], 4) if name in row else "" for name in columns)))
    return text.getvalue()


def _played(rows: Sequence[Mapping[str, Any]]) -> str:
    """A learning curve of checkpoints, a line to each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [name for name in rows[0] if name != "iteration"], lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: v for k, v in row.items() if k != "iteration"} for row in rows])
    return text.getvalue()


def make(tables: Iterable[Table], engine: Engine, out: Path = RUNS, kept: Path = KEPT) -> None:
    """Does what is missing, in order, and keeps it."""
    jobs = list(dict.fromkeys(job for table in tables for job in table.jobs))
    left = [job for job in jobs if not (kept / job.key() / JOB).exists()]
    add_to_plan(Place(out).plan, left)
    for event in engine.events(left, out):
        if event.state == "done":
            keep(event.job, out, kept)
            print(f"done    {event.job.label}", flush=True)
        elif event.state == "failed":
            print(f"failed  {event.job.label}: {event.reason} (metabench sweep retry {out})", flush=True)


def missing(tables: Iterable[Table], kept: Path = KEPT) -> str:
    """What is not there yet, table by table; or that nothing is missing."""
    lines = []
    for table in tables:
        parts = []
        for row in table.rows:
            there = sum((kept / job.key() / JOB).exists() for job in row.jobs)
            if there < len(row.jobs):
                parts.append(f"{row.name} {there} of {len(row.jobs)}")
        if parts:
            lines.append(f"{table.name}: {', '.join(parts)} runs")
    return "\n".join(["missing", *lines]) if lines else "nothing is missing"


def render(table: Table, kept: Path = KEPT) -> str:
    """The table as Markdown, of what is kept: mean return of an episode, 95 % interval over runs; and the keys."""
    jobs = [job for row in table.rows for job in row.jobs]
    splits = list(dict.fromkeys(split for job in jobs for split in job.settings.get("splits", SPLITS)))
    lines = [f"| agent | runs | {' | '.join(splits)} |", "| --- " * (2 + len(splits)) + "|"]
    keys = []
    for row in table.rows:
        there = [job for job in row.jobs if (kept / job.key() / JOB).exists()]
        if not there:
            continue
        cells = [_cell(there, split, kept) for split in splits]
        lines.append(f"| {row.name} | {len(there)} | {' | '.join(cells)} |")
        keys.append(f"{row.name}: {' '.join(job.key() for job in there)}")
    return "\n".join([*lines, "", "<!-- keys", *keys, "-->", ""])


def returns(jobs: Sequence[Job], split: str, kept: Path = KEPT) -> Interval:
    """Mean return of an episode on a split and its 95 % interval over runs, of runs that are kept."""
    scores = [Result.load(result_path(kept / job.key(), split)).array().mean(axis=(1, 2)) for job in jobs]
    return stratified_bootstrap(np.stack(scores), np.random.default_rng(0), mean)  # [runs, tasks]


def _cell(jobs: Sequence[Job], split: str, kept: Path) -> str:
    if not all(result_path(kept / job.key(), split).exists() for job in jobs):
        return ""
    found = returns(jobs, split, kept)
    interval = f" [{found.low:.2f}, {found.high:.2f}]" if len(jobs) > 1 else ""
    return f"{found.estimate:.2f}{interval}"


def update(text: str, tables: Sequence[Table], kept: Path = KEPT) -> str:
    """A page with its tables made anew; ValueError in one sentence for a table that nobody knows."""
    from studies import steps  # which reads the queue itself, as the next two
    from studies.dynamite import control
    from studies.meta_dt import across, by_episode

    known = {table.name: partial(render, table, kept) for table in tables} | dict(STUDIES)
    known |= {f"{table.name}-by-episode": partial(by_episode.render, table, kept) for table in tables}
    known |= {f"{table.name}-steps": partial(steps.render, table, kept) for table in tables}
    known["switch-control"] = partial(control.render, kept)
    known |= {name: partial(across.render, *agents, kept=kept) for name, agents in across.PAGES.items()}

    def fill(match: re.Match[str]) -> str:
        if match["name"] not in known:
            raise ValueError(f"there is no table {match['name']!r}; there are {', '.join(known)}")
        return f"{match[1]}{known[match['name']]()}{match[3]}"

    return PLACE.sub(fill, text)


def pages(root: Path = HERE.parent) -> list[Path]:
    """The pages that may have a place for a table: the documentation's own and the studies' notes."""
    docs = root / "docs"
    return sorted([root / "README.md", *docs.glob("*.md"), *docs.glob("agents/*.md"), *root.glob("studies/*/NOTES.md")])


def keys_of(text: str) -> list[str]:
    """The keys of jobs that a page names; hashes of files are none."""
    comments = "\n".join(re.findall(r"<!-- (?:keys|from)\n(.*?)-->", text, re.DOTALL))
    return re.findall(r"(?<!sha256 )\b[0-9a-f]{64}\b", comments)


def kept_keys(root: Path = HERE) -> set[str]:
    """The keys of all runs that are kept: the queue's, and the studies'."""
    found = {path.parent.name for path in (root / "evidence").glob(f"*/{JOB}")}
    found |= {sweeping.job_in(path).key() for path in root.glob(f"*/results/**/*-{JOB}")}
    for path in root.glob("*/results/**/*.json"):  # of studies whose jobs are steps: one record, with their keys
        if path.name in ("information.json", "probe.json"):
            found |= set(re.findall(r'"([0-9a-f]{64})"', path.read_text()))
    return found


def main() -> None:
    """Parses the command line and goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", action="store_true", help="only say what is missing")
    parser.add_argument("--only", nargs="+", help="tables; all by default")
    parser.add_argument("--pages", action="store_true", help="write the tables into the pages")
    sweeping.add_options(parser)
    arguments = parser.parse_args()
    tables = read_queue()
    known = [table.name for table in tables]
    if unknown := [name for name in arguments.only or () if name not in known]:
        parser.error(f"unknown table {unknown[0]!r}; available: {', '.join(known)}")
    chosen = [table for table in tables if table.name in (arguments.only or known)]
    if arguments.pages:
        for page in pages():
            text = page.read_text()
            if (new := update(text, tables)) != text:
                write_atomically(page, new.encode())
                print(f"written: {page}")
        return
    print(missing(chosen), flush=True)
    if not (arguments.missing or arguments.dry_run):
        try:
            make(chosen, sweeping.engine(arguments))
        except KeyboardInterrupt:
            print("stopped; the same command goes on")
        print(missing(chosen))


if __name__ == "__main__":
    main()
