"""The bridge to Minari: splits become Minari datasets (HDF5) that `minari.load_dataset` reads, and the other way round.

Nothing is lost either way. What Minari has no place for, the manifest and each episode's row, travels in its
metadata; what a Minari dataset has beside the steps, its metadata, seeds, options and infos, travels in the manifest
and in files of its own. Minari 0.5.4 is an interchange format: it has no checksums and reads single episodes, so sets
are used here, not there.

Refused, with the reason: observations that are no flat Box, actions that are neither Box nor Discrete, infos that are
not numbers of one shape in every step, and whatever else `metabench dataset verify` would reject afterwards.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metabench.datasets.format import MANIFEST, Manifest, read_manifest, sync_folder
from metabench.datasets.ids import DatasetId, data_root, split_folder
from metabench.datasets.minari_export import KEY, export
from metabench.datasets.minari_import import import_foreign, restore
from metabench.datasets.trials import TrialDataset
from metabench.datasets.verify import verify
from metabench.evaluation.results import write_atomically
from metabench.registry import NAMESPACE

ROOT_VARIABLE = "MINARI_DATASETS_PATH"


def minari_id(manifest: Manifest) -> str:
    """`metabench/cheetah-vel/mixed-train-v0`: Minari knows no splits, so the split is part of the name."""
    name = DatasetId.parse(manifest.id)
    return f"{NAMESPACE}{name.family}/{name.quality}-{manifest.split}-v{name.version}"


def to_minari(folder: Path, root: Path | None = None, name: str | None = None) -> str:
    """Writes the split in `folder` as a Minari dataset and returns its Minari id.

    Args:
        folder: The split's folder; verified first.
        root: Minari's folder; `MINARI_DATASETS_PATH` or ~/.minari/datasets by default.
        name: The Minari id; by default that of `minari_id`, or the one that the set came from.

    Raises:
        ValueError: One sentence: the set is not sound, or Minari has another under this id.
    """
    minari = _minari()
    if faults := verify(folder):
        raise ValueError(f"{folder} is not sound: {faults[0]}")
    data = TrialDataset(folder)
    foreign = json.loads(data.manifest.extra.get("minari", "{}"))
    id = name or foreign.get("dataset_id") or minari_id(data.manifest)
    final = _minari_root(root)
    if (final / id).exists():
        raise ValueError(f"Minari has {id} already, in {final}; remove it or choose another name")
    work = final / f".metabench-{os.getpid()}"
    try:
        with _minari_folder(work):
            export(minari, data, id, foreign)
        _show(work, final, id)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return id


def from_minari(
    id: str,
    name: str | None = None,
    *,
    split: str | None = None,
    root: Path | None = None,
    minari_root: Path | None = None,
) -> Path:
    """Reads a Minari dataset that is on this machine into the folder of a split, and returns it.

    One that `to_minari` wrote becomes again what it was, byte for byte, unless it is given another name.

    Args:
        id: The Minari id.
        name: The id it gets here; needed for datasets of another origin.
        split: The split it becomes, for datasets of another origin: "train" by default.
        root: Where datasets lie; `METABENCH_DATA` or the platform's cache by default.
        minari_root: Minari's folder; `MINARI_DATASETS_PATH` or ~/.minari/datasets by default.

    Raises:
        ValueError: One sentence: Minari has no such dataset, its content has no place here, or the folder is taken.
    """
    minari = _minari()
    with _minari_folder(_minari_root(minari_root)):
        try:
            source = minari.load_dataset(id)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"Minari cannot load {id!r} from {_minari_root(minari_root)}: {error}") from None
        own = source.storage.metadata.get(KEY)
        manifest = Manifest.from_bytes(own.encode()) if own else None
        if manifest is None and name is None:
            raise ValueError(f"{id} was not made here: give it an id, for example {NAMESPACE}my-task/human-v0")
        if manifest and split not in (None, manifest.split):
            raise ValueError(f"{id} holds the split {manifest.split} of {manifest.benchmark}: it cannot become {split}")
        parsed = DatasetId.parse(name or manifest.id) if manifest else DatasetId.parse(str(name))
        split = manifest.split if manifest else split or "train"
        if Path(split).name != split or split.startswith("."):
            raise ValueError(f"{split!r} is no name of a split: it becomes the name of a folder")
        target = split_folder(parsed, split, root or data_root())
        if target.exists():
            raise ValueError(f"{target} exists already; remove it or choose another id")
        part = target.with_name(f".{target.name}.importing-{os.getpid()}")
        part.mkdir(parents=True)
        try:
            if manifest:
                restore(source, manifest, part)
                write_atomically(part / MANIFEST, renamed(manifest, parsed).to_bytes())
            else:
                import_foreign(source, parsed, split, part)
            if faults := verify(part):
                raise ValueError(f"{id} does not fit the format: {faults[0]}")
            sync_folder(part)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    sync_folder(target.parent)
    return target


def renamed(manifest: Manifest, id: DatasetId) -> Manifest:
    """The manifest of the same data under another id."""
    if manifest.id == str(id):
        return manifest
    return manifest.model_copy(update={"id": str(id), "quality": id.quality})


def _minari() -> Any:
    try:
        import h5py  # noqa: F401  Minari imports without it and fails later
        import minari
    except ModuleNotFoundError as error:
        raise ImportError(f"the bridge needs {error.name}: pip install 'metabench[datasets]'") from error
    return minari


def _minari_root(root: Path | None) -> Path:
    if root is not None:
        return root
    return Path(os.environ.get(ROOT_VARIABLE) or Path.home() / ".minari" / "datasets")


@contextmanager
def _minari_folder(root: Path) -> Iterator[None]:
    """Minari takes its folder from the environment, and only from there."""
    before = os.environ.get(ROOT_VARIABLE)
    root.mkdir(parents=True, exist_ok=True)
    os.environ[ROOT_VARIABLE] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ[ROOT_VARIABLE]
        else:
            os.environ[ROOT_VARIABLE] = before


def _show(work: Path, final: Path, id: str) -> None:
    """Moves a whole dataset and the namespaces it lies in to where Minari looks."""
    *parents, _ = id.split("/")
    for depth in range(1, len(parents) + 1):
        namespace = final.joinpath(*parents[:depth])
        namespace.mkdir(parents=True, exist_ok=True)
        for metadata in work.joinpath(*parents[:depth]).glob("*.json"):
            if not (namespace / metadata.name).exists():
                shutil.copyfile(metadata, namespace / metadata.name)
    (work / id).rename(final / id)
    sync_folder((final / id).parent)


__all__ = ["from_minari", "minari_id", "read_manifest", "to_minari"]
