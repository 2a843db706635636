"""The command line: from `metabench list` to `metabench verify`. Starting it imports no torch."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from metabench.cli import benchmarks
from metabench.cli.board import Submit, Verify
from metabench.plugins import agent_names, load_plugin

out, err = Console(), Console(stderr=True)


@dataclass
class List:
    """List every benchmark: what it is, its episodes, its splits, its yardsticks.

    Example: metabench list
    """

    def run(self) -> None:
        """Runs the command."""
        benchmarks.list_benchmarks(out)


@dataclass
class Show:
    """Show one benchmark: spec, hidden parameters with units, splits and digests, observations, yardsticks, sources.

    Example: metabench show GridSwitch-v0
    """

    benchmark: Annotated[str, tyro.conf.Positional]
    """An id; `metabench list` names them all."""

    json: bool = False
    """Print the spec as JSON instead."""

    def run(self) -> None:
        """Runs the command."""
        benchmarks.show(out, self.benchmark, self.json)


@dataclass
class Evaluate:
    """Play an agent under the benchmark's protocol and print (and save) what it reached.

    Examples:
      metabench evaluate bayes GridSwitch-v0
      metabench evaluate runs/GridSwitch-v0-rl2-s0 GridSwitch-v0 --split ood
    """

    agent: Annotated[str, tyro.conf.Positional]
    """The name of a yardstick, or the folder of a training run."""

    benchmark: Annotated[str, tyro.conf.Positional]
    """An id; `metabench list` names them all."""

    split: str = "test"
    """A frozen split: test, ood, train."""

    seed: int = 0
    """Fixes starts, dynamics and session changes."""

    out: Path | None = None
    """Where to write result.json; in the run's folder by default, nowhere for yardsticks."""

    def run(self) -> None:
        """Runs the command."""
        benchmarks.evaluate_agent(out, self.agent, self.benchmark, self.split, self.seed, self.out)


@dataclass
class Summarise:
    """Summarise saved results: training runs of one agent on one split become one line with an interval over runs.

    Example: metabench summarise runs/GridSwitch-v0-rl2-s*/result.json
    """

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files written by train and evaluate."""

    def run(self) -> None:
        """Runs the command."""
        benchmarks.summarise_files(out, self.results)


@dataclass
class Bench:
    """Measure environment steps per second on this machine, beside Gymnasium's SyncVectorEnv of the same environment.

    Example: metabench bench GridSwitch-v0 PointRobot-v0
    """

    benchmarks: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Ids; all by default."""

    def run(self) -> None:
        """Runs the command."""
        benchmarks.bench(out, self.benchmarks)


@dataclass
class Quickstart:
    """Train RL² on GridSwitch, measure it beside the yardsticks, write a picture and a page: a minute or two."""

    name: str = "quickstart"
    """The folder is runs/<name>; one that holds an unfinished run is continued."""

    seed: int = 0
    """Of the training run."""

    frames: int | None = None
    """Environment steps of training; the quickstart's own by default."""

    def run(self) -> None:
        """Runs the command."""
        from metabench.cli.quickstart import quickstart

        quickstart(out, Path("runs") / self.name, self.seed, self.frames)


COMMANDS: dict[str, type[Any]] = {
    "list": List,
    "show": Show,
    "evaluate": Evaluate,
    "summarise": Summarise,
    "bench": Bench,
    "quickstart": Quickstart,
    "submit": Submit,
    "verify": Verify,
}
ABOUT = """The meta-reinforcement-learning benchmark.

  metabench list                              what there is
  metabench show GridSwitch-v0                one benchmark in full
  metabench train rl2 GridSwitch-v0 --seed 0  train an agent into runs/
  metabench evaluate bayes GridSwitch-v0      play an agent under the protocol
  metabench summarise runs/*/result.json      several training runs as one line
  metabench sweep rl2 GridSwitch-v0 --out runs/x   many trainings, here, on Ray or on Slurm
  metabench dataset                           offline datasets: generate, download, verify
  metabench submit bayes --board grid-switch  evaluate with evidence and write a leaderboard entry
  metabench verify leaderboards               recompute and replay entries
  metabench quickstart                        all of it in a minute or two

`metabench COMMAND --help` explains a command; `metabench train AGENT --help` an agent's settings.
"""


