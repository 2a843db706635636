"""Records: read back exactly, refused in words, never half-written."""

import json
import os
from pathlib import Path

import pytest

from metabench import Protocol, Result
from metabench.evaluation.results import write_atomically

GOLDEN = Path(__file__).parent.parent / "golden"


def record(**changes):
    base = {
        "protocol": Protocol(benchmark="GridSwitch-v0", split="test", episodes=2, repeats=1, seed=0),
        "agent": "a",
        "track": "online",
        "task_digest": "0" * 64,
        "versions": {"metabench": "0.1.0"},
        "returns": (((1.0, 0.1 + 0.2),), ((2.0, -1e-300),)),
    }
    return Result(**{**base, **changes})


def test_every_bit_survives():
    assert Result.from_json(record().to_json()) == record()
    assert Result.from_json(record().to_json()).returns[0][0][1] == 0.1 + 0.2


def test_arrays():
    assert record().array().shape == (2, 1, 2)
    assert record().trials().tolist() == [[1.0, 0.30000000000000004], [2.0, -1e-300]]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("result-schema-*.json")), ids=lambda p: p.stem)
def test_old_records_stay_readable(path):
    assert Result.load(path).returns


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda r: r.pop("returns"), "no valid result: returns: Field required"),
        (lambda r: r.update(schema_version=99), "no valid result: schema_version: Input should be 1"),
        (lambda r: r.update(surprise=1), "no valid result: surprise: Extra inputs"),
        (lambda r: r["returns"][0].pop(), "returns of task 0 are not 1 repeats of 2 episodes"),
        (lambda r: r["returns"][1][0].append(3.0), "returns of task 1 are not"),
        (lambda r: r.update(returns=[]), "returns are empty"),
        (lambda r: r["protocol"].update(seed=-1), "protocol.seed"),
        (lambda r: r.update(track="cheat"), "track"),
    ],
)
def test_bad_records(edit, words):
    raw = json.loads(record().to_json())
    edit(raw)
    with pytest.raises(ValueError, match=words):
        Result.from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"returns": NaN}'])
def test_no_json(text):
    with pytest.raises(ValueError, match="this is no valid result"):
        Result.from_json(text)


def test_numbers_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        record(returns=(((float("nan"), 0.0),), ((1.0, 2.0),)))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="there is no result file"):
        Result.load(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, b"old")

    def broken(fd):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
