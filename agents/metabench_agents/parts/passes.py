"""PPO's passes over one iteration, whatever the network: as a loop on the CPU, or as part of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from metabench_agents.parts.device import Device, descend
from metabench_agents.parts.losses import KL_MARGIN, PPO, went_too_far


def passes(
    device: Device,
    optimiser: torch.optim.Optimizer,
    settings: PPO,
    minibatches: Iterable[Tensor],
    loss_of: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
) -> dict[str, Tensor]:
    """A gradient step on each minibatch until the KL ends them.

    Args:
        device: Whose precision the losses have.
        optimiser: Changed in place with its parameters.
        settings: PPO's.
        minibatches: Row numbers.
        loss_of: Of such rows, with metrics, `kl` among them.

    Returns:
        Means over the gradient steps; `kl_end` of the last minibatch alone, and `steps`, how many there were. A graph
        goes through the minibatches that come after an end by the KL, and takes no step on them.
    """
    sums: dict[str, Tensor] = {}
    count = last = halted = torch.zeros((), device=device.kind)
    graph = device.captures and settings.target_kl > 0.0
    for number, rows in enumerate(minibatches):
        with device.products():
            total, metrics = loss_of(rows)
        last = torch.where(halted > 0, last, metrics["kl"].detach())
        if number and graph:
            halted = torch.maximum(halted, (last > KL_MARGIN * settings.target_kl).float())
        elif number and went_too_far(last, settings):
            break
        norm = descend(total, optimiser, settings.max_grad_norm, halted if graph else None)
        count = count + (1.0 - halted)
        told = metrics if norm is None else metrics | {"grad_norm": norm}
        for name, value in told.items():
            value = value.detach() * (1.0 - halted)
            sums[name] = sums[name] + value if name in sums else value
    return {name: value / count for name, value in sums.items()} | {"kl_end": last, "steps": count}
