"""A trial as one episode: what RL2 shows is what an agent is shown, slot by slot."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from metabench import make, make_vec
from metabench.evaluation.play import play
from metabench.stacks import RL2, RL2Vector
from metabench.stacks.rl2 import tick

IDS = ["GridSwitch-v0", "PointRobot-v0", "HighwayEnvMerge-v0"]
SHORT = {"HighwayEnvMerge-v0": 5}  # steps of an episode: a step of highway-env takes milliseconds


class Scripted:
    """Plays given actions; remembers what it was shown."""

    def __init__(self, actions):
        self.actions, self.shown = actions, []

    def begin(self, num_trials):
        return 0

    def act(self, step, belief):
        self.shown.append(step)
        return self.actions[belief], belief + 1


def limit_of(id):
    return SHORT.get(id, 15)


def environment(id, count=3, episodes=2, split="train"):
    """A short trial of a benchmark, in slots."""
    return make_vec(id, count, split=split, episodes_per_task=episodes, max_episode_steps=limit_of(id))


@pytest.mark.parametrize("id", IDS)
def test_the_rows_are_what_an_agent_is_shown(id):
    env, envs = environment(id), RL2Vector(environment(id))
    space = env.single_action_space
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(4 * limit_of(id))]
    agent = Scripted(actions)
    ticks = play(agent, env, env.reset(seed=7)[0])
    shown, info = envs.reset(seed=7)
    playing, start = np.ones(3, dtype=bool), np.ones(3, dtype=bool)  # slots in their first trial
    over_before = 0
    for action in actions:
        played = next(ticks)
        step = agent.shown[-1]
        expected = tick(step.observation, step.action, step.reward, step.first, start, space)
        assert np.array_equal(shown[playing], expected[playing]) and envs.observation_space.contains(shown)
        shown, reward, terminated, truncated, info = envs.step(action)
        assert np.array_equal(reward, played.reward)
        assert np.array_equal(info["episode_ended"], played.terminated | played.truncated)
        start = np.zeros(3, dtype=bool)
        over = terminated | truncated
        over_before += int((over & playing).sum())
        if over.any():
            assert (info["_final_obs"] == over).all()
            assert np.array_equal(info["final_obs"][over][:, -1], np.zeros(over.sum()))
            assert (shown[over, -1] == 1).all() and (shown[over, -2] == 0).all()
        assert ("final_obs" in info) == over.any()
        playing &= ~over
    assert over_before == 3


@pytest.mark.parametrize("id", IDS)
def test_slots_equal_single_environments(id):
    limit = limit_of(id)
    envs = RL2Vector(environment(id))
    singles = [RL2(gym.make(f"metabench/{id}", episodes_per_task=2, max_episode_steps=limit)) for _ in range(3)]
    shown, info = envs.reset(seed=4)
    alone = [env.reset(seed=4 + i) for i, env in enumerate(singles)]
    assert np.array_equal(shown, np.stack([a[0] for a in alone])) and set(alone[0][1]) == {
        k for k in info if k[0] != "_"
    }
    envs.action_space.seed(1)
    for _ in range(70):
        action = envs.action_space.sample()
        shown, reward, terminated, truncated, info = envs.step(action)
        for i, env in enumerate(singles):
            o, r, end, cut, own = env.step(action[i])
            assert (r, end, cut) == (reward[i], terminated[i], truncated[i])
            assert all(own[key] == info[key][i] for key in ("session_ended", "episode_ended"))
            if end or cut:
                assert np.array_equal(o, info["final_obs"][i])
                o, own = env.reset()
            assert np.array_equal(o, shown[i])
            assert all(own[key] == info[key][i] for key in ("task_id", "episode_in_trial", "session"))


def test_a_trial_by_hand():
    env = RL2(make("GridNavigation-v0", episodes_per_task=2, max_episode_steps=2))
    shown, info = env.reset(seed=0, options={"task": {"goal": 24}})
    assert shown.tolist() == [0, 0, *[0] * 5, 0, 1] and not info["episode_ended"]
    assert env.step(2)[0].tolist() == pytest.approx([1, 0, *[0, 0, 1, 0, 0], -0.1, 0])
    shown, _reward, terminated, truncated, info = env.step(1)  # ends the first episode; the second begins
    assert shown.tolist() == pytest.approx([0, 0, *[0, 1, 0, 0, 0], -0.1, 1])
    assert not terminated and not truncated and info["episode_ended"] and info["episode_in_trial"] == 1
    env.step(0)
    shown, _, terminated, truncated, info = env.step(0)
    assert truncated and not terminated and info["episode_ended"] and shown[-1] == 0


def test_reset_begins_a_trial_also_in_the_middle_of_one():
    env, envs = (
        RL2(make("PointRobot-v0", episodes_per_task=3)),
        RL2Vector(make_vec("PointRobot-v0", 2, episodes_per_task=3)),
    )
    env.reset(seed=0)
    envs.reset(seed=0)
    for _ in range(30):
        env.step(np.ones(2))
        envs.step(np.ones((2, 2)))
    shown, info = env.reset()
    assert info["episode_in_trial"] == 0 and shown.tolist() == [0] * 5 + [1]
    mask = np.array([False, True])
    before = envs.step(np.ones((2, 2)))[0]
    shown, info = envs.reset(options={"reset_mask": mask})
    assert np.array_equal(shown[0], before[0]) and shown[1].tolist() == [0] * 5 + [1]
    assert info["episode_in_trial"].tolist() == [1, 0] and info["_task_id"].tolist() == [False, True]
    assert envs.reset()[1]["episode_in_trial"].tolist() == [0, 0]


@pytest.mark.parametrize("id", ["GridSwitch-v0", "CheetahVel-v0"])
@pytest.mark.filterwarnings("ignore:.*(Box observation space|different from the unwrapped)")
def test_gymnasium_takes_it(id):
    env = RL2(gym.make(f"metabench/{id}"))
    check_env(env, skip_render_check=True)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, RL2) and np.array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])
    envs = gym.make_vec(f"metabench/{id}", 2, vectorization_mode="sync", wrappers=[RL2])
    assert envs.reset(seed=1)[0].shape == (2, *env.observation_space.shape)


def test_what_cannot_be_wrapped():
    with pytest.raises(TypeError, match="RL2 wraps environments of metabench"):
        RL2(gym.make("CartPole-v1"))
    with pytest.raises(TypeError, match="RL2Vector wraps vector environments of metabench"):
        RL2Vector(gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    with pytest.raises(ValueError, match="needs autoreset_mode='SameStep'"):
        RL2Vector(make_vec("PointRobot-v0", 2, autoreset_mode=AutoresetMode.NEXT_STEP))
