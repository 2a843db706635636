"""Generates datasets and tabulates them: returns of the tasks against random and oracle, seconds, bytes.

    METABENCH_DATA=/data python scripts/generate_datasets.py point-robot cheetah-vel   # both splits, three qualities
    METABENCH_DATA=/data python scripts/generate_datasets.py metaworld-reach --splits meta_dt_train meta_dt_test
    python scripts/generate_datasets.py --table                                        # what was recorded, as Markdown

Each set is made as `metabench dataset generate metabench/FAMILY/QUALITY-v0 --split SPLIT` makes it, and ten of its
episodes are replayed in the simulator. What came out is kept in docs/datasets.json; a set that is there already
is measured again, but keeps the seconds of its making.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from metabench.datasets import DatasetId, generate, load_dataset
from metabench.datasets.format import MANIFEST, hash_file
from metabench.datasets.ids import split_folder
from metabench.datasets.verify import verify
from metabench.evaluation.results import write_atomically

RECORD = Path(__file__).parent.parent / "docs" / "datasets.json"
QUALITIES, REPLAYED = ("medium", "expert", "mixed"), 10


def made(id: str, split: str, before: dict[str, Any]) -> dict[str, Any]:
    """Makes a set where it is missing, checks it, and returns its record."""
    fresh = not (split_folder(DatasetId.parse(id), split) / MANIFEST).exists()
    wall, cpu = time.perf_counter(), time.process_time()
    folder = generate(id, split)
    seconds = {"wall": round(time.perf_counter() - wall, 1), "cpu": round(time.process_time() - cpu, 1)}
    if faults := verify(folder, replay=REPLAYED):
        raise ValueError(f"{folder}: {faults[0]}")
    m = load_dataset(folder).manifest
    means = [s.mean for s in m.statistics]
    return {
        "id": str(m.id),
        "split": split,
        "tasks": len(means),
        "episodes": m.episodes,
        "steps": m.steps,
        "bytes": m.bytes,
        "mean": sum(means) / len(means),
        "low": min(means),
        "high": max(means),
        "seconds": seconds if fresh else before.get("seconds"),
        "manifest_sha256": hash_file(folder / MANIFEST),
        "command": m.command,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: mean over tasks, share of the way from random to oracle, range of the tasks' means."""
    lines = [
        "| dataset | split | tasks | mean return (of the way) | task means | wall, CPU s | MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in records:
        levels = DatasetId.parse(r["id"]).benchmark.references(r["split"])
        way = ""
        if {"random", "oracle"} <= set(levels):
            low, high = levels["random"]["mean"], levels["oracle"]["mean"]
            way = f" ({(r['mean'] - low) / (high - low):.2f})"
        seconds = "" if r["seconds"] is None else f"{r['seconds']['wall']}, {r['seconds']['cpu']}"
        short = r["id"].removeprefix("metabench/")
        span = f"{r['low']:.2f} to {r['high']:.2f}"
        cells = [short, r["split"], r["tasks"], f"{r['mean']:.2f}{way}", span, seconds, f"{r['bytes'] / 1e6:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Makes, records, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="point-robot, cheetah-vel, ...")
    parser.add_argument("--splits", nargs="+", default=["train", "test"])
    parser.add_argument("--qualities", nargs="+", default=list(QUALITIES))
    parser.add_argument("--table", action="store_true", help="print what is recorded")
    wanted = parser.parse_args()
    known = {(r["id"], r["split"]): r for r in (json.loads(RECORD.read_text()) if RECORD.exists() else [])}
    for family in wanted.families:
        for split in wanted.splits:
            for quality in wanted.qualities:
                key = (f"metabench/{family}/{quality}-v0", split)
                known[key] = made(*key, known.get(key, {}))
                write_atomically(RECORD, (json.dumps(list(known.values()), indent=1) + "\n").encode())
                print(table([known[key]]).splitlines()[-1], flush=True)
    if wanted.table:
        print(table(list(known.values())))


if __name__ == "__main__":
    main()
