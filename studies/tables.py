"""Tables of pages, made of what studies keep in `results/`; each names what every line of it came from.

A line is of the runs of a variant (`Runs`), of a reference that the package has (`Reference`), or of numbers that no
file has (`Unkept`), with the reason. A run that was a job is named by the job's key; what was measured before there
were keys by its files and the SHA-256 of their names and contents.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import metabench
from metabench.evaluation.results import Result
from metabench.sweep.folder import JOB
from studies.sweeping import job_in

ROOT = Path(__file__).parent.parent
_RUN = re.compile(r"-s(\d+)-")


class Runs:
    """The runs of one variant that a folder of results keeps.

    Args:
        folder: Of results.
        name: Of the variant.
        seeds: Which of them; all by default.
    """

    def __init__(self, folder: Path, name: str, seeds: Sequence[int] | None = None):
        self.folder, self.name, self._seeds = folder, name, seeds

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs there are; ValueError in one sentence if there are none."""
        found = {int(match[1]) for path in self.files if (match := _RUN.search(path.name))}
        if not found:
            raise ValueError(f"there are no results of {self.name} in {self.folder}")
        return tuple(sorted(found))

    @cached_property
    def files(self) -> list[Path]:
        """All that is kept of them."""
        paths = sorted(self.folder.glob(f"{self.name}-s[0-9]*-*"))
        wanted = None if self._seeds is None else {str(seed) for seed in self._seeds}
        return [path for path in paths if wanted is None or _seed(path) in wanted]

    def results(self, split: str) -> list[Result]:
        """Of all runs on a split."""
        return [Result.load(self.folder / f"{self.name}-s{seed}-{split}.json") for seed in self.seeds]

    def episodes(self, split: str) -> np.ndarray:
        """`[runs, episodes]` mean returns."""
        return np.array([result.trials().mean(0) for result in self.results(split)])

    def curves(self) -> list[Path]:
        """The learning curves."""
        return [self.folder / f"{self.name}-s{seed}-curve.csv" for seed in self.seeds]

    def source(self) -> str:
        """The keys of the jobs; or the files and their hash."""
        jobs = [self.folder / f"{self.name}-s{seed}-{JOB}" for seed in self.seeds]
        if all(path.exists() for path in jobs):
            return " ".join(job_in(path).key() for path in jobs)
        seeds = ",".join(map(str, self.seeds))
        return f"{_place(self.folder)}/{self.name}-s{{{seeds}}}-*: {len(self.files)} files, sha256 {sha256(self.files)}"


class Reference(NamedTuple):
    """A yardstick's values, as the package has them."""

    benchmark: str
    key: str

    def mean(self, split: str) -> float:
        """The return of an episode on a split."""
        return float(metabench.spec(self.benchmark).references(split)[self.key]["mean"])

    def source(self) -> str:
        """Where the values are."""
        return f"references of {self.benchmark}, {self.key}"


class Unkept(NamedTuple):
    """Cells that stand in no file of results."""

    cells: tuple[str, ...]
    why: str

    def source(self) -> str:
        """Why there is none."""
        return self.why


class Several(NamedTuple):
    """What a line has in several groups of columns."""

    lines: tuple[Runs | Reference | Unkept, ...]

    def source(self) -> str:
        """That of every group."""
        return "; ".join(dict.fromkeys(line.source() for line in self.lines))


Line = Runs | Reference | Unkept | Several


class Column(NamedTuple):
    """A column: its head, and what of runs, or of a reference, stands in it."""

    head: str
    of_runs: Callable[[Runs], str]
    of_reference: Callable[[Reference], str] = lambda reference: ""
    group: int = 0  # which of a line's several it is about


