"""Damage of any kind is found and named."""

import json
import shutil

import numpy as np
import pytest

from metabench.datasets import load_dataset
from metabench.datasets.format import EPISODES, FINAL, MANIFEST, STEPS, Manifest, hash_file, read_manifest
from metabench.datasets.verify import verify

NAMES = (STEPS, EPISODES, FINAL, MANIFEST)


def test_sound_sets_pass(sets):
    for split in ("train", "test"):
        assert verify(sets / "point-robot" / "mixed-v0" / split, replay=20) == ()
    assert verify(sets / "grid-switch" / "medium-v0" / "test", replay=20) == ()


def flip(folder, rng):
    name = NAMES[rng.integers(4)]
    content = bytearray((folder / name).read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    (folder / name).write_bytes(content)
    return name


def truncate(folder, rng):
    name = NAMES[rng.integers(4)]
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: rng.integers(len(content))])
    return name


def append(folder, rng):
    name = NAMES[rng.integers(4)]
    with (folder / name).open("ab") as file:
        file.write(rng.bytes(rng.integers(1, 64)))
    return name


def remove(folder, rng):
    name = NAMES[rng.integers(4)]
    (folder / name).unlink()
    return name


def swap(folder, rng):
    a, b = (NAMES[i] for i in rng.permutation(3)[:2])
    (folder / a).rename(folder / "x")
    (folder / b).rename(folder / a)
    (folder / "x").rename(folder / b)
    return a


def edit_manifest(folder, rng):
    record = json.loads((folder / MANIFEST).read_text())
    body = record["manifest"]
    key = sorted(body)[rng.integers(len(body))]
    value = body[key]
    if isinstance(value, bool) or value is None:
        body[key] = not value
    elif isinstance(value, int):
        body[key] = value + int(rng.integers(1, 5))
    elif isinstance(value, str):
        body[key] = value + "x"
    elif isinstance(value, list):
        body[key] = value[:-1] if value else [1]
    else:
        body[key] = {**value, "more": "x"}
    (folder / MANIFEST).write_text(json.dumps(record, indent=1, sort_keys=True))
    return MANIFEST


def stray(folder, rng):
    (folder / "extra.npy").write_bytes(rng.bytes(10))
    return "extra.npy"


def test_300_corruptions_are_all_found_and_named(sets, tmp_path):
    """Bit flips, truncations, additions, removals, swaps, edited manifests, stray files."""
    rng, source = np.random.default_rng(0), sets / "point-robot" / "mixed-v0" / "test"
    kinds = (flip, flip, truncate, append, remove, swap, edit_manifest, stray)
    for number in range(300):
        folder = tmp_path / "damaged"
        shutil.copytree(source, folder)
        damage = kinds[number % len(kinds)]
        name = damage(folder, rng)
        faults = verify(folder)
        assert faults, f"{damage.__name__} of {name} went unnoticed"
        assert any(name in fault for fault in faults), (damage.__name__, name, faults)
        shutil.rmtree(folder)


def rewrite(folder, change, **manifest):
    """Changes the contents and writes a manifest that fits the new bytes: what only the contents can tell."""
    old = read_manifest(folder)
    columns = {file.name: np.load(folder / file.name) for file in old.files}
    change(columns)
    for name, column in columns.items():
        np.save(folder / name, column)
    files = [
        file.model_copy(update={"bytes": (folder / file.name).stat().st_size, "sha256": hash_file(folder / file.name)})
        for file in old.files
    ]
    record = old.model_dump(mode="json") | manifest | {"files": [file.model_dump() for file in files]}
    (folder / MANIFEST).write_bytes(Manifest.model_validate_json(json.dumps(record)).to_bytes())


def put(name, field, index, value):
    def change(columns):
        columns[name][field][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(STEPS, "reward", 3, 1.0), "its rewards sum to"),
        (put(STEPS, "return_to_go", 3, 1.0), "returns to go"),
        (put(EPISODES, "return", 2, 0.0), "its return is 0.0"),
        (put(EPISODES, "length", 2, 19), "do not follow each other"),
        (put(EPISODES, "policy", 2, 2), "names a policy"),
        (put(EPISODES, "task", 2, 3), "statistics"),
        (put(STEPS, "truncated", 4, True), "do not end exactly"),
        (put(STEPS, "session_ended", 4, True), "tasks do not change"),
        (put(STEPS, "observation", 4, np.nan), "not finite"),
        (put(STEPS, "action", 4, 0.3), "outside the action space"),
    ],
)
def test_contents_that_contradict_each_other(copied, change, words):
    rewrite(copied, change)
    assert any(words in fault for fault in verify(copied)), verify(copied)


def test_another_table_or_benchmark(copied):
    rewrite(copied, lambda columns: None, task_digest="0" * 64)
    assert "not those the data was made on" in verify(copied)[0]
    rewrite(copied, lambda columns: None, benchmark="Nothing-v0")
    assert "not installed" in verify(copied)[0]


def test_replay_finds_data_that_the_simulator_does_not_give(copied):
    def change(columns):
        columns[STEPS]["observation"][5] += 0.01

    rewrite(copied, change)
    assert not verify(copied)
    assert "another observation" in verify(copied, replay=20)[0]


def test_manifests_never_point_elsewhere(copied):
    record = json.loads((copied / MANIFEST).read_text())["manifest"]
    record["files"][0]["name"] = "../steps.npy"
    with pytest.raises(ValueError, match="name"):
        Manifest.model_validate_json(json.dumps(record))


def test_pickles_are_not_read(copied):
    np.save(copied / STEPS, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=STEPS):
        load_dataset(copied)
    assert STEPS in verify(copied)[0]


def test_no_folder_no_manifest(tmp_path):
    assert "has no manifest.json" in verify(tmp_path)[0]
