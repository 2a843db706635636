"""The folder of a submission, read with distrust: it may come from anybody."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from metabench.evaluation.results import left_over, parse
from metabench.leaderboard.records import (
    BOARDS,
    CARD,
    POLICY_NAME,
    RESULT,
    SUBMISSION,
    TRACE_NAME,
    TRAINING_NAME,
    VERIFICATION,
    Results,
    Submission,
    Verification,
    read_submission,
)
from metabench.leaderboard.replay import Fault

MAX_BYTES = 16_000_000  # of a whole submission: five runs of Meta-World with their policies have 11 million
MAX_TEXT = 4_000_000  # bytes of one of its JSON files
MAX_CARD = 65_536
_MAX_FILES = 400
_MAX_DEPTH = 3


def entries_in(root: Path) -> list[Path]:
    """The folders of a root's entries, sorted: exactly `<board>/<agent>/<id>`. The one rule of what is an entry.

    Folders whose name begins with a dot are drafts of who submits, or what a killed one left: no part of the boards.
    Symbolic links are not followed.

    Raises:
        ValueError: A submission.json lies anywhere else, where it could pass for an entry.
    """
    return _entries(root, 3)


def find(path: Path) -> list[Path]:
    """The entries at or below `path`: an entry, an agent's folder, a board's, or the root of them all.

    Raises:
        ValueError: There are none, or a submission.json lies where no entry does.
    """
    if (path / SUBMISSION).is_file():
        return [path]
    if (path / BOARDS).is_file():
        found = entries_in(path)
    else:
        depths = [len(place.relative_to(path).parts) for place in _submissions(path)]
        found = _entries(path, max(set(depths), key=depths.count)) if depths else []
    if not found:
        raise ValueError(f"there is no submission in {path}: no {SUBMISSION} at or below it")
    return found


def _entries(root: Path, depth: int) -> list[Path]:
    found = _submissions(root)
    for place in found:
        if len(place.relative_to(root).parts) != depth or depth > 3:
            raise ValueError(
                f"{place / SUBMISSION} lies where no entry does: entries are <board>/<agent>/<id> below the root"
            )
    return found


def _submissions(root: Path) -> list[Path]:
    found = []
    for name, folders, files in os.walk(root):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        if SUBMISSION in files:
            found.append(Path(name))
    return sorted(found)


def known_name(name: str) -> bool:
    """Whether a file of this name, told from the entry's folder, is one that entries have."""
    patterns = (TRACE_NAME, POLICY_NAME, TRAINING_NAME)
    return name in (SUBMISSION, RESULT, CARD, VERIFICATION) or any(pattern.match(name) for pattern in patterns)


class Folder:
    """One submission on disk. Opening it reads names and sizes only.

    Raises:
        Fault: For links, special files, unknown names, too many or too large files.
    """

    def __init__(self, path: Path):
        self.path = path
        walked = sorted(_walk(path))
        self._left = tuple(name for name in walked if _is_left_over(name))  # by a writer that was killed
        self.names = tuple(name for name in walked if name not in self._left)
        for name in self.names:
            if not known_name(name):
                raise Fault(f"there is a file {name[:120]!r}, which no submission has")
        for name in (SUBMISSION, RESULT, CARD):
            if name not in self.names:
                raise Fault(f"there is no {name}")
        size = sum(os.lstat(path / name).st_size for name in self.names)
        if size > MAX_BYTES:
            raise Fault(f"the submission has {size:,} bytes, more than the {MAX_BYTES:,} allowed")

    def bytes(self, name: str) -> bytes:
        """One file's content."""
        return (self.path / name).read_bytes()

    def text(self, name: str, most: int = MAX_TEXT) -> str:
        """One file's text; Fault if it is too long or no UTF-8."""
        size = os.lstat(self.path / name).st_size
        if size > most:
            raise Fault(f"{name} has {size:,} bytes, more than the {most:,} allowed")
        try:
            return self.bytes(name).decode()
        except UnicodeDecodeError:
            raise Fault(f"{name} is no UTF-8 text") from None

    def submission(self) -> Submission:
        """The record; Fault naming what is wrong with it."""
        try:
            return read_submission(self.text(SUBMISSION))
        except ValueError as error:
            raise Fault(str(error)) from None

    def results(self) -> Results:
        """The results of all runs; Fault naming what is wrong with them."""
        try:
            return parse(Results, self.text(RESULT), RESULT)
        except ValueError as error:
            raise Fault(str(error)) from None

    def verification(self) -> Verification | None:
        """The record of a verification of exactly this content, if there is one."""
        if VERIFICATION not in self.names:
            return None
        try:
            record = parse(Verification, self.text(VERIFICATION), VERIFICATION)
        except ValueError:
            return None
        return record if record.whole and record.submission_sha256 == self.sha256() else None

    def clean(self) -> None:
        """Removes what a killed writer left."""
        for name in self._left:
            (self.path / name).unlink(missing_ok=True)

    def sha256(self) -> str:
        """Of submission.json, which holds the hash of every other file."""
        return hashlib.sha256(self.bytes(SUBMISSION)).hexdigest()

    def hashes(self) -> dict[str, str]:
        """The sha256 of every file but the record that holds them, and the verification's."""
        names = (name for name in self.names if name not in (SUBMISSION, VERIFICATION))
        return {name: hashlib.sha256(self.bytes(name)).hexdigest() for name in names}

    def traces(self) -> list[str]:
        """The names of the traces, in order."""
        return [name for name in self.names if TRACE_NAME.match(name)]

    def training(self) -> dict[int, str]:
        """What the logs of the runs say of their training, by run."""
        found = {int(match[1]): name for name in self.names if (match := TRAINING_NAME.match(name))}
        return {run: self.text(name) for run, name in found.items()}

    def policies(self) -> dict[int, Mapping[str, bytes]]:
        """The files of each run's policy, by run."""
        found: dict[int, dict[str, bytes]] = {}
        for name in self.names:
            if match := POLICY_NAME.match(name):
                found.setdefault(int(match[1]), {})[match[2]] = self.bytes(name)
        return dict(found)


def _is_left_over(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return known_name(f"{folder}/{left_over(last)}".removeprefix("/"))


def _walk(path: Path, depth: int = 0) -> Iterator[str]:
    if depth == 0 and path.is_symlink():
        raise Fault(f"{path.name} is a symbolic link; a submission is plain files")
    if depth > _MAX_DEPTH:
        raise Fault("folders lie in folders too deep for a submission")
    try:
        entries = list(os.scandir(path))
    except OSError as error:
        raise Fault(f"the folder cannot be read: {error.strerror}") from None
    if len(entries) > _MAX_FILES:
        raise Fault(f"a folder has {len(entries)} entries, more than the {_MAX_FILES} allowed")
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise Fault(f"{entry.name[:120]!r} is a symbolic link; a submission is plain files")
        if stat.S_ISDIR(mode):
            yield from (f"{entry.name}/{name}" for name in _walk(Path(entry.path), depth + 1))
        elif stat.S_ISREG(mode):
            yield entry.name
        else:
            raise Fault(f"{entry.name[:120]!r} is neither a file nor a folder")
