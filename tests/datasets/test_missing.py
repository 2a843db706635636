"""A set that is nowhere: its making is offered with its cost, and done where that is asked for."""

import json
import re
from pathlib import Path

import pytest

from metabench.cli.main import main
from metabench.datasets import generate, load_dataset
from metabench.datasets.download import fetch, publish
from metabench.datasets.format import hash_file
from metabench.datasets.library import SECONDS
from metabench.datasets.verify import verify

ROOT = Path(__file__).parent.parent.parent
ID = "metabench/point-robot/expert-v0"
SHIPPED = "metabench/point-robot/mixed-v0"


RECORDS = json.loads((ROOT / "docs" / "datasets.json").read_text())


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("METABENCH_MIRRORS", raising=False)
    return tmp_path


def test_what_making_it_takes_is_told_and_true(fresh):
    with pytest.raises(ValueError, match="dataset generate metabench/point-robot/expert-v0 --split test") as told:
        load_dataset(ID, split="test")
    assert 'missing="generate"' in str(told.value)
    megabytes = float(re.search(r"\((\d+\.\d) MB, about 1 s\)", str(told.value))[1])
    folder = generate(ID, "test", root=fresh / "made")
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert 0.5 * size < megabytes * 1e6 < 2 * size


def test_it_is_made_where_that_is_asked_for(fresh):
    data = load_dataset(ID, split="test", missing="generate")
    made = generate(ID, "test", root=fresh / "elsewhere")
    assert (data.folder / "manifest.json").read_bytes() == (made / "manifest.json").read_bytes()
    assert len(load_dataset(ID, split="test")) == len(data), "and is here from then on"


def test_a_tree_beside_a_site_serves_it(fresh, monkeypatch):
    publish([generate(ID, "test", root=fresh / "made")], fresh / "tree")
    monkeypatch.setenv("METABENCH_MIRRORS", (fresh / "tree").as_uri())
    assert load_dataset(ID, split="test").manifest.split == "test"
    with pytest.raises(ValueError, match="does not have point-robot/expert-v0/train"):
        load_dataset(ID, split="train")
    assert load_dataset(ID, split="train", missing="generate").manifest.split == "train"


def test_the_seconds_are_those_that_were_measured():
    told = json.loads((ROOT / "docs" / "datasets.json").read_text())
    assert {f"{r['id'].removeprefix('metabench/')}/{r['split']}": r["seconds"]["cpu"] for r in told} == SECONDS


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_set_that_comes_with_the_package_needs_no_mirror_and_no_simulator(fresh, monkeypatch, split):
    monkeypatch.setattr("metabench.datasets.generation.generate", None)  # nobody may make it
    data = load_dataset(SHIPPED, split=split, check=True)
    assert data.folder.is_relative_to(fresh / "data") and data.manifest.split == split
    assert verify(data.folder, replay=5) == (), "and it is what the simulator says today"
    record = next(r for r in RECORDS if (r["id"], r["split"]) == (SHIPPED, split))
    assert hash_file(data.folder / "manifest.json") == record["manifest_sha256"], "docs/datasets.json tells of it"


def test_what_comes_with_the_package_is_had_although_the_mirrors_fail(fresh, monkeypatch):
    (fresh / "empty").mkdir()
    monkeypatch.setenv("METABENCH_MIRRORS", (fresh / "empty").as_uri())
    assert fetch(SHIPPED, "test") == fresh / "data/point-robot/mixed-v0/test"
    with pytest.raises(ValueError, match="no mirror gave metabench/point-robot/mixed-v0"):
        fetch(SHIPPED, "test", root=fresh / "other", mirror=(fresh / "empty").as_uri())  # who names one, means it


def test_the_command_downloads_it(fresh, capsys):
    main(["dataset", "download", SHIPPED, "--split", "test"])
    assert (fresh / "data/point-robot/mixed-v0/test/steps.npy").is_file()
    with pytest.raises(SystemExit):
        main(["dataset", "download", ID, "--split", "test"])
    told = capsys.readouterr()
    assert "metabench dataset generate metabench/point-robot/expert-v0 --split test" in (told.out + told.err)
