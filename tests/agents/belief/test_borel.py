"""BOReL: relabelled rewards are those that other tasks would have paid, hyper-states line up, runs repeat."""

import json

import numpy as np
import pytest
import torch
from metabench_agents.belief import borel
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.memory import read_trials
from metabench_agents.parts.run import Run, load_checkpoint, stream

import metabench
from metabench.datasets import DatasetId, generate

SMALL = {
    "updates": 300,
    "batch": 32,
    "width": 16,
    "model.encoder.embed": 8,
    "model.encoder.hidden": 8,
    "model.decoder.hidden": (8, 8),
    "fit.updates": 3,
}
SETS = {"GridSwitch-v0": "metabench/grid-switch/replay-v0", "PointRobot-v0": "metabench/point-robot/mixed-v0"}


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """Small datasets in a root of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("METABENCH_DATA", str(tmp_path_factory.mktemp("data")))
    generate(DatasetId.of("GridSwitch-v0", "replay"), "train", episodes=4)
    generate(DatasetId.of("PointRobot-v0", "mixed"), "train", episodes=4)
    yield
    patch.undo()


def trials_of(benchmark):
    env = metabench.make_vec(benchmark, 1)
    return read_trials("test", SETS[benchmark], benchmark, env.single_action_space)


def test_a_grids_rewards_are_relabelled_session_by_session():
    trials = trials_of("GridSwitch-v0")
    other = borel.relabel_rewards("GridSwitch-v0", trials, 7)
    tasks = borel.other_tasks("GridSwitch-v0", trials, 7)
    assert set(np.unique(tasks[..., 2])) == {0, 1}
    differs = 0
    for b in range(0, trials.reward.shape[1], 37):
        for t in range(60):
            seen, paying = trials.next_observation[t, b], tasks[int(trials.session[t, b]), b, 2]
            candidate = seen[2:4] if paying == 0 else seen[4:6]
            expected = 1.0 if torch.equal(seen[:2], candidate) else -0.1
            assert float(other.reward[t, b]) == pytest.approx(expected)
            differs += bool(other.reward[t, b] != trials.reward[t, b])
    assert differs, "nothing was relabelled"
    assert torch.equal(other.observation, trials.observation) and torch.equal(other.session, trials.session)


def test_a_points_rewards_are_relabelled_with_one_task_a_trial():
    trials = trials_of("PointRobot-v0")
    other, tasks = borel.relabel_rewards("PointRobot-v0", trials, 1), borel.other_tasks("PointRobot-v0", trials, 1)
    assert len(tasks) == 1 and {tuple(t) for t in tasks[0]} <= {
        t.context for t in metabench.spec("PointRobot-v0").table().fixed("train")
    }
    gap = trials.next_observation[..., :2] - torch.from_numpy(tasks[0][None]).float()
    assert torch.allclose(other.reward, -gap.norm(dim=-1), atol=1e-5)


def test_hyper_states_line_up():
    trials = trials_of("GridSwitch-v0")
    env = metabench.make_vec("GridSwitch-v0", 1)
    config = with_settings(borel.Config(), SMALL | {"model.reward_loss": "bernoulli"})
    model = borel.SessionModel(borel.VARIBAD, config.model, env, 60)
    learner = borel.Learner(config, env, model)
    steps = borel.hyper_steps(trials, model, learner.actor.policy, 0.9)
    count = trials.reward.shape[1]
    belief = steps.belief.view(60, count, -1)
    assert torch.equal(steps.next_belief.view(60, count, -1)[:-1], belief[1:])
    assert steps.last.view(60, count)[-1].all() and not steps.last.view(60, count)[:-1].any()
    ratio = trials.reward / steps.reward.view(60, count)
    assert ratio.std() < 1e-4 and ratio.mean() > 0


def small_run(folder, benchmark="GridSwitch-v0", kind=Run, **changes):
    config = with_settings(borel.Config(), SMALL | {"dataset": SETS[benchmark]} | changes)
    return borel.train(benchmark, config, seed=0, run=kind(folder, show=False, checkpoint_every=1))


class Interrupted(Run):
    """A run that is cut off while its third row is told of."""

    rows = 2

    def log(self, row):
        self.rows -= 1
        if self.rows < 0:
            raise KeyboardInterrupt
        super().log(row)


def test_a_cut_off_run_continues_to_the_same_bits_and_loads(tmp_path):
    trained = small_run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "cut", kind=Interrupted)
    small_run(tmp_path / "cut")
    whole, cut = (load_checkpoint(tmp_path / name).tensors for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    loaded = borel.load(tmp_path / "whole")
    assert loaded.track == trained.track == "offline" and loaded.protocol == "slots-2"
    results = [metabench.evaluate(agent, "GridSwitch-v0", seed=1).returns for agent in (trained, loaded)]
    assert results[0] == results[1]
    assert len(json.loads(json.dumps(results[0]))) > 0


def test_boxes_and_no_relabelling(tmp_path):
    agent = small_run(tmp_path, "PointRobot-v0", updates=100, relabelled=0)
    assert metabench.evaluate(agent, "PointRobot-v0").array().shape == (5, 1, 2)


@torch.no_grad()
def test_soft_values_on_discrete_actions_are_the_sum():
    env = metabench.make_vec("GridSwitch-v0", 1)
    torch.manual_seed(0)
    actor = borel.SoftActor(3, 8, env.single_action_space)
    critic, x, alpha = borel.SoftCritics(3, 8, env.single_action_space), torch.randn(4, 3), torch.tensor(0.3)
    params = actor(x) * 50
    value, entropy = borel.soft_value(actor, critic, params, x, alpha, actor.chance(4, generator=stream(0)))
    for b in range(4):
        p = params[b].softmax(0)
        q = torch.stack([critic.taken(x[b : b + 1], torch.tensor([a])).min() for a in range(5)])
        assert float(value[b]) == pytest.approx(float((p * (q - 0.3 * p.log())).sum()), abs=1e-5)
        assert float(entropy[b]) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)


@pytest.mark.slow
def test_it_learns_from_data(tmp_path):
    """Better by far than the data's mean trial, on 40 episodes a task of a learning history."""
    generate(DatasetId.of("GridSwitch-v0", "replay"), "train", episodes=40, overwrite=True)
    config = with_settings(borel.Config(), {"fit.updates": 600, "updates": 4000})
    agent = borel.train("GridSwitch-v0", config, seed=0, run=Run(tmp_path, show=False))
    assert metabench.evaluate(agent, "GridSwitch-v0").array().mean() > 20.0
