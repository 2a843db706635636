"""Datasets by id: where they are, what is here, and `load_dataset`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from metabench.datasets.format import MANIFEST, family_row_type
from metabench.datasets.ids import DatasetId, data_root, split_folder
from metabench.datasets.recipe import standard_episodes
from metabench.datasets.trials import TrialDataset

SECONDS: dict[str, float] = json.loads((Path(__file__).parent / "seconds.json").read_text())  # of one core, measured


def load_dataset(
    id: str | Path,
    split: str = "train",
    *,
    root: Path | None = None,
    download: bool = True,
    check: bool = False,
    missing: Literal["error", "generate"] = "error",
) -> TrialDataset:
    """One split of a dataset, memory-mapped; downloaded first where it is not here and the package or a mirror has it.

    Args:
        id: For example "metabench/cheetah-vel/mixed-v0" (the namespace may be left out), that of an imported set, or
            the folder of a split.
        split: A frozen split of the benchmark: train, test, ood.
        root: Where datasets lie; the environment variable `METABENCH_DATA` or the platform's cache by default.
        download: Whether to ask the mirrors for a set that is not here.
        check: Whether to read all of it first and refuse damaged bytes and numbers that are not finite.
        missing: What to do where it is not here and no mirror gives it: an error with the command that makes it, or
            make it, 100 episodes of each task (2,000 learners of a `history`) from seed 0, the same bytes everywhere.

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
        from metabench.datasets.download import fetch, mirrors, shipped

        if mirrors() or shipped(name, split):
            try:
                fetch(name, split, root=root)
            except ValueError:
                if missing != "generate":
                    raise
    if not (folder / MANIFEST).is_file():
        if missing == "generate":
            from metabench.datasets.generation import generate

            return TrialDataset(generate(name, split, root=root))
        raise ValueError(
            f"{name} ({split}) is not in {root or data_root()}; make it: metabench dataset generate {name} "
            f'--split {split}{cost(name, split)}, or load_dataset(..., missing="generate")'
        )
    return TrialDataset(folder, check=check)


def cost(id: DatasetId, split: str) -> str:
    """What making a split takes, in words: its bytes, and its seconds where the simulator's speed was measured."""
    chosen = id.benchmark
    episodes = chosen.table().size(split) * standard_episodes(id, split)
    size = episodes * chosen.horizon * family_row_type(chosen.family()).itemsize
    shown = f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
    seconds = SECONDS.get(f"{id.path}/{split}")
    told = "" if seconds is None else f", about {max(1, round(seconds))} s"
    return f" ({shown}{told})"


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
