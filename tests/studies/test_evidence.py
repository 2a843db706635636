"""The evidence queue: what is missing, what is kept, and tables that are made of what is kept."""

import json
import re
from pathlib import Path

import pytest

from metabench.sweep import Job
from metabench.sweep.folder import Place, perform
from metabench.sweep.work import check
from studies import evidence

ROOT = Path(__file__).parent.parent.parent
QUEUE = """
[[table]]
name = "small"
benchmark = "GridNavigation-v0"
about = "two sizes"
seeds = "0-1"
splits = ["test"]
config.frames = 600
config.trials = 4

[[table.rows]]
name = "narrow"
agent = "rl2"
config.hidden = 8

[[table.rows]]
name = "wide"
agent = "rl2"
seeds = "0"
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "queue.toml"
    path.write_text(QUEUE)
    (only,) = evidence.read_queue(path)
    return only


def test_every_run_of_the_queue_can_be_started():
    tables = evidence.read_queue()
    assert len({table.name for table in tables}) == len(tables) > 5
    for table in tables:
        assert len({row.name for row in table.rows}) == len(table.rows)
        for row in table.rows:
            check(row.jobs[0])
    keys = [job.key() for table in tables for job in table.jobs]
    assert len(set(keys)) == len(keys) > 100


def test_a_table_is_a_grid_with_seeds_outermost(table):
    assert [(job.settings["name"], job.seed) for job in table.jobs] == [("narrow", 0), ("wide", 0), ("narrow", 1)]
    assert table.rows[0].jobs[1] == Job(
        "train",
        {
            "agent": "rl2",
            "benchmark": "GridNavigation-v0",
            "name": "narrow",
            "splits": ["test"],
            "config": {"frames": 600, "network.hidden": 8, "trials": 4},
        },
        1,
    )


def test_what_is_made_is_kept_and_becomes_the_table_of_a_page(table, tmp_path, capsys):
    out, kept = tmp_path / "out", tmp_path / "kept"
    assert evidence.missing([table], kept) == "missing\nsmall: narrow 0 of 2, wide 0 of 1 runs"
    perform(table.rows[0].jobs[0], out)  # by a queue that was killed before it kept it
    evidence.make([table], out, kept, workers=1)
    assert evidence.missing([table], kept) == "nothing is missing"
    assert capsys.readouterr().out.count("done  ") == 3
    for job in table.jobs:
        source, copy = Place(out).result(job.key()), kept / job.key()
        assert sorted(p.name for p in copy.iterdir()) == ["config.json", "curve.csv", "job.json", "result.json"]
        assert (copy / "result.json").read_bytes() == (source / "result.json").read_bytes()
    rows = [json.loads(line) for line in (source / "metrics.jsonl").read_text().splitlines()]
    curve = (copy / "curve.csv").read_text().splitlines()
    assert curve[0] == "frames,return" and len(curve) == 1 + len(rows)
    assert curve[-1] == f"{rows[-1]['frames']},{round(rows[-1]['return'], 4)}"

    page = "before\n<!-- evidence: small -->\nold\n<!-- end of evidence -->\nafter\n"
    text = evidence.update(page, [table], kept)
    assert text.startswith("before\n<!-- evidence: small -->\n| agent | runs | test |\n") and text.endswith("after\n")
    assert "old" not in text and evidence.update(text, [table], kept) == text
    means = [json.loads((kept / job.key() / "result.json").read_text())["returns"] for job in table.rows[1].jobs]
    every = [value for task in means[0] for repeat in task for value in repeat]
    assert f"| wide | 1 | {sum(every) / len(every):.2f} |" in text
    assert re.search(r"\| narrow \| 2 \| -?\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\] \|", text)
    assert evidence.keys_of(text) == [job.key() for row in table.rows for job in row.jobs]
    with pytest.raises(ValueError, match="no table 'large'; there are small"):
        evidence.update(page.replace("small", "large"), [table], kept)


@pytest.mark.parametrize("page", evidence.pages(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_tables_in_the_docs_are_those_of_what_is_kept(page):
    text = page.read_text()
    assert evidence.update(text, evidence.read_queue()) == text, "python -m studies.evidence --pages"
    assert all((evidence.KEPT / key / "job.json").exists() for key in evidence.keys_of(text))