def train(arguments: Sequence[str]) -> None:
    """`metabench train AGENT ID ...`: the agent is found first, because its settings are part of the command line."""
    if not arguments or arguments[0].startswith("-"):
        names = [name for name in agent_names() if hasattr(load_plugin(name), "Config")]
        out.print(
            "usage: metabench train AGENT BENCHMARK [--seed N] [--folder DIR] [the agent's settings]\n", markup=False
        )
        out.print(
            f"agents: {', '.join(names)}; `metabench train AGENT --help` shows an agent's settings.", markup=False
        )
        if arguments and arguments[0] not in ("-h", "--help"):
            raise ValueError(f"train needs the name of an agent before its options; available: {', '.join(names)}")
        return
    name, algorithm = arguments[0], load_plugin(arguments[0])
    if not hasattr(algorithm, "Config"):
        raise ValueError(f"{name} is a yardstick and needs no training: metabench evaluate {name} BENCHMARK")
    config_type: Any = algorithm.Config  # pyright: ignore[reportAttributeAccessIssue]

    def command(
        benchmark: Annotated[str, tyro.conf.Positional],
        config: Annotated[Any, tyro.conf.arg(name="")],
        seed: int = 0,
        folder: Path | None = None,
        evaluate: tuple[str, ...] = ("test", "ood"),
        progress: Literal["bar", "none"] = "bar",
    ) -> None:
        """Train an agent on a benchmark's training tasks, then evaluate it.

        Args:
            benchmark: An id; `metabench list` names them all.
            config: The agent's settings.
            seed: Of the run: the same seed gives the same agent.
            folder: Where the run goes; runs/BENCHMARK-AGENT-sSEED by default. An unfinished run is continued.
            evaluate: Splits to evaluate on at the end.
            progress: How to show the progress.
        """
        benchmarks.train_agent(out, name, benchmark, config, seed, folder, evaluate, progress == "bar")

    command.__annotations__["config"] = config_type
    command.__defaults__ = (config_type(), 0, None, ("test", "ood"), "bar")
    tyro.cli(command, prog=f"metabench train {name}", args=list(arguments[1:]), config=(tyro.conf.OmitArgPrefixes,))


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the console script; exits with 2 and one sentence for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _guard(lambda: _dispatch(given))


def _dispatch(given: list[str]) -> None:
    if not given or given[0] in ("-h", "--help"):
        out.print(ABOUT, markup=False, highlight=False)
        return
    name = given[0]
    if name == "train":
        train(given[1:])
        return
    if name == "dataset":
        from metabench.cli.dataset import dataset

        dataset(given[1:])
        return
    if name == "board":
        from metabench.cli.board import board

        board(given[1:])
        return
    if name in ("sweep", "run-job"):
        from metabench.cli import run_job, sweep

        found = sweep.choose(given[1:]) if name == "sweep" else ("", run_job.command, given[1:])
        further, function, rest = found
        about = (inspect.getdoc(function) or "").partition("\nArgs:")[0].strip()
        tyro.cli(function, prog=f"metabench {name} {further}".strip(), description=about, args=rest)
        return
    if name == "--version":
        out.print(benchmarks.version(), highlight=False)
        return
    if name not in COMMANDS:
        from metabench.tasks import suggest

        raise ValueError(
            f"unknown command {name!r}; {suggest(name, [*COMMANDS, 'train', 'dataset', 'board', 'sweep', 'run-job'])}"
        )
    tyro.cli(COMMANDS[name], prog=f"metabench {name}", args=given[1:]).run()


def _guard(command: Callable[[], None]) -> None:
    try:
        command()
    except (ValueError, ImportError) as error:
        err.print(f"metabench: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("metabench: stopped; a training run continues where it was when the same command is given again")
        sys.exit(130)


if __name__ == "__main__":
    main()
