"""`metabench dataset info`: everything about one split."""

from __future__ import annotations

from json import dumps, loads
from pathlib import Path

import numpy as np
from rich.table import Table

from metabench.cli.arguments import Id
from metabench.cli.console import out, plain, say, show, size, table
from metabench.cli.dataset.known import here, mean_return, normalised
from metabench.datasets import TrialDataset, load_dataset
from metabench.datasets.format import MANIFEST


def command(id: Id, split: str = "train", root: Path | None = None, json: bool = False) -> None:
    """Tell all about one split: origin, policies, returns of every task beside random and oracle, files.

    Example: metabench dataset info cheetah-vel/mixed-v0 --split test

    Args:
        id: For example metabench/cheetah-vel/mixed-v0, or the folder of a split.
        split: A frozen split of the benchmark.
        root: Where datasets lie; METABENCH_DATA or the platform's cache by default.
        json: Print the manifest instead.
    """
    data = load_dataset(here(id, split, root), split, root=root)
    m = data.manifest
    if json:
        told = loads((data.folder / MANIFEST).read_text())
        out.print(dumps(told, indent=1), markup=False, soft_wrap=True)  # in ASCII: whatever is in it prints as text
        return
    say(f"[bold]{plain(m.id)}[/]  {plain(m.split)} of {plain(m.benchmark or 'another origin')}\n")
    show(_facts(data))
    returns = table("task>", "episodes>", "mean>", "lowest>", "highest>")
    for s in m.statistics:
        returns.add_row(str(s.task), str(s.episodes), f"{s.mean:.2f}", f"{s.low:.2f}", f"{s.high:.2f}")
    say("\n[bold]returns[/]")
    show(returns)
    files = table("file", "size>", "sha256~")
    for file in m.files:
        files.add_row(plain(file.name), size(file.bytes), file.sha256)
    say("\n[bold]files[/]")
    show(files)


def _facts(data: TrialDataset) -> Table:
    m = data.manifest
    mean = mean_return(m)
    share = normalised(m, mean)
    columns = f"{' x '.join(map(str, m.action)) or 1} columns {np.dtype(m.action_dtype).name}"
    action = f"one of {m.actions}" if m.actions is not None else columns
    content = f"{len(m.statistics)} tasks, {m.episodes:,} episodes, {m.steps:,} steps, {size(m.bytes)}"
    rows = [("folder", str(data.folder)), ("content", content)]
    rows += [("observation", f"{m.observation} columns {np.dtype(m.observation_dtype).name}"), ("action", action)]
    level = "" if share is None else f", {share:.3f} of the way from random to the oracle"
    rows.append(("mean return", f"{mean:.3f}{level}"))
    for number, policy in enumerate(m.policies):
        count = int((data.episodes["policy"] == number).sum())
        weights = f", weights {policy.sha256[:12]}" if policy.sha256 else ""
        rows.append((f"policy {number}", f"{policy.name}{weights}: {count:,} episodes"))
    rows += [("states", f"every {m.state_every} steps" if m.state_every else "none"), ("made by", m.command)]
    rows.append(("licence", m.licence))
    rows.append(("made with", ", ".join(f"{name} {version}" for name, version in m.versions.items())))
    shown = table("", "~", gap=1)
    shown.show_header = False
    for name, value in rows:
        shown.add_row(name, plain(value))
    return shown
