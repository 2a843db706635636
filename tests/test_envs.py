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


@pytest.mark.parametrize("id", IDS)
def test_infos_have_one_set_of_keys_and_types(id):
    env, envs = make(id), make_vec(id, 3)
    env.action_space.seed(0)
    infos, batches = [env.reset(seed=0)[1]], [envs.reset(seed=0)[1]]
    infos += [env.step(env.action_space.sample())[4] for _ in range(3)] + [env.reset()[1]]
    batches += [envs.step(np.stack([env.action_space.sample()] * 3))[4] for _ in range(3)]
    batches += [envs.reset(options={"reset_mask": np.array([False, True, False])})[1]]
    kinds = {key: value.dtype for key, value in infos[0].items()}
    assert ("success" in kinds) == (type(env.family).success is not metabench.Family.success)
    for info in infos:
        assert {key: value.dtype for key, value in info.items()} == kinds
        assert all(isinstance(value, np.generic) for value in info.values())
    for batch in batches:
        named = {key: value.dtype for key, value in batch.items() if not key.startswith("_")}
        assert named == kinds and all(batch[f"_{key}"].shape == (3,) for key in kinds)
        for value in batch.values():  # nobody's but the caller's
            value[:] = 1
    assert envs.step(np.stack([env.action_space.sample()] * 3))[4]["episode_in_trial"].tolist() != [1, 1, 1]


def test_infos_have_one_set_of_keys_when_a_simulation_diverges(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file where it stands
    env = make("HopperParam-v0")
    keys = set(env.reset(seed=0)[1])
    assert "diverged" in keys
    env.step(np.zeros(3, np.float32))
    simulator = env._trials.simulator
    physics = simulator.state.physics.copy()
    physics[0, 1 + env.family.model.nq] = 1e11  # m/s
    simulator.state = simulator.state._replace(physics=physics)
    with pytest.warns(metabench.DivergenceWarning):
        *_, terminated, _, info = env.step(np.ones(3, np.float32))
    assert terminated and info["diverged"] and info["diverged"].dtype == bool and set(info) == keys


TYPES = [np.float16, np.float32, np.float64, np.longdouble, ">f2", ">f4", ">f8"]
WHOLE = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, ">i2", ">i8", ">u4"]


def variants(actions):
    """The same numbers in every type that holds them, and in other orders of memory."""
    discrete = actions.dtype.kind in "iu"
    types = WHOLE if discrete else TYPES
    if not discrete and (actions == np.round(actions)).all():
        types = TYPES + [t for t in WHOLE if (actions >= 0).all() or np.dtype(t).kind == "i"]
    if not discrete and np.isin(actions, (0, 1)).all():
        types = [*types, bool]
    for kind in types:
        yield actions.astype(kind)
    spread = np.zeros((*actions.shape[:-1], 2 * actions.shape[-1]), actions.dtype)
    spread[..., ::2] = actions
    yield from (np.asfortranarray(actions), spread[..., ::2], actions[::-1].copy()[::-1], actions.tolist())


@pytest.mark.parametrize("id", IDS)
def test_an_action_means_its_numbers(id):
    space = spec(id).family().action_space
    if isinstance(space, gym.spaces.Discrete):
        batches = [np.arange(3) % space.n]
    else:
        batches = [np.random.default_rng(0).integers(-8, 9, (3, *space.shape)) / 8, np.ones((3, *space.shape))]
    for batch in batches:
        batch = batch.astype(space.dtype)
        expected = [part.tobytes() for part in fresh_step(make_vec(id, 3), batch)]
        for other in variants(batch):
            assert [part.tobytes() for part in fresh_step(make_vec(id, 3), other)] == expected
        for row in range(3):
            alone = fresh_step(make(id), batch[row])
            for other in variants(batch[row : row + 1]):
                again = fresh_step(make(id), other[0])
                assert again[0].tobytes() == alone[0].tobytes() and again[1] == alone[1]


def fresh_step(env, action):
    """Observation and reward of the second of two equal steps."""
    env.reset(seed=0)
    env.step(action)
    return env.step(action)[:2]


