r"""DynaMITE-RL, VariBAD and RL²: the runs behind docs/agents/, their learning curves and the pictures.

    python -m studies.dynamite.study train --agents rl2 rl2-short varibad dynamite --seeds 0 1 2 3 4
    python -m studies.dynamite.study train --agents without-consistency without-conditioning without-masking \
        --seeds 0 1 2
    python -m studies.dynamite.study train --benchmark CheetahDirSwitch-v0 --seeds 0 1 2
    python -m studies.dynamite.study train --benchmark GridNavigation-v0 --seeds 0 1 2
    python -m studies.dynamite.study report --benchmark GridSwitch-v0

A run is a job of `metabench sweep` (see `studies.sweeping`; `--engine local`, `ray` or `slurm`) in
`runs/study/dynamite`; what is kept of it goes to `results/BENCHMARK` beside this file: the evaluations, the job, and a
learning curve as CSV (environment frames, seconds of training, mean return of the iteration's trials).
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from metabench_agents.belief import dynamite

import metabench
from metabench.evaluation.results import Result, write_atomically
from metabench.runs import read_metrics
from metabench.sweep import Job
from studies.sweeping import add_options, folders, keep, run, training
from studies.tables import interval

ROOT = Path(__file__).parent.parent.parent
RUNS, RESULTS = ROOT / "runs" / "study" / "dynamite", Path(__file__).parent / "results"
IMAGES = ROOT / "docs" / "images"
SPLITS = ("test", "ood")
LEVELS = (35.0, 40.0)  # mean returns on GridSwitch whose first passing is told
WINDOW = 38_400  # frames that a learning curve is averaged over


class Variant(NamedTuple):
    """One line of the tables: an agent and what differs from its defaults."""

    agent: str
    changes: dict[str, Any]


# One set of sizes, PPO settings and steps for all three; the rest is each agent's own.
CHEETAH = {
    "frames": 800_000,
    "trials": 16,
    "ppo.discount": 0.97,
    "ppo.trace": 0.95,
    "ppo.entropy": 0.002,
    "ppo.learning_rate": 1e-3,
}
CHEETAH_MODEL = CHEETAH | {
    "ppo.epochs": 4,
    "ppo.minibatches": 8,
    "model.decoder.sees": "all",
    "model.encoder.hidden": 128,
    "model.decoder.hidden": (64, 32),
    "model.terms": 25,
    "model.steps": 25,
    "model.products": False,  # joint velocities have no bounds
    "warmup.iterations": 20,
    "warmup.updates": 2000,  # 300 leave half of the rewards unexplained, and no policy learns on such a belief
    "warmup.scout_entropy": 0.002,
    "fit.updates": 8,
    "fit.trials": 16,
}
VARIANTS = {
    "GridSwitch-v0": {
        "rl2": Variant("rl2", {}),
        "rl2-short": Variant("rl2", {"frames": dynamite.Config.frames}),
        "varibad": Variant("varibad", {}),
        "dynamite": Variant("dynamite", {}),
        "without-consistency": Variant("dynamite", {"sessions.consistency": False}),
        "without-conditioning": Variant("dynamite", {"sessions.conditioning": False}),
        "without-masking": Variant("dynamite", {"sessions.masking": False}),
    },
    "CheetahDirSwitch-v0": {
        "rl2": Variant("rl2", CHEETAH | {"ppo.epochs": 4, "ppo.minibatches": 4, "network.hidden": 128}),
        "varibad": Variant("varibad", CHEETAH_MODEL),
        "dynamite": Variant("dynamite", CHEETAH_MODEL),
    },
    "GridNavigation-v0": {
        "varibad": Variant("varibad", {"frames": 600_000, "ppo.discount": 0.95, "ppo.trace": 0.9}),
        # VariBAD's own protocol: the 21 goals are trained on and tested on
        "varibad-published": Variant(
            "varibad", {"frames": 1_000_000, "ppo.discount": 0.95, "ppo.trace": 0.9, "split": "published"}
        ),
    },
}


def jobs(benchmark: str, names: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The runs of these variants, seeds outermost: a sweep that is cut short has whole seeds."""
    found = []
    for seed in seeds:
        for name in names:
            agent, changes = VARIANTS[benchmark][name]
            splits = {} if splits_of(name) == SPLITS else {"splits": splits_of(name)}
            found.append(training(agent, benchmark, name, changes, seed, **splits))
    return found


def splits_of(name: str) -> tuple[str, ...]:
    """What a variant is evaluated on."""
    return ("published",) if name.endswith("-published") else SPLITS


def keep_run(job: Job, folder: Path, results: Path = RESULTS) -> None:
    """Writes the records of a finished run, and its learning curve."""
    name, target = f"{job.settings['name']}-s{job.seed}", results / job.settings["benchmark"]
    rows = read_metrics(folder)
    frames = np.array([0] + [row["frames"] for row in rows])
    seconds = np.cumsum(np.diff(frames) / [row["time/frames_per_s"] for row in rows])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("frames", "seconds", "return"))
    for row, time in zip(rows, seconds, strict=True):
        writer.writerow((row["frames"], round(float(time), 2), round(row["return"], 3)))
    write_atomically(target / f"{name}-curve.csv", text.getvalue().encode())
    keep(folder, target, name)


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


def ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the means over runs, and its bootstrap 95 % interval (runs of both resampled)."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(above, (4000, len(above))).mean(axis=1) / rng.choice(below, (4000, len(below))).mean(axis=1)
    return float(above.mean() / below.mean()), float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def report(benchmark: str) -> None:
    """Prints the tables and draws the learning curves."""
    kept = RESULTS / benchmark
    for name in VARIANTS[benchmark]:
        cells = [name]
        for split in splits_of(name):
            arrays = [Result.load(p).array() for p in sorted(kept.glob(f"{name}-s?-{split}.json"))]
            if not arrays:
                continue
            means = np.array([array.mean() for array in arrays])
            low, high = interval(means)
            cells.append(f"{split} {means.mean():.2f} [{low:.2f}, {high:.2f}] ({len(means)} runs)")
            if arrays[0].shape[-1] > 1:
                each = np.mean([array.reshape(-1, array.shape[-1]).mean(axis=0) for array in arrays], axis=0)
                cells.append("episodes " + " ".join(f"{value:.2f}" for value in each))
        print(" | ".join(cells))
    if benchmark == "GridSwitch-v0":
        steps_to_levels(kept, list(VARIANTS[benchmark]))
    words = re.sub("(?<=[a-z])(?=[A-Z])", "-", benchmark.removesuffix("-v0")).lower()
    draw(benchmark, IMAGES / f"{words}-learning.png")


def steps_to_levels(kept: Path, names: list[str]) -> None:
    """Prints the steps and seconds to each level, and how many times DynaMITE-RL's the others need.

    A run that never passes counts with all the steps it was given: its ratio is a lower bound, printed with >=.
    """
    for level in LEVELS:
        steps: dict[str, np.ndarray] = {}
        missed: dict[str, int] = {}
        for name in names:
            paths = sorted(kept.glob(f"{name}-s?-curve.csv"))
            found = [passing(path, level) for path in paths]
            ends = [curve(path)[-1, 0] for path in paths]
            if not found:
                continue
            missed[name] = sum(np.isinf(frames) for frames, _ in found)
            steps[name] = np.array([min(frames, end) for (frames, _), end in zip(found, ends, strict=True)])
            print(
                f"{name} to {level:.0f}: M steps",
                " ".join(f"{frames / 1e6:.2f}" for frames, _ in found),
                "| seconds",
                " ".join(f"{seconds:.0f}" for _, seconds in found),
            )
        for name in steps:
            if name != "dynamite" and "dynamite" in steps:
                value, low, high = ratio(steps[name], steps["dynamite"])
                bound = f" (>=: {missed[name]} of {len(steps[name])} runs never)" if missed[name] else ""
                print(f"  {name} / dynamite to {level:.0f}: {value:.2f} [{low:.2f}, {high:.2f}]{bound}")


COLORS = {
    "varibad-published": "#E69F00",
    "dynamite": "#D55E00",
    "varibad": "#56B4E9",
    "rl2": "#0072B2",
    "rl2-short": "#009E73",
}
CEILINGS = {"GridSwitch-v0": ("bayes", "Bayes-optimal")}


def draw(benchmark: str, target: Path) -> None:
    """The learning curves against environment steps and time: the mean of the runs, each run, the ceiling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=144, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    episodes = metabench.spec(benchmark).episodes
    for name, color in COLORS.items():
        tables = [curve(path) for path in sorted((RESULTS / benchmark).glob(f"{name}-s?-curve.csv"))]
        if not tables:
            continue
        for table in tables:
            left.plot(table[:, 0] / 1e6, table[:, 2], color=color, lw=0.7, alpha=0.35)
            right.plot(table[:, 1], table[:, 2], color=color, lw=0.7, alpha=0.35)
        mean = np.mean([table[: min(map(len, tables))] for table in tables], axis=0)
        left.plot(mean[:, 0] / 1e6, mean[:, 2], color=color, lw=2.2, label=f"{name}, {len(tables)} runs")
        right.plot(mean[:, 1], mean[:, 2], color=color, lw=2.2)
    key, label = CEILINGS.get(benchmark, ("oracle", "oracle, shown the task"))
    for axis, what in (
        (left, "environment steps (millions)"),
        (right, "seconds of training, one thread, shared machine"),
    ):
        axis.axhline(
            metabench.spec(benchmark).references("train")[key]["mean"], color="#CC79A7", lw=1.2, ls="--", label=label
        )
        axis.set(xlabel=what)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#D6D3CB", lw=0.6)
    per = "episode" if episodes == 1 else f"episode, mean over the trial's {episodes}"
    left.set_title(f"{benchmark.removesuffix('-v0')}: return per {per}, while learning", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=9, loc="best")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def main() -> None:
    """Runs one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "report"))
    parser.add_argument("--benchmark", choices=VARIANTS, default="GridSwitch-v0")
    parser.add_argument("--agents", nargs="+", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=RUNS, help="the sweep's folder")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.part == "report":
        report(arguments.benchmark)
        return
    benchmark, known = arguments.benchmark, VARIANTS[arguments.benchmark]
    names = arguments.agents or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown agent {unknown[0]!r}; there are {', '.join(known)}")
    grid = jobs(benchmark, names, arguments.seeds)
    try:
        run(grid, arguments.out, arguments)
    finally:
        for job in () if arguments.dry_run else grid:
            for folder in folders([job], arguments.out):
                keep_run(job, folder)


if __name__ == "__main__":
    main()
