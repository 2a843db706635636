"""Trains and evaluates the offline agents over a grid, and goes on where it was stopped.

    python -m studies.meta_dt.study                       # PointRobot mixed, all agents, seeds 0 to 2
    python -m studies.meta_dt.study --benchmarks PointRobot-v0 CheetahVel-v0 --qualities medium expert mixed
    python -m studies.meta_dt.study --benchmarks MetaWorld-Reach-v0 --splits meta_dt_train meta_dt_test
    python -m studies.meta_dt.study --variants ablations  # Meta-DT with one thing changed at a time
    python -m studies.meta_dt.study --variants released   # with one way of the released code restored at a time
    python -m studies.meta_dt.study --preset released     # the released counts and rates: for a large machine
    python -m studies.meta_dt.study --preset released --set device=cuda precision=bf16  # or for a GPU
    python -m studies.meta_dt.study --table               # only print what there is

Every run is a job of `metabench sweep` (see `studies.sweeping`; `--engine local`, `ray` or `slurm`) in the folder
--out: one whose result is there is skipped, an unfinished one continues to the same bits; several processes or machines
may share --out, each takes what nobody has taken. Data sets that are not here are generated. Every run is evaluated on
the second of --splits with --episodes episodes per trial: the first is zero-shot, the later ones few-shot with 1, 2,
... context episodes. Tables and docs are made from the result files alone; --keep copies them to results/.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from metabench_agents.parts.config import read_config

import metabench
from metabench.datasets import DatasetId
from metabench.evaluation.results import Result, write_atomically
from metabench.plugins import load_plugin
from metabench.runs import METRICS, result_path
from metabench.sweep import Job
from studies.sweeping import add_options, differences, folders, keep, run, seeds_of, training

RESULTS = Path(__file__).parent / "results"
AGENTS = ("meta-dt", "prompt-dt", "dt", "bc")
YARDSTICKS = ("random", "oracle")
# What two cores can afford, and what was released (facts of the released configs; batch 128, no decay).
SMALL: dict[str, Any] = {
    "transformer.width": 64,
    "transformer.layers": 2,
    "fitting.updates": 1_500,
    "fitting.batch": 32,
    "fitting.warmup": 100,
    "fitting.learning_rate": 3e-3,
    "world_model.fitting.updates": 6_000,
}
RELEASED = {  # updates of the transformer, their rate, updates of the world model
    "PointRobot-v0": (100_000, 1e-4, 211_000),
    "CheetahVel-v0": (200_000, 5e-5, 4_200_000),
    "CheetahDir-v0": (100_000, 6e-6, 190_000),
    "AntDir-v0": (500_000, 5e-5, 4_200_000),
    "HopperParam-v0": (100_000, 5e-5, 1_400_000),
    "WalkerParam-v0": (100_000, 5e-5, 1_400_000),
    "MetaWorld-Reach-v0": (300_000, 1e-7, 3_500_000),
}
RELEASED_NAMES = ("fitting.updates", "fitting.learning_rate", "world_model.fitting.updates")
RELEASED_ALWAYS = {"fitting.batch": 128, "fitting.warmup": 10_000, "fitting.decay": False}
ABLATIONS: dict[str, dict[str, Any]] = {
    "no-world-model": {"world_model.used": False},
    "random-prompt": {"prompt.choice": "random"},
    "no-prompt": {"prompt.choice": "none"},
    "h=1": {"world_model.history": 1},
    "h=2": {"world_model.history": 2},
    "h=8": {"world_model.history": 8},
    "L=3": {"prompt.length": 3},
    "L=10": {"prompt.length": 10},
}


class Item(NamedTuple):
    """One run of the grid."""

    benchmark: str
    quality: str
    agent: str
    variant: str  # empty for the agent as it is
    seed: int

    @property
    def label(self) -> str:
        """The agent with its variant."""
        return f"{self.agent} {self.variant}".strip()


def grid(arguments: argparse.Namespace, seeds: Sequence[int] | None = None) -> Iterator[Item]:
    """All runs, seeds outermost: a sweep that is cut short has whole seeds."""
    for seed in arguments.seeds if seeds is None else seeds:
        for benchmark in arguments.benchmarks:
            for quality in arguments.qualities:
                for agent in arguments.agents:
                    for variant in variants(agent, arguments.variants):
                        yield Item(benchmark, quality, agent, variant, seed)


def variants(agent: str, which: str) -> tuple[str, ...]:
    """The variants of an agent; only Meta-DT has any."""
    if which == "none":
        return ("",)
    if agent != "meta-dt":
        return ()
    if which == "ablations":
        return tuple(ABLATIONS)
    from metabench_agents.sequence.meta_dt import RELEASED_WAYS

    return (*RELEASED_WAYS, "released")


def config_of(item: Item, algorithm: Any, preset: str, changes: dict[str, Any]) -> Any:
    """The settings of a run; ones that its agent does not have are left out."""
    wanted: dict[str, Any] = {}
    if item.agent != "bc":
        if preset == "released":
            if item.benchmark not in RELEASED:
                raise SystemExit(f"no released settings for {item.benchmark}; there are some for {', '.join(RELEASED)}")
            wanted |= dict(zip(RELEASED_NAMES, RELEASED[item.benchmark], strict=True)) | RELEASED_ALWAYS
        else:
            wanted |= SMALL
    wanted |= ABLATIONS.get(item.variant, {})
    if item.variant and item.variant not in ABLATIONS:
        from metabench_agents.sequence.meta_dt import RELEASED_WAYS

        wanted["released"] = RELEASED_WAYS if item.variant == "released" else (item.variant,)
    wanted |= {"data": item.quality} | changes
    settings = asdict(algorithm.Config())
    for name, value in wanted.items():
        place, key = group_of(settings, name)
        if key in place:
            place[key] = value
    return read_config(algorithm.Config, settings)


def group_of(settings: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The group of settings that a dotted name belongs to, and the name in it; an empty group if there is no such."""
    *groups, key = name.split(".")
    for group in groups:
        inner = settings.get(group)
        settings = inner if isinstance(inner, dict) else {}
    return settings, key


