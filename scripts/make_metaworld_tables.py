"""Writes the frozen placements of Meta-World's classes, and the digests that their specs name.

    python scripts/make_metaworld_tables.py            # two minutes; needs metabench[metaworld]

Train and test are what `metaworld.ML1(<class>, seed=SEED)` draws, to the bit; `ood` is drawn here. The tables are data:
environments read them, never this script. It is kept so that anybody can see that the rows were not chosen by their
results, and a test makes them again.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np

from metabench.families.metaworld import BENCHMARKS, FOLDER, META_DT, MetaWorld, wide_box
from metabench.npz import pack
from metabench.physics.metaworld.classes import CLASSES, TaskClass, camel
from metabench.tasks import TaskTable

SEED = 123456  # of train; Meta-World takes the next one for test
META_DT_SEED = 3407  # of Meta-DT's code
OOD = 20  # placements a class


def drawn_by_metaworld(c: TaskClass, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The training and the test placements of their ML1 benchmark."""
    import metaworld

    benchmark: Any = metaworld.ML1(f"{c.name}-v3", seed=seed)
    parts = benchmark.train_tasks, benchmark.test_tasks
    train, test = (np.array([pickle.loads(task.data)["rand_vec"] for task in tasks]) for tasks in parts)
    return train, test


def outside(c: TaskClass) -> np.ndarray:
    """Placements in the wide box but not in the box of training, object and goal apart."""
    family, rng = MetaWorld(task=c.name), np.random.RandomState([SEED + 2, *c.name.encode()])
    low, high = np.array(wide_box(c)).T
    inner_low, inner_high = np.array(c.box).T
    rows: list[np.ndarray] = []
    while len(rows) < OOD:
        row = rng.uniform(low, high)
        inside = ((row >= inner_low) & (row <= inner_high)).all()
        if not inside and not family._fault(0, tuple(row.tolist())):
            rows.append(row)
    return np.array(rows)


def rows_of(c: TaskClass) -> dict[str, np.ndarray]:
    """The splits of one class."""
    train, test = drawn_by_metaworld(c, SEED)
    rows = {"train": train, "test": test, "ood": outside(c)}
    if c.name in META_DT:
        published, _ = drawn_by_metaworld(c, META_DT_SEED)
        rows |= {"meta_dt_train": published[:15], "meta_dt_test": published[15:20]}
    return rows


def main() -> None:
    """Writes the tables and their digests."""
    arrays = {f"{c.name}.{split}": rows for c in CLASSES for split, rows in rows_of(c).items()}
    (FOLDER / "metaworld.npz").write_bytes(pack(arrays, level=9))
    digests = {}
    for arguments in [{"task": c.name} for c in CLASSES] + [{"benchmark": label} for label in BENCHMARKS]:
        family = MetaWorld(**arguments)
        id = f"MetaWorld-{arguments.get('benchmark') or camel(arguments['task'])}-v0"
        table = TaskTable(id, family.context_type, family.rows())
        digests[id] = {split: table.digest(split) for split in table.splits}
    (FOLDER / "metaworld_digests.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
