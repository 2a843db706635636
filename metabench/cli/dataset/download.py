"""`metabench dataset download`: one split from a mirror."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from metabench.cli.arguments import Id
from metabench.cli.console import bar, plain, say, size
from metabench.cli.dataset.known import wanted
from metabench.datasets.download import fetch
from metabench.datasets.format import read_manifest


def command(
    id: Id,
    split: str = "train",
    mirror: Annotated[tuple[str, ...], tyro.conf.arg(metavar="URL [URL ...]")] = (),
    root: Path | None = None,
) -> None:
    """Download one split from a mirror; a transfer that broke off goes on where it was, and every byte is checked.

    Examples:
      metabench dataset download cheetah-vel/mixed-v0
      metabench dataset download cheetah-vel/mixed-v0 --split test --mirror hf://OWNER/NAME https://example.org/metabench

    Args:
        id: For example metabench/cheetah-vel/mixed-v0.
        split: A frozen split of the benchmark.
        mirror: Asked first, in order: https://, http://, file:// or hf://OWNER/NAME[@REVISION][/FOLDER]. Then those of
            the environment variable METABENCH_MIRRORS and of the package's index.
        root: Where datasets lie; METABENCH_DATA or the platform's cache by default.
    """
    name = wanted(id, root)
    with bar("downloading", "bytes") as update:
        folder = fetch(name, split, root=root, mirror=mirror, progress=update)
    m = read_manifest(folder)
    say(f"{m.episodes:,} episodes, {size(m.bytes)}, every byte checked\nin: {plain(folder)}")
