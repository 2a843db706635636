"""`metabench train`: an agent learns, and is evaluated; the agent's settings are part of the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metabench.cli.arguments import Benchmark, at_least
from metabench.cli.console import plain, say
from metabench.cli.console import show as print_table
from metabench.cli.faults import Terminated
from metabench.cli.summarise import summary_table
from metabench.cli.trainable import trainable_agents
from metabench.evaluation.evaluate import evaluate as play
from metabench.evaluation.summary import summarise
from metabench.learning import Points, play_kept
from metabench.plugins import load_plugin, open_run
from metabench.registry import Spec, spec
from metabench.runs import Stopped, iterations_done, result_path
from metabench.settings import check_settings
from metabench.sweep.grid import parse_seeds
from metabench.tracking import Kind, tracker

USAGE = "usage: metabench train AGENT BENCHMARK [--seed N] [--folder DIR] [the agent's settings]"


def choose(given: Sequence[str]) -> tuple[str, Callable[..., Any], list[str]] | None:
    """The agent's own command, since its settings are part of it; without an agent, prints which there are."""
    if not given or given[0].startswith("-"):
        names = ", ".join(trainable_agents())
        if given and given[0] not in ("-h", "--help"):
            raise ValueError(f"train needs the name of an agent before its options; available: {names}")
        say(f"{plain(USAGE)}\n")
        say("Trains an agent on a benchmark's training tasks, into a folder of runs/, then evaluates it.\n")
        say(f"agents: {plain(names)}; `metabench train AGENT --help` shows an agent's settings.")
        return None
    name, algorithm = given[0], load_plugin(given[0])
    if not hasattr(algorithm, "Config"):
        raise ValueError(f"{name} is a yardstick and needs no training: metabench evaluate {name} BENCHMARK")
    return name, command_of(name, algorithm, defaults(algorithm, given[1:])), list(given[1:])


def defaults(algorithm: Any, given: Sequence[str]) -> Any:
    """What settings start from: the paper's for the benchmark (`published`), or `recommended` ones, or the defaults."""
    if given and not given[0].startswith("-"):
        for name in ("published", "recommended"):
            if hasattr(algorithm, name):
                return getattr(algorithm, name)(given[0])
    return algorithm.Config()


def command_of(name: str, algorithm: Any, config: Any) -> Callable[..., None]:
    """The command that trains one agent: its settings stand beside ours, groups of them as `--ppo.clip`."""

    def command(
        benchmark: Benchmark,
        config: Annotated[Any, tyro.conf.arg(name="")],
        seed: int = 0,
        folder: Path | None = None,
        evaluate: tuple[str, ...] = ("test", "ood"),
        progress: Literal["bar", "none"] = "bar",
        track: Kind = "none",
        seeds: str = "",
        curve_every: int = 0,
    ) -> None:
        """Train an agent on a benchmark's training tasks, then evaluate it.

        Ctrl-C writes a checkpoint at the end of the iteration, and the same command goes on from there; a second
        Ctrl-C stops at once.

        Args:
            benchmark: An id; `metabench list` names them all.
            config: The agent's settings.
            seed: Of the run: the same seed gives the same agent.
            folder: Where the run goes; runs/BENCHMARK-AGENT-sSEED by default. An unfinished run is continued.
            evaluate: Splits to evaluate on at the end.
            progress: How to show the progress.
            track: Where metrics are shown beside metrics.jsonl (`pip install 'metabench[tensorboard]'`, `[wandb]`).
            seeds: Several that learn together in one process, as 0-15 or 0,2,5, each into a run of its own as
                --seed would; what a GPU is best used for. `folder` then holds their folders. rl2 and sac-oracle can.
            curve_every: Iterations between points of a learning curve that is played on the training tasks once all is
                learned, into curve.jsonl, for agents that meet no task while they learn: an iteration of one that
                learns from data is 100 updates. 0 for none.
        """
        at_least(0, curve_every=curve_every)
        if seeds:
            if curve_every:
                raise ValueError("--curve-every is of one run: give --seed, or leave it out with --seeds")
            if track != "none":
                raise ValueError("--track follows one run: give --seed, or leave it out with --seeds")
            train_together(name, algorithm, benchmark, config, parse_seeds(seeds), folder, evaluate, progress == "bar")
            return
        curve = Points(curve_every) if curve_every else None
        train(name, algorithm, benchmark, config, seed, folder, evaluate, progress == "bar", track, curve)

    command.__annotations__["config"] = Annotated[algorithm.Config, tyro.conf.arg(name="")]
    command.__defaults__ = (config, 0, None, ("test", "ood"), "bar", "none", "", 0)
    return command


