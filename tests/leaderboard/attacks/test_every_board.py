"""The attacks on evidence against an entry of every board, and what a board's own files say of themselves."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from forging import edit_result, edit_trace

from metabench.leaderboard.folder import Folder
from metabench.leaderboard.records import BOARDS, SUBMISSION, Submission, read_boards
from metabench.leaderboard.verify import verify

ROOT = Path(__file__).parents[3] / "leaderboards"
ALL = sorted(read_boards(ROOT / BOARDS))
FEW = {"point-robot-2", "grid-navigation-2"}  # quick ones
EACH = [pytest.param(id, marks=[] if id in FEW else pytest.mark.slow) for id in ALL]


def better_reward(arrays):
    arrays["rewards"][3] += 0.01


def all_rewards(arrays):
    arrays["rewards"] += 1e-6 * np.maximum(1.0, np.abs(arrays["rewards"]))


def another_state(arrays):
    name = next(name for name in sorted(arrays) if name.startswith("checkpoint.state."))
    if arrays[name].dtype.kind == "f":
        arrays[name][1] += 1e-3
    else:
        arrays[name][1] ^= 1


def another_task(arrays):
    """The second task's trials become a copy of the first's, where they are as long."""
    for name in arrays:
        if name.startswith("checkpoint."):
            arrays[name] = np.roll(arrays[name], 1, axis=0)


def reversed_time(arrays):
    arrays["actions"], arrays["rewards"] = arrays["actions"][::-1].copy(), arrays["rewards"][::-1].copy()


def another_stream(arrays):
    arrays["checkpoint.counter"] = arrays["checkpoint.counter"] + 1


def reseal(folder, kept):
    """Every hash fits again; the rules an entry was made under are told by its hash, so that is told to be kept."""
    told = json.loads((folder / SUBMISSION).read_text())
    told["files"] |= {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in told["files"]
        if (folder / name).exists()
    }
    (folder / SUBMISSION).write_text(json.dumps(told))
    target = folder.parents[2] / Submission.model_validate(told).place
    if target != folder:
        folder.rename(target)
    kept.add(Folder(target).sha256())
    return target


@pytest.mark.parametrize("id", EACH)
def test_forged_evidence_is_refused_on_every_board(id, tmp_path, monkeypatch):
    """Also where the first rules let an entry's own words through: what was played is replayed all the same."""
    from metabench.leaderboard import rules

    boards, kept = read_boards(ROOT / BOARDS), set()
    monkeypatch.setattr(rules, "kept", lambda: kept)
    source = next((ROOT / id / "random").iterdir())
    for change in (better_reward, all_rewards, another_state, another_task, reversed_time, another_stream):
        folder = tmp_path / change.__name__ / id / "random" / source.name
        shutil.copytree(source, folder)
        (folder / "verification.json").unlink()
        edit_trace(folder, change)
        verdict = verify(reseal(folder, kept), boards)
        assert verdict.fault and not verdict.accepted and "cannot be verified" not in verdict.fault, change.__name__
        shutil.rmtree(folder.parents[2])


@pytest.mark.parametrize("id", EACH)
def test_raised_returns_are_refused_on_every_board(id, tmp_path, monkeypatch):
    from metabench.leaderboard import rules

    kept = set()
    monkeypatch.setattr(rules, "kept", lambda: kept)
    source = next((ROOT / id / "random").iterdir())
    folder = tmp_path / id / "random" / source.name
    shutil.copytree(source, folder)
    edit_result(folder, lambda told: told["results"][-1]["returns"][-1][0].__setitem__(0, 1e6))
    verdict = verify(reseal(folder, kept), read_boards(ROOT / BOARDS))
    assert "result.json has the return 1e+06" in verdict.fault or "1000000" in verdict.fault


@pytest.mark.slow
@pytest.mark.parametrize("id", ALL)
def test_honest_entries_of_every_board_are_accepted_with_their_records(id):
    boards = read_boards(ROOT / BOARDS)
    for path in sorted((ROOT / id).glob("*/*")):
        assert Folder(path).verification() is not None, path
        verdict = verify(path, boards)
        assert verdict.accepted and verdict.tier == Folder(path).verification().tier, (path, verdict.fault)
