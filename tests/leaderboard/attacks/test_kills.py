"""Bad luck: processes that are killed leave nothing that others stumble over, and a site is there at every moment."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from forging import about, board, entrants, honest, write_boards

from metabench.evaluation.results import left_over, write_atomically
from metabench.leaderboard.folder import Folder, find
from metabench.leaderboard.ranking import rank, read_entries
from metabench.leaderboard.records import BOARDS, read_boards
from metabench.leaderboard.site import build as building
from metabench.leaderboard.site.build import build
from metabench.leaderboard.submit import submit
from metabench.leaderboard.verify import record, verify

ID = "GridNavigation-v0"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("kills") / "boards"
    folder, boards = honest(root, "grid", ID, repeats=1)
    record(verify(folder, boards))
    return folder.relative_to(root), root


@pytest.fixture
def entry(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "boards")
    return tmp_path / "boards" / made[0]


def test_what_a_killed_writer_leaves_is_known_by_its_name(tmp_path, monkeypatch):
    def die(*_):
        raise SystemExit

    kept = []
    monkeypatch.setattr(Path, "unlink", lambda self, **_: kept.append(self.name))  # a killed process removes nothing
    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(SystemExit):
        write_atomically(tmp_path / "verification.json", b"x")
    assert kept and left_over(kept[0]) == "verification.json"
    for name in ("verification.json", ".verification.json", ".hidden", "x.abcd1234", ".x.ABCD1234"):
        assert left_over(name) == ""


NAMES = ["verification.json", "submission.json", "result.json", "card.md"]
NAMES += ["traces/run_000.npz", "policies/run_000/config.json", "policies/run_001/policy.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_halves_are_ignored_by_all_and_removed_with_the_next_record(entry, name, tmp_path):
    root = entry.parents[2]
    path = entry / name
    half = path.with_name(f".{path.name}.k3_9zzzz")
    half.write_bytes(b"half")
    boards = read_boards(root / BOARDS)
    verdict = verify(entry, boards)
    assert verdict.accepted, verdict.fault
    assert len(rank(boards["grid"], "online", read_entries(root, boards)).rows) == 1
    assert build(root, boards, tmp_path / "site").entries == 1
    record(verdict)
    assert not half.exists() and Folder(entry).verification() is not None


def test_a_half_of_something_else_is_no_half(entry):
    (entry / ".setup.py.k3_9zzzz").write_bytes(b"x")
    assert "which no submission has" in verify(entry, read_boards(entry.parents[2] / BOARDS)).fault


SUBMIT = """
import sys, time
sys.path[:0] = [{here!r}]
from pathlib import Path
from forging import about, entrants
from metabench.leaderboard import submit as submitting
from metabench.leaderboard.records import read_boards
root = Path(sys.argv[1])
def slow(run, done, total):
    print("played", flush=True)
    time.sleep(60)
board = read_boards(root / "boards.toml")["grid"]
submitting.submit(board, entrants(board.benchmark, 2), about(), root, slow)
"""


def test_a_killed_submit_leaves_nothing_that_matters_and_can_be_repeated(tmp_path):
    root = tmp_path / "boards"
    boards = write_boards(root, [board("grid", ID, repeats=1)])
    code = SUBMIT.format(here=str(HERE.parent))
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"played\n"
        (draft,) = root.glob(".submit-*")
        submit(boards["grid"], entrants(ID, 2, other=9), about(agent="meanwhile"), root)
        assert draft.exists(), "it is still being written"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert draft.exists() and len(find(root)) == 1 and len(read_entries(root, boards)) == 1
    folder = submit(boards["grid"], entrants(ID, 2), about(), root)
    assert verify(folder, boards).accepted
    assert not list(root.rglob(".*")), "and what the killed one left is gone"


def test_an_entry_appears_whole(tmp_path, monkeypatch):
    """By one rename; a part of the name of the older way is in nobody's way."""
    root = tmp_path / "boards"
    boards = write_boards(root, [board("grid", ID, repeats=1)])
    seen = []
    rename = Path.rename

    def watch(self, target):
        seen.append((target, target.exists(), (self / "submission.json").is_file(), (self / "traces").is_dir()))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watch)
    folder = submit(boards["grid"], entrants(ID, 2), about(), root)
    assert seen == [(folder, False, True, True)]
    shutil.rmtree(folder)
    (folder.parent / f".{folder.name}.part").mkdir()
    assert submit(boards["grid"], entrants(ID, 2), about(), root) == folder


def test_there_is_a_site_at_every_moment(entry, tmp_path):
    root, out = entry.parents[2], tmp_path / "site"
    boards = read_boards(root / BOARDS)
    build(root, boards, out)
    missing, done = [], threading.Event()

    def watch():
        while not done.is_set():
            if not (out / "index.html").is_file() or not (out / "data" / "overview.json").is_file():
                missing.append(time.time())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for _ in range(5):
            build(root, boards, out)
    finally:
        done.set()
        thread.join()
    assert not missing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boards", "site"]


def test_where_folders_cannot_change_places_every_file_is_replaced(entry, tmp_path, monkeypatch):
    root, out = entry.parents[2], tmp_path / "site"
    boards = read_boards(root / BOARDS)
    build(root, boards, out)
    wanted = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "old.html").write_text("old")
    (out / "index.html").write_text("old")
    monkeypatch.setattr(building, "_exchange", lambda one, other: False)
    build(root, boards, out)
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == wanted


def test_a_build_that_fails_or_is_killed_leaves_the_old_site(entry, tmp_path, monkeypatch):
    root, out = entry.parents[2], tmp_path / "site"
    boards = read_boards(root / BOARDS)
    build(root, boards, out)
    before = (out / "index.html").read_bytes()
    (tmp_path / ".site.draft-killed1").mkdir()  # what a killed one leaves
    with monkeypatch.context() as patch:
        patch.setattr(building, "_put", lambda draft, out: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            build(root, boards, out)
    assert (out / "index.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boards", "site"]


def test_two_builds_at_once_are_refused(entry, tmp_path):
    from filelock import FileLock

    root, out = entry.parents[2], tmp_path / "site"
    with FileLock(tmp_path / ".site.lock"), pytest.raises(ValueError, match="another build is writing"):
        build(root, read_boards(root / BOARDS), out)
    assert not out.exists()
    assert build(root, read_boards(root / BOARDS), out).entries == 1
