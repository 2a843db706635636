"""What is plotted of runs: learning curves with intervals over runs, profiles, improvement, adaptation. No drawing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from metabench.evaluation.results import Result
from metabench.evaluation.stats import Interval, improvement_interval, mean, normalise, performance_profile
from metabench.evaluation.stats import stratified_bootstrap as bootstrap
from metabench.evaluation.summary import BOOTSTRAP_SEED, Group, Source, reference_levels
from metabench.plotting.style import smooth
from metabench.rng import Array
from metabench.runs import CURVE, is_run, read_metrics, read_record, read_results

X = Literal["frames", "updates", "seconds"]
POINTS = 200  # of a learning curve


class Learning(NamedTuple):
    """How the return rose in one run."""

    x: Array  # [K] environment steps, updates, or seconds of training
    y: Array  # [K] mean return of an episode


class TrainedRun(NamedTuple):
    """A run's folder, read."""

    folder: Path
    agent: str
    benchmark: str
    seed: int
    config: Mapping[str, Any]
    learning: Learning | None  # None where training logged no returns
    results: Mapping[str, Result]


class Band(NamedTuple):
    """A learning curve of several runs: mean and 95 % interval, where all of them have values."""

    x: Array  # [K]
    middle: Array  # [K]
    low: Array  # [K]
    high: Array  # [K]


def read_run(folder: Path, x: X = "frames") -> TrainedRun:
    """Reads a run's folder; ValueError in one sentence if there is none."""
    if not is_run(folder):
        raise ValueError(f"{folder} is no folder of a training run: it has no config.json")
    record = read_record(folder)
    return TrainedRun(
        folder, record.agent, record.benchmark, record.seed, record.config, _learning(folder, x), read_results(folder)
    )


def _learning(folder: Path, x: X) -> Learning | None:
    if x == "updates":
        return _played(read_metrics(folder, CURVE))
    rows = read_metrics(folder)
    if x == "seconds":
        total, points = 0.0, []
        for row in rows:
            total += float(row.get("time/seconds", 0.0))
            if "return" in row and row["return"] is not None:
                points.append((total, row["return"]))
        points = points if total > 0 else []
    else:
        points = [(row["frames"], row["return"]) for row in rows if {"frames", "return"} <= row.keys()]
    points = [(float(a), float(b)) for a, b in points if b is not None and np.isfinite(b)]
    if not points:
        return None
    across, up = np.array(points).T
    return Learning(across, np.array(smooth(up.tolist())))


def _played(rows: Sequence[Mapping[str, Any]]) -> Learning | None:
    """What the checkpoints of a run that learned from data have reached, on the split that was played first."""
    means = [name for name in (rows[0] if rows else ()) if name.endswith("/mean")]
    points = [(row["update"], row[means[0]]) for row in rows if "update" in row] if means else []
    return Learning(*np.array(points, dtype=np.float64).T) if points else None


def label_runs(found: Sequence[TrainedRun]) -> dict[str, list[TrainedRun]]:
    """Runs by what they are runs of: the agent; with the settings in which runs of the same agent differ.

    Raises:
        ValueError: One run is given twice.
    """
    kinds: dict[tuple[str, str], list[TrainedRun]] = {}
    for run in found:
        members = kinds.setdefault((run.agent, json.dumps(run.config, sort_keys=True)), [])
        if twin := next((other for other in members if other.seed == run.seed), None):
            raise ValueError(
                f"{twin.folder} and {run.folder} are one run: the same agent, settings and seed {run.seed}"
            )
        members.append(run)
    labelled = {}
    for (agent, config), members in kinds.items():
        others = [json.loads(c) for a, c in kinds if a == agent and c != config]
        own, rivals = flat(json.loads(config)), [flat(other) for other in others]
        differing = [name for name in own if any(rival.get(name) != own[name] for rival in rivals)]
        told = ", ".join(f"{name} {own[name]}" for name in differing)
        labelled[f"{agent} ({told})" if told else agent] = members
    return labelled


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    told: dict[str, Any] = {}
    for name, value in config.items():
        told |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return told


def band(curves: Sequence[Learning]) -> Band:
    """The runs' curves on common places, from where the last begins to where the first ends."""
    start, end = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    places = np.linspace(start, max(start, end), POINTS)
    values = np.stack([np.interp(places, c.x, c.y) for c in curves])  # [runs, K]
    if len(curves) == 1:
        return Band(places, values[0], values[0], values[0])
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    picks = rng.integers(len(curves), size=(2000, len(curves)))
    drawn = np.stack([values[pick].mean(axis=0) for pick in picks])
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    return Band(places, values.mean(axis=0), low, high)


def sources(found: Sequence[TrainedRun]) -> list[Source]:
    """All results of the runs, for `metabench.evaluation.summary.group`."""
    return [Source(result, str(run.folder), run.config) for run in found for result in run.results.values()]


def scores(group: Group) -> tuple[Array, bool]:
    """`[runs, tasks]` mean returns; normalised (then True) where random and oracle are known."""
    returns = np.stack([result.array().mean(axis=(1, 2)) for result in group.results])
    protocol = group.results[0].protocol
    levels = reference_levels(protocol.benchmark, protocol.split)
    if {"random", "oracle"} <= levels.keys() and levels["oracle"] > levels["random"]:
        return normalise(returns, levels["random"], levels["oracle"]), True
    return returns, False


def profile(table: Array, low: float, high: float) -> tuple[Array, Array]:
    """Thresholds from `low` to `high`, and the share of runs x tasks above each."""
    thresholds = np.linspace(low, high, POINTS)
    return thresholds, performance_profile(table, thresholds)


def adaptation(group: Group) -> list[Interval]:
    """Mean return of each episode of a trial, with an interval over runs (a point, if there is one run)."""
    returns = np.stack([result.array().mean(axis=1) for result in group.results])  # [runs, tasks, episodes]
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    return [bootstrap(returns[:, :, j], rng, mean) for j in range(returns.shape[2])]


def improvements(groups: Sequence[Group]) -> list[tuple[str, Interval]]:
    """How probably the best group by mean beats each of the others on a task."""
    if len(groups) < 2:
        return []
    tables = {group.label: scores(group)[0] for group in groups}
    best = max(tables, key=lambda name: tables[name].mean())
    return [
        (f"{best} > {name}", improvement_interval(tables[best], table, np.random.default_rng(BOOTSTRAP_SEED)))
        for name, table in tables.items()
        if name != best
    ]
