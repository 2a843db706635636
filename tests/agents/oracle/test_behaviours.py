"""Behaviour policies: the shipped oracles are those that were measured, and qualities lie in order."""

import numpy as np
import pytest
from metabench_agents.oracle import weights
from metabench_agents.oracle.behaviours import Diluted, behaviour

import metabench
from metabench.evaluation.results import Protocol
from metabench.yardsticks import simple

SHIPPED = sorted(path.stem for path in weights.WEIGHTS.glob("*.safetensors"))


def test_some_are_shipped():
    assert {"CheetahDir-v0", "CheetahVel-v0", "ReacherGoal-v0"} <= set(SHIPPED)


@pytest.mark.parametrize("trained", SHIPPED)
def test_shipped_weights_are_the_measured_ones(trained):
    path = weights.weights_path(trained)
    assert path.stat().st_size < 1_000_000
    stages, about = weights.read_stages(trained, path)
    assert about["benchmark"] == trained and 0.25 < about["medium_share"] < 0.6
    frames = [record["frames"] for record in stages.records]
    assert frames == sorted(frames) and len(frames) <= 6
    for split in ("train", "test", "ood"):
        reference = metabench.spec(trained).references(split)["oracle"]
        assert reference["sha256"] == weights.file_hash(path) and reference["weights"] == path.name
        assert reference["mean"] > metabench.spec(trained).references(split)["random"]["mean"]


@pytest.mark.parametrize("trained", SHIPPED)
def test_qualities_come_from_one_run_in_order(trained):
    (medium,), (expert,) = (behaviour.behaviours(trained, "train", q) for q in ("medium", "expert"))
    history = behaviour.behaviours(trained, "train", "replay")
    assert medium.step < expert.step == history[-1].step and medium.step in [b.step for b in history]
    assert {b.sha256 for b in (medium, expert, *history)} == {weights.file_hash(weights.weights_path(trained))}
    assert medium.make(0).noise_seed == 0  # played with the policy's own noise


def test_the_shipped_reacher_reaches():
    protocol = Protocol(benchmark="ReacherGoal-v0", split="test", episodes=1, repeats=2, seed=5)
    agent = simple.oracle.build("ReacherGoal-v0", "test", 0)
    mean = metabench.evaluate(agent, protocol).array().mean()
    assert mean == pytest.approx(metabench.spec("ReacherGoal-v0").references("test")["oracle"]["mean"], abs=1.5)


def test_benchmarks_with_sessions_share_the_weights():
    agent = simple.oracle.build("CheetahVelSwitch-v0", "test", 0)
    assert (agent.weights["w1"] == simple.oracle.build("CheetahVel-v0", "test", 0).weights["w1"]).all()


def test_dilution():
    space = metabench.spec("GridNavigation-v0").family().action_space
    calm = simple.oracle.build("GridNavigation-v0", "train", 0)
    step = metabench.Timestep(
        np.tile([0, 0, 12], (4000, 1)), np.zeros(4000), np.zeros(4000), np.ones(4000, dtype=bool), np.zeros((4000, 3))
    )
    best = calm.act(step, calm.begin(4000))[0]
    for share in (0.0, 0.5, 1.0):
        agent = Diluted(calm, space, share, 0.0, seed=1)
        action, _ = agent.act(step, agent.begin(4000))
        assert (action != best).mean() == pytest.approx(share * 0.8, abs=0.03)
        again, _ = agent.act(step, agent.begin(4000))
        assert (again == action).all()


def test_unknown_ones_say_so():
    with pytest.raises(ValueError, match="there is no oracle for AntDir-v0"):
        behaviour.behaviours("AntDir-v0", "train", "medium")
    assert behaviour.behaviours("AntDir-v0", "train", "random")[0].step == 0
