"""The command line of the leaderboards: submit, verify, board. Only parses; starting it imports nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from metabench.leaderboard.track import TrackName

out = Console()


@dataclass
class Submit:
    """Evaluate an agent's runs under a board's protocol, with evidence, and write a submission that is then verified.

    Give the folders of all training runs (their seeds are 0, 1, ...), or the name of one agent that does not train.
    The evaluation's seeds follow from the policies' hashes. CONTRIBUTING.md tells the whole way.

    Examples:
      metabench submit runs/GridSwitch-v0-rl2-s* --board grid-switch --authors "Ada Lovelace"
      metabench submit bayes --board grid-switch --authors "Ada Lovelace"
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of training runs, or one name of an agent that does not train."""

    board: str
    """A board of boards.toml; `metabench board list` names them."""

    authors: tuple[str, ...]
    """Whose agent it is."""

    agent: str | None = None
    """The agent's short name, also its folder's: lower-case letters, digits and dashes. The plug-in's by default."""

    title: str | None = None
    """The name that is shown."""

    version: str = "1"
    """Of the agent; a changed agent is a new entry."""

    track: TrackName | None = None
    """How it was trained and is prompted; online by default, oracle for agents that see the task."""

    paper: str = ""
    """Link to the paper."""

    code: str = ""
    """Link to the code."""

    commit: str = ""
    """Commit of the code."""

    test_tasks: Literal["none", "selection", "training"] = "none"
    """What tasks of evaluation splits were used for; only none is ranked."""

    hours: float | None = None
    """Wall-clock hours of one training run; from its metrics by default."""

    hardware: str = ""
    """What it was trained on."""

    datasets: tuple[str, ...] = ()
    """For the offline tracks: ID=SHA256 of every dataset that was read."""

    card: Path | None = None
    """A Markdown file that tells more."""

    date: str | None = None
    """YYYY-MM-DD; today by default."""

    policies: bool = True
    """Publish weights and settings too, so that others can run the agent again (the tier reproduced)."""

    repetitions: int = 5
    """Of an agent that does not train."""

    root: Path = Path("leaderboards")
    """The folder of the leaderboards, with its boards.toml; any folder will do for private boards."""

    def run(self) -> None:
        """Runs the command."""
        import datetime

        from metabench.cli.board_commands import submit_runs
        from metabench.leaderboard.records import Dataset, board_of, boards_in

        pairs = [text.partition("=") for text in self.datasets]
        date = datetime.date.fromisoformat(self.date) if self.date else None
        card = self.card.read_text() if self.card else None
        names = ("agent", "title", "version", "authors", "track", "paper", "code", "commit", "test_tasks")
        about = {name: getattr(self, name) for name in names} | {"date": date, "card": card}
        training = {
            "datasets": [Dataset(id=id, sha256=digest) for id, _, digest in pairs],
            "hours": self.hours,
            "hardware": self.hardware,
        }
        board = board_of(boards_in(self.root), self.board)
        submit_runs(out, self.runs, board, about, training, self.root, self.policies, self.repetitions)


@dataclass
class Verify:
    """Recompute and replay submissions: every score from its rewards, every piece of every trace in the simulator.

    Prints what was checked and a verdict; the exit status is 1 if any submission is not accepted.

    Examples:
      metabench verify leaderboards
      metabench verify leaderboards/grid-switch/rl2 --rerun
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Submissions, or folders of them."""

    rerun: bool = False
    """Also play the submitted policies again on fresh seeds: the tier reproduced."""

    seed: int | None = None
    """With --rerun: the number the fresh seeds follow from; a new one by default."""

    record: bool = False
    """Write verification.json beside what is accepted."""

    boards: Path | None = None
    """A boards.toml; the nearest at or above each submission by default."""

    def run(self) -> None:
        """Runs the command."""
        from metabench.cli.board_commands import verify_paths

        verdicts = verify_paths(out, self.paths, None, self.rerun, self.seed, self.record, self.boards)
        if not all(verdict.accepted for verdict in verdicts):
            sys.exit(1)


@dataclass
class BoardList:
    """List the boards, with what leads them."""

    root: Annotated[Path, tyro.conf.Positional] = Path("leaderboards")
    """The folder of the leaderboards."""

    def run(self) -> None:
        """Runs the command."""
        from metabench.cli.board_commands import list_boards

        list_boards(out, self.root)


@dataclass
class BoardBuild:
    """Build the site: one folder of HTML and JSON that works from a disk or any static host.

    Example: metabench board build --out site && xdg-open site/index.html
    """

    root: Annotated[Path, tyro.conf.Positional] = Path("leaderboards")
    """The folder of the leaderboards."""

    out: Path = Path("site")
    """Where to; a site that lies there is replaced."""

    def run(self) -> None:
        """Runs the command."""
        from metabench.cli.board_commands import build_site

        build_site(out, self.root, self.out)


@dataclass
class BoardSchema:
    """Write the JSON Schemas of submission.json and the other records."""

    out: Path = Path("schemas")
    """Where to."""

    def run(self) -> None:
        """Runs the command."""
        from metabench.cli.board_commands import write_schemas

        write_schemas(out, self.out)


BOARD_COMMANDS: dict[str, type[Any]] = {"list": BoardList, "build": BoardBuild, "schema": BoardSchema}


def board(arguments: Sequence[str]) -> None:
    """`metabench board COMMAND ...`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = (f"  {name:8} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in BOARD_COMMANDS.items())
        out.print("usage: metabench board COMMAND\n\n" + "\n".join(lines), markup=False, highlight=False)
        return
    if arguments[0] not in BOARD_COMMANDS:
        from metabench.tasks import suggest

        raise ValueError(f"unknown command board {arguments[0]!r}; {suggest(arguments[0], list(BOARD_COMMANDS))}")
    kind = BOARD_COMMANDS[arguments[0]]
    tyro.cli(kind, prog=f"metabench board {arguments[0]}", args=list(arguments[1:])).run()
