"""`metabench submit`: evaluates an agent under a board's protocol, with evidence, and writes a submission."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.progress import TextColumn

from metabench.cli.arguments import at_least, missing
from metabench.cli.console import bars, plain, say
from metabench.cli.evaluate import check_agent
from metabench.cli.verify import verify_all
from metabench.leaderboard.records import BOARDS, Board, Dataset, board_of, read_boards
from metabench.leaderboard.submit import About, Entrant, open_run, open_yardstick, submit, training_of


def command(
    runs: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
    ],
    board: Annotated[str, tyro.conf.arg(metavar="BOARD")],
    authors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AUTHOR [AUTHOR ...]")],
    agent: str | None = None,
    title: str | None = None,
    version: str = "1",
    track: Literal["online", "offline-zero-shot", "offline-few-shot", "prompt-k", "oracle"] | None = None,
    paper: str = "",
    code: str = "",
    commit: str = "",
    test_tasks: Literal["none", "selection", "training"] = "none",
    hours: float | None = None,
    hardware: str = "",
    datasets: tuple[str, ...] = (),
    card: Path | None = None,
    date: str | None = None,
    policies: bool = True,
    repetitions: int = 5,
    root: Path = Path("leaderboards"),
) -> None:
    """Evaluate an agent's runs under a board's protocol, with evidence, and write a submission that is then verified.

    Give the folders of all training runs (their seeds are 0, 1, ...), or the name of one agent that does not train.
    The evaluation's seeds follow from the policies' hashes. CONTRIBUTING.md tells the whole way.

    Examples:
      metabench submit runs/GridSwitch-v0-rl2-s* --board grid-switch --authors "Ada Lovelace"
      metabench submit bayes --board grid-switch --authors "Ada Lovelace"

    Args:
        runs: Folders of training runs, or one name of an agent that does not train.
        board: A board of boards.toml; `metabench board list` names them.
        authors: Whose agent it is.
        agent: The agent's short name, also its folder's: lower-case letters, digits and dashes. The plug-in's by
            default.
        title: The name that is shown.
        version: Of the agent; a changed agent is a new entry.
        track: How it was trained and is prompted; online by default, oracle for agents that see the task.
        paper: Link to the paper.
        code: Link to the code.
        commit: Commit of the code.
        test_tasks: What tasks of evaluation splits were used for; only none is ranked.
        hours: Wall-clock hours of one training run; from its metrics by default.
        hardware: What it was trained on.
        datasets: For the offline tracks: ID=SHA256 of every dataset that was read.
        card: A Markdown file that tells more.
        date: YYYY-MM-DD; today by default.
        policies: Publish weights and settings too, so that others can run the agent again (the tier reproduced).
        repetitions: Of an agent that does not train.
        root: The folder of the leaderboards, with its boards.toml; any folder will do for private boards.
    """
    if not runs:
        raise ValueError("submit wants the folders of all training runs, or the name of an agent that does not train")
    at_least(1, repetitions=repetitions)
    at_least(0, hours=hours)
    chosen = board_of(read_boards(root / BOARDS), board)
    about = {
        **{"agent": agent, "title": title, "version": version, "authors": authors, "track": track, "paper": paper},
        **{"code": code, "commit": commit, "test_tasks": test_tasks},
        "date": datetime.date.fromisoformat(date) if date else None,
        "card": card.read_text() if card else None,
    }
    pairs = [text.partition("=") for text in datasets]
    sets = [Dataset(id=id, sha256=digest) for id, _, digest in pairs]
    entrants, plugin, trains = _entrants(runs, chosen, policies, repetitions)
    folders = [Path(run) for run in runs] if trains else []
    training = training_of(folders, sets, hours, hardware) if trains else training_of((), (), None, "")
    told = _defaults({name: value for name, value in about.items() if value is not None}, plugin, entrants[0].agent)
    target = _play(chosen, entrants, About(plugin=plugin, trains=trains, training=training, **told), root)
    say(f"written: {plain(target)}\n")
    verify_all([target], {chosen.id: chosen}, None, write=True)


def _entrants(runs: Sequence[str], board: Board, policies: bool, repetitions: int) -> tuple[list[Entrant], str, bool]:
    """The runs that enter, their plug-in, and whether it trains."""
    folders = [Path(run) for run in runs if Path(run).is_dir()]
    if not folders:
        if len(runs) != 1:
            raise ValueError("give the folders of all training runs, or the name of one agent that does not train")
        check_agent(runs[0])
        return open_yardstick(runs[0], board, repetitions), runs[0], False
    for run in runs:
        if not Path(run).is_dir():
            raise missing(Path(run), "folder of a training run")
    entrants = sorted((open_run(f, board, policies) for f in folders), key=lambda e: e.train_seed or 0)
    names = {json.loads((folder / "config.json").read_text())["agent"] for folder in folders}
    if len(names) > 1:
        raise ValueError(f"runs of one agent make a submission, these are of {', '.join(sorted(names))}")
    return entrants, names.pop(), True


def _defaults(about: Mapping[str, Any], plugin: str, agent: Any) -> dict[str, Any]:
    sees = bool(getattr(agent, "privileged", False))
    played_as = getattr(agent, "track", "oracle" if sees else "online")
    track = "offline-few-shot" if played_as == "offline" else played_as
    return {"agent": plugin, "title": plugin, "track": track, **about}


def _play(board: Board, entrants: Sequence[Entrant], about: About, root: Path) -> Path:
    """Evaluates the runs with evidence and writes the folder."""
    with bars(TextColumn("{task.completed:,.0f} / {task.total:,.0f} trials")) as shown:
        tasks = [shown.add_task(_label(entrant), total=1, start=False) for entrant in entrants]

        def tell(run: int, done: int, total: int) -> None:
            shown.start_task(tasks[run])
            shown.update(tasks[run], completed=done, total=total)

        return submit(board, entrants, about, root, tell)


def _label(entrant: Entrant) -> str:
    return "repetition" if entrant.train_seed is None else f"run of seed {entrant.train_seed}"
