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

__all__ = ["ContextTrainer", "fit_network"]

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


class ContextTrainer:
    """A network and its optimiser on a device, and the updates that they learn by.

    Args:
        network: That learns, in place; on the CPU again only when its owner puts it there.
        loss: Of the network and what was drawn, and what is told of it.
        draw: What an update learns from.
        settings: Updates, rates and clipping.
        device: Where it is trained.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        draw: Callable[[torch.Generator], Any],
        settings: ContextFitting,
        device: Device,
    ):
        self.network, self.draw, self.settings, self.device = device.place(network), draw, settings, device
        self.optimiser = device.adam(network.parameters(), settings.learning_rate, decay=settings.weight_decay)
        self.loss, self.updates, self.number = device.compiled(loss), device.updates(self.step), 0

    def given(self, generator: torch.Generator) -> tuple[Any, float]:
        """What the next update takes."""
        self.number += 1
        return self.draw(generator), self.settings.rate(self.number - 1)

    def step(self, drawn: Any, rate: Tensor | float) -> dict[str, Tensor]:
        """One update as a pure function."""
        set_rate(self.optimiser, rate)
        with self.device.products():
            total, metrics = self.loss(self.network, drawn)
        descend(total, self.optimiser, self.settings.max_grad_norm)
        return metrics


def fit_network(
    name: str,
    network: nn.Module,
    loss: Loss,
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
    trainer, done = ContextTrainer(network, loss, draw, settings, device), 0
    if saved:
        done = trainer.number = updates_done(saved.iteration, 0, settings.updates)
        unpack(saved.tensors, {name: network}, {"adam": trainer.optimiser})
    fit(
        run,
        "policy",
        trainer.updates,
        trainer.given,
        updates=settings.updates,
        seed=seed,
        phase=0,
        before=0,
        done=done,
        tensors=lambda: pack({name: network}, {"adam": trainer.optimiser}),
    )
    network.to("cpu")
