"""`metabench evaluate`: plays an agent under the benchmark's protocol."""

from __future__ import annotations

import os
from pathlib import Path

from metabench.cli.arguments import AgentName, Benchmark, at_least, missing
from metabench.cli.console import bar, plain, say, show
from metabench.cli.summarise import summary_table
from metabench.evaluation.evaluate import evaluate
from metabench.evaluation.summary import summarise
from metabench.leaderboard.published import is_name
from metabench.loading import locate
from metabench.plugins import agent_names, load_agent
from metabench.registry import spec
from metabench.runs import CONFIG, is_published, result_path

RUNS = Path("runs")


def command(
    agent: AgentName, benchmark: Benchmark, split: str = "test", seed: int = 0, out: Path | None = None
) -> None:
    """Play an agent under the benchmark's protocol and print (and save) what it reached.

    Examples:
      metabench evaluate bayes GridSwitch-v0
      metabench evaluate runs/GridSwitch-v0-rl2-s0 GridSwitch-v0 --split ood
      metabench evaluate grid-switch/dynamite GridSwitch-v0

    Args:
        agent: The name of a yardstick, the folder of a training run, or BOARD/AGENT: the published policy of a board.
        benchmark: An id; `metabench list` names them all.
        split: A frozen split: test, ood, train.
        seed: Fixes starts, dynamics and session changes.
        out: Where to write result.json; in the run's folder by default, nowhere for yardsticks.
    """
    spec(benchmark).table().size(split)  # a wrong split is told before anything is loaded
    at_least(0, seed=seed)
    agent = check_agent(agent)
    player, label, train_seed = load_agent(agent, benchmark, split, seed)
    with bar(f"{label} on {split}", "trials") as update:
        result = evaluate(player, benchmark, split=split, seed=seed, train_seed=train_seed, name=label, progress=update)
    if out is None and train_seed is not None and not is_published(Path(agent)):
        out = result_path(Path(agent), split)
    if out is not None:
        result.save(out)
    show(summary_table([summarise([result])]))
    if out is not None:
        say(f"written: {plain(out)}")


def check_agent(name: str) -> str:
    """The name of an agent or the folder of a trained one, a published one's too; ValueError with near names if not."""
    path = Path(name)
    if name in agent_names() or path.is_dir():
        return name
    if path.is_file():
        raise ValueError(f"{name} is a file; give the folder of the training run that it lies in: {path.parent}")
    if is_name(name) and name.partition("/")[0] != RUNS.name:
        return locate(name)
    if os.sep in name:
        raise missing(path, "folder of a training run", runs_in(path.parent))
    near = [run.name for run in map(Path, runs_in(RUNS))]
    if name in near:
        raise ValueError(f"unknown agent {name!r}; did you mean the run {str(RUNS / name)!r}?")
    return name


def runs_in(folder: Path) -> list[str]:
    """The training runs in a folder."""
    return sorted(str(path.parent) for path in folder.glob(f"*/{CONFIG}"))
