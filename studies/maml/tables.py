"""The tables of MAML's page, of what `results/` keeps."""

from __future__ import annotations

from functools import partial

import numpy as np

from studies.maml.study import RESULTS, curve
from studies.tables import Column, Reference, Runs, Table, count, interval

LABELS = {
    "maml": "MAML, one episode before the step",
    "maml-8": "MAML, eight episodes before it",
    "maml-4": "MAML, four episodes before it",
}
PARTS = 5  # of a run whose mean returns are told


def _cell(values: np.ndarray) -> str:
    low, high = interval(values)
    return f"{values.mean():.1f}" + (f" [{low:.1f}, {high:.1f}]" if len(values) > 1 else "")


def _before(split: str) -> Column:
    """Mean return of the episodes before the inner step."""
    return Column(
        f"before, {split}",
        lambda runs: _cell(runs.episodes(split)[:, :-1].mean(1)),
        lambda reference: f"{reference.mean(split):.1f}",
    )


def _adapted(split: str) -> Column:
    """Return of the episode after it."""
    return Column(
        f"adapted, {split}",
        lambda runs: _cell(runs.episodes(split)[:, -1]),
        lambda reference: f"{reference.mean(split):.1f}",
    )


def _trial(split: str) -> Column:
    """Mean return of all episodes of a trial."""
    return Column(f"whole trial, {split}", lambda runs: _cell(runs.episodes(split).mean(1)))


def results(benchmark: str) -> str:
    """MAML's episodes before and after the inner step, between random and the oracle."""
    rows = [("oracle", Reference(benchmark, "oracle"))]
    rows += [(LABELS[name], Runs(RESULTS / benchmark, name)) for name in _kept(benchmark)]  # pyright: ignore
    rows += [("random", Reference(benchmark, "random")), ("zero", Reference(benchmark, "zero"))]
    still = Column("step of size 0, test", lambda runs: _cell(runs.episodes("unadapted")[:, -1]))
    columns = (count(), _before("test"), still, _adapted("test"), _adapted("ood"), _trial("test"))
    return Table("agent (95 % interval over runs)", columns, tuple(rows)).markdown()


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

    rows = tuple((LABELS[name], Runs(RESULTS / benchmark, name)) for name in _kept(benchmark))
    columns = (Column("steps", steps), *(column(number) for number in range(PARTS)))
    return Table("training tasks, before to adapted, actions drawn", columns, rows).markdown()


TABLES = {
    f"maml-{place}{suffix}": partial(make, benchmark)
    for place, benchmark in (
        ("point-robot", "PointRobot-v0"),
        ("cheetah-dir", "CheetahDir-v0"),
        ("cheetah-vel", "CheetahVel-v0"),
    )
    for suffix, make in (("", results), ("-learning", learning))
}
