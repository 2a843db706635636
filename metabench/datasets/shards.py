"""Groups of tasks that have been played, between the simulator and the final files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metabench.datasets.format import ADVICE, EPISODES, FINAL, STATES, STEPS, sync_folder, write_column
from metabench.datasets.record import Recording
from metabench.rng import Array

KEEP_SECONDS, KEEP_BYTES = 1.0, 1 << 28  # how long and how many played shards stay in memory alone


class Shards:
    """What has been played: on the disk, and what came since it was last written there in memory."""

    def __init__(self, work: Path, count: int):
        self.work, self.count = work, count
        self.held: dict[int, Recording] = {}
        self.written = time.monotonic()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:  # interrupted: nothing that was played is lost
            self.flush()

    def __contains__(self, number: int) -> bool:
        return number in self.held or _shard(self.work, number).exists()

    def add(self, number: int, recording: Recording) -> None:
        """Takes a shard, and writes all that are held if it is time to."""
        self.held[number] = recording
        held = sum(one.steps.nbytes + one.states.nbytes + one.advice.nbytes for one in self.held.values())
        if time.monotonic() - self.written > KEEP_SECONDS or held > KEEP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what is held."""
        for number in sorted(self.held):
            _write_shard(self.held.pop(number), _shard(self.work, number))
        self.written = time.monotonic()

    def column(self, name: str) -> Iterator[Array]:
        """One file of every shard, in order."""
        fields = {STEPS: "steps", EPISODES: "episodes", FINAL: "final", STATES: "states", ADVICE: "advice"}
        for number in range(self.count):
            if number in self.held:
                yield getattr(self.held[number], fields[name])
            else:
                yield np.load(_shard(self.work, number) / name, mmap_mode="r", allow_pickle=False)


def _write_shard(recording: Recording, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    part.mkdir()
    for name, column in ((STEPS, recording.steps), (EPISODES, recording.episodes), (FINAL, recording.final)):
        write_column(part / name, column.dtype, column.shape, [column])
    write_column(part / STATES, np.dtype("<f8"), recording.states.shape, [recording.states])
    write_column(part / ADVICE, recording.advice.dtype, recording.advice.shape, [recording.advice])
    sync_folder(part)
    part.rename(target)
    sync_folder(target.parent)


def _shard(work: Path, number: int) -> Path:
    return work / f"shard-{number:05d}"
