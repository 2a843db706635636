"""Every registered benchmark has the properties that third parties' are held to; each of ours does what it says."""

import os

import gymnasium as gym
import numpy as np
import pytest

import metabench
from metabench import SlotRng, check_family, make, make_vec, spec, specs
from metabench.families.grid_navigation import CELLS, NEXT, PLACE, SIZE

IDS = [s.id for s in specs()]


HEAVY = {"HumanoidDir-v0", "AntGoal-v0", "WalkerParam-v0"}  # many bodies; their kinds are AntDir's and HopperParam's


@pytest.mark.parametrize("id", [pytest.param(id, marks=pytest.mark.slow) if id in HEAVY else id for id in IDS])
def test_properties(id):
    check_family(id)


@pytest.mark.parametrize("id", [pytest.param(id, marks=pytest.mark.slow) if id in HEAVY else id for id in IDS])
def test_numbers_do_not_depend_on_how_many_slots_there_are(id):
    def rewards(count):
        steps = min(spec(id).horizon, 60)
        env = make_vec(id, count, max_episode_steps=steps)
        env.reset(seed=5)
        actions = make_vec(id, 64).action_space
        actions.seed(0)
        return np.stack([env.step(actions.sample()[:count])[1] for _ in range(2 * steps)])

    assert np.array_equal(rewards(64)[:, :3], rewards(3))


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
def test_pictures(id, mode):
    env = gym.make(f"metabench/{id}", render_mode=mode)
    env.reset(seed=0)
    if (
        mode == "rgb_array"
        and spec(id).extra in ("mujoco", "metaworld")
        and not {"MUJOCO_GL", "DISPLAY"} & set(os.environ)
    ):
        with pytest.raises(ValueError, match="MUJOCO_GL=egl"):
            env.render()
        return
    first = env.render()
    if mode == "rgb_array":
        assert first.dtype == np.uint8 and first.shape[2] == 3 and first.std() > 5
    else:
        assert first.count("\n") > 4
    discrete = isinstance(env.action_space, gym.spaces.Discrete)
    for action in (1, 2, 1) if discrete else [env.action_space.high] * 3:
        env.step(action)
    assert not np.array_equal(first, env.render())
    assert metabench.make(id).render() is None


def test_point_robot_by_hand():
    env = make("PointRobot-v0")
    env.reset(seed=0, options={"task": {"goal_x": 0.3, "goal_y": -0.4}})
    observation, reward, *_ = env.step(np.array([0.1, -5.0]))  # clipped to 0.1 m
    assert np.allclose(observation, [0.1, -0.1])
    assert reward == pytest.approx(-np.hypot(0.2, 0.3))


def test_point_robot_equals_the_reference_step_for_step():
    """The point environment of the Meta-DT code release, written down from its description."""
    rng, goals = np.random.default_rng(0), metabench.spec("PointRobot-v0").table().rows["train"]
    env = make_vec("PointRobot-v0", len(goals), episodes_per_task=99)
    env.reset(seed=0, options={"task": list(range(len(goals)))})
    position = np.zeros_like(goals)
    for _ in range(19):
        action = rng.uniform(-0.2, 0.2, goals.shape).astype(env.single_action_space.dtype)
        position = position + np.clip(action, -0.1, 0.1)
        observation, reward, *_ = env.step(action)
        assert np.array_equal(observation, position.astype(np.float32))
        assert np.allclose(reward, -np.linalg.norm(position - goals, axis=1), rtol=1e-15)


def test_sparse_point_robot_by_hand():
    env = make("SparsePointRobot-v0")
    env.reset(seed=0, options={"task": {"goal_angle": 0.0}})
    rewards = [env.step(np.array([0.1, 0.0]))[1] for _ in range(10)]
    assert rewards[:7] == [0.0] * 7
    assert rewards[8] == pytest.approx(0.9) and rewards[9] == pytest.approx(1.0)


def test_moves_on_the_grid():
    for cell in range(CELLS):
        x, y = divmod(cell, SIZE)
        expected = [(x, y), (x, min(y + 1, 4)), (min(x + 1, 4), y), (x, max(y - 1, 0)), (max(x - 1, 0), y)]
        assert [divmod(int(c), SIZE) for c in NEXT[cell]] == expected
        assert PLACE[cell].tolist() == [x, y]


def test_grid_navigation_by_hand():
    env = make("GridNavigation-v0")
    observation, _ = env.reset(seed=0, options={"task": {"goal": 2 * SIZE + 0}})
    assert observation.tolist() == [0, 0]
    steps = [env.step(a) for a in (2, 2, 0, 1)]
    assert [r for _, r, *_ in steps] == [-0.1, 1.0, 1.0, -0.1]
    assert steps[-1][0].tolist() == [2, 1]
    assert not any(end or cut for _, _, end, cut, _ in steps)


def test_grid_switch_starts_evenly_on_free_cells():
    env = make_vec("GridSwitch-v0", 46_000)
    observation, _ = env.reset(seed=0, options={"task": {"goal_a": 7, "goal_b": 3}})
    counts = np.bincount((observation[:, 0] * SIZE + observation[:, 1]).astype(int), minlength=CELLS)
    assert counts[7] == counts[3] == 0
    assert np.all(abs(np.delete(counts, [3, 7]) - 2000) < 5 * np.sqrt(2000))


def test_grid_switch_pays_what_the_latent_says():
    env = make_vec("GridSwitch-v0", 2000, expose_task=True)
    env.action_space.seed(1)
    before, _ = env.reset(seed=3)
    for _ in range(59):
        after, reward, *_ = env.step(env.action_space.sample())
        goal = np.where(before[:, 8] == 0, before[:, 6], before[:, 7])
        cell = after[:, 0] * SIZE + after[:, 1]
        assert np.array_equal(reward, np.where(cell == goal, 1.0, -0.1))
        before = after


def test_families_take_any_streams():
    family = metabench.spec("GridSwitch-v0").family()
    context = family.context_type(np.array([0]), np.array([24]), np.array([1]))
    state = family.initial(context, SlotRng.from_seeds([9]))
    assert family.observation(state).shape == (1, 6)
