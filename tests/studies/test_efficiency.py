"""Steps to a return, and the ratio of two agents' steps, by hand."""

import math

import numpy as np
import pytest

from studies.efficiency import (
    Curve,
    Efficiency,
    efficiency,
    ratio,
    read_curve,
    smoothed,
    steps_to_reach,
    thresholds,
)
from studies.metadreamer.pictures import latent_space, learning_curves


def curve(*returns, every=100):
    return Curve(np.arange(1, len(returns) + 1) * float(every), np.array(returns, dtype=float))


def test_smoothing_looks_back_only():
    assert smoothed(np.array([1.0, 3.0, 5.0, 0.0])).tolist() == pytest.approx([1.0, 2.0, 3.0, 8.0 / 3.0])


def test_steps_to_reach():
    assert steps_to_reach(curve(0, 9, 0, 6, 6, 6), 6.0) == 600.0  # one lucky point is not enough
    assert steps_to_reach(curve(9, 0, 6, 6, 6), 6.0) == 500.0  # not at the very beginning either
    assert steps_to_reach(curve(0, 9, 0), 9.0) == math.inf
    assert thresholds(-10.0, 10.0) == {0.5: 0.0, 0.75: 5.0, 0.9: 8.0}


def test_efficiency_is_the_median_and_counts_who_arrives():
    runs = [curve(5, 5, 5), curve(0, 0, 5, 5, 5), curve(0, 0)]
    assert efficiency(runs, 5.0) == Efficiency(500.0, (300.0, 500.0, math.inf), 2)
    assert efficiency(runs[1:], 5.0).median == math.inf  # of two, both have to
    assert efficiency(runs[2:], 5.0).median == math.inf


def test_ratios_say_when_they_are_bounds():
    fast, slow, never = (Efficiency(m, (m,), 1) for m in (100.0, 1000.0, math.inf))
    given = (5000.0, 2000.0)  # steps of the reference's runs, and of the other's
    assert ratio(slow, fast, given) == (10.0, "")
    assert ratio(never, fast, given) == (50.0, ">=")
    assert ratio(fast, never, given) == (0.05, "<=")
    assert math.isnan(ratio(never, never, given)[0])


def test_curves_come_from_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"frames": 10, "test/last": 1.5}\n{"frames": 20}\n{"frames": 30, "test/last": 2.5}\n{"fram')
    found = read_curve(path, "test/last")
    assert found.frames.tolist() == [10.0, 30.0] and found.returns.tolist() == [1.5, 2.5]
    assert len(read_curve(path, "ood/last").frames) == 0


def test_pictures_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    learning_curves(tmp_path / "c.png", {"a": [curve(0, 1, 2)], "b": [curve(1, 1)]}, {"random": 0.0}, "title")
    rng = np.random.default_rng(0)
    latent_space(tmp_path / "l.png", rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 2)), ["f", "g"], [2, 0])
    latent_space(tmp_path / "one.png", rng.normal(size=(4, 5, 1)), rng.normal(size=(4, 1)), ["f"], [0])
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("c.png", "l.png", "one.png"))
