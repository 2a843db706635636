"""What stands between AMAGO and the benchmarks, without AMAGO."""

import gymnasium as gym
import numpy as np
import torch

import metabench
from studies.peer_amago import adapter
from studies.peer_amago.draw import amago, entered


def test_a_trial_is_an_episode_that_ends_by_itself():
    """Observation and `first`, as AMAGO is shown them; after horizon x episodes steps the trial ends, and no sooner."""
    trials = adapter.Trials("GridNavigation-v0", 3, seed=1)
    rows, _ = trials.reset()
    spec, env = metabench.spec("GridNavigation-v0"), metabench.make_vec("GridNavigation-v0", 3)
    assert np.array_equal(rows[:, :-1], env.reset(seed=1)[0]) and rows.shape == (3, trials.observation_space.shape[0])
    assert (rows[:, -1] == 1).all() and trials.observation_space.contains(rows[0])
    for number in range(1, spec.horizon * spec.episodes + 1):
        rows, reward, ended, cut, _ = trials.step(np.zeros(3, dtype=np.int64))
        assert reward.shape == (3,) and not cut.any() and (ended == (number == spec.horizon * spec.episodes)).all()
        assert (rows[:, -1] == (number % spec.horizon == 0)).all()


class Policy:
    """Counts the steps of each trial in its memory, and does what was rewarded last."""

    action_dim = 5

    def __init__(self):
        self.asked = []

    def eval(self):
        return self

    def init_hidden_state(self, count, device):
        return torch.zeros(count, device=device)

    def get_actions(self, shown, last, times, memory, sample):
        self.asked.append((shown["observation"].clone(), last.clone(), times.clone(), sample))
        return last[..., 1:].argmax(-1, keepdim=True), memory + 1


def test_the_agent_shows_the_policy_what_it_was_trained_on():
    policy = Policy()
    agent = adapter.AmagoAgent(policy)
    step = metabench.Timestep(
        observation=np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32),
        action=np.array([4, 2]),
        reward=np.array([-1.0, 0.5]),
        first=np.array([True, True]),
        final=np.zeros((2, 2), dtype=np.float32),
    )
    action, belief = agent.act(step, agent.begin(2))
    assert action.dtype == np.int64 and action.shape == (2,) and belief[1] == 1
    shown, last, times, sample = policy.asked[0]
    assert torch.equal(shown, torch.tensor([[[1.0, 2.0, 1.0]], [[3.0, 4.0, 1.0]]])) and sample
    assert not last.any() and not times.any(), "at a trial's start nothing has been done"
    action, belief = agent.act(step, belief)
    assert action.tolist() == [4, 2] and belief[0].tolist() == [2, 2]
    assert policy.asked[1][1][:, 0].tolist() == [[-1, 0, 0, 0, 0, 1], [0.5, 0, 0, 1, 0, 0]]
    assert policy.asked[1][2].flatten().tolist() == [1, 1]


def test_wrappers_hand_down_what_they_do_not_have(monkeypatch):
    monkeypatch.setattr(gym.Wrapper, "__getattr__", None, raising=False)
    adapter.restore_handing_down()
    env = gym.Wrapper(gym.make("metabench/GridNavigation-v0"))
    env.unwrapped.step_count = 7
    assert env.step_count == 7 and not hasattr(env, "_hidden")


def test_the_picture_shows_what_is_kept():
    own, curves = amago(), entered("grid-switch-2", "rl2")
    assert len(own.x) == 10 and own.y[-1] > 40 and len(curves) == 5 and all(c.x[-1] > 2.9e6 for c in curves)
