"""Files that cannot be read or written, and signals: one sentence and an exit status, never a traceback."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metabench.cli.faults import in_words
from metabench.cli.main import guard, main
from metabench.evaluation.results import Result

SIGNALS = [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, "terminated")]
TRAIN = ("train", "rl2", "GridNavigation-v0", "--trials", "16", "--network.hidden", "8", "--progress", "none")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.ENOSPC, "the disk is full"),
        (errno.ENOENT, "no such file"),
        (errno.ENOTDIR, "is a file, not a folder"),
        (errno.EISDIR, "a file is needed"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_every_oserror_is_one_sentence(capsys, number, words):
    def fail():
        raise OSError(number, os.strerror(number), "a/.result.json.abcd1234")

    with pytest.raises(SystemExit) as stop:
        guard(fail)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("metabench: a/result.json: ")
    assert words in error and error.count("\n") == 1


def test_other_errors_in_words():
    assert in_words(OSError("12 requested and 8 written")) == "12 requested and 8 written"
    assert in_words(ZeroDivisionError("ours")) is None
    from safetensors import SafetensorError

    assert "No space left" in in_words(SafetensorError("No space left on device"))


@pytest.mark.parametrize(
    "arguments",
    [
        (*TRAIN, "--folder", "{file}"),
        (*TRAIN, "--folder", "{file}/run"),
        ("evaluate", "random", "PointRobot-v0", "--out", "{folder}"),
        ("evaluate", "random", "PointRobot-v0", "--out", "{file}/r.json"),
        ("board", "build", "{boards}", "--out", "{file}/site"),
        ("board", "build", "{boards}", "--out", "{file}"),
        ("board", "schema", "--out", "{file}"),
        ("dataset", "generate", "point-robot/random-v0", "--root", "{file}"),
        ("dataset", "list", "--root", "{file}"),
        ("submit", "bayes", "--board", "x", "--authors", "A", "--root", "{file}"),
        ("summarise", "{file}"),
        ("verify", "{file}"),
    ],
    ids=" ".join,
)
def test_a_file_where_a_folder_should_be_and_the_other_way_round(capsys, tmp_path, arguments):
    (tmp_path / "file").write_text("")
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "boards.toml").write_text("")
    places = {"file": tmp_path / "file", "folder": tmp_path, "boards": tmp_path / "boards"}
    try:
        main([word.format(**places) for word in arguments])
    except SystemExit as stop:
        assert stop.code in (1, 2)
        error = capsys.readouterr().err
        assert error.startswith("metabench: ") and error.count("\n") == 1 and "Traceback" not in error
    else:
        assert arguments[:2] == ("dataset", "list")  # nothing lies there, and that is no error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(capsys, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SystemExit):
        main(["evaluate", "random", "PointRobot-v0", "--out", str(tmp_path / "r.json")])
    assert "permission denied" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "metabench.cli", "list"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1 and "the disk is full" in ran.stderr


def started(folder, *arguments):
    """A training run that has written its first lines."""
    command = [sys.executable, "-m", "metabench.cli", *TRAIN, "--folder", str(folder), *arguments]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() < deadline and run.poll() is None, run.communicate()
        time.sleep(0.05)
    return run


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_leaves_a_checkpoint_and_says_where_it_resumes(tmp_path, number, code, word):
    folder = tmp_path / "run"
    run = started(folder, "--frames", "40_000_000".replace("_", ""))
    run.send_signal(number)
    _, error = run.communicate(timeout=120)
    from metabench.cli.train import iterations_done

    done = iterations_done(folder)
    assert run.returncode == code and done >= 1 and "Traceback" not in error
    assert error.splitlines()[-1] == f"metabench: {word}; the same command resumes {folder} at iteration {done}"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == done


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    frames = ("--frames", "57600", "--evaluate", "test")
    stopped = started(tmp_path / "a", *frames)
    stopped.send_signal(signal.SIGINT)
    stopped.communicate(timeout=120)
    for name in ("a", "b"):
        main([*TRAIN, "--folder", str(tmp_path / name), *frames])
    a, b = (Result.load(tmp_path / name / "result.json") for name in ("a", "b"))
    assert a.returns == b.returns


def test_a_loop_without_checkpoints_stops_at_once(tmp_path):
    from metabench.cli.train import stoppable

    class Bare:
        checkpoint_every = 50

    with pytest.raises(KeyboardInterrupt, match="holds no checkpoint yet"), stoppable(Bare(), tmp_path):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
