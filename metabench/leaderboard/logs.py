"""What an entry keeps of its runs' logs: environment steps, iterations, and where they were logged returns and seconds.

They are the submitter's own words: drawn as learning curves, ranked by nowhere. Entries that were made before logs had
returns may have their curves in `curves.json` beside the boards, drawn from the runs' records in the repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from metabench.evaluation.results import Record
from metabench.leaderboard.replay import Fault

CURVES = "curves.json"  # in the folder of the leaderboards: an entry's place to the curves of its runs
ROWS = 1000  # of a run's log that an entry keeps
SHARES = (0.5, 0.75)  # of the way from random to the oracle: where the steps that training took are told
_COUNTS, _NUMBERS = ("iteration", "frames"), ("return", "seconds")
_LONGEST = 10**7  # bytes of the file of curves

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e12, le=1e12)]


class Curve(NamedTuple):
    """A run's mean return while it trained."""

    seed: int | None
    frames: Sequence[float]  # [K] environment steps
    returns: Sequence[float]  # [K]


class Milestone(NamedTuple):
    """How much training it took to come some way from random to the oracle."""

    share: float  # of the way
    level: float  # return of an episode while training
    steps: float  # environment steps until then, median over the runs; infinite where half of them never came so far
    came: int  # runs that did
    runs: int  # whose curve is known


class _Told(Record):
    seed: int | None = Field(default=None, ge=0)
    frames: tuple[Annotated[int, Field(ge=0, le=10**15)], ...] = Field(max_length=ROWS)
    returns: tuple[Finite, ...] = Field(max_length=ROWS)


_FILE = TypeAdapter(dict[str, tuple[_Told, ...]])


def log_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """What a run's metrics tell of its training, as an entry keeps it: at most 1000 rows, with the first and the last.

    Args:
        rows: Of `metrics.jsonl`; kept are `iteration`, `frames`, `return`, and the seconds since training began.
    """
    told, spent, last = [], 0.0, 0
    for row in rows:
        spent += seconds_of(row, last)
        last = max(last, int(row.get("frames", last)))
        kept: dict[str, Any] = {name: int(row[name]) for name in _COUNTS if name in row}
        if kept and (value := _finite(row.get("return"))) is not None:
            kept["return"] = value
            kept |= {"seconds": round(spent, 2)} if spent else {}
        told.append(kept)
    told = [row for row in told if row]
    if len(told) > ROWS:
        told = [told[round(place)] for place in np.linspace(0, len(told) - 1, ROWS)]
    return "".join(json.dumps(row) + "\n" for row in told)


def seconds_of(row: Mapping[str, Any], last: int) -> float:
    """What a row of metrics took, by its seconds or its speed since `last` environment steps; 0 if it tells neither."""
    if row.get("time/seconds"):
        return float(row["time/seconds"])
    speed = row.get("time/frames_per_s")
    return max(0.0, int(row.get("frames", last)) - last) / float(speed) if speed else 0.0


def read_log(index: int, text: str) -> list[dict[str, Any]]:
    """The rows of the log of run `index`; Fault where it is none, or its environment steps go back."""
    rows, frames = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not _known(row):
            raise Fault(f"line {number} of the log of run {index} does not tell iteration and frames")
        if row.get("frames", frames) < frames:
            raise Fault(f"line {number} of the log of run {index} goes back in its environment steps")
        frames = row.get("frames", frames)
        rows.append(row)
    return rows


def curves_of(logs: Mapping[int, str], seeds: Sequence[int | None]) -> tuple[Curve, ...]:
    """The learning curves that the logs of the runs tell; runs whose log has no returns are left out."""
    found = []
    for index, text in sorted(logs.items()):
        points = [(row["frames"], row["return"]) for row in read_log(index, text) if {"frames", "return"} <= row.keys()]
        if len(points) > 1 and index < len(seeds):
            frames, returns = zip(*points, strict=True)
            found.append(Curve(seeds[index], frames, returns))
    return tuple(found)


def milestones(curves: Sequence[Curve], levels: Mapping[str, float]) -> tuple[Milestone, ...]:
    """When the return in training first passed each of `SHARES` of the way from random to the oracle.

    Args:
        curves: Of an entry's runs.
        levels: The yardsticks' mean returns. Where there is no oracle, the best of the others stands for it.

    Returns:
        None at all where no curve is known, or no level lies above random's.
    """
    low = levels.get("random")
    others = [value for name, value in levels.items() if name != "random"]
    if not curves or low is None or not others:
        return ()
    high = levels.get("oracle", max(others))
    if high <= low:
        return ()
    return tuple(_milestone(curves, share, low + share * (high - low)) for share in SHARES)


def _milestone(curves: Sequence[Curve], share: float, level: float) -> Milestone:
    steps = [
        next((float(at) for at, value in zip(curve.frames, curve.returns, strict=True) if value >= level), math.inf)
        for curve in curves
    ]
    return Milestone(share, level, float(np.median(steps)), sum(map(math.isfinite, steps)), len(steps))


def read_curves(root: Path) -> dict[str, tuple[Curve, ...]]:
    """The curves beside the boards, by an entry's place; ValueError in one sentence if the file is damaged."""
    path = root / CURVES
    if not path.is_file():
        return {}
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} has more than {_LONGEST:,} bytes")
    try:
        told = _FILE.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{path} holds no curves: {first['msg']}") from None
    for place, runs in told.items():
        if any(len(run.frames) != len(run.returns) or len(run.frames) < 2 for run in runs):
            raise ValueError(f"{path}: a curve of {place} has not as many environment steps as returns")
    return {place: tuple(Curve(run.seed, run.frames, run.returns) for run in runs) for place, runs in told.items()}


def _known(row: Mapping[str, Any]) -> bool:
    counts = all(type(row[name]) is int and row[name] >= 0 for name in _COUNTS if name in row)
    numbers = all(_finite(row[name]) is not None for name in _NUMBERS if name in row)
    return row.keys() <= {*_COUNTS, *_NUMBERS} and counts and numbers


def _finite(value: Any) -> float | None:
    if type(value) not in (int, float) or not -1e12 <= value <= 1e12:
        return None
    return float(value) if math.isfinite(value) else None
