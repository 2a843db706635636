"""The folder of a submission, read with distrust: it may come from anybody."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from metabench.evaluation.results import parse
from metabench.leaderboard.records import (
    CARD,
    POLICY_NAME,
    RESULT,
    SUBMISSION,
    TRACE_NAME,
    VERIFICATION,
    Results,
    Submission,
    Verification,
    read_submission,
)
from metabench.leaderboard.replay import Fault

MAX_BYTES = 10_000_000  # of a whole submission
MAX_TEXT = 4_000_000  # bytes of one of its JSON files
MAX_CARD = 65_536
_MAX_FILES = 400
_MAX_DEPTH = 3


def find(path: Path) -> list[Path]:
    """The submissions at or below `path`, sorted; ValueError if there are none. Symbolic links are not followed."""
    if (path / SUBMISSION).is_file():
        return [path]
    found = sorted(Path(folder) for folder, _, files in os.walk(path) if SUBMISSION in files)
    if not found:
        raise ValueError(f"there is no submission in {path}: no {SUBMISSION} at or below it")
    return found


class Folder:
    """One submission on disk. Opening it reads names and sizes only.

    Raises:
        Fault: For links, special files, unknown names, too many or too large files.
    """

    def __init__(self, path: Path):
        self.path = path
        self.names = tuple(sorted(_walk(path)))
        for name in self.names:
            known = (
                name in (SUBMISSION, RESULT, CARD, VERIFICATION) or TRACE_NAME.match(name) or POLICY_NAME.match(name)
            )
            if not known:
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
        return record if record.submission_sha256 == self.sha256() else None

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

    def policies(self) -> dict[int, Mapping[str, bytes]]:
        """The files of each run's policy, by run."""
        found: dict[int, dict[str, bytes]] = {}
        for name in self.names:
            if match := POLICY_NAME.match(name):
                found.setdefault(int(match[1]), {})[match[2]] = self.bytes(name)
        return dict(found)


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
