"""Bad input gets one clear sentence that names what exists, and leaves everything as it was."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

import metabench
from metabench import Spec, make, make_vec, register, spec
from metabench.plugins import load_plugin


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make("GridSwich-v0"), "unknown id 'GridSwich-v0'; did you mean 'GridSwitch-v0'"),
        (lambda: make_vec("metabench/PointRobot-v1", 2), "did you mean 'PointRobot-v0'"),
        (lambda: make("zzz"), r"unknown id 'zzz'; available: .*GridSwitch-v0"),
        (lambda: make("GridSwitch-v0", split="tets"), "unknown split 'tets' of GridSwitch-v0; did you mean 'test'"),
        (lambda: make("GridSwitch-v0", split="x"), "available: train, test, ood, fresh"),
        (
            lambda: make("GridSwitch-v0", episodes_per_task=0),
            "must be a whole number of at least 1, got 0",
        ),
        (lambda: make("GridSwitch-v0", episodes_per_task=1.5), "got 1.5"),
        (lambda: make("GridSwitch-v0", render_mode="rgb"), "unknown render_mode 'rgb'; available: rgb_array, ansi"),
        (
            lambda: make("GridSwitch-v0", backend="reference"),
            "GridSwitch-v0 has no backend 'reference'; available: batched",
        ),
        (lambda: make_vec("GridSwitch-v0", 0), "num_envs must be at least 1, got 0"),
        (lambda: make_vec("GridSwitch-v0", 2, max_episode_steps=61), "must be 1 to 60, got 61"),
        (lambda: make("GridSwitch-v0", sessions={"kind": "constant"}), "cannot be constant"),
        (lambda: load_plugin("rl3"), "unknown agent 'rl3'; did you mean 'rl2'"),
        (
            lambda: load_plugin("bayes").build("PointRobot-v0", "test", 0),
            "defined on GridSwitch with geometric",
        ),
    ],
)
def test_making(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_unknown_arguments_are_named():
    with pytest.raises(TypeError, match="splitt"):
        gym.make("metabench/GridSwitch-v0", splitt="test")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (5, "task 5 does not exist: the split 'test' of PointRobot-v0 has the tasks 0 to 4"),
        (-1, "task -1 does not exist"),
        ("3", "must be a row number, a mapping of parameters or a Task, got '3'"),
        (2.0, "must be a row number"),
        (True, "must be a row number"),
        ({"goal_x": 0.0}, "the task of PointRobot-v0 lacks goal_y; it needs goal_x, goal_y"),
        ({"goal_x": 0.0, "goal_y": 0.0, "gaol_y": 1.0}, "has no task parameter 'gaol_y'; did you mean 'goal_y'"),
        ({"goal_x": 2.0, "goal_y": 0.0}, "goal_x=2 is outside what PointRobot-v0 allows: -1.5 to 1.5 m"),
        ({"goal_x": 0.0, "goal_y": float("nan")}, "goal_y=nan is outside"),
        (metabench.Task("GridSwitch-v0", (1.0,), "test", 0), "does not fit PointRobot-v0"),
    ],
)
def test_tasks(task, words):
    env, untouched = make("PointRobot-v0", split="test"), make("PointRobot-v0", split="test")
    for e in (env, untouched):
        e.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.reset(seed=1, options={"task": task})
    assert env.task == untouched.task  # nothing half-done: the old trial goes on
    assert env.step(np.zeros(2))[1:] == untouched.step(np.zeros(2))[1:]


def test_grid_tasks():
    env = make("GridSwitch-v0")
    with pytest.raises(ValueError, match=r"goal_a=1.5 is outside .*whole numbers 0 to 24 cell"):
        env.reset(options={"task": {"goal_a": 1.5, "goal_b": 2}})
    with pytest.raises(ValueError, match="no task of GridSwitch-v0: goal_a and goal_b must be different cells"):
        env.reset(options={"task": {"goal_a": 2, "goal_b": 2}})
    with pytest.raises(ValueError, match="the split 'fresh' of GridSwitch-v0 has no table"):
        make("GridSwitch-v0", split="fresh").reset(options={"task": 0})


def test_options_and_seeds():
    env = make_vec("PointRobot-v0", 3)
    with pytest.raises(ValueError, match="unknown reset option 'tasks'; available: task"):
        env.reset(options={"tasks": 1})
    with pytest.raises(ValueError, match="names 2 tasks for 3 slots; give one for all or one per slot"):
        env.reset(options={"task": [1, 2]})
    with pytest.raises(ValueError, match="seed must be one non-negative integer or 3 of them"):
        env.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="non-negative"):
        env.reset(seed=-1)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (5, "action 5 does not exist: there are the actions 0 to 4"),
        (-1, "action -1 does not exist"),
        (1.0, "actions must be integers 0 to 4, got float64"),
        (np.array([1]), r"actions must have the shape \(1,\), got \(1, 1\)"),
        ("up", "actions must be integers 0 to 4"),
        (None, "actions must be integers"),
        (True, "actions must be integers"),
    ],
)
def test_discrete_actions(action, words):
    env = make("GridSwitch-v0")
    env.reset(seed=0)
    before = env.render() if env.render_mode else env._trials.simulator.text(0)
    with pytest.raises(ValueError, match=words):
        env.step(action)
    assert env._trials.simulator.text(0) == before
    assert env._trials.simulator.elapsed[0] == 0


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.array([0.1, np.nan]), r"the action of slot 0 is not finite: \[0.1 nan\]"),
        (np.array([np.inf, 0.0]), "not finite"),
        (np.zeros(3), r"actions must have the shape \(1, 2\), got \(1, 3\)"),
        (np.array(["a", "b"]), "actions must be real numbers"),
        (np.array([1j, 0]), "actions must be real numbers, got complex128"),
    ],
)
def test_box_actions(action, words):
    env = make("PointRobot-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.step(action)
    assert (env._trials.simulator.state.position == 0).all()


def test_vector_actions_name_the_slot():
    env = make_vec("PointRobot-v0", 4)
    env.reset(seed=0)
    actions = np.zeros((4, 2))
    actions[2, 1] = np.nan
    with pytest.raises(ValueError, match="the action of slot 2 is not finite"):
        env.step(actions)
    env.step(np.full((4, 2), 1e200))  # finite, however large: clipped
    grid = make_vec("GridSwitch-v0", 4)
    grid.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(3,\)"):
        grid.step(np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="action 9 does not exist"):
        grid.step(np.array([0, 0, 9, 0]))


def test_step_and_render_need_a_reset():
    for env in (make("PointRobot-v0", render_mode="ansi"), make_vec("PointRobot-v0", 2, render_mode="ansi")):
        with pytest.raises(ResetNeeded, match=r"call reset\(\) before"):
            env.step(np.zeros((2, 2)))
        with pytest.raises(ResetNeeded, match=r"call reset\(\) before"):
            env.render()


def test_an_id_belongs_to_one_benchmark():
    other = Spec(id="PointRobot-v0", entry_point="x:Y", summary="", sources=("",), horizon=1, digests={})
    with pytest.raises(ValueError, match=r"PointRobot-v0 is already registered by metabench\.families\.point_robot"):
        register(other)
    assert register(spec("PointRobot-v0")) == spec("PointRobot-v0")


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    (tmp_path / "needs_nothing_known.py").write_text("import a_package_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    missing = Spec(
        id="Missing-v0",
        entry_point="needs_nothing_known:Family",
        summary="",
        sources=("",),
        horizon=1,
        digests={},
        extra="metaworld",
    )
    words = r"Missing-v0 needs the package a_package_nobody_has, .*: pip install 'metabench\[metaworld\]'"
    with pytest.raises(ImportError, match=words):
        missing.family()


def test_agents_without_torch_name_the_extra(monkeypatch):
    import sys

    for name in [m for m in sys.modules if m.startswith("metabench_agents")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"the agent rl2 needs the package torch.*pip install 'metabench\[agents\]'"):
        load_plugin("rl2")


REACH, SWITCH = spec("PointRobot-v0").table().fixed("test")[2], spec("GridSwitch-v0").table().fixed("test")[2]


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"goal_x": None, "goal_y": 0.0}, "the parameter goal_x of PointRobot-v0 must be a number, got None"),
        ({"goal_x": "0.5", "goal_y": 0.0}, "goal_x of PointRobot-v0 must be a number, got '0.5'"),
        ({"goal_x": True, "goal_y": 0.0}, "must be a number, got True"),
        ({"goal_x": [0.0, None], "goal_y": 0.0}, "must be a number, got None"),
        ({"goal_x": [0.0, 0.5], "goal_y": 0.0}, "the column goal_x has 2 values for 1 slots"),
        ({1: 0.0}, "has no task parameter 1"),
        (np.array(2.0), "must be a row number"),
        (np.array(True), "must be a row number"),
        (np.array([[1, 2]]), "must be a row number"),
        ([None], "must be a row number, a mapping of parameters or a Task, got None"),
        (2**70, "task 1180591620717411303424 does not exist"),
        (SWITCH, "does not fit PointRobot-v0, whose parameters are goal_x, goal_y"),
        (replace(REACH, family="SparsePointRobot-v0"), "does not fit PointRobot-v0"),
        (replace(REACH, index=3), "do not fit together: row 3 of the split 'test' has the context"),
        (replace(REACH, split="ood"), "do not fit together: row 2 of the split 'ood'"),
        (replace(REACH, split="tets"), "unknown split 'tets' of PointRobot-v0; did you mean 'test'"),
        (replace(REACH, index=99), "task 99 does not exist"),
        (replace(REACH, index=1.5), "the index of a task is a row number, or -1 off the table, got 1.5"),
        (replace(REACH, context=(0.0, None)), "does not fit PointRobot-v0"),
        (replace(REACH, context=None), "does not fit PointRobot-v0"),
        (replace(REACH, split="fresh", index=0), "the split 'fresh' of PointRobot-v0 has no table"),
    ],
)
@pytest.mark.parametrize("vectorised", [False, True])
def test_what_is_no_task(task, words, vectorised):
    env = make_vec("PointRobot-v0", 1, split="test") if vectorised else make("PointRobot-v0", split="test")
    before = env.reset(seed=0)[1]["task_id"]
    with pytest.raises(ValueError, match=words) as caught:
        env.reset(seed=1, options={"task": task})
    assert "\n" not in str(caught.value)
    task = env.tasks[0] if vectorised else env.task
    assert task.index == before and task.context == spec("PointRobot-v0").table().fixed("test")[task.index].context


@pytest.mark.parametrize("seed", [-1, 7.0, np.float32(7), "7", True, np.True_, [7], np.array([7]), {"seed": 7}, 1j])
def test_what_is_no_seed(seed):
    env = make("PointRobot-v0")
    with pytest.raises(ValueError, match="seed must be a non-negative integer, got"):
        env.reset(seed=seed)


@pytest.mark.parametrize(
    "seed",
    [
        *(-1, 7.0, "78", True, [7, 7.9], [7, None], [True, False], [7, 8, 9], {7: 8, 9: 10}),
        *(np.zeros(2), np.array([1, -1]), np.ones((2, 1), int), np.array(7.0)),
    ],
)
def test_what_are_no_seeds(seed):
    env = make_vec("PointRobot-v0", 2)
    with pytest.raises(ValueError, match="seed must be one non-negative integer or 2 of them, got"):
        env.reset(seed=seed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reset_mask": np.array([True, False])}, "must be 3 booleans, at least one of them True"),
        ({"reset_mask": np.array([1, 0, 1])}, "must be 3 booleans"),
        ({"reset_mask": np.zeros(3, bool)}, "at least one of them True"),
        ({"task": {"goal_x": [0.0, 0.1], "goal_y": 0}}, "the column goal_x has 2 values for 3 slots"),
        ([("task", 1)], "options must be a mapping"),
    ],
)
def test_options_of_vector_environments(options, words):
    env = make_vec("PointRobot-v0", 3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.reset(options=options)


def test_a_mask_needs_something_to_leave_alone():
    mask = np.array([True, False, True])
    with pytest.raises(ValueError, match="the first reset begins an episode in every slot"):
        make_vec("PointRobot-v0", 3).reset(seed=0, options={"reset_mask": mask})
    with pytest.raises(ValueError, match="unknown reset option 'reset_mask'; available: task"):
        make("PointRobot-v0").reset(seed=0, options={"reset_mask": np.array([True])})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"split": None}, "unknown split None of PointRobot-v0; available: train, test, ood, fresh"),
        ({"split": ["test"]}, "unknown split"),
        ({"episodes_per_task": True}, "must be a whole number of at least 1, got True"),
        ({"episodes_per_task": "2"}, "got '2'"),
        ({"episodes_per_task": np.array([2])}, "must be a whole number"),
        ({"sessions": "geometric"}, "sessions are described by a mapping"),
        ({"sessions": {}}, "unknown kind of sessions None"),
        ({"max_episode_steps": 5.0}, "must be 1 to 20, got 5.0"),
        ({"max_episode_steps": True}, "must be 1 to 20, got True"),
    ],
)
def test_arguments_of_other_types(given, words):
    with pytest.raises(ValueError, match=words):
        make("PointRobot-v0", **given)
    with pytest.raises(ValueError, match=words):
        make_vec("PointRobot-v0", 2, **given)


def test_arguments_of_vector_environments():
    for mode in ("Disabled", AutoresetMode.DISABLED, "next", None):
        with pytest.raises(ValueError, match=r"unknown autoreset_mode .*available: SameStep, NextStep"):
            make_vec("PointRobot-v0", 2, autoreset_mode=mode)
    for count in (2.0, True, "2", None, 0, -1):
        with pytest.raises(ValueError, match="num_envs must be at least 1, got"):
            make_vec("PointRobot-v0", count)
    assert make_vec("PointRobot-v0", np.int32(2)).num_envs == 2


def test_numpys_numbers_are_numbers():
    sessions = {"kind": "geometric", "p": np.float32(0.25)}
    env = gym.make("metabench/PointRobot-v0", episodes_per_task=np.uint8(2), sessions=sessions)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.episodes_per_task == 2 and again.spec.kwargs["sessions"] == {"kind": "geometric", "p": 0.25}
    fixed = make_vec("PointRobot-v0", 2, sessions={"kind": "fixed", "length": np.array(3)})
    fixed.reset(seed=0)
    assert [fixed.step(np.zeros((2, 2)))[4]["session_ended"][0] for _ in range(6)] == [False, False, True] * 2


@pytest.mark.parametrize("action", [[[0.1], [0.1, 0.2]], object(), {"x": 1}, np.array([0.1, None]), ["0.1", "0.2"]])
def test_what_is_no_action(action):
    env = make("PointRobot-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions must"):
        env.step(action)
    assert env._trials.simulator.elapsed[0] == 0


@pytest.mark.parametrize("action", [np.True_, np.array(True), np.array(1.0), 2**70, np.float16(1), np.array([True])])
def test_what_is_no_discrete_action(action):
    env = make("GridSwitch-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)
    assert env._trials.simulator.elapsed[0] == 0
