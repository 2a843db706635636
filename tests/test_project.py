"""What stands around the project: workflows that are pinned, forms that are whole, one version everywhere."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_pinned_actions_with_few_rights(path):
    text = path.read_text()
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert uses and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action, _ in uses)
    assert all(re.fullmatch(r" # v\d+(\.\d+)*", comment) for _, comment in uses), "beside the hash stands its version"
    assert "permissions:\n  contents: read\n" in text and "pull_request_target" not in text
    for target in re.findall(r"run: make (\w+)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_tests_run_on_what_is_promised():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = re.search(r"\d+\.\d+", project["requires-python"])[0]
    pythons = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", text)[1])
    assert pythons[0] == lowest and pythons[-1] == "3.13"
    assert "lowest-direct" in text and "dependencies: [newest]" in text


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_container_knows_the_makefile():
    made = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["postCreateCommand"]
    assert ".venv/.ready" in made and "$(VENV)/.ready:" in (ROOT / "Makefile").read_text()


def test_forms_ask_for_something():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        text = path.read_text()
        if path.stem != "config":
            assert {"name:", "description:", "body:", "required: true"} <= set(
                re.findall(r"(?m)^\S+:|required: true", text)
            )
