"""The folder of a training run: config, metrics, checkpoints that survive a kill. Knows nothing of any algorithm."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from metabench.evaluation.results import PROTOCOL_VERSION, write_atomically

CONFIG, METRICS, CHECKPOINT = "config.json", "metrics.jsonl", "checkpoint.safetensors"


class Checkpoint(NamedTuple):
    """A point from which a run continues to the same bits."""

    iteration: int  # how many are done
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # JSON


class Run:
    """One training run and its files.

    Args:
        folder: Where everything goes. A folder that holds the same run is continued.
        threads: Threads of torch; one is the fastest for small networks on a shared machine.
        show: Whether to draw a progress bar.
        checkpoint_every: Iterations between checkpoints.
    """

    def __init__(self, folder: Path, *, threads: int = 1, show: bool = True, checkpoint_every: int = 50):
        self.folder, self.show, self.checkpoint_every = folder, show, checkpoint_every
        torch.set_num_threads(threads)
        self._progress: Progress | None = None

    def begin(self, agent: str, benchmark: str, config: Any, seed: int) -> Checkpoint | None:
        """Opens the folder; the checkpoint to continue from, if there is one.

        Raises:
            ValueError: If the folder holds a run with other settings: nothing is overwritten.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {"agent": agent, "benchmark": benchmark, "seed": seed, "protocol": PROTOCOL_VERSION}
        record |= {"config": asdict(config)}
        path = self.folder / CONFIG
        if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(record)):
            raise ValueError(f"{self.folder} holds another run; choose another folder or remove it (settings: {path})")
        write_atomically(path, json.dumps(record, indent=2).encode())
        checkpoint = load_checkpoint(self.folder) if (self.folder / CHECKPOINT).exists() else None
        size = checkpoint.state["metrics_bytes"] if checkpoint else 0
        with (self.folder / METRICS).open("ab") as metrics:  # rows after the checkpoint will be written again
            metrics.truncate(size)
        return checkpoint

    def log(self, row: Mapping[str, Any]) -> None:
        """Appends one line to metrics.jsonl. Keys that begin with `time/` may differ between two equal runs."""
        with (self.folder / METRICS).open("a") as metrics:
            metrics.write(json.dumps(row) + "\n")

    def save(self, iteration: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replaces the checkpoint: at every moment the folder holds the old one or the new one, whole."""
        metrics = self.folder / METRICS
        with metrics.open("ab") as file:
            os.fsync(file.fileno())
        record = {"iteration": iteration, **state, "metrics_bytes": metrics.stat().st_size}
        temporary = self.folder / f".{CHECKPOINT}.part"
        own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        save_file(own, temporary, metadata={"state": json.dumps(record)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.folder / CHECKPOINT)

    @contextlib.contextmanager
    def progress(self, total: int, done: int, unit: str) -> Iterator[Any]:
        """A bar over `total` iterations; yields `update(done, text)`."""
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        bar = Progress(
            *columns,
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
            disable=not self.show,
        )
        with bar:
            task = bar.add_task("training", total=total, completed=done, text="")
            yield lambda completed, text: bar.update(task, completed=completed, text=text)


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`; ValueError if there is none."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise ValueError(f"there is no trained agent in {folder}: it has no {CHECKPOINT}")
    with safe_open(str(path), framework="pt") as file:  # pyright: ignore[reportPrivateImportUsage]
        state = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    return Checkpoint(state["iteration"], tensors, state)


def load_config(folder: Path) -> dict[str, Any]:
    """The settings of the run in `folder`: agent, benchmark, seed, protocol, config; ValueError if there are none."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"there is no run in {folder}: it has no {CONFIG}")
    return {"protocol": "slots-1"} | json.loads(path.read_text())  # the first runs did not say it


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


def stream(*key: int) -> torch.Generator:
    """A torch generator whose seed is a hash of the key, (seed, iteration, purpose) for instance."""
    word = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))
