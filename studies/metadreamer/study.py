"""The study of PEARL and MetaDreamer: every run, its evaluation, the tables and the pictures. Interrupt it at will.

    python -m studies.metadreamer.study                                  # HighwayMerge, all variants, seeds 0 to 2
    python -m studies.metadreamer.study --benchmark CheetahVel-v0        # the interpolation split
    python -m studies.metadreamer.study --only pearl-R8 R8IR8 --seeds 0  # some of it
    python -m studies.metadreamer.study --report-only                    # tables and pictures of what there is
    python -m studies.metadreamer.study --report-only --keep             # and evaluations and curves in results/

Every run is a job of `metabench sweep` (see `studies.sweeping`; `--engine local`, `ray` or `slurm`): one that was
killed continues to the same bits, a finished one is not repeated. Seeds come first, so that every variant has one run
before any has two. Each run leaves metrics.jsonl (with the learning curve), its evaluations and a checkpoint in
runs/study/metadreamer/results/KEY; the report, report.md, report.json and *.png, goes to
runs/study/metadreamer/<benchmark>.

Variants: `pearl-R8` and `pearl-R16` are PEARL on the same real tasks, networks, updates and schedule of real episodes
as MetaDreamer's runs `R8`, `R16`, `R8I8`, `R8IR8`, `R16I8`; `pearl-all`, `all` and `allIR8` learn from all tasks of a
split, on PointRobot and CheetahVel; `-long` goes on for twice as long, `-lean` too, but with an eighth of the real
steps per update; the rest are R8IR8 without one part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from metabench_agents.context import metadreamer
from metabench_agents.context.imagination import choose, factor_map, interpolate
from metabench_agents.parts.disentanglement import dci, mig
from metabench_agents.parts.run import load_checkpoint, stream

import metabench
from metabench.evaluation.results import Result, write_atomically
from metabench.runs import CHECKPOINT, METRICS, read_metrics, result_path
from metabench.sweep import Job
from metabench.sweep.folder import JOB, Place
from studies.efficiency import Curve, efficiency, ratio, read_curve, thresholds
from studies.metadreamer.pictures import latent_space, learning_curves, traversal
from studies.metadreamer.settings import LEAN, LONG, STUDIES, variants
from studies.sweeping import add_options, differences, keep, run, seeds_of, training

SHARES = (0.25, 0.5, 0.75, 0.9)  # of the way from random to the oracle
KEPT = Path(__file__).parent / "results"


def jobs(benchmark: str, names: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The runs of these variants, seeds outermost: every variant has one run before any has two."""
    every, study = variants(benchmark), STUDIES[benchmark]
    found = []
    for seed in seeds:
        for name in names:
            algorithm, config = every[name]
            episodes = max(metabench.spec(benchmark).episodes, config.exploration_episodes + 1)
            settings = {
                "splits": list(dict.fromkeys((study.test, study.ood, config.split))),
                "episodes": episodes,  # the benchmark's own, or as many as it takes to see one after the exploration
                "checkpoint_every": 10,
            }
            agent = algorithm.__name__.rpartition(".")[2]
            changes = differences(config, algorithm.Config())
            found.append(training(agent, benchmark, name, changes, seed, **settings))
    return found


def runs_of(out: Path, benchmark: str, variant: str) -> list[tuple[int, Path]]:
    """Seed and folder of every run of a variant that was begun; an unfinished one's is where it is worked on."""
    place, found = Place(out), []
    for job in jobs(benchmark, [variant], seeds_of(out)):
        here = [path for path in (place.result(job.key()), place.work / job.key()) if (path / METRICS).exists()]
        found += [(job.seed, here[0])] if here else []
    return found


def keep_all(out: Path, benchmark: str, names: Sequence[str], kept: Path = KEPT) -> None:
    """Copies what a reader wants to check to results/: evaluations, jobs and learning curves of finished runs."""
    study, target = STUDIES[benchmark], kept / benchmark
    columns = [f"{split}/{which}" for split in (study.test, study.ood) for which in ("first", "last")]
    for name in names:
        for seed, folder in runs_of(out, benchmark, name):
            if not (folder / JOB).exists():
                continue
            rows = [row for row in read_metrics(folder) if columns[0] in row]
            points = [[row["frames"], *(round(row[c], 3) for c in columns)] for row in rows]
            lines = [",".join(map(str, line)) for line in [["frames", *columns], *points]]
            write_atomically(target / f"{name}-s{seed}-curve.csv", ("\n".join(lines) + "\n").encode())
            keep(folder, target, f"{name}-s{seed}")
    report = reports(out, benchmark) / "report.json"
    if report.exists():
        write_atomically(target / "pearl-metadreamer.json", report.read_bytes())


def reports(out: Path, benchmark: str) -> Path:
    """Where a benchmark's report and pictures go."""
    return out / benchmark


