"""The local engine: workers and whole sweeps are killed, and the results stay those of an undisturbed serial run."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from metabench.runs import iterations_done
from metabench.sweep import Job, Local, digest
from metabench.sweep.folder import Place
from metabench.sweep.jobs import add_to_plan

TRAINING = {
    "agent": "rl2",
    "benchmark": "GridNavigation-v0",
    "config": {"frames": 6000, "trials": 8, "hidden": 16, "embed": 16, "head": 16},
    "splits": ["test"],
    "checkpoint_every": 5,
}


def digests(out):
    return {path.name: digest(path) for path in Place(out).results.iterdir()}


def counts(log):
    """How often each step was finished."""
    return Counter(line for line in Path(log).read_text().splitlines() if line.startswith("end"))


def start(out, *words):
    """A sweep's own process, in a group of its own, so that its workers can be killed with it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "metabench.cli", "sweep", *words]
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def parts(log):
    return sum(line.startswith("part") for line in lines(log))


def test_events_and_results(tmp_path, study):
    jobs = [study("trivial", seed) for seed in range(3)] + [study("fail", 9)]
    events = list(Local(2).events(jobs, tmp_path))
    assert Counter(event.state for event in events) == {"started": 4, "done": 3, "failed": 1}
    assert {event.job for event in events if event.state == "done"} == set(jobs[:3])
    (failed,) = (event for event in events if event.state == "failed")
    assert failed.job == jobs[3] and failed.reason == "RuntimeError: step 9 is broken" and failed.ran
    again = list(Local(2).events(jobs, tmp_path))
    assert [event.state for event in again] == ["done"] * 3 + ["failed"] and not any(event.ran for event in again)
    assert sorted(Local(1).map(jobs, tmp_path)) == sorted(Place(tmp_path).result(job.key()) for job in jobs[:3])


def test_a_job_whose_process_dies_is_tried_again_a_few_times(tmp_path, study):
    log, other = tmp_path / "log", tmp_path / "other"
    jobs = [study("die", 0, log=str(log), times=2), study("die", 1, log=str(other)), study("trivial", 2)]
    events = {
        event.job: event for event in Local(2, retries=2).events(jobs, tmp_path / "out") if event.state != "started"
    }
    assert [events[job].state for job in jobs] == ["done", "failed", "done"]
    assert "died 3 times, last killed by signal 9" in events[jobs[1]].reason
    assert len(lines(log)) == 3 and len(lines(other)) == 3


@pytest.mark.slow
def test_several_workers_and_a_serial_run_leave_the_same_bytes(tmp_path):
    jobs = [Job("train", TRAINING, seed) for seed in range(2)]
    list(Local(1).map(jobs, tmp_path / "serial"))
    killed = 0
    for event in Local(2).events(jobs, tmp_path / "many"):
        if event.state == "started" and not killed:
            place = Place(tmp_path / "many")
            wait_for(lambda: (place.work / event.job.key() / "checkpoint.safetensors").exists())  # noqa: B023
            (victim, *_) = workers(os.getpid())
            os.kill(victim, signal.SIGKILL)
            killed += 1
    assert killed == 1
    assert digests(tmp_path / "many") == digests(tmp_path / "serial") and len(digests(tmp_path / "many")) == 2


