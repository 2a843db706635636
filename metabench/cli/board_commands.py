"""What `metabench submit`, `verify` and `board` do; the command line only parses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from metabench.evaluation.results import played_as, write_atomically
from metabench.leaderboard.folder import find
from metabench.leaderboard.ranking import rank, read_entries
from metabench.leaderboard.records import BOARDS, OWN_BOARDS, VERIFICATION, Board, boards_in, read_boards, schemas
from metabench.leaderboard.site.build import build
from metabench.leaderboard.submit import About, Entrant, open_run, open_yardstick, submit, training_of
from metabench.leaderboard.track import track_for
from metabench.leaderboard.verify import Verdict, fresh_seed, record, verify
from metabench.runs import read_record


def boards_for(path: Path, given: Path | None) -> Mapping[str, Board]:
    """The boards of the leaderboards that `path` lies in: the nearest boards.toml at or above it, or the package's."""
    if given is not None:
        return read_boards(given)
    here = path.absolute()
    for folder in (here, *here.parents):
        if (folder / BOARDS).is_file():
            return read_boards(folder / BOARDS)
    return read_boards(OWN_BOARDS)


def _bar(label: str) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} / {task.total:,.0f} " + label),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def submit_runs(
    out: Console,
    runs: Sequence[str],
    board: Board,
    about: Mapping[str, Any],
    training: Mapping[str, Any],
    root: Path,
    policies: bool,
    repetitions: int,
) -> Path:
    """Evaluates the runs with evidence, writes the folder and verifies it."""
    folders = [Path(run) for run in runs if Path(run).is_dir()]
    if folders and len(folders) < len(runs):
        raise ValueError(f"{', '.join(r for r in runs if not Path(r).is_dir())} is no folder of a training run")
    if folders:
        entrants = sorted((open_run(f, board, policies) for f in folders), key=lambda e: e.train_seed or 0)
        names = {read_record(folder).agent for folder in folders}
        if len(names) > 1:
            raise ValueError(f"runs of one agent make a submission, these are of {', '.join(sorted(names))}")
        plugin = names.pop()
        used = training_of(folders, **training)
    else:
        if len(runs) != 1:
            raise ValueError("give the folders of all training runs, or the name of one agent that does not train")
        plugin, entrants = runs[0], open_yardstick(runs[0], board, repetitions)
        used = training_of((), (), None, "")
    told = {name: value for name, value in about.items() if value is not None}
    told.setdefault("agent", plugin)
    told.setdefault("title", plugin)
    told.setdefault("track", track_for(played_as(entrants[0].agent)))
    for note in dict.fromkeys(entrant.note for entrant in entrants if entrant.note):
        out.print(note, highlight=False, markup=False)
    before = set(root.glob("*/*/*"))
    with _bar("trials") as bar:
        tasks = [bar.add_task(_label(e), total=1, start=False) for e in entrants]

        def tell(run: int, done: int, total: int) -> None:
            bar.start_task(tasks[run])
            bar.update(tasks[run], completed=done, total=total)

        target = submit(board, entrants, About(plugin=plugin, trains=bool(folders), training=used, **told), root, tell)
    out.print(f"written: {target}\n", highlight=False)
    (verdict,) = verify_paths(out, [target], {board.id: board}, rerun=False, seed=None, write=True)
    if not verdict.accepted and target not in before:
        shutil.rmtree(target)
        raise ValueError(f"it was not accepted, and nothing is left of it: {verdict.fault}")
    return target


def _label(entrant: Entrant) -> str:
    return "repetition" if entrant.train_seed is None else f"run of seed {entrant.train_seed}"


def verify_paths(
    out: Console,
    paths: Sequence[Path],
    boards: Mapping[str, Board] | None,
    rerun: bool,
    seed: int | None,
    write: bool,
    given: Path | None = None,
) -> list[Verdict]:
    """Verifies every submission at or below the paths and prints what was found."""
    verdicts = []
    for folder in [found for path in paths for found in find(path)]:
        known = boards_for(folder, given) if boards is None else boards
        again = fresh_seed() if rerun and seed is None else seed
        with _bar("steps") as bar:
            task = bar.add_task(folder.parent.name, total=1)

            def tell(done: int, total: int, bar: Progress = bar, task: Any = task) -> None:
                bar.update(task, completed=done, total=total)

            verdict = verify(folder, known, rerun_seed=again if rerun else None, progress=tell)
        out.print(verdict_table(verdict))
        if write and verdict.accepted:
            record(verdict)
            out.print(f"written: {folder / VERIFICATION}", highlight=False)
        verdicts.append(verdict)
    if len(verdicts) > 1:
        accepted = sum(verdict.accepted for verdict in verdicts)
        out.print(f"\n{accepted} of {len(verdicts)} submissions accepted", highlight=False)
    return verdicts


def verdict_table(verdict: Verdict) -> Table:
    """The checks and the verdict."""
    table = Table(
        box=None, show_header=False, pad_edge=False, title_justify="left", title_style="bold", padding=(0, 2, 0, 0)
    )
    table.title = "/".join(verdict.folder.absolute().parts[-3:])
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for check in verdict.checks:
        table.add_row(check.name, check.found)
    for flag in verdict.flags:
        table.add_row("[yellow]look[/]", f"[yellow]{_plain(flag)}[/]")
    if verdict.fault:
        table.add_row("[bold red]rejected[/]", f"[red]{_plain(verdict.fault)}[/]")
    elif verdict.tier == "claimed":
        table.add_row(
            "[bold yellow]claimed[/]", "[yellow]nothing is wrong, and nothing is proven: there are no traces[/]"
        )
    else:
        table.add_row("[bold green]verdict[/]", f"[bold green]{verdict.tier}[/]")
    return table


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def write_schemas(out: Console, folder: Path) -> None:
    """One JSON Schema per kind of record."""
    for name, schema in schemas().items():
        target = folder / f"{Path(name).stem}.schema.json"
        write_atomically(target, (json.dumps(schema, indent=1) + "\n").encode())
        out.print(f"written: {target}", highlight=False)


def build_site(out: Console, root: Path, target: Path) -> None:
    """Builds the site and says what was built."""
    built = build(root, boards_in(root), target)
    out.print(
        f"written: {built.folder / 'index.html'} ({built.boards} boards, {built.entries} entries, {built.files} files)",
        highlight=False,
    )


def list_boards(out: Console, root: Path) -> None:
    """One line per board and track."""
    boards = boards_in(root)
    entries = read_entries(root, boards)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("board", "benchmark", "track", "leads"):
        table.add_column(name)
    for name in ("score", "entries"):
        table.add_column(name, justify="right")
    for board in boards.values():
        for number, track in enumerate(board.tracks):
            ranked = rank(board, track, entries).rows
            lead = (ranked[0].entry.submission.title, f"{ranked[0].score.estimate:.3f}") if ranked else ("", "")
            head = (f"[bold]{board.id}[/]", board.benchmark) if number == 0 else ("", "")
            table.add_row(*head, track, *lead, str(len(ranked)))
    out.print(table)
