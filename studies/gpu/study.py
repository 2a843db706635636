"""Everything a GPU is asked for, in one command of less than nine minutes.

    make gpu             # on a machine with CUDA; writes docs/results/gpu/DATE-DEVICE.json and the speed page's section
    make gpu-rehearsal   # the same at small sizes on the CPU, graphs played operation by operation; writes to a folder

Stages are processes of their own with a budget each, ended when it is spent: tests marked `gpu`; checks of every
agent's update against the CPU's; speeds with kernel counts; learning curves. What a stage found until then is kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from metabench.evaluation.results import write_atomically
from studies.gpu.page import write_page

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "gpu"
BUDGETS = {"tests": 90.0, "checks": 95.0, "speeds": 240.0, "curves": 75.0}  # seconds: 500 in all
REHEARSAL = {"tests": 0.0, "checks": 900.0, "speeds": 1200.0, "curves": 90.0}  # generous: the machine may be busy
GRACE = 5.0  # seconds a stage gets beside its budget before it is killed


def run_stage(name: str, seconds: float, folder: Path, rehearsal: bool) -> dict[str, Any]:
    """One stage as a process; what it found, and how long it took."""
    out, start = folder / f"{name}.jsonl", time.monotonic()
    if name == "tests":
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests", "-p", "no:cacheprovider"]
    else:
        command = [sys.executable, "-m", "studies.gpu.stages", name, "--out", str(out), "--seconds", str(seconds)]
        command += ["--rehearsal"] if rehearsal else []
    paths = os.pathsep.join([str(ROOT), str(ROOT / "agents"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=seconds + GRACE)
        ended = "done" if process.returncode == 0 else f"failed ({process.returncode})"
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        ended = "out of time"
    text = output.decode(errors="replace")
    print(f"{name}: {ended} after {time.monotonic() - start:.0f} s")
    if ended.startswith("failed") or name == "tests":
        print(text[-3000:])
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    found: dict[str, Any] = {"ended": ended, "seconds": round(time.monotonic() - start, 1), "rows": rows}
    return found | ({"summary": text.strip().splitlines()[-1:]} if name == "tests" else {})


def device_name(rehearsal: bool) -> str:
    """What the figures are of."""
    return "rehearsal on a CPU" if rehearsal else torch.cuda.get_device_name()


def main() -> None:
    """All stages, the record, the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearsal", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--out", type=Path, help="folder; docs/results/gpu by default, a new one in a rehearsal")
    parser.add_argument("--only", nargs="+", choices=BUDGETS, help="stages")
    asked = parser.parse_args()
    if not asked.rehearsal and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: `make gpu-rehearsal` does the same, small, on the CPU")
    budgets = REHEARSAL if asked.rehearsal else BUDGETS
    name = device_name(asked.rehearsal)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    record: dict[str, Any] = {"schema": 1, "date": today, "device": name, "rehearsal": asked.rehearsal}
    record |= {"torch": torch.__version__, "cuda": torch.version.cuda, "stages": {}}
    out = asked.out or (Path(tempfile.mkdtemp(prefix="metabench-gpu-")) if asked.rehearsal else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{today}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    with tempfile.TemporaryDirectory() as folder:
        for stage, seconds in budgets.items():
            if seconds and (not asked.only or stage in asked.only):
                record["stages"][stage] = run_stage(stage, seconds, Path(folder), asked.rehearsal)
                write_atomically(path, json.dumps(record, indent=1).encode())
    write_page(record, out if asked.rehearsal or asked.out else ROOT / "docs")
    print(f"written: {path}")
    if missing := faults(record):
        raise SystemExit("\n".join(missing))


def faults(record: dict[str, Any]) -> list[str]:
    """What went wrong, a line each: stages that failed, updates that are not equal."""
    lines = [f"stage {name} {s['ended']}" for name, s in record["stages"].items() if s["ended"].startswith("failed")]
    for stage in record["stages"].values():
        for row in stage["rows"]:
            what = row.get("agent") or row.get("work") or row.get("run")
            late = row.get("missing") == "out of time"  # on a GPU that is for the reader to judge: the time is short
            if "missing" in row and (not late or record.get("rehearsal")):
                lines.append(f"{what} ({row['form']}): {row['missing']}")
            if row.get("equal") is False:
                lines.append(f"{what} ({row['form']}) differs by {max(row['parameters'], row['metrics']):.1e}")
    return lines


if __name__ == "__main__":
    main()