def test_actions_beyond_their_type_and_finer_than_it():
    env = make_vec("CheetahVel-v0", 2)
    fine = np.random.default_rng(0).uniform(-1, 1, (2, 6))
    assert fresh_step(env, fine)[1].tolist() == fresh_step(env, fine.astype(np.float32))[1].tolist()
    point = make_vec("PointRobot-v0", 2)
    for huge in (1e200, np.longdouble("1e4000"), np.uint64(2**64 - 1)):
        assert fresh_step(point, np.full((2, 2), huge))[1].tolist() == fresh_step(point, np.ones((2, 2)))[1].tolist()


@pytest.mark.parametrize("vectorised", [False, True])
def test_seeds_of_every_integer_type(vectorised):
    env = make_vec("GridSwitch-v0", 2, split="fresh") if vectorised else make("GridSwitch-v0", split="fresh")
    expected = env.reset(seed=255)[0]
    for kind in (np.uint8, np.int16, np.int32, np.uint64, np.int64, ">i4"):
        assert np.array_equal(env.reset(seed=np.array([255], kind)[0])[0], expected)
        assert np.array_equal(env.reset(seed=np.array(255, kind))[0], expected)
        if vectorised:
            assert np.array_equal(env.reset(seed=np.array([255, 256], ">i8"))[0], expected)
            assert np.array_equal(env.reset(seed=[np.uint8(255), np.array(256)])[0], expected)
    if vectorised:
        single = make("GridSwitch-v0", split="fresh")
        assert np.array_equal(env.reset(seed=np.uint64(2**64 - 1))[0][1], single.reset(seed=2**64)[0])


def test_tasks_in_every_form():
    env, envs = make("PointRobot-v0", split="test"), make_vec("PointRobot-v0", 3, split="test")
    for one in (3, np.uint8(3), np.array(3), np.array([3]), [np.array(3)], (np.int16(3),)):
        _, info = env.reset(seed=0, options={"task": one})
        assert info["task_id"] == 3 == env.task.index
    assert envs.reset(options={"task": np.array(3)})[1]["task_id"].tolist() == [3] * 3
    columns = {"goal_x": np.array([0.1, 0.2, 0.3], np.float16), "goal_y": np.array(-1)}
    _, info = envs.reset(options={"task": columns})
    assert [task.context for task in envs.tasks] == [(float(x), -1.0) for x in columns["goal_x"]]
    assert info["task_id"].tolist() == [-1] * 3
    envs.reset(options={"task": {"goal_x": [0, 1, 0.5], "goal_y": 0}})
    assert [task.context for task in envs.tasks] == [(0.0, 0.0), (1.0, 0.0), (0.5, 0.0)]


@pytest.mark.parametrize("id", ["GridSwitch-v0", "HopperParam-v0", "HighwayEnvMerge-v0", "ScratchItchSwitch-v0"])
def test_a_reset_mask_begins_its_slots_alone(id):
    last = min(spec(id).table().size("train") - 1, 2)
    for options in ({}, {"seed": 40}, {"seed": [9, 8, 7], "task": last}, {"task": [0, last, last]}):
        seed, task = options.get("seed"), {k: v for k, v in options.items() if k == "task"}
        env, sync = make_vec(id, 3), gym.make_vec(f"metabench/{id}", 3, vectorization_mode="sync")
        for one in (env, sync):
            one.reset(seed=5)
        env.action_space.seed(0)
        actions = [env.action_space.sample() for _ in range(6)]
        for action in actions[:3]:
            env.step(action)
            sync.step(action)
        mask = np.array([True, False, True])
        observation, info = env.reset(seed=seed, options={"reset_mask": mask, **task})
        for slot in np.flatnonzero(mask):
            own = seed + int(slot) if isinstance(seed, int) else seed and seed[slot]
            one = task and {"task": task["task"][slot] if isinstance(task["task"], list) else task["task"]}
            sync._env_obs[slot], expected = sync.envs[slot].reset(seed=own, options=one)
            assert np.array_equal(observation[slot], sync._env_obs[slot])
            assert all(info[key][slot] == value for key, value in expected.items())
        assert info["_task_id"].tolist() == mask.tolist()
        for action in actions[3:]:
            ours, theirs = env.step(action), sync.step(action)
            assert all(np.array_equal(a, b) for a, b in zip(ours[:4], theirs[:4], strict=True))


