"""torch's Adam and AdamW, without loading torch's compiler.

`torch.optim` imports `torch._dynamo` (and with it sympy) the first time that a group of parameters is added, a step is
taken or a state is asked for, to keep these out of compiled graphs. That takes longer than importing torch itself, at
the start of every process, and nothing here compiles an optimiser: only losses are. So the functions that torch wraps
are called themselves.
"""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch
from torch.optim import Optimizer


class _Unwrapped(Optimizer):
    """An optimiser's methods as they are inside torch's wrappers."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See torch."""
        unwrap(Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """See torch."""
        unwrap(Optimizer.zero_grad)(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """See torch."""
        return unwrap(Optimizer.state_dict)(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See torch."""
        unwrap(Optimizer.load_state_dict)(self, state_dict)


class Adam(_Unwrapped, torch.optim.Adam):
    """`torch.optim.Adam`: the same numbers, the same state."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """See torch."""
        return unwrap(torch.optim.Adam.step)(self, closure)


class AdamW(_Unwrapped, torch.optim.AdamW):
    """`torch.optim.AdamW`: the same numbers, the same state."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """See torch."""
        return unwrap(torch.optim.AdamW.step)(self, closure)
