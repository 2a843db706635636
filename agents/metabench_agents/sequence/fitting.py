"""Learning from a data set: the loop of updates with its log and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from metabench_agents.parts.run import Run, stream
from metabench_agents.sequence.transformer import Dropout

BLOCK = 100  # updates between two rows of the log
SAVE_SECONDS = 60.0  # a checkpoint at least this often; when it is written does not change what is learned


def fit(
    run: Run,
    title: str,
    update: Callable[[torch.Generator], Mapping[str, Tensor]],
    *,
    updates: int,
    seed: int,
    phase: int,
    before: int,
    done: int,
    tensors: Callable[[], Mapping[str, Tensor]],
    after_block: Callable[[int], Mapping[str, float]] = lambda done: {},
) -> None:
    """Makes the updates of one phase of a run; each depends on parameters, moments, seed and its own number only.

    Args:
        run: Where log and checkpoints go.
        title: Of the phase, in the log and at the bar.
        update: Makes one update with the stream it is given, and returns metrics.
        updates: How many.
        seed: Of the run.
        phase: Number of the phase: its streams are its own.
        before: Blocks of the phases before; the run's checkpoints count blocks.
        done: Updates that are done already, whole blocks.
        tensors: What a checkpoint has to hold.
        after_block: Called with the updates done after each block; returns metrics, the validation loss for instance.
    """
    saved = time.monotonic()
    with run.progress(updates, done, f"updates, {title}") as advance:
        while done < updates:
            start, sums, count = time.perf_counter(), {}, min(BLOCK, updates - done)
            for number in range(done, done + count):
                for name, value in update(stream(seed, phase, number)).items():
                    sums[name] = sums.get(name, 0.0) + value.detach()
            done += count
            means = {name: float(value) / count for name, value in sums.items()}
            rate = count / (time.perf_counter() - start)
            row = {"phase": title, "update": done} | means | dict(after_block(done)) | {"time/updates_per_s": rate}
            run.log(row)
            advance(done, f"loss {next(iter(means.values())):8.5f}   {rate:6.1f} updates/s")
            if done == updates or run.stop_requested or time.monotonic() - saved > SAVE_SECONDS:
                run.save(before + blocks(done), tensors(), {"phase": title})
                saved = time.monotonic()


def blocks(updates: int) -> int:
    """How many blocks so many updates are."""
    return -(-updates // BLOCK)


def updates_done(iteration: int, before: int, updates: int) -> int:
    """How many of a phase's updates are done in a checkpoint that counts `iteration` blocks."""
    return max(0, min(updates, (iteration - before) * BLOCK))


def seed_dropout(network: nn.Module, generator: torch.Generator) -> None:
    """Every dropout layer of the network draws from `generator`, or from one on its device that it seeds."""
    device = next(network.parameters()).device
    if device.type != "cpu":
        seed = int(torch.randint(2**62, (1,), generator=generator))
        generator = torch.Generator(device).manual_seed(seed)
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = generator
