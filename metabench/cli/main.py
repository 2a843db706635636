"""The command line: from `metabench list` to `metabench verify`. Starting it imports no torch and no simulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

from metabench.cli import board, dataset
from metabench.cli.console import complain, plain, say
from metabench.cli.dispatch import Command, Group, dispatch
from metabench.cli.faults import Terminated, in_words, told, until_terminated

COMMANDS: dict[str, Command | Group] = {
    "list": Command("metabench.cli.list", "list", "what there is"),
    "show": Command("metabench.cli.show", "show GridSwitch-v0", "one benchmark in full"),
    "train": Command("metabench.cli.train", "train rl2 GridSwitch-v0 --seed 0", "train an agent into runs/"),
    "evaluate": Command("metabench.cli.evaluate", "evaluate bayes GridSwitch-v0", "play an agent under the protocol"),
    "summarise": Command("metabench.cli.summarise", "summarise runs/*-s*/result.json", "runs of an agent as one line"),
    "plot": Command("metabench.cli.plot", "plot runs/* --out curves.png", "learning curves and what came out"),
    "film": Command("metabench.cli.film", "film bayes GridSwitch-v0 --tasks 3", "an agent on tasks side by side"),
    "sweep": Command(
        "metabench.cli.sweep", "sweep rl2 GridSwitch-v0 --seeds 0-4 --out runs/x", "many trainings, anywhere"
    ),
    "run-job": Command("metabench.cli.run_job", "run-job runs/x/jobs.jsonl 1", "one job of a sweep, for Slurm"),
    "bench": Command("metabench.cli.bench", "bench GridSwitch-v0 --quick", "steps per second on this machine"),
    "dataset": dataset.GROUP,
    "submit": Command("metabench.cli.submit", "submit bayes --board grid-switch", "write a leaderboard entry"),
    "verify": Command("metabench.cli.verify", "verify leaderboards", "recompute and replay entries"),
    "board": board.GROUP,
    "quickstart": Command("metabench.cli.quickstart", "quickstart", "all of it in a minute or two"),
}
METABENCH = Group(
    about="The meta-reinforcement-learning benchmark.",
    commands=COMMANDS,
    more="`metabench train AGENT --help` explains an agent's settings.",
)
STOPPED = {KeyboardInterrupt: 130, Terminated: 143, BrokenPipeError: 141}  # 128 and the signal's number, as shells say


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the console script; exits with 2 and one sentence for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    guard(lambda: _run(given))


def _run(given: list[str]) -> None:
    if given[:1] == ["--version"]:
        say(plain(f"metabench {metadata.version('metabench')}"))
        return
    dispatch(METABENCH, given, "metabench")


def guard(command: Callable[[], None]) -> None:
    """Runs `command`; whatever stops it is told in one sentence, by an exit status, and never by a traceback.

    Bad input and files that cannot be read or written exit with 2; Ctrl-C with 130; SIGTERM with 143; a closed pipe
    with 141, quietly.
    """
    try:
        with until_terminated():
            try:
                command()
            finally:
                sys.stdout.flush()  # a pipe that is closed, or a disk that is full, is noticed here
    except BrokenPipeError:
        _discard_output()
        sys.exit(STOPPED[BrokenPipeError])
    except (KeyboardInterrupt, Terminated) as stop:
        complain(f"metabench: {told(stop)}")
        sys.exit(STOPPED[Terminated if isinstance(stop, Terminated) else KeyboardInterrupt])
    except Exception as error:
        sentence = in_words(error)
        if sentence is None:
            raise
        complain(f"metabench: {sentence}")
        if isinstance(error, OSError):
            _discard_output()
        sys.exit(2)


def _discard_output() -> None:
    """Whatever is still to be written to standard output goes nowhere, if it cannot go there."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    main()
