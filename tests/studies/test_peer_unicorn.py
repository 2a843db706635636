"""What stands between UNICORN's released code and the package, without that code."""

import importlib
import sys
import types

import gymnasium as gym
import numpy as np
import pytest
import torch

import metabench
from metabench.datasets import generate
from studies.peer_csro.adapter import shown_contexts
from studies.peer_unicorn import adapter

BOX = gym.spaces.Box(np.array([-0.1, 0.0], np.float32), np.array([0.1, 2.0], np.float32))


@pytest.fixture
def data(tmp_path):
    generate("point-robot/mixed-v0", "test", episodes=4, root=tmp_path)
    return metabench.load_dataset("point-robot/mixed-v0", "test", root=tmp_path)


def test_trajectories_are_episodes_of_tasks(data):
    """Time first, then the task's episodes; actions in half widths; no episode ends where it would not go on."""
    told = adapter.trajectories(data)
    assert len(told) == metabench.spec("PointRobot-v0").table().size("test")
    columns, number = data.to_torch(), 0
    for observation, action, reward, following, end in told:
        assert [part.shape for part in (observation, action, reward, end)] == [(20, 4, n) for n in (2, 2, 1, 1)]
        for episode in range(4):
            part = slice(20 * number, 20 * number + 20)
            assert np.array_equal(observation[:, episode], columns["observations"][part].numpy())
            assert np.allclose(action[:, episode], columns["actions"][part].numpy() / 0.1, atol=1e-5)
            assert np.array_equal(reward[:, episode, 0], columns["rewards"][part].numpy())
            assert np.array_equal(following[:, episode], columns["next_observations"][part].numpy())
            number += 1
        assert not end.any()


def test_episodes_must_be_of_one_length(data):
    episodes = np.array(data.episodes)
    episodes["length"][-1] = 7
    data.episodes = episodes
    with pytest.raises(ValueError, match="every episode must have as many steps"):
        adapter.trajectories(data)


class Encoder:
    """Codes are the reward, and how far the step led along the first axis; none is there without an end of the task."""

    def context_encoding(self, obs, actions, rewards, next_obs, terms):
        assert obs.shape[0] == 1 and not terms.any() and terms.shape == rewards.shape
        self.seen = actions[0]
        return torch.cat((rewards, next_obs[..., :1] - obs[..., :1]), dim=-1).mean(0), None


class Learner:
    """Does what the code says."""

    def __init__(self):
        self.args = types.SimpleNamespace(task_embedding_size=2, obs_dim=2, action_dim=2)
        self.encoder, self.agent, self.training = Encoder(), self, True

    def training_mode(self, mode):
        self.training = mode

    def act(self, obs, deterministic):
        assert deterministic and obs.shape[1] == 4
        return obs[:, -2:], None, None, None


def step(observation, action, reward, final=None):
    """A tick; with `final` an episode begins, after one that ended there."""
    seen, done, earned = (np.asarray(column, np.float32) for column in (observation, action, reward))
    ended = np.zeros_like(seen) if final is None else np.asarray(final, np.float32)
    return metabench.Timestep(seen, done, earned, np.full(len(seen), final is not None), ended)


def test_the_encoder_sees_what_a_step_led_to():
    """That is the observation the episode ended in where another begins, not the one that it begins with."""
    learner = Learner()
    agent = adapter.PeerAgent(adapter.Released(learner), BOX, explore=1)
    assert not learner.training
    _, belief = agent.act(step([[0.0, 0.0]], [[0.0, 0.0]], [0.0], final=[[0.0, 0.0]]), agent.begin(1))
    action, belief = agent.act(step([[0.3, 0.0]], [[0.1, 1.0]], [0.5]), belief)
    assert torch.allclose(learner.encoder.seen, torch.tensor([[1.0, 0.0]]))
    assert np.allclose(action, [[0.05, 1.3]])  # z is (0.5, 0.3), in half widths
    action, _ = agent.act(step([[9.0, 9.0]], [[0.0, 1.0]], [0.1], final=[[0.4, 0.0]]), belief)
    assert np.allclose(action, [[0.03, 1.2]])  # with the code (0.1, 0.1)


def test_what_is_shown_tells_the_task(data):
    shown = shown_contexts(data, number=7, following=True)
    columns = data.to_torch()
    parts = (columns["observations"], columns["actions"] / 0.1, columns["rewards"][:, None])
    for task, rows in enumerate(shown.rows):
        mine = columns["task"] == task
        kept = torch.cat((*parts, columns["next_observations"]), dim=1)[mine]
        assert rows.shape == (7, 7) and all(bool(torch.isclose(kept, row).all(1).any()) for row in rows)
    agent = adapter.ShownAgent(adapter.Released(Learner()), gym.spaces.Box(-0.1, 0.1, (2,), np.float32), shown)
    seen = np.concatenate((np.zeros((2, 2)), shown.tasks[[3, 1]]), axis=1)
    action, _ = agent.act(step(seen, np.zeros((2, 2)), np.zeros(2)), agent.begin(2))
    rows = shown.rows[[3, 1]]
    z = torch.stack((rows[..., 4], rows[..., 5] - rows[..., 0]), dim=-1).mean(1)
    assert np.allclose(action, 0.1 * z.numpy(), atol=1e-6)


def test_missing_packages_are_stood_in_for(monkeypatch):
    kept = dict(sys.modules)
    monkeypatch.setattr(adapter, "UNUSED", ("no_such_package", "no_such_package.inside"))
    try:
        adapter.stand_in()
        inside = importlib.import_module("no_such_package.inside")
        assert isinstance(inside.anything(1, name=2), adapter.Nothing) and not hasattr(inside, "__anything__")
        course = sys.modules["environments.make_env"].make_env("PointRobot-v0", 1, seed=0, n_tasks=3)
        course.set_all_goals([1, 2, 3])
        assert (course.unwrapped._max_episode_steps, course.action_space.shape) == (20, (2,))
        assert sys.modules["environments.mujoco.rand_param_envs.gym.spaces.box"].Box is gym.spaces.Box
    finally:
        for name in set(sys.modules) - set(kept):
            del sys.modules[name]
