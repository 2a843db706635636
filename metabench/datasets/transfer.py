"""Opening what a mirror serves: where secrets may go, and how long a mirror may take."""

from __future__ import annotations

import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import IO, Any

BLOCK = 1 << 18  # bytes read at a time
TIMEOUT = 30.0  # seconds without a byte
GRACE, SLOWEST = 120.0, 1 << 14  # seconds that a file may take in any case, and bytes a second beyond them
_SECRETS = ("Authorization", "Cookie")


class MirrorError(Exception):
    """One mirror does not help; the sentence says why."""


class Deadline:
    """Until when a transfer of so many bytes must be done, its new attempts included."""

    def __init__(self, what: str, size: int):
        self.what, self.seconds = what, GRACE + size / SLOWEST
        self._end = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds; MirrorError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise MirrorError(f"{self.what} takes longer than {self.seconds:.0f} seconds")
        return left


def request(url: str, headers: dict[str, str]) -> urllib.request.Request:
    """A request whose secrets are sent to this address alone, and not to where it may lead on."""
    made = urllib.request.Request(url)
    for name, value in headers.items():
        secret = name.title() in _SECRETS
        (made.add_unredirected_header if secret else made.add_header)(name.title(), value)
    return made


def opened(asked: urllib.request.Request, deadline: Deadline) -> Any:
    """The answer to a request, or the error that `urllib.request.urlopen` raises.

    Raises:
        MirrorError: No answer comes in time, or it leads to what is no address.
    """
    if asked.type == "file":
        return _OPENER.open(asked, timeout=TIMEOUT)
    answer: list[Any] = []
    late = threading.Event()

    def ask() -> None:
        try:
            answer.append(_OPENER.open(asked, timeout=TIMEOUT))
        except BaseException as error:
            answer.append(error)
        if late.is_set() and hasattr(answer[0], "close"):
            answer[0].close()

    thread = threading.Thread(target=ask, daemon=True)  # headers may come a byte at a time, each before the timeout
    thread.start()
    thread.join(deadline.left())
    if not answer:
        late.set()
        deadline.left()
        raise MirrorError(f"{deadline.what}: there is no answer")
    if isinstance(answer[0], ValueError):
        raise MirrorError(f"{deadline.what}: {answer[0]}")
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def blocks(stream: IO[bytes], most: int, deadline: Deadline) -> Iterator[bytes]:
    """What a stream holds, up to `most` bytes, as it comes."""
    read = getattr(stream, "read1", stream.read)  # which waits for no more than there is
    while most > 0 and (block := read(min(BLOCK, most))):
        most -= len(block)
        yield block
        deadline.left()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes on to other web addresses only, never from https to http, and takes secrets along within one host only."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except BaseException:
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            raise MirrorError(f"it leads on to {newurl[:200]!r}, where nothing is fetched from")
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            for name, value in req.unredirected_hdrs.items():
                if name in _SECRETS:
                    made.add_unredirected_header(name, value)
        return made


_OPENER = urllib.request.build_opener(_Redirects)
