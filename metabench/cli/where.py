"""Where jobs run: options that several commands have in common."""

from __future__ import annotations

from dataclasses import dataclass

from metabench.sweep.choice import EngineName, engine_of
from metabench.sweep.engine import Engine


@dataclass(frozen=True)
class Where:
    """Where the work is done, side by side; in this process where nothing is said."""

    engine: EngineName | None = None
    """Processes of this machine, a Ray cluster, or Slurm."""

    workers: int | None = None
    """Processes of this machine; as many as cores by default."""

    address: str | None = None
    """Of a running Ray cluster: HOST:PORT or auto."""

    sbatch: str = ""
    """Options for Slurm's sbatch."""

    retries: int | None = None
    """How many times a piece is tried again whose process, node or member died."""

    def made(self) -> Engine | None:
        """The engine that is asked for; None if none is.

        Raises:
            ValueError: In one sentence: it cannot work here, or an option is another engine's.
            ImportError: Its package is missing, with the command that installs it.
        """
        if self == HERE:
            return None
        return engine_of(self.engine or "local", self.workers, self.address, self.sbatch, self.retries)


HERE = Where()
