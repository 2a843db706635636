"""The updates of an agent that learns from histories: Adam with clipping, continued to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metabench_agents.parts.device import Device, descend, set_rate
from metabench_agents.parts.run import Checkpoint, Run, pack, unpack, updates_done
from metabench_agents.sequence.fitting import fit
from metabench_agents.sequence.incontext.context import ContextFitting

__all__ = ["fit_network"]


def fit_network(
    name: str,
    network: nn.Module,
    loss: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    draw: Callable[[torch.Generator], Any],
    settings: ContextFitting,
    device: Device,
    *,
    seed: int,
    run: Run,
    saved: Checkpoint | None,
) -> None:
    """Trains a network in place, from what is saved on; at the end it is on the CPU.

    Args:
        name: Of the network's tensors in checkpoints.
        network: That learns.
        loss: Of the network and what was drawn, and what is told of it.
        draw: What an update learns from.
        settings: Updates, rates and clipping.
        device: Where it is trained.
        seed: Of the draws.
        run: That is written.
        saved: Its checkpoint, if there is one.
    """
    device.place(network)
    optimiser = device.adam(network.parameters(), settings.learning_rate, decay=settings.weight_decay)
    number = 0
    if saved:
        number = updates_done(saved.iteration, 0, settings.updates)
        unpack(saved.tensors, {name: network}, {"adam": optimiser})
    done, loss_of = number, device.compiled(loss)

    def given(generator: torch.Generator) -> tuple[Any, float]:
        nonlocal number
        number += 1
        return draw(generator), settings.rate(number - 1)

    def update(drawn: Any, rate: Tensor | float) -> dict[str, Tensor]:
        set_rate(optimiser, rate)
        with device.products():
            total, metrics = loss_of(network, drawn)
        descend(total, optimiser, settings.max_grad_norm)
        return metrics

    fit(
        run,
        "policy",
        device.updates(update),
        given,
        updates=settings.updates,
        seed=seed,
        phase=0,
        before=0,
        done=done,
        tensors=lambda: pack({name: network}, {"adam": optimiser}),
    )
    network.to("cpu")
