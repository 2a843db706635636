"""`metabench verify`: recomputes and replays submissions."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import Progress, TaskID, TextColumn
from rich.table import Table

from metabench.cli.arguments import at_least, missing
from metabench.cli.console import bars, plain, say, show, table
from metabench.leaderboard.folder import Folder, find
from metabench.leaderboard.records import VERIFICATION, Board, boards_in, read_boards
from metabench.leaderboard.verify import Verdict, fresh_seed, verify
from metabench.leaderboard.verify import record as write_record
from metabench.sweep.engine import one_thread


def command(
    paths: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FOLDER [FOLDER ...]", help_behavior_hint="(required)"),
    ] = (),
    rerun: bool = False,
    seed: int | None = None,
    record: bool = False,
    new: bool = False,
    boards: Path | None = None,
    workers: int = 1,
) -> None:
    """Recompute and replay submissions: every score from its rewards, every piece of every trace in the simulator.

    Prints what was checked and a verdict; the exit status is 1 if any submission is not accepted.

    Examples:
      metabench verify leaderboards
      metabench verify leaderboards/grid-switch/rl2 --rerun
      metabench verify leaderboards --workers 8

    Args:
        paths: Submissions, or folders of them.
        rerun: Also play the submitted policies again on fresh seeds, where they are there: the tier reproduced.
        seed: With --rerun: the number the fresh seeds follow from; a new one by default, and whenever it is recorded.
        record: Write verification.json beside what is accepted.
        new: Leave out what has a record of a verification of exactly its content.
        boards: A boards.toml; that of the root, three folders above each submission, or the package's by default.
        workers: Processes, each of which verifies one submission at a time.
    """
    if not paths:
        raise ValueError("verify wants submissions, or folders of them: metabench verify leaderboards")
    at_least(0, seed=seed)
    at_least(1, workers=workers)
    if record and seed is not None:
        raise ValueError("a re-run is recorded with a seed that nobody chose: leave out --seed, or --record")
    for path in paths:
        if not path.exists():
            raise missing(path, "submission or folder of submissions")
    known = None if boards is None else read_boards(boards)
    again = (fresh_seed if seed is None else lambda: seed) if rerun else None
    verdicts = verify_all(paths, known, again, record, new, workers)
    if not all(verdict.accepted for verdict in verdicts):
        sys.exit(1)


def boards_for(entry: Path) -> Mapping[str, Board]:
    """The boards of the root that an entry lies in, three folders above it, or the package's; none from in between."""
    return boards_in(entry.absolute().parents[2])


def verify_all(
    paths: Sequence[Path],
    boards: Mapping[str, Board] | None,
    seeds: Callable[[], int] | None,
    write: bool,
    new: bool = False,
    workers: int = 1,
) -> list[Verdict]:
    """Verifies every submission at or below the paths and prints what was found.

    Args:
        paths: Submissions, or folders of them.
        boards: By id; those of each entry's root if there are none.
        seeds: Gives the seed for playing an entry's policies again, where they are there; nothing is without it.
        write: Whether to write the record of an accepted submission beside it.
        new: Whether to leave out what has such a record.
        workers: Processes, each of which verifies one submission at a time.
    """
    folders = [found for path in paths for found in find(path) if not (new and _recorded(found))]
    asked = [
        (folder, boards_for(folder) if boards is None else boards, seeds() if seeds else None) for folder in folders
    ]
    verdicts = []
    with contextlib.closing(_in_turn(asked) if workers == 1 else _side_by_side(asked, workers)) as found:
        for verdict in found:
            show(verdict_table(verdict))
            if write and verdict.accepted:
                write_record(verdict)
                say(f"written: {plain(verdict.folder / VERIFICATION)}")
            verdicts.append(verdict)
    if len(verdicts) > 1:
        accepted = sum(verdict.accepted for verdict in verdicts)
        say(f"\n{accepted} of {len(verdicts)} submissions accepted")
    return verdicts


_Asked = tuple[Path, Mapping[str, Board], int | None]  # a submission, its boards, and the seed of a re-run


def _in_turn(asked: Sequence[_Asked]) -> Generator[Verdict]:
    for folder, boards, seed in asked:
        with bars(TextColumn("{task.completed:,.0f} / {task.total:,.0f} steps")) as shown:
            tell = partial(_tell, shown, shown.add_task(plain(folder.parent.name), total=1))
            verdict = verify(folder, boards, rerun_seed=seed, optional=True, progress=tell)
        yield verdict


def _side_by_side(asked: Sequence[_Asked], workers: int) -> Generator[Verdict]:
    """The verdicts in their order, from processes with one thread each; those that wait are dropped at the end."""
    before = dict(os.environ)
    os.environ.update(one_thread())  # processes that are spawned inherit it before they load anything
    pool = ProcessPoolExecutor(min(workers, len(asked)) or 1, multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(_one, asked)
    finally:
        pool.shutdown(cancel_futures=True)
        for name in one_thread():
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]


def _one(asked: _Asked) -> Verdict:
    folder, boards, seed = asked
    return verify(folder, boards, rerun_seed=seed, optional=True)


def _recorded(folder: Path) -> bool:
    try:
        return Folder(folder).verification() is not None
    except ValueError:
        return False


def _tell(shown: Progress, task: TaskID, done: int, total: int) -> None:
    shown.update(task, completed=done, total=total)


def verdict_table(verdict: Verdict) -> Table:
    """The checks and the verdict."""
    shown = table("", "~", title=plain("/".join(verdict.folder.absolute().parts[-3:])))
    shown.show_header = False
    for check in verdict.checks:
        shown.add_row(f"[dim]{plain(check.name)}[/]", plain(check.found))
    for flag in verdict.flags:
        shown.add_row("[yellow]look[/]", f"[yellow]{plain(flag)}[/]")
    if verdict.fault:
        shown.add_row("[bold red]rejected[/]", f"[red]{plain(verdict.fault)}[/]")
    elif verdict.tier == "claimed":
        shown.add_row(
            "[bold yellow]claimed[/]", "[yellow]nothing is wrong, and nothing is proven: there are no traces[/]"
        )
    else:
        shown.add_row("[bold green]verdict[/]", f"[bold green]{plain(verdict.tier)}[/]")
    return shown
