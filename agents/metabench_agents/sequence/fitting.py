"""Learning from a data set: the loop of updates with its log and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metabench_agents.parts.device import Updates
from metabench_agents.parts.run import Run, blocks, in_blocks, stream
from metabench_agents.sequence.transformer import Dropout, Words


def fit(
    run: Run,
    title: str,
    updates_of: Updates,
    draw: Callable[[torch.Generator], tuple[Any, ...]],
    *,
    updates: int,
    seed: int,
    phase: int,
    before: int,
    done: int,
    tensors: Callable[[], Mapping[str, Tensor]],
    after_block: Callable[[int], Mapping[str, float]] = lambda done: {},
    plays: bool = True,
) -> None:
    """Makes the updates of one phase of a run; each depends on parameters, moments, seed and its own number only.

    Args:
        run: Where log and checkpoints go.
        title: Of the phase, in the log and at the bar.
        updates_of: The updates of the phase.
        draw: All that the next one is given, from the stream it is given.
        updates: How many.
        seed: Of the run.
        phase: Number of the phase: its streams are its own.
        before: Blocks of the phases before; the run's checkpoints count blocks.
        done: Updates that are done already, whole blocks.
        tensors: What a checkpoint has to hold.
        after_block: Called with the updates done after each block; returns metrics, the validation loss for instance.
        plays: Whether an agent can be loaded from the phase's checkpoints.
    """

    def block(start: int, count: int) -> Mapping[str, float]:
        for number in range(start, start + count):
            updates_of.add(*draw(stream(seed, phase, number)))
        return updates_of.means() | dict(after_block(start + count))

    def save(done: int) -> None:
        run.save(before + blocks(done), tensors(), {"phase": title}, plays)

    head = {"phase": title}
    in_blocks(run, f"updates, {title}", updates=updates, done=done, block=block, save=save, head=head)


def seed_dropout(network: nn.Module, draws: torch.Generator | Tensor) -> None:
    """Every dropout layer of the network draws from a generator; or, where a graph must be able to, from a number.

    Args:
        network: Its layers are told.
        draws: A generator of the CPU, or an int64 tensor on the network's device (`dropout_key`).
    """
    words = None
    for module in network.modules():
        if isinstance(module, Dropout):
            if isinstance(draws, Tensor):
                words = words or module.words or Words()
                module.words, module.generator = words, None
            else:
                module.words, module.generator = None, draws
    if words is not None and isinstance(draws, Tensor):
        words.begin(draws)


def dropout_key(generator: torch.Generator) -> Tensor:
    """What the dropout of one update follows from, `[]` int64."""
    return torch.randint(2**62, (), generator=generator)
