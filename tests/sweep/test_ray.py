"""The Ray engine: a node is lost without grace in the middle, and the results are those of a serial run."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from metabench.sweep import Job, Local, Ray, digest
from metabench.sweep.folder import Place
from metabench.sweep.jobs import add_to_plan

INSTALLED = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not INSTALLED, reason="needs pip install 'metabench[ray]'")
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def run(code, *arguments):
    """In a process of its own: Ray leaves threads and warnings behind."""
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *code, *map(str, arguments)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return json.loads(answer.stdout.splitlines()[-1])


def digests(out):
    return {path.name: digest(path) for path in Place(out).results.iterdir()}


@needs_ray
@pytest.mark.slow
def test_a_lost_node_changes_no_byte(tmp_path, study):
    log, out = tmp_path / "log", tmp_path / "out"
    jobs = [study("count", seed, log=str(log), seconds=0.8, parts=8) for seed in range(6)] + [study("fail", 9)]
    training = {
        "agent": "rl2",
        "benchmark": "GridNavigation-v0",
        "config": {"frames": 1000, "trials": 4, "hidden": 16, "embed": 16, "head": 16},
        "splits": ["test"],
        "checkpoint_every": 2,
    }
    jobs += [Job("train", training, 0)]
    add_to_plan(out / "jobs.jsonl", jobs)
    said = run([Path(__file__).parent / "ray_cluster.py"], out, log)
    assert said["lost"] is not None and said["lost"] < 6, "the node was lost while there was work"
    assert Counter(said["states"].values()) == {"done": 7, "failed": 1}
    ends = Counter(line for line in log.read_text().splitlines() if line.startswith("end"))
    assert ends == {f"end {seed}": 1 for seed in range(6)}
    begun = [line for line in log.read_text().splitlines() if line.startswith("begin")]
    assert len(begun) > 6, "what the lost node was at was begun again"
    list(Local(1).map(jobs, tmp_path / "serial"))
    assert digests(out) == digests(tmp_path / "serial") and len(digests(out)) == 7


@needs_ray
def test_an_address_that_nobody_answers_at_is_told_before_anything_starts():
    with socket.socket() as server:  # bound, and not listening
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
            Ray(f"127.0.0.1:{port}").check()
    for address in ("somewhere", "host:port", ":1"):
        with pytest.raises(ValueError, match="HOST:PORT or auto"):
            Ray(address).check()


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_this_machine_alone(tmp_path, study):
    """Ray's workers may die as well: one that always does fails its job, and no other."""
    log, out = tmp_path / "log", tmp_path / "out"
    jobs = [study("trivial", 0), study("die", 1, log=str(log)), study("die", 2, log=str(tmp_path / "other"), times=1)]
    add_to_plan(out / "jobs.jsonl", jobs)
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom metabench.sweep import Ray\n"
        "from metabench.sweep.jobs import read_plan\nout = Path(sys.argv[1])\n"
        "events = Ray(workers=2, retries=2).events(read_plan(out / 'jobs.jsonl'), out)\n"
        "print(json.dumps([[e.job.seed, e.state, e.reason] for e in events if e.state != 'started']))"
    )
    said = {seed: (state, reason) for seed, state, reason in run(["-c", code], out)}
    assert said[0][0] == "done" and said[2][0] == "done"
    assert said[1][0] == "failed" and "WorkerCrashedError" in said[1][1]
    assert len(log.read_text().splitlines()) == 3


@needs_ray
@pytest.mark.slow
def test_auto_without_a_cluster_is_told_in_a_sentence(tmp_path):
    code = (
        "import json\nfrom pathlib import Path\nfrom metabench.sweep import Ray\n"
        f"try: list(Ray('auto').map([], Path({str(tmp_path)!r})))\n"
        "except ValueError as error: print(json.dumps(str(error)))"
    )
    said = run(["-c", code])
    assert said.startswith("no Ray cluster can be used at auto: ") and "\n" not in said


@pytest.mark.skipif(INSTALLED, reason="ray is installed")
def test_without_ray_the_extra_is_named():
    with pytest.raises(ImportError, match=r"pip install 'metabench\[ray\]'"):
        Ray().check()