def check_names(names: Iterable[str], agents: Iterable[str]) -> None:
    """Refuses a setting that none of the agents has: it would change nothing."""
    configs = [asdict(load_plugin(agent).Config()) for agent in agents]  # pyright: ignore[reportAttributeAccessIssue]
    for name in names:
        places = [group_of(config, name) for config in configs]
        if not any(key in place and not isinstance(place[key], dict) for place, key in places):
            raise SystemExit(
                f"no agent has a setting {name!r}; groups are written with a dot, as in fitting.updates=5000"
            )


def job_of(item: Item, arguments: argparse.Namespace) -> Job:
    """The run of an item: on data of the first of the splits, evaluated on the second; the data are made if need be."""
    algorithm: Any = load_plugin(item.agent)
    config = config_of(item, algorithm, arguments.preset, {"split": arguments.splits[0]} | dict(arguments.set))
    id = str(DatasetId.of(item.benchmark, item.quality))
    settings = {
        "datasets": [[id, split] for split in dict.fromkeys(arguments.splits)],
        "splits": [arguments.splits[1]],
        "episodes": arguments.episodes,
    }
    changes = differences(config, algorithm.Config())
    return training(item.agent, item.benchmark, item.label, changes, item.seed, **settings)


def yardstick(name: str, benchmark: str, arguments: argparse.Namespace) -> Job:
    """The evaluation of a yardstick that the benchmark has no reference of: in trials as the agents'."""
    settings = {"agent": name, "benchmark": benchmark, "split": arguments.splits[1], "episodes": arguments.episodes}
    return Job("evaluate", settings)


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """All there is to do."""
    found = [job_of(item, arguments) for item in grid(arguments)]
    for benchmark in arguments.benchmarks:
        stored = metabench.spec(benchmark).references(arguments.splits[1])
        found += [yardstick(name, benchmark, arguments) for name in YARDSTICKS if name not in stored]
    return found


