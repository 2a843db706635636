"""Verification: honest submissions pass, every kind of forged one is refused in the right words."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from forging import (
    REACH,
    about,
    board,
    edit_header,
    edit_result,
    edit_submission,
    edit_trace,
    entrants,
    honest,
    reseal,
    write_boards,
)

from metabench.cli.verify import verify_all
from metabench.evaluation.evaluate import versions
from metabench.leaderboard.folder import Folder, find
from metabench.leaderboard.records import Training, Verification, dump, read_submission, schemas
from metabench.leaderboard.submit import open_yardstick, submit, without_learner
from metabench.leaderboard.verify import record, verify

BENCHMARK = "ReacherGoal-v0"  # physics, random starts, 20 tasks x 4 trials x 3 episodes of 50 steps


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return honest(tmp_path_factory.mktemp("boards"), REACH, BENCHMARK)


@pytest.fixture
def entry(original, tmp_path):
    """A copy of the honest submission to forge, and its boards."""
    folder, boards = original
    root = tmp_path / "boards"
    shutil.copytree(folder.parents[2], root)
    return root / folder.relative_to(folder.parents[2]), boards


def test_an_honest_submission_is_accepted(original):
    folder, boards = original
    seen = []
    verdict = verify(folder, boards, progress=lambda done, total: seen.append((done, total)))
    assert verdict.accepted and verdict.tier == "replayed" and not verdict.fault, verdict.fault
    assert [check.name for check in verdict.checks] == [
        "files", "board", "runs", "policies", "results", "scores", "replay",
    ]  # fmt: skip
    assert seen[-1][0] == seen[-1][1] == 2 * 3000


def test_a_submission_is_deterministic_and_small(original, tmp_path):
    folder, boards = original
    again = submit(boards[REACH], entrants(BENCHMARK, 2), about(), tmp_path)
    assert again.name == folder.name
    for name in Folder(folder).names:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    assert sum((folder / name).stat().st_size for name in Folder(folder).names) < 10_000_000
    assert submit(boards[REACH], entrants(BENCHMARK, 2), about(), tmp_path) == again
    assert sorted(path.name for path in tmp_path.iterdir()) == [REACH]  # nothing half-written is left


def rewards_up(arrays):
    arrays["rewards"][100:110] += 0.001


def action_changed(arrays):
    arrays["actions"][55] = -arrays["actions"][55]


def state_changed(arrays):
    arrays["checkpoint.state.physics"][7, 2] += 1e-5


def start_changed(arrays):
    arrays["checkpoint.state.physics"][0, 1] += 1e-5


def episode_dropped(arrays):
    """The last episode of the first trial is left out, the next trial's first takes its place."""
    first = int(arrays["lengths"][0, :2].sum())
    gone = slice(first, first + int(arrays["lengths"][0, 2]))
    for name in ("actions", "rewards"):
        arrays[name] = np.delete(arrays[name], np.r_[gone], axis=0)
    flat = np.delete(arrays["lengths"].ravel(), 2)
    arrays["lengths"] = np.append(flat, flat[-1]).reshape(-1, 3)


def trial_dropped(arrays):
    steps, marks = int(arrays["lengths"][-1].sum()), 15
    arrays["lengths"], arrays["terminated"] = arrays["lengths"][:-1], arrays["terminated"][:-1]
    for name in ("actions", "rewards"):
        arrays[name] = arrays[name][:-steps]
    for name in arrays:
        if name.startswith("checkpoint."):
            arrays[name] = arrays[name][:-marks]


def episode_duplicated(arrays):
    """The second episode of the first trial becomes a copy of the first."""
    for name in ("actions", "rewards"):
        arrays[name][50:100] = arrays[name][:50]
    for name in arrays:
        if name.startswith("checkpoint."):
            arrays[name][5:10] = arrays[name][:5]


def trial_duplicated(arrays):
    """A trial of the first task stands in the place of one of the second."""
    for name in ("actions", "rewards"):
        arrays[name][600:750] = arrays[name][:150]
    for name in arrays:
        if name.startswith("checkpoint."):
            arrays[name][60:75] = arrays[name][:15]


def other_context(arrays):
    arrays["checkpoint.context.bearing"][:15] += 0.01


def counter_changed(arrays):
    arrays["checkpoint.counter"][3] += 1


def session_changed(arrays):
    arrays["checkpoint.session"][3] += 1


def not_finite(value):
    def change(arrays):
        arrays["rewards"][5] = value

    return change


def state_not_finite(arrays):
    arrays["checkpoint.state.physics"][5, 0] = np.nan


