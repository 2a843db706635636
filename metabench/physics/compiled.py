"""Plain functions over arrays, compiled at their first call: on one slot, a dozen NumPy calls cost more than physics.

A compiled function has to give the same bits as NumPy does: no fused multiply-add, no reordered sums, and constants in
the array's own precision (`x.dtype.type(0.05)`).
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled by numba when it is first called, and cached on disk; importing it costs nothing.

    It must stand at the top of its module: there, its name is bound to the compiled function from then on.
    """

    @functools.wraps(function)
    def first(*args: P.args, **kwargs: P.kwargs) -> R:
        import numba

        fast: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
        function.__globals__[function.__name__] = fast
        return fast(*args, **kwargs)

    return first
