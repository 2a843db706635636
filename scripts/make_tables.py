"""Writes the frozen task tables: the one place that says where every row comes from.

    python scripts/make_tables.py            # writes metabench/families/tables/*.json, prints their digests

The tables are data: environments read the JSON, never this script. It is kept so that anybody can see that the rows
were not chosen by their results, and a test makes them again.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from metabench.registry import spec
from metabench.tasks import TaskTable

SEED = 123456  # the seed of the published point-robot goals (Meta-DT's sibling repositories)
FOLDER = Path(__file__).parent.parent / "metabench" / "families" / "tables"


def point_robot() -> dict[str, Any]:
    """Goals in the square; out of distribution: beyond it, at 1.2 to 1.5 m."""
    goals = np.random.RandomState(SEED).uniform(-1, 1, (50, 2))
    rng = np.random.RandomState(SEED + 1)
    radius, angle = rng.uniform(1.2, 1.5, 20), rng.uniform(0, 2 * np.pi, 20)
    far = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    source = f"RandomState({SEED}).uniform(-1, 1, (50, 2)), rows"
    return {
        "train": (goals[:45], f"{source} 0-44"),
        "test": (goals[45:], f"{source} 45-49"),
        "ood": (far, f"RandomState({SEED + 1}): 20 radii uniform in [1.2, 1.5], then 20 angles"),
    }


def sparse_point_robot() -> dict[str, Any]:
    """Goals on the upper half circle; out of distribution: the lower half."""
    angles = np.random.RandomState(SEED).uniform(0, np.pi, 50)[:, None]
    lower = np.random.RandomState(SEED + 1).uniform(np.pi, 2 * np.pi, 20)[:, None]
    source = f"RandomState({SEED}).uniform(0, pi, 50), rows"
    return {
        "train": (angles[:45], f"{source} 0-44"),
        "test": (angles[45:], f"{source} 45-49"),
        "ood": (lower, f"RandomState({SEED + 1}).uniform(pi, 2 pi, 20)"),
    }


def grid_navigation() -> dict[str, Any]:
    """VariBAD's 21 goal cells, parted; out of distribution: the three cells it leaves out beside the start."""
    near = {0, 1, 5, 6}
    cells = np.array([cell for cell in range(25) if cell not in near])
    order = np.random.RandomState(SEED).permutation(cells)[:, None]
    return {
        "train": (order[:16], f"RandomState({SEED}).permutation of VariBAD's 21 goal cells, first 16"),
        "test": (order[16:], "the other 5"),
        "ood": (np.array([[1], [5], [6]]), "the cells next to the start, where VariBAD never puts a goal"),
        "published": (cells[:, None], "all 21 goal cells, as VariBAD trains and tests; overlaps train and test"),
    }


def grid_switch() -> dict[str, Any]:
    """All 300 pairs of cells, parted; the order inside a pair is random too."""
    rng = np.random.RandomState(SEED)
    pairs = rng.permutation(np.array(list(combinations(range(25), 2))))
    flip = rng.rand(len(pairs)) < 0.5
    pairs[flip] = pairs[flip][:, ::-1]
    source = f"RandomState({SEED}).permutation of the 300 pairs of cells, each turned round with probability 1/2, rows"
    return {
        "train": (pairs[:200], f"{source} 0-199"),
        "test": (pairs[200:250], f"{source} 200-249"),
        "ood": (pairs[250:], f"{source} 250-299; sessions: see the spec"),
    }


TABLES = {
    "PointRobot-v0": point_robot,
    "SparsePointRobot-v0": sparse_point_robot,
    "GridNavigation-v0": grid_navigation,
    "GridSwitch-v0": grid_switch,
}


def render(id: str) -> str:
    """The JSON of one benchmark's table."""
    fields = list(spec(id).family().parameters)
    splits = {name: {"source": source, "rows": rows.tolist()} for name, (rows, source) in TABLES[id]().items()}
    text = json.dumps({"schema": 1, "family": id, "fields": fields, "splits": splits}, indent=1)
    return text + "\n"


def main() -> None:
    """Writes every table and prints the digests that the specs must name."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for id in TABLES:
        path = FOLDER / f"{id}.json"
        path.write_text(render(id))
        table = TaskTable.load(id, spec(id).family().context_type, path)
        print(id, json.dumps({split: table.digest(split) for split in table.splits}, indent=4))


if __name__ == "__main__":
    main()
