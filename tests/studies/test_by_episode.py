"""Tables by episode: their intervals are over runs, tasks and repeats; Meta-DT's z is measured by behaviour."""

import json

import numpy as np
import pytest
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run
from metabench_agents.sequence import meta_dt

import metabench
from metabench.datasets import generate
from metabench.evaluation.results import Protocol
from metabench.runs import result_path
from metabench.sweep import Job
from metabench.sweep.folder import JOB
from metabench.yardsticks.simple import random
from studies.evidence import Row, Table, keys_of
from studies.meta_dt import invariance
from studies.meta_dt.by_episode import interval, render


def test_an_interval_has_the_spread_of_every_level():
    """By levels of which only one varies: runs, tasks or repeats; and none at all."""
    rng, shape = np.random.default_rng(1), (5, 6, 20)
    flat = np.full(shape, -3.0)
    assert interval(flat, np.random.default_rng(0)) == (-3.0, -3.0, -3.0)
    for axis, count in enumerate(shape):
        levels = rng.normal(size=[count if k == axis else 1 for k in range(3)])
        mean, low, high = interval(flat + levels, np.random.default_rng(0))
        spread = levels.std() / np.sqrt(count)  # of the mean of so many draws
        nested = {0: 1.0, 1: 1 / np.sqrt(5), 2: 1 / np.sqrt(30)}[axis]  # drawn anew inside every outer one
        assert mean == pytest.approx(-3.0 + levels.mean())
        assert (high - low) / (2 * 1.96) == pytest.approx(spread * nested, rel=0.25)


def test_a_table_has_every_episode_and_the_keys_of_what_is_kept(tmp_path):
    jobs = tuple(Job("train", {"agent": "bc", "benchmark": "PointRobot-v0"}, seed) for seed in range(3))
    protocol = Protocol(benchmark="PointRobot-v0", split="test", episodes=3, repeats=2, seed=0)
    result = metabench.evaluate(random.build("PointRobot-v0", "test", 0), protocol)
    for job in jobs[:2]:
        (tmp_path / job.key()).mkdir()
        result.save(result_path(tmp_path / job.key(), "test"))
        (tmp_path / job.key() / JOB).write_text(job.to_json())
    text = render(Table("t", "", (Row("one", jobs), Row("none", jobs[2:]))), tmp_path)
    head, _, row = text.splitlines()[:3]
    assert head == "| agent | runs | repeats | episode 1 | episode 2 | episode 3 |"
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:3] == ["one", "2", "2"]
    assert [float(cell.split(" ")[0]) for cell in cells[3:]] == np.round(result.trials().mean(0), 2).tolist()
    assert keys_of(text) == [job.key() for job in jobs[:2]]


@pytest.mark.parametrize("sees", ["window", "trial"])
def test_what_z_tells_is_measured_and_drawn(sees, tmp_path, monkeypatch):
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    generate("point-robot/mixed-2-v0", "train", episodes=10)
    tiny = {"fitting.updates": 2, "transformer.width": 8, "transformer.layers": 1, "transformer.window": 1}
    tiny |= {"world_model.fitting.updates": 2, "world_model.trial.updates": 2, "world_model.width": 8}
    config = with_settings(meta_dt.Config(), tiny | {"data": "mixed-2", "world_model.sees": sees})
    run = tmp_path / "run"
    meta_dt.train("PointRobot-v0", config, seed=0, run=Run(run, show=False))
    monkeypatch.setattr(invariance, "data_of", lambda *arguments: episodes(*arguments))
    original = invariance.load_episodes

    def episodes(benchmark, quality, split, agent):
        generate(f"point-robot/{quality}-v0", split, episodes=10)
        return original(benchmark, quality, split, agent.codec)

    invariance.main([str(run), "--names", sees, "--out", str(tmp_path / "z.png")])
    found = json.loads((tmp_path / "z.json").read_text())
    assert list(found) == [sees] and set(found[sees]) == {"random", "expert", "mixed", "own"}
    assert all(set(by_step) == {"1", "2", "4", "8", "16"} for by_step in found[sees].values())
    assert all(value < 0.9 for value in found[sees]["random"].values()), "after two updates it tells little"
    assert (tmp_path / "z.png").stat().st_size > 5_000
