"""Whether and how functions are compiled: `torch.compile`, or one sentence about what it lacks here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def can_compile() -> bool:
    """Whether there is the C++ compiler that torch.compile needs."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


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
    return torch.compile(function, **options)  # pyright: ignore[reportReturnType]
