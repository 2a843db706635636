"""The commands of `metabench dataset` that move sets: download, publish, to-minari, from-minari."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metabench.datasets import DatasetId, load_dataset, local_datasets
from metabench.datasets.download import fetch, publish
from metabench.datasets.format import read_manifest
from metabench.datasets.ids import data_root

out, err = Console(), Console(stderr=True)
Id = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")]


@contextmanager
def bar(what: str, unit: str) -> Iterator[Any]:
    """A progress bar on standard error; yields `update(done, total)`."""
    columns = (DownloadColumn(),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    with Progress(
        TextColumn("[bold]{task.description}"), BarColumn(), *columns, TimeRemainingColumn(), console=err
    ) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


@dataclass
class Download:
    """Download one split from a mirror; a transfer that broke off goes on where it was, and every byte is checked.

    Examples:
      metabench dataset download cheetah-vel/mixed-v0 metabench dataset download cheetah-vel/mixed-v0 --split test
      --mirror hf://OWNER/NAME https://example.org/metabench
    """

    id: Id
    """For example metabench/cheetah-vel/mixed-v0."""

    split: str = "train"
    """A frozen split of the benchmark."""

    mirror: tuple[str, ...] = ()
    """Asked first, in order: https://, http://, file:// or hf://OWNER/NAME[@REVISION][/FOLDER]. Then those of the
    environment variable METABENCH_MIRRORS and of the package's index."""

    root: Path | None = None
    """Where datasets lie; METABENCH_DATA or the platform's cache by default."""

    def run(self) -> None:
        """Runs the command."""
        with bar("downloading", "bytes") as update:
            folder = fetch(self.id, self.split, root=self.root, mirror=self.mirror, progress=update)
        m = read_manifest(folder)
        out.print(f"{m.episodes:,} episodes, {size(m.bytes)}, every byte checked\nin: {folder}", highlight=False)


@dataclass
class Publish:
    """Copy splits into a static tree that any web server, bucket or hub repository can serve as a mirror.

    Example: metabench dataset publish mirror/ point-robot/mixed-v0 cheetah-vel/mixed-v0
    """

    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The tree's folder; what is in it stays."""

    ids: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[ID ...]")] = ()
    """Which sets, all their splits that are here; by default everything that is here."""

    root: Path | None = None
    """Where datasets lie; METABENCH_DATA or the platform's cache by default."""

    def run(self) -> None:
        """Runs the command."""
        here = list(local_datasets(self.root))
        wanted = [DatasetId.parse(id) for id in self.ids]
        for name in wanted:
            if name not in [id for id, _, _ in here]:
                raise ValueError(f"{name} is not in {self.root or data_root()}: metabench dataset list shows what is")
        folders = [folder for id, _, folder in here if not wanted or id in wanted]
        if not folders:
            raise ValueError(f"there is nothing to publish in {self.root or data_root()}")
        index = publish(folders, self.target)
        total = sum(entry.bytes for entry in index.splits.values())
        out.print(
            f"{self.target}: {len(index.splits)} splits, {size(total)}. Upload the folder as it is.", highlight=False
        )


@dataclass
class ToMinari:
    """Export a split as a Minari dataset (HDF5), without loss: minari.load_dataset reads it.

    Example: metabench dataset to-minari point-robot/mixed-v0 --split test
    """

    id: Id
    """An id, or the folder of a split."""

    split: str = "train"
    """A frozen split of the benchmark."""

    root: Path | None = None
    """Where datasets lie; METABENCH_DATA or the platform's cache by default."""

    minari_root: Path | None = None
    """Minari's folder; MINARI_DATASETS_PATH or ~/.minari/datasets by default."""

    name: str | None = None
    """The Minari id; metabench/FAMILY/QUALITY-SPLIT-vN by default."""

    def run(self) -> None:
        """Runs the command."""
        from metabench.datasets.minari import to_minari

        folder = load_dataset(self.id, self.split, root=self.root, download=False).folder
        name = to_minari(folder, self.minari_root, self.name)
        out.print(f'written: minari.load_dataset("{name}")', highlight=False, markup=False)


@dataclass
class FromMinari:
    """Import a Minari dataset that is on this machine, without loss; what to-minari wrote becomes the same bytes again.

    Example: metabench dataset from-minari D4RL/pen/human-v2 pen/human-v2
    """

    minari_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MINARI-ID")]
    """The Minari id; `minari list local` shows what is here."""

    id: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[ID]")] = None
    """The id it gets; needed for datasets of another origin, and another name for one that to-minari wrote."""

    split: str | None = None
    """The split it becomes, for datasets of another origin: train by default."""

    root: Path | None = None
    """Where datasets lie; METABENCH_DATA or the platform's cache by default."""

    minari_root: Path | None = None
    """Minari's folder; MINARI_DATASETS_PATH or ~/.minari/datasets by default."""

    def run(self) -> None:
        """Runs the command."""
        from metabench.datasets.minari import from_minari

        folder = from_minari(self.minari_id, self.id, split=self.split, root=self.root, minari_root=self.minari_root)
        m = read_manifest(folder)
        out.print(f"{m.id} ({m.split}): {m.episodes:,} episodes\nwritten: {folder}", highlight=False)