def kept(out: Path, arguments: argparse.Namespace, results: Path = RESULTS) -> None:
    """Copies what a reader wants to check of the finished runs to results/: evaluations, jobs, metrics."""
    for item in grid(arguments):
        for folder in folders([job_of(item, arguments)], out):
            target = results / item.benchmark / f"offline-{item.quality}"
            name = f"{item.label.replace(' ', '-')}-s{item.seed}"
            write_atomically(target / f"{name}-{METRICS}", (folder / METRICS).read_bytes())
            keep(folder, target, name)


def levels(benchmark: str, quality: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Mean return per episode of the yardsticks, and of the data's behaviour policy on the test tasks."""
    found: dict[str, float] = {}
    split = arguments.splits[1]
    stored = metabench.spec(benchmark).references(split)
    for name in YARDSTICKS:
        if name in stored:  # from thousands of trials; a table's own protocol has few
            found[name] = stored[name]["mean"]
            continue
        for folder in folders([yardstick(name, benchmark, arguments)], arguments.out):
            found[name] = float(Result.load(result_path(folder, split)).array().mean())
    data = metabench.load_dataset(str(DatasetId.of(benchmark, quality)), split)
    found["behaviour"] = float(data.episodes["return"].mean())
    return found


def table(arguments: argparse.Namespace) -> str:
    """What there is, as Markdown: mean over runs and tasks of each episode's return, with the spread over runs."""
    lines = []
    for benchmark in arguments.benchmarks:
        for quality in arguments.qualities:
            rows: dict[str, list[Result]] = {}
            for item in grid(arguments, seeds_of(arguments.out)):
                if (item.benchmark, item.quality) == (benchmark, quality):
                    for folder in folders([job_of(item, arguments)], arguments.out):
                        result = Result.load(result_path(folder, arguments.splits[1]))
                        rows.setdefault(item.label, []).append(result)
            if not rows:
                continue
            lines += [
                f"\n{benchmark}, {quality}\n",
                "| agent | runs | zero-shot | last episode | runs' last episodes |",
            ]
            lines.append("| --- | --- | --- | --- | --- |")
            for name, value in levels(benchmark, quality, arguments).items():
                lines.append(f"| {name} | | {value:.2f} | {value:.2f} | |")
            for name, results in rows.items():
                curves = np.stack([r.trials().mean(0) for r in results])
                each = ", ".join(f"{value:.2f}" for value in curves[:, -1])
                cells = [
                    f"{c.mean():.2f} ± {c.std(ddof=1) if len(c) > 1 else 0:.2f}" for c in (curves[:, 0], curves[:, -1])
                ]
                lines.append(f"| {name} | {len(results)} | {cells[0]} | {cells[1]} | {each} |")
    return "\n".join(lines)


def setting(text: str) -> tuple[str, Any]:
    """`name=value`, the value as JSON or a word."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    """Runs the grid, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", default=["PointRobot-v0"])
    parser.add_argument("--qualities", nargs="+", default=["mixed"])
    parser.add_argument("--splits", nargs=2, default=["train", "test"], metavar=("TRAIN", "TEST"), help="of the tasks")
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=AGENTS)
    parser.add_argument("--variants", default="none", choices=("none", "ablations", "released"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--preset", default="small", choices=("small", "released"))
    parser.add_argument(
        "--set",
        nargs="+",
        type=setting,
        default=[],
        help="settings of all agents that have them: fitting.updates=5000 fitting.batch=64",
    )
    parser.add_argument("--episodes", type=int, default=3, help="of a trial")
    parser.add_argument("--out", type=Path, default=Path("runs/offline"))
    parser.add_argument("--table", action="store_true", help="only print the table of what there is")
    parser.add_argument("--keep", action="store_true", help="copy evaluations, jobs and metrics to results/")
    add_options(parser)
    arguments = parser.parse_args()
    check_names((name for name, _ in arguments.set), arguments.agents)
    if not arguments.table and not run(jobs(arguments), arguments.out, arguments):
        return
    print(table(arguments))
    if arguments.keep:
        kept(arguments.out, arguments)


if __name__ == "__main__":
    main()
