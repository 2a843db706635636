"""`metabench dataset list`: the sets that are here, and those of mirrors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from metabench.cli.console import out, plain, say, show, size, table
from metabench.cli.dataset.known import mean_return, normalised
from metabench.datasets import local_datasets
from metabench.datasets.download import mirror_index, mirrors, packaged_index
from metabench.datasets.format import read_manifest
from metabench.datasets.ids import data_root
from metabench.registry import NAMESPACE

WIDE = 110  # columns from which a terminal has room for everything


def command(
    root: Path | None = None, mirror: Annotated[tuple[str, ...], tyro.conf.arg(metavar="URL [URL ...]")] = ()
) -> None:
    """List the datasets that are here, and those that mirrors have.

    Example: metabench dataset list

    Args:
        root: Where datasets lie; METABENCH_DATA or the platform's cache by default.
        mirror: Mirrors whose index is shown as well.
    """
    wide = out.width >= WIDE
    counts = ("tasks>", "episodes>", "steps>", "size>", "mean return>") if wide else ("size>",)
    shown = table("id", "split", *counts, "normalised>", "where~")
    here = set()
    for name, split, folder in local_datasets(root):
        here.add((str(name), split))
        shown.add_row(f"[bold]{plain(name)}[/]", plain(split), *_cells(folder, wide))
    remote = dict.fromkeys(packaged_index().splits, "the index")
    for base in mirrors(mirror):
        remote |= dict.fromkeys(mirror_index(base).splits, base)
    for key, base in sorted(remote.items()):
        path, _, split = key.rpartition("/")
        if (f"{NAMESPACE}{path}", split) not in here:
            empty = [""] * (len(counts) + 1)
            shown.add_row(f"[bold]{plain(NAMESPACE + path)}[/]", plain(split), *empty, plain(base))
    if shown.row_count:
        show(shown)
    else:
        say(f"No datasets in {plain(root or data_root())}.")
    say("\nEvery benchmark with behaviour policies can have random, medium, expert, mixed and replay data:")
    say("  metabench dataset generate metabench/point-robot/mixed-v0 --split train")


def _cells(folder: Path, wide: bool) -> list[str]:
    try:
        m = read_manifest(folder)
    except ValueError:
        return [*[""] * (6 if wide else 2), "[red]damaged: metabench dataset verify[/]"]
    mean = mean_return(m)
    share = normalised(m, mean)
    cells = [str(len(m.statistics)), f"{m.episodes:,}", f"{m.steps:,}", size(m.bytes), f"{mean:.2f}"]
    return [*(cells if wide else [size(m.bytes)]), "" if share is None else f"{share:.2f}", "here"]
