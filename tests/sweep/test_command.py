"""`metabench sweep`, `sweep status` and `sweep retry`, as a user sees them."""

import io
import json
import os
import socket
import sys
import types

import pytest
from rich.console import Console

from metabench.cli import console, sweep
from metabench.cli.main import main
from metabench.sweep import Event, Job, Local
from metabench.sweep.folder import Place, perform
from metabench.sweep.jobs import add_to_plan, read_plan
from metabench.sweep.view import Progress, clock, estimate, progress_of


def said(capsys, *words):
    """What a command prints, and its exit code."""
    code = 0
    try:
        main(list(words))
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_sweep_of_yardsticks_from_plan_to_results(capsys, tmp_path):
    out = str(tmp_path / "out")
    words = ("sweep", "random", "GridNavigation-v0", "oracle", "--seeds", "0-1", "--splits", "test", "--out", out)
    code, text, _ = said(capsys, *words, "--dry-run")
    assert code == 0 and "2  evaluate random GridNavigation-v0" in text and "2  evaluate oracle" in text
    assert "4 jobs, 0 of them done already; what they cost is known after the first of each kind" in text
    assert not (tmp_path / "out").exists(), "a dry run leaves nothing"
    code, text, _ = said(capsys, *words, "--workers", "1")
    assert code == 0 and "seed 0 took" in text and "core hours in all" in text
    assert "4 of 4 done, 0 running" in text and "4 jobs done" in text
    assert len(list(Place(tmp_path / "out").results.iterdir())) == 4
    code, text, _ = said(capsys, *words, "--dry-run")
    assert "4 of them done already; nothing is left to do" in text
    code, text, _ = said(capsys, "sweep", "status", out)
    assert code == 0 and "4 jobs: 4 done, 0 running, 0 waiting, 0 failed" in text


