"""Whose an entry is, when it was made, what it took: names, dates, copies, one run many times, budgets."""

import datetime
import json

import numpy as np
import pytest
from forging import about, board, edit_submission, entrants, reseal, write_boards

from metabench.leaderboard.folder import Folder
from metabench.leaderboard.keys import AuthorKey, author_key, fits
from metabench.leaderboard.names import NOBODY, foreign, owner_of
from metabench.leaderboard.ranking import rank, read_entries
from metabench.leaderboard.records import Training
from metabench.leaderboard.submit import log_of, submit
from metabench.leaderboard.verify import record, verify
from metabench.runs import policy_sha256

ID = "GridNavigation-v0"
OURS, THEIRS = AuthorKey(bytes(32)), AuthorKey(bytes([1]) * 32)


@pytest.fixture
def boards(tmp_path):
    eager = board("eager", ID, repeats=1, metric="data-efficiency", target=-100.0)
    return write_boards(tmp_path, [board("grid", ID, repeats=1), eager])


def enter(root, boards, id="grid", own=None, **changes):
    """One entry more, first seen a day after the one before."""
    folder = submit(boards[id], own or entrants(ID, 2), about(**({"key": OURS} | changes)), root)
    verdict = verify(folder, boards)
    assert verdict.accepted, verdict.fault
    record(verdict)
    day = datetime.timedelta(days=len(list(root.glob("*/*/*/verification.json"))))
    since = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC) + day
    found = Folder(folder).verification().model_copy(update={"since": since}).sealed()
    (folder / "verification.json").write_text(found.model_dump_json())
    return folder


def rows(root, boards, id="grid"):
    table = rank(boards[id], "online", read_entries(root, boards))
    return {row.entry.submission.title: row.why_unranked for row in (*table.rows, *table.unranked)}


def test_signatures_are_those_of_the_standard():
    """RFC 8032, section 7.1, test 2."""
    key = AuthorKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = key.sign(b"\x72")
    assert signature == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert fits(key.public, signature, b"\x72")
    order = 2**252 + 27742317777372353535851937790883648493
    more = (int.from_bytes(bytes.fromhex(signature[64:]), "little") + order).to_bytes(32, "little").hex()
    wrong = [("", ""), ("zz" * 32, signature), (key.public, signature[:-2]), (THEIRS.public, signature)]
    wrong += [(key.public, signature[:64] + more), ("01" + "00" * 31, "01" + "00" * 63)]
    for public, told in wrong:
        assert not fits(public, told, b"\x72")
    assert not fits(key.public, signature, b"\x73")


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path, monkeypatch):
    path = tmp_path / "of" / "mine"
    monkeypatch.setenv("METABENCH_AUTHOR_KEY", str(path))
    first, second = author_key(), author_key()
    assert first.public == second.public and path.stat().st_mode & 0o777 == 0o600
    path.write_text("nonsense")
    with pytest.raises(ValueError, match="holds no author's key"):
        author_key()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METABENCH_AUTHOR_KEY", str(tmp_path / "file" / "below"))
    assert author_key() is None


def test_a_name_belongs_to_who_entered_first(tmp_path, boards):
    enter(tmp_path, boards, title="first")
    enter(tmp_path, boards, own=entrants(ID, 3, other=9), title="usurper", key=THEIRS)  # newer, and of the same version
    found = rows(tmp_path, boards)
    assert found["first"] == "" and found["usurper"].startswith("the name noisy belongs to the author of")


def test_a_date_before_the_first_ones_does_not_help(tmp_path, boards):
    folder = enter(tmp_path, boards, title="first")
    other = enter(
        tmp_path, boards, own=entrants(ID, 3, other=9), title="usurper", key=THEIRS, date=datetime.date(2020, 1, 1)
    )
    for path, day in ((folder, 1), (other, 2)):  # when the verifier saw them
        since = datetime.datetime(2026, 11, day, tzinfo=datetime.UTC)
        found = Folder(path).verification().model_copy(update={"since": since}).sealed()
        (path / "verification.json").write_text(found.model_dump_json())
    found = rows(tmp_path, boards)
    assert found["first"] == "" and found["usurper"].startswith("the name noisy belongs to")


