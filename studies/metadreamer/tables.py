"""The tables of PEARL's and MetaDreamer's pages, of what `results/` keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from studies.efficiency import Curve, efficiency, ratio, thresholds
from studies.metadreamer.study import KEPT, reference_of
from studies.tables import (
    Column,
    Line,
    Reference,
    Runs,
    Table,
    count,
    early,
    episode,
    file_source,
    share,
    sources,
    success,
)

POINT, MERGE, CHEETAH = "PointRobot-v0", "HighwayMerge-v0", "CheetahVel-v0"
ON_POINT = {
    "MetaDreamer, 8 imagined tasks (allIR8)": "allIR8",
    "PEARL (pearl-all)": "pearl-all",
    "MetaDreamer, nothing imagined (all)": "all",
}
ON_MERGE = {
    "MetaDreamer R16I8": "R16I8",
    "MetaDreamer R8IR8": "R8IR8",
    "MetaDreamer R16": "R16",
    "PEARL R8, lean": "pearl-R8-lean",
    "PEARL R16": "pearl-R16",
    "MetaDreamer R8I8": "R8I8",
    "MetaDreamer R8": "R8",
    "PEARL R8": "pearl-R8",
    "MetaDreamer R8IR8, lean": "R8IR8-lean",
}
PARTS = {
    "R8IR8 without MDP-imagination": "R8IR8-no-mdp-imagination",
    "R8IR8 without meta-imagination": "R8IR8-no-meta-imagination",
    "R8IR8 with beta 1": "R8IR8-beta-1",
    "R8IR8 without physics": "R8IR8-no-physics",
}
MODELS = {
    "R8IR8": "R8IR8",
    "R8I8": "R8I8",
    "R16I8": "R16I8",
    "R8IR8 with beta 1": "R8IR8-beta-1",
    "R8IR8 without physics": "R8IR8-no-physics",
    "R8IR8, lean": "R8IR8-lean",
}


def _curve(path: Path, split: str) -> Curve:
    rows = np.genfromtxt(path, delimiter=",", names=True, deletechars="")
    return Curve(rows["frames"], rows[f"{split}/last"])


def _curves(runs: Runs, split: str) -> list[Curve]:
    return [_curve(path, split) for path in runs.curves()]


def _reached(benchmark: str, split: str, part: float, times: bool = True) -> Column:
    """Median steps of the runs to a part of the way, how many arrive, and PEARL's steps over them."""
    low, high = (Reference(benchmark, key).mean(split) for key in ("random", "oracle"))
    level = thresholds(low, high, (part,))[part]

    def cell(runs: Runs) -> str:
        curves = _curves(runs, split)
        mine, reference = efficiency(curves, level), reference_of(runs.name)
        text = f"{mine.median:,.0f}" if np.isfinite(mine.median) else "never"
        text += f" ({mine.reached} of {len(curves)})"
        if times and reference != runs.name:
            theirs = _curves(Runs(runs.folder, reference), split)
            given = tuple(min(float(curve.frames[-1]) for curve in some) for some in (theirs, curves))
            value, bound = ratio(efficiency(theirs, level), mine, (given[0], given[1]))
            if np.isfinite(value):
                text += f", {({'>=': 'at least ', '<=': 'at most '}).get(bound, '')}{value:.2g}x"
        return text

    return Column(f"{part:.0%}, {split}".replace("%", " %"), cell)


def point_robot() -> str:
    """Nine episodes a trial, eight of them to explore."""
    columns = (
        count(),
        early("episodes 1 to 8, test", "test", 8),
        episode("episode 9, test", "test", 8, runs=True),
        share("share of random to oracle", "test", POINT, "oracle", 8),
        episode("episode 9, training tasks", "train", 8),
        episode("episode 9, ood", "ood", 8, 1),
    )
    rows: list[tuple[str, Line]] = [("oracle", Reference(POINT, "oracle"))]
    rows += [(label, Runs(KEPT / POINT, name)) for label, name in ON_POINT.items()]
    return Table("agent", columns, (*rows, ("random", Reference(POINT, "random")))).markdown()


