"""What only looks like an entry, or like one that was verified, is not ranked; nothing is that lost its evidence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from forging import about, board, edit_result, edit_trace, entrants, reseal, write_boards

from metabench.cli.board import build as build_command
from metabench.leaderboard.folder import Folder, find
from metabench.leaderboard.ranking import rank, read_entries
from metabench.leaderboard.records import BOARDS, Rerun, Verification, dump, read_boards
from metabench.leaderboard.submit import submit
from metabench.leaderboard.verify import record, verify

ID = "GridNavigation-v0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("ghosts") / "leaderboards"
    boards = write_boards(root, [board("grid", ID, repeats=1)])
    folder = submit(boards["grid"], entrants(ID, 2), about(), root)
    record(verify(folder, boards))
    return folder.relative_to(root), root


@pytest.fixture
def entry(made, tmp_path):
    place, root = made
    shutil.copytree(root, tmp_path / "leaderboards")
    return tmp_path / "leaderboards" / place


def table(root):
    boards = read_boards(root / BOARDS)
    return rank(boards["grid"], "online", read_entries(root, boards))


def made_up(folder, **changes):
    """A record that somebody wrote who verified nothing, with every hash and seal as it should be."""
    fields = {"submission_sha256": Folder(folder).sha256(), "tier": "reproduced", "checks": (), "versions": {}}
    fields["rerun"] = Rerun(seed=2**100, submitted=1e3, again=1e3, difference=(0.0, 0.0))
    (folder / "verification.json").write_bytes(dump(Verification(**(fields | changes)).sealed()))


def test_the_honest_entry_is_ranked(entry):
    (row,) = table(entry.parents[2]).rows
    assert row.rank == 1 and row.entry.tier == "replayed"


@pytest.mark.parametrize("where", ["x/grid/noisy", "grid/noisy/more", "grid", "."])
def test_a_ghost_at_another_depth_stops_the_build(entry, where):
    root = entry.parents[2]
    shutil.copytree(entry, root / where / "2026-11-25-0123456789")
    for read in (lambda: table(root), lambda: find(root), lambda: build_command.command(root, root.parent / "site")):
        with pytest.raises(ValueError, match="lies where no entry does"):
            read()


@pytest.mark.parametrize("where", ["grid/better", "other/noisy"])
def test_a_ghost_in_another_folder_stops_the_build(entry, where):
    root = entry.parents[2]
    shutil.copytree(entry, root / where / entry.name)
    with pytest.raises(ValueError, match="its content belongs into grid/noisy"):
        table(root)
    assert not verify(root / where / entry.name, read_boards(root / BOARDS)).accepted


def test_a_folder_whose_name_begins_with_a_dot_is_no_entry(entry):
    root = entry.parents[2]
    shutil.copytree(entry, root / "grid" / ".noisy" / entry.name)
    assert len(find(root)) == 1 and len(table(root).rows) == 1


def test_an_entry_without_traces_is_a_claim_whatever_its_record_says(entry):
    shutil.rmtree(entry / "traces")
    entry = reseal(entry)
    for changes in ({}, {"tier": "replayed", "rerun": None}):
        made_up(entry, **changes)
        found = table(entry.parents[2])
        assert not found.rows and found.unranked[0].why_unranked == "claimed: not replayed"


def test_removed_traces_stop_the_build(entry):
    shutil.rmtree(entry / "traces")
    with pytest.raises(ValueError, match=r"traces/run_000\.npz is declared and missing"):
        table(entry.parents[2])


def test_a_made_up_rerun_makes_a_claim(entry):
    made_up(entry)
    assert Folder(entry).verification() is not None  # hashes and seal are right
    found = table(entry.parents[2])
    assert not found.rows and found.unranked[0].entry.tier == "claimed"


def test_a_result_that_is_not_its_traces_stops_the_build(entry):
    edit_result(entry, lambda told: told["results"][0]["returns"][0][0].__setitem__(0, 99.0))
    entry = reseal(entry)
    made_up(entry, tier="replayed", rerun=None)
    with pytest.raises(ValueError, match=r"other returns than result\.json"):
        table(entry.parents[2])


def test_a_result_of_another_seed_stops_the_build(entry):
    def change(told):
        told["results"][0]["protocol"]["seed"] = 7

    edit_result(entry, change)
    with pytest.raises(ValueError, match="was played with seed 7"):
        table(reseal(entry).parents[2])


def test_a_changed_file_stops_the_build(entry):
    (entry / "card.md").write_text("# Better\n")
    with pytest.raises(ValueError, match="it was changed afterwards"):
        table(entry.parents[2])


def test_rewards_that_were_never_earned_are_refused_though_everything_fits(entry):
    def change(arrays):
        arrays["rewards"] = np.full_like(arrays["rewards"], 50.0)

    edit_trace(entry, change)
    entry = reseal(entry)
    verdict = verify(entry, read_boards(entry.parents[2] / BOARDS))
    assert not verdict.accepted and "the trace has the reward 50" in verdict.fault


def test_a_site_that_is_verified_takes_no_record_on_trust(entry):
    """Rewards, returns, hashes, record and seal all fit; only a replay can tell, before anything is built."""

    def change(arrays):
        arrays["rewards"] = np.full_like(arrays["rewards"], 50.0)

    for run in range(2):
        edit_trace(entry, change, run=run)
    root, site = entry.parents[2], entry.parents[3] / "site"
    entry = reseal(entry)
    made_up(entry, tier="replayed", rerun=None, flags=("the mean score is",))
    with pytest.raises(ValueError, match=r"is not accepted: run 0: task 0, .* the trace has the reward 50"):
        build_command.command(root, site, verify=True)
    assert not site.exists()


def test_an_entry_that_cannot_be_played_again_stands_below_those_that_were(entry):
    """Not by its score, which is better: by what is proven."""
    from metabench.leaderboard.records import Training
    from metabench.leaderboard.submit import open_yardstick

    root = entry.parents[2]
    boards = read_boards(root / BOARDS)
    grid = boards["grid"]
    story = about(agent="zero", title="Zero", trains=False, plugin="zero", training=Training(env_steps=0))
    other = submit(grid, open_yardstick("zero", grid, 2), story, root)
    verdict = verify(other, boards, rerun_seed=2**90 + 1)
    assert verdict.tier == "reproduced", verdict.fault
    record(verdict)
    rows = table(root).rows
    assert [(row.entry.submission.agent, row.entry.tier, row.rank) for row in rows] == [
        ("zero", "reproduced", 1),
        ("noisy", "replayed", 2),
    ]
    assert rows[0].score.estimate <= rows[1].score.estimate, "this test wants the lower tier to score better"
    told = json.loads((Path(other) / "verification.json").read_text())
    assert told["rerun"]["seed"] == 2**90 + 1