def action_not_finite(arrays):
    arrays["actions"][5] = np.inf


def action_outside(arrays):
    arrays["actions"][5] = 3.0


TRACES = {
    "edited reward": (rewards_up, "run 0: task 0, repeat 0, episode 2, step 0: the trace has the reward"),
    "edited action": (action_changed, "run 0: task 0, repeat 0, episode 1, step 5: the trace has the reward"),
    "edited state": (state_changed, "run 0: task 0, repeat 0, episode 1, step"),
    "edited start": (start_changed, "step 0: the episode does not start as its task and seed demand: state.physics"),
    "dropped episode": (episode_dropped, "has the shape"),
    "dropped trial": (trial_dropped, "there are 19 trials|there are 79 trials|trials, the protocol has"),
    "duplicated episode": (episode_duplicated, "the trace has the reward|does not start as its task and seed demand"),
    "duplicated trial": (trial_duplicated, "does not start as its task and seed demand"),
    "another context": (other_context, "does not start as its task and seed demand: context.bearing differs by 0.01"),
    "another counter": (counter_changed, "counter is another one"),
    "another session": (session_changed, "session is another one"),
    "NaN reward": (not_finite(np.nan), "rewards has a value that is not finite"),
    "infinite reward": (not_finite(np.inf), "rewards has a value that is not finite"),
    "huge reward": (not_finite(1e12), "rewards has a value beyond 1e\\+09"),
    "NaN state": (state_not_finite, "state.physics has a value that is not finite"),
    "infinite action": (action_not_finite, "actions has a value that is not finite"),
    "action outside the space": (action_outside, "the action 3 of step 5 lies outside the space"),
}


@pytest.mark.parametrize("kind", TRACES)
def test_forged_traces_are_refused(entry, kind):
    folder, boards = entry
    change, words = TRACES[kind]
    edit_trace(folder, change, returns=change is not trial_dropped)
    refused(reseal(folder), boards, words)


def refused(folder, boards, words):
    import re

    verdict = verify(folder, boards)
    assert not verdict.accepted and verdict.tier == "claimed"
    assert verdict.fault and re.search(words, verdict.fault), verdict.fault
    assert "\n" not in verdict.fault
    return verdict


def set_header(**changes):
    return lambda folder: edit_header(folder, lambda header: header.update(changes))


def set_protocol(**changes):
    def change(folder):
        edit_header(folder, lambda header: header["protocol"].update(changes))

    return change


def set_result(**changes):
    return lambda folder: edit_result(folder, lambda r: r["results"][0].update(changes))


def set_result_protocol(**changes):
    return lambda folder: edit_result(folder, lambda r: r["results"][0]["protocol"].update(changes))


def both_protocols(**changes):
    def change(folder):
        set_protocol(**changes)(folder)
        set_result_protocol(**changes)(folder)

    return change


def raise_return(folder):
    def change(record):
        record["results"][0]["returns"][2][1][0] += 0.5

    edit_result(folder, change)


def copy_run(folder):
    shutil.copy(folder / "traces" / "run_000.npz", folder / "traces" / "run_001.npz")
    edit_result(folder, lambda r: r["results"].__setitem__(1, r["results"][0]))


def copy_trace(folder):
    """Run 1 shows run 0's steps under its own header."""
    header = {}

    def keep(arrays):
        header["own"] = arrays["header"]

    edit_trace(folder, keep, run=1, returns=False)
    shutil.copy(folder / "traces" / "run_000.npz", folder / "traces" / "run_001.npz")
    edit_trace(folder, lambda arrays: arrays.update(header=header["own"]), run=1)


def drop_run(folder):
    (folder / "traces" / "run_001.npz").unlink()


def drop_result(folder):
    edit_result(folder, lambda r: r["results"].pop())


def more_policies(folder):
    (folder / "policies" / "run_001" / "config.json").write_text("{}")


