"""The table of trials of a hundred episodes, of what the boards' entries keep."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import metabench
from metabench.leaderboard.records import Results
from metabench.rng import Array
from studies.tables import ROOT, file_source, sources

SHOWN = (1, 2, 5, 10, 20, 50, 100)  # episodes
LAST, FOUND = 10, 1.0  # episodes at the end; a return of this and more: the goal was found
BOARDS = {"dark-room": "DarkRoom-v0", "grid-navigation-long": "GridNavigation-v0"}
ENTRIES = (  # by name, so that what others enter changes nothing here
    ("RL²", "dark-room/rl2/2026-11-30-ceba6bb16a"),
    ("AD", "dark-room/ad/2026-11-29-214bffba5d"),
    ("DPT", "dark-room/dpt/2026-11-29-6a373d6809"),
    ("Q-learning", "dark-room/q-learning/2026-11-29-2db8fe4ee1"),
    ("RL²", "grid-navigation-long/rl2/2026-11-30-5ba212a81e"),
    ("AD", "grid-navigation-long/ad/2026-11-29-bd10d8aca9"),
    ("Q-learning", "grid-navigation-long/q-learning/2026-11-29-6d958b1eac"),
    ("DynaMITE-RL", "grid-navigation-long/dynamite/2026-11-30-a34646e450"),
    ("VariBAD", "grid-navigation-long/varibad/2026-11-30-325b3dacb5"),
)


class Ends(NamedTuple):
    """Goals of a run that are missed at the end of its trials."""

    missed: int
    found: int  # of them, before


def ends(returns: Array) -> Ends:
    """Of `[task, repeat, episode]`: missed where the last episodes' mean over a task's trials is below `FOUND`."""
    missed = returns[..., -LAST:].mean(axis=(1, 2)) < FOUND
    return Ends(int(missed.sum()), int((missed & (returns.max(axis=(1, 2)) >= FOUND)).sum()))


def long_trials() -> str:
    """Returns by episode, means over an entry's runs, and goals that each run misses at the end."""
    plain = ("mean of all", "goals missed at the end, run by run", "of them found before")
    head = ["board", "agent", *map(str, SHOWN), *plain]
    lines, told = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"], {}
    for name, entry in ENTRIES:
        board = entry.split("/")[0]
        path = ROOT / "leaderboards" / entry / "result.json"
        runs = [result.array() for result in Results.model_validate_json(path.read_bytes()).results]
        curve = np.mean([run.mean(axis=(0, 1)) for run in runs], axis=0)
        by_run = [ends(run) for run in runs]
        oracle = metabench.spec(BOARDS[board]).references("test")["oracle"]["mean"]
        cells = [f"{curve[number - 1]:.2f}" for number in SHOWN]
        counts = [" ".join(str(end[k]) for end in by_run) for k in (0, 1)]
        where = f"{board} (oracle {oracle:.2f})"
        lines.append(f"| {' | '.join([where, name, *cells, f'{curve.mean():.2f}', *counts])} |")
        told[f"{board}, {name}"] = file_source(path)
    return "\n".join(lines) + "\n" + sources(told)


TABLES = {"long-trials": long_trials}