def test_a_name_belongs_to_its_owner_on_every_board(tmp_path, boards):
    first, second = (enter(tmp_path, boards, id, key=key) for id, key in (("grid", OURS), ("eager", THEIRS)))
    told = [Folder(path).submission() for path in (first, second)]
    assert foreign(told, {})[0] == "" and "belongs to the author" in foreign(told, {})[1]
    assert foreign(told, {"noisy": THEIRS.public}) == ["", ""]  # the root's boards.toml may lend it


def test_an_owner_may_enter_again_and_supersedes_only_themselves(tmp_path, boards):
    enter(tmp_path, boards, title="first")
    enter(tmp_path, boards, own=entrants(ID, 3, other=9), title="second", date=datetime.date(2026, 11, 26))
    found = rows(tmp_path, boards)
    assert found["second"] == "" and found["first"].startswith("superseded by")


def test_an_edit_of_somebodys_entry_is_not_theirs(tmp_path, boards):
    folder = enter(tmp_path, boards)
    assert owner_of(Folder(folder).submission()) == OURS.public
    edit_submission(folder, lambda told: told.update(title="Nosier"))
    folder = reseal(folder)
    assert owner_of(Folder(folder).submission()) == NOBODY
    assert "the entry counts as unsigned" in " ".join(verify(folder, boards).flags)


def test_an_unsigned_name_is_nobodys_twice(tmp_path, boards, monkeypatch):
    from metabench.leaderboard import submit as submitting

    monkeypatch.setattr(submitting, "author_key", lambda: None)
    enter(tmp_path, boards, title="first", key=None)
    enter(tmp_path, boards, own=entrants(ID, 3, other=9), title="second", key=None, date=datetime.date(2026, 11, 26))
    assert sum(why.startswith("the name noisy belongs") for why in rows(tmp_path, boards).values()) == 1


def test_a_renamed_copy_is_not_ranked(tmp_path, boards):
    enter(tmp_path, boards, title="first")
    enter(tmp_path, boards, title="copy", agent="copy", key=THEIRS)
    assert rows(tmp_path, boards)["copy"].startswith("its policies are those of noisy")


def test_dates_do_not_lie_in_the_future(tmp_path, boards):
    later = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
    with pytest.raises(ValueError, match="lies in the future"):
        submit(boards["grid"], entrants(ID, 2), about(date=later), tmp_path)
    folder = enter(tmp_path, boards)
    edit_submission(folder, lambda told: told.update(date=str(later)))
    assert "lies in the future" in verify(reseal(folder), boards).fault


def weights(array, iteration=5, **more):
    safetensors = pytest.importorskip("safetensors.numpy")
    state = {"iteration": iteration, "metrics_bytes": 100}
    return safetensors.save({"net/w": array.astype(np.float32)}, metadata={"state": json.dumps(state), **more})


def with_weights(arrays, **changes):
    own = []
    for seed, (entrant, array) in enumerate(zip(entrants(ID, len(arrays)), arrays, strict=True)):
        record = {"agent": "noisy", "benchmark": ID, "seed": seed, "protocol": "slots-2", "config": {}}
        files = {"config.json": json.dumps(record).encode(), "policy.safetensors": weights(array, **changes)}
        own.append(entrant._replace(policy=files, sha256=policy_sha256(files)))
    return own


