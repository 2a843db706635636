"""The tables of MAML's page, of what `results/` keeps."""

from __future__ import annotations

import json
from functools import cached_property, partial

import numpy as np

from metabench.evaluation.results import Result
from metabench.runs import RESULT
from studies.maml.study import RESULTS, ROOT, curve
from studies.tables import Column, Line, Reference, Runs, Table, count, file_source, interval

LABELS = {
    "maml": "MAML, one episode before the step",
    "maml-8": "MAML, eight episodes before it",
    "maml-4": "MAML, four episodes before it",
}
ENTRIES = {  # on boards, trials of two episodes
    "PointRobot-v0": {
        "RL², its entry on the board": "point-robot/rl2/2026-11-25-6231a9c093",
        "PEARL, its entry on the board": "point-robot/pearl/2026-11-25-2751133899",
    }
}
PEARL = ROOT / "studies" / "metadreamer" / "results"
PARTS = 5  # of a run whose mean returns are told


class Entry(Runs):
    """The runs of an agent's entry on a board.

    Args:
        place: Its folder below `leaderboards`.
    """

    def __init__(self, place: str):
        super().__init__(ROOT / "leaderboards" / place, place)

    @cached_property
    def records(self) -> list[Result]:
        """All of its evaluations."""
        return [Result.model_validate(one) for one in json.loads((self.folder / RESULT).read_text())["results"]]

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """One number for each run."""
        return tuple(range(len(self.results("test"))))

    def results(self, split: str) -> list[Result]:
        """Of all runs on a split."""
        return [record for record in self.records if record.protocol.split == split]

    def source(self) -> str:
        """The entry's file."""
        return file_source(self.folder / RESULT)


def _cell(values: np.ndarray) -> str:
    low, high = interval(values)
    return f"{values.mean():.1f}" + (f" [{low:.1f}, {high:.1f}]" if len(values) > 1 else "")


def _played(runs: Runs, split: str) -> bool:
    if isinstance(runs, Entry):
        return bool(runs.results(split))
    return (runs.folder / f"{runs.name}-s{runs.seeds[0]}-{split}.json").exists()


def _column(head: str, split: str, first: int, end: int | None, known: bool = True) -> Column:
    """Mean return of the episodes from `first` to `end`; empty for runs that were not played so."""

    def cell(runs: Runs) -> str:
        return _cell(runs.episodes(split)[:, first:end].mean(1)) if _played(runs, split) else ""

    return Column(head, cell, lambda reference: f"{reference.mean(split):.1f}" if known else "")


def returns(benchmark: str) -> str:
    """MAML's episodes before and after the inner step, between random and the oracle, and others beside it."""
    rows: list[tuple[str, Line]] = [("oracle", Reference(benchmark, "oracle"))]
    rows += [(LABELS[name], Runs(RESULTS / benchmark, name)) for name in _kept(benchmark)]
    if entries := ENTRIES.get(benchmark):
        rows += [(label, Entry(place)) for label, place in entries.items()]
        rows += [("PEARL, trials of nine episodes", Runs(PEARL / benchmark, "pearl-all"))]
    rows += [("standing still", Reference(benchmark, "zero")), ("random", Reference(benchmark, "random"))]
    columns = (
        count(),
        _column("whole trial, test", "test", 0, None),
        _column("before the last episode, test", "test", 0, -1),
        _column("the last after a step of size 0, test", "unadapted", -1, None, known=False),
        _column("the last, test", "test", -1, None),
        _column("the last, ood", "ood", -1, None),
    )
    return Table("return of an episode (95 % interval over runs)", columns, tuple(rows)).markdown()


def _kept(benchmark: str) -> list[str]:
    folder = RESULTS / benchmark
    return [name for name in LABELS if list(folder.glob(f"{name}-s[0-9]-job.json"))]


def learning(benchmark: str) -> str:
    """Mean training returns before and after the inner step in parts of the runs."""

    def column(number: int) -> Column:
        def cell(runs: Runs) -> str:
            parts = np.array([curve(path, PARTS)[number] for path in runs.curves()])
            return f"{parts[:, 1].mean():.1f} to {parts[:, 2].mean():.1f}"

        return Column(f"{number * 100 // PARTS} to {(number + 1) * 100 // PARTS} %", cell)

    def steps(runs: Runs) -> str:
        return f"{curve(runs.curves()[0], 1)[-1, 0]:,.0f}"

    rows: list[tuple[str, Line]] = [(LABELS[name], Runs(RESULTS / benchmark, name)) for name in _kept(benchmark)]
    columns = (Column("steps", steps), *(column(number) for number in range(PARTS)))
    return Table("training tasks, before the step to after it", columns, tuple(rows)).markdown()


TABLES = {
    f"maml-{place}{suffix}": partial(make, benchmark)
    for place, benchmark in (
        ("point-robot", "PointRobot-v0"),
        ("cheetah-dir", "CheetahDir-v0"),
        ("cheetah-vel", "CheetahVel-v0"),
    )
    for suffix, make in (("", returns), ("-learning", learning))
}
