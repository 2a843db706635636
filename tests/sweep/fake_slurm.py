"""A Slurm of one machine for tests: `sbatch`, `squeue` on PATH, whose members are killed now and then.

Members run two at a time. While `kills` has a number above zero, every second member that starts is killed with its
children a moment later: a part of them is requeued, as Slurm does for a lost node with --requeue, the rest is gone for
good, as members that Slurm marks as failed by NODE_FAIL.
"""

import glob
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["FAKE_SLURM"])


def expand(text):
    for part in text.split(","):
        low, _, high = part.partition("-")
        yield from range(int(low), int(high or low) + 1)


def sbatch(arguments):
    assert "--parsable" in arguments
    (array,) = (a.partition("=")[2] for a in arguments if a.startswith("--array="))
    script = Path(arguments[-1]).read_text()
    assert re.search(r"^#SBATCH --requeue$", script, re.MULTILINE)
    number = 1 + len(list(HERE.glob("array-*")))
    members = HERE / f"array-{number}"
    members.mkdir()
    for index in expand(array):
        (members / f"{index}.queued").write_text("")
    (HERE / f"script-{number}").write_text(script)
    subprocess.Popen(
        [sys.executable, __file__, "controller", str(number)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with (HERE / "submitted").open("a") as file:
        file.write(json.dumps(sorted(expand(array))) + "\n")
    print(number)


def squeue(arguments):
    assert "--format=%F %K" in arguments and "--noheader" in arguments and "--array" in arguments
    for path in sorted(HERE.glob("array-*/*.queued")):
        print(path.parent.name.removeprefix("array-"), path.name.removesuffix(".queued"))


def kill_wanted():
    path = HERE / "kills"
    left = int(path.read_text()) if path.exists() else 0
    if left > 0:
        path.write_text(str(left - 1))
    return left


def due(deadline):
    """Whether it is time to kill: some seconds after the start, or when a file is there."""
    pattern = os.environ.get("FAKE_SLURM_KILL_WHEN")
    return bool(glob.glob(pattern)) if pattern else time.monotonic() > deadline  # noqa: PTH207


def controller(number):
    members, running = HERE / f"array-{number}", {}
    waiting = sorted(int(path.stem) for path in members.glob("*.queued"))
    while waiting or running:
        while waiting and len(running) < 2:
            index = waiting.pop(0)
            environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(index)}
            with (HERE / f"log-{number}-{index}").open("ab") as log:
                process = subprocess.Popen(
                    ["bash", HERE / f"script-{number}"], env=environment, stdout=log, stderr=log, start_new_session=True
                )
            running[index] = (process, time.monotonic() + float(os.environ["FAKE_SLURM_KILL_AFTER"]), kill_wanted())
        for index, (process, deadline, kill) in list(running.items()):
            if process.poll() is None and kill and due(deadline):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                (HERE / "killed").open("a").write(f"{index}\n")
                if kill % 2:  # its node was lost, and Slurm has it run again
                    del running[index]
                    waiting.append(index)
                    continue
            if process.poll() is not None:
                (members / f"{index}.queued").unlink()
                del running[index]
        time.sleep(0.05)


if __name__ == "__main__":
    command = Path(sys.argv[0]).name
    if sys.argv[1:2] == ["controller"]:
        controller(sys.argv[2])
    else:
        {"sbatch": sbatch, "squeue": squeue}[command](sys.argv[1:])
