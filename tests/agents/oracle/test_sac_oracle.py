"""The task-conditioned oracle: it learns, resumes to the same bits, and keeps stages."""

import json

import numpy as np
import pytest
import torch
from metabench_agents.oracle import sac_oracle
from metabench_agents.oracle.actor import PARTS
from metabench_agents.oracle.weights import STAGES, Stages
from metabench_agents.parts.fast import sac

import metabench
from metabench.runs import CONFIG

SMALL = sac_oracle.Config(
    frames=4 * 20 * 8,
    slots=8,
    updates=1,
    stage_every=2,
    tasks="legal",
    capacity=500,
    sac=sac.SACConfig(hidden=16, batch=32),
)


def run(folder, config=SMALL, **keywords):
    return sac_oracle.train("PointRobot-v0", config, seed=3, run=sac_oracle.Run(folder, show=False, **keywords))


def test_a_run_resumes_to_the_same_bits(tmp_path):
    whole = run(tmp_path / "whole")
    part = tmp_path / "part"

    class Stop(Exception):
        pass

    class Stopping(sac_oracle.Run):
        def log(self, row):
            super().log(row)
            if row["iteration"] == 3:
                raise Stop

    with pytest.raises(Stop):
        sac_oracle.train("PointRobot-v0", SMALL, seed=3, run=Stopping(part, show=False, checkpoint_every=2))
    resumed = run(part, checkpoint_every=2)
    for name, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[name]), name
    stages = Stages.load(part / STAGES)
    assert [record["iteration"] for record in stages.records] == [2, 4]
    again = sac_oracle.load(part)
    assert torch.equal(again.weights["w1"], whole.weights["w1"])
    written = json.loads((part / CONFIG).read_text())
    assert written["config"]["sac"]["hidden"] == 16 and again.protocol == whole.protocol == written["protocol"]
    (part / CONFIG).write_text(json.dumps({key: value for key, value in written.items() if key != "protocol"}))
    assert sac_oracle.load(part).protocol == "slots-1", "runs that do not say it are the first ones"


def test_legal_tasks_are_drawn_from_the_whole_range():
    tasks = sac_oracle.draw_tasks("CheetahVel-v0", "legal", 500, seed=0)
    speeds = np.array([task["speed"] for task in tasks])
    assert speeds.min() < 0.2 and speeds.max() > 4.3
    directions = {task["direction"] for task in sac_oracle.draw_tasks("CheetahDir-v0", "legal", 50, seed=0)}
    assert directions == {-1.0, 1.0}  # 0 is in the range and is no direction
    assert sac_oracle.draw_tasks("CheetahVel-v0", "fresh", 5, seed=0) is None


def test_discrete_actions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="bounded box"):
        sac_oracle.train("GridSwitch-v0", SMALL, seed=0, run=sac_oracle.Run(tmp_path, show=False))


def test_noise_depends_on_the_trial_alone():
    weights = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(i))
        for i, (name, shape) in enumerate(
            zip(
                PARTS,
                [(4,), (4,), (1, 4, 8), (1, 1, 8), (1, 8, 8), (1, 1, 8), (1, 8, 4), (1, 1, 4)],
                strict=True,
            )
        )
    }
    space = metabench.spec("PointRobot-v0").family().action_space
    agent = sac_oracle.TrainedOracle(weights, space, noise_seed=7)
    step = metabench.Timestep(np.ones((5, 4)), np.zeros((5, 2)), np.zeros(5), np.ones(5, dtype=bool), np.zeros((5, 4)))
    first, belief = agent.act(step, agent.begin(5))
    again, _ = agent.act(step, agent.begin(5))
    second, _ = agent.act(step, belief)
    assert (first == again).all() and (first != second).any()
    assert len({tuple(row) for row in first.tolist()}) == 5
    assert first.dtype == np.float32 and (abs(first) <= np.float32(0.1)).all()
    calm = sac_oracle.TrainedOracle(weights, space)
    assert (calm.act(step, calm.begin(5))[0] == calm.act(step, None)[0]).all()


@pytest.mark.slow
def test_it_learns_point_robot(tmp_path):
    """To within a tenth of the way between random and the closed-form oracle."""
    config = sac_oracle.Config(
        frames=40_000,
        slots=32,
        updates=8,
        random_episodes=4,
        stage_every=20,
        sac=sac.SACConfig(hidden=64, batch=128, actor_rate=1e-3),
    )
    agent = sac_oracle.train("PointRobot-v0", config, seed=0, run=sac_oracle.Run(tmp_path, show=False))
    levels = metabench.spec("PointRobot-v0").references("test")
    reached = metabench.evaluate(agent, "PointRobot-v0", split="test").array().mean()
    low, high = levels["random"]["mean"], levels["oracle"]["mean"]
    assert (reached - low) / (high - low) > 0.9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile, about torch itself
@pytest.mark.skipif(not sac.can_compile(), reason="torch.compile needs a C++ compiler")
def test_bfloat16_learns_as_well(tmp_path):
    """Three pairs on PointRobot: each run solves it, and the pairs' mean differs by less than 0.05 of the way."""
    levels = metabench.spec("PointRobot-v0").references("train")
    low, high = levels["random"]["mean"], levels["oracle"]["mean"]
    shares = {False: [], True: []}
    for bfloat16, reached in shares.items():
        config = sac_oracle.Config(
            frames=40_000,
            slots=32,
            random_episodes=4,
            stage_every=20,
            sac=sac.SACConfig(hidden=64, batch=128, actor_rate=1e-3),
            form="compiled",
            precision="bf16" if bfloat16 else "fp32",
        )
        for seed in range(3):
            run = sac_oracle.Run(tmp_path / f"{bfloat16}-{seed}", show=False)
            agent = sac_oracle.train("PointRobot-v0", config, seed=seed, run=run)
            reached.append((sac_oracle.training_return(agent, "PointRobot-v0") - low) / (high - low))
    assert min(*shares[False], *shares[True]) > 0.85, shares
    assert abs(np.mean(shares[True]) - np.mean(shares[False])) < 0.05, shares
