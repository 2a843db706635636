"""The evidence queue: what is missing, what is kept, and tables that are made of what is kept."""

import functools
import json
import re
from pathlib import Path

import pytest

from metabench.sweep import Job, Local
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


def test_a_row_that_sets_one_setting_of_a_group_keeps_the_tables_others(tmp_path):
    path = tmp_path / "queue.toml"
    path.write_text(
        QUEUE.replace("config.trials = 4", "config.ppo.epochs = 3\nconfig.ppo.clip = 0.3") + "config.ppo.clip = 0.1"
    )
    (table,) = evidence.read_queue(path)
    narrow, wide = (row.jobs[0].settings["config"] for row in table.rows)
    assert (narrow["ppo.epochs"], narrow["ppo.clip"]) == (3, 0.3)
    assert (wide["ppo.epochs"], wide["ppo.clip"]) == (3, 0.1)


def test_what_is_made_is_kept_and_becomes_the_table_of_a_page(table, tmp_path, capsys):
    out, kept = tmp_path / "out", tmp_path / "kept"
    assert evidence.missing([table], kept) == "missing\nsmall: narrow 0 of 2, wide 0 of 1 runs"
    perform(table.rows[0].jobs[0], out)  # by a queue that was killed before it kept it
    evidence.make([table], Local(1), out, kept)
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


@functools.cache
def queue():
    return evidence.read_queue()


@functools.cache
def kept_keys():
    return evidence.kept_keys()


@pytest.mark.parametrize("page", evidence.pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_tables_in_the_docs_are_those_of_what_is_kept(page):
    text = page.read_text()
    assert evidence.update(text, queue()) == text, "python -m studies.evidence --pages"
    assert set(evidence.keys_of(text)) <= kept_keys()
    begun, ended = (len(re.findall(f"^<!-- {word}", text, re.MULTILINE)) for word in ("evidence", "end of evidence"))
    assert begun == ended == len(evidence.PLACE.findall(text)), "a marker is broken"


def test_every_table_of_the_studies_stands_on_a_page_once():
    """A table that is made and shown nowhere is forgotten; one that is shown and not made would not be checked."""
    names = [match["name"] for page in evidence.pages() for match in evidence.PLACE.finditer(page.read_text())]
    assert set(evidence.STUDIES) <= set(names), sorted(set(evidence.STUDIES) - set(names))
    assert len(names) == len(set(names))


_NUMBER = re.compile(r"\|[^|\n]*\d\.\d[^|\n]*\|")


@pytest.mark.parametrize("page", evidence.pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_tables_of_numbers_have_their_evidence_or_say_why_not(page):
    """On pages that report runs: what is no evidence block is marked `<!-- no records: why -->` in front of it."""
    text = page.read_text()
    if not evidence.PLACE.search(text):
        return
    rest = evidence.PLACE.sub("", text)
    for table in re.finditer(r"(?:^\|.*\n)+", rest, re.MULTILINE):
        if _NUMBER.search(table[0].split("\n", 2)[2]):
            before = rest[: table.start()].rstrip("\n")
            assert re.search(r"<!-- no records: [^>]+ -->$", before), table[0].splitlines()[0]


def test_a_tables_sources_are_keys_where_runs_were_jobs(tmp_path):
    from metabench.evaluation.evaluate import evaluate
    from metabench.yardsticks.simple import random
    from studies.tables import Runs, Table, count, returns, sha256

    result = evaluate(random.build("GridNavigation-v0", "test", 0), "GridNavigation-v0", split="test")
    for seed in (0, 1):
        result.save(tmp_path / f"dice-s{seed}-test.json")
    runs = Runs(tmp_path, "dice")
    table = Table("agent", (count(), returns("return", "test")), (("dice", runs),))
    assert runs.source() == f"{tmp_path.name}/dice-s{{0,1}}-*: 2 files, sha256 {sha256(runs.files)}"
    assert f"| dice | 2 | {result.array().mean():.2f} [" in table.markdown() and not evidence.keys_of(table.markdown())
    jobs = [Job("evaluate", {"agent": "random", "benchmark": "GridNavigation-v0"}, seed) for seed in (0, 1)]
    for job in jobs:
        (tmp_path / f"dice-s{job.seed}-job.json").write_text(job.to_json())
    assert evidence.keys_of(table.markdown()) == [job.key() for job in jobs]
    digest = sha256(runs.files)
    (tmp_path / "dice-s1-test.json").write_text("{}")
    assert sha256(runs.files) != digest
    with pytest.raises(ValueError, match="there are no results of nobody"):
        Runs(tmp_path, "nobody").source()
