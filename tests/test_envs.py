"""The Gymnasium faces: trials, tasks through options, autoreset, seeds, every way of making them."""

import copy
import json
import os
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import metabench
from metabench import make, make_vec, spec, specs
from metabench.checks import check_gymnasium
from metabench.simulator import FunctionalSimulator

IDS = [s.id for s in specs()]


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("mode", [None, "rgb_array", "ansi"])
def test_gymnasium_checker(id, mode):
    if mode is not None and "human" in spec(id).family().render_modes and "DISPLAY" not in os.environ:
        pytest.skip("Gymnasium's checker draws in every mode, and there is no display for windows")
    check_gymnasium(id, mode)


@pytest.mark.parametrize("id", IDS)
def test_gymnasium_spec_is_json(id):
    env = gym.make(f"metabench/{id}", split="test", episodes_per_task=3)
    text = env.spec.to_json()
    again = gym.make(gym.envs.registration.EnvSpec.from_json(text))
    assert again.spec.kwargs == {"benchmark": id, "split": "test", "episodes_per_task": 3}
    assert np.array_equal(env.reset(seed=1)[0], again.reset(seed=1)[0])
    assert json.loads(text)["max_episode_steps"] == spec(id).horizon


def test_sessions_are_json_too():
    env = gym.make("metabench/PointRobot-v0", sessions={"kind": "geometric", "p": 0.05})
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.spec.kwargs["sessions"] == {"kind": "geometric", "p": 0.05}


def test_lazy_form_in_a_fresh_process():
    code = (
        "import gymnasium as gym; env = gym.make('metabench:metabench/GridSwitch-v0');"
        "print(env.reset(seed=0)[0].tolist())"
    )
    there = subprocess.check_output([sys.executable, "-W", "error", "-c", code], text=True)
    assert there.strip() == str(make("GridSwitch-v0").reset(seed=0)[0].tolist())


def play_ids(env, episodes):
    """Task ids of the next episodes, by plain resets."""
    ids = []
    for _ in range(episodes):
        _, info = env.reset()
        ids.append(info["task_id"])
    return ids


def test_a_trial_keeps_its_task():
    env = make("PointRobot-v0", episodes_per_task=3)
    first = env.reset(seed=0)[1]
    assert first["episode_in_trial"] == 0
    ids = [first["task_id"], *play_ids(env, 8)]
    assert ids[0] == ids[1] == ids[2] and ids[3] == ids[4] == ids[5] and ids[6] == ids[7] == ids[8]
    assert len({ids[0], ids[3], ids[6]}) > 1
    assert env.reset()[1]["episode_in_trial"] == 0 and env.reset()[1]["episode_in_trial"] == 1


def test_options_set_the_task():
    env = make("PointRobot-v0", split="test", episodes_per_task=2)
    assert env.reset(options={"task": 3})[1]["task_id"] == 3
    assert env.task == spec("PointRobot-v0").table().fixed("test")[3]
    assert env.reset()[1] == {"task_id": 3, "episode_in_trial": 1, "session": 0, "session_ended": False}
    env.reset(options={"task": {"goal_x": 0.5, "goal_y": -1.5}})
    assert env.task.context == (0.5, -1.5) and env.task.index == -1
    task = spec("PointRobot-v0").table().fixed("ood")[7]
    env.reset(options={"task": task})
    assert env.task.context == task.context and env.task.index == -1  # no row of this env's split
    assert env.reset(seed=5, options={"task": np.int64(1)})[1]["task_id"] == 1


def test_per_slot_tasks():
    env = make_vec("PointRobot-v0", 4, split="test", episodes_per_task=2)
    _, info = env.reset(seed=0, options={"task": [3, 1, 4, 1]})
    assert info["task_id"].tolist() == [3, 1, 4, 1]
    assert [task.index for task in env.tasks] == [3, 1, 4, 1]
    for _ in range(20):
        *_, info = env.step(np.zeros((4, 2), np.float32))
    assert info["task_id"].tolist() == [3, 1, 4, 1] and info["episode_in_trial"].tolist() == [1] * 4
    assert env.reset(options={"task": 2})[1]["task_id"].tolist() == [2] * 4


