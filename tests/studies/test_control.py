"""The table of switching control: shares of the filter's way, steps to them, and only what is kept."""

import json

import numpy as np

import metabench
from metabench.sweep import Job
from studies.dynamite import control
from studies.efficiency import Curve


def test_the_way_is_from_random_to_the_filter():
    known = metabench.spec("CheetahVelSwitch-v0").references("test")
    random, exact = known["random"]["mean"], known["task-filter"]["mean"]
    assert control.ends("CheetahVelSwitch-v0") == (random, exact)
    assert control.ends("ScratchItchSwitch-v0")[1] > 200  # the itch's filter


def test_steps_are_those_of_a_mean_over_the_window():
    frames = np.arange(1, 41) * 4_000.0  # four points are a window
    late = Curve(frames, np.where(frames > 80_000, 10.0, 0.0))
    lucky = Curve(frames, np.where(frames == 40_000, 30.0, 0.0))
    assert control.steps_to([late], 10.0) == "0.10 (1 of 1)"  # 96,000: the fourth point after the rise
    assert control.steps_to([lucky], 10.0) == "not by half (0 of 1)"
    assert control.steps_to([late, late, lucky], 5.0) == "0.09 (3 of 3)"  # its mean of four once is 7.5


def test_nothing_kept_is_a_table_without_lines(tmp_path):
    assert "CheetahVelSwitch" not in control.render(tmp_path)


def test_minutes_are_the_median_runs_of_one_core(tmp_path):
    jobs = [Job("train", seed=seed, settings={}) for seed in range(3)]
    for job, seconds in zip(jobs, (60.0, 120.0, 900.0), strict=True):
        (tmp_path / job.key()).mkdir()
        (tmp_path / job.key() / "job.json").write_text(json.dumps({"time/seconds": 1e6, "time/cpu_seconds": seconds}))
    assert control.minutes(jobs, tmp_path) == 2.0
