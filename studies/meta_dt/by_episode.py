"""Tables of the queue episode by episode: the first of a trial is zero-shot, the later ones few-shot.

    python -m studies.meta_dt.by_episode point-robot-offline cheetah-vel-offline

A page has such a table under the name NAME-by-episode (`studies.evidence`). Made of what `make evidence` keeps, and of
nothing else; the keys stand below each table. The intervals (95 %) are over runs, tasks and repeats: all three are
drawn anew, one inside the other, 2,000 times. With one run, or where a task is played once, that level says nothing of
its own uncertainty, and the table says how many there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metabench.evaluation.results import Result
from metabench.rng import Array
from metabench.runs import result_path
from metabench.sweep import Job
from metabench.sweep.folder import JOB
from studies.evidence import KEPT, Table, read_queue

DRAWS = 2_000
AT_ONCE = 1_000_000  # numbers that are drawn together


def _parts(total: int, most: int) -> list[int]:
    """`total` in parts of at most `most`."""
    return [min(most, total - done) for done in range(0, total, most)]


def interval(returns: Array, rng: np.random.Generator, draws: int = DRAWS) -> tuple[float, float, float]:
    """Mean of `[runs, tasks, repeats]`, and the 2.5 % and 97.5 % quantiles of it under draws of all three, nested."""
    runs, tasks, repeats = returns.shape
    flat, means = returns.ravel(), []
    for count in _parts(draws, max(1, AT_ONCE // returns.size)):
        run = rng.integers(runs, size=(count, runs, 1, 1))
        task = rng.integers(tasks, size=(count, runs, tasks, 1))
        repeat = rng.integers(repeats, size=(count, runs, tasks, repeats))
        means.append(flat[(run * tasks + task) * repeats + repeat].mean(axis=(1, 2, 3)))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(returns.mean()), float(low), float(high)


def returns_of(jobs: Sequence[Job], split: str, kept: Path) -> Array:
    """`[runs, tasks, repeats, episodes]` of those jobs that are there."""
    return np.stack([Result.load(result_path(kept / job.key(), split)).array() for job in jobs])


def render(table: Table, kept: Path = KEPT, split: str = "test") -> str:
    """The table as Markdown; with the keys of its runs."""
    lines, keys, episodes = [], [], 0
    for row in table.rows:
        jobs = [job for job in row.jobs if (kept / job.key() / JOB).exists()]
        if not jobs:
            continue
        returns = returns_of(jobs, split, kept)
        episodes = max(episodes, returns.shape[-1])
        cells = []
        for episode in range(returns.shape[-1]):
            found = interval(returns[..., episode], np.random.default_rng(0))
            cells.append("{:.2f} [{:.2f}, {:.2f}]".format(*found))
        lines.append(f"| {row.name} | {len(jobs)} | {returns.shape[2]} | {' | '.join(cells)} |")
        keys.append(f"{row.name}: {' '.join(job.key() for job in jobs)}")
    head = [f"| agent | runs | repeats | {' | '.join(f'episode {k + 1}' for k in range(episodes))} |"]
    head.append("| --- " * (3 + episodes) + "|")
    return "\n".join([*head, *lines, "", "<!-- keys", *keys, "-->", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="tables of studies/queue.toml")
    chosen = parser.parse_args(arguments)
    known = {table.name: table for table in read_queue()}
    for name in chosen.names:
        if name not in known:
            parser.error(f"unknown table {name!r}; available: {', '.join(known)}")
        print(f"{name}: {known[name].about}\n\n{render(known[name])}")


if __name__ == "__main__":
    main()
