"""DynaMITE-RL offline: IQL's losses by hand, the dataset's trials as they were played, runs that repeat."""

import json
import math

import numpy as np
import pytest
import torch
from metabench_agents.belief import dynamite_iql
from metabench_agents.belief.sessions import SessionModel
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.layers import ActionHead
from metabench_agents.parts.losses import advantage_weighted_loss, expectile_loss
from metabench_agents.parts.memory import read_trials
from metabench_agents.parts.run import Run, load_checkpoint

import metabench
from metabench.datasets import DatasetId, generate

SMALL = with_settings(
    dynamite_iql.Config(width=16),
    {
        "iql.updates": 300,
        "iql.batch": 32,
        "model.encoder.embed": 8,
        "model.encoder.hidden": 8,
        "model.decoder.hidden": (8, 8),
        "fit.updates": 3,
    },
)


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """A small dataset of GridSwitch in a root of its own."""
    root = tmp_path_factory.mktemp("data")
    patch = pytest.MonkeyPatch()
    patch.setenv("METABENCH_DATA", str(root))
    generate(DatasetId.of("GridSwitch-v0", "replay"), "train", episodes=4)
    yield metabench.load_dataset("metabench/grid-switch/replay-v0")
    patch.undo()


def small_run(folder, seed=0, **changes):
    config = with_settings(SMALL, changes)
    return dynamite_iql.train("GridSwitch-v0", config, seed=seed, run=Run(folder, show=False, checkpoint_every=1))


def rows(folder):
    table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in table]


def test_expectile_by_hand():
    loss, metrics = expectile_loss(torch.tensor([2.0, -1.0]), 0.8)
    assert loss.item() == pytest.approx((0.8 * 4.0 + 0.2 * 1.0) / 2)
    assert metrics["below"] == 0.5
    assert expectile_loss(torch.tensor([2.0, -1.0]), 0.5)[0].item() == pytest.approx(0.5 * (4.0 + 1.0) / 2)


def test_the_expectile_of_a_coin():
    """The tau-expectile of 0 and 1 with equal chance is tau: tau (1 - e) = (1 - tau) e."""
    e = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.SGD([e], lr=0.5)
    for _ in range(200):
        optimiser.zero_grad()
        expectile_loss(torch.tensor([0.0, 1.0]) - e, 0.8)[0].backward()
        optimiser.step()
    assert e.item() == pytest.approx(0.8, abs=1e-4)


def test_advantage_weighting_by_hand():
    log_prob = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantage = torch.tensor([0.0, math.log(3.0), 50.0], requires_grad=True)
    loss, _ = advantage_weighted_loss(log_prob, advantage, 1.0, max_weight=10.0)
    assert loss.item() == pytest.approx((1.0 * 1.0 + 3.0 * 2.0 + 10.0 * 0.5) / 3, rel=1e-5)
    loss.backward()
    assert advantage.grad is None


def test_actions_go_to_the_policys_units_and_back():
    env = metabench.make_vec("PointRobot-v0", 4)
    head = ActionHead(3, env.single_action_space)
    action = torch.from_numpy(env.action_space.sample())
    assert torch.allclose(torch.from_numpy(head.to_env(head.from_env(action))), action, atol=1e-6)


def test_trials_are_the_datasets(data):
    env = metabench.make_vec("GridSwitch-v0", 1)
    trials = read_trials("test", "metabench/grid-switch/replay-v0", "GridSwitch-v0", env.single_action_space)
    assert trials.reward.shape == (60, len(data))
    for index in (0, 17, len(data) - 1):
        episode = data[index]
        assert np.array_equal(trials.observation[:, index].numpy(), episode.observations)
        assert np.array_equal(trials.action[:, index].numpy(), episode.actions)
        following = np.concatenate((episode.observations[1:], episode.final_observation[None]))
        assert np.array_equal(trials.next_observation[:, index].numpy(), following)
        ended = np.diff(trials.session[:, index].numpy())
        assert np.array_equal(ended.astype(bool), episode.session_ended[:-1])
    assert trials.first[0].all() and not trials.first[1:].any()


def test_steps_follow_each_other(data):
    env = metabench.make_vec("GridSwitch-v0", 1)
    trials = read_trials("test", "metabench/grid-switch/replay-v0", "GridSwitch-v0", env.single_action_space)
    torch.manual_seed(0)
    config = with_settings(SMALL, {"model.reward_loss": "bernoulli"})
    model = SessionModel(config.sessions, config.model, env, 60)
    learner = dynamite_iql.make_learner(config, env, model)
    steps, scale = dynamite_iql.relabel(trials, model, learner.actor.policy, 0.95)
    count = trials.reward.shape[1]
    assert torch.equal(steps.belief[count:], steps.next_belief[:-count])  # tick by tick, trial by trial
    assert torch.equal(steps.observation[count:], steps.next_observation[:-count])
    assert steps.last.sum() == count and steps.last[-count:].all()
    assert torch.allclose(steps.reward * scale, trials.reward.flatten())
    assert not steps.code.isnan().any() and (steps.code.sum(-1) == 1).all()


@pytest.mark.parametrize("changes", [{}, {"memory": "none"}, {"policy": "bc", "memory": "none"}])
def test_runs_repeat_continue_and_load(tmp_path, changes):
    trained = small_run(tmp_path / "a", **changes)
    small_run(tmp_path / "b", **changes)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    # Put the checkpoint of the first block in place of the last: the run goes on to the same bits.
    whole = load_checkpoint(tmp_path / "a").tensors
    run = Run(tmp_path / "c", show=False, checkpoint_every=1)
    stop = _Stop(run, after=2)
    config = with_settings(SMALL, changes)
    with pytest.raises(KeyboardInterrupt):
        dynamite_iql.train("GridSwitch-v0", config, seed=0, run=stop)
    small_run(tmp_path / "c", **changes)
    again = load_checkpoint(tmp_path / "c").tensors
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    assert rows(tmp_path / "a") == rows(tmp_path / "c")
    loaded = dynamite_iql.load(tmp_path / "a")
    results = [metabench.evaluate(agent, "GridSwitch-v0", seed=1).returns for agent in (trained, loaded)]
    assert results[0] == results[1]


class _Stop:
    """A run that is interrupted when it has saved so many checkpoints."""

    def __init__(self, run, after):
        self._run, self._left = run, after

    def save(self, *arguments):
        self._run.save(*arguments)
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt

    def __getattr__(self, name):
        return getattr(self._run, name)


def test_cloning_has_no_critics_and_wrong_settings_are_told(tmp_path):
    small_run(tmp_path / "bc", policy="bc", memory="none")
    assert "critic_loss" not in rows(tmp_path / "bc")[-1]
    with pytest.raises(ValueError, match="unknown memory 'all'; there are belief and none"):
        small_run(tmp_path / "x", memory="all")
    with pytest.raises(ValueError, match="was played on GridSwitch-v0, not on GridNavigation-v0"):
        dynamite_iql.train("GridNavigation-v0", SMALL, seed=0, run=Run(tmp_path / "y", show=False))