def test_failures_are_told_with_their_logs_and_tried_again(capsys, tmp_path, study):
    out, mended = tmp_path / "out", tmp_path / "mended"
    add_to_plan(out / "jobs.jsonl", [study("trivial", 1), study("fail", 2, unless=str(mended)), study("trivial", 3)])
    code, text, error = said(capsys, "sweep", "retry", str(out), "--workers", "1")
    assert code == 2 and f"1 of 3 jobs failed; try again: metabench sweep retry {out}" in error
    key = read_plan(out / "jobs.jsonl")[1].key()
    log = out / "failed" / f"{key}.log"
    for output in (text, said(capsys, "sweep", "status", str(out))[1]):
        assert "RuntimeError: step 2 is broken" in output and f"log: {log}" in output
    assert "Traceback" in log.read_text()
    mended.touch()
    code, text, _ = said(capsys, "sweep", "retry", str(out), "--workers", "1")
    assert code == 0 and "1 jobs to do, 1 of them failed before" in text and not log.exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("rl2x", "GridNavigation-v0"), "did you mean 'rl2'"),
        (("rl2", "GridNavigation-v0", "--set", "clap=0.1"), "did you mean 'ppo.clip'"),
        (("rl2", "GridNavigation-v0", "--set", "clip=big"), "the setting ppo.clip is a number, got 'big'"),
        (("rl2", "GridNavigation-v0", "--set", "clip=1", "clip=2"), "given twice"),
        (("random", "GridNavigation-v0", "--seeds", "4-1"), "seeds are given as 0-4"),
        (("random", "GridNavigation-v0", "--splits", "tset"), "tset"),
        (("random", "GridNavigation-v0", "--engine", "slurm"), "needs sbatch"),
        (("random", "GridNavigation-v0", "--workers", "0"), "at least one worker"),
        (("random", "GridNavigation-v0", "--address", "x:1"), "add --engine ray"),
        (("random", "GridNavigation-v0", "--sbatch=--time=1"), "add --engine slurm"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_starts(capsys, tmp_path, monkeypatch, words, error):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, text, err = said(capsys, "sweep", *words, "--out", str(tmp_path / "out"))
    assert code == 2 and error in err and err.count("\n") == 1 and text == ""
    assert not (tmp_path / "out").exists()


def test_an_engine_that_is_not_there_is_one_sentence_before_anything_starts(capsys, tmp_path, monkeypatch):
    words = ("sweep", "random", "GridNavigation-v0", "--out", str(tmp_path / "out"), "--engine", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    code, text, err = said(capsys, *words)
    assert (code, text) == (2, "") and "pip install 'metabench[ray]'" in err and err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    with socket.socket() as server:  # bound, and not listening
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code, text, err = said(capsys, *words, "--address", address)
    assert (code, text) == (2, "") and f"no Ray cluster answers at {address}" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_there_is_no_status_of_what_is_no_sweep(capsys, tmp_path):
    for command in ("status", "retry"):
        code, _, err = said(capsys, "sweep", command, str(tmp_path))
        assert code == 2 and err == f"metabench: there is no sweep in {tmp_path}: it has no jobs.jsonl\n"


def test_help_names_the_examples(capsys):
    assert "--sbatch" in said(capsys, "sweep", "--help")[1]
    assert "metabench sweep rl2 GridSwitch-v0 --out runs/rl2" in said(capsys, "sweep")[1]


def test_the_live_table_tells_what_runs_and_what_failed(tmp_path, study):
    jobs = [study("trivial", seed) for seed in range(4)]
    place = Place(tmp_path)
    progress = Progress(place, jobs, Local(2))
    assert progress.seconds_left() is None and progress.line() == "0 of 4 done, 0 running"
    progress.take(Event("started", jobs[0]))
    progress.take(Event("done", jobs[0], ran=True, seconds=10.0))
    progress.take(Event("failed", jobs[1], "it [red]broke[/]"))
    assert progress.seconds_left() == 10.0, "two left, two at a time"
    folder = place.work / jobs[2].key()
    folder.mkdir(parents=True)
    with place.lock(jobs[2].key()):
        (folder / "metrics.jsonl").write_text('{"frames": 1000}\n')
        assert progress.rates() == {jobs[2].key(): None}
        began = (folder / "metrics.jsonl").stat().st_mtime
        (folder / "metrics.jsonl").write_text('{"frames": 1000}\n{"frames": 3000}\n{"fra')
        os.utime(folder / "metrics.jsonl", (began + 100.0, began + 100.0))
        for _ in range(2):  # the rate is of the rows, whenever one looks
            assert progress.rates() == {jobs[2].key(): pytest.approx(20.0)}
        text = io.StringIO()
        Console(file=text, width=100).print(progress.table())
    shown = text.getvalue()
    assert jobs[2].label in shown and "it [red]broke[/]" in shown
    assert "1 of 4 done, 1 running, 1 failed" in shown and "10 s left" in shown


def test_the_terminal_gets_a_live_table(tmp_path, study, monkeypatch):
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(sweep, "out", terminal)
    monkeypatch.setattr(console, "out", terminal)
    sweep.run([study("trivial", 1), study("trivial", 2)], tmp_path, Local(1))
    assert "2 of 2 done" in text.getvalue() and "2 jobs done" in text.getvalue()


def test_costs_are_estimated_from_jobs_of_the_same_kind(tmp_path, study):
    jobs = [study("trivial", seed) for seed in range(3)] + [study("chatty")]
    place = Place(tmp_path)
    assert estimate(place, jobs, jobs) is None
    for job, seconds in ((jobs[0], 3600.0), (jobs[3], 7200.0)):
        perform(job, tmp_path)
        path = place.result(job.key()) / "job.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"time/seconds": seconds}))
    assert estimate(place, jobs, jobs[1:3]) == 2.0
    other = Job("evaluate", {"agent": "zero", "benchmark": "GridNavigation-v0"})
    assert estimate(place, jobs, [jobs[3], other]) is None, "what steps of a study take says nothing of evaluations"
    again = Job("study", {"function": "sweep_steps:die"})
    assert estimate(place, jobs, [jobs[3], again]) == 2.0 + 1.5, "a new group counts as the mean of its kind"


def test_frames_and_durations(tmp_path):
    assert progress_of(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"frames": 5}\n{"update": 3}\n')
    assert progress_of(tmp_path) == (5, (tmp_path / "metrics.jsonl").stat().st_mtime)
    assert [clock(s) for s in (0.123, 12, 600, 36000)] == ["0.12 s", "12 s", "10 min", "10.0 h"]