PLAYED = ["GridSwitch-v0", "PointRobot-v0", "HopperParam-v0", "HighwayEnvMerge-v0", "MetaWorld-DrawerOpen-v0"]


def played_beside_gymnasium(id, mode, steps):
    """Every step of the native environment and of Gymnasium's own around single ones, with the same actions."""
    given = {} if id.startswith("MetaWorld") else {"max_episode_steps": 40 if "Highway" in id else 12}
    if id.startswith("MetaWorld"):
        given = {"max_episode_steps": 9}
    env = gym.make_vec(f"metabench/{id}", 4, autoreset_mode=mode, episodes_per_task=2, **given)
    sync = gym.make_vec(
        f"metabench/{id}",
        4,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode(mode)},
        episodes_per_task=2,
        **given,
    )
    assert env.autoreset_mode == env.metadata["autoreset_mode"] == AutoresetMode(mode)
    yield env.reset(seed=3), sync.reset(seed=3)
    env.action_space.seed(1)
    for _ in range(steps):
        action = env.action_space.sample()
        if isinstance(env.single_action_space, gym.spaces.Discrete):
            action[0] = 1  # steady, so that some slots end at other times than the others
        yield env.step(action), sync.step(action)


def same_infos(ours, theirs, rows, keys):
    return all(np.array_equal(ours[key][rows], theirs[key][rows]) and theirs[f"_{key}"][rows].all() for key in keys)


@pytest.mark.parametrize("id", PLAYED)
@pytest.mark.filterwarnings("ignore::metabench.DivergenceWarning")
def test_next_step_is_gymnasiums(id):
    ends, alone = 0, False
    for ours, theirs in played_beside_gymnasium(id, "NextStep", 130):
        assert all(np.array_equal(a, b) for a, b in zip(ours[:-1], theirs[:-1], strict=True))
        keys = [key for key in ours[-1] if not key.startswith("_")]
        assert set(ours[-1]) == set(theirs[-1]) and same_infos(ours[-1], theirs[-1], slice(None), keys)
        if len(ours) == 5:
            done = ours[2] | ours[3]
            ends, alone = ends + done.sum(), alone or (done.any() and not done.all())
    assert ends >= 8
    assert alone == (id == "HighwayEnvMerge-v0")  # where episodes end at different times


@pytest.mark.parametrize("id", PLAYED)
def test_same_step_is_gymnasiums(id):
    ends = 0
    for ours, theirs in played_beside_gymnasium(id, "SameStep", 60):
        assert all(np.array_equal(a, b) for a, b in zip(ours[:-1], theirs[:-1], strict=True))
        keys = [key for key in ours[-1] if not key.startswith(("_", "final_"))]
        assert ("final_obs" in ours[-1]) == ("final_obs" in theirs[-1])
        if "final_obs" not in ours[-1]:
            assert same_infos(ours[-1], theirs[-1], slice(None), keys)
            continue
        done = ours[-1]["_final_obs"]
        ends += done.sum()
        assert np.array_equal(done, theirs[-1]["_final_obs"])
        assert np.array_equal(ours[-1]["final_obs"][done], np.stack(theirs[-1]["final_obs"][done]))
        assert same_infos(ours[-1]["final_info"], theirs[-1]["final_info"], done, keys)
        assert same_infos(ours[-1], theirs[-1], ~done, keys)
        assert same_infos(ours[-1], theirs[-1], done, ["task_id", "episode_in_trial", "session"])
    assert ends >= 4


