"""What the documentation shows runs, and what is generated can be generated."""

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import metabench
from metabench.evaluation.results import Result
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
        name = spec.group or spec.id
        assert (f"films/{name}.webp" in page) == (name in generate.FILMS)
        if spec.table().size("test") > 1 and len(spec.table().fixed("test")[0].context):
            assert '<svg xmlns="http://www.w3.org/2000/svg"' in page, "where the tasks of the splits lie"
    gallery = (tmp_path / "families" / "index.md").read_text()
    assert all(f"]({spec.group or spec.id}.md)" in gallery for spec in metabench.specs())
    again = tmp_path / "again"
    generate.write_families(again)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "families").iterdir()
    }


@pytest.fixture(scope="module")
def parts():
    import sys

    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import parts
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return parts


def test_the_papers_claims_have_numbers_from_records(parts):
    page = parts.results_page()
    told = [
        Result.load(p).array().mean() for p in ROOT.glob("studies/dynamite/results/GridSwitch-v0/dynamite-s?-test.json")
    ]
    assert f"DynaMITE-RL {np.mean(told):.2f}" in page and "{" not in page.replace("{container}", "")
    for path, anchor in re.findall(r"\]\(([\w/-]+\.md)(?:#([\w-]+))?\)", page):
        text = (ROOT / "docs" / path).read_text()
        heads = {
            re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"(?m)^#+ (.+)$", text)
        }
        assert not anchor or anchor in heads, f"{path} has no heading {anchor}"


def test_a_dataset_page_says_what_was_measured(parts):
    pages = parts.dataset_pages()
    assert len(pages) == 1 + len({record["id"] for record in parts.datasets()})
    page = pages["point-robot-mixed-v0"]
    assert 'missing="generate"' in page and "-7.61" in page and "../families/PointRobot-v0.md" in page
    assert (
        "Behaviours see the hidden task" in page
        and "uniform actions (each task's first 30" in pages["point-robot-mixed-2-v0"]
    )
    assert "Learners see what agents see" in pages["dark-room-history-v0"]


def test_the_first_page_shows_the_boards(parts):
    table = parts.heat_table("boards/")
    assert re.search(
        r'<a href="boards/entries/grid-switch-2/rl2/[\w-]+\.html" title="95 % interval [\d. to]+, track online">0\.',
        table,
    )
    assert "random" not in table


@pytest.fixture(scope="module")
def leaders(parts):
    return parts.leaders


def test_the_readmes_table_of_boards_is_the_one_that_is_made(parts, leaders):
    text = (ROOT / "README.md").read_text()
    assert leaders.update_readme(text, parts.ranked()[1]) == text, "python docs/generate.py --readme"
    with pytest.raises(ValueError, match="no place"):
        leaders.update_readme("# metabench", parts.ranked()[1])


def test_trained_agents_lead_current_boards_or_nobody_does(parts, leaders):
    boards, tables = parts.ranked()
    lines = list(leaders.leaders(tables))
    assert {line.table.board.id for line in lines} == {b.id for b in boards.values() if not b.superseded_by}
    table = leaders.readme_table(tables).splitlines()[2:]
    assert len(table) == len(lines)
    for line, text in zip(lines, table, strict=True):
        assert f"[{line.table.board.id}](leaderboards/{line.table.board.id})" in text
        assert f"| {line.table.levels['random']:.2f} | {line.table.levels['oracle']:.2f} |" in text
        if line.row is None:
            assert "no entry yet" in text
            continue
        assert line.row.entry.submission.trains and line.table.track != "oracle"
        better = [row for row in line.table.rows if row.rank < line.row.rank]
        assert not any(row.entry.submission.trains for row in better)
        assert f"{line.row.mean:.2f}" in text and line.row.entry.submission.place.as_posix() in text
    assert any(line.row for line in lines) and leaders.results_table(tables).count("<a ") == 2 * len(lines)


def test_what_the_theme_leaves_out_is_named(tmp_path):
    from types import SimpleNamespace

    conf = load_conf()
    page = tmp_path / "page.html"
    page.write_text(
        '<p><img alt="A: b" src="_images/idea-x.svg"></p><aside class="toc-drawer x"><th class="head"><p></p></th>'
    )
    conf.open_to_all(SimpleNamespace(builder=SimpleNamespace(name="html"), outdir=tmp_path), None)
    told = page.read_text()
    assert 'aria-label="figure: A: b"' in told and 'aria-label="this page"' in told and "<th" not in told


def test_a_title_is_text(leaders):
    assert leaders._plain("RL² (GRU)") == "RL² (GRU)"
    assert leaders._plain("a](http://b) | <b>`x`</b>") == "a(http:b)  bxb"


