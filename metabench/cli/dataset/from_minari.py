"""`metabench dataset from-minari`: a Minari dataset as one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from metabench.cli.console import plain, say
from metabench.datasets.format import read_manifest


def command(
    minari_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MINARI-ID")],
    id: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[ID]")] = None,
    split: str | None = None,
    root: Path | None = None,
    minari_root: Path | None = None,
) -> None:
    """Import a Minari dataset that is on this machine, without loss; what to-minari wrote becomes the same bytes again.

    Example: metabench dataset from-minari D4RL/pen/human-v2 pen/human-v2

    Args:
        minari_id: The Minari id; `minari list local` shows what is here.
        id: The id it gets; needed for datasets of another origin, and another name for one that to-minari wrote.
        split: The split it becomes, for datasets of another origin: train by default.
        root: Where datasets lie; METABENCH_DATA or the platform's cache by default.
        minari_root: Minari's folder; MINARI_DATASETS_PATH or ~/.minari/datasets by default.
    """
    from metabench.datasets.minari import from_minari

    folder = from_minari(minari_id, id, split=split, root=root, minari_root=minari_root)
    m = read_manifest(folder)
    say(f"{plain(m.id)} ({plain(m.split)}): {m.episodes:,} episodes\nwritten: {plain(folder)}")
