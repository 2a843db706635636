"""`metabench dataset ...`: list, info, generate, verify, download, publish, to-minari, from-minari."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.table import Table

from metabench.cli.dataset_transfers import Download, FromMinari, Id, Publish, ToMinari, bar, out, size
from metabench.datasets import DatasetId, generate, load_dataset, local_datasets
from metabench.datasets.download import mirror_index, mirrors, packaged_index
from metabench.datasets.format import MANIFEST, Manifest, read_manifest
from metabench.datasets.ids import data_root, split_folder
from metabench.datasets.recipe import EPISODES_PER_TASK
from metabench.datasets.verify import verify
from metabench.registry import NAMESPACE, spec
from metabench.tasks import suggest


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        name, _, side = column.partition(">")
        table.add_column(name, justify="right" if side == "" and column.endswith(">") else "left", no_wrap=True)
    return table


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


def _mean(manifest: Manifest) -> float:
    return sum(s.mean * s.episodes for s in manifest.statistics) / manifest.episodes


@dataclass
class List:
    """List the datasets that are here, and those that mirrors have.

    Example: metabench dataset list
    """

    root: Path | None = None
    """Where datasets lie; METABENCH_DATA or the platform's cache by default."""

    mirror: tuple[str, ...] = ()
    """Mirrors whose index is shown as well."""

    def run(self) -> None:
        """Runs the command."""
        table = _table("id", "split", "tasks>", "episodes>", "steps>", "size>", "mean return>", "normalised>", "where")
        here = set()
        for name, split, folder in local_datasets(self.root):
            here.add((str(name), split))
            try:
                m = read_manifest(folder)
            except ValueError:
                table.add_row(
                    f"[bold]{name}[/]", split, "", "", "", "", "", "", "[red]damaged: metabench dataset verify[/]"
                )
                continue
            share = normalised(m, _mean(m))
            cells = [str(len(m.statistics)), f"{m.episodes:,}", f"{m.steps:,}", size(m.bytes), f"{_mean(m):.2f}"]
            table.add_row(f"[bold]{name}[/]", split, *cells, "" if share is None else f"{share:.2f}", "here")
        remote = dict.fromkeys(packaged_index().splits, "the index")
        for base in mirrors(self.mirror):
            remote |= dict.fromkeys(mirror_index(base).splits, base)
        for key, base in sorted(remote.items()):
            path, _, split = key.rpartition("/")
            if (f"{NAMESPACE}{path}", split) not in here:
                table.add_row(f"[bold]{NAMESPACE}{path}[/]", split, "", "", "", "", "", "", base)
        if table.row_count:
            out.print(table)
        else:
            out.print(f"No datasets in {self.root or data_root()}.", highlight=False)
        out.print(
            "\nEvery benchmark with behaviour policies can have random, medium, expert, mixed and replay data:\n"
            "  metabench dataset generate metabench/point-robot/mixed-v0 --split train",
            highlight=False,
        )


@dataclass
class Info:
    """Tell all about one split: origin, policies, returns of every task beside random and oracle, files.

    Example: metabench dataset info cheetah-vel/mixed-v0 --split test
    """

    id: Id
    """For example metabench/cheetah-vel/mixed-v0, or the folder of a split."""

    split: str = "train"
    """A frozen split of the benchmark."""

    root: Path | None = None
    """Where datasets lie; METABENCH_DATA or the platform's cache by default."""

    json: bool = False
    """Print the manifest instead."""

    def run(self) -> None:
        """Runs the command."""
        data = load_dataset(self.id, self.split, root=self.root)
        m = data.manifest
        if self.json:
            out.print((data.folder / MANIFEST).read_text(), highlight=False, markup=False, soft_wrap=True)
            return
        out.print(f"[bold]{m.id}[/]  {m.split} of {m.benchmark or 'another origin'}\n", highlight=False)
        facts = Table(box=None, show_header=False, pad_edge=False)
        share = normalised(m, _mean(m))
        level = f"{_mean(m):.3f}" + ("" if share is None else f", {share:.3f} of the way from random to the oracle")
        facts.add_row("folder", str(data.folder))
        facts.add_row(
            "content", f"{len(m.statistics)} tasks, {m.episodes:,} episodes, {m.steps:,} steps, {size(m.bytes)}"
        )
        facts.add_row("observation", f"{m.observation} columns {np.dtype(m.observation_dtype).name}")
        columns = f"{' x '.join(map(str, m.action)) or 1} columns {np.dtype(m.action_dtype).name}"
        facts.add_row("action", f"one of {m.actions}" if m.actions is not None else columns)
        facts.add_row("mean return", level)
        for number, policy in enumerate(m.policies):
            count = int((data.episodes["policy"] == number).sum())
            weights = f", weights {policy.sha256[:12]}" if policy.sha256 else ""
            facts.add_row(f"policy {number}", f"{policy.name}{weights}: {count:,} episodes")
        facts.add_row("states", f"every {m.state_every} steps" if m.state_every else "none")
        facts.add_row("made by", m.command)
        facts.add_row("licence", m.licence)
        facts.add_row("made with", ", ".join(f"{name} {version}" for name, version in m.versions.items()))
        out.print(facts, highlight=False)
        table = _table("task>", "episodes>", "mean>", "lowest>", "highest>")
        for s in m.statistics:
            table.add_row(str(s.task), str(s.episodes), f"{s.mean:.2f}", f"{s.low:.2f}", f"{s.high:.2f}")
        out.print("\n[bold]returns[/]")
        out.print(table)
        files = _table("file", "size>", "sha256")
        files.columns[-1].no_wrap, files.columns[-1].overflow = False, "fold"  # it folds, so that the others have room
        for file in m.files:
            files.add_row(file.name, size(file.bytes), file.sha256)
        out.print("\n[bold]files[/]")
        out.print(files)


