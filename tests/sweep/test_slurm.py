"""The Slurm engine on a fake `sbatch` whose members are killed now and then, and the script it hands in."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from metabench.sweep import Job, Local, Slurm, digest
from metabench.sweep.folder import Place
from metabench.sweep.slurm import ranges, script

FAKE = Path(__file__).parent / "fake_slurm.py"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder of a fake Slurm whose commands are on PATH."""
    here, commands = tmp_path / "slurm", tmp_path / "commands"
    here.mkdir()
    commands.mkdir()
    for name in ("sbatch", "squeue"):
        path = commands / name
        path.write_text(f"#!{sys.executable}\n" + FAKE.read_text())
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=":")
    monkeypatch.setenv("FAKE_SLURM", str(here))
    monkeypatch.setenv("FAKE_SLURM_KILL_AFTER", "3")
    return here


def submitted(here):
    return [json.loads(line) for line in (here / "submitted").read_text().splitlines()]


def digests(out):
    return {path.name: digest(path) for path in Place(out).results.iterdir()}


def test_members_that_are_killed_are_requeued_or_handed_in_again(tmp_path, study, slurm):
    """Two members are killed: one is requeued by Slurm, the other vanishes; the results are those of a serial run."""
    log = tmp_path / "log"
    jobs = [study("count", seed, log=str(log), seconds=4.0, parts=8) for seed in range(3)] + [study("fail", 9)]
    (slurm / "kills").write_text("2")
    events = [event for event in Slurm(poll=0.3).events(jobs, tmp_path / "out") if event.state != "started"]
    assert {event.job.seed: event.state for event in events} == {0: "done", 1: "done", 2: "done", 9: "failed"}
    assert len((slurm / "killed").read_text().split()) == 2
    assert submitted(slurm)[0] == [1, 2, 3, 4] and len(submitted(slurm)) == 2 and len(submitted(slurm)[1]) == 1
    ends = Counter(line for line in log.read_text().splitlines() if line.startswith("end"))
    assert ends == {f"end {seed}": 1 for seed in range(3)}
    list(Local(2).map(jobs, tmp_path / "serial"))
    assert digests(tmp_path / "out") == digests(tmp_path / "serial")
    again = list(Slurm(poll=0.3).events(jobs, tmp_path / "out"))
    assert [event.state for event in again] == ["done"] * 3 + ["failed"] and not any(event.ran for event in again)
    assert len(submitted(slurm)) == 2, "nothing that is settled is handed in again"


@pytest.mark.slow
def test_a_training_whose_members_are_killed_has_the_same_bits(tmp_path, slurm, monkeypatch):
    """Once requeued and once handed in again, each time after a checkpoint was written."""
    settings = {
        "agent": "rl2",
        "benchmark": "GridNavigation-v0",
        "config": {"frames": 9000, "trials": 4, "hidden": 16, "embed": 16, "head": 16},
        "splits": ["test"],
        "checkpoint_every": 2,
    }
    job, out = Job("train", settings, 1), tmp_path / "out"
    monkeypatch.setenv("FAKE_SLURM_KILL_WHEN", str(out / "work" / job.key() / "checkpoint.safetensors"))
    (slurm / "kills").write_text("2")
    # a member that reached a checkpoint is no try that failed: time limits may be shorter than runs
    states = [event.state for event in Slurm(poll=0.3, retries=0).events([job], out) if event.state != "started"]
    assert states == ["done"] and len((slurm / "killed").read_text().split()) == 2
    list(Local(1).map([job], tmp_path / "serial"))
    assert digests(out) == digests(tmp_path / "serial") and len(digests(out)) == 1


def test_a_job_that_kills_its_members_fails_after_a_few(tmp_path, study, slurm):
    log = tmp_path / "log"
    jobs = [study("die", 0, log=str(log)), study("trivial", 1)]
    events = {e.job: e for e in Slurm(retries=1, poll=0.2).events(jobs, tmp_path / "out") if e.state != "started"}
    assert events[jobs[1]].state == "done"
    assert events[jobs[0]].state == "failed" and "vanished 2 times" in events[jobs[0]].reason
    assert len(log.read_text().splitlines()) == 2


def test_the_script_is_plain(tmp_path):
    text = script(tmp_path / "a b", 1000)
    assert text.startswith("#!/bin/bash\n") and "#SBATCH --requeue\n" in text
    assert "#SBATCH --signal=B:TERM@30\n" in text and "\nexec " in text, "the member itself is warned"
    assert "run-job" in text and "$((SLURM_ARRAY_TASK_ID + 1000))" in text and "OMP_NUM_THREADS=1" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_ranges():
    assert ranges([3, 1, 2, 7, 9, 10]) == "1-3,7,9-10" and ranges([4]) == "4"


def test_without_sbatch_nothing_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs sbatch, which is not on the PATH"):
        Slurm().check()
