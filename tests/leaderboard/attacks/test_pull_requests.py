"""Sixteen pull requests and more: whole new entries pass, whatever else is hidden in one is refused by name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forging import about, board, edit_trace, entrants, reseal, write_boards

from metabench.cli.board.check import command
from metabench.leaderboard.changes import proposed
from metabench.leaderboard.keys import AuthorKey
from metabench.leaderboard.records import BOARDS
from metabench.leaderboard.submit import submit
from metabench.leaderboard.verify import record, verify

ID = "GridNavigation-v0"
OURS, THEIRS = AuthorKey(bytes(32)), AuthorKey(bytes([1]) * 32)


def git(repository, *arguments):
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, env={**os.environ, **own, **names}).stdout


def commit(repository, message="change"):
    git(repository, "add", "-A", "-f")
    git(repository, "commit", "-q", "-m", message, "--allow-empty")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository with one verified entry, and a new one that waits outside."""
    folder = tmp_path_factory.mktemp("pull")
    repository, root = folder / "repository", folder / "repository" / "leaderboards"
    boards = write_boards(root, [board("grid", ID, repeats=1)])
    record(verify(submit(boards["grid"], entrants(ID, 2), about(key=OURS), root), boards))
    (repository / "README.md").write_text("# Boards\n")
    git(folder, "init", "-q", "-b", "main", str(repository))
    commit(repository, "base")
    waiting = folder / "waiting"
    write_boards(waiting, [board("grid", ID, repeats=1)])
    for name in ("other", "noisy"):
        submit(boards["grid"], entrants(ID, 3, other=9), about(agent=name, key=THEIRS), waiting)
    submit(boards["grid"], entrants(ID, 3), about(key=OURS, version="2"), waiting)
    return repository, waiting


@pytest.fixture
def pull(made, tmp_path):
    """A copy of the repository, and how to add a waiting entry to it."""
    repository, waiting = tmp_path / "repository", made[1]
    shutil.copytree(made[0], repository)

    def add(agent, version="1"):
        for path in sorted((waiting / "grid" / agent).iterdir()):
            if json.loads((path / "submission.json").read_text())["version"] == version and (
                agent != "noisy" or version == "2" or theirs(path)
            ):
                target = repository / "leaderboards" / path.relative_to(waiting)
                shutil.copytree(path, target)
                return target
        raise AssertionError(agent)

    return repository, add


def theirs(path):
    return json.loads((path / "submission.json").read_text())["author_key"] == THEIRS.public


def old_entry(repository):
    return next((repository / "leaderboards" / "grid" / "noisy").iterdir())


def refused(repository, words):
    commit(repository)
    with pytest.raises(ValueError, match=words) as caught:
        proposed(repository, "main~1")
    assert "\n" not in str(caught.value)


def test_a_new_entry_is_verified(pull, capsys):
    repository, add = pull
    entry = add("other")
    commit(repository)
    found = proposed(repository, "main~1")
    assert found.entries == (entry,) and not found.everything
    command("main~1", repository)
    assert "replayed" in capsys.readouterr().out


def test_its_author_may_enter_again(pull):
    repository, add = pull
    entry = add("noisy", "2")
    commit(repository)
    assert proposed(repository, "main~1").entries == (entry,)


def test_rewards_that_were_never_earned_are_refused(pull):
    repository, add = pull
    entry = add("other")

    def change(arrays):
        arrays["rewards"] = arrays["rewards"] + 1.0

    edit_trace(entry, change)
    reseal(entry)
    commit(repository)
    with pytest.raises(SystemExit):
        command("main~1", repository)


def new_record(repository, add):
    (add("other") / "verification.json").write_text("{}")


def edited_record(repository, add):
    path = old_entry(repository) / "verification.json"
    path.write_text(path.read_text().replace("replayed", "reproduced"))


def removed_record(repository, add):
    (old_entry(repository) / "verification.json").unlink()


def removed_traces(repository, add):
    shutil.rmtree(old_entry(repository) / "traces")


def removed_entry(repository, add):
    shutil.rmtree(old_entry(repository))


def edited_entry(repository, add):
    (old_entry(repository) / "card.md").write_text("# Worse\n")


def more_files(repository, add):
    target = old_entry(repository) / "traces" / "run_002.npz"
    shutil.copy(old_entry(repository) / "traces" / "run_001.npz", target)


def moved_entry(repository, add):
    old_entry(repository).parent.rename(repository / "leaderboards" / "grid" / "renamed")


def attributes(repository, add):
    add("other")
    (repository / "leaderboards" / ".gitattributes").write_text("* text eol=crlf\n")


def attributes_above(repository, add):
    add("other")
    (repository / ".gitattributes").write_text("* text eol=crlf\n")


def attributes_inside(repository, add):
    (add("other") / ".gitattributes").write_text("* -text\n")


def stray(repository, add):
    shutil.copy(add("other") / "submission.json", repository / "leaderboards" / "submission.json")


def deeper(repository, add):
    entry = add("other")
    target = repository / "leaderboards" / "more" / "grid" / "other"
    target.mkdir(parents=True)
    entry.rename(target / entry.name)


def hidden(repository, add):
    entry = add("other")
    target = repository / "leaderboards" / "grid" / ".other"
    target.mkdir(parents=True)
    entry.rename(target / entry.name)


def boards_too(repository, add):
    add("other")
    path = repository / "leaderboards" / BOARDS
    path.write_text(path.read_text().replace("min_runs = 2", "min_runs = 1"))


def easier_boards(repository, add):
    path = repository / "leaderboards" / BOARDS
    path.write_text(path.read_text().replace("min_runs = 2", "min_runs = 1"))