def point_robot_steps() -> str:
    """Steps to parts of the way."""
    columns = tuple(
        _reached(POINT, split, part, False) for split, part in (("test", 0.5), ("test", 0.75), ("ood", 0.5))
    )
    names = {"PEARL": "pearl-all", "MetaDreamer, 8 imagined tasks": "allIR8", "MetaDreamer, nothing imagined": "all"}
    return Table("", columns, tuple((label, Runs(KEPT / POINT, name)) for label, name in names.items())).markdown()


def _real_tasks(runs: Runs) -> str:
    return "16" if "R16" in runs.name else "8"


def highway_merge() -> str:
    """Every variant, after three episodes."""

    def steps(runs: Runs) -> str:
        return f"{min(curve.frames[-1] for curve in _curves(runs, 'test')):,.0f}"  # of the shortest run

    def known(runs: Runs) -> str:
        return f"{runs.episodes('R' + _real_tasks(runs))[:, 2].mean():.2f}"

    columns = (
        Column("real tasks", _real_tasks),
        Column("real steps", steps),
        Column("tasks learned from", known, lambda reference: f"{reference.mean('R8'):.2f}"),
        episode("test", "test", 2, runs=True),
        success("succeeded", "test", 2),
        episode("ood", "ood", 2),
    )
    rows: list[tuple[str, Line]] = [("oracle", Reference(MERGE, "oracle"))]
    rows += [(label, Runs(KEPT / MERGE, name)) for label, name in ON_MERGE.items()]
    rows += [("random", Reference(MERGE, "random"))]
    rows += [(label, Runs(KEPT / MERGE, name)) for label, name in PARTS.items()]
    return Table("agent", columns, tuple(rows)).markdown()


def highway_merge_steps() -> str:
    """Steps to parts of the way, and PEARL's over them."""
    columns = tuple(_reached(MERGE, split, part) for split, part in (("test", 0.25), ("test", 0.5), ("ood", 0.5)))
    return Table("agent", columns, tuple((label, Runs(KEPT / MERGE, n)) for label, n in ON_MERGE.items())).markdown()


def highway_merge_models() -> str:
    """Latent spaces and models at the end: of the report that is kept, means over runs."""
    path = KEPT / MERGE / "pearl-metadreamer.json"
    record = json.loads(path.read_text())["model"]
    heads = ("MIG", "DCI", "imagined tasks, state / reward", "the nearest real task's latent instead", "real tasks")
    lines = [f"| run | {' | '.join(heads)} |", "| --- " * 6 + "|"]
    for label, name in MODELS.items():
        means = {key: float(np.mean([run[key] for run in record[name]])) for key in record[name][0]}
        cells = [f"{means['mig']:.2f}"]
        cells += [", ".join(f"{means[key]:.2f}" for key in ("disentanglement", "completeness", "informativeness"))]
        cells += [
            f"{means[f'{case}_state']:.2f} / {means[f'{case}_reward']:.2f}"
            for case in ("imagination", "neighbour", "model")
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + sources({"all": file_source(path)})


def cheetah_vel() -> str:
    """The interpolation split: three episodes, on speeds between those learned from and on those."""
    folder = KEPT / CHEETAH

    def column(head: str, split: str) -> Column:
        def cell(runs: Runs) -> str:
            return ", ".join(f"{value:.0f}" for value in runs.episodes(split).mean(0))

        known = (lambda reference: f"{reference.mean(split):.0f}") if split == "interpolation_test" else lambda _: ""
        return Column(head, cell, known)

    columns = (
        column("speeds between", "interpolation_test"),
        column("speeds learned from", "interpolation_train"),
    )
    rows: tuple[tuple[str, Line], ...] = (
        ("oracle", Reference(CHEETAH, "oracle")),
        ("PEARL", Runs(folder, "pearl-all")),
        ("MetaDreamer, 8 imagined tasks", Runs(folder, "allIR8")),
        ("standing still", Reference(CHEETAH, "zero")),
        ("random actions", Reference(CHEETAH, "random")),
    )
    return Table("", columns, rows).markdown()


TABLES = {
    "pearl-metadreamer-point-robot": point_robot,
    "pearl-metadreamer-point-robot-steps": point_robot_steps,
    "pearl-metadreamer-highway-merge": highway_merge,
    "pearl-metadreamer-highway-merge-steps": highway_merge_steps,
    "pearl-metadreamer-highway-merge-models": highway_merge_models,
    "pearl-metadreamer-cheetah-vel": cheetah_vel,
}