def test_a_table_that_is_cards_on_a_phone_says_its_columns():
    conf = load_conf()
    html = '<div class="stack x"><table><thead><tr><th class="head"><p>one</p></th><th><p>two</p></th></tr></thead><tr>'
    told = conf.label_cells(re.match(".*", html + "<td><p>1</p></td><td>2</td></tr></table>"))
    assert '<td data-label="one"><p>1</p></td><td data-label="two">2</td>' in told


def load_conf():
    """Sphinx's settings as a module."""
    loader = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    conf = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(conf)
    return conf


def test_links_to_notes_lead_to_their_pages_on_the_site():
    source = ["[a](../../studies/maml/NOTES.md) [b](../../studies/maml/NOTES.md#highwaymerge), [c](../speed.md)"]
    load_conf().link_notes(None, "agents/maml", source)
    assert source == ["[a](../notes/maml.md) [b](../notes/maml.md#highwaymerge), [c](../speed.md)"]


def test_the_first_page_links_the_repository_that_it_is_built_of(monkeypatch):
    conf = load_conf()
    text = (ROOT / "docs" / "index.md").read_text()
    assert text.count(conf.REPOSITORY) == 1
    monkeypatch.setenv("METABENCH_REPOSITORY", "https://example.org/metabench")
    source = [text]
    conf.link_repository(None, "index", source)
    assert "](https://example.org/metabench)" in source[0] and conf.REPOSITORY not in source[0]
    monkeypatch.delenv("METABENCH_REPOSITORY")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://example.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "some/fork")
    source = [text]
    conf.link_repository(None, "index", source)
    assert "](https://example.com/some/fork)" in source[0]
    monkeypatch.delenv("GITHUB_REPOSITORY")
    source = [text]
    conf.link_repository(None, "index", source)
    assert source[0] == text.replace(conf.REPOSITORY, "")


def test_a_tutorial_is_executed_and_a_fault_stops_it(tmp_path):
    import json

    loader = importlib.util.spec_from_file_location("build_tutorials", ROOT / "docs" / "tutorials" / "build.py")
    build = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(build)

    def write(*code):
        cells = [{"cell_type": "markdown", "source": ["# T"]}]
        cells += [{"cell_type": "code", "source": text.splitlines(keepends=True)} for text in code]
        (tmp_path / "t.ipynb").write_text(json.dumps({"cells": cells}))
        return build.execute(tmp_path / "t.ipynb", tmp_path)

    page = write("x = 3", "print('hi')\nx + 1", "from PIL import Image\nImage.new('RGB', (2, 2))")
    assert "```text\nhi\n4\n```" in page and "t-2.png" in page and (tmp_path / "t-2.png").exists()
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        write("1 / 0")


def test_internal_links_of_the_built_site():
    """Every link and picture of the pages that were built leads somewhere, and no page is heavy; after `make docs`."""
    site = ROOT / "docs" / "_build" / "html"
    if not (site / "boards" / "index.html").exists():
        pytest.skip("the site has not been built: make docs")
    broken, heavy, nameless = [], [], []
    for page in site.rglob("*.html"):
        text = page.read_text()
        if len(text) > 300_000:
            heavy.append(page.name)
        for target in re.findall(r'(?:href|src)="([^"#?:]+)(?:[#?][^"]*)?"', text):
            place = (page.parent / target).resolve()
            if not (place.exists() or (place / "index.html").exists()):
                broken.append(f"{page.relative_to(site)} -> {target}")
        nameless += [
            f"{page.name}: {tag}" for tag in re.findall(r"<img [^>]*>", text) if not re.search(r'alt="[^"]+"', tag)
        ]
    assert not broken, broken[:20]
    assert not [name for name in heavy if "_modules" not in name], heavy
    assert not nameless, nameless[:20]


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
    """Files and headings; and pages of the site link only what the site has."""
    source = ROOT / path
    for target, place in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", source.read_text()):
        file = (source.parent / target).resolve() if target else source
        made = ("families", "api", "notes", "datasets", "tutorials", "results.md")  # `make docs` makes them
        if any(file.is_relative_to(ROOT / "docs" / name) for name in made):
            continue
        assert file.exists(), f"{path} links to {target}"
        if path.startswith("docs"):
            assert file.is_relative_to(ROOT / "docs") or file.name == "NOTES.md", f"the site has no {target}: {path}"
        if place and file.suffix == ".md":
            assert place[1:] in headings(file.read_text()), f"{path} links to {target}{place}"


def headings(text):
    """The places that a page's headings make, of up to four levels; what stands between fences is no heading."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    named = re.findall(r"^#{1,4} +(.+)$", text, flags=re.M)
    return {re.sub(r"[^\w -]", "", name.lower()).strip().replace(" ", "-") for name in named}
