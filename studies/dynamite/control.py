"""Continuous control whose task switches: what agents come to, and in how many steps, benchmark by benchmark.

    python -m studies.dynamite.control

Made of what is kept of the queue's tables; a page has it under the name switch-control. The share is of the way from
random to the filter, which infers the task exactly and acts on it through the oracle. Steps to a share are those after
which the mean of `WINDOW` steps' training returns, with the noise of exploring, first comes so far. Minutes are a whole
run's, evaluation included, of one core that others' threads shared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import metabench
from metabench.sweep import Job
from metabench.sweep.folder import JOB, TIME
from studies.efficiency import Curve, efficiency, thresholds
from studies.evidence import CURVE, KEPT, read_queue, returns
from studies.steps import curve_of

WINDOW = 16_000  # environment steps
SHARES = (0.5, 0.75)  # of the way
OURS = "dynamite, SAC in hindsight, more of the model"
ROWS = (  # table after the benchmark's name, row, what it is called here
    ("replay", OURS, "DynaMITE-RL, SAC in hindsight"),
    ("replay", "dynamite, SAC in hindsight, 400,000 steps", "the same, longer"),
    ("replay", "varibad, SAC", "VariBAD, SAC"),
    ("replay", "rsac, parts of 64 ticks", "recurrent SAC"),
    ("2m", "rl2", "RL², PPO"),
    ("2m", "dynamite", "DynaMITE-RL, PPO"),
    ("2m", "varibad", "VariBAD, PPO"),
)
FAMILIES = {
    "CheetahVelSwitch-v0": "cheetah-vel-switch",
    "CheetahDirSwitch-v0": "cheetah-dir-switch",
    "CheetahWindVelSwitch-v0": "cheetah-wind-vel-switch",
    "ReacherSwitch-v0": "reacher-switch",
    "ScratchItchSwitch-v0": "scratch-itch-switch",
}


def ends(benchmark: str) -> tuple[float, float]:
    """The returns of random and of the filter on test tasks."""
    known = metabench.spec(benchmark).references("test")
    exact = next(known[name]["mean"] for name in ("task-filter", "itch-filter") if name in known)
    return known["random"]["mean"], exact


def steps_to(curves: Sequence[Curve], value: float) -> str:
    """Millions of steps until training returns come to a level: the median over runs, and how many runs come there."""
    window = max(1, round(WINDOW / float(np.diff(curves[0].frames).mean())))
    found = efficiency(curves, value, window)
    count = f"({found.reached} of {len(found.steps)})"
    return f"{found.median / 1e6:.2f} {count}" if np.isfinite(found.median) else f"not by half {count}"


def minutes(jobs: Sequence[Job], kept: Path) -> float:
    """Of one core that a run took: the median."""
    told = [json.loads((kept / job.key() / JOB).read_text())[f"{TIME}cpu_seconds"] for job in jobs]
    return float(np.median(told)) / 60


def line(benchmark: str, name: str, jobs: Sequence[Job], kept: Path) -> str:
    """One agent on one benchmark."""
    curves = [curve for job in jobs if (curve := curve_of(kept / job.key() / CURVE, "return"))]
    found, given, (low, high) = returns(jobs, "test", kept), curves[0].frames[-1] / 1e6, ends(benchmark)
    interval = f" [{found.low:.1f}, {found.high:.1f}]" if len(jobs) > 1 else ""
    beyond = f"{returns(jobs, 'ood', kept).estimate:.1f}"
    cells = [steps_to(curves, value) for value in thresholds(low, high, SHARES).values()]
    reached = f"{100 * (found.estimate - low) / (high - low):.0f} %"
    told = [
        name,
        str(len(jobs)),
        f"{given:.2f}",
        f"{minutes(jobs, kept):.1f}",
        f"{found.estimate:.1f}{interval}",
        reached,
        beyond,
        *cells,
    ]
    return f"| {benchmark.removesuffix('-v0')} | {' | '.join(told)} |"


def render(kept: Path = KEPT) -> str:
    """The table as Markdown, with the keys of its runs."""
    rows = {f"{table.name}: {row.name}": row for table in read_queue() for row in table.rows}
    lines, keys = [], []
    for benchmark, prefix in FAMILIES.items():
        for suffix, row, name in ROWS:
            known = rows.get(f"{prefix}-{suffix}: {row}")
            jobs = [job for job in known.jobs if (kept / job.key() / JOB).exists()] if known else []
            if jobs:
                lines.append(line(benchmark, name, jobs, kept))
                keys.append(f"{benchmark}, {name}: {' '.join(job.key() for job in jobs)}")
    steps = " | ".join(f"M steps to {100 * portion:.0f} % of it" for portion in SHARES)
    plain = ("benchmark", "agent", "runs", "M steps", "minutes of a core", "return, test", "of the filter's way", "ood")
    head = f"| {' | '.join(plain)} | {steps} |"
    return "\n".join([head, "| --- " * (len(plain) + len(SHARES)) + "|", *lines, "", "<!-- keys", *keys, "-->", ""])


if __name__ == "__main__":
    print(render())
