"""Whether and how functions are compiled: `torch.compile`, or one sentence about what it lacks here."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])
_opaque: list[dict[str, Callable[..., Any]]] = []  # functions that torch.compile shall leave as they are, one to a dict


def can_compile() -> bool:
    """Whether there is the C++ compiler that torch.compile needs."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def opaque(function: F) -> F:
    """The function as `compiled` shall leave it: called as it is.

    `torch.compiler.disable` says that to torch, but loads the whole compiler, two seconds of it; so it is said only
    where something is compiled.
    """
    held: dict[str, Callable[..., Any]] = {"function": function}
    _opaque.append(held)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return held["function"](*args, **kwargs)

    return call  # pyright: ignore[reportReturnType]


def _hide() -> None:
    """Tells torch of the functions that are opaque."""
    while _opaque:
        held = _opaque.pop()
        disabled: Any = torch.compiler.disable(held["function"])  # pyright: ignore[reportCallIssue, reportArgumentType]
        held["function"] = disabled


def compiled(function: F, wanted: bool, **options: Any) -> F:
    """The function as one compiled graph where that is wanted, as it is elsewhere.

    Raises:
        ValueError: If it is wanted and there is no compiler; torch would say so at the first update.
    """
    if not wanted:
        return function
    if not can_compile():
        raise ValueError(
            "compiled updates need a C++ compiler, and none of g++, clang++ and c++ is there; "
            "install one, or train without"
        )
    _hide()
    return torch.compile(function, **options)  # pyright: ignore[reportReturnType]