def curves_of(root: Path, benchmark: str, names: Sequence[str], split: str) -> dict[str, list[Curve]]:
    """The learning curves there are, by variant; unfinished runs' as far as they go."""
    found = {}
    for name in names:
        runs = [read_curve(folder / METRICS, f"{split}/last") for _, folder in runs_of(root, benchmark, name)]
        runs = [run for run in runs if len(run.frames)]
        if runs:
            found[name] = runs
    return found


def levels_of(benchmark: str, split: str, curves: dict[str, list[Curve]]) -> tuple[float, float, str]:
    """Random's return, the ceiling's, and what that is: the oracle, or where none is known the best of all runs."""
    chosen = metabench.spec(benchmark)
    known = chosen.references(split)
    if "random" in known and "oracle" in known:
        return known["random"]["mean"], known["oracle"]["mean"], "oracle"
    from metabench.plugins import load_plugin

    random: Any = load_plugin("random")
    floor = metabench.evaluate(random.build(benchmark, split, 0), benchmark, split=split).array().mean()
    best = max(float(run.returns.max()) for runs in curves.values() for run in runs)
    return float(floor), best, "best of all runs"


def reference_of(name: str) -> str:
    """PEARL's runs that a variant is compared with: on the same tasks, under the same schedule."""
    if "all" in name:
        return "pearl-all"
    if "R16" in name:
        return "pearl-R16"
    return "pearl-R8" + next((suffix for suffix in (LONG, LEAN) if name.endswith(suffix)), "")


def efficiency_table(benchmark: str, split: str, curves: dict[str, list[Curve]]) -> tuple[list[str], dict[str, Any]]:
    """Real steps to each threshold by variant, and PEARL's over them."""
    floor, ceiling, what = levels_of(benchmark, split, curves)
    lengths = {name: min(float(run.frames[-1]) for run in runs) for name, runs in curves.items()}
    lines = [
        f"### {split}",
        "",
        f"Random {floor:.2f}, {what} {ceiling:.2f}. Median real steps until the smoothed return after adaptation has"
        " come that part of the way, runs that arrive, and how many times as many PEARL takes on the same tasks and"
        " schedule.",
        "",
        f"| variant | runs | real steps | last return | {' | '.join(f'{share:.0%}' for share in SHARES)} |",
        "| --- " * (4 + len(SHARES)) + "|",
    ]
    record: dict[str, Any] = {"random": floor, "ceiling": ceiling, "ceiling_is": what, "variants": {}}
    for name, runs in curves.items():
        cells, own = [], {}
        reference = reference_of(name)
        for share, level in thresholds(floor, ceiling, SHARES).items():
            mine = efficiency(runs, level)
            cell = f"{mine.median:,.0f}" if np.isfinite(mine.median) else "never"
            cell += f" ({mine.reached}/{len(runs)})"
            if reference in curves and name != reference:
                given = (lengths[reference], lengths[name])
                times, bound = ratio(efficiency(curves[reference], level), mine, given)
                cell += f", {bound}{' ' if bound else ''}{times:.2g}x" if np.isfinite(times) else ""
            cells.append(cell)
            own[str(share)] = {"steps": [s if np.isfinite(s) else None for s in mine.steps]}
        last = [float(run.returns[-3:].mean()) for run in runs]
        returns = f"{np.mean(last):.2f} ({min(last):.2f} to {max(last):.2f})"
        row = [name, str(len(runs)), f"{lengths[name]:,.0f}", returns, *cells]
        lines.append(f"| {' | '.join(row)} |")
        record["variants"][name] = {"last": last, "thresholds": own}
    return [*lines, ""], record


