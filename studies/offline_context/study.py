"""Trains FOCAL, UNICORN, CSRO and CORRO over a grid, and plays each with its own context and with one that is shown.

    python -m studies.offline_context.study                            # PointRobot mixed, all four, seeds 0 to 2
    python -m studies.offline_context.study --agents focal --set learning.kind=brac --label brac
    python -m studies.offline_context.study --table                    # only print what there is

One folder per run under --out; a run whose results are there is skipped, an unfinished one continues to the same
bits. A run is trained once and played four ways, for how it acts is no part of its training: `step`, z takes in the
trial's own transitions at every step; `drawn`, the same after four drawn steps; `episode`, z is renewed where an
episode begins, so that the first is played with z of nothing; `shown`, z is that of 64 transitions of the test task's
own data, as in the published evaluations (track `prompt-k`). Tables are made of what is written below --results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig, shown_contexts
from metabench_agents.parts.config import with_settings

import metabench
from metabench.datasets import DatasetId, generate
from metabench.datasets.format import MANIFEST
from metabench.datasets.ids import split_folder
from metabench.evaluation.results import Protocol, Result, write_atomically
from metabench.plugins import load_plugin

AGENTS = ("focal", "unicorn", "csro", "corro")
WAYS = {
    "step": PlayingConfig(),
    "drawn": PlayingConfig(explore=4),
    "episode": PlayingConfig(renew="episode"),
    "shown": PlayingConfig(context="shown"),
}
COST = "cost.json"
HERE = Path(__file__).parent


class Item(NamedTuple):
    """One run of the grid."""

    benchmark: str
    quality: str
    agent: str
    label: str  # of a variant; empty for the agent as it is
    seed: int

    @property
    def path(self) -> Path:
        """Below any folder."""
        return Path(self.benchmark, self.quality, f"{self.agent}-{self.label}".rstrip("-"), f"s{self.seed}")


def grid(arguments: argparse.Namespace) -> Iterator[Item]:
    """All runs, seeds outermost: a sweep that is cut short has whole seeds."""
    for seed in arguments.seeds:
        for benchmark in arguments.benchmarks:
            for quality in arguments.qualities:
                for agent in arguments.agents:
                    yield Item(benchmark, quality, agent, arguments.label, seed)


def played(agent: OfflineContextAgent, way: str, item: Item) -> OfflineContextAgent:
    """The trained agent, acting another way."""
    config, shown = WAYS[way], None
    if config.context == "shown":
        shown = shown_contexts(item.benchmark, item.quality, "train", agent.network, config.shown, seed=item.seed)
    return OfflineContextAgent(item.agent, agent.network, config, shown)


def run(item: Item, arguments: argparse.Namespace) -> str:
    """Trains and plays one run; says what happened."""
    folder, target = arguments.out / item.path, arguments.results / item.path
    if (target / COST).exists():
        return "there already"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            return _run(item, arguments, folder, target)
    except Timeout:
        return "taken by another process"


def _run(item: Item, arguments: argparse.Namespace, folder: Path, target: Path) -> str:
    id = DatasetId.of(item.benchmark, item.quality)
    for split in ("train", "test"):
        if not (split_folder(id, split) / MANIFEST).exists():
            generate(id, split)
    algorithm: Any = load_plugin(item.agent)
    config = with_settings(replace(algorithm.Config(), data=item.quality), dict(arguments.set))
    start = time.process_time()
    agent = algorithm.train(item.benchmark, config, seed=item.seed, run=algorithm_run(folder))
    seconds, lines = time.process_time() - start, []
    repeats = metabench.spec(item.benchmark).repeats
    protocol = Protocol(benchmark=item.benchmark, split="test", episodes=arguments.episodes, repeats=repeats, seed=0)
    for way in WAYS:
        own = played(agent, way, item)
        result = metabench.evaluate(own, protocol, train_seed=item.seed, name=f"{item.agent} {way}")
        result.save(target / f"{way}.json")
        lines.append(f"{way} {np.round(result.trials().mean(0), 2).tolist()}")
    record = {"cpu_seconds": round(seconds), "updates": config.fitting.updates, "settings": dict(arguments.set)}
    write_atomically(target / COST, json.dumps(record).encode())  # last: it says that the others are there
    return f"{', '.join(lines)} after {seconds:.0f} s of one core"


def algorithm_run(folder: Path) -> Any:
    """The run of one folder, without a bar."""
    from metabench_agents.parts.run import Run

    return Run(folder, show=False)


def table(results: Path) -> str:
    """What there is, as Markdown: mean over runs and tasks of each episode's return, with the spread over runs."""
    lines = []
    for place in sorted(path for path in results.glob("*/*") if path.is_dir()):
        lines += [f"\n{place.parent.name}, {place.name}\n", "| agent | runs | context | episode 1 | 2 | 3 |"]
        lines.append("| --- | --- | --- | --- | --- | --- |")
        for agent in sorted(place.iterdir()):
            for way in WAYS:
                found = [
                    Result.load(path / f"{way}.json") for path in sorted(agent.iterdir()) if (path / COST).exists()
                ]
                if not found:
                    continue
                curves = np.stack([result.trials().mean(0) for result in found])
                spread = curves.std(0, ddof=1) if len(curves) > 1 else np.zeros(curves.shape[1])
                cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(curves.mean(0), spread, strict=True)]
                lines.append(f"| `{agent.name}` | {len(found)} | {way} | {' | '.join(cells)} |")
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
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), choices=AGENTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", type=setting, default=[], help="settings: fitting.updates=2000")
    parser.add_argument("--label", default="", help="of runs with such settings")
    parser.add_argument("--episodes", type=int, default=3, help="of a trial")
    parser.add_argument("--out", type=Path, default=Path("runs/offline-context"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--table", action="store_true", help="only print the table of what there is")
    arguments = parser.parse_args()
    for item in () if arguments.table else grid(arguments):
        print(f"{item.path}: {run(item, arguments)}", flush=True)
    print(table(arguments.results))


if __name__ == "__main__":
    main()
