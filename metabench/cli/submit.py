"""`metabench submit`: evaluates an agent under a board's protocol, with evidence, and writes a submission."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.progress import TextColumn

from metabench.cli.arguments import at_least, missing
from metabench.cli.console import bars, plain, say
from metabench.cli.evaluate import check_agent
from metabench.cli.verify import verify_all
from metabench.cli.where import HERE, Where
from metabench.evaluation.evaluate import Evaluation
from metabench.evaluation.results import Protocol, played_as
from metabench.leaderboard.records import OWN_BOARDS, Board, Dataset, board_of, boards_in, read_boards
from metabench.leaderboard.submit import About, Entrant, open_run, open_yardstick, submit, training_of
from metabench.leaderboard.track import TrackName, track_for
from metabench.registry import spec
from metabench.runs import read_record
from metabench.sweep.engine import Engine
from metabench.sweep.folder import JOB
from metabench.sweep.uses import Entry, evaluate_with

Runs = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
]


@dataclass(frozen=True)
class Story:
    """What an entry tells of itself."""

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

    seconds_per_step: float | None = None
    """Wall-clock seconds of one step of one trial while it plays, where that is worth telling: in long trials."""

    hardware: str = ""
    """What it was trained on."""

    cores: int | None = None
    """Cores of processors that a run used at a time; 1 by default for runs of a sweep, which have one thread."""

    datasets: tuple[str, ...] = ()
    """For the offline tracks: ID=SHA256 of every dataset that was read."""

    card: Path | None = None
    """A Markdown file that tells more."""

    date: datetime.date | None = None
    """YYYY-MM-DD; today by default."""


def command(
    runs: Runs,
    board: Annotated[str, tyro.conf.arg(metavar="BOARD")],
    authors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AUTHOR [AUTHOR ...]")],
    story: Annotated[Story, tyro.conf.arg(name="")] = Story(),
    policies: bool = True,
    repetitions: int = 5,
    root: Path = Path("leaderboards"),
    where: Annotated[Where, tyro.conf.arg(name="")] = HERE,
) -> None:
    """Evaluate an agent's runs under a board's protocol, with evidence, and write a submission that is then verified.

    Give the folders of all training runs (their seeds are 0, 1, ...), or the name of one agent that does not train.
    The evaluation's seeds follow from the policies' hashes. CONTRIBUTING.md tells the whole way.

    Examples:
      metabench submit runs/GridSwitch-v0-rl2-s* --board grid-switch --authors "Ada Lovelace"
      metabench submit bayes --board grid-switch --authors "Ada Lovelace"
      metabench submit runs/*-s* --board cheetah-vel --authors "Ada Lovelace" --engine local   # side by side

    Args:
        runs: Folders of training runs, or one name of an agent that does not train.
        board: A board of boards.toml; `metabench board list` names them.
        authors: Whose agent it is.
        story: What the entry tells of itself.
        policies: Publish weights and settings too, so that others can run the agent again (the tier reproduced).
        repetitions: Of an agent that does not train.
        root: The folder of the leaderboards, with its boards.toml; any folder will do for private boards.
        where: Where the runs are evaluated, side by side; the entry's bytes are the same.
    """
    if not runs:
        raise ValueError("submit wants the folders of all training runs, or the name of an agent that does not train")
    at_least(1, repetitions=repetitions)
    at_least(0, hours=story.hours)
    at_least(1, cores=story.cores)
    chosen = board_of(boards_in(root), board)
    entrants, plugin, trains = _entrants(runs, chosen, policies, repetitions)
    about = _about(story, authors, runs if trains else (), plugin, entrants[0].agent)
    for note in dict.fromkeys(entrant.note for entrant in entrants if entrant.note):
        say(plain(note))
    before = set(root.glob("*/*/*"))
    target = _play(chosen, entrants, about, root, where.made())
    say(f"written: {plain(target)}\n")
    # A record on a public board is written by who verifies it there; on boards of one's own that is who submits.
    (verdict,) = verify_all([target], {chosen.id: chosen}, None, write=chosen.id not in read_boards(OWN_BOARDS))
    if not verdict.accepted and target not in before:
        shutil.rmtree(target)
        raise ValueError(f"it was not accepted, and nothing is left of it: {verdict.fault}")


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
    names = {read_record(folder).agent for folder in folders}
    if len(names) > 1:
        raise ValueError(f"runs of one agent make a submission, these are of {', '.join(sorted(names))}")
    return entrants, names.pop(), True


def _about(story: Story, authors: tuple[str, ...], runs: Sequence[str], plugin: str, agent: Any) -> About:
    """What the entry says of itself, the plug-in's name and way of playing where nothing is told."""
    told: dict[str, Any] = {
        "agent": plugin,
        "title": plugin,
        "track": track_for(played_as(agent)),
        **{f.name: value for f in fields(story) if (value := getattr(story, f.name)) is not None},
    }
    pairs = [text.partition("=") for text in told.pop("datasets")]
    sets = [Dataset(id=id, sha256=digest) for id, _, digest in pairs]
    hours, hardware, cores = told.pop("hours", None), told.pop("hardware"), told.pop("cores", None)
    if cores is None and runs and all((Path(run) / JOB).is_file() for run in runs):
        cores = 1
    if story.card:
        told["card"] = story.card.read_text()
    folders = [Path(run) for run in runs]
    training = training_of(folders, sets, hours, hardware, cores) if runs else training_of((), (), None, "")
    return About(plugin=plugin, trains=bool(runs), authors=authors, training=training, **told)


def _play(board: Board, entrants: Sequence[Entrant], about: About, root: Path, engine: Engine | None) -> Path:
    """Evaluates the runs with evidence and writes the folder; what an engine has played is kept until that is done."""
    work = Path("runs") / f"submit-{board.id}-{about.agent}"
    with bars(TextColumn("{task.completed:,.0f} / {task.total:,.0f} trials")) as shown:
        tasks = [shown.add_task(_label(entrant), total=1, start=False) for entrant in entrants]

        def tell(run: int, done: int, total: int) -> None:
            shown.start_task(tasks[run])
            shown.update(tasks[run], completed=done, total=total)

        def side_by_side(protocols: Sequence[Protocol], name: str) -> list[Evaluation]:
            assert engine is not None
            pairs = zip(entrants, protocols, strict=True)
            entries = [Entry(entrant.source, protocol, name, k) for k, (entrant, protocol) in enumerate(pairs)]
            trials = spec(board.benchmark).table().size(board.split) * board.repeats
            return evaluate_with(engine, entries, work, lambda run: tell(run, trials, trials))

        target = submit(board, entrants, about, root, tell, side_by_side if engine else None)
    shutil.rmtree(work, ignore_errors=True)
    return target


def _label(entrant: Entrant) -> str:
    return "repetition" if entrant.train_seed is None else f"run of seed {entrant.train_seed}"