def adaptation_table(root: Path, benchmark: str, names: Sequence[str]) -> list[str]:
    """Returns of every episode of a trial after training, on the tasks learned from and on others."""
    study, every = STUDIES[benchmark], variants(benchmark)
    text = "Means over runs; of the last episode each run's, and how often it succeeded where that is known."
    lines = ["### Episodes of a trial", "", text, ""]
    lines += [f"| variant | tasks learned from | {study.test} | {study.ood} |", "| --- " * 4 + "|"]
    for name in names:
        cells = []
        for split in (every[name][1].split, study.test, study.ood):
            paths = [result_path(folder, split) for _, folder in runs_of(root, benchmark, name)]
            results = [Result.load(path) for path in paths if path.exists()]
            if results:
                curves = np.array([result.trials().mean(0) for result in results])
                won = [np.array(result.successes)[..., -1].mean() for result in results if result.successes]
                runs = ", ".join(f"{value:.2f}" for value in curves[:, -1])
                share = f"; {np.mean(won):.0%}" if won else ""
                cells.append(", ".join(f"{value:.2f}" for value in curves.mean(0)) + f" ({runs}{share})")
        if len(cells) == 3:
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def model_table(root: Path, benchmark: str, names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Disentanglement and imagination errors of the last checkpoints, as means over seeds."""
    head = "| variant | runs | MIG | DCI D / C / I | imagined state / reward error | neighbour's | real tasks' |"
    lines, record = ["### Latent space and imagination", "", head, "| " + "--- | " * 7], {}
    for name in names:
        rows = []
        for _, folder in runs_of(root, benchmark, name):
            if not (folder / CHECKPOINT).exists() or name.startswith("pearl"):
                continue
            state, config = metadreamer.load_training(folder)
            means = load_checkpoint(folder).tensors["last/means"].numpy()
            flat, known = means.reshape(-1, means.shape[-1]), np.repeat(state.factors, means.shape[1], axis=0)
            rows.append(
                metadreamer.diagnose(state, config, stream(0, 1))
                | dci(flat, known)._asdict()
                | {"mig_last": mig(flat, known)}
            )
        if rows:
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            record[name] = rows
            cases = ("imagination", "neighbour", "model")
            pairs = [f"{mean[f'{case}_state']:.2f} / {mean[f'{case}_reward']:.3f}" for case in cases]
            scores = " / ".join(f"{mean[key]:.2f}" for key in ("disentanglement", "completeness", "informativeness"))
            lines.append(f"| {name} | {len(rows)} | {mean['mig']:.3f} | {scores} | " + " | ".join(pairs) + " |")
    text = (
        "State errors are in standard deviations of each column, reward errors in the reward's unit; means over steps."
    )
    return [*lines, "", text, ""], record


def pictures(root: Path, benchmark: str, variant: str, seed: int) -> None:
    """Latent space and traversals of one run of MetaDreamer."""
    folder, study = dict(runs_of(root, benchmark, variant)).get(seed), STUDIES[benchmark]
    if folder is None or not (folder / CHECKPOINT).exists():
        return
    state, config = metadreamer.load_training(folder)
    beliefs = metadreamer.real_beliefs(state, config, stream(0, 2), contexts=48)
    names = list(metabench.spec(benchmark).table().ranges)
    dimensions = factor_map(beliefs, state.factors)
    out = reports(root, benchmark)
    latent_space(out / f"latents-{variant}.png", beliefs.mean.numpy(), state.factors, names, dimensions)
    centers = beliefs.mean.mean(1)
    for k, name in enumerate(names):
        every = interpolate(centers, state.factors, dimensions, config.imagination.density)
        along = [
            i
            for i in range(len(every.base))
            if every.base[i] == 0 and not np.isclose(every.factors[i, k], state.factors[0, k])
        ]
        if not along:
            every = choose(every, len(every.base), stream(0))
            along = list(range(min(6, len(every.base))))
        along = sorted(along, key=lambda i: every.factors[i, k])
        picked = every.take(np.array(along)[np.linspace(0, len(along) - 1, min(6, len(along))).astype(int)])
        title = f"{name} from {picked.factors[:, k].min():.2f} to {picked.factors[:, k].max():.2f}"
        horizon = config.imagination.steps or metabench.spec(benchmark).horizon
        columns = [f.name for f in metabench.spec(benchmark).family().observation_fields]
        path = out / f"traversal-{variant}-{name}.png"
        traversal(path, benchmark, state.network, picked.z, picked.factors, columns, study.columns, horizon, title)


def report(root: Path, benchmark: str, names: Sequence[str]) -> None:
    """Tables and pictures of whatever has been run."""
    study, out, record = STUDIES[benchmark], reports(root, benchmark), {}
    lines = [f"## {benchmark}: PEARL and MetaDreamer", "", f"    {' '.join(['python', *sys.argv])}", ""]
    for split in (study.test, study.ood):
        curves = curves_of(root, benchmark, names, split)
        if not curves:
            print(f"there are no runs of {benchmark} in {root} yet")
            return
        out.mkdir(parents=True, exist_ok=True)
        table, record[split] = efficiency_table(benchmark, split, curves)
        lines += table
        floor, ceiling, what = levels_of(benchmark, split, curves)
        title = f"{benchmark}, {split}: return after adaptation"
        learning_curves(out / f"curves-{split}.png", curves, {"random": floor, what: ceiling}, title)
    lines += adaptation_table(root, benchmark, names)
    table, record["model"] = model_table(root, benchmark, names)
    lines += table
    for variant in [v for v in ("R8IR8", "R8IR8-beta-1", "R8IR8-no-physics", "allIR8") if v in names]:
        pictures(root, benchmark, variant, 0)
    write_atomically(out / "report.md", "\n".join(lines).encode())
    write_atomically(out / "report.json", json.dumps(record, indent=1).encode())
    print("\n".join(lines))


def main() -> None:
    """Parses the command line and goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="HighwayMerge-v0", choices=list(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="variants; all by default")
    parser.add_argument("--folder", type=Path, default=Path("runs/study/metadreamer"))
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--keep", action="store_true", help="copy evaluations and learning curves to results/")
    add_options(parser)
    arguments = parser.parse_args()
    known = list(variants(arguments.benchmark))
    names = arguments.only or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown variant {unknown[0]!r}; available: {', '.join(known)}")
    grid = jobs(arguments.benchmark, names, arguments.seeds)
    if not arguments.report_only and not run(grid, arguments.folder, arguments):
        return
    report(arguments.folder, arguments.benchmark, known)
    if arguments.keep:
        keep_all(arguments.folder, arguments.benchmark, known)


if __name__ == "__main__":
    main()