class Table(NamedTuple):
    """A table of a page."""

    first: str  # head of the first column
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, Line], ...]

    def markdown(self) -> str:
        """The table, and after it what it came from."""
        lines = [f"| {self.first} | {' | '.join(column.head for column in self.columns)} |"]
        lines.append("| --- " * (1 + len(self.columns)) + "|")
        for label, line in self.rows:
            cells = [self._cell(line, number) for number in range(len(self.columns))]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n" + sources({label: line.source() for label, line in self.rows})

    def _cell(self, line: Line, number: int) -> str:
        column = self.columns[number]
        if isinstance(line, Several):
            line = line.lines[column.group]
        if isinstance(line, Unkept):
            place = sum(other.group == column.group for other in self.columns[:number])
            return line.cells[place] if place < len(line.cells) else ""
        return column.of_reference(line) if isinstance(line, Reference) else column.of_runs(line)


def sources(found: dict[str, str]) -> str:
    """The comment behind a table that names what each line came from."""
    return "\n".join(["", "<!-- from", *(f"{label}: {source}" for label, source in found.items()), "-->", ""])


def sha256(paths: Sequence[Path]) -> str:
    """Of names and contents of files."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def file_source(path: Path) -> str:
    """A file of results and its hash."""
    return f"{_place(path)}: sha256 {sha256([path])}"


def _place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _seed(path: Path) -> str:
    match = _RUN.search(path.name)
    return match[1] if match else ""


def count() -> Column:
    """How many runs there are."""
    return Column("runs", lambda runs: str(len(runs.seeds)))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean over runs."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (4000, len(values))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def returns(head: str, split: str, digits: int = 2) -> Column:
    """Mean return of all episodes, with a 95 % interval over runs where there are several."""

    def cell(runs: Runs) -> str:
        means = np.array([result.array().mean() for result in runs.results(split)])
        low, high = interval(means)
        return f"{means.mean():.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if len(means) > 1 else "")

    return Column(head, cell, lambda reference: f"{reference.mean(split):.{digits}f}")


def share(head: str, split: str, benchmark: str, ceiling: str, episode: int | None = None) -> Column:
    """How far of the way from random to a ceiling the mean return is, of all episodes or of one."""
    low, high = (Reference(benchmark, key).mean(split) for key in ("random", ceiling))

    def words(value: float) -> str:
        return f"{(value - low) / (high - low):.0%}".replace("%", " %")

    def of_runs(runs: Runs) -> str:
        found = runs.episodes(split)
        return words(float(found.mean() if episode is None else found[:, episode].mean()))

    return Column(head, of_runs, lambda reference: words(reference.mean(split)))


def each(head: str, split: str, digits: int = 2) -> Column:
    """Every run's mean return."""
    return Column(head, lambda runs: " ".join(f"{value:.{digits}f}" for value in runs.episodes(split).mean(1)))


def episode(head: str, split: str, number: int, digits: int = 2, spread: bool = False, runs: bool = False) -> Column:
    """Mean return of one episode of the trial, with the standard deviation over runs, or with every run's."""

    def cell(own: Runs) -> str:
        values = own.episodes(split)[:, number]
        text = f"{values.mean():.{digits}f}"
        if spread and len(values) > 1:
            text += f" ± {values.std(ddof=1):.{digits}f}"
        return text + (f" ({', '.join(f'{v:.{digits}f}' for v in values)})" if runs else "")

    return Column(head, cell, lambda reference: f"{reference.mean(split):.{digits}f}")


def early(head: str, split: str, last: int, digits: int = 1) -> Column:
    """Mean return of the first `last` episodes."""
    return Column(
        head,
        lambda runs: f"{runs.episodes(split)[:, :last].mean():.{digits}f}",
        lambda reference: f"{reference.mean(split):.{digits}f}",
    )


def success(head: str, split: str, number: int) -> Column:
    """How often an episode of the trial succeeded."""

    def cell(runs: Runs) -> str:
        won: Any = [np.array(result.successes)[..., number].mean() for result in runs.results(split)]
        return f"{np.mean(won):.0%}".replace("%", " %")

    def known(reference: Reference) -> str:
        value = metabench.spec(reference.benchmark).references(split)[reference.key].get("success")
        return "" if value is None else f"{float(np.mean(value)):.0%}".replace("%", " %")

    return Column(head, cell, known)