def test_one_run_cannot_be_entered_several_times(tmp_path, boards):
    """Seeds must differ, and weights must: another seed in the settings, or a little noise, makes no other run."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=1000), rng.normal(size=1000)
    for pair in ([one, one], [one, one * (1 + 1e-4)], [one, np.where(np.arange(1000) < 5, other, one)]):
        with pytest.raises(ValueError, match="have the same weights, or nearly: a run stands twice"):
            submit(boards["grid"], with_weights(pair), about(), tmp_path)
    assert verify(submit(boards["grid"], with_weights([one, other]), about(), tmp_path), boards).accepted


def test_runs_that_did_the_same_are_flagged(tmp_path, boards):
    own = entrants(ID, 2)
    own[1] = own[1]._replace(agent=own[0].agent)
    folder = submit(boards["grid"], own, about(), tmp_path)
    flags = " ".join(verify(folder, boards).flags)
    assert "have the same returns in every trial" in flags


def logged(own, frames, iteration=5):
    return [entrant._replace(log=log_of([{"iteration": iteration, "frames": frames}])) for entrant in own]


def arrays():
    rng = np.random.default_rng(0)
    return [rng.normal(size=100) for _ in range(2)]


def one_log():
    return [*logged(entrants(ID, 2), 1)[:1], entrants(ID, 2)[1]]


def other_log(text):
    return [entrant._replace(log=text) for entrant in entrants(ID, 2)]


BUDGETS = {
    "the log tells of more": (
        lambda: logged(entrants(ID, 2), 5000), 1, "the log of run 0 tells of 5,000 environment steps; 1 are declared",
    ),
    "the weights are of more iterations": (
        lambda: with_weights(arrays()), 1, "the weights of run 0 are of iteration 5, which 1 environment steps do not",
    ),
    "the log ends before the weights": (
        lambda: logged(with_weights(arrays()), 1, 1), 100, "of iteration 5; its log ends with iteration 1",
    ),
    "a log of one run": (one_log, 1, r"logs of the runs \[0\], but 2 runs"),
    "a log that goes back": (
        lambda: other_log('{"frames": 5}\n{"frames": 1}\n'), 9, "line 2 of the log of run 0 goes back",
    ),
    "a log of something else": (lambda: other_log('{"frames": "1"}\n'), 9, "line 1 of the log of run 0 does not tell"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BUDGETS)
def test_a_budget_that_the_runs_own_logs_contradict_is_refused(tmp_path, boards, kind):
    own, steps, words = BUDGETS[kind]
    with pytest.raises(ValueError, match=words):
        submit(boards["eager"], own(), about(training=Training(env_steps=steps)), tmp_path)


def test_without_logs_nobody_is_ranked_by_environment_steps(tmp_path, boards):
    enter(tmp_path, boards, "eager", title="one step", training=Training(env_steps=1))
    enter(tmp_path, boards, "eager", logged(entrants(ID, 2, other=9), 900), title="logged", agent="logged",
          training=Training(env_steps=900))  # fmt: skip
    found = rows(tmp_path, boards, "eager")
    assert found["logged"] == "" and found["one step"].startswith("the logs of its training are not there")


def test_a_copy_with_policies_of_its_own_is_flagged(tmp_path, boards):
    """Where starts are the same for every seed, another hash fits the same steps; a nudge within the tolerance too."""
    from metabench.leaderboard.verify import same_returns

    class Still:
        def begin(self, num_trials):
            return None

        def act(self, step, belief):
            return np.zeros(len(step.reward), dtype=np.int64), belief

    enter(tmp_path, boards, own=[e._replace(agent=Still()) for e in entrants(ID, 2)])
    copy = submit(boards["grid"], [e._replace(agent=Still()) for e in entrants(ID, 2, other=9)],
                  about(agent="copy", key=THEIRS), tmp_path)  # fmt: skip
    assert "run 0 has the returns of run 0 of noisy" in " ".join(verify(copy, boards).flags)
    returns = np.random.default_rng(0).normal(size=(5, 2, 2)) * 100
    assert same_returns(returns, returns * (1 + 1e-8)) and not same_returns(returns, returns * (1 + 1e-5))


def test_a_policy_under_a_plugins_name_tells_of_that_plugin(tmp_path, boards):
    for changes in ({"agent": "rl2", "plugin": "rl2"}, {"agent": "mine", "plugin": "pearl"}):
        with pytest.raises(ValueError, match=r"is of the run \('noisy', 'GridNavigation-v0', 0\), not of"):
            submit(boards["grid"], with_weights(arrays()), about(**changes), tmp_path)


def test_a_log_keeps_its_ends(tmp_path):
    rows = [{"iteration": n, "frames": 10 * n, "time/seconds": 0.1} for n in range(5000)]
    told = [json.loads(line) for line in log_of(rows).splitlines()]
    assert len(told) == 1000 and told[0]["frames"] == 0 and told[-1] == {"iteration": 4999, "frames": 49990}
