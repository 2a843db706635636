"""Steps of a study that tests give to engines: cheap, and they tell in a file beside them when they began and ended."""

import json
import os
import signal
import time
from pathlib import Path


def note(log, *words):
    """One line, written at once: lines of several processes do not mix."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, (" ".join(map(str, words)) + "\n").encode())
    os.close(handle)


def count(seed, folder, log, seconds=0.0, parts=1):
    """Counts to `parts` with a checkpoint after each; an attempt goes on where the last one was killed."""
    note(log, "begin", seed, os.getpid())
    path = Path(folder) / "count.json"
    done = json.loads(path.read_text())["done"] if path.exists() else 0
    while done < parts:
        time.sleep(seconds / parts)
        done += 1
        note(log, "part", seed, done)
        part = path.with_name(".count.json")
        part.write_text(json.dumps({"done": done, "time/at": time.time()}))
        part.replace(path)
    note(log, "end", seed)
    return {"seed": seed, "square": seed * seed}


def trivial(seed, folder):
    return seed


def fail(seed, folder, unless=""):
    print("this is printed before it fails")
    if unless and Path(unless).exists():
        return "done after all"
    raise RuntimeError(f"step {seed}\nis broken")


def die(seed, folder, log, times=10**9):
    """Kills its own process, the first `times` times."""
    note(log, "begin", seed)
    if Path(log).read_text().split("\n").count(f"begin {seed}") <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def chatty(seed, folder):
    print("on the standard output")
    os.write(1, b"by the C library\n")
    return None


def endless_numbers(seed, folder):
    return float("nan")
