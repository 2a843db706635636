"""`metabench dataset publish`: the static tree that a mirror serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from metabench.cli.console import plain, say, size
from metabench.cli.dataset.known import wanted
from metabench.datasets import DatasetId, local_datasets
from metabench.datasets.download import publish
from metabench.datasets.ids import data_root


def command(
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    ids: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[ID ...]")] = (),
    root: Path | None = None,
) -> None:
    """Copy splits into a static tree that any web server, bucket or hub repository can serve as a mirror.

    Example: metabench dataset publish mirror/ point-robot/mixed-v0 cheetah-vel/mixed-v0

    Args:
        target: The tree's folder; what is in it stays.
        ids: Which sets, all their splits that are here; by default everything that is here.
        root: Where datasets lie; METABENCH_DATA or the platform's cache by default.
    """
    here = list(local_datasets(root))
    chosen = [DatasetId.parse(wanted(id, root)) for id in ids]
    for name in chosen:
        if name not in [known for known, _, _ in here]:
            raise ValueError(f"{name} is not in {root or data_root()}: metabench dataset list shows what is")
    folders = [folder for known, _, folder in here if not chosen or known in chosen]
    if not folders:
        raise ValueError(f"there is nothing to publish in {root or data_root()}")
    index = publish(folders, target)
    total = sum(entry.bytes for entry in index.splits.values())
    say(f"{plain(target)}: {len(index.splits)} splits, {size(total)}. Upload the folder as it is.")
