"""One job in a folder: done exactly once, failures kept, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import sweep_steps

from metabench.sweep import Job, digest
from metabench.sweep.folder import JOB, Place, give_up, perform
from metabench.sweep.jobs import read_plan


def test_a_result_is_a_folder_named_by_the_key(tmp_path, study):
    job, log = study("count", 3, log=str(tmp_path / "log")), tmp_path / "log"
    outcome = perform(job, tmp_path / "out")
    place = Place(tmp_path / "out")
    assert outcome.state == "done" and outcome.ran and outcome.seconds > 0
    assert [path.name for path in place.results.iterdir()] == [job.key()]
    folder = place.result(job.key())
    assert json.loads((folder / "result.json").read_text()) == {"seed": 3, "square": 9}
    record = json.loads((folder / JOB).read_text())
    assert Job(record["kind"], record["settings"], record["seed"]) == job and record["time/seconds"] > 0
    assert not list(place.work.iterdir()), "nothing is left of the work"
    again = perform(job, tmp_path / "out")
    assert again.state == "done" and not again.ran
    assert log.read_text().count("begin") == 1


def test_an_attempt_that_was_killed_is_gone_on_with(tmp_path, study):
    log, out = tmp_path / "log", tmp_path / "out"
    job = study("count", 1, log=str(log), seconds=2.0, parts=10)
    undisturbed = study("count", 1, log=str(tmp_path / "other"), seconds=0.0, parts=10)
    code = f"from metabench.sweep.folder import *; perform(Job.from_json({job.to_json()!r}), Path({str(out)!r}))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    while not log.exists() or "part 1 3" not in log.read_text():
        time.sleep(0.02)
    assert perform(job, out).state == "taken" and Place(out).state(job.key()) == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Place(out).state(job.key()) == "waiting" and not Place(out).results.exists()
    assert perform(job, out).ran
    lines = log.read_text().splitlines()
    assert [line for line in lines if line.startswith("part")].count("part 1 10") == 1
    assert len([line for line in lines if line.startswith("part")]) in (10, 11), "at most one part is done again"
    assert lines.count("end 1") == 1
    perform(undisturbed, out)
    files = [Place(out).result(one.key()) / "result.json" for one in (job, undisturbed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_death_just_before_the_rename_costs_nothing(tmp_path, study, monkeypatch):
    log, out = tmp_path / "log", tmp_path / "out"
    job, place = study("count", 1, log=str(log)), Place(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Place, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            perform(job, out)
    assert not place.results.exists() and (place.work / job.key() / JOB).exists()
    (place.work / job.key() / ".result.json.x7").write_text("half")  # what a killed writer leaves
    assert perform(job, out).state == "done" and log.read_text().count("begin") == 1
    assert sorted(p.name for p in place.result(job.key()).iterdir()) == ["count.json", JOB, "result.json"]


def test_a_failure_is_kept_with_its_log_and_not_tried_again(tmp_path, study, capfd):
    job, place = study("fail", 5, unless=str(tmp_path / "mended")), Place(tmp_path / "out")
    with capfd.disabled():  # `print` writes to the process's own output then, as everywhere but in a test
        outcome = perform(job, place.out)
    assert (outcome.state, outcome.reason, outcome.ran) == ("failed", "RuntimeError: step 5 is broken", True)
    failure = place.failure(job.key())
    text = failure.log.read_text()
    assert "this is printed before it fails" in text and "Traceback" in text and "in fail" in text
    (tmp_path / "mended").touch()
    assert perform(job, place.out) == ("failed", outcome.reason, False, 0.0), "only retry tries again"
    assert place.forgive(job) and place.state(job.key()) == "waiting" and not place.forgive(job)
    assert perform(job, place.out).state == "done"
    assert place.state(job.key()) == "done" and not list(place.failures.iterdir())


def test_failures_are_counted(tmp_path, study):
    job, place = study("fail"), Place(tmp_path)
    for attempt in (1, 2, 3):
        perform(job, tmp_path)
        assert place.failure(job.key())[2:] == (attempt, False)
        place.forgive(job)
    assert give_up(job, tmp_path, "its node burned").state == "failed"
    assert place.failure(job.key()).reason == "its node burned"


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (Job("study", {"function": "sweep_steps:nothing"}), "no function 'sweep_steps:nothing'"),
        (Job("study", {"function": "sweep_steps:endless_numbers"}), "nan"),
        (Job("study", {"funktion": "x"}), "did you mean 'function'"),
        (Job("study", {}), "needs the setting 'function'"),
        (Job("train", {"agent": "random", "benchmark": "GridNavigation-v0"}), "yardstick"),
        (Job("evaluate", {"agent": "zero", "benchmark": "GridNavigation-v1"}), "GridNavigation-v0"),
    ],
)
def test_a_job_that_makes_no_sense_fails_in_a_sentence(tmp_path, job, words):
    outcome = perform(job, tmp_path)
    assert outcome.state == "failed" and words in outcome.reason and "\n" not in outcome.reason
    assert not (tmp_path / "results").exists()


def test_what_a_job_prints_stays_out_of_the_way(tmp_path, study):
    text = study("chatty").to_json()
    code = f"from metabench.sweep.folder import *; perform(Job.from_json({text!r}), Path({str(tmp_path)!r}))"
    code += "; print('mine')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (answer.stdout, answer.stderr) == ("mine\n", "") and len(list((tmp_path / "results").iterdir())) == 1


def test_run_job_does_one_line_of_a_plan(tmp_path, study, capsys):
    from metabench.cli.main import main
    from metabench.sweep.jobs import add_to_plan

    plan = tmp_path / "jobs.jsonl"
    add_to_plan(plan, [study("trivial", 0), study("fail", 1)])
    main(["run-job", str(plan), "1"])
    place = Place(tmp_path)
    assert [place.state(job.key()) for job in read_plan(plan)] == ["done", "waiting"]
    assert "done" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["run-job", str(plan), "2"])
    assert stop.value.code == 1 and place.state(read_plan(plan)[1].key()) == "failed"
    with pytest.raises(SystemExit) as stop:
        main(["run-job", str(plan), "3"])
    assert stop.value.code == 2 and "lines 1 to 2, got 3" in capsys.readouterr().err


def test_evaluations_and_their_evidence(tmp_path):
    from metabench.evaluation.results import Result
    from metabench.evaluation.traces import Trace

    settings = {"agent": "oracle", "benchmark": "GridNavigation-v0", "trace": True, "episodes": 2, "name": "seer"}
    job = Job("evaluate", settings, 3)
    assert perform(job, tmp_path).state == "done"
    folder = Place(tmp_path).result(job.key())
    result = Result.load(folder / "result.json")
    assert (result.agent, result.protocol.seed, result.protocol.episodes) == ("seer", 3, 2)
    assert Trace.load(folder / "trace.npz").header.protocol == result.protocol
    perform(job, tmp_path / "again")
    assert digest(folder) == digest(Place(tmp_path / "again").result(job.key()))


def test_steps_count_from_where_they_stopped(tmp_path):
    """The helper itself: the tests above rely on it."""
    log = tmp_path / "log"
    (tmp_path / "count.json").write_text('{"done": 2}')
    assert sweep_steps.count(2, tmp_path, log, parts=3) == {"seed": 2, "square": 4}
    assert log.read_text().splitlines()[1:] == ["part 2 3", "end 2"]
