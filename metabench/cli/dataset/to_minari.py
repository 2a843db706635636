"""`metabench dataset to-minari`: a split as a Minari dataset."""

from __future__ import annotations

from pathlib import Path

from metabench.cli.arguments import Id
from metabench.cli.console import plain, say
from metabench.cli.dataset.known import here
from metabench.datasets import load_dataset


def command(
    id: Id, split: str = "train", root: Path | None = None, minari_root: Path | None = None, name: str | None = None
) -> None:
    """Export a split as a Minari dataset (HDF5), without loss: minari.load_dataset reads it.

    Example: metabench dataset to-minari point-robot/mixed-v0 --split test

    Args:
        id: An id, or the folder of a split.
        split: A frozen split of the benchmark.
        root: Where datasets lie; METABENCH_DATA or the platform's cache by default.
        minari_root: Minari's folder; MINARI_DATASETS_PATH or ~/.minari/datasets by default.
        name: The Minari id; metabench/FAMILY/QUALITY-SPLIT-vN by default.
    """
    from metabench.datasets.minari import to_minari

    folder = load_dataset(here(id, split, root), split, root=root, download=False).folder
    say(f'written: minari.load_dataset("{plain(to_minari(folder, minari_root, name))}")')
