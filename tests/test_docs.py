"""What the documentation shows runs, and what is generated can be generated."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

import metabench
from metabench.leaderboard.records import read_boards
from metabench.leaderboard.verify import verify

ROOT = Path(__file__).parent.parent


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


def test_the_readme_opens_with_the_two_commands():
    first = blocks("README.md", "bash")[0]
    assert first.startswith("make run") and "\nmake test" in first
    assert (ROOT / "README.md").read_text().index("make run") < 60


def test_the_first_example_is_short():
    assert blocks("README.md", "python")[0].count("\n") <= 20


def test_the_dataset_examples_run(monkeypatch, tmp_path):
    from metabench.datasets import generate

    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    generate("metabench/point-robot/mixed-v0")
    names = {}
    for block in blocks("docs/datasets.md", "python"):
        exec(compile(block, "datasets.md", "exec"), names)
    assert names["batch"].observations.shape == (128, 20, 2) and len(names["rewards"]) == 90_000


def test_the_example_of_many_runs_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/many_runs.md", "python")
    exec(compile(block, "many_runs.md", "exec"), {})
    assert capsys.readouterr().out == "8 results\n"


def test_the_leaderboard_example_is_accepted(capsys, tmp_path, monkeypatch):
    (tmp_path / "leaderboards").mkdir()
    shutil.copy(ROOT / "leaderboards" / "boards.toml", tmp_path / "leaderboards")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/leaderboards.md", "python")
    exec(compile(block, "leaderboards.md", "exec"), {})
    written = capsys.readouterr().out.strip()
    verdict = verify(Path(written), read_boards(Path("leaderboards/boards.toml")))
    assert verdict.accepted, verdict.fault


def test_pages_are_generated_for_every_benchmark(tmp_path):
    loader = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(generate)
    generate.write_families(tmp_path / "families")
    generate.write_api(tmp_path / "api")
    for spec in metabench.specs():
        page = (tmp_path / "families" / f"{spec.group or spec.id}.md").read_text()
        assert all(spec.digests[split][:16] in page for split in ("train", "test", "ood"))
        if spec.group:
            continue
        drawn = (tmp_path / "families" / f"{spec.id}.png").exists()
        assert drawn or spec.extra in ("mujoco", "metaworld"), "only MuJoCo needs OpenGL to draw"
        assert drawn == (f"{spec.id}.png" in page)
    again = tmp_path / "again"
    generate.write_families(again)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "families").iterdir()
    }


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "agents").glob("*.md")),
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "studies").glob("*/NOTES.md")),
    ],
)
def test_links_inside_the_repository_exist(path):
    text = (ROOT / path).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        place = ((ROOT / path).parent / target).resolve()
        generated = place.is_relative_to(ROOT / "docs" / "families") or place.is_relative_to(ROOT / "docs" / "api")
        assert generated or place.exists(), f"{path} links to {target}"
