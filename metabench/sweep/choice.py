"""An engine by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from metabench.sweep.engine import Engine
from metabench.sweep.local import Local
from metabench.sweep.on_ray import Ray
from metabench.sweep.slurm import Slurm

EngineName = Literal["local", "ray", "slurm"]


def engine_of(
    name: str, workers: int | None = None, address: str | None = None, sbatch: str = "", retries: int | None = None
) -> Engine:
    """An engine by name.

    Raises:
        ValueError: In one sentence: an option that the engine does not have, or it cannot work here.
        ImportError: Its package is missing, with the command that installs it.
    """
    if address is not None and name != "ray":
        raise ValueError(f"--address is of a Ray cluster, and the engine is {name}: add --engine ray")
    if sbatch and name != "slurm":
        raise ValueError(f"--sbatch is for Slurm, and the engine is {name}: add --engine slurm")
    extra: dict[str, Any] = {} if retries is None else {"retries": retries}
    engines: dict[str, Callable[[], Engine]] = {
        "local": lambda: Local(workers, **extra),
        "ray": lambda: Ray(address, workers, **extra),
        "slurm": lambda: Slurm(sbatch, **extra),
    }
    engine = engines[name]()
    engine.check()
    return engine
