"""A run's folder, without torch: record, metrics, results, policy; one writer, who stops where it can go on."""

import json
import os
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import metabench
from metabench import runs
from metabench.runs import Run, Stopped, read_metrics, read_record, read_results, result_path


@dataclass(frozen=True)
class Config:
    rate: float = 0.1


def begun(folder, seed=3, **settings):
    run = Run(folder, show=False, checkpoint_every=2)
    return run, run.begin("a", "B-v0", Config(**settings), seed)


def tensors(**arrays):
    """A safetensors file of float64 arrays."""
    head, data = {}, b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        head[name] = {"dtype": "F64", "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.astype(np.float64).tobytes()
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_the_record_comes_back(tmp_path):
    begun(tmp_path)
    record = read_record(tmp_path)
    assert record.model_dump(mode="json") == {
        "agent": "a",
        "benchmark": "B-v0",
        "seed": 3,
        "protocol": "slots-2",
        "config": {"rate": 0.1},
    }


def test_the_first_runs_did_not_say_their_protocol(tmp_path):
    (tmp_path / "config.json").write_text('{"agent": "a", "benchmark": "B-v0", "seed": 0, "config": {}}')
    assert read_record(tmp_path).protocol == "slots-1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no valid record of a run .*config.json"),
        ("[]", "no valid record of a run"),
        ('{"agent": "a", "benchmark": "B-v0", "config": {}}', "seed: Field required"),
        ('{"agent": "a", "benchmark": "B-v0", "seed": 0, "config": {}, "protocol": "slots-9"}', "slots-9.*there are"),
    ],
)
def test_a_record_that_cannot_be_read_is_told_in_a_sentence(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        read_record(tmp_path)


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"there is no run in .*: it has no config\.json"):
        read_record(tmp_path)
    assert read_metrics(tmp_path) == [] and read_results(tmp_path) == {}


def test_another_run_is_refused_with_what_differs(tmp_path):
    begun(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds another run; choose another folder .*another seed, config\)"):
        begun(tmp_path, seed=4, rate=0.2)
    assert (tmp_path / "config.json").read_bytes() == before


def test_metrics_are_cut_back_to_what_was_saved(tmp_path):
    run, done = begun(tmp_path)
    assert done is None
    for iteration in (1, 2, 3):
        run.log({"iteration": iteration})
        if iteration == 2:
            run.saved(2)
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"iteration": 4, "ret')  # killed in the middle of a line
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    _, done = begun(tmp_path)
    assert done == 2 and [row["iteration"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_line_of_metrics_that_is_no_json_is_told(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\nnonsense\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: this is no JSON object"):
        read_metrics(tmp_path)


def test_results_by_split(tmp_path):
    class Still:
        def begin(self, num_trials):
            return None

        def act(self, step, belief):
            return np.zeros(len(step.reward), dtype=np.int64), belief

    for split in ("test", "ood"):
        metabench.evaluate(Still(), "GridSwitch-v0", split=split).save(result_path(tmp_path, split))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result-ood.json", "result.json"]
    assert {split: result.protocol.split for split, result in read_results(tmp_path).items()} == {
        "test": "test",
        "ood": "ood",
    }


def test_the_policy_is_the_checkpoint_without_the_learner(tmp_path):
    begun(tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(tensors(**{"net/w": np.ones(3), "adam/0/m": np.ones(9)}))
    found = runs.policy(tmp_path)
    assert set(found.files) == {"config.json", "policy.safetensors"} and not found.private
    assert found.files["policy.safetensors"] == runs.without_learner(tensors(**{"net/w": np.ones(3)}))
    assert found.sha256 == runs.policy_sha256(found.files)


def test_a_policy_of_its_own_is_preferred(tmp_path):
    begun(tmp_path)
    own = runs.without_learner(tensors(w=np.ones(2)))
    (tmp_path / "policy.safetensors").write_bytes(own)
    (tmp_path / "checkpoint.safetensors").write_bytes(tensors(w=np.zeros(2)))
    assert runs.policy(tmp_path).files["policy.safetensors"] == own
    (tmp_path / "policy.safetensors").write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(ValueError, match="no safetensors file"):
        runs.policy(tmp_path)


def test_what_cannot_be_published_is_hashed_whole_but_for_metrics_and_results(tmp_path):
    run, _ = begun(tmp_path)
    with pytest.raises(ValueError, match=r"beside config\.json it has saved nothing"):
        runs.policy(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "model.zip").write_bytes(b"weights")
    found = runs.policy(tmp_path)
    assert not found.files and "model.zip" in found.private and "no policy.safetensors" in found.private
    run.log({"frames": 1})
    run.saved(1)
    (tmp_path / "result-ood.json").write_text("{}")
    assert runs.policy(tmp_path) == found  # nothing of these acts
    (tmp_path / "deep" / "model.zip").write_bytes(b"other weights")
    assert runs.policy(tmp_path).sha256 != found.sha256


def test_asked_to_stop_a_loop_saves_at_its_next_iteration_and_goes_on_from_there(tmp_path):
    def loop(run, stop_at=None):
        done = run.begin("a", "B-v0", Config(), 3) or 0
        with run.progress(10, done, "iterations") as advance:
            for iteration in range(done, 10):
                run.log({"iteration": iteration + 1})
                if iteration + 1 == stop_at:
                    run.request_stop()
                advance(iteration + 1, "")
                if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == 10:
                    run.saved(iteration + 1)

    with pytest.raises(Stopped, match="stopped after iteration 3; the same command continues") as caught:
        loop(Run(tmp_path, show=False, checkpoint_every=50), stop_at=3)
    assert caught.value.iteration == 3 and caught.value.folder == tmp_path
    loop(Run(tmp_path, show=False, checkpoint_every=50))
    assert [row["iteration"] for row in read_metrics(tmp_path)] == list(range(1, 11))


HOLDER = """
import sys, time, pathlib, dataclasses
from metabench.runs import Run
Config = dataclasses.make_dataclass("Config", [("rate", float, 0.1)], frozen=True)
run = Run(pathlib.Path(sys.argv[1]), show=False)
run.begin("a", "B-v0", Config(), 3)
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"another process is writing to .*; wait until it is done"):
            begun(tmp_path)
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        run, _ = begun(tmp_path)  # the lock died with its holder
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    child = [sys.executable, "-c", HOLDER, str(tmp_path)]
    refused = subprocess.run(child, capture_output=True, text=True, timeout=120)
    assert refused.returncode != 0 and "another process is writing" in refused.stderr
    run.close()
    later = subprocess.Popen(child, stdout=subprocess.PIPE, text=True)
    try:
        assert later.stdout is not None and later.stdout.readline() == "held\n"
    finally:
        later.kill()
        later.wait()
        later.stdout.close()


def test_the_same_process_may_begin_again_and_leaves_no_lock(tmp_path):
    first, _ = begun(tmp_path)
    second, _ = begun(tmp_path)
    del first
    assert (tmp_path / ".run.lock").exists()  # the second still writes
    del second
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["config.json", "metrics.jsonl"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_does_not_give_the_folder_away(tmp_path):
    run, _ = begun(tmp_path)
    code = f"import os; {HOLDER.split('run.begin')[0]}" + (
        "\nrun.begin('a', 'B-v0', Config(), 3)\nif os.fork() == 0:\n    del run\n    os._exit(0)\nos.wait()\n"
        "print('held', flush=True)\ntime.sleep(600)"
    )
    run.close()
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process is writing to"):
            begun(tmp_path)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_the_module_needs_no_torch():
    code = "import metabench.runs, metabench.plugins, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
