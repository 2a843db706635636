"""Rules never come from what is judged: no boards.toml beside an entry has a say, and no board changes its meaning."""

import shutil
from pathlib import Path

import pytest
from forging import board, honest, write_boards

from metabench.cli.verify import boards_for, verify_all
from metabench.leaderboard.records import BOARDS, OWN_BOARDS, boards_in, read_boards

ROOT = Path(__file__).parents[3]


def test_a_file_of_boards_nearer_the_entry_has_no_say(tmp_path):
    folder, boards = honest(tmp_path, "grid", "GridNavigation-v0", repeats=1)
    easy = board("grid", "GridNavigation-v0", repeats=1, min_runs=1, pins={})
    for place in (folder, folder.parent, folder.parent.parent):
        write_boards(place, [easy])
        assert boards_for(folder) == boards
        (place / BOARDS).unlink()
    write_boards(folder.parent.parent, [board("other", "GridNavigation-v0")])
    (verdict,) = verify_all([folder.parent], None, None, write=False)
    assert verdict.accepted


def test_a_root_cannot_give_a_board_of_the_package_another_meaning(tmp_path):
    own = read_boards(OWN_BOARDS)
    text = OWN_BOARDS.read_text()
    for change in (("min_runs = 5", "min_runs = 1"), ("repeats = 20", "repeats = 1"), ('numpy = "2"', 'numpy = "1"')):
        (tmp_path / BOARDS).write_text(text.replace(*change))
        with pytest.raises(ValueError, match="is another one than that of the installed package"):
            boards_in(tmp_path)
    (tmp_path / BOARDS).write_text(text.replace('title = "GridSwitch"', 'title = "Switch"'))
    assert boards_in(tmp_path).keys() == own.keys()


def test_private_boards_have_ids_of_their_own(tmp_path):
    write_boards(tmp_path, [board("mine", "GridNavigation-v0")])
    assert list(boards_in(tmp_path)) == ["mine"]


def test_the_first_rules_are_kept_by_what_was_published_and_by_nothing_else(tmp_path):
    """Their evaluation seeds have 32 bits, and follow from how a file is written."""
    from forging import edit_submission, reseal

    from metabench.leaderboard.records import kept
    from metabench.leaderboard.verify import verify

    assert len(kept()) == 45
    folder, boards = honest(tmp_path, "grid", "GridNavigation-v0", repeats=1)
    edit_submission(folder, lambda told: told.update(rules=1))
    assert "made under the first rules" in verify(reseal(folder), boards).fault
    old = next((ROOT / "leaderboards" / "point-robot" / "oracle").iterdir())
    copy = tmp_path / "old" / old.relative_to(ROOT / "leaderboards")
    shutil.copytree(old, copy)
    edit_submission(copy, lambda told: told.update(title="Better"))
    assert "made under the first rules" in verify(reseal(copy), read_boards(OWN_BOARDS)).fault
