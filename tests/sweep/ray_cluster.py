"""A Ray cluster of two nodes in one machine, one of which is lost in the middle of a sweep. Run by test_ray.py."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread


def main(out, log):
    from ray.cluster_utils import Cluster

    from metabench.sweep import Job, Ray
    from metabench.sweep.jobs import read_plan

    jobs = read_plan(Path(out) / "jobs.jsonl")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)

    raylet = lost.all_processes["raylet"][0].process.pid

    def lose():
        while not in_the_middle(log, children(raylet)):
            time.sleep(0.02)
        gone = children(raylet)
        cluster.remove_node(lost, allow_graceful=False)
        for pid in gone:  # a machine that is lost takes its processes with it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        note["lost"] = len(list((Path(out) / "results").glob("*")))

    note = {"lost": None}
    thread = Thread(target=lose)
    thread.start()
    states = {event.job.key(): event.state for event in Ray(cluster.address).events(jobs, Path(out))}
    thread.join()
    print(json.dumps({"states": states, "lost": note["lost"], "jobs": [Job.key(job) for job in jobs]}))
    cluster.shutdown()


def children(parent):
    """The processes that a process has started."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            pid, rest = path.read_text().split(" (", 1)
            found |= {int(pid)} if int(rest.rsplit(")", 1)[1].split()[1]) == parent else set()
    return found


def in_the_middle(log, pids):
    """Whether one of these processes has counted to 2, 3 or 4 of 8."""
    words = [line.split() for line in lines(log)]
    seeds = [word[1] for word in words if word[0] == "begin" and int(word[2]) in pids]
    return any(2 <= sum(word[:2] == ["part", seed] for word in words) <= 4 for seed in seeds)


def lines(log):
    return Path(log).read_text().splitlines() if Path(log).exists() else []


if __name__ == "__main__":
    main(*sys.argv[1:])
