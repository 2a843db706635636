"""Which datasets there are, near names for those that are not, and how good their returns are."""

from __future__ import annotations

import difflib
from pathlib import Path

from metabench.datasets import DatasetId, local_datasets
from metabench.datasets.download import packaged_index
from metabench.datasets.format import MANIFEST, Manifest
from metabench.datasets.ids import QUALITIES
from metabench.registry import NAMESPACE, ids, spec


def wanted(id: str, root: Path | None) -> str:
    """`id` as it is, if it can name a dataset or is the folder of a split; ValueError with a near name if not."""
    if (Path(id) / MANIFEST).is_file():
        return id
    if Path(id).is_dir():
        raise ValueError(f"{id} is no folder of a split: it has no {MANIFEST}")
    try:
        DatasetId.parse(id)
    except ValueError as error:
        near = nearest(id, root)
        raise ValueError(f"{error}{f'; did you mean {near!r}?' if near else ''}") from None
    return id


def here(id: str, split: str, root: Path | None) -> str:
    """`wanted`, for commands that read a set: a name of which nothing is here is told with a near one that is."""
    name = wanted(id, root)
    if (Path(name) / MANIFEST).is_file():
        return name
    parsed, local = DatasetId.parse(name), list(dict.fromkeys(str(known) for known, _, _ in local_datasets(root)))
    splits = [found for known, found, _ in local_datasets(root) if known == parsed]
    if splits and split not in splits:
        parsed.benchmark.table().size(split)
        raise ValueError(
            f"{parsed} is here with the splits {', '.join(splits)}, not with {split}; "
            f"make it: metabench dataset generate {parsed} --split {split}"
        )
    if not splits and parsed.quality not in QUALITIES and (near := _near(str(parsed), local) or nearest(name, root)):
        raise ValueError(f"{parsed} is not here; did you mean {near!r}?")
    return name


def nearest(id: str, root: Path | None) -> str | None:
    """The dataset that is most likely meant: one that is here, then one of the index, then one that can be made."""
    local = [str(known) for known, _, _ in local_datasets(root)]
    index = [f"{NAMESPACE}{key.rpartition('/')[0]}" for key in packaged_index().splits]
    made = [str(DatasetId.of(benchmark, quality)) for benchmark in ids() for quality in QUALITIES]
    first = [str(DatasetId.of("PointRobot-v0", quality)) for quality in QUALITIES]  # of equally near ones, the quickest
    return _near(id, list(dict.fromkeys((*local, *index)))) or _near(id, [*first, *made])


def _near(id: str, known: list[str]) -> str | None:
    """The nearest of `known`, by the whole name or by its family or quality alone."""
    names: dict[str, str] = {}
    for one in reversed(known):  # the first of those that share a part keeps it
        path = one.removeprefix(NAMESPACE)
        family, _, quality = path.partition("/")
        names |= dict.fromkeys((one, path, family, quality, quality.rpartition("-v")[0]), one)
    near = difflib.get_close_matches(id.removeprefix(NAMESPACE), names, n=1)
    return names[near[0]] if near else None


def mean_return(manifest: Manifest) -> float:
    """Over all episodes."""
    return sum(s.mean * s.episodes for s in manifest.statistics) / manifest.episodes


def normalised(manifest: Manifest, returns: float) -> float | None:
    """A mean return between random (0) and oracle (1) of its benchmark and split; None where these are not known."""
    try:
        levels = spec(manifest.benchmark).references(manifest.split)
    except ValueError:
        return None
    if not {"random", "oracle"} <= set(levels):
        return None
    low, high = levels["random"]["mean"], levels["oracle"]["mean"]
    return (returns - low) / (high - low)
