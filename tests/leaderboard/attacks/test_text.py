"""What somebody wrote is text: in titles, names, paths; and an agent's writing into arrays changes nothing."""

import json
import os
import shutil

import numpy as np
import pytest
from forging import about, board, edit_submission, entrants, honest, reseal, write_boards

from metabench.cli.board import list as list_command
from metabench.cli.verify import verify_all
from metabench.evaluation.evaluate import evaluate_traced
from metabench.evaluation.play import play
from metabench.leaderboard.folder import Folder, known_name
from metabench.leaderboard.replay import Fault
from metabench.leaderboard.submit import submit
from metabench.leaderboard.verify import verify
from metabench.registry import make_vec

ID = "GridNavigation-v0"
HIDDEN = {
    "escape": "a\x1b[2Jb",
    "one-byte escape": "a\x9b2Jb",
    "line": "a\nb",
    "line of Unicode": "a\u2028b",
    "turned": "a\u202egnp.exe",
    "isolated": "a\u2066b",
    "soft hyphen": "a\u00adb",
    "nothing": "a\u200bb",
    "byte order": "\ufeffa",
    "tags": "a\U000e0041b",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("text") / "boards"
    folder, boards = honest(root, "grid", ID, repeats=1)
    return folder, boards


@pytest.fixture
def entry(made, tmp_path):
    folder, boards = made
    shutil.copytree(folder.parents[2], tmp_path / "boards")
    return tmp_path / "boards" / folder.relative_to(folder.parents[2]), boards


@pytest.mark.parametrize("kind", HIDDEN)
def test_marks_that_hide_or_steer_are_refused(entry, kind):
    folder, boards = entry
    for place in ("title", "version", "authors", "plugin"):
        value = [HIDDEN[kind]] if place == "authors" else HIDDEN[kind]
        edit_submission(folder, lambda told, place=place, value=value: told.update({place: value}))
        verdict = verify(folder, boards)
        assert "String should match pattern" in verdict.fault and HIDDEN[kind] not in verdict.fault
        with pytest.raises(ValueError, match="should match pattern"):
            submit(
                boards["grid"],
                entrants(ID, 2),
                about(**{place: (HIDDEN[kind],) if place == "authors" else value}),
                folder,
            )


@pytest.mark.parametrize("title", ["é 中文 עברית 🎉", "پژوهش‌ها", "[bold]b[/] <b>b</b> {{ 7 }} :x:"])
def test_letters_of_the_world_and_markup_are_text(tmp_path, title, capsys):
    boards = write_boards(tmp_path, [board("grid", ID, repeats=1)])
    folder = submit(boards["grid"], entrants(ID, 2), about(title=title), tmp_path)
    verify_all([folder], boards, None, write=True)
    capsys.readouterr()
    list_command.command(tmp_path)
    assert title.replace("\u200c", r"\u200c") in capsys.readouterr().out


@pytest.mark.parametrize(
    "url", ["https://x\x1b[2J", "https://x\u202e", "https://x y", "https://x\"onload='", "ftp://x"]
)
def test_links_are_plain(entry, url):
    folder, boards = entry
    edit_submission(folder, lambda told: told.update(code=url))
    assert "code: String should match pattern" in verify(folder, boards).fault


NAMES = [
    "traces/run_00\u0661.npz",
    "traces/run_\uff10\uff10\uff10.npz",
    "traces/run_000.npz\n",
    "traces/run_0000.npz",
    "policies/run_00\u0967/config.json",
    "policies/run_000/config.json\n",
    "training/run_00\u0661.jsonl",
]


@pytest.mark.parametrize("name", NAMES)
def test_run_names_have_ten_digits_and_end_where_they_end(entry, name):
    folder, boards = entry
    assert not known_name(name)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(Fault, match="which no submission has"):
        Folder(folder)
    assert "\n" not in verify(reseal(folder), boards).fault


def test_file_names_print_as_text(entry, capsys):
    folder, boards = entry
    for name in (b"\x1b[31mred", b"[bold]x", b"\xff\xfe", b"a\nb"):
        path = os.fsencode(folder) + b"/" + name
        with open(path, "wb") as file:  # noqa: PTH123  a name that is no text
            file.write(b"x")
        verify_all([folder], boards, None, write=False)
        said = capsys.readouterr().out
        assert "\x1b[31mred" not in said and "which no submission has" in " ".join(said.split())
        os.unlink(path)  # noqa: PTH108


def test_a_fault_does_not_repeat_a_book(entry):
    folder, boards = entry
    told = json.loads((folder / "result.json").read_text())
    told["results"][0]["protocol"]["seed"] = 10**4000
    (folder / "result.json").write_text(json.dumps(told))
    assert 0 < len(verify(reseal(folder), boards).fault) < 700


class Vandal:
    """Writes into all that it is handed, then does what the model agent does."""

    def __init__(self, agent, spoil=True):
        self.agent, self.spoil = agent, spoil

    def begin(self, num_trials):
        return self.agent.begin(num_trials)

    def act(self, step, belief):
        answer = self.agent.act(step, belief)
        if self.spoil:
            for part in step:
                part[...] = 1
        return answer


def test_an_agent_that_writes_into_its_step_changes_nothing():
    agent = entrants(ID, 1)[0].agent
    protocol = board("grid", ID, repeats=1).played(3)
    plain, spoilt = (evaluate_traced(Vandal(agent, spoil), protocol) for spoil in (False, True))
    assert plain.result.returns == spoilt.result.returns
    assert plain.trace.header == spoilt.trace.header
    for name in ("lengths", "terminated", "actions", "rewards"):
        assert np.array_equal(getattr(plain.trace, name), getattr(spoilt.trace, name)), name
    for name, value in plain.trace.checkpoints.items():
        assert np.array_equal(value, spoilt.trace.checkpoints[name]), name


def test_nor_what_is_kept_of_its_steps():
    """What curves and datasets read of a tick."""
    kept = []
    for spoil in (False, True):
        env = make_vec(ID, 3, split="test", episodes_per_task=2)
        observation, _ = env.reset(seed=0, options={"task": np.arange(3)})
        ticks = play(Vandal(entrants(ID, 1)[0].agent, spoil), env, observation)
        kept.append([next(ticks) for _ in range(40)])
    for one, other in zip(*kept, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.step, other.step, strict=True))
        assert np.array_equal(one.action, other.action) and np.array_equal(one.observation, other.observation)


def test_an_agent_that_keeps_writing_into_its_answer_changes_nothing():
    class Late:
        def begin(self, num_trials):
            return np.zeros(num_trials, dtype=np.int64)

        def act(self, step, belief):
            belief[...] = (belief + 1) % 2
            return belief, belief

    protocol = board("grid", ID, repeats=1).played(3)
    trace = evaluate_traced(Late(), protocol).trace
    assert set(trace.actions.tolist()) == {0, 1}
