"""`metabench dataset verify`: bytes, contents, and episodes in the simulator."""

from __future__ import annotations

from pathlib import Path

from metabench.cli.arguments import Id, at_least
from metabench.cli.console import out, plain, say
from metabench.cli.dataset.known import wanted
from metabench.datasets import DatasetId
from metabench.datasets.format import read_manifest
from metabench.datasets.ids import split_folder
from metabench.datasets.verify import verify


def command(id: Id, split: str = "train", root: Path | None = None, replay: int = 0) -> None:
    """Check every byte of a split against its manifest, its contents against each other, and episodes by replay.

    Example: metabench dataset verify cheetah-vel/mixed-v0 --split test --replay 20

    Args:
        id: An id, or the folder of a split.
        split: A frozen split of the benchmark.
        root: Where datasets lie; METABENCH_DATA or the platform's cache by default.
        replay: Episodes to step again in the simulator.
    """
    at_least(0, replay=replay)
    folder = Path(id)
    if not folder.is_dir():
        folder = split_folder(DatasetId.parse(wanted(id, root)), split, root)
    faults = verify(folder, replay=replay)
    if faults:
        for fault in faults:
            out.print(f"[red]{plain(fault)}[/]")
        raise ValueError(f"{folder} is not sound: {len(faults)} fault{'s' * (len(faults) > 1)}")
    m = read_manifest(folder)
    replayed = f", {replay} episodes replayed" if replay else ""
    say(f"{plain(m.id)} ({plain(m.split)}) is sound: {len(m.files)} files, {m.episodes:,} episodes{replayed}")