def no_boards(repository, add):
    write_boards(repository / "leaderboards", [board("new", ID)])


def nested_boards(repository, add):
    entry = add("other")
    shutil.copy(repository / "leaderboards" / BOARDS, entry.parent / BOARDS)


def code_too(repository, add):
    add("other")
    (repository / "metabench").mkdir()
    (repository / "metabench" / "verify.py").write_text("accepted = True\n")


def workflow_too(repository, add):
    add("other")
    (repository / ".github").mkdir()
    (repository / ".github" / "x.yml").write_text("on: push\n")


def program(repository, add):
    (add("other") / "card.md").chmod(0o755)


def link(repository, add):
    card = add("other") / "card.md"
    card.unlink()
    card.symlink_to("result.json")


def digits(repository, add):
    entry = add("other")
    (entry / "traces" / "run_00\u0661.npz").write_bytes(b"x")


def half(repository, add):
    (add("other") / f".{'result.json'}.abcd1234").write_bytes(b"x")


def taken_name(repository, add):
    add("noisy")


def unsigned(repository, add):
    entry = add("noisy", "2")
    told = json.loads((entry / "submission.json").read_text())
    (entry / "submission.json").write_text(json.dumps({**told, "title": "Nosier"}))
    reseal(entry)


def renamed_copy(repository, add):
    source = old_entry(repository)
    target = repository / "leaderboards" / "grid" / "copy" / source.name
    shutil.copytree(source, target)
    (target / "verification.json").unlink()
    told = json.loads((target / "submission.json").read_text())
    told |= {"agent": "copy", "author_key": "", "signature": ""}
    (target / "submission.json").write_text(json.dumps(told))
    reseal(target)


PULLS = {
    new_record: "is written by who verifies",
    edited_record: "is written by who verifies",
    removed_record: "is written by who verifies",
    removed_traces: "is removed: what was entered stays",
    removed_entry: "is removed|is written by who verifies",
    edited_entry: "is changed: what was entered stays",
    more_files: "is added to an entry that is there already",
    moved_entry: "is removed|is written by who verifies",
    attributes: r"leaderboards/\.gitattributes' lies where no file of an entry does",
    attributes_above: "changes nothing else; '.gitattributes' needs a pull request of its own",
    attributes_inside: r"\.gitattributes' lies where no file of an entry does",
    stray: "submission.json' lies where no file of an entry does",
    deeper: "lies where no file of an entry does",
    hidden: "lies where no file of an entry does",
    boards_too: "changes nothing else; 'leaderboards/boards.toml' needs",
    easier_boards: "the board grid is removed or means something else",
    no_boards: "the board grid is removed or means something else",
    nested_boards: r"boards\.toml' lies where no file of an entry does",
    code_too: "changes nothing else; 'metabench/verify.py' needs",
    workflow_too: r"changes nothing else; '\.github/x\.yml' needs",
    program: "has the mode 100755",
    link: "has the mode 120000",
    digits: "lies where no file of an entry does",
    half: "lies where no file of an entry does",
    taken_name: "the name noisy belongs to the author of",
    unsigned: "the name noisy belongs to the author of",
    renamed_copy: "its policies are those of noisy",
}


@pytest.mark.parametrize("kind", PULLS, ids=lambda kind: kind.__name__)
def test_whatever_else_is_refused(pull, kind):
    repository, add = pull
    kind(repository, add)
    refused(repository, PULLS[kind])


def test_attributes_that_were_merged_before_do_not_change_an_entry(pull):
    """What is verified are the bytes that were committed, not those that git's filters make of them."""
    repository, add = pull
    (repository / ".gitattributes").write_text("card.md ident\n")
    commit(repository, "innocent")
    (add("other") / "card.md").write_text("# $Id$\n")
    commit(repository)
    git(repository, "rm", "-q", "--cached", "-r", "leaderboards")
    git(repository, "reset", "-q", "--hard")
    with pytest.raises(ValueError, match="is checked out with other bytes than were committed"):
        proposed(repository, "main~1")


def test_what_others_merged_meanwhile_is_no_change_of_this_pull_request(pull):
    repository, add = pull
    git(repository, "checkout", "-q", "-b", "request")
    entry = add("other")
    commit(repository)
    git(repository, "checkout", "-q", "main")
    (repository / "README.md").write_text("# More\n")
    commit(repository)
    git(repository, "checkout", "-q", "request")
    assert proposed(repository, "main").entries == (entry,)


def test_a_change_of_the_verifier_concerns_every_entry(pull):
    repository, _ = pull
    (repository / "agents").mkdir()
    (repository / "agents" / "x.py").write_text("x = 1\n")
    commit(repository)
    assert proposed(repository, "main~1").everything
    (repository / "docs.md").write_text("x\n")
    commit(repository)
    assert not proposed(repository, "main~1").everything


def test_a_commit_that_is_not_there_is_no_permission(pull):
    repository, add = pull
    add("other")
    commit(repository)
    for base in ("0" * 40, "nowhere", "--output=/x"):
        with pytest.raises(ValueError, match=r"git merge-base|are to be commits"):
            proposed(repository, base)


def test_the_script_refuses_what_the_command_refuses(pull):
    repository, add = pull
    attributes(repository, add)
    commit(repository)
    script = Path(__file__).parents[3] / ".ci" / "leaderboard"
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    ran = subprocess.run([script, "verify", "main~1", str(repository)], env=environment, capture_output=True, text=True)
    assert ran.returncode and "lies where no file of an entry does" in ran.stdout + ran.stderr
