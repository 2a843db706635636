"""MuJoCo families: equal to Gymnasium's environments and to `mj_step`, bit for bit; safe when the physics is not."""

import gc
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys

import gymnasium as gym
import mujoco
import numpy as np
import pytest

import metabench
from metabench import SlotRng, make, make_vec, spec
from metabench.drift import Constant
from metabench.families.ant import AntDir
from metabench.families.cheetah import CheetahVel
from metabench.families.hopper import HopperParam
from metabench.families.humanoid import HumanoidDir
from metabench.families.reacher import ReacherGoal
from metabench.families.walker import WalkerParam
from metabench.family import DivergenceWarning
from metabench.physics.threads import THREADS_VARIABLE, default_threads
from metabench.plugins import load_plugin
from metabench.simulator import FunctionalSimulator
from metabench.tasks import TaskBatch

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
SLOTS, STEPS = 8, 200


class PlainHopper(HopperParam):
    """The hopper with Gymnasium's own time step."""

    timestep, dt = None, 0.008


class PlainWalker(WalkerParam):
    """The walker likewise."""

    timestep, dt = None, 0.008


def twin(env, physics_row, nq, nv):
    """Puts Gymnasium's environment where a slot of ours starts, as its own reset does."""
    env.reset(seed=0)
    mujoco.mj_resetData(env.model, env.data)
    env.set_state(physics_row[1 : 1 + nq].copy(), physics_row[1 + nq : 1 + nq + nv].copy())


def simulate(family, values):
    tasks = TaskBatch(np.full(len(values), -1), values)
    return FunctionalSimulator(family, Constant(), tasks, SlotRng.from_seeds(range(len(values))))


def full_state(env):
    row = np.zeros(mujoco.mj_stateSize(env.model, STATE))
    mujoco.mj_getState(env.model, env.data, row, STATE)
    return row


CASES = [
    ("HalfCheetah-v5", CheetahVel, np.linspace(0, 3, SLOTS)[:, None], {}),
    ("Ant-v5", AntDir, np.linspace(0, 6, SLOTS)[:, None], {"terminate_when_unhealthy": False}),
    ("Hopper-v5", PlainHopper, np.zeros((SLOTS, 41)), {"terminate_when_unhealthy": False}),
    ("Humanoid-v5", HumanoidDir, np.linspace(0, 6, SLOTS)[:, None], {"terminate_when_unhealthy": False}),
    ("Reacher-v5", ReacherGoal, np.linspace(0, 1, 2 * SLOTS).reshape(SLOTS, 2), {}),
    ("Walker2d-v5", PlainWalker, np.zeros((SLOTS, 65)), {"terminate_when_unhealthy": False}),
]


def expected_reward(name, env, info, action, value):
    """Our reward from the terms that Gymnasium reports for the same step."""
    cost = np.sum(np.square(action))
    if name == "HalfCheetah-v5":
        return -np.abs(info["x_velocity"] - value[0]) - 0.05 * cost
    if name == "Ant-v5":
        along = info["x_velocity"] * np.cos(value[0]) + info["y_velocity"] * np.sin(value[0])
        return along - 0.5 * cost - env.contact_cost + 1.0
    if name == "Reacher-v5":
        return info["reward_dist"] + info["reward_ctrl"]
    if name == "Humanoid-v5":
        along = info["x_velocity"] * np.cos(value[0]) + info["y_velocity"] * np.sin(value[0])
        impact = min(0.5e-6 * np.square(env.data.cfrc_ext).sum(), 10.0)
        return 1.25 * along - 0.1 * cost - impact + 5.0
    return info["x_velocity"] + 1.0 - 1e-3 * cost


def observed_alike(name, env, ours):
    """The columns of our observation that Gymnasium's has too, and Gymnasium's."""
    theirs = env._get_obs()
    if name == "HalfCheetah-v5":
        assert np.array_equal(ours[17:], env.get_body_com("torso"))
        return ours[:17], theirs
    if name == "Reacher-v5":
        fingertip = env.get_body_com("fingertip")[:2]
        return ours, np.concatenate([theirs[:4], theirs[6:8], fingertip])
    return ours, theirs[: len(ours)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("name", "kind", "values", "kwargs"), CASES, ids=[c[0] for c in CASES])