@dataclass
class Generate:
    """Make one split of a dataset by playing behaviour policies; a generation that was stopped goes on.

    Examples:
      metabench dataset generate metabench/point-robot/mixed-v0
      metabench dataset generate grid-switch/mine-v0 --agent runs/GridSwitch-v0-rl2-s0
    """

    id: Id
    """Family, quality and version. Qualities: random, medium, expert, mixed (70 % medium, 30 % expert), replay (a
    learning history in order); any word of your own with --agent."""

    split: str = "train"
    """A frozen split of the benchmark."""

    episodes: int = EPISODES_PER_TASK
    """Episodes of each task."""

    seed: int = 0
    """The same seed gives the same bytes."""

    root: Path | None = None
    """Where datasets lie; METABENCH_DATA or the platform's cache by default."""

    agent: str | None = None
    """A yardstick by name or a trained agent by folder, as the behaviour."""

    states: int | None = None
    """Keep the simulator's full state every so many steps."""

    def run(self) -> None:
        """Runs the command."""
        with bar("playing", "episodes") as update:
            folder = generate(
                self.id,
                self.split,
                episodes=self.episodes,
                seed=self.seed,
                root=self.root,
                agent=self.agent,
                state_every=self.states,
                progress=update,
            )
        m = read_manifest(folder)
        share = normalised(m, _mean(m))
        level = "" if share is None else f", {share:.2f} of the way from random to the oracle"
        out.print(f"{m.episodes:,} episodes, mean return {_mean(m):.2f}{level}\nwritten: {folder}", highlight=False)


@dataclass
class Verify:
    """Check every byte of a split against its manifest, its contents against each other, and episodes by replay.

    Example: metabench dataset verify cheetah-vel/mixed-v0 --split test --replay 20
    """

    id: Id
    """An id, or the folder of a split."""

    split: str = "train"
    """A frozen split of the benchmark."""

    root: Path | None = None
    """Where datasets lie; METABENCH_DATA or the platform's cache by default."""

    replay: int = 0
    """Episodes to step again in the simulator."""

    def run(self) -> None:
        """Runs the command."""
        folder = Path(self.id)
        if not folder.is_dir():
            folder = split_folder(DatasetId.parse(self.id), self.split, self.root)
        faults = verify(folder, replay=self.replay)
        if faults:
            for fault in faults:
                out.print(f"[red]{fault}[/]", highlight=False)
            raise ValueError(f"{folder} is not sound: {len(faults)} fault{'s' * (len(faults) > 1)}")
        m = read_manifest(folder)
        replayed = f", {self.replay} episodes replayed" if self.replay else ""
        out.print(
            f"{m.id} ({m.split}) is sound: {len(m.files)} files, {m.episodes:,} episodes{replayed}", highlight=False
        )


COMMANDS: dict[str, type[Any]] = {
    "list": List,
    "info": Info,
    "generate": Generate,
    "verify": Verify,
    "download": Download,
    "publish": Publish,
    "to-minari": ToMinari,
    "from-minari": FromMinari,
}
ABOUT = """Offline datasets: one memory-mapped folder per split, with a manifest that vouches for every byte.

  metabench dataset list                                      what is here
  metabench dataset generate metabench/point-robot/mixed-v0   make a set (seconds for grids and points)
  metabench dataset info point-robot/mixed-v0                 origin, policies, returns of every task
  metabench dataset verify point-robot/mixed-v0 --replay 20   bytes, contents, and episodes in the simulator
  metabench dataset download point-robot/mixed-v0 --mirror URL   from a mirror, resumed and checked
  metabench dataset to-minari point-robot/mixed-v0            for everything that reads Minari; from-minari imports
  metabench dataset publish mirror/                           the static tree that a mirror serves

In Python: data = metabench.load_dataset("metabench/point-robot/mixed-v0", split="train")
`metabench dataset COMMAND --help` explains a command.
"""


def dataset(arguments: Sequence[str]) -> None:
    """`metabench dataset COMMAND ...`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        out.print(ABOUT, markup=False, highlight=False)
        return
    name = arguments[0]
    if name not in COMMANDS:
        raise ValueError(f"unknown command 'dataset {name}'; {suggest(name, list(COMMANDS))}")
    command = COMMANDS[name]
    about = inspect.getdoc(command)  # tyro by itself would leave out the examples
    tyro.cli(command, prog=f"metabench dataset {name}", description=about, args=list(arguments[1:])).run()
