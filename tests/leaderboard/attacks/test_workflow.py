"""What runs where in CI: no job that runs code of a pull request can write, and nothing that can write runs code."""

import re
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def jobs(text):
    """The text of each job, by name."""
    body = text[text.index("\njobs:\n") + 7 :]
    parts = re.split(r"^  ([a-z-]+):", body, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path):
    used = re.findall(r"uses: *(\S+)", path.read_text())
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one) for one in used), used


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_can_write_that_runs_code(path):
    text = path.read_text()
    head = text[: text.index("\njobs:\n")]
    assert re.search(r"^permissions:\n  contents: read$", head, re.MULTILINE)
    assert "pull_request_target" not in text and "secrets." not in text
    for name, job in jobs(text).items():
        if "write" not in re.sub(r"#.*", "", job):
            assert "persist-credentials: false" in job or "actions/checkout" not in job, name
            continue
        assert not re.search(r"pip|python|metabench|\.ci/|make ", job), f"{name} can write and runs code"
        assert "needs: build" in job


def test_no_words_of_others_are_run():
    """Titles, branches and the like come by variables, never by the text of a script."""
    harmless = r"(?m)^ *(if|ref|url|path|group|python-version|name|[A-Z]+):.*$"
    for path in WORKFLOWS:
        for told in re.findall(r"\$\{\{(.*?)\}\}", re.sub(harmless, "", path.read_text())):
            raise AssertionError(told)


def test_every_pull_request_is_looked_at():
    """Verification imports most of the repository; and git's attributes can be anywhere in it."""
    text = (ROOT / ".github" / "workflows" / "leaderboard.yml").read_text()
    triggers = text[text.index("\non:\n") : text.index("\npermissions:\n")]
    assert "pull_request:" in triggers and "paths" not in triggers
    entries = jobs(text)["entries"]
    assert "ref: ${{ github.base_ref }}" in entries and "path: base" in entries
    assert (
        "base/.ci/leaderboard verify HEAD^1" in entries
        and "pip install -c base/constraints.txt -e './base[all]'" in entries
    )


def test_the_publishing_job_checks_nothing_out():
    text = (ROOT / ".github" / "workflows" / "docs.yml").read_text()
    publish = jobs(text)["publish"]
    assert "checkout" not in publish and "run:" not in publish and "pages: write" in publish
    assert "write" not in jobs(text)["build"] and "make docs BOARDS=--verify" in jobs(text)["build"]


def test_the_script_can_be_run():
    assert (ROOT / ".ci" / "leaderboard").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("hostile", ["", "<script>alert(1)</script>", "words that are no table"])
def test_of_readme_the_table_of_boards_is_kept_and_nothing_else(tmp_path, hostile):
    """The job that commits records takes README's table from the job that made it, and no other word."""
    keep = jobs((ROOT / ".github" / "workflows" / "leaderboard.yml").read_text())["keep"]
    script = keep[keep.index("first=") : keep.index("git add")]
    readme = "# x\n<!-- boards: leaders -->\n| old |\n<!-- end of boards -->\nend\n"
    made = readme.replace("| old |", f"<!-- no records: why -->\n| new |\n{hostile}".rstrip()).replace("# x", "# evil")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "README.md").write_text(made)
    (tmp_path / "README.md").write_text(readme)
    subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env={"RUNNER_TEMP": str(tmp_path), "PATH": "/usr/bin:/bin"},
        check=True,
    )
    wanted = readme if hostile else made.replace("# evil", "# x")
    assert (tmp_path / "README.md").read_text() == wanted