def test_equal_to_gymnasium_for_200_steps(name, kind, values, kwargs, threads):
    """State and observation: difference 0.0. Rewards too, but where sums of many forces have another order: 1e-12."""
    family = kind()
    family.threads = threads
    simulator = simulate(family, values)
    twins = [gym.make(name, **kwargs).unwrapped for _ in range(SLOTS)]
    for env, row in zip(twins, simulator.state.physics, strict=True):
        twin(env, row, family.model.nq, family.model.nv)
        assert np.array_equal(full_state(env), row)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, SLOTS, family.model.nu)).astype(np.float32)
    exact = 0
    for action in actions:
        outcome = simulator.step(action)
        for slot, env in enumerate(twins):
            *_, info = env.step(action[slot])
            assert np.array_equal(full_state(env), simulator.state.physics[slot])
            ours, theirs = observed_alike(name, env, outcome.observation[slot])
            assert np.array_equal(ours, theirs)
            reward = expected_reward(name, env, info, action[slot], values[slot])
            assert outcome.reward[slot] == pytest.approx(reward, rel=0, abs=1e-12)
            exact += outcome.reward[slot] == reward
    if name in ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"):
        assert exact == STEPS * SLOTS


@pytest.mark.parametrize("kind", [HopperParam, WalkerParam])
def test_changed_bodies_equal_a_model_set_by_hand(kind):
    """Every slot has a body of its own; each equals `mj_step` on a model with the same numbers written into it."""
    family, rng = kind(), np.random.default_rng(3)
    count = sum(int(np.prod(shape)) for shape in family.sizes.values())
    values = rng.uniform(-3, 3, (SLOTS, count))
    simulator = simulate(family, values)
    models, datas = [], []
    for row, physics in zip(values, simulator.state.physics, strict=True):
        model, start = kind().model, 0
        for name, shape in family.sizes.items():
            base = 1.3 if name == "dof_damping" else 1.5
            size = int(np.prod(shape))
            field = getattr(model, name)
            field[:] = field * np.power(base, row[start : start + size]).reshape(shape)
            start += size
        mujoco.mj_setConst(model, mujoco.MjData(model))
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = physics[1 : 1 + model.nq], physics[1 + model.nq : 1 + model.nq + model.nv]
        mujoco.mj_forward(model, data)
        models.append(model)
        datas.append(data)
    for action in rng.uniform(-1, 1, (100, SLOTS, family.model.nu)):
        simulator.step(action)
        for slot, (model, data) in enumerate(zip(models, datas, strict=True)):
            data.ctrl[:] = action[slot]
            mujoco.mj_step(model, data, nstep=4)
            assert np.array_equal(data.qpos, simulator.state.qpos[slot])
            assert np.array_equal(data.qvel, simulator.state.qvel[slot])


def test_a_changed_mass_changes_what_follows_from_it():
    family = HopperParam()
    heavy = family.context_type(*(np.array([3.0 if i < 5 else 0.0]) for i in range(41)))
    model, base = family.model_of(heavy), family.model
    factor = 1.5**3
    assert np.allclose(model.body_mass, factor * base.body_mass)
    assert np.allclose(model.body_subtreemass, factor * base.body_subtreemass)
    assert not np.allclose(model.dof_invweight0, base.dof_invweight0)
    assert family.model_of(heavy) is model, "one model per context"
    assert base.body_mass[1] == HopperParam().model.body_mass[1], "the base model must stay as it was"


@pytest.mark.parametrize("id", ["CheetahVel-v0", "AntDir-v0", "HopperParam-v0"])
def test_rows_do_not_depend_on_batch_or_threads(id, monkeypatch):
    """B = 1 equals every row of B = 64, on one thread and on two, bit for bit."""

    def play(threads, count):
        monkeypatch.setattr(type(spec(id).family()), "threads", threads)
        spec(id).family()._steppers.clear()
        env = make_vec(id, count)
        record = [env.reset(seed=4)[0]]
        actions = np.random.default_rng(1).uniform(-1, 1, (60, 64, *env.single_action_space.shape))
        for action in actions:
            record += env.step(action[:count])[:2]
        return record

    wide = play(1, 64)
    for threads, count in ((2, 64), (1, 1), (2, 17)):
        for a, b in zip(play(threads, count), wide, strict=True):
            assert np.array_equal(a, b[:count])
    spec(id).family()._steppers.clear()