CONTENT = {
    "edited return": (raise_return, "run 0: task 2, repeat 1, episode 0: result.json has the return"),
    "NaN return": (lambda f: edit_result(f, lambda r: r["results"][0]["returns"][0][0].__setitem__(0, float("nan"))),
                   "result.json: results.0.returns.0.0.0"),
    "dropped task": (lambda f: edit_result(f, lambda r: r["results"][0]["returns"].pop()), "has 4 tasks|has 19 tasks"),
    "another seed": (both_protocols(seed=1), "the result of run 0 was played with seed 1; .* follows from the policy"),
    "another seed in the trace": (set_protocol(seed=1), "the trace was played with seed 1"),
    "another split": (both_protocols(split="ood"), "was played with split 'ood'; the board asks for 'test'"),
    "another environment": (both_protocols(benchmark="ReacherGoal-v1"), "was played with benchmark 'ReacherGoal-v1'"),
    "another protocol": (both_protocols(version="first-n"), "was played with version 'first-n'"),
    "fewer episodes": (both_protocols(episodes=2), "returns of task 0|was played with episodes 2"),
    "another table digest": (set_result(task_digest="0" * 64), "has the table digest 000000000000"),
    "another digest in the trace": (set_header(task_digest="0" * 64), "the trace has the table digest 000000000000"),
    "another version of the benchmark": (set_header(spec_digest="0" * 64), "another version of ReacherGoal-v0"),
    "privileged observation": (set_header(privileged=True), "was shown the hidden task .a privileged observation."),
    "privileged result": (set_result(track="oracle"), "was shown the hidden task"),
    "fewer checkpoints": (set_header(every=50), "a checkpoint every 50 steps instead of every 10"),
    "trace of another schema": (set_header(schema_version=2), "no valid trace header .*schema_version"),
    "result of another schema": (set_result(schema_version=2), "results.0.schema_version"),
    "unknown field": (set_result(score=1.0), "results.0.score: Extra inputs"),
    "duplicated run": (copy_run, "the result of run 1 was played with seed"),
    "another run's steps": (copy_trace, "run 1: task 0, repeat 0, episode 0, step 0: the episode does not start"),
    "dropped run's trace": (drop_run, "there are 1 traces, but 2 runs"),
    "dropped run's result": (drop_result, "has 1 results, but 2 runs are declared"),
    "another policy": (more_policies, "the policy of run 1 is not the one whose sha256 is declared"),
    "another training seed": (set_result(train_seed=5), "has the training seed 5, not 0"),
    "another numpy": (set_result(versions={"numpy": "1.26.4"}), "run 0 was evaluated with numpy 1.26.4, but the board"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTENT)
def test_forged_content_is_refused(entry, kind):
    folder, boards = entry
    change, words = CONTENT[kind]
    change(folder)
    refused(reseal(folder), boards, words)


def some_of(seeds):
    def change(record):
        record["runs"] = [{**run, "train_seed": seed} for run, seed in zip(record["runs"], seeds, strict=True)]

    return change


RECORD = {
    "best of n": (some_of([0, 3]), "the training seeds are 0, 3; all runs of a sweep must be there.*no choice of the"),
    "no training seed": (some_of([0, None]), "has no training seed"),
    "one run": (lambda r: r["runs"].pop(), "there are 1 runs; the board reach asks for at least 2"),
    "the same policy": (lambda r: r["runs"][1].update(policy_sha256=r["runs"][0]["policy_sha256"]), "run stands twice"),
    "wrong schema version": (lambda r: r.update(schema_version=2), "schema_version: Input should be 1"),
    "path traversal": (lambda r: r.update(agent="../../../etc"), "agent: String should match pattern"),
    "path traversal of the board": (lambda r: r.update(board=".."), "board: String should match pattern"),
    "absolute path": (lambda r: r.update(agent="/etc/passwd"), "agent: String should match pattern"),
    "unknown board": (lambda r: r.update(board="reech"), "unknown board 'reech'; did you mean 'reach'"),
    "unknown track": (lambda r: r.update(track="best"), "track: Input should be"),
    "track of another board": (lambda r: r.update(track="prompt-k", training={"env_steps": 0, "datasets": [
        {"id": "x", "sha256": "0" * 64}]}), "has no track prompt-k"),
    "online as oracle": (lambda r: r.update(track="oracle"), "was played as online, which does not go with oracle"),
    "offline with steps": (lambda r: r.update(track="offline-few-shot"), "needs the datasets that were trained on"),
    "steps not told": (lambda r: r.update(training={"env_steps": 0}), "has used environment steps; 0 are declared"),
    "script for a link": (lambda r: r.update(code="javascript:alert(1)"), "code: String should match pattern"),
    "line breaks": (lambda r: r.update(title="a\nb"), "title: String should match pattern"),
    "not trained": (lambda r: r.update(trains=False), "an agent that does not train has used no environment steps"),
    "evaluated with another numpy": (lambda r: r["versions"].update(numpy="1.26"), "evaluated with numpy 1.26, but"),
    "secret fields": (lambda r: r.update(score=1), "score: Extra inputs are not permitted"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORD)
def test_forged_records_are_refused(entry, kind):
    folder, boards = entry
    change, words = RECORD[kind]
    edit_submission(folder, change)
    refused(reseal(folder), boards, words)


def link_file(folder):
    target = folder / "traces" / "run_001.npz"
    target.unlink()
    target.symlink_to(folder / "traces" / "run_000.npz")


def link_folder(folder):
    (folder / "policies" / "more").symlink_to("/etc")


def pipe(folder):
    os.mkfifo(folder / "traces" / "run_002.npz")


def deep(folder):
    (folder / "a" / "b" / "c" / "d" / "e").mkdir(parents=True)


def script(folder):
    (folder / "setup.py").write_text("raise SystemExit")


def large(folder):
    with (folder / "traces" / "run_002.npz").open("wb") as file:
        file.truncate(17_000_000)


def long_card(folder):
    (folder / "card.md").write_text("x" * 70_000)


def no_text(folder):
    (folder / "card.md").write_bytes(b"\xff\xfe\x00")


def nested_json(folder):
    (folder / "result.json").write_text("[" * 100_000 + "]" * 100_000)


def no_json(folder):
    (folder / "submission.json").write_text("{")


def pickled(folder):
    def change(arrays):
        arrays["actions"] = np.zeros(3)

    edit_trace(folder, change, returns=False)
    path = folder / "traces" / "run_000.npz"
    with zipfile.ZipFile(path, "a") as file, file.open("evil.npy", "w") as member:
        np.lib.format.write_array(member, np.array([print], dtype=object), allow_pickle=True)


def bomb(folder):
    with zipfile.ZipFile(folder / "traces" / "run_000.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("a.npy", b"\0" * 300_000_000)


def giant(folder):
    edit_trace(folder, lambda arrays: arrays.update(lengths=np.full((2_000_000, 3), 50)), returns=False)


def traversal(folder):
    with zipfile.ZipFile(folder / "traces" / "run_000.npz", "a") as file:
        file.writestr("../../../evil.npy", b"x")


FILES = {
    "symlink": (link_file, "'run_001.npz' is a symbolic link"),
    "symlink to a folder": (link_folder, "'more' is a symbolic link"),
    "pipe": (pipe, "'run_002.npz' is neither a file nor a folder"),
    "deep folders": (deep, "too deep for a submission"),
    "other files": (script, "there is a file 'setup.py', which no submission has"),
    "too large": (large, "more than the 16,000,000 allowed"),
    "long card": (long_card, "card.md has 70,000 bytes, more than"),
    "no text": (no_text, "card.md is no UTF-8 text"),
    "nested JSON": (nested_json, "no valid result.json"),
    "no JSON": (no_json, "no valid submission.json"),
    "pickled objects": (pickled, "evil holds object; only booleans, integers and floats are read"),
    "zip bomb": (bomb, "would unpack to more than the 268,435,456 bytes"),
    "giant arrays": (giant, "there are 2000000 trials, the protocol has"),
    "path traversal in the archive": (traversal, "a member with the name '../../../evil.npy'"),
}


@pytest.mark.parametrize("kind", FILES)
def test_malicious_files_are_refused(entry, kind):
    folder, boards = entry
    change, words = FILES[kind]
    change(folder)
    if kind not in ("symlink", "symlink to a folder", "pipe", "no JSON"):
        folder = reseal(folder)
    refused(folder, boards, words)


def test_what_is_changed_after_sealing_is_refused(entry):
    folder, boards = entry
    (folder / "card.md").write_text("# better\n")
    refused(folder, boards, "card.md is not the file whose sha256 is declared: it was changed afterwards")
    (folder / "card.md").unlink()
    refused(folder, boards, "there is no card.md")


def test_a_folder_in_the_wrong_place_is_refused(entry):
    folder, boards = entry
    moved = folder.parent.parent / "somebody-else" / folder.name
    moved.parent.mkdir()
    refused(folder.rename(moved), boards, "its content belongs into reach/noisy/")


def test_without_traces_it_is_a_claim_and_not_accepted(entry):
    folder, boards = entry
    shutil.rmtree(folder / "traces")
    verdict = verify(reseal(folder), boards)
    assert verdict.tier == "claimed" and not verdict.fault and not verdict.accepted
    with pytest.raises(ValueError, match="it has no traces"):
        record(verdict)


def test_a_record_of_verification_belongs_to_one_content(entry):
    folder, boards = entry
    verdict = verify(folder, boards)
    record(verdict)
    assert Folder(folder).verification().tier == "replayed"
    assert verify(folder, boards).accepted  # the record is no part of the content
    edit_submission(folder, lambda r: r.update(title="Nosier"))
    assert Folder(reseal(folder)).verification() is None


def test_a_record_that_claims_a_rerun_is_checked(entry):
    folder, boards = entry
    made_up = Verification(
        submission_sha256=Folder(folder).sha256(),
        tier="reproduced",
        checks=(),
        versions=versions(),
        rerun={"seed": 1, "submitted": 1, "again": 1, "difference": (0, 0)},
    )
    (folder / "verification.json").write_bytes(dump(made_up))  # without its seal it says nothing
    assert verify(folder, boards).tier == "replayed"
    (folder / "verification.json").write_bytes(dump(made_up.sealed()))
    refused(folder, boards, "is not installed here: nothing to run again")
    (folder / "verification.json").write_bytes(dump(made_up.model_copy(update={"rerun": None}).sealed()))
    refused(folder, boards, "says reproduced and names no re-run")


@pytest.mark.parametrize("name", ["oracle", "random"])
def test_yardsticks_are_reproduced_and_a_better_story_is_not(tmp_path, name):
    boards = write_boards(tmp_path, [board("grid", "GridNavigation-v0")])
    track = "oracle" if name == "oracle" else "online"
    story = about(agent=name, track=track, trains=False, plugin=name, training=Training(env_steps=0))
    folder = submit(boards["grid"], open_yardstick(name, boards["grid"], 2), story, tmp_path)
    verdict = verify(folder, boards, rerun_seed=9)
    assert verdict.tier == "reproduced" and verdict.rerun.seed == 9, verdict.fault
    record(verdict)
    assert verify(folder, boards).tier == "reproduced"  # by the record's own seed
    other = {"oracle": "random", "random": "zero"}[name]
    edit_submission(folder, lambda r: r.update(plugin=other))
    words = "sees what the track" if name == "oracle" else "played again on fresh seeds, the policies reach"
    verdict = verify(reseal(folder), boards, rerun_seed=9)
    assert not verdict.accepted and words in verdict.fault


def test_weights_are_published_without_the_optimiser(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {"network/a": np.arange(6.0).reshape(2, 3), "adam/0/exp_avg": np.ones(50), "network/b": np.ones(3)}
    tensors |= {"dt-adam/0/exp_avg": np.ones(50), "target.weight": np.ones(9), "target": np.ones(1)}
    content = without_learner(safetensors.save(tensors, metadata={"state": "{}"}))
    read = safetensors.load(content)
    assert read.keys() == {"network/a", "network/b", "target"}
    assert np.array_equal(read["network/a"], tensors["network/a"])
    assert without_learner(content) == content


def test_the_schemas_are_json_schema(original):
    folder, _ = original
    told = schemas()
    assert {"submission.json", "result.json", "verification.json", "boards.toml"} == set(told)
    assert {"agent", "authors", "track", "training", "test_tasks", "files"} <= set(told["submission.json"]["required"])
    assert read_submission((folder / "submission.json").read_text()).place.name == folder.name
    json.dumps(told)


OTHER_LIBM = "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA,-AVX2_Usable,-FMA_Usable,-AVX512F_Usable"


@pytest.mark.parametrize(
    "environment", [{"GLIBC_TUNABLES": OTHER_LIBM, "METABENCH_THREADS": "1"}, {"METABENCH_THREADS": "2"}]
)
def test_honest_submissions_pass_on_another_libm_and_on_two_threads(original, environment):
    folder, _ = original
    command = [sys.executable, "-m", "metabench.cli", "verify", str(folder)]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "replayed" in ran.stdout


def test_submissions_are_verified_side_by_side_as_in_turn(original, tmp_path, capsys):
    folder, boards = original
    folders = []
    for name in ("a", "b", "c"):
        shutil.copytree(folder.parents[2], tmp_path / name)
        folders.append(tmp_path / name / folder.relative_to(folder.parents[2]))
    (folders[1] / "result.json").write_text("{}")
    before = dict(os.environ)
    in_turn = verify_all(folders, boards, None, write=False)
    printed = capsys.readouterr().out
    assert verify_all(folders, boards, None, write=False, workers=2) == in_turn
    assert capsys.readouterr().out == printed and "2 of 3 submissions accepted" in printed
    assert [verdict.accepted for verdict in in_turn] == [True, False, True]
    assert dict(os.environ) == before


def test_finding_submissions(original, tmp_path):
    folder, _ = original
    assert find(folder) == find(folder.parents[2]) == [folder]
    with pytest.raises(ValueError, match="there is no submission in"):
        find(tmp_path)
