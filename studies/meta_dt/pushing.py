"""Returns and successes of the entries on metaworld-push; successes near the middle of the goals and further off.

    python -m studies.meta_dt.pushing

Means over an entry's five runs, of the results that it was published with. A policy that pushes to the middle whatever
the task succeeds near it and seldom elsewhere.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

import metabench
from metabench.rng import Array
from metabench.tasks import param_ranges
from studies.tables import ROOT

BENCHMARK, BOARD = "MetaWorld-Push-v0", ROOT / "leaderboards" / "metaworld-push"
ENTRIES = {  # by name, so that what others enter changes nothing here
    "the script": "oracle/2026-12-01-ac7b84c6d1",
    "RL2": "rl2/2026-12-01-c443166ec7",
    "cloning": "bc/2026-12-01-86c85c2345",
    "Meta-DT": "meta-dt/2026-12-01-ee9462f17a",
    "DT": "dt/2026-12-01-eef2e2eb93",
}
NEAR = 0.05  # m from the middle, as far as a success may be from its goal


class Pushed(NamedTuple):
    """What an entry reached: its mean return, and shares of placements with a success."""

    mean: float
    success: float
    near: float  # of the goals within NEAR of their middle
    far: float  # of the others


def distances() -> Array:
    """`[50]` m from each test goal to the middle of them all, on the table."""
    table = metabench.spec(BENCHMARK).table()
    columns = list(param_ranges(table.context_type))
    goals = table.rows["test"][:, [columns.index(name) for name in ("goal_x", "goal_y")]]
    return np.linalg.norm(goals - goals.mean(axis=0), axis=1)


def pushed(entry: str) -> Pushed:
    """An entry's numbers, of its published results."""
    runs = json.loads((BOARD / entry / "result.json").read_text())["results"]
    returns, successes = (
        np.array([run[name] for run in runs]).reshape(len(runs), -1) for name in ("returns", "successes")
    )
    near = distances() < NEAR
    shares = (successes[:, which].mean() for which in (slice(None), near, ~near))
    return Pushed(float(returns.mean()), *map(float, shares))


if __name__ == "__main__":
    print(f"goals up to {100 * distances().max():.0f} cm from their middle")
    for name, entry in ENTRIES.items():
        told = pushed(entry)
        print(
            f"{name}: return {told.mean:.0f}, success {told.success:.0%}, {told.near:.0%} of goals within "
            f"{100 * NEAR:.0f} cm of the middle, {told.far:.0%} elsewhere"
        )