def test_models_outlive_the_cache(monkeypatch):
    """More bodies than the cache holds, and sessions that change them: every slot still has its own model."""
    from metabench.physics.mujoco import family as module

    sessions = {"kind": "geometric", "p": 0.2}
    few, many = (make_vec("HopperParam-v0", 12, split="fresh", sessions=sessions) for _ in range(2))
    record = []
    size = mujoco.mj_sizeModel(few.family.model)
    for env, limit in ((few, 5 * size), (many, module.MODEL_BYTES)):
        monkeypatch.setattr(module, "MODEL_BYTES", limit)
        env.family._models.clear()
        env.family._model_bytes = 0
        env.reset(seed=0)
        record.append([env.step(np.full((12, 3), 0.5))[0] for _ in range(60)])
        held = sum(mujoco.mj_sizeModel(model) for model in env.family._models.values())
        assert held == env.family._model_bytes <= limit and len(env.family._models) > 1
    assert all(np.array_equal(a, b) for a, b in zip(*record, strict=True))
    few._trials.simulator.context = many._trials.simulator.context = None
    gc.collect()
    assert len(many.family._known) <= 1, "entries of contexts that are gone must go too"


def test_contact_forces_do_not_leak_between_slots():
    """A reset slot has no contact forces, although its thread's mjData was used by others."""
    env = make_vec("AntDir-v0", 4)
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.ones((4, 8)))
    state = env._trials.simulator.state
    family = env.family
    assert (family.external_forces(state) != 0).any()
    env.reset(seed=1)
    assert (family.external_forces(env._trials.simulator.state) == 0).all()


def race(env, slot, velocity=1e11, dof=0):
    """Sets a slot's velocity beyond what MuJoCo takes, as a diverging simulation does before it fails."""
    simulator = env._trials.simulator
    physics = simulator.state.physics.copy()
    physics[slot, 1 + env.family.model.nq + dof] = velocity
    simulator.state = simulator.state._replace(physics=physics)


def test_divergence_ends_the_slots_episode_and_spares_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log file where it stands
    env, twin_env = (make_vec("CheetahVel-v0", 4, split="test") for _ in range(2))
    for e in (env, twin_env):
        e.reset(seed=0, options={"task": [0, 1, 2, 3]})
        e.step(np.zeros((4, 6)))
    race(env, 2)
    with pytest.warns(DivergenceWarning, match=r"simulation of slot 2 diverged \(task speed=1\.027"):
        observation, reward, terminated, truncated, info = env.step(np.zeros((4, 6)))
    expected = twin_env.step(np.zeros((4, 6)))
    assert terminated.tolist() == info["diverged"].tolist() == [False, False, True, False] and not truncated.any()
    assert info["_final_obs"].tolist() == terminated.tolist() and info["episode_in_trial"].tolist() == [0, 0, 1, 0]
    assert np.isfinite(observation).all() and np.isfinite(reward).all() and np.isfinite(info["final_obs"]).all()
    others = [0, 1, 3]
    assert np.array_equal(observation[others], expected[0][others])
    for _ in range(5):
        ours, theirs = (e.step(np.full((4, 6), 0.3)) for e in (env, twin_env))
        assert np.array_equal(ours[0][others], theirs[0][others]) and np.array_equal(ours[1][others], theirs[1][others])
        assert not ours[4]["diverged"].any() and np.isfinite(ours[0]).all()


@pytest.mark.parametrize(("steps", "dof", "velocity"), [(1, 0, 1e11), (0, 1, -9e9)], ids=["at once", "a frame later"])
def test_divergence_ends_a_single_episode(steps, dof, velocity, tmp_path, monkeypatch):
    """Also in an episode's first step, where a clock that was reset has not gone back."""
    monkeypatch.chdir(tmp_path)
    env = make("HopperParam-v0", split="test")
    env.reset(seed=0)
    for _ in range(steps):
        env.step(np.zeros(3))
    race(env, 0, velocity, dof)
    with pytest.warns(DivergenceWarning, match="slot 0 diverged"):
        *_, terminated, truncated, info = env.step(np.ones(3))
    assert terminated and not truncated and info["diverged"]
    env.reset()
    assert not env.step(np.zeros(3))[4]["diverged"]


