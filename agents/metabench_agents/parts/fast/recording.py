"""What a CUDA graph would keep of a function, rehearsed on the CPU: its operations, run again on the same memory.

A graph knows nothing of Python: it repeats the kernels it has seen, on the addresses it has seen. So whatever is to
change between two replays must be written into the memory of an input; a number of Python, a fresh tensor or a draw of
a generator stays what it was. `recorded` keeps to that, operation by operation, and refuses what a capture refuses:
draws of chance, values that the CPU reads, shapes that depend on values. It is slow, and for tests and rehearsals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
_REFUSED = {
    torch.Tag.nondeterministic_seeded: "draws random numbers, which a graph would freeze: hand them in",
    torch.Tag.data_dependent_output: "reads a value on the CPU, which a graph cannot",
    torch.Tag.dynamic_output_shape: "has an output whose shape depends on values, which a graph cannot have",
}


class _Operation(NamedTuple):
    function: Any
    args: Any
    kwargs: Any
    fresh: list[tuple[int, Tensor]]  # outputs that are memory of their own: the same place is written at every replay


class Recording(TorchDispatchMode):
    """The operations of a function, in order; `replay` runs them again where they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.lift_fresh.default and args[0].ndim:
            raise RuntimeError("a tensor is made of Python's numbers, which a graph cannot copy: make it before")
        for tag, why in _REFUSED.items():
            if tag in func.tags and not _harmless(func, args):
                raise RuntimeError(f"{func} {why}")
        out = func(*args, **(kwargs or {}))
        given = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        fresh = [  # neither views nor written in place
            (index, leaf)
            for index, leaf in enumerate(tree_leaves(out))
            if isinstance(leaf, Tensor) and _memory(leaf) not in given
        ]
        self.operations.append(_Operation(func, args, kwargs or {}, fresh))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Everything once more."""
        for function, args, kwargs, fresh in self.operations:
            leaves = tree_leaves(function(*args, **kwargs))
            for index, place in fresh:
                place.copy_(leaves[index])


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def _harmless(func: Any, args: Any) -> bool:
    """An indexing by whole numbers, so that its shape is known, and not by a mask; attention without dropout."""
    if func is _ATTENTION:
        return len(args) < 4 or args[3] == 0.0
    if func is not torch.ops.aten.index.Tensor:
        return False
    return all(index is None or index.dtype not in (torch.bool, torch.uint8) for index in args[1])


_recordings = 0


def recording() -> bool:
    """Whether a function is being recorded: what goes around torch's operations has to give way, as on a GPU."""
    return _recordings > 0


def recorded(function: Callable[[], T]) -> tuple[T, Recording]:
    """Runs a function and keeps its operations; RuntimeError for what a CUDA graph could not have captured."""
    global _recordings
    made = Recording()
    _recordings += 1
    try:
        with made:
            return function(), made
    finally:
        _recordings -= 1