def test_autoreset_in_the_same_step():
    env = gym.make_vec("metabench/GridNavigation-v0", 3, episodes_per_task=2)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.reset(seed=0)
    for t in range(1, 31):
        observation, _, terminated, truncated, info = env.step(np.full(3, 2))
        ended = t % 15 == 0
        assert truncated.all() == truncated.any() == ended and not terminated.any()
        assert ("final_obs" in info) == ended
        if ended:
            assert (observation == 0).all() and (info["final_obs"][:, 0] == 4).all() and info["_final_obs"].all()
            assert (info["final_info"]["episode_in_trial"] == t // 15 - 1).all()
            assert (info["episode_in_trial"] == (t // 15) % 2).all()


def test_staggered_ends_reset_only_their_slots():
    """Slots out of step: one is begun anew in the middle by its own options."""
    env, single = make_vec("GridSwitch-v0", 2), make("GridSwitch-v0")
    env.reset(seed=4)
    single.reset(seed=5)
    simulator = env._trials.simulator
    simulator._episode_end[0] -= 30  # slot 0 will end 30 steps early
    simulator._first_episode_end -= 30
    for _ in range(60):
        observation, reward, _, truncated, info = env.step(np.array([1, 2]))
        o, r, _, cut, _ = single.step(2)
        assert (r, cut) == (reward[1], truncated[1])
        assert np.array_equal(o, info["final_obs"][1] if cut else observation[1])


@pytest.mark.parametrize("kind", ["sync", "async", "vector_entry_point"])
def test_every_vectorisation_gives_the_same_numbers(kind):
    env = gym.make_vec("metabench/GridSwitch-v0", 3, vectorization_mode=kind, split="test")
    singles = [make("GridSwitch-v0", split="test") for _ in range(3)]
    observation, _ = env.reset(seed=8)
    assert np.array_equal(observation, np.stack([single.reset(seed=8 + i)[0] for i, single in enumerate(singles)]))
    for action in (1, 2, 3, 4):
        observation, reward, *_ = env.step(np.full(3, action))
        alone = [single.step(action) for single in singles]
        assert np.array_equal(observation, np.stack([a[0] for a in alone])) and reward.tolist() == [a[1] for a in alone]
    env.close()


def test_training_tasks_are_not_test_tasks_by_any_door():
    """A published benchmark's `-train` id silently served its test tasks."""
    test = {t.context for t in spec("PointRobot-v0").table().fixed("test")}
    for split, inside in (("train", False), ("test", True), ("ood", False), ("fresh", False)):
        doors = [
            gym.make("metabench/PointRobot-v0", split=split).unwrapped,
            make("PointRobot-v0", split=split),
        ]
        for env in doors:
            for seed in range(30):
                env.reset(seed=seed)
                assert (env.task.context in test) == inside
        for env in (
            make_vec("PointRobot-v0", 50, split=split),
            gym.make_vec("metabench/PointRobot-v0", 50, split=split),
        ):
            env.reset(seed=0)
            assert all((task.context in test) == inside for task in env.tasks)
    env = gym.make_vec("metabench/PointRobot-v0", 2, vectorization_mode="sync", split="train")
    env.reset(seed=0)
    assert not {e.unwrapped.task.context for e in env.envs} & test


def test_without_a_seed_every_environment_differs():
    starts = {make("PointRobot-v0", split="fresh").reset()[1]["task_id"] for _ in range(2)}
    assert starts == {-1}
    contexts = set()
    for _ in range(4):
        env = make("PointRobot-v0", split="fresh")
        env.reset()
        contexts.add(env.task.context)
    assert len(contexts) == 4


def test_a_list_of_seeds():
    env = make_vec("GridSwitch-v0", 3)
    observation, _ = env.reset(seed=[7, 7, 9])
    assert np.array_equal(observation[0], observation[1])
    assert np.array_equal(observation[2], make("GridSwitch-v0").reset(seed=9)[0])


def test_exposed_task_follows_the_sessions():
    env = make("GridSwitch-v0", split="test", expose_task=True)
    observation, _ = env.reset(seed=0, options={"task": 0})
    assert env.observation_space.shape == (9,) and observation in env.observation_space
    assert observation[6:8].tolist() == list(env.task.context)
    paying = [observation[8]]
    for _ in range(59):
        observation, *_, info = env.step(0)
        assert info["session_ended"] or observation[8] == paying[-1]
        paying.append(observation[8])
    assert info["session"] > 0


def test_max_episode_steps_shortens():
    env = gym.make_vec("metabench/GridSwitch-v0", 2, max_episode_steps=5)
    env.reset(seed=0)
    cuts = [env.step(np.zeros(2, dtype=int))[3].all() for _ in range(5)]
    assert cuts == [False] * 4 + [True]
    single = gym.make("metabench/GridSwitch-v0", max_episode_steps=5)
    single.reset(seed=0)
    assert [single.step(0)[3] for _ in range(5)] == [False] * 4 + [True]


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["deepcopy", "pickle"])
def test_single_environments_copy(id, clone):
    env = gym.make(f"metabench/{id}").unwrapped
    env.reset(seed=3)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(40)]
    for action in actions[:10]:
        env.step(action)
    twin = clone(env)
    for action in actions:
        a, b = env.step(action), twin.step(action)
        assert np.array_equal(a[0], b[0]) and a[1:] == b[1:]


def test_vector_wrappers_of_gymnasium_work():
    env = gym.wrappers.vector.RecordEpisodeStatistics(gym.make_vec("metabench/GridNavigation-v0", 2))
    env.reset(seed=0)
    for _ in range(15):
        *_, info = env.step(np.zeros(2, dtype=int))
    assert np.allclose(info["episode"]["r"], -1.5)


def test_specs_are_plain_data():
    for s in specs():
        assert metabench.Spec.from_json(s.to_json()) == s
        assert pickle.loads(pickle.dumps(s)) == s


def test_a_backend_is_the_familys_own_simulator(monkeypatch):
    """A family may step itself; its simulator is asked for by name and given what the functional one is given."""
    family, asked = spec("PointRobot-v0").family(), []

    def simulator(backend, drift, tasks, rng, horizon):
        asked.append((backend, len(tasks.row), len(rng), horizon))
        return FunctionalSimulator(family, drift, tasks, rng, horizon) if backend == "reference" else None

    monkeypatch.setattr(family, "backends", ("batched", "reference"), raising=False)
    monkeypatch.setattr(family, "simulator", simulator, raising=False)
    envs = [make_vec("PointRobot-v0", 3, backend=backend) for backend in (None, "reference")]
    observations = [env.reset(seed=0)[0] for env in envs]
    assert np.array_equal(*observations)
    assert asked == [("batched", 3, 3, 20), ("reference", 3, 3, 20)]


def test_arrays_of_seeds_and_tasks_are_as_lists_of_them():
    seeds, tasks = np.array([3, 2**63 + 5, 7], np.uint64), np.array([2, 0, 4])
    one, other = (metabench.make_vec("PointRobot-v0", 3, split="test") for _ in range(2))
    first, info = one.reset(seed=seeds, options={"task": tasks})
    again, expected = other.reset(seed=seeds.tolist(), options={"task": tasks.tolist()})
    assert (first == again).all() and (info["task_id"] == expected["task_id"]).all()
    for _ in range(45):
        action = one.action_space.sample()
        a, b = one.step(action), other.step(action)
        assert all((x == y).all() for x, y in zip(a[:4], b[:4], strict=True))
    with pytest.raises(ValueError, match="task 5 does not exist"):
        one.reset(options={"task": np.array([0, 5, 1])})