def test_a_diverging_agent_has_no_score(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = CheetahVel._run

    def run(self, context, physics, control, frame_skip):
        if frame_skip and physics[0, 0] > 0.2:
            physics = physics.copy()
            physics[1, 10] = 1e11
        return real(self, context, physics, control, frame_skip)

    monkeypatch.setattr(CheetahVel, "_run", run)
    agent = load_plugin("zero").build("CheetahVel-v0", "test", 0)
    with (
        pytest.warns(DivergenceWarning),
        pytest.raises(ValueError, match=r"no score: .* simulation of task 0 diverged"),
    ):
        metabench.evaluate(agent, "CheetahVel-v0", split="test")


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_bodies_stay_finite(count):
    """Extreme bodies under random actions: none diverges in 100 steps."""
    for id, split in (("HopperParam-v0", "fresh"), ("WalkerParam-v0", "fresh")):
        env = make_vec(id, count, split=split)
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(100):
            observation, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(observation).all() and np.isfinite(reward).all()


def test_environments_survive_pickle_fork_and_exit():
    env = make_vec("CheetahVel-v0", 16)
    env.reset(seed=0)
    env.step(np.zeros((16, 6)))
    child = pickle.loads(pickle.dumps(env))
    expected = env.step(np.ones((16, 6)))[0]
    assert np.array_equal(child.step(np.ones((16, 6)))[0], expected)
    if hasattr(os, "fork"):
        code = (
            "import os, sys, warnings, numpy as np, metabench; warnings.simplefilter('ignore')\n"
            "env = metabench.make_vec('CheetahVel-v0', 16); env.reset(seed=0); env.step(np.zeros((16, 6)))\n"
            "pid = os.fork()\n"
            "rows = env.step(np.ones((16, 6)))[0]\n"  # helper threads do not exist in the child
            "os.write(1, (rows.sum().hex() + chr(10)).encode())\n"
            "if pid: assert os.waitpid(pid, 0)[1] == 0\n"
            "else: os._exit(0)\n"
        )
        lines = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120).split()
        assert len(lines) == 2 and lines[0] == lines[1]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_asynchronous_vector_environments(context):
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"there is no {context} here")
    keywords = {"context": context}
    env = gym.make_vec("metabench/CheetahVel-v0", 2, vectorization_mode="async", vector_kwargs=keywords)
    native = make_vec("CheetahVel-v0", 2)
    assert np.array_equal(env.reset(seed=3)[0], native.reset(seed=3)[0])
    assert np.array_equal(env.step(np.ones((2, 6), np.float32))[1], native.step(np.ones((2, 6), np.float32))[1])
    env.close()


def test_sessions_change_the_target_on_the_way():
    env = make_vec("CheetahVelSwitch-v0", 64, expose_task=True)
    observation, _ = env.reset(seed=0)
    switches = 0
    for _ in range(150):
        before, (observation, *_, info) = observation, env.step(np.zeros((64, 6)))
        changed = before[:, -1] != observation[:, -1]
        assert not (changed & ~info["session_ended"]).any()
        switches += changed.sum()
    assert abs(switches / (150 * 64) - 0.02 * 44 / 45) < 0.005  # one of the 45 tasks may follow itself


