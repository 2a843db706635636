"""Writes leaderboards/curves.json: learning curves of entries whose runs' records lie in `studies`, from those.

An entry's runs are those of a study where every seed's curve ends at the entry's environment steps and, where the entry
tells its hours, the longest run took them.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from metabench.evaluation.results import write_atomically
from metabench.leaderboard.logs import CURVES
from metabench.leaderboard.records import SUBMISSION, read_submission

ROOT = Path(__file__).parent.parent
POINTS = 100  # of a curve
SOURCES = {  # board and agent of the entry: the records of its runs, and the column of the return in training
    "grid-switch/dynamite": ("dynamite/results/GridSwitch-v0/dynamite", "return"),
    "grid-switch/varibad": ("dynamite/results/GridSwitch-v0/varibad", "return"),
    "grid-switch/rl2": ("dynamite/results/GridSwitch-v0/rl2", "return"),
}


def curve(path: Path, column: str) -> dict[str, Any] | None:
    """A run's curve, thinned; None where it has no such column."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(column)]
    if not rows:
        return None
    kept = [rows[round(k)] for k in np.linspace(0, len(rows) - 1, min(POINTS, len(rows)))]
    points = {
        "frames": [int(float(row["frames"])) for row in kept],
        "returns": [float(row[column]) for row in kept],
    }
    return points | {"seconds": float(rows[-1].get("seconds") or 0)}


def main() -> None:
    """Writes the file, and says what was left out and why."""
    told: dict[str, list[dict[str, Any]]] = {}
    for name, (records, column) in SOURCES.items():
        for path in sorted((ROOT / "leaderboards" / name).glob(f"*/{SUBMISSION}")):
            entry = read_submission(path.read_text())
            files = [ROOT / "studies" / f"{records}-s{run.train_seed}-curve.csv" for run in entry.runs]
            found = [curve(file, column) if file.is_file() else None for file in files]
            known = [one for one in found if one is not None]
            if len(known) < len(found):
                print(f"{entry.place}: {len(known)} of {len(found)} runs have records")
                continue
            steps = {one["frames"][-1] for one in known}
            hours = round(max(one["seconds"] for one in known) / 3600, 4)
            if steps != {entry.training.env_steps} or entry.training.hours not in (None, hours):
                print(f"{entry.place}: records end at {steps} steps, {hours} h; entry: {entry.training}")
                continue
            told[entry.place.as_posix()] = [
                {"seed": run.train_seed, "frames": one["frames"], "returns": one["returns"]}
                for run, one in zip(entry.runs, known, strict=True)
            ]
            print(f"{entry.place}: {len(known)} curves")
    write_atomically(ROOT / "leaderboards" / CURVES, (json.dumps(told) + "\n").encode())


if __name__ == "__main__":
    main()
