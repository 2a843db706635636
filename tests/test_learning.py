"""Curves of agents that learn from data: every checkpoint is kept, played and put away; a kill loses nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from metabench_agents.sequence import bc

import metabench
from metabench.cli.main import main
from metabench.evaluation.results import Result
from metabench.learning import Points, play_kept
from metabench.plotting.curves import read_run
from metabench.plugins import open_run
from metabench.runs import Run, read_metrics, weights_sha256
from metabench.sweep import Job
from metabench.sweep.work import do

BENCHMARK = "PointRobot-v0"
CONFIG = replace(bc.Config(), fitting=replace(bc.CloningFitting(), updates=250, batch=16))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run that has kept its checkpoints, and the agent it made."""
    folder = tmp_path_factory.mktemp("run")
    metabench.load_dataset(f"metabench/point-robot/{CONFIG.data}-v0", split="train", missing="generate")
    run = open_run(bc, folder, show=False, keep_every=1)
    return folder, bc.train(BENCHMARK, CONFIG, seed=3, run=run)


def copy_of(folder: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, target))


def test_every_checkpoint_is_a_point_and_the_last_is_the_agent(kept, tmp_path):
    folder, agent = copy_of(kept[0], tmp_path / "run"), kept[1]
    rows = play_kept(folder, BENCHMARK, Points(1, ("train", "test"), episodes=2))
    assert [(row["iteration"], row["update"]) for row in rows] == [(1, 100), (2, 200), (3, 250)]
    protocol = metabench.Protocol(benchmark=BENCHMARK, split="test", episodes=2, repeats=1, seed=0)
    returns = metabench.evaluate(agent, protocol).array()
    assert rows[-1]["test/first"] == pytest.approx(returns[..., 0].mean(), abs=1e-5)
    assert rows[-1]["test/last"] == pytest.approx(returns[..., -1].mean(), abs=1e-5)
    assert rows[-1]["test/mean"] == pytest.approx(returns.mean(), abs=1e-5)
    assert rows[0]["train/mean"] != rows[-1]["train/mean"]
    assert read_metrics(folder, "curve.jsonl") == rows and not (folder / "checkpoints").exists()
    learned = read_run(folder, "updates").learning
    assert learned is not None
    np.testing.assert_array_equal(learned.x, [100, 200, 250])
    np.testing.assert_array_equal(learned.y, [row["train/mean"] for row in rows])


def test_a_kill_between_two_points_loses_neither(kept, tmp_path):
    whole = copy_of(kept[0], tmp_path / "whole")
    rows = play_kept(whole, BENCHMARK, Points(1, episodes=1))
    killed = copy_of(kept[0], tmp_path / "killed")
    (killed / "curve.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1])[:20])
    assert play_kept(killed, BENCHMARK, Points(1, episodes=1)) == rows
    assert (killed / "curve.jsonl").read_bytes() == (whole / "curve.jsonl").read_bytes()
    assert play_kept(killed, BENCHMARK, Points(1, episodes=1)) == rows  # and nothing is left to do


def test_the_kept_ones_change_nothing_of_the_run(kept, tmp_path):
    bc.train(BENCHMARK, CONFIG, seed=3, run=open_run(bc, tmp_path, show=False))
    assert (tmp_path / "checkpoint.safetensors").exists() and not (tmp_path / "checkpoints").exists()
    assert weights_sha256(tmp_path) == weights_sha256(kept[0])


def test_a_job_may_ask_for_a_curve(kept, tmp_path):
    settings = {
        "agent": "bc",
        "benchmark": BENCHMARK,
        "config": {"fitting": {"updates": 200, "batch": 16}},
        "splits": ["test"],
        "curve": {"every": 1, "splits": ["train"], "episodes": 1},
    }
    do(Job("train", settings, 0), tmp_path)
    assert [row["update"] for row in read_metrics(tmp_path, "curve.jsonl")] == [100, 200]
    assert Result.load(tmp_path / "result.json").protocol.split == "test"


def test_a_run_without_checkpoints_has_no_curve(tmp_path):
    run = Run(tmp_path, show=False, keep_every=1)
    run.begin("kite-flyer", BENCHMARK, CONFIG, 0)
    run.saved(1)
    with pytest.raises(ValueError, match="has kept no checkpoints"):
        play_kept(tmp_path, BENCHMARK, Points(1))


def test_an_agent_whose_run_cannot_keep_any_is_told_before_it_trains(tmp_path):
    class Own:
        class Run:
            def __init__(self, folder: Path, *, show: bool = True):
                self.folder = folder

    with pytest.raises(ValueError, match="has no keep_every"):
        open_run(Own, tmp_path, show=False, keep_every=1)

    class Lenient:
        class Run:
            def __init__(self, folder: Path, **options: object):
                self.options = options

    assert open_run(Lenient, tmp_path, show=False, keep_every=1).options == {"show": False, "keep_every": 1}


def test_the_command(kept, tmp_path, capsys):
    train = ["train", "bc", BENCHMARK, "--fitting.updates", "200", "--evaluate", "test", "--progress", "none"]
    main([*train, "--folder", str(tmp_path / "run"), "--curve-every", "1"])
    main(["plot", str(tmp_path / "run"), "--x", "updates", "--out", str(tmp_path / "curve.png")])
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        main([*train, "--seeds", "0,1", "--curve-every", "1"])
    assert "--curve-every" in capsys.readouterr().err