def workers(parent):
    """The processes of a sweep's workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = path.read_text().split(" (", 1)
            if int(rest.rsplit(")", 1)[1].split()[1]) == parent:
                command = Path(f"/proc/{pid}/cmdline").read_text()
                found += [int(pid)] if "metabench.sweep.worker" in command else []
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.parametrize("victim", ["group", "parent", "worker"])
def test_a_sweep_survives_kill_9(tmp_path, study, victim):
    """`sweep retry` does the work; the whole of it, its parent alone, or a worker is killed in the middle."""
    log, out = tmp_path / "log", tmp_path / "out"
    jobs = [study("count", seed, log=str(log), seconds=0.4, parts=4) for seed in range(8)]
    add_to_plan(Place(out).plan, jobs)
    for round in itertools.count():
        seen, process = parts(log), start(out, "retry", str(out), "--workers", "2")
        if round < 2:
            wait_for(lambda seen=seen: parts(log) > seen + 3)
            if victim == "worker":
                os.kill(workers(process.pid)[0], signal.SIGKILL)
            else:
                (os.killpg if victim == "group" else os.kill)(process.pid, signal.SIGKILL)
        code = process.wait(60)
        wait_for(lambda: not Place(out).running(), 20.0)  # a sweep's workers end with it, whatever ended it
        assert code == (0 if victim == "worker" or round >= 2 else -signal.SIGKILL)
        if code == 0:
            break
    assert counts(log) == {f"end {seed}": 1 for seed in range(8)}, "nothing is lost, nothing done twice"
    assert len(lines(log)) <= 8 * 6 + 2 * 2 * 2, "a part that was under way is done again, and no other"
    place = Place(out)
    assert sorted(path.name for path in place.results.iterdir()) == sorted(job.key() for job in jobs)
    for path in place.results.iterdir():
        assert sorted(p.name for p in path.iterdir()) == ["count.json", "job.json", "result.json"]
    wait_for(lambda: not any(place.work.glob("*/")))
    undisturbed = [study("count", job.seed, log=str(log), seconds=0.4, parts=4) for job in jobs]
    list(Local(1).map(undisturbed, tmp_path / "serial"))
    assert digests(out) == digests(tmp_path / "serial")


def test_kill_9_of_retry_keeps_failures_to_be_tried(tmp_path, study):
    log, out, mended = tmp_path / "log", tmp_path / "out", tmp_path / "mended"
    slow, broken = study("count", 0, log=str(log), seconds=1.0, parts=10), study("fail", 1, unless=str(mended))
    place = Place(out)
    add_to_plan(place.plan, [slow, broken])
    assert [event.state for event in Local(1).events([broken], out)] == ["started", "failed"]
    mended.touch()
    process = start(out, "retry", str(out), "--workers", "1")
    wait_for(lambda: parts(log) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not place.running())
    assert place.state(broken.key()) == "waiting" and place.state(slow.key()) == "waiting"
    assert place.failure(broken.key()).reason == "RuntimeError: step 1 is broken", "why it failed is not lost"
    assert start(out, "retry", str(out)).wait(60) == 0
    assert [place.state(job.key()) for job in (slow, broken)] == ["done", "done"]
    assert counts(log) == {"end 0": 1}


def test_two_sweeps_over_one_folder_share_the_work(tmp_path, study):
    log, out = tmp_path / "log", tmp_path / "out"
    jobs = [study("count", seed, log=str(log), seconds=0.3) for seed in range(10)]
    add_to_plan(Place(out).plan, jobs)
    both = [start(out, "retry", str(out), "--workers", "1") for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert counts(log) == {f"end {seed}": 1 for seed in range(10)}
    assert len({line.split()[2] for line in lines(log) if line.startswith("begin")}) == 2, "each did a part of it"


def test_workers_go_when_the_sweep_does(tmp_path, study):
    jobs = [study("count", seed, log=str(tmp_path / "log"), seconds=30.0) for seed in range(2)]
    events = Local(2).events(jobs, tmp_path / "out")
    assert next(events).state == "started" and next(events).state == "started"
    assert len(workers(os.getpid())) == 2
    events.close()
    assert not workers(os.getpid())


def test_workers_go_when_the_sweep_is_killed(tmp_path, study):
    out = tmp_path / "out"
    jobs = [study("count", seed, log=str(tmp_path / "log"), seconds=300.0) for seed in range(2)]
    add_to_plan(Place(out).plan, jobs)
    process = start(out, "retry", str(out), "--workers", "2")
    wait_for(lambda: len(Place(out).running()) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not Place(out).running(), 20.0)


LONG = TRAINING | {"config": TRAINING["config"] | {"frames": 30_000}, "checkpoint_every": 10**6}


def frames(place, job):
    path = place.work / job.key() / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["worker", "member"])
def test_sigterm_stops_a_training_run_behind_a_checkpoint(tmp_path, whom):
    """It comes to a process that does jobs: from a scheduler, or from the sweep, which was stopped by Ctrl-C."""
    job, out = Job("train", LONG, 0), tmp_path / "out"
    place, plan = Place(out), Place(out).plan
    add_to_plan(plan, [job])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["metabench.cli", "run-job", str(plan), "1"] if whom == "member" else ["metabench.sweep.worker", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", *words], env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        process.stdin.write(f"{job.to_json()}\n".encode())
        process.stdin.flush()
        wait_for(lambda: frames(place, job))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == (143 if whom == "member" else -signal.SIGTERM)
    reached = iterations_done(place.work / job.key())
    assert reached and reached > 0, "no checkpoint was due: this one was written because the run was asked to stop"
    assert place.state(job.key()) == "waiting" and not place.failure(job.key())


def test_ctrl_c_of_a_sweep_leaves_checkpoints_and_the_same_bits(tmp_path):
    job, out = Job("train", LONG, 0), tmp_path / "out"
    place = Place(out)
    add_to_plan(place.plan, [job])
    process = start(out, "retry", str(out), "--workers", "1")
    wait_for(lambda: frames(place, job))
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    assert process.wait(60) == 130
    assert iterations_done(place.work / job.key())
    assert start(out, "retry", str(out)).wait(120) == 0
    list(Local(1).map([job], tmp_path / "serial"))
    assert digests(out) == digests(tmp_path / "serial") and len(digests(out)) == 1


def memory():
    """Of this process, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_thousand_jobs_leave_the_parent_as_small_as_it_was(tmp_path, study):
    list(Local(2).map((study("trivial", seed) for seed in range(50)), tmp_path))
    before, done = memory(), 0
    for event in Local(2).events((study("trivial", seed) for seed in range(1050)), tmp_path):
        done += event.state == "done"
    assert done == 1050 and memory() - before < 2**21


@pytest.mark.benchmark
def test_a_thousand_trivial_jobs_cost_less_than_20_ms_each(tmp_path, study):
    list(Local(2).map([study("trivial", seed) for seed in range(2)], tmp_path))
    start = time.perf_counter()
    assert sum(1 for _ in Local(2).map((study("trivial", seed) for seed in range(2, 1002)), tmp_path)) == 1000
    assert (time.perf_counter() - start) / 1000 < 0.02
