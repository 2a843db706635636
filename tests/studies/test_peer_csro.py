"""What stands between CSRO's released code and the package, without that code."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

import metabench
from metabench.datasets import generate
from studies.peer_csro import adapter

BOX = gym.spaces.Box(np.array([-0.1, 0.0], np.float32), np.array([0.1, 2.0], np.float32))


def test_trajectories_are_written_as_the_code_reads_them(tmp_path):
    """Rows of observation, action in half widths, reward, next observation; a file per episode, a folder per task."""
    generate("point-robot/mixed-v0", "test", episodes=4, root=tmp_path / "data")
    data = metabench.load_dataset("point-robot/mixed-v0", "test", root=tmp_path / "data")
    tasks, episodes = adapter.write_trajectories(data, tmp_path / "written")
    assert (tasks, episodes) == (metabench.spec("PointRobot-v0").table().size("test"), 4)
    columns, number = data.to_torch(), 0
    for task in range(tasks):
        for episode in range(episodes):
            path = tmp_path / "written" / f"goal_idx{task}" / f"trj_evalsample{episode}_step0.npy"
            rows = np.load(path, allow_pickle=True)  # written by this test
            assert rows.shape == (20, 4)
            part = slice(20 * number, 20 * number + 20)
            assert np.array_equal(np.stack(rows[:, 0]), columns["observations"][part].numpy())
            assert np.allclose(np.stack(rows[:, 1]), columns["actions"][part].numpy() / 0.1, atol=1e-5)
            assert np.array_equal(np.float32(rows[:, 2]), columns["rewards"][part].numpy())
            assert np.array_equal(np.stack(rows[:, 3]), columns["next_observations"][part].numpy())
            number += 1


class Policy(torch.nn.Module):
    """Does what the code says."""

    latent_dim = 2

    def context_encoder(self, rows):
        self.shown = rows
        return rows[..., -2:]  # the second column of the action, and the reward

    def policy(self, tasks, count, told, deterministic):
        assert (tasks, count, deterministic) == (1, len(told), True)
        return (told[:, -2:],)


def step(action, reward, first=False):
    seen = np.zeros((2, 3), np.float32)
    done, earned = (np.asarray(column, np.float32) for column in (action, reward))
    return metabench.Timestep(seen, done, earned, np.full(2, first), seen)


def test_the_agent_explores_and_then_acts_by_the_mean_of_its_codes():
    agent = adapter.PeerAgent(Policy(), BOX, explore=1)
    drawn, belief = agent.act(step(np.zeros((2, 2)), np.zeros(2), True), agent.begin(2))
    assert BOX.contains(drawn[0]) and not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(agent.act(step(np.zeros((2, 2)), np.zeros(2), True), agent.begin(2))[0], drawn)
    action, belief = agent.act(step([[0.1, 1.0], [0.0, 2.0]], [0.5, -0.5]), belief)
    assert torch.allclose(agent.agent.shown[:, 0, 3:], torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]]))
    assert np.allclose(action, [[0.0, 1.5], [0.1, 0.5]])
    action, _ = agent.act(step([[0.0, 2.0], [0.0, 1.0]], [0.1, 0.1]), belief)  # codes (1, 0.1) and (0, 0.1) come in
    assert np.allclose(action, [[0.05, 1.3], [0.05, 0.8]])


def test_what_is_shown_tells_the_task(tmp_path):
    """z is the mean of the codes of the task's own transitions, whoever plays; the task is read off what is seen."""
    generate("point-robot/mixed-v0", "test", episodes=4, root=tmp_path)
    data = metabench.load_dataset("point-robot/mixed-v0", "test", root=tmp_path)
    shown = adapter.shown_contexts(data, number=7)
    columns = data.to_torch()
    box = gym.spaces.Box(-0.1, 0.1, (2,), np.float32)
    for task, rows in enumerate(shown.rows):
        mine = columns["task"] == task
        kept = torch.cat((columns["observations"], columns["actions"] / 0.1, columns["rewards"][:, None]), dim=1)[mine]
        assert rows.shape == (7, 5) and all(bool(torch.isclose(kept, row).all(1).any()) for row in rows)
    agent = adapter.ShownAgent(Policy(), box, shown)
    seen = np.concatenate((np.zeros((2, 2)), shown.tasks[[3, 1]]), axis=1).astype(np.float32)
    tick = step(np.zeros((2, 2)), np.zeros(2))._replace(observation=seen)
    action, _ = agent.act(tick, agent.begin(2))
    assert np.allclose(action, 0.1 * shown.rows[[3, 1]][..., -2:].mean(1).numpy(), atol=1e-6)


def test_missing_packages_are_stood_in_for(monkeypatch):
    for name in ("gym", "gym.spaces", "gin", "gtimer", "turtle"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    kept = dict(sys.modules)
    try:
        adapter.stand_in()
        gin = sys.modules["gin"]
        assert sys.modules["gym"].spaces is gym.spaces and gin.configurable(len) is len
    finally:
        for name in set(sys.modules) - set(kept):
            del sys.modules[name]


def test_episodes_must_be_as_many_for_every_task(tmp_path):
    generate("point-robot/mixed-v0", "test", episodes=2, root=tmp_path)
    data = metabench.load_dataset("point-robot/mixed-v0", "test", root=tmp_path)
    episodes = np.array(data.episodes)
    episodes["task"][-1] = episodes["task"][0]
    data.episodes = episodes
    with pytest.raises(ValueError, match="every task must have as many episodes"):
        adapter.write_trajectories(data, tmp_path / "written")
