"""DynaMITE-RL, VariBAD and RL² on GridSwitch: the runs behind docs/agents.md, their learning curves and the picture.

    python scripts/dynamite_study.py train --agents rl2 varibad dynamite --seeds 0 1 2 3 4
    python scripts/dynamite_study.py train --agents without-consistency without-conditioning --seeds 0 1 2
    python scripts/dynamite_study.py offline --seeds 0 1 2
    python scripts/dynamite_study.py report

Runs go to `runs/study`, what is kept of them to `docs/results/GridSwitch-v0`: the evaluations (result.json), and per
run a learning curve as CSV (environment frames, seconds of training, mean return of the iteration's trials).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from metabench_agents import dynamite, dynamite_iql, rl2, varibad
from metabench_agents.run import Run

import metabench
from metabench.results import Result

BENCHMARK = "GridSwitch-v0"
ROOT = Path(__file__).parent.parent
RUNS, KEPT = ROOT / "runs" / "study", ROOT / "docs" / "results" / BENCHMARK
SPLITS = ("test", "ood")
LEVELS = (35.0, 40.0)  # mean returns whose first passing is told
WINDOW = 38_400  # frames that a learning curve is averaged over
DATASET = "metabench/grid-switch/replay-v0"


class Variant(NamedTuple):
    """One line of the tables: a module and what differs from its defaults."""

    module: Any
    changes: dict[str, Any]


VARIANTS = {
    "rl2": Variant(rl2, {}),
    "varibad": Variant(varibad, {}),
    "dynamite": Variant(dynamite, {}),
    "without-consistency": Variant(dynamite, {"consistency": False}),
    "without-conditioning": Variant(dynamite, {"conditioning": False}),
    "without-masking": Variant(dynamite, {"masking": False}),
}
OFFLINE = {
    "dynamite-iql": {},
    "memoryless-iql": {"memory": "none"},
    "cloning": {"memory": "none", "policy": "bc"},
}


def train(name: str, seed: int) -> None:
    """One run of one variant, its evaluations and its curve."""
    module, changes = VARIANTS[name]
    folder = RUNS / f"{name}-s{seed}"
    config = dataclasses.replace(module.Config(), **changes)
    agent = module.train(BENCHMARK, config, seed=seed, run=Run(folder, show=False))
    keep(name, agent, seed)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    frames = np.array([0] + [row["frames"] for row in rows])
    seconds = np.cumsum(np.diff(frames) / [row["time/frames_per_s"] for row in rows])
    with (KEPT / f"{name}-s{seed}-curve.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("frames", "seconds", "return"))
        for row, time in zip(rows, seconds, strict=True):
            writer.writerow((row["frames"], round(float(time), 2), round(row["return"], 3)))


def offline(name: str, seed: int) -> None:
    """One run of an offline agent and its evaluations."""
    config = dataclasses.replace(dynamite_iql.Config(), **OFFLINE[name])
    run = Run(RUNS / f"{name}-s{seed}", show=False)
    keep(name, dynamite_iql.train(BENCHMARK, config, seed=seed, run=run), seed)


def keep(name: str, agent: Any, seed: int) -> None:
    """Evaluates on both splits and writes the records."""
    for split in SPLITS:
        result = metabench.evaluate(agent, BENCHMARK, split=split, train_seed=seed, name=name)
        result.save(KEPT / f"{name}-s{seed}-{split}.json")
        print(f"{name} seed {seed} {split}: {result.array().mean():.2f}", flush=True)


def curve(path: Path) -> np.ndarray:
    """`[rows, 3]` frames, seconds and the return averaged over the last `WINDOW` frames."""
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    width = max(1, round(WINDOW / table[0, 0]))
    smooth = [table[max(0, i + 1 - width) : i + 1, 2].mean() for i in range(len(table))]
    return np.column_stack((table[:, :2], smooth))


def passing(path: Path, level: float) -> tuple[float, float]:
    """Frames and seconds until the averaged return first reaches `level`; infinite if it never does."""
    table = curve(path)
    where = np.flatnonzero(table[:, 2] >= level)
    return (float(table[where[0], 0]), float(table[where[0], 1])) if len(where) else (np.inf, np.inf)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap 95 % interval of the mean over runs."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (4000, len(values))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def report() -> None:
    """Prints the tables and draws the learning curves."""
    lines = []
    for name in (*VARIANTS, *OFFLINE):
        cells = [name]
        for split in SPLITS:
            means = np.array([Result.load(p).array().mean() for p in sorted(KEPT.glob(f"{name}-s?-{split}.json"))])
            if len(means):
                low, high = interval(means)
                cells.append(f"{means.mean():.2f} [{low:.2f}, {high:.2f}] ({len(means)} runs)")
        for level in LEVELS:
            found = [passing(path, level) for path in sorted(KEPT.glob(f"{name}-s?-curve.csv"))]
            cells += [" ".join(f"{frames / 1e6:.2f}" for frames, _ in found)]
            cells += [" ".join(f"{seconds:.0f}" for _, seconds in found)]
        lines.append(" | ".join(cells))
    print("agent | test | ood | M frames to 35 | seconds | M frames to 40 | seconds")
    print("\n".join(lines))
    draw(ROOT / "docs" / "images" / "grid-switch-learning.png")


COLORS = {"dynamite": "#D55E00", "varibad": "#56B4E9", "rl2": "#0072B2"}


def draw(target: Path) -> None:
    """The learning curves against environment steps: the mean of the runs, each run, the ceiling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4), dpi=144, layout="constrained", facecolor="white")
    axis = figure.subplots()
    for name, color in COLORS.items():
        tables = [curve(path) for path in sorted(KEPT.glob(f"{name}-s?-curve.csv"))]
        for table in tables:
            axis.plot(table[:, 0] / 1e6, table[:, 2], color=color, lw=0.7, alpha=0.35)
        if tables:
            mean = np.mean([table[:, 2] for table in tables], axis=0)
            axis.plot(tables[0][:, 0] / 1e6, mean, color=color, lw=2.2, label=f"{name}, {len(tables)} runs")
    ceiling = metabench.spec(BENCHMARK).references("train")["bayes"]["mean"]
    axis.axhline(ceiling, color="#CC79A7", lw=1.2, ls="--", label="Bayes-optimal")
    axis.set(xlabel="environment steps (millions)")
    axis.set_title("GridSwitch: return per episode while learning", loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#D6D3CB", lw=0.6)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def main() -> None:
    """Runs one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "offline", "report"))
    parser.add_argument("--agents", nargs="+", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    if arguments.part == "report":
        report()
        return
    known, work = (VARIANTS, train) if arguments.part == "train" else (OFFLINE, offline)
    for seed in arguments.seeds:
        for name in arguments.agents or known:
            if name not in known:
                parser.error(f"unknown agent {name!r}; there are {', '.join(known)}")
            work(name, seed)


if __name__ == "__main__":
    main()
