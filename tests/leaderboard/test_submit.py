"""What is refused before anything is played, and which agents may enter which boards."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from forging import about, board, entrants, write_boards

from metabench import runs
from metabench.evaluation.evaluate import versions
from metabench.leaderboard import submit as submitting
from metabench.leaderboard.records import BOARDS, OWN_BOARDS, Training, boards_in, policy_sha256, read_boards
from metabench.leaderboard.submit import Entrant, open_run, open_yardstick, submit
from metabench.leaderboard.track import TRACKS, track_for
from metabench.leaderboard.verify import verify

ROOT = Path(__file__).parents[2]
ID = "GridNavigation-v0"  # four episodes a trial


@pytest.fixture
def unplayed(monkeypatch):
    """Nothing may be played."""

    def refuse(*args, **kwargs):
        raise AssertionError("it was played")

    monkeypatch.setattr(submitting, "evaluate_traced", refuse)


def refused(tmp_path, words, own, **changes):
    grid = board("grid", ID)
    with pytest.raises(ValueError, match=words) as caught:
        submit(grid, own, about(**changes), tmp_path / "boards")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*")), "nothing is left behind"


def with_policy(files):
    return [entrant._replace(policy=files, sha256=policy_sha256(files)) for entrant in entrants(ID, 2)]


def test_a_policy_that_is_no_safetensors_file_is_refused_before_it_is_played(tmp_path, unplayed):
    words = r"run 0: a policy is published as config\.json and policy\.safetensors, not as 'model\.zip'; leave it out"
    refused(tmp_path, words, with_policy({"model.zip": b"PK"}))
    refused(
        tmp_path, "the tensors of run 0 are no safetensors file", with_policy({"policy.safetensors": b"PK\x03\x04"})
    )
    large = struct.pack("<Q", 8) + b"{}      " + bytes(17_000_000)
    refused(tmp_path, "two runs have the same policy", with_policy({"policy.safetensors": large}))


def test_policies_that_are_too_large_are_refused_before_they_are_played(tmp_path, unplayed):
    own = []
    for seed, entrant in enumerate(entrants(ID, 3)):
        head = json.dumps({"w": {"dtype": "U8", "shape": [6_000_000], "data_offsets": [0, 6_000_000]}}).encode()
        head += b" " * (-len(head) % 8)
        files = {"policy.safetensors": struct.pack("<Q", len(head)) + head + bytes([seed]) * 6_000_000}
        own.append(entrant._replace(policy=files, sha256=policy_sha256(files)))
    refused(tmp_path, "the policies have 18,000,240 bytes, more than the 16,000,000 allowed", own)


def no_seed(own):
    return [entrant._replace(train_seed=None) for entrant in own]


def chosen_seeds(own):
    return [entrant._replace(train_seed=seed) for entrant, seed in zip(own, (0, 4), strict=True)]


def other_hash(own):
    return [own[0], own[1]._replace(sha256="a" * 64)]


def half_published(own):
    return [own[0], own[1]._replace(policy={})]


def seeing(own):
    for entrant in own:
        entrant.agent.privileged = True
    return own


def trained_before(own):
    for entrant in own:
        entrant.agent.protocol = "slots-1"
    return own


REFUSED = {
    "one run": (lambda own: own[:1], {}, "there are 1 runs; the board grid asks for at least 2"),
    "no runs": (lambda own: [], {}, "runs"),
    "no training seed": (no_seed, {}, "a run of an agent that trains has no training seed"),
    "a choice of seeds": (chosen_seeds, {}, "the training seeds are 0, 4; all runs of a sweep must be there"),
    "another hash": (other_hash, {}, "the policy of run 1 is not the one whose sha256 is declared"),
    "half of the policies": (half_published, {}, r"there are policies of the runs \[0\], but 2 runs"),
    "an agent that sees": (seeing, {}, r"run 0: the agent was shown the hidden task"),
    "another track": (lambda own: own, {"track": "oracle"}, "run 0: the agent was not shown the hidden task"),
    "no such track": (lambda own: own, {"track": "prompt-k"}, "track prompt-k needs the datasets"),
    "no steps": (lambda own: own, {"training": Training(env_steps=0)}, "has used environment steps; 0 are declared"),
    "a bad name": (lambda own: own, {"agent": "No Slug!"}, "agent: String should match"),
    "nobody": (lambda own: own, {"authors": ()}, "authors: Tuple should have at least 1 item"),
    "another protocol": (trained_before, {}, "trained under the protocol slots-1, and .* under slots-2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_verification_would_refuse_is_refused_before_it_is_played(tmp_path, unplayed, kind):
    change, changes, words = REFUSED[kind]
    refused(tmp_path, words, change(entrants(ID, 2)), **changes)


def test_other_versions_are_refused_before_anything_is_played(tmp_path, unplayed):
    with pytest.raises(ValueError, match=f"numpy {re.escape(versions()['numpy'])}, but the board grid is pinned to 1"):
        submit(board("grid", ID, pins={"numpy": "1"}), entrants(ID, 2), about(), tmp_path)


def test_an_agent_of_the_newer_protocol_is_sent_to_the_successor(tmp_path, unplayed):
    old = board("grid", ID, protocol="slots-1", superseded_by="grid-2")
    own = entrants(ID, 2)
    for entrant in own:
        entrant.agent.protocol = "slots-2"
    with pytest.raises(ValueError, match=r"trained under the protocol slots-2, .* under slots-1; enter grid-2"):
        submit(old, own, about(), tmp_path)


def test_a_board_of_single_episodes_takes_agents_of_either_protocol(tmp_path):
    id = "GridSwitch-v0"
    boards = write_boards(tmp_path, [board("switch", id, protocol="slots-1", repeats=1)])
    kept = {}
    for version in ("slots-1", "slots-2"):
        own = entrants(id, 2)
        for entrant in own:
            entrant.agent.protocol = version
        folder = submit(boards["switch"], own, about(agent=version), tmp_path)
        verdict = verify(folder, boards)
        assert verdict.accepted, verdict.fault
        kept[version] = json.loads((folder / "result.json").read_text())["results"][0]["returns"]
    assert kept["slots-1"] == kept["slots-2"]


def test_the_boards_with_several_episodes_have_successors():
    boards = read_boards(ROOT / "leaderboards" / BOARDS)
    for one in boards.values():
        if one.protocol == "slots-1" and one.episodes > 1:
            later = boards[one.superseded_by]
            changed = {"id": later.id, "protocol": "slots-2", "superseded_by": later.superseded_by}
            same = changed | {"about": later.about}
            assert later == one.model_copy(update=same), one.id
            assert {path.name for path in (ROOT / "leaderboards" / later.id).iterdir()} >= {"random", "oracle"}
        elif one.superseded_by:  # by one of the same tasks, played more often or under the protocol that followed
            later = boards[one.superseded_by]
            assert (later.benchmark, later.split) == (one.benchmark, one.split)
            newer, more = later.protocol > one.protocol, later.repeats > one.repeats
            assert (newer or (more and later.protocol == one.protocol)) and later.episodes >= one.episodes
            assert {path.name for path in (ROOT / "leaderboards" / later.id).iterdir()} >= {"random", "oracle"}


def test_the_package_has_the_boards(tmp_path):
    assert OWN_BOARDS.read_bytes() == (ROOT / "leaderboards" / BOARDS).read_bytes(), "copy leaderboards/boards.toml"
    assert boards_in(tmp_path) == read_boards(OWN_BOARDS)
    write_boards(tmp_path, [board("own", ID)])
    assert list(boards_in(tmp_path)) == ["own"]


def test_a_run_that_cannot_publish_its_policy_enters_with_the_hash_of_its_files(tmp_path, monkeypatch):
    class Algorithm:
        Config = object

        @staticmethod
        def train(benchmark, config, *, seed, run):
            raise NotImplementedError

        @staticmethod
        def load(path):
            return entrants(ID, 1)[0].agent

    from metabench import plugins

    monkeypatch.setattr(plugins, "load_plugin", lambda name: Algorithm)
    record = {"agent": "x", "benchmark": ID, "seed": 0, "protocol": "slots-2", "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "model.zip").write_bytes(b"weights")
    found = open_run(tmp_path, board("grid", ID), publish=True)
    assert found.policy == {} and found.sha256 == runs.policy(tmp_path).sha256 and "model.zip" in found.note
    with pytest.raises(ValueError, match=r"was trained on GridNavigation-v0; the board grid is of GridSwitch-v0"):
        open_run(tmp_path, board("grid", "GridSwitch-v0"), publish=True)
    with pytest.raises(ValueError, match=r"there is no trained agent in .*: it has no config\.json"):
        open_run(tmp_path / "nowhere", board("grid", ID), publish=True)


def test_repetitions_are_counted_too(tmp_path, unplayed):
    story = about(agent="random", trains=False, plugin="random", training=Training(env_steps=0))
    grid = board("grid", ID)
    with pytest.raises(ValueError, match="there are 1 runs; the board grid asks for at least 2"):
        submit(grid, open_yardstick("random", grid, 1), story, tmp_path)


def test_an_entry_that_is_not_accepted_is_taken_back(tmp_path, monkeypatch):
    from metabench.cli import submit as command
    from metabench.cli import verify
    from metabench.leaderboard.verify import Verdict

    write_boards(tmp_path, [board("grid", ID, repeats=1)])
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())

    def reject(folder, *args, **kwargs):
        return Verdict(folder, (), "a fault", "claimed", (), None, None)

    monkeypatch.setattr(verify, "verify", reject)
    with pytest.raises(ValueError, match="it was not accepted, and nothing is left of it: a fault"):
        command.command(("random",), "grid", ("A",), repetitions=2, root=tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_what_a_track_means_stands_in_one_record_and_the_page_agrees():
    page = (ROOT / "docs" / "leaderboards.md").read_text()
    rows = re.findall(r"^\| ([a-z-]+) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    table = [row for row in rows if row[0] in TRACKS]
    assert table == [(track.name, track.uses, track.judged_on) for track in TRACKS.values()]
    episodes = np.arange(3)
    assert {name: episodes[track.judged].tolist() for name, track in TRACKS.items()} == {
        "online": [0, 1, 2],
        "offline-zero-shot": [0],
        "offline-few-shot": [2],
        "prompt-k": [2],
        "oracle": [0, 1, 2],
    }
    assert {name for name, track in TRACKS.items() if track.allows(True)} == {"prompt-k", "oracle"}
    assert {name for name, track in TRACKS.items() if track.allows(False)} == set(TRACKS) - {"oracle"}
    assert {name for name, track in TRACKS.items() if track.needs_datasets and not track.explores} == {
        name for name, track in TRACKS.items() if name not in ("online", "oracle")
    }
    assert [track_for(played) for played in ("online", "offline", "prompt-k", "oracle")] == [
        "online", "offline-few-shot", "prompt-k", "oracle",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="played as one of online, offline, prompt-k, oracle, not as 'offlin'"):
        track_for("offlin")


def test_entrants_need_not_say_their_note():
    assert Entrant(None, 0, {}, "a" * 64).note == ""


def test_runs_that_are_played_side_by_side_make_the_same_entry(tmp_path, monkeypatch, capsys):
    from metabench.cli import submit as command
    from metabench.cli.where import Where

    monkeypatch.chdir(tmp_path)
    found = []
    for place, where in (("one", Where()), ("many", Where(engine="local", workers=2))):
        write_boards(tmp_path / place, [board("grid", ID, repeats=1)])
        command.command(("random",), "grid", ("A",), repetitions=2, root=tmp_path / place, where=where)
        (entry,) = (tmp_path / place / "grid" / "random").iterdir()
        found.append({p.relative_to(entry).as_posix(): p.read_bytes() for p in entry.rglob("*") if p.is_file()})
    one, many = ({name: content for name, content in files.items() if name != "verification.json"} for files in found)
    assert one == many and "traces/run_001.npz" in one
    assert not list((tmp_path / "runs").iterdir()), "what was played on the way is gone"
    with pytest.raises(ValueError, match="add --engine ray"):
        command.command(("random",), "grid", ("A",), repetitions=2, root=tmp_path / "one", where=Where(address="auto"))