def test_wind_is_a_force_on_the_torso():
    """The batched step equals mj_step with the session's force written into xfrc_applied."""
    env = make_vec("CheetahWindVelSwitch-v0", 3, sessions={"kind": "fixed", "length": 7, "count": ["passed"]})
    env.reset(seed=0, options={"task": [0, 1, 2]})
    simulator, model = env._trials.simulator, env.family.model
    datas = [mujoco.MjData(model) for _ in range(3)]
    for data, row in zip(datas, simulator.state.physics, strict=True):
        mujoco.mj_setState(model, data, row, STATE)
    first = spec("CheetahWindVelSwitch-v0").table().rows["train"][:3, 0]
    for t in range(40):
        number = first + t // 7
        action = np.random.default_rng(t).uniform(-1, 1, (3, 6)).astype(np.float32)
        speed_before = simulator.state.qpos[:, 0].copy()
        _, reward, *_ = env.step(action)
        for slot, data in enumerate(datas):
            data.ctrl[:] = action[slot]
            data.xfrc_applied[model.body("torso").id, 0] = 10 * np.sin(0.2 * number[slot])
            mujoco.mj_step(model, data, nstep=5)
            assert np.array_equal(data.qpos, simulator.state.qpos[slot])
        speed = (simulator.state.qpos[:, 0] - speed_before) / 0.05
        target = 1.5 + 1.5 * np.sin(0.5 * number)
        assert np.allclose(reward, -abs(speed - target) - 0.05 * (action**2).sum(axis=1), atol=1e-12)


def test_bad_input(monkeypatch):
    env = make("CheetahVel-v0")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.full(6, np.nan))
    with pytest.raises(ValueError, match=r"shape \(1, 6\), got \(1, 5\)"):
        env.step(np.zeros(5))
    with pytest.raises(ValueError, match=r"speed=9 is outside what CheetahVel-v0 allows: 0 to 4\.5 m/s"):
        env.reset(options={"task": {"speed": 9.0}})
    with pytest.raises(ValueError, match=r"direction must be \+1 or -1"):
        make("CheetahDir-v0").reset(options={"task": {"direction": 0}})
    monkeypatch.setenv(THREADS_VARIABLE, "none")
    with pytest.raises(ValueError, match="METABENCH_THREADS must be a whole number of at least 1, got 'none'"):
        default_threads()


def test_listing_needs_no_simulator():
    code = "import sys, metabench; metabench.specs(); assert not {'mujoco', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_published_tables():
    """Rows 45 to 49 as read in the published task lists (rounded there)."""
    speeds = metabench.spec("CheetahVel-v0").table().rows["test"][:, 0]
    assert np.allclose(speeds, [2.10655, 1.24210, 1.02704, 1.78778, 0.59959], atol=1e-5)
    angles = metabench.spec("AntDir-v0").table().rows["test"][:, 0]
    assert np.allclose(angles, [2.1510, 3.7443, 1.2558, 0.6267, 4.6156], atol=1e-4)


@pytest.fixture
def display():
    """A display nobody sees, where Xvfb is installed."""
    if not shutil.which("Xvfb"):
        pytest.skip("Xvfb is not installed: no display to open windows on")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-noreset", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


def test_windows(display):
    """One window for all of a family's bodies; closed, it is gone."""
    code = (
        "import gymnasium as gym, numpy as np, metabench\n"
        "env = gym.make('metabench/HopperParam-v0', render_mode='human', split='test')\n"
        "env.reset(seed=0, options={'task': 0})\n"
        "screen = env.unwrapped.family._screens['human']\n"
        "for _ in range(3): env.step(np.ones(3, np.float32))\n"
        "assert env.unwrapped.family._screens['human'] is screen\n"
        "env.reset(options={'task': 1})\n"
        "assert env.unwrapped.family._screens['human'] is screen and screen.contexts == 1\n"
        "env.close()\n"
        "assert not env.unwrapped.family._screens\n"
        "print('shown')"
    )
    environment = {**os.environ, "DISPLAY": display, "MUJOCO_GL": "glfw"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("shown"), done.stderr


def test_no_display_is_told(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    env = make("CheetahVel-v0", render_mode="human")
    with pytest.raises(ValueError, match="no display to open a window on: use render_mode='rgb_array'"):
        env.reset(seed=0)
    env = make("CheetahVel-v0", render_mode="rgb_array")
    env.reset(seed=0)
    if sys.platform == "linux":
        with pytest.raises(ValueError, match="start Python with MUJOCO_GL=egl"):
            env.render()
    with pytest.raises(ValueError, match=r"unknown render_mode 'human'; .* gymnasium\.wrappers\.HumanRendering"):
        make("PointRobot-v0", render_mode="human")
