"""verification.json is the verifier's: an edit of it, or of anything else, makes it void; a seed is nobody's choice."""

import json

import pytest
from forging import about, board, reseal, write_boards

from metabench.cli.verify import command
from metabench.leaderboard.folder import Folder
from metabench.leaderboard.ranking import rank, read_entries
from metabench.leaderboard.records import Training
from metabench.leaderboard.submit import open_yardstick, submit
from metabench.leaderboard.verify import fresh_seed, record, verify


@pytest.fixture
def entry(tmp_path):
    boards = write_boards(tmp_path, [board("grid", "GridNavigation-v0", repeats=1)])
    story = about(agent="random", trains=False, plugin="random", training=Training(env_steps=0))
    folder = submit(boards["grid"], open_yardstick("random", boards["grid"], 2), story, tmp_path)
    verdict = verify(folder, boards, rerun_seed=fresh_seed())
    assert verdict.tier == "reproduced", verdict.fault
    record(verdict)
    return folder, boards


def tier(folder, boards):
    (entry,) = read_entries(folder.parents[2], boards)
    return entry.tier


def edit(folder, change):
    path = folder / "verification.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


EDITS = {
    "tier": lambda told: told.update(tier="replayed"),
    "flags": lambda told: told.update(flags=["all is well"]),
    "checks": lambda told: told["checks"].pop(),
    "check": lambda told: told["checks"][0].update(found="better than ever"),
    "versions": lambda told: told["versions"].update(metabench="9"),
    "seed": lambda told: told["rerun"].update(seed=1),
    "numbers": lambda told: told["rerun"].update(submitted=1e3, again=1e3),
    "date": lambda told: told.update(since="2020-01-01T00:00:00Z"),
    "no seal": lambda told: told.update(seal=""),
    "first schema": lambda told: told.update(schema_version=1),
    "another content": lambda told: told.update(submission_sha256="0" * 64),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_record_is_void(entry, kind):
    folder, boards = entry
    assert tier(folder, boards) == "reproduced"
    edit(folder, EDITS[kind])
    assert Folder(folder).verification() is None and tier(folder, boards) == "claimed"
    verdict = verify(folder, boards)  # what it says counts for nothing
    assert verdict.tier == "replayed" and "verification.json is void" in " ".join(verdict.flags)
    assert not rank(boards["grid"], "online", read_entries(folder.parents[2], boards)).rows
    record(verdict)
    assert tier(folder, boards) == "replayed"


def test_numbers_of_a_rerun_are_computed_again(entry):
    folder, boards = entry
    found = Folder(folder).verification()
    lie = found.model_copy(update={"rerun": found.rerun.model_copy(update={"again": 40.0})}).sealed()
    (folder / "verification.json").write_text(lie.model_dump_json())
    verdict = verify(folder, boards)
    assert not verdict.accepted and "says again 40 of the re-run, and it is" in verdict.fault


def test_what_was_submitted_is_compared_without_a_rerun(entry):
    folder, boards = entry
    found = Folder(folder).verification()
    lie = found.model_copy(update={"rerun": found.rerun.model_copy(update={"submitted": 40.0})}).sealed()
    (folder / "verification.json").write_text(lie.model_dump_json())
    assert tier(folder, boards) == "claimed"


def test_a_flag_cannot_be_left_out(entry):
    from forging import edit_submission

    folder, boards = entry
    edit_submission(folder, lambda told: told.update(test_tasks="selection"))
    folder = reseal(folder)
    verdict = verify(folder, boards)
    record(verdict)
    assert any("tasks of evaluation splits" in flag for flag in Folder(folder).verification().flags)
    found = Folder(folder).verification().model_copy(update={"flags": ()}).sealed()
    (folder / "verification.json").write_text(found.model_dump_json())
    assert tier(folder, boards) == "claimed"


def test_any_change_of_the_entry_voids_its_record(entry):
    from forging import edit_submission

    folder, boards = entry
    edit_submission(folder, lambda told: told.update(title="Nosier"))
    assert tier(reseal(folder), boards) == "claimed"


def test_a_seed_that_somebody_chose_is_not_recorded(entry):
    folder, _ = entry
    with pytest.raises(ValueError, match="with a seed that nobody chose"):
        command((folder,), rerun=True, seed=5, record=True)
    seeds = {fresh_seed() for _ in range(20)}
    assert len(seeds) == 20 and max(seeds) > 2**100


def test_what_changes_while_it_is_verified_is_not_recorded(entry):
    folder, boards = entry
    verdict = verify(folder, boards)
    (folder / "card.md").write_text("# Other\n")
    with pytest.raises(ValueError, match="was changed while it was verified"):
        record(verdict)
