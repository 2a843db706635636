"""A run's folder: nothing half-written, nothing overwritten, metrics cut back to the checkpoint."""

import json
from dataclasses import dataclass

import pytest
import torch
from metabench_agents.parts import run as run_module
from metabench_agents.parts.run import Run, load_checkpoint, load_config, stream

from metabench import runs
from metabench.runs import Stopped


@dataclass(frozen=True)
class Config:
    rate: float = 0.1


def begin(folder, **kwargs):
    return Run(folder, show=False).begin("a", "B-v0", Config(**kwargs), 3)


def test_checkpoints_come_back_exactly(tmp_path):
    run = Run(tmp_path, show=False)
    assert run.begin("a", "B-v0", Config(), 3) is None
    tensors = {"w": torch.randn(3, 2), "n": torch.tensor(5, dtype=torch.int64)}
    run.save(7, tensors, {"scale": 0.1 + 0.2})
    checkpoint = begin(tmp_path)
    assert checkpoint.iteration == 7 and checkpoint.state["scale"] == 0.1 + 0.2
    assert all(torch.equal(checkpoint.tensors[name], tensors[name]) for name in tensors)
    assert load_config(tmp_path) == {
        "agent": "a",
        "benchmark": "B-v0",
        "seed": 3,
        "protocol": "slots-2",
        "config": {"rate": 0.1},
    }


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    run = Run(tmp_path, show=False)
    run.begin("a", "B-v0", Config(), 3)
    run.log({"iteration": 1})
    run.save(1, {"w": torch.zeros(1)}, {})
    run.log({"iteration": 2})
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"iteration": 3, "ret')  # killed in the middle of a line
    begin(tmp_path)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [{"iteration": 1}]


def test_without_a_checkpoint_metrics_start_anew(tmp_path):
    run = Run(tmp_path, show=False)
    run.begin("a", "B-v0", Config(), 3)
    run.log({"iteration": 1})
    assert begin(tmp_path) is None
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_another_run_is_not_overwritten(tmp_path):
    run = Run(tmp_path, show=False)
    run.begin("a", "B-v0", Config(), 3)
    run.save(1, {"w": torch.ones(1)}, {})
    with pytest.raises(ValueError, match="holds another run; choose another folder"):
        begin(tmp_path, rate=0.2)
    assert load_checkpoint(tmp_path).tensors["w"].item() == 1.0
    assert load_config(tmp_path)["config"] == {"rate": 0.1}


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    run = Run(tmp_path, show=False)
    run.begin("a", "B-v0", Config(), 3)
    run.save(1, {"w": torch.ones(1)}, {})

    def broken(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(run_module, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        run.save(2, {"w": torch.zeros(1)}, {})
    assert load_checkpoint(tmp_path).iteration == 1


def test_empty_folders(tmp_path):
    with pytest.raises(ValueError, match=r"no trained agent in .*: it has no checkpoint\.safetensors"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"no run in .*: it has no config\.json"):
        load_config(tmp_path)


def test_streams_differ_by_every_part_of_their_key():
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    draws = {tuple(torch.rand(2, generator=stream(*key)).tolist()) for key in keys}
    assert len(draws) == 4
    assert torch.equal(torch.rand(2, generator=stream(1, 2)), torch.rand(2, generator=stream(1, 2)))


def test_asked_to_stop_the_next_checkpoint_is_written_at_once_and_ends_training(tmp_path):
    run = Run(tmp_path, show=False, checkpoint_every=50)
    run.begin("a", "B-v0", Config(), 3)
    assert run.checkpoint_every == 50 and not run.stop_requested
    run.request_stop()
    assert run.checkpoint_every == 1 and run.stop_requested
    run.log({"iteration": 1})
    with pytest.raises(Stopped, match="stopped after iteration 1"):
        run.save(1, {"w": torch.ones(1)}, {})
    assert begin(tmp_path).iteration == 1


def test_a_training_loop_stops_where_it_can_go_on_to_the_same_bits(tmp_path):
    """A real loop, told to stop in its second iteration, continued: its weights are those of an unbroken one."""
    from metabench_agents import rl2
    from metabench_agents.parts.config import with_settings

    config = with_settings(
        rl2.Config(frames=60 * 16 * 4, trials=16), {f"network.{name}": 16 for name in ("hidden", "embed", "head")}
    )

    class Interrupted(Run):
        def log(self, row):
            super().log(row)
            if row["iteration"] == 2:
                self.request_stop()

    whole = rl2.train("GridSwitch-v0", config, seed=1, run=Run(tmp_path / "whole", show=False))
    with pytest.raises(Stopped) as caught:
        rl2.train("GridSwitch-v0", config, seed=1, run=Interrupted(tmp_path / "part", show=False))
    assert caught.value.iteration == 2
    rl2.train("GridSwitch-v0", config, seed=1, run=Run(tmp_path / "part", show=False))
    one, other = (load_checkpoint(tmp_path / name).tensors for name in ("whole", "part"))
    assert whole is not None and all(torch.equal(one[name], other[name]) for name in one)


def test_the_tensors_of_a_published_policy_are_read(tmp_path):
    run = Run(tmp_path / "run", show=False)
    run.begin("a", "B-v0", Config(), 3)
    run.save(7, {"net/w": torch.ones(2), "adam/0/m": torch.ones(2)}, {})
    files = runs.policy(tmp_path / "run").files
    (tmp_path / "published").mkdir()
    for name, content in files.items():
        (tmp_path / "published" / name).write_bytes(content)
    read = load_checkpoint(tmp_path / "published")
    assert read.iteration == 7 and read.tensors.keys() == {"net/w"}
    (tmp_path / "published" / "policy.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"policy\.safetensors is no checkpoint of a run"):
        load_checkpoint(tmp_path / "published")
