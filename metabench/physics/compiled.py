"""What numba compiles, and where the compiled code is kept: the one place that decides it for all of the package.

Compiled code is kept on disk, so that the next process does not compile it again: where numba keeps it
(`NUMBA_CACHE_DIR`, beside the source, or in the user's cache), else in a temporary folder that only this user can write
to, else nowhere. That it is not where numba would have it is said once, in a `CacheWarning`; results stay the same.

A compiled function has to give the same bits as NumPy does: no fused multiply-add, no reordered sums, and constants in
the array's own precision (`x.dtype.type(0.05)`).
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.RLock()
_told: list[str] = []  # what has been said of the cache


class CacheWarning(UserWarning):
    """Compiled code cannot be kept where numba keeps it."""


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled by numba when it is first called, and cached on disk; importing it costs nothing.

    It must stand at the top of its module: there, its name is bound to the compiled function from then on.
    """

    @functools.wraps(function)
    def first(*args: P.args, **kwargs: P.kwargs) -> R:
        fast: Any = cached_njit(nogil=True, error_model="numpy")(function)
        function.__globals__[function.__name__] = fast
        return fast(*args, **kwargs)

    return first


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit(cache=True, **options)` that works where nothing can be cached, too; for modules that import numba.

    Where the compiled code is kept is found out when it is first needed, not when a module is imported.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        import numba

        dispatcher: Any = numba.njit(**options)(function)
        dispatcher._cache = _Cache(dispatcher)
        return dispatcher

    return decorate


class _Cache:
    """A function's cache as numba's dispatchers ask for it: found at the first compilation, and never an error."""

    def __init__(self, dispatcher: Any):
        self._function, self._none, self._found = dispatcher.py_func, dispatcher._cache, None

    def _cache(self) -> Any:
        if self._found is None:
            with _lock:
                self._found = self._found or _find_cache(self._function) or self._none
        return self._found

    def load_overload(self, *arguments: Any) -> Any:
        """What is kept for a signature; None if there is nothing, or nothing that can be read."""
        try:
            return self._cache().load_overload(*arguments)
        except (OSError, EOFError) as error:
            return self._give_up(error)

    def save_overload(self, *arguments: Any) -> None:
        """Keeps what was compiled, unless the disk is full."""
        try:
            self._cache().save_overload(*arguments)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._found = self._none
        _tell(f"compiled code cannot be kept on disk ({error}): it is compiled anew in every process")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._cache(), name)


def _find_cache(function: Callable[..., Any]) -> Any:
    """Numba's cache of a function, in its own place or in a temporary folder; None if there is no place."""
    from numba.core import config
    from numba.core.caching import FunctionCache

    try:
        return FunctionCache(function)
    except (RuntimeError, OSError):  # no locator: neither the package's folder nor the user's cache can be written
        pass
    folder, before = temporary_cache(), config.CACHE_DIR
    if folder is not None:
        try:
            config.CACHE_DIR = str(folder)
            found = FunctionCache(function)
        except (RuntimeError, OSError):
            found = None
        finally:
            config.CACHE_DIR = before
        if found is not None:
            _tell(f"numba can keep compiled code neither beside the package nor in your home: it is kept in {folder}")
            return found
    _tell(
        "numba can keep compiled code nowhere: it is compiled anew in every process, which takes seconds to a minute; "
        "name a folder that can be written in NUMBA_CACHE_DIR"
    )
    return None


def temporary_cache() -> Path | None:
    """The folder below the temporary one that only this user can write to, made if need be; None if there is none.

    Compiled code is run as it is read: a folder that anybody else may write to is not used.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    try:
        folder = Path(tempfile.gettempdir()) / f"metabench-numba-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return None
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        return None
    return folder


def _tell(words: str) -> None:
    if not _told:
        _told.append(words)
        warnings.warn(words, CacheWarning, stacklevel=2)