def test_gymnasiums_observation_wrappers_work_under_next_step():
    wrappers = gym.wrappers.vector
    for wrap in (
        wrappers.NormalizeObservation,
        wrappers.FlattenObservation,
        lambda env: wrappers.TransformObservation(env, lambda observation: 2 * observation, env.observation_space),
    ):
        native = gym.make_vec("metabench/PointRobot-v0", 3, autoreset_mode=AutoresetMode.NEXT_STEP)
        sync = gym.make_vec("metabench/PointRobot-v0", 3, vectorization_mode="sync")
        pair = [wrap(native), wrap(sync)]
        assert np.allclose(*(env.reset(seed=0)[0] for env in pair))
        native.action_space.seed(0)
        for _ in range(45):
            action = native.action_space.sample()
            assert np.allclose(*(env.step(action)[0] for env in pair))


def test_the_autoreset_mode_is_told_in_json():
    env = gym.make_vec(
        "metabench/PointRobot-v0", 2, autoreset_mode=AutoresetMode.NEXT_STEP, episodes_per_task=np.int64(2)
    )
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.autoreset_mode == AutoresetMode.NEXT_STEP and again.episodes_per_task == 2


def length(env):
    """Steps of the first episode."""
    env.reset(seed=0)
    for step in range(1, 1000):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if np.all(terminated | truncated):
            return step


@pytest.mark.parametrize("id", ["PointRobot-v0", "GridSwitch-v0", "MetaWorld-DrawerOpen-v0"])
def test_episodes_are_as_long_as_the_spec_says(id):
    name, horizon = f"metabench/{id}", spec(id).horizon
    for limit in (5, horizon, None):
        steps = limit or horizon
        assert gym.make(name, max_episode_steps=limit).spec.max_episode_steps == steps
        single, batch = gym.make(name, max_episode_steps=limit), gym.make_vec(name, 2, max_episode_steps=limit)
        assert single.unwrapped.spec.max_episode_steps == batch.spec.max_episode_steps == steps
        assert length(single) == length(single.unwrapped) == length(batch) == steps
        assert length(make(id, max_episode_steps=limit)) == length(make_vec(id, 2, max_episode_steps=limit)) == steps
        assert length(gym.make(gym.envs.registration.EnvSpec.from_json(single.spec.to_json()))) == steps
        sync = gym.make_vec(
            name, 2, vectorization_mode="sync", **({} if limit is None else {"max_episode_steps": limit})
        )
        assert length(sync) == steps and all(e.spec.max_episode_steps == steps for e in sync.envs)


@pytest.mark.parametrize("limit", [1000, 0, -1, 21])
def test_longer_episodes_are_refused_on_every_path(limit):
    words, name = f"max_episode_steps of PointRobot-v0 must be 1 to 20, got {limit}", "metabench/PointRobot-v0"
    changed = gym.spec(name)
    told = gym.envs.registration.EnvSpec.from_json(changed.to_json())
    told.max_episode_steps = limit
    doors = [
        lambda: gym.make(name, max_episode_steps=limit),
        lambda: gym.make(told),
        lambda: gym.make_vec(name, 2, max_episode_steps=limit),
        lambda: gym.make_vec(name, 2, vectorization_mode="sync", max_episode_steps=limit),
        lambda: gym.make_vec(name, 2, vectorization_mode="async", max_episode_steps=limit),
        lambda: make("PointRobot-v0", max_episode_steps=limit),
        lambda: make_vec("PointRobot-v0", 2, max_episode_steps=limit),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=words):
            door()


def test_a_family_may_allow_longer_episodes(monkeypatch):
    monkeypatch.setattr(spec("PointRobot-v0").family(), "longest", 30, raising=False)
    env = gym.make("metabench/PointRobot-v0", max_episode_steps=30)
    assert env.spec.max_episode_steps == 30 == length(env)
    assert length(gym.make_vec("metabench/PointRobot-v0", 2, max_episode_steps=25)) == 25
    with pytest.raises(ValueError, match="must be 1 to 30, got 31"):
        gym.make("metabench/PointRobot-v0", max_episode_steps=31)
