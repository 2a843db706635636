"""Functions as CUDA graphs: the whole of an update, or of a step of acting, is launched at once.

A network of a few hundred columns leaves a GPU waiting for Python most of the time. `captured` takes a pure function of
tensors (it may change parameters and moments in place) and from the third call on replays its kernels as one graph.
What changes from call to call must be an argument: tensors and floats, in tuples, dictionaries and dataclasses.
Anything else in an argument is a constant, and another constant or another shape makes another graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from metabench_agents.parts.fast.recording import recorded

WARM_UP = 2  # calls that run as they are: optimisers make their moments, libraries their workspaces
MOST_GRAPHS = 16  # of one function; further shapes run as they are


class Replayed(Protocol):
    """What a capture gives."""

    def replay(self) -> None:
        """Runs it again, on the same memory."""
        ...


def taken_apart(tree: Any, leaves: list[Any]) -> Any:
    """Puts the tensors and floats of `tree` in order into `leaves`; what is left of it, which can be compared."""
    if isinstance(tree, Tensor):
        leaves.append(tree)
        return (Tensor, tree.dtype, tuple(tree.shape))
    if isinstance(tree, float):
        leaves.append(tree)
        return float
    if isinstance(tree, Mapping):
        return (type(tree), tuple((name, taken_apart(part, leaves)) for name, part in tree.items()))
    if isinstance(tree, list | tuple):
        return (type(tree), tuple(taken_apart(part, leaves) for part in tree))
    if is_dataclass(tree) and not isinstance(tree, type):
        return (type(tree), tuple((f.name, taken_apart(getattr(tree, f.name), leaves)) for f in fields(tree)))
    return ("constant", tree)


def put_together(tree: Any, leaves: Iterator[Any]) -> Any:
    """`tree` with other leaves in the places of its tensors and floats."""
    if isinstance(tree, Tensor | float):
        return next(leaves)
    if isinstance(tree, Mapping):
        return {name: put_together(part, leaves) for name, part in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [put_together(part, leaves) for part in tree]
        made: Any = type(tree)
        return made(*parts) if hasattr(tree, "_fields") else made(parts)
    if is_dataclass(tree) and not isinstance(tree, type):
        kind: Any = type(tree)
        return kind(**{f.name: put_together(getattr(tree, f.name), leaves) for f in fields(tree)})
    return tree


def mapped(function: Callable[[Any], Any], *trees: Any) -> Any:
    """The first tree with each leaf replaced by what the function makes of the trees' leaves there."""
    columns: list[list[Any]] = [[] for _ in trees]
    for tree, leaves in zip(trees, columns, strict=True):
        taken_apart(tree, leaves)
    return put_together(trees[0], iter([function(*leaves) for leaves in zip(*columns, strict=True)]))


class _Staging:
    """The memory of one input: on the device, and two pinned copies on the host that are filled by turns."""

    def __init__(self, like: Tensor, device: torch.device):
        self.inside = torch.empty_like(like, device=device, memory_format=torch.contiguous_format)
        self.pinned: list[Tensor] = []
        self.copied: list[Any] = []
        self.turn = 0

    def fill(self, value: Tensor | float) -> None:
        """Takes in a value; the host goes on while it is copied."""
        if not isinstance(value, Tensor):
            self.inside.fill_(value)
        elif not self.inside.is_cuda or value.is_cuda:
            self.inside.copy_(value)
        else:
            self._over(value)

    def _over(self, value: Tensor) -> None:
        if not self.pinned:
            self.pinned = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for _ in range(2)]
            self.copied = [torch.cuda.Event() for _ in range(2)]
        self.turn = 1 - self.turn
        self.copied[self.turn].synchronize()  # of the copy before the last one: long done
        self.pinned[self.turn].copy_(value)
        self.inside.copy_(self.pinned[self.turn], non_blocking=True)
        self.copied[self.turn].record()


class _Shape(NamedTuple):
    """One graph: where its inputs are, what it gives."""

    inputs: list[_Staging]
    output: Any
    graph: Replayed


class Captured:
    """A function whose calls are replays.

    Args:
        function: Of tensors and floats, to a tree of tensors. Floats reach it as tensors on the device.
        device: Where its state is. On a CPU the graph is a `Recording`, for rehearsals.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device):
        self.function, self.device = function, device
        self.calls: dict[Any, int] = {}
        self.graphs: dict[Any, _Shape] = {}

    def __call__(self, *args: Any) -> Any:
        """What the function gives, in tensors of the caller's own."""
        leaves: list[Any] = []
        key = taken_apart(args, leaves)
        if key not in self.graphs:
            self.calls[key] = self.calls.get(key, 0) + 1
            if self.calls[key] <= WARM_UP or len(self.graphs) == MOST_GRAPHS:
                return self._plainly(args)
            self.graphs[key] = self._capture(args, leaves)
        shape = self.graphs[key]
        for place, leaf in zip(shape.inputs, leaves, strict=True):
            place.fill(leaf)
        shape.graph.replay()
        return mapped(torch.clone, shape.output)

    def _plainly(self, args: tuple[Any, ...]) -> Any:
        """Before there is a graph: the function itself, beside the main stream as captures ask for."""
        inside = mapped(lambda leaf: moved(leaf, self.device), args)
        if self.device.type != "cuda":
            return self.function(*inside)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            out = self.function(*inside)
        torch.cuda.current_stream().wait_stream(aside)
        return mapped(torch.clone, out)

    def _capture(self, args: tuple[Any, ...], leaves: list[Any]) -> _Shape:
        likes = [leaf if isinstance(leaf, Tensor) else torch.zeros(()) for leaf in leaves]
        inputs = [_Staging(like, self.device) for like in likes]
        for place, leaf in zip(inputs, leaves, strict=True):
            place.fill(leaf)
        inside = put_together(args, iter([place.inside for place in inputs]))
        if self.device.type != "cuda":
            return self._rehearsed(inputs, inside)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.function(*inside)
        return _Shape(inputs, mapped(torch.detach, out), graph)

    def _rehearsed(self, inputs: list[_Staging], inside: Any) -> _Shape:
        """A recording runs what it records, a capture does not: the first replay has to do nothing more."""
        out, graph = recorded(lambda: self.function(*inside))
        return _Shape(inputs, mapped(torch.detach, out), _AlreadyRun(graph))


class _AlreadyRun:
    """A recording whose first replay has taken place."""

    def __init__(self, graph: Replayed):
        self.recording, self.fresh = graph, True

    def replay(self) -> None:
        """Nothing the first time."""
        if not self.fresh:
            self.recording.replay()
        self.fresh = False


def moved(leaf: Tensor | float, device: torch.device) -> Tensor:
    """A tensor, or a number as one, on a device."""
    if not isinstance(leaf, Tensor):
        return torch.full((), leaf, device=device)
    if leaf.device.type == device.type:
        return leaf
    if device.type == "cuda":
        return leaf.pin_memory().to(device, non_blocking=True)
    return leaf.to(device)
