"""Datasets by id: where they are, what is here, and `load_dataset`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metabench.datasets.format import MANIFEST
from metabench.datasets.ids import DatasetId, data_root, split_folder
from metabench.datasets.trials import TrialDataset


def load_dataset(
    id: str | Path, split: str = "train", *, root: Path | None = None, download: bool = True, check: bool = False
) -> TrialDataset:
    """One split of a dataset, memory-mapped; downloaded first where it is not here and a mirror has it.

    Args:
        id: For example "metabench/cheetah-vel/mixed-v0" (the namespace may be left out), that of an imported set, or
            the folder of a split.
        split: A frozen split of the benchmark: train, test, ood.
        root: Where datasets lie; the environment variable `METABENCH_DATA` or the platform's cache by default.
        download: Whether to ask the mirrors for a set that is not here.
        check: Whether to read all of it first and refuse damaged bytes and numbers that are not finite.

    Raises:
        ValueError: One sentence: no such id, no such split, a damaged folder; and where it is nowhere to be had, the
            command that makes it.
    """
    folder = Path(id)
    if isinstance(id, Path) or (folder / MANIFEST).is_file():
        return TrialDataset(folder, check=check)
    name = DatasetId.parse(str(id))
    folder = split_folder(name, split, root)
    if Path(split).name == split and (folder / MANIFEST).is_file():
        return TrialDataset(folder, check=check)
    name.benchmark.table().size(split)  # data of another origin has no benchmark: all there is of it is here
    if download:
        from metabench.datasets.download import fetch, mirrors

        if mirrors():
            fetch(name, split, root=root)
    if not (folder / MANIFEST).is_file():
        raise ValueError(
            f"{name} ({split}) is not in {root or data_root()}; "
            f"make it: metabench dataset generate {name} --split {split}"
        )
    return TrialDataset(folder, check=check)


def local_datasets(root: Path | None = None) -> Iterator[tuple[DatasetId, str, Path]]:
    """Id, split and folder of every split that is here, in order."""
    base = root or data_root()
    for path in sorted(base.glob(f"*/*/*/{MANIFEST}")):
        folder = path.parent
        if folder.name.startswith("."):
            continue
        try:
            name = DatasetId.parse(folder.parent.relative_to(base).as_posix())
        except ValueError:
            continue
        yield name, folder.name, folder
