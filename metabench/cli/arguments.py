"""Arguments that several commands share, and near names for those that name nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from metabench.tasks import suggest

Benchmark = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BENCHMARK")]
AgentName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="AGENT")]
Id = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]
Boards = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]


def at_least(low: int, **given: float | None) -> None:
    """ValueError in one sentence for the first of the given options that is smaller than `low`."""
    for name, value in given.items():
        if value is not None and not value >= low:  # written so that NaN is refused
            raise ValueError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")


def missing(path: Path, what: str, known: Sequence[str] | None = None) -> ValueError:
    """The error for a path that is not there, with near names from its folder, or from `known`."""
    folder = path.parent
    names = known
    if names is None:
        here = sorted(entry for entry in folder.iterdir() if entry.name[0] != ".") if folder.is_dir() else []
        names = [str(entry) for entry in here]
    if not names:
        where = f"{folder} is empty" if folder.is_dir() else f"there is no folder {folder}"
        return ValueError(f"{path} is no {what}: {where}")
    shown = [*names[:12], f"and {len(names) - 12} more"] if len(names) > 12 else None
    return ValueError(f"there is no {what} {path}; {suggest(str(path), names, shown)}")


def folder_of_boards(path: Path) -> Path:
    """`path`, if it is a folder; ValueError with near names if not."""
    if not path.is_dir():
        raise missing(path, "folder of leaderboards")
    return path
