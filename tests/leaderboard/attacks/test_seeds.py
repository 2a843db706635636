"""Evaluation seeds follow from what a policy says, not from how its files are written; equal trainings hash alike."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from forging import about, board, edit_submission, entrants, reseal, write_boards

from metabench import runs
from metabench.leaderboard.records import evaluation_seed
from metabench.leaderboard.submit import submit
from metabench.leaderboard.verify import verify

ID = "GridNavigation-v0"


def tensors(arrays, state=None, order=None, spaces=0, **metadata):
    """A safetensors file, written as one likes."""
    head, data = {}, b""
    if state is not None:
        metadata["state"] = json.dumps(state)
    if metadata:
        head["__metadata__"] = metadata
    for name in order or sorted(arrays):
        content = arrays[name].astype(np.float32).tobytes()
        head[name] = {"dtype": "F32", "shape": list(arrays[name].shape)}
        head[name]["data_offsets"] = [len(data), len(data) + len(content)]
        data += content
    text = json.dumps(head).encode() + b" " * spaces
    return struct.pack("<Q", len(text)) + text + data


ARRAYS = {"b/w": np.arange(6.0).reshape(2, 3), "a/w": np.ones(4)}
RECORD = {"agent": "noisy", "benchmark": ID, "seed": 0, "protocol": "slots-2", "config": {"rate": 2.0, "size": 3}}
STATE = {"iteration": 7, "scale": 0.5, "metrics_bytes": 100, "time/seconds": 1.5}


def policy(record=RECORD, text=None, **changes):
    content = tensors(**({"arrays": ARRAYS, "state": STATE} | changes))
    return {"config.json": (text or json.dumps(record)).encode(), "policy.safetensors": content}


SAME = {
    "spaces in the settings": lambda: policy(text=json.dumps(RECORD, indent=7)),
    "order of the settings": lambda: policy(text=json.dumps(dict(reversed(RECORD.items())))),
    "numbers written otherwise": lambda: policy(text=json.dumps(RECORD).replace("2.0", "0.2e1").replace("3", "3.0")),
    "letters written otherwise": lambda: policy(text=json.dumps(RECORD).replace("noisy", "\\u006eoisy")),
    "spaces in the head": lambda: policy(spaces=64),
    "order of the tensors": lambda: policy(order=["b/w", "a/w"]),
    "more metadata": lambda: policy(note="grind 17"),
    "size of the log": lambda: policy(state={**STATE, "metrics_bytes": 99}),
    "time it took": lambda: policy(state={**STATE, "time/seconds": 9.25}),
    "order of the state": lambda: policy(state=dict(reversed(STATE.items()))),
}
OTHER = {
    "a tensor": lambda: policy(arrays={**ARRAYS, "a/w": np.ones(4) * (1 + 1e-6)}),
    "a tensor's shape": lambda: policy(arrays={**ARRAYS, "b/w": ARRAYS["b/w"].reshape(3, 2)}),
    "a tensor's name": lambda: policy(arrays={"b/w": ARRAYS["b/w"], "c/w": ARRAYS["a/w"]}),
    "swapped tensors": lambda: policy(arrays={"a/w": ARRAYS["b/w"], "b/w": ARRAYS["a/w"]}),
    "a setting": lambda: policy({**RECORD, "config": {"rate": 2.5, "size": 3}}),
    "the state": lambda: policy(state={**STATE, "scale": 0.25}),
}


@pytest.mark.parametrize("kind", SAME)
def test_free_bytes_are_no_content(kind):
    assert SAME[kind]() != policy(), "the files differ"
    assert runs.policy_sha256(SAME[kind]()) == runs.policy_sha256(policy())
    assert runs.raw_policy_sha256(SAME[kind]()) != runs.raw_policy_sha256(policy())  # the first rules' hash


@pytest.mark.parametrize("kind", OTHER)
def test_another_policy_has_another_hash(kind):
    assert runs.policy_sha256(OTHER[kind]()) != runs.policy_sha256(policy())


def test_what_can_be_no_policy_is_hashed_byte_by_byte():
    for name in ("config.json", "policy.safetensors", "model.zip"):
        for content in (b"", b"{", b"\xff" * 20, struct.pack("<Q", 2**63) + b"{}", b"[" * 100_000):
            assert runs.content_sha256(name, content) != runs.content_sha256(name, content + b" x")


def test_seeds_have_128_bits_and_follow_from_board_policy_and_run():
    seeds = {evaluation_seed("grid", sha, run) for sha in ("a" * 64, "b" * 64) for run in range(50)}
    assert len(seeds) == 100 and all(0 <= seed < 2**128 for seed in seeds) and max(seeds) > 2**120
    assert evaluation_seed("grid", "a" * 64, 0) != evaluation_seed("other", "a" * 64, 0)
    assert evaluation_seed("grid", "a" * 64, 0, rules=1) == 2415423211  # of published entries


def test_every_bit_of_a_seed_counts():
    """Seeds of 128 bits begin streams of their own."""
    from metabench.evaluation.evaluate import SEED_STRIDE
    from metabench.rng import SlotRng

    seeds = [1 << bit for bit in range(0, 128, 7)]
    keys = SlotRng.from_seeds([seed * SEED_STRIDE + 3 for seed in seeds]).state()[0]
    assert len(set(keys.tolist())) == len(seeds)


@pytest.fixture
def boards(tmp_path):
    return write_boards(tmp_path, [board("grid", ID, repeats=1)])


def two(**changes):
    own = []
    for seed, entrant in enumerate(entrants(ID, 2)):
        weights = {"w": np.random.default_rng(seed).normal(size=100)}
        files = policy({**RECORD, "seed": seed, **changes.pop("record", {})}, arrays=weights, **changes)
        own.append(entrant._replace(policy=files, sha256=runs.policy_sha256(files)))
    return own


def test_files_with_room_for_anything_are_refused(tmp_path, boards):
    with pytest.raises(ValueError, match="has the metadata 'note', which no policy has"):
        submit(boards["grid"], two(note="x"), about(), tmp_path)
    with pytest.raises(ValueError, match="has 'note', which the record of no run has"):
        submit(boards["grid"], two(record={"note": 1}), about(), tmp_path)


def test_the_order_of_the_runs_is_not_free(tmp_path, boards):
    """Two orders would be two draws of the seeds."""
    with pytest.raises(ValueError, match="another order than that of their training seeds"):
        submit(boards["grid"], entrants(ID, 2)[::-1], about(), tmp_path)


def test_a_policy_written_otherwise_has_the_same_seeds(tmp_path, boards):
    folder = submit(boards["grid"], two(), about(), tmp_path)
    before = json.loads((folder / "submission.json").read_text())["runs"]
    again = submit(boards["grid"], two(spaces=8), about(version="2"), tmp_path)
    assert json.loads((again / "submission.json").read_text())["runs"] == before
    assert (again / "result.json").read_text() == (folder / "result.json").read_text()
    assert verify(again, boards).accepted


def test_other_seeds_than_the_policys_are_refused(tmp_path, boards):
    folder = submit(boards["grid"], two(), about(), tmp_path)
    edit_submission(folder, lambda told: told["runs"][0].update(policy_sha256="a" * 64))
    assert "is not the one whose sha256 is declared" in verify(reseal(folder), boards).fault


def test_two_identical_trainings_hash_alike(tmp_path):
    """Times differ, and with them the length of the log that a checkpoint notes."""
    import metabench_agents.rl2 as rl2

    config = rl2.Config(frames=2000, trials=4, network=rl2.Config().network)
    hashes = []
    for name in ("one", "other"):
        run = rl2.Run(tmp_path / name, show=False) if hasattr(rl2, "Run") else runs.Run(tmp_path / name, show=False)
        rl2.train("GridSwitch-v0", config, seed=0, run=run)
        run.close()
        with (tmp_path / name / "metrics.jsonl").open("a") as log:
            log.write("{}\n" if name == "other" else "")
        hashes.append((runs.policy(tmp_path / name).sha256, runs.weights_sha256(tmp_path / name)))
    assert hashes[0] == hashes[1]
    size = len(Path(tmp_path / "one" / "checkpoint.safetensors").read_bytes())
    assert size > 1000


def test_a_run_folder_has_one_writer(tmp_path):
    import dataclasses
    import subprocess
    import sys

    @dataclasses.dataclass(frozen=True)
    class Config:
        rate: float = 0.1

    run = runs.Run(tmp_path, show=False)
    run.begin("a", "B-v0", Config(), 0)
    code = (
        "import sys, dataclasses; from pathlib import Path; from metabench.runs import Run\n"
        "C = dataclasses.make_dataclass('C', [('rate', float, 0.1)], frozen=True)\n"
        "Run(Path(sys.argv[1]), show=False).begin('a', 'B-v0', C(), 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode and "another process is writing to" in ran.stderr
    run.close()
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True).returncode == 0
