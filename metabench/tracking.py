"""What training logs, shown elsewhere as well: TensorBoard or Weights & Biases. metrics.jsonl stays what counts."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from metabench.extras import missing

Kind = Literal["none", "tensorboard", "wandb"]
Follower: TypeAlias = Callable[[Mapping[str, Any]], None]
_NEEDS = {"tensorboard": "tensorboard", "wandb": "wandb"}


@contextlib.contextmanager
def tracker(kind: Kind, folder: Path, config: Mapping[str, Any]) -> Iterator[Follower | None]:
    """What is to be called with every row of metrics.jsonl as it is written; None for `none`.

    TensorBoard's files go to the run's folder (`tensorboard --logdir runs`), Weights & Biases' to the project
    `metabench` of the account that is logged in (`WANDB_PROJECT` and `WANDB_MODE` are heard). The rows' numbers stand
    over the environment steps so far, where a row says them.

    Args:
        kind: Where to.
        folder: The run's.
        config: The run's settings, shown beside it.

    Raises:
        ImportError: The package is not installed; the sentence says how to.
    """
    if kind == "none":
        yield None
        return
    try:
        importlib.import_module(_NEEDS[kind])
    except ModuleNotFoundError as error:
        raise missing(f"--track {kind}", error.name, kind) from error
    with _TRACKERS[kind](folder, config) as follow:
        yield follow


@contextlib.contextmanager
def _tensorboard(folder: Path, config: Mapping[str, Any]) -> Iterator[Follower]:
    torch_part: Any = importlib.import_module("torch.utils.tensorboard")
    writer = torch_part.SummaryWriter(str(folder / "tensorboard"))
    writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in config.items()))

    def follow(row: Mapping[str, Any]) -> None:
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, _place(row))

    try:
        yield follow
    finally:
        writer.close()


@contextlib.contextmanager
def _wandb(folder: Path, config: Mapping[str, Any]) -> Iterator[Follower]:
    wandb: Any = importlib.import_module("wandb")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "metabench"), name=folder.name, dir=str(folder), config=dict(config)
    )

    def follow(row: Mapping[str, Any]) -> None:
        run.log(_numbers(row), step=_place(row))

    try:
        yield follow
    finally:
        run.finish()


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}


def _place(row: Mapping[str, Any]) -> int:
    return int(row.get("frames", row.get("iteration", row.get("updates", 0))))


_TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {"tensorboard": _tensorboard, "wandb": _wandb}
