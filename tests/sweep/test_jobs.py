"""Jobs, plans and the digest of results."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from metabench.sweep import Job, digest
from metabench.sweep.jobs import add_to_plan, read_plan


def test_a_key_is_the_hash_of_the_canonical_json():
    job = Job("train", {"benchmark": "GridSwitch-v0", "agent": "rl2", "splits": ("test", "ood")}, 3)
    same = Job("train", {"splits": ["test", "ood"], "agent": "rl2", "benchmark": "GridSwitch-v0"}, 3)
    assert job == same and hash(job) == hash(same) and job.key() == same.key()
    assert job.to_json() == (
        '{"kind":"train","seed":3,"settings":{"agent":"rl2","benchmark":"GridSwitch-v0","splits":["test","ood"]}}'
    )
    assert job.key() == "712175cc9f869e04da5037fa07451b09bc3a85be9b5e2e5e5acebd6fe9b69730"
    assert Job.from_json(job.to_json()) == job
    assert len({job.key(), Job("train", job.settings, 4).key(), Job("evaluate", job.settings, 3).key()}) == 3


def test_a_key_is_the_same_in_another_process():
    job = Job("study", {"function": "a:b", "arguments": {"x": 0.1, "ü": [1, None, True]}}, 7)
    code = f"from metabench.sweep import Job; print(Job.from_json({job.to_json()!r}).key())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == job.key()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Job("trian", {}), "did you mean 'train'"),
        (lambda: Job("train", {}, -1), "at least 0"),
        (lambda: Job("train", {}, True), "whole number"),
        (lambda: Job("train", {"x": float("nan")}), "JSON"),
        (lambda: Job("train", {"x": {1: 2}}), "JSON"),
        (lambda: Job("train", {"x": object()}), "JSON"),
        (lambda: Job("train", [1]), "names with values"),
        (lambda: Job.from_json("{"), "no JSON"),
        (lambda: Job.from_json('{"kind":"train","settings":{}}'), "fields"),
    ],
)
def test_what_is_no_job_is_refused_in_a_sentence(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_plan_keeps_its_lines_and_takes_each_job_once(tmp_path, study):
    path, jobs = tmp_path / "x" / "jobs.jsonl", [study("trivial", seed) for seed in range(4)]
    assert add_to_plan(path, jobs[:3]) == jobs[:3]
    assert add_to_plan(path, [jobs[3], jobs[0], jobs[3]]) == jobs
    assert read_plan(path) == jobs
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(ValueError, match="line 5"):
        read_plan(path)


def write(folder, *, rate, value=1.0, extra=b""):
    """A result like a training's."""
    folder.mkdir()
    row = json.dumps({"iteration": 1, "return": value, "time/frames_per_s": rate}) + "\n"
    (folder / "metrics.jsonl").write_text(row)
    state = {"iteration": 1, "metrics_bytes": len(row), "time/seconds": rate}
    tensors = {"network/a": np.full((2, 3), value, np.float32)}
    save_file(tensors, folder / "checkpoint.safetensors", metadata={"state": json.dumps(state)})
    (folder / "job.json").write_text(json.dumps({"seed": 0, "time/seconds": rate}))
    (folder / "sub").mkdir()
    (folder / "sub" / "picture").write_bytes(b"bytes" + extra)
    return digest(folder)


def test_a_digest_leaves_out_time_and_nothing_else(tmp_path):
    first = write(tmp_path / "a", rate=1.0)
    assert write(tmp_path / "b", rate=12345.678) == first
    assert write(tmp_path / "c", rate=1.0, value=1.5) != first
    assert write(tmp_path / "d", rate=1.0, extra=b"!") != first
    (tmp_path / "b" / "sub" / "picture").rename(tmp_path / "b" / "picture")
    assert digest(tmp_path / "b") != first, "names count"
    (tmp_path / "a" / "job.json").write_text(json.dumps({"seed": 1, "time/seconds": 1.0}))
    assert digest(tmp_path / "a") != first


def test_a_digest_sees_tensors_names_and_notes(tmp_path):
    def tensors(name, metadata=None, **columns):
        (tmp_path / name).mkdir()
        save_file(columns, tmp_path / name / "x.safetensors", metadata=metadata)
        return digest(tmp_path / name)

    a = np.zeros(4, np.float32)
    plain = tensors("plain", a=a)
    others = [tensors("b", b=a), tensors("shape", a=a.reshape(2, 2)), tensors("note", {"state": '{"scale": 2}'}, a=a)]
    assert len({plain, *others}) == 4
    assert tensors("again", {"state": '{"scale": 2, "metrics_bytes": 9}'}, a=a) == others[-1]
