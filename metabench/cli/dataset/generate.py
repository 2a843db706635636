"""`metabench dataset generate`: plays behaviour policies into a set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from metabench.cli.arguments import Id, at_least
from metabench.cli.console import bar, plain, say
from metabench.cli.dataset.known import mean_return, normalised, wanted
from metabench.cli.evaluate import check_agent
from metabench.cli.where import HERE, Where
from metabench.datasets import generate
from metabench.datasets.format import read_manifest
from metabench.sweep.uses import generate_with


def command(
    id: Id,
    split: str = "train",
    episodes: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    agent: str | None = None,
    states: int | None = None,
    where: Annotated[Where, tyro.conf.arg(name="")] = HERE,
) -> None:
    """Make one split of a dataset by playing behaviour policies; a generation that was stopped goes on.

    Examples:
      metabench dataset generate metabench/point-robot/mixed-v0
      metabench dataset generate grid-switch/mine-v0 --agent runs/GridSwitch-v0-rl2-s0
      metabench dataset generate cheetah-vel/mixed-v0 --engine local --workers 8     # or ray, slurm: the same bytes

    Args:
        id: Family, quality and version. Qualities: random, medium, expert, mixed (70 % medium, 30 % expert), replay
            (rising skill, in order), history (tabular learners from nothing, on the grids); any word of your own with
            --agent.
        split: A frozen split of the benchmark.
        episodes: Episodes of each task; by default 100, and as many as 2,000 learners of a history need.
        seed: The same seed gives the same bytes.
        root: Where datasets lie; METABENCH_DATA or the platform's cache by default.
        agent: A yardstick by name or a trained agent by folder, as the behaviour.
        states: Keep the simulator's full state every so many steps.
        where: Where shards are played, side by side.
    """
    name = wanted(id, root)
    at_least(1, episodes=episodes, states=states)
    at_least(0, seed=seed)
    if agent is not None:
        check_agent(agent)
    engine = where.made()
    make = generate if engine is None else partial(generate_with, engine)
    with bar("playing", "episodes") as update:
        folder = make(
            name, split, episodes=episodes, seed=seed, root=root, agent=agent, state_every=states, progress=update
        )
    m = read_manifest(folder)
    mean = mean_return(m)
    share = normalised(m, mean)
    level = "" if share is None else f", {share:.2f} of the way from random to the oracle"
    say(f"{m.episodes:,} episodes, mean return {mean:.2f}{level}\nwritten: {plain(folder)}")