def train(
    name: str,
    algorithm: Any,
    benchmark: str,
    config: Any,
    seed: int,
    folder: Path | None,
    splits: Sequence[str],
    show: bool,
    track: Kind = "none",
    curve: Points | None = None,
) -> None:
    """Trains, then evaluates on `splits`; whatever is wrong with the arguments is told before anything is written."""
    chosen = checked(benchmark, config, (seed,), splits)
    folder = folder or place(chosen.id, name, seed)
    run = open_run(algorithm, folder, show=show, **({"keep_every": curve.every} if curve else {}))
    settings = dataclasses.asdict(config) | {"agent": name, "benchmark": chosen.id, "seed": seed}
    with tracker(track, folder, settings) as follower, stoppable(run, folder):
        if follower is not None:
            run.follow(follower)
        agent = algorithm.train(chosen.id, config, seed=seed, run=run)
    summaries = []
    for split in splits:
        result = play(agent, chosen.id, split=split, train_seed=seed, name=name)
        result.save(result_path(folder, split))
        summaries.append(summarise([result]))
    if curve:
        play_kept(folder, chosen.id, curve)
    if summaries:
        print_table(summary_table(summaries))
    say(f"written: {plain(folder)}")


def train_together(
    name: str,
    algorithm: Any,
    benchmark: str,
    config: Any,
    seeds: Sequence[int],
    folder: Path | None,
    splits: Sequence[str],
    show: bool,
) -> None:
    """Trains several seeds in one process, then evaluates each on `splits`; all of them as `train` would."""
    chosen = checked(benchmark, config, seeds, splits)
    if not hasattr(algorithm, "train_seeds"):
        raise ValueError(f"{name} learns one seed at a time; give --seed, or `metabench sweep` for several")
    folders = [place(chosen.id, name, seed, folder or Path("runs")) for seed in seeds]
    runs = [open_run(algorithm, own, show=show) for own in folders]
    with stoppable(runs[0], folders[0]):
        agents = algorithm.train_seeds(chosen.id, config, seeds=seeds, runs=runs)
    summaries = []
    for split in splits:
        results = [
            play(agent, chosen.id, split=split, train_seed=seed, name=name)
            for agent, seed in zip(agents, seeds, strict=True)
        ]
        for result, own in zip(results, folders, strict=True):
            result.save(result_path(own, split))
        summaries.append(summarise(results))
    if summaries:
        print_table(summary_table(summaries))
    for own in folders:
        say(f"written: {plain(own)}")


def checked(benchmark: str, config: Any, seeds: Sequence[int], splits: Sequence[str]) -> Spec:
    """The benchmark; ValueError in one sentence for whatever is wrong with the arguments."""
    chosen = spec(benchmark)
    for split in splits:
        chosen.table().size(split)
    at_least(0, seed=min(seeds))
    check_settings(config)
    return chosen


def place(benchmark: str, name: str, seed: int, parent: Path = Path("runs")) -> Path:
    """Where a run goes by default."""
    return parent / f"{benchmark}-{name}-s{seed}"


@contextlib.contextmanager
def stoppable(run: Any, folder: Path) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM stop a run behind a checkpoint; the signal a second time stops at once.

    Raises:
        KeyboardInterrupt: Or `Terminated`; its text says at which iteration the run resumes.
    """
    asked: list[type[KeyboardInterrupt]] = []

    def ask(number: int, frame: object) -> None:
        kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if asked or not hasattr(run, "request_stop"):
            raise kind
        asked.append(kind)
        run.request_stop()
        with contextlib.suppress(OSError):  # not by print, which may be under way just now
            os.write(2, b"\nmetabench: stopping at the end of this iteration; once more stops at once\n")

    main = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield
    except Stopped:
        raise (asked or [KeyboardInterrupt])[0](_resumes(folder)) from None
    except KeyboardInterrupt as stop:
        raise type(stop)(_resumes(folder)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _resumes(folder: Path) -> str:
    done = iterations_done(folder)
    if done is None:
        return f"{folder} holds no checkpoint yet: the same command starts the run again"
    return f"the same command resumes {folder} at iteration {done}"
