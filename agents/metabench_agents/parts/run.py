"""Runs whose checkpoints are tensors, and survive a kill. Knows nothing of any algorithm."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from metabench import runs
from metabench.runs import CHECKPOINT, POLICY, read_record

BLOCK = 100  # updates between two rows of the log, where a run is counted in updates
SAVE_SECONDS = 60.0  # a checkpoint of such a run at least this often; when it is written changes nothing


class Checkpoint(NamedTuple):
    """A point from which a run continues to the same bits."""

    iteration: int  # how many are done
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # JSON


class Run(runs.Run):
    """A run whose checkpoints are tensors in a safetensors file; see `metabench.runs.Run` for the rest.

    Args:
        folder: Where everything goes. A folder that holds the same run is continued.
        threads: Threads of torch; one is the fastest for small networks on a shared machine.
        show: Whether to draw a progress bar.
        checkpoint_every: Iterations between checkpoints.
        keep_every: Iterations between checkpoints that are all kept; `metabench.runs.Run` has more. An iteration of an
            agent that learns from data is `BLOCK` updates.
    """

    def __init__(
        self, folder: Path, *, threads: int = 1, show: bool = True, checkpoint_every: int = 50, keep_every: int = 0
    ):
        super().__init__(folder, show=show, checkpoint_every=checkpoint_every, keep_every=keep_every)
        torch.set_num_threads(threads)

    def begin(self, agent: str, benchmark: str, config: Any, seed: int) -> Checkpoint | None:
        """Opens the folder; the checkpoint to continue from, if there is one.

        Raises:
            ValueError: If the folder holds a run with other settings, or another process writes there: nothing is
                overwritten.
        """
        self._open(agent, benchmark, config, seed)
        checkpoint = load_checkpoint(self.folder) if (self.folder / CHECKPOINT).exists() else None
        self._cut_metrics(checkpoint.state["metrics_bytes"] if checkpoint else 0)
        return checkpoint

    def save(self, iteration: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], plays: bool = True) -> None:
        """Replaces the checkpoint: at every moment the folder holds the old one or the new one, whole.

        Args:
            iteration: How many are done.
            tensors: What it takes to continue.
            state: Likewise, JSON.
            plays: Whether an agent can be loaded from it already.

        Raises:
            Stopped: The run was asked to stop; the checkpoint is written.
        """
        record = {"iteration": iteration, **state, "metrics_bytes": self._sync_metrics()}
        temporary = self.folder / f".{CHECKPOINT}.part"
        own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        save_file(own, temporary, metadata={"state": json.dumps(record)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.folder / CHECKPOINT)
        if plays:
            self._keep(iteration)
        self._stop_if_asked(iteration)


def in_blocks(
    run: Run,
    title: str,
    *,
    updates: int,
    done: int,
    block: Callable[[int, int], Mapping[str, float]],
    save: Callable[[int], None],
    head: Mapping[str, Any] | None = None,
) -> None:
    """Makes a run's updates in blocks: a row of the log after each, a checkpoint now and then and at the end.

    Args:
        run: Where the log goes; who asks it to stop is heard after a block.
        title: At the bar.
        updates: How many.
        done: Those that are done already, whole blocks.
        block: Makes so many updates after so many; the means of their metrics, a loss first.
        save: Writes a checkpoint after so many updates.
        head: What the log's rows begin with.
    """
    last = time.monotonic()
    with run.progress(updates, done, title) as advance:
        while done < updates:
            start, count = time.perf_counter(), min(BLOCK, updates - done)
            means = block(done, count)
            done += count
            rate = count / (time.perf_counter() - start)
            run.log({**(head or {}), "update": done, **means, "time/updates_per_s": rate})
            advance(done, f"loss {next(iter(means.values())):8.5f}   {rate:6.1f} updates/s")
            due = blocks(done) % run.keep_every == 0 if run.keep_every else time.monotonic() - last > SAVE_SECONDS
            if due or done == updates or run.stop_requested:
                save(done)
                last = time.monotonic()


def blocks(updates: int) -> int:
    """How many blocks so many updates are."""
    return -(-updates // BLOCK)


def updates_done(iteration: int, before: int, updates: int) -> int:
    """How many of a phase's updates are done in a checkpoint that counts `iteration` blocks."""
    return max(0, min(updates, (iteration - before) * BLOCK))


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, or the tensors of a published policy; ValueError if there is neither."""
    path = folder / CHECKPOINT
    path = path if path.is_file() else folder / POLICY
    if not path.is_file():
        raise ValueError(f"there is no trained agent in {folder}: it has no {CHECKPOINT}")
    try:
        with safe_open(str(path), framework="pt") as file:  # pyright: ignore[reportPrivateImportUsage]
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        return Checkpoint(state["iteration"], tensors, state)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no checkpoint of a run: {type(error).__name__}: {error}") from None


def load_config(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`: agent, benchmark, seed, protocol, config; ValueError if there are none."""
    return read_record(folder).model_dump(mode="json")


def pack(modules: Mapping[str, nn.Module], optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The tensors of networks and optimisers under names like `network/core.weight` and `adam/3/exp_avg`."""
    tensors = {f"{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for name, optimiser in optimisers.items():
        for index, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": value for key, value in moments.items()}
    return tensors


def unpack(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Puts what `pack` made back where it came from."""
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        module.load_state_dict(own)
    for name, optimiser in optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith(f"{name}/"):
                index, moment = key.removeprefix(f"{name}/").split("/")
                state.setdefault(int(index), {})[moment] = tensor
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def named(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of parts under names like `part/name`."""
    return {f"{part}/{name}": tensor for part, own in parts.items() for name, tensor in own.items()}


def by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `named`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    return parts


def stream(*key: int) -> torch.Generator:
    """A torch generator whose seed is a hash of the key, (seed, iteration, purpose) for instance."""
    word = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))
