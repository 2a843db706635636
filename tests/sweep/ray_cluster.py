"""A Ray cluster of two nodes in one machine, one of which is lost in the middle of a sweep. Run by test_ray.py."""

import json
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

    def lose():
        begun = lambda: len({line.split()[2] for line in lines(log) if line.startswith("begin")})  # noqa: E731
        while begun() < 2 or sum(line.startswith("part") for line in lines(log)) < 6:
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)
        note["lost"] = len(list((Path(out) / "results").glob("*")))

    note = {"lost": None}
    thread = Thread(target=lose)
    thread.start()
    states = {event.job.key(): event.state for event in Ray(cluster.address).events(jobs, Path(out))}
    thread.join()
    print(json.dumps({"states": states, "lost": note["lost"], "jobs": [Job.key(job) for job in jobs]}))
    cluster.shutdown()


def lines(log):
    return Path(log).read_text().splitlines() if Path(log).exists() else []


if __name__ == "__main__":
    main(*sys.argv[1:])
