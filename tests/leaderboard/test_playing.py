"""What an agent needs to play long trials: told by entries that know it, absent from those that do not."""

from dataclasses import replace
from pathlib import Path

import pytest
from forging import about, board, entrants, write_boards

from metabench.leaderboard.records import BOARDS, SUBMISSION, Submission, dump, read_boards
from metabench.leaderboard.site.build import build
from metabench.leaderboard.submit import submit
from metabench.leaderboard.verify import record, verify

ID = "GridNavigation-v0"
ROOT = Path(__file__).parents[2]


def entered(root, attends=(), seconds=None):
    boards = write_boards(root, [board("grid", ID, min_runs=2)])
    own = entrants(ID, 2)
    for entrant, steps in zip(own, attends, strict=False):
        entrant.agent.attends = steps
    folder = submit(boards["grid"], own, replace(about(), seconds_per_step=seconds), root)
    return folder, Submission.model_validate_json((folder / SUBMISSION).read_text())


def test_an_entry_tells_the_context_and_the_seconds(tmp_path):
    folder, told = entered(tmp_path, attends=(160, 80), seconds=0.00025)
    assert told.playing is not None and (told.playing.context, told.playing.seconds_per_step) == (160, 0.00025)
    boards = read_boards(tmp_path / BOARDS)
    record(verify(folder, boards))
    build(tmp_path, boards, tmp_path / "site")
    (page,) = (p.read_text() for p in (tmp_path / "site" / "entries").rglob("*.html"))
    assert "160 steps" in page and "0.00025" in page and "seconds a step of a trial" in page


def test_who_attends_to_the_whole_trial_says_so(tmp_path):
    assert entered(tmp_path, attends=(160, "trial"))[1].playing.context == "trial"


def test_who_tells_nothing_has_the_entry_of_before(tmp_path):
    folder, told = entered(tmp_path)
    assert told.playing is None and b"playing" not in (folder / SUBMISSION).read_bytes()
    assert "seconds a step" not in str(told.model_dump())


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="seconds_per_step"):
        entered(tmp_path, seconds=0.0)


def test_the_projects_entries_keep_their_ids_and_their_bytes():
    paths = sorted((ROOT / "leaderboards").glob(f"*/*/*/{SUBMISSION}"))
    assert paths
    for path in paths:
        told = Submission.model_validate_json(path.read_text())
        assert told.id == path.parent.name
        if told.playing is None:
            assert b'"playing"' not in path.read_bytes() and b'"playing"' not in dump(told)
