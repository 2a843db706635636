"""Meta-DT, DT, Prompt-DT and cloning across benchmarks: the last episode of a trial, on tasks never met.

    python -m studies.meta_dt.across

Made of what is kept of the queue's tables; DT's page has it under the name across-dt, Prompt-DT's as across-prompt-dt.
The intervals (95 %) are over runs, tasks and repeats (`by_episode`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

import metabench
from metabench.sweep import Job
from metabench.sweep.folder import JOB
from studies.evidence import KEPT, Row, Table, read_queue
from studies.meta_dt.by_episode import interval, returns_of

BASES = ("prompt-dt", "dt", "bc")
SETS: dict[str, tuple[str, Mapping[str, str]]] = {  # the queue's table, and its row for each agent
    "PointRobot, medium": (
        "point-robot-qualities",
        {a: f"{a}, medium" for a in BASES} | {"meta-dt": "meta-dt trial, medium"},
    ),
    "PointRobot, mixed": (
        "point-robot-offline",
        {"prompt-dt": "prompt-dt, a rank asked for", "dt": "dt", "bc": "bc", "meta-dt": "meta-dt trial"},
    ),
    "PointRobot, expert": (
        "point-robot-qualities",
        {a: f"{a}, expert" for a in BASES} | {"meta-dt": "meta-dt trial, expert"},
    ),
    "SparsePointRobot, mixed-2": (
        "sparse-point-robot-offline",
        {a: a for a in BASES} | {"meta-dt": "meta-dt trial"},
    ),
    "CheetahVel, mixed": (
        "cheetah-vel-offline",
        {"prompt-dt": "prompt-dt, a rank asked for", "bc": "bc", "meta-dt": "meta-dt trial"},
    ),
    "CheetahDir, mixed-2": (
        "cheetah-dir-offline",
        {a: f"{a}, mixed-2" for a in BASES} | {"meta-dt": "meta-dt trial, mixed-2"},
    ),
    "HopperParam, mixed-2": ("hopper-param-offline", {a: a for a in BASES} | {"meta-dt": "meta-dt trial"}),
    "Meta-World Reach, mixed": ("metaworld-reach-offline", {"dt": "dt", "bc": "bc", "meta-dt": "meta-dt trial"}),
}
PAGES = {"across-dt": ("dt", "meta-dt", "bc"), "across-prompt-dt": ("prompt-dt", "meta-dt", "oracle")}


def row_of(label: str, agent: str, tables: Mapping[str, Table]) -> Row | None:
    """The queue's row of an agent on a set of data, or None where there is none."""
    name, rows = SETS[label]
    return next((row for row in tables[name].rows if row.name == rows.get(agent)), None)


def kept_jobs(row: Row, kept: Path) -> list[Job]:
    """Those of its runs that are kept."""
    return [job for job in row.jobs if (kept / job.key() / JOB).exists()]


def render(*agents: str, kept: Path = KEPT) -> str:
    """The table as Markdown, a line to each set and a column to each agent, "oracle" among them; and the keys."""
    tables = {table.name: table for table in read_queue()}
    lines, keys = [], []
    for label in SETS:
        there = {agent: row_of(label, agent, tables) for agent in agents}
        jobs = {agent: kept_jobs(row, kept) for agent, row in there.items() if row}
        if not jobs.get(agents[0]):
            continue
        settings = jobs[agents[0]][0].settings
        split, benchmark = settings["splits"][0], settings["benchmark"]
        oracle = metabench.spec(benchmark).references(split)["oracle"]["mean"]
        digits = 2 if abs(oracle) < 100 else 0
        cells = []
        for agent in agents:
            if agent == "oracle":
                cells.append(f"{oracle:.{digits}f}")
            elif found := jobs.get(agent):
                last = returns_of(found, split, kept)[..., -1]
                mean, low, high = interval(last, np.random.default_rng(0))
                cells.append(f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
                keys.append(f"{label}, {agent}: {' '.join(job.key() for job in found)}")
            else:
                cells.append("")
        runs = sorted({len(found) for found in jobs.values()})
        lines.append(f"| {label} | {' or '.join(map(str, runs))} | {' | '.join(cells)} |")
    head = [f"| benchmark, data | runs | {' | '.join(a if a == 'oracle' else f'`{a}`' for a in agents)} |"]
    head.append("| --- " * (2 + len(agents)) + "|")
    return "\n".join([*head, *lines, "", "<!-- keys", *keys, "-->", ""])


if __name__ == "__main__":
    for names in PAGES.values():
        print(render(*names))
