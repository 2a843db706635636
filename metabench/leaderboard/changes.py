"""What a pull request may change below the leaderboards: whole new entries, and nothing else together with them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from metabench.leaderboard.folder import Folder, entries_in, known_name
from metabench.leaderboard.names import foreign, lent
from metabench.leaderboard.records import BOARDS, VERIFICATION, Board, Submission, read_boards, same_board

ROOT = "leaderboards"  # of a repository
_CODE = ("metabench/", "agents/", ".ci/", ".github/", "pyproject.toml", "constraints.txt")  # what verifies
_PLAIN = "100644"  # git's mode of a file that is neither a program nor a link


class Change(NamedTuple):
    """One path that differs."""

    path: str
    status: str  # A added, M modified, D deleted, T of another type
    mode: str  # the new one, as git writes it
    blob: str  # the new content's name in git


class Proposed(NamedTuple):
    """What a pull request asks for."""

    entries: tuple[Path, ...]  # the folders of new entries
    boards: Mapping[str, Board]  # those of the commit it is to be merged into
    everything: bool  # whether it changes what verifies, so that every entry is concerned


def proposed(repository: Path, base: str, head: str = "HEAD") -> Proposed:
    """What differs between a commit and `head`, which is checked out in `repository`.

    Args:
        repository: Where git's work tree is.
        base: The commit it is to be merged into; boards and owners of names are those of this commit.
        head: What is proposed.

    Raises:
        ValueError: In one sentence: it changes what no pull request may change.
    """
    changes = _changes(repository, base, head)
    inside = [change for change in changes if change.path.startswith(f"{ROOT}/")]
    outside = [change.path for change in changes if not change.path.startswith(f"{ROOT}/")]
    new: dict[Path, list[Change]] = {}
    for change in inside:
        if change.path != f"{ROOT}/{BOARDS}":
            new.setdefault(_entry_of(change, repository, base), []).append(change)
    boards, owners = _boards(repository, base)
    ruled = len(inside) > sum(map(len, new.values()))
    if new and (outside or ruled):
        other = outside[0] if outside else f"{ROOT}/{BOARDS}"
        raise ValueError(f"who enters a leaderboard changes nothing else; {other!r} needs a pull request of its own")
    if ruled:
        _same_meaning(boards, _boards(repository, head)[0])
    for own in new.values():
        for change in own:
            _check_bytes(repository, change)
    entries = tuple(sorted(repository / place for place in new))
    if entries:
        _check_names(repository, entries, owners)
    return Proposed(entries, boards, ruled or any(path.startswith(_CODE) for path in outside))


def _git(repository: Path, *arguments: str) -> bytes:
    ran = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True)
    if ran.returncode:
        words = " ".join(ran.stderr.decode(errors="replace").split())
        raise ValueError(f"git {arguments[0]} in {repository} failed: {words[:300]}")
    return ran.stdout


def _changes(repository: Path, base: str, head: str) -> list[Change]:
    if base.startswith("-") or head.startswith("-"):
        raise ValueError(f"{base!r} and {head!r} are to be commits")
    fork = _git(repository, "merge-base", base, head).decode().strip()
    options = ("--raw", "-z", "--no-renames", "--no-abbrev", "--no-ext-diff", "--ignore-submodules=none")
    parts = os.fsdecode(_git(repository, "diff", *options, fork, head)).split("\0")
    found = []
    for told, path in zip(parts[:-1:2], parts[1::2], strict=True):
        _, mode, _, blob, status = told.lstrip(":").split(" ")
        found.append(Change(path, status[0], mode, blob))
    return found


def _entry_of(change: Change, repository: Path, base: str) -> Path:
    """The folder of the new entry that a change belongs to, told from the repository."""
    parts = change.path.split("/")
    if len(parts) < 5 or not known_name("/".join(parts[4:])) or any(part.startswith(".") for part in parts):
        raise ValueError(f"{change.path!r} lies where no file of an entry does")
    if parts[4:] == [VERIFICATION]:
        raise ValueError(f"{change.path!r} is written by who verifies, not by who submits or removes")
    if change.status != "A":
        what = {"D": "removed", "T": "replaced by something else"}.get(change.status, "changed")
        raise ValueError(f"{change.path!r} is {what}: what was entered stays as it is; submit a new entry")
    if change.mode != _PLAIN:
        raise ValueError(f"{change.path!r} has the mode {change.mode}: entries are plain files that nobody runs")
    folder = "/".join(parts[:4])
    if _git(repository, "ls-tree", "-z", "--name-only", base, "--", f"{folder}/"):
        raise ValueError(f"{change.path!r} is added to an entry that is there already; submit a new one")
    return Path(folder)


def _check_bytes(repository: Path, change: Change) -> None:
    """ValueError where a file was checked out with other bytes than were committed."""
    content = (repository / change.path).read_bytes()
    kind = hashlib.sha1 if len(change.blob) == 40 else hashlib.sha256
    if kind(b"blob %d\0" % len(content) + content).hexdigest() != change.blob:
        raise ValueError(
            f"{change.path!r} is checked out with other bytes than were committed: an attribute of git or a filter "
            "changes it"
        )


def _boards(repository: Path, commit: str) -> tuple[dict[str, Board], dict[str, str]]:
    """The boards of a commit, and its table of names."""
    content = _git(repository, "show", f"{commit}:{ROOT}/{BOARDS}")
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / BOARDS).write_bytes(content)
        try:
            return read_boards(Path(name) / BOARDS), lent(Path(name))
        except ValueError as error:
            raise ValueError(str(error).replace(f"{name}/", f"{commit[:12]}:{ROOT}/")) from None


def _same_meaning(before: Mapping[str, Board], after: Mapping[str, Board]) -> None:
    for id, board in before.items():
        if id not in after or not same_board(board, after[id]):
            raise ValueError(f"the board {id} is removed or means something else: a board never changes; add a new one")


def _check_names(repository: Path, entries: Sequence[Path], owners: Mapping[str, str]) -> None:
    """ValueError where a new entry's name or policies are those of an older one."""
    old = [path for path in entries_in(repository / ROOT) if path not in entries]
    known = sorted((Folder(path).submission() for path in old), key=lambda s: (s.rules > 1, s.date, s.id))
    fresh: list[Submission] = [Folder(path).submission() for path in entries]
    for path, why in zip(entries, foreign([*known, *fresh], owners)[len(known) :], strict=True):
        if why:
            raise ValueError(f"{path.relative_to(repository)}: {why}")
