"""HighwayMerge by regime: returns by courtesy, and how often an agent merges, crashes or waits. The mean hides two.

    python -m studies.highway.regimes runs/HighwayMerge-v0-metadreamer-s0 oracle random       # test and ood
    python -m studies.highway.regimes runs/a runs/b --split test --episode last --json out.json

Where drivers close up (p < 0) an oracle waits for the column to pass and earns half of what it earns where they give
way; an agent that always waits and one that always goes have the same mean. Every agent is played under the benchmark's
own protocol; a run's folder or an installed yardstick's name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import metabench
from metabench.evaluation.evaluate import SEED_STRIDE
from metabench.evaluation.play import play
from metabench.evaluation.results import write_atomically
from metabench.plugins import load_agent

Array = npt.NDArray[Any]
BENCHMARK = "HighwayMerge-v0"
REGIMES = {"p < -0.3": (-1.0, -0.3), "-0.3 to 0.3": (-0.3, 0.3), "p >= 0.3": (0.3, 1.01)}  # of courtesy


class Episodes(NamedTuple):
    """What became of E episodes of each of B trials."""

    returns: Array  # [B, E]
    merged: Array  # [B, E] bool: a success, and no crash later
    crashed: Array  # [B, E] bool
    waited: Array  # [B, E] bool: still on the ramp at the limit
    courtesy: Array  # [B]


def played(agent: Any, split: str, seed: int = 0) -> Episodes:
    """The benchmark's protocol on a split, with how every episode ended."""
    spec = metabench.spec(BENCHMARK)
    table, count = spec.table(), spec.episodes
    tasks = np.repeat(np.arange(table.size(split)), spec.repeats)
    env = metabench.make_vec(
        BENCHMARK, len(tasks), split=split, episodes_per_task=count, expose_task=getattr(agent, "privileged", False)
    )
    observation, _ = env.reset(seed=seed * SEED_STRIDE, options={"task": tasks})
    returns, episode = np.zeros((len(tasks), count)), np.zeros(len(tasks), dtype=np.int64)
    won, crashed, waited = np.zeros((3, len(tasks), count), dtype=bool)
    for tick in play(agent, env, observation, version=getattr(agent, "protocol", "slots-2")):
        live = np.flatnonzero(episode < count)
        at = (live, episode[live])
        returns[at] += tick.reward[live]
        won[at] |= tick.info["success"][live]
        crashed[at] |= tick.terminated[live]
        if tick.truncated.any():
            waited[at] |= (tick.truncated & (tick.info["final_obs"][:, 0] < 0.0))[live]
        episode += tick.terminated | tick.truncated
        if (episode >= count).all():
            break
    return Episodes(returns, won & ~crashed, crashed, waited, table.rows[split][tasks, 1])


def summary(episodes: Episodes, which: int) -> dict[str, dict[str, float]]:
    """Of one episode of the trials, by regime and over all: mean return, and shares of merging, crashing, waiting."""
    found = {}
    for name, (low, high) in {"all": (-2.0, 2.0), **REGIMES}.items():
        rows = (episodes.courtesy >= low) & (episodes.courtesy < high)
        if rows.any():
            means = (float(column[rows, which].mean()) for column in episodes[:4])
            found[name] = dict(zip(("return", "merged", "crashed", "waited"), means, strict=True))
    return found


def table(records: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a row per agent, a cell per regime with the return and the three shares."""
    head = ["agent", "all", *REGIMES]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for agent, record in records.items():
        cells = []
        for name in head[1:]:
            own = record.get(name)
            shares = () if own is None else (own["merged"], own["crashed"], own["waited"])
            cells.append("" if own is None else f"{own['return']:.2f} ({' / '.join(f'{s:.0%}' for s in shares)})")
        lines.append(f"| {agent} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="+", help="folders of runs, or names of yardsticks")
    parser.add_argument("--split", nargs="+", default=["test", "ood"])
    parser.add_argument("--episode", choices=["first", "last"], default="last", help="of a trial")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    given = parser.parse_args(arguments)
    record: dict[str, Any] = {}
    for split in given.split:
        which = 0 if given.episode == "first" else -1
        agents = {name: load_agent(name, BENCHMARK, split, 0)[0] for name in given.agents}
        record[split] = {Path(n).name: summary(played(agent, split), which) for n, agent in agents.items()}
        print(f"### {split}, {given.episode} episode: return (merged / crashed / waited)\n\n{table(record[split])}\n")
    if given.json:
        write_atomically(given.json, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
