"""The tables of the offline agents' pages, of what `results/` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from studies.meta_dt.study import RESULTS
from studies.tables import Line, Reference, Runs, Several, Table, Unkept, episode, success

AGENTS = {
    "`prompt-dt` (shown a demonstration)": "prompt-dt",
    "`meta-dt`": "meta-dt",
    "`dt`": "dt",
    "`bc`": "bc",
}
ABLATIONS = {
    "no world model": "no-world-model",
    "random prompt": "random-prompt",
    "no prompt": "no-prompt",
    **{name.replace("=", " = "): name for name in ("h=1", "h=2", "h=8", "L=3", "L=10")},
}
RELEASED = {
    "all of them": "released",
    "`crossing-windows`: contexts cross borders of episodes": "crossing-windows",
    "`raw-actions`": "raw-actions",
    "`short-windows`": "short-windows",
    "`sampled-prompt`": "sampled-prompt",
    "`mixed-scales` (has no effect: this family's model predicts rewards)": "mixed-scales",
    "`test-selection`": "test-selection",
    "`raw-observations`": "raw-observations",
    "`warm-up`": "warm-up",
    "`test-targets` (oracle track)": "test-targets",
    "`late-context`": "late-context",
}
POINT, REACH = "PointRobot-v0", "MetaWorld-Reach-v0"


class Group(NamedTuple):
    """Some columns of a table: the runs on one benchmark's data of one quality."""

    head: str
    benchmark: str
    quality: str
    behaviour: tuple[str, ...]  # return of the data's policy on the evaluated tasks; those of the data set's manifest

    @property
    def folder(self) -> Path:
        """Where its results are kept."""
        return RESULTS / self.benchmark / f"offline-{self.quality}"


def _rows(groups: tuple[Group, ...], behaviour: str, yardsticks: Mapping[str, str]) -> tuple[tuple[str, Line], ...]:
    rows: list[tuple[str, Line]] = []
    if "oracle" in yardsticks:
        rows += [(yardsticks["oracle"], Several(tuple(Reference(g.benchmark, "oracle") for g in groups)))]
    why = "mean return in the manifest of the data set, `metabench dataset info`"
    rows += [(behaviour, Several(tuple(Unkept(g.behaviour, why) for g in groups)))]
    for label, name in AGENTS.items():
        rows.append((label, Several(tuple(Runs(group.folder, name) for group in groups))))
    for key in ("zero", "random"):
        if key in yardsticks:
            rows.append((yardsticks[key], Several(tuple(Reference(g.benchmark, key) for g in groups))))
    return tuple(rows)


def _columns(groups: tuple[Group, ...], split: str, numbers: tuple[int, ...], digits: int):
    for place, group in enumerate(groups):
        for number in numbers:
            head = f"{group.head}, episode {number + 1}".removeprefix(", ") if number == numbers[0] else str(number + 1)
            yield episode(head, split, number, digits, spread=True)._replace(group=place)


def point_robot() -> str:
    """Three qualities of data."""
    kinds = {"medium": "-12.16", "mixed": "-9.48", "expert": "-3.39"}
    groups = tuple(Group(quality, POINT, quality, (value, value)) for quality, value in kinds.items())
    known = {"oracle": "oracle", "zero": "to stand still", "random": "uniform actions"}
    rows = _rows(groups, "the data's behaviour (knows the goal)", known)
    return Table("", tuple(_columns(groups, "test", (0, 2), 2)), rows).markdown()


def point_robot_rl2() -> str:
    """Data of another policy."""
    groups = (Group("", POINT, "rl2", ("-4.78",)),)
    rows = _rows(groups, "the data's behaviour, RL²", {})
    return Table("", tuple(_columns(groups, "test", (0, 2), 2)), rows).markdown()


def cheetahs() -> str:
    """Two cheetahs."""
    groups = (
        Group("CheetahVel", "CheetahVel-v0", "mixed", ("-124.9",)),
        Group("CheetahDir", "CheetahDir-v0", "mixed", ("678.8",)),
    )
    rows = _rows(groups, "the data's behaviour (knows the task)", {"oracle": "oracle", "random": "random"})
    return Table("", tuple(_columns(groups, "test", (0, 1, 2), 1)), rows).markdown()


def reach() -> str:
    """Meta-DT's own tables of Reach."""
    groups = (Group("Reach", REACH, "mixed", ("3159",)),)
    known = {"oracle": "oracle (Meta-World's script)", "random": "random"}
    columns = (*_columns(groups, "meta_dt_test", (0, 1, 2), 0), success("success, episode 3", "meta_dt_test", 2))
    return Table("", columns, _rows(groups, "the data's behaviour (knows the goal)", known)).markdown()


def ablations() -> str:
    """Meta-DT with one thing changed; as it is, of the same seeds."""
    folder = RESULTS / POINT / "offline-mixed"
    rows: list[tuple[str, Line]] = [("as it is: h = 4, L = 5, the largest error", Runs(folder, "meta-dt", (0, 1, 2)))]
    rows += [(label, Runs(folder, f"meta-dt-{name}")) for label, name in ABLATIONS.items()]
    columns = (*(episode(str(k + 1) if k else "episode 1", "test", k, 2, spread=True) for k in range(3)),)
    return Table("`meta-dt`", columns, tuple(rows)).markdown()


def released() -> str:
    """The released code's ways, one by one."""
    folder = RESULTS / POINT / "offline-mixed"
    rows = tuple((label, Runs(folder, f"meta-dt-{name}")) for label, name in RELEASED.items())
    columns = (*(episode(str(k + 1) if k else "episode 1", "test", k, 2) for k in range(3)),)
    return Table("restored", columns, rows).markdown()


TABLES = {
    "offline-point-robot": point_robot,
    "offline-point-robot-rl2": point_robot_rl2,
    "offline-cheetahs": cheetahs,
    "offline-reach": reach,
    "offline-ablations": ablations,
    "offline-released": released,
}
