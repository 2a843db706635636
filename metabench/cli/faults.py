"""What can stop a command, in words: bad input, files, signals."""

from __future__ import annotations

import errno
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DRAFT = re.compile(r"\.(.+)\.(?:[a-z0-9_]{8}|part)")
_ADVICE = {
    errno.ENOENT: "there is no such file or folder",
    errno.EACCES: "permission denied; choose another folder, or change its permissions",
    errno.EPERM: "not permitted; choose another folder, or change its permissions",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOSPC: "the disk is full; make room and give the same command again",
    errno.EDQUOT: "the disk quota is used up; make room and give the same command again",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "this is a folder, and a file is needed",
    errno.EEXIST: "this exists already, and is no folder",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def until_terminated() -> Iterator[None]:
    """Turns SIGTERM into `Terminated`, so that what is under way is cleaned up; only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def told(stop: KeyboardInterrupt) -> str:
    """The sentence for a command that a signal stopped."""
    word = "terminated" if isinstance(stop, Terminated) else "stopped"
    return f"{word}; {stop.args[0] if stop.args else 'nothing is left half-written'}"


def in_words(error: Exception) -> str | None:
    """The sentence for an error that a user can do something about; None for a fault of ours."""
    if isinstance(error, OSError):
        return _of_file(error)
    if isinstance(error, ValueError | ImportError):
        return str(error)
    tensors = sys.modules.get("safetensors")  # it reports a full disk by an error of its own
    if tensors is not None and isinstance(error, tensors.SafetensorError):
        return f"a file of weights cannot be read or written: {error}"
    return None


def _of_file(error: OSError) -> str:
    number = error.errno
    why = _ADVICE.get(number, error.strerror) if number is not None else None
    if why is None:
        return str(error)
    name = error.filename if error.filename2 is None else error.filename2
    if name is None:
        return str(why)
    path = Path(str(name))
    draft = _DRAFT.fullmatch(path.name)  # a user knows the file that was to be written, not our draft of it
    return f"{path.with_name(draft[1]) if draft else path}: {why}"
