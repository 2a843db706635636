"""Learning curves of agents that meet no task while they learn, from data for instance: kept checkpoints are played.

A run that keeps its checkpoints (`Run(..., keep_every=5)`, `metabench train ... --curve-every 5`) is played at each of
them once it is done. What that says lies in `curve.jsonl`, a row to a checkpoint, and `checkpoints/` is gone. The agent
learns nothing from it, and nothing is chosen by it: a curve with `test` in it only reports.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabench.evaluation.evaluate import evaluate, standard_protocol
from metabench.evaluation.results import Protocol
from metabench.plugins import load_run
from metabench.runs import CHECKPOINT, CONFIG, CURVE, KEPT, METRICS, checkpoint_state, read_metrics

HEAD = ("frames", "update", "updates")  # of a metrics row: how far training was


class Points(NamedTuple):
    """What a curve's points are made of."""

    every: int  # iterations between two
    splits: Sequence[str] = ("train",)  # that are played
    episodes: int | None = None  # of a trial; the benchmark's own if None
    repeats: int = 1  # trials of a task


def play_kept(folder: Path, benchmark: str, points: Points) -> list[dict[str, Any]]:
    """Plays the checkpoints that a run has kept, writes `curve.jsonl`, and removes them; continues where it was killed.

    Args:
        folder: Of a run that is done.
        benchmark: That it was trained on.
        points: What is played.

    Returns:
        The rows: `iteration`, `frames` or `update`, and for each split the mean return of a trial's first episode
        (`train/first`), of its last (`train/last`) and of all (`train/mean`).

    Raises:
        ValueError: In one sentence: the agent keeps no checkpoints, or one of them is no agent.
    """
    kept = sorted((folder / KEPT).glob("*.safetensors"))
    rows = read_metrics(folder, CURVE)
    if not kept and not rows:
        raise ValueError(f"{folder} has kept no checkpoints, so there is no curve to play: its agent writes none")
    known = {row["iteration"] for row in rows}
    with (folder / CURVE).open("ab") as file:
        file.truncate(sum(len(json.dumps(row)) + 1 for row in rows))  # a row that a kill has cut is played again
        for path in kept:
            if (iteration := int(path.stem)) in known:
                continue
            row = {"iteration": iteration, **_progress(folder, path), **_play(folder, path, benchmark, points)}
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            rows.append(row)
    shutil.rmtree(folder / KEPT, ignore_errors=True)
    return rows


def _progress(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """How far training was, by the last row that was logged before the checkpoint."""
    with (folder / METRICS).open("rb") as file:
        lines = file.read(checkpoint_state(checkpoint)["metrics_bytes"]).splitlines()
    row = json.loads(lines[-1]) if lines else {}
    found = {name: row[name] for name in HEAD if name in row}
    return {"update" if name == "updates" else name: count for name, count in found.items()} or {"update": 0}


def _play(folder: Path, checkpoint: Path, benchmark: str, points: Points) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(folder / CONFIG, Path(place) / CONFIG)
        shutil.copy(checkpoint, Path(place) / CHECKPOINT)
        agent, record = load_run(Path(place))
    found = {}
    for split, protocol in _protocols(benchmark, points, record.protocol):
        by_episode = evaluate(agent, protocol, train_seed=record.seed).array().mean(axis=(0, 1))  # [episodes]
        found |= {
            f"{split}/first": by_episode[0],
            f"{split}/last": by_episode[-1],
            f"{split}/mean": np.mean(by_episode),
        }
    return {name: round(float(value), 6) for name, value in found.items()}


def _protocols(benchmark: str, points: Points, version: str) -> Iterator[tuple[str, Protocol]]:
    for split in points.splits:
        standard = standard_protocol(benchmark, split, version=version)
        changed = {"repeats": points.repeats, "episodes": points.episodes or standard.episodes}
        yield split, Protocol.model_validate(standard.model_dump() | changed)
