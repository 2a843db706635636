"""Speed of the Meta-World families through the public vector environment, rewards, infos and autoreset included.

Every number is a ratio against a reference timed in the same run: the same physics as a loop of five `mj_step` and the
`mj_forward` that Meta-World's step needs, on one core (the limit); Meta-World's own Python; envpool's C++ port where it
is installed. Wants a quiet machine with two cores.
"""

import importlib.util
import os
import pickle

import metaworld
import mujoco
import numpy as np
import pytest
from interleaving import interleaved
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

import metabench
from metabench.physics.metaworld.classes import camel

pytestmark = pytest.mark.benchmark
WORK = 1280  # environment steps a round
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
CLASSES = ("reach", "pick-place", "sweep", "door-lock")


def plain(name):
    """Meta-World's environment with its first training task, reset."""
    cls = ALL_V3_ENVIRONMENTS[f"{name}-v3"]
    env, row = cls(), metabench.spec(f"MetaWorld-{camel(name)}-v0").table().rows["train"][0]
    data = pickle.dumps({"rand_vec": row, "env_cls": cls, "partially_observable": True})
    env.set_task(metaworld.Task(env_name=f"{name}-v3", data=data))
    env.max_path_length = 2**62
    env.reset()
    return env


def ours(id, count, threads, work=WORK):
    """Vector steps of `count` slots as a function."""
    env = metabench.make_vec(id, count)
    env.family.threads = threads
    env.family.batch._steppers.clear()
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(16)]
    env.step(actions[0])  # makes the stepper with these threads

    def run():
        for k in range(max(1, work // count)):
            env.step(actions[k % 16])

    return run


def raw(names, work=WORK):
    """The same physics on one core: one slot's trajectory of each class under random actions."""
    envs = [plain(name) for name in names]
    actions = np.random.default_rng(0).uniform(-1, 1, (work, 4))
    starts = []
    for env in envs:
        row = np.zeros(mujoco.mj_stateSize(env.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(env.model, env.data, row, mujoco.mjtState.mjSTATE_INTEGRATION)
        starts.append(row)

    def run():
        for start, env in zip(starts, envs, strict=True):
            model, data = env.model, env.data
            mujoco.mj_setState(model, data, start, mujoco.mjtState.mjSTATE_INTEGRATION)
            for action in actions[: work // len(envs)]:
                data.mocap_pos[0] = np.clip(data.mocap_pos[0] + 0.01 * action[:3], env.mocap_low, env.mocap_high)
                data.ctrl[:] = action[3], -action[3]
                mujoco.mj_step(model, data, nstep=5)
                mujoco.mj_forward(model, data)

    return run


def python(name, work):
    """Meta-World's own steps."""
    env = plain(name)
    actions = np.random.default_rng(0).uniform(-1, 1, (work, 4)).astype(np.float32)

    def run():
        for action in actions:
            env.step(action)

    return run


@pytest.mark.parametrize("name", CLASSES)
def test_against_the_limit(benchmark, name):
    """At N = 64: two threads reach most of twice the one-core loop."""
    runs = {"raw": raw([name])}
    for threads in (1, 2):
        runs[f"N=64, {threads} threads"] = ours(f"MetaWorld-{camel(name)}-v0", 64, threads)
    seconds = interleaved(runs, rounds=7)
    ratios = {label: seconds["raw"] / s for label, s in seconds.items() if label != "raw"}
    benchmark.extra_info.update({label: round(r, 2) for label, r in ratios.items()})
    print(f"\n{name}: one core {WORK / seconds['raw']:,.0f} steps/s;", {k: round(r, 2) for k, r in ratios.items()})
    benchmark.pedantic(runs["N=64, 1 threads"], rounds=1)
    assert ratios["N=64, 1 threads"] > 0.75
    if CORES >= 2:
        assert ratios["N=64, 2 threads"] > 0.75 * 2


def test_many_classes_at_once_against_the_limit(benchmark):
    """ML10: ten scenes in one batch."""
    table = metabench.spec("MetaWorld-ML10-v0").family()
    runs = {"raw": raw(table.names[:10]), "N=64, 2 threads": ours("MetaWorld-ML10-v0", 64, 2)}
    seconds = interleaved(runs, rounds=7)
    ratio = seconds["raw"] / seconds["N=64, 2 threads"]
    benchmark.extra_info["times the one-core loop"] = round(ratio, 2)
    print(f"\nML10: {ratio:.2f} times the one-core loop")
    benchmark.pedantic(runs["N=64, 2 threads"], rounds=1)
    if CORES >= 2:
        assert ratio > 0.7 * 2


def test_against_metaworld(benchmark):
    """Two threads against Meta-World's Python, which uses one; and one environment against one."""
    ways = {
        "Meta-World": python("reach", 256),
        "ours": ours("MetaWorld-Reach-v0", 64, 2, 1280),
        "one of ours": ours("MetaWorld-Reach-v0", 1, 1, 256),
    }
    seconds = interleaved(ways, rounds=7)
    batch = seconds["Meta-World"] / 256 / (seconds["ours"] / 1280)
    single = seconds["Meta-World"] / seconds["one of ours"]
    benchmark.extra_info.update({"batch": round(batch, 2), "single": round(single, 2)})
    print(f"\nMeta-World {256 / seconds['Meta-World']:,.0f} steps/s; ours {batch:.2f} times, one of ours {single:.2f}")
    benchmark.pedantic(ways["ours"], rounds=1)
    if CORES >= 2:
        assert batch > 5
    assert single > 1.5


@pytest.mark.skipif(importlib.util.find_spec("envpool") is None, reason="envpool is not installed")
def test_against_envpool(benchmark):
    """Its C++ port of Meta-World, on the same two threads."""
    import envpool

    env = envpool.make_gymnasium("MetaWorld/Reach-v3", num_envs=64, num_threads=2)
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (WORK // 64, 64, 4)).astype(np.float32)

    def theirs():
        for action in actions:
            env.step(action)

    ways = {"envpool": theirs, "ours": ours("MetaWorld-Reach-v0", 64, 2)}
    seconds = interleaved(ways, rounds=7)
    ratio = seconds["envpool"] / seconds["ours"]
    benchmark.extra_info["ratio"] = round(ratio, 2)
    print(f"\nenvpool {WORK / seconds['envpool']:,.0f} steps/s; ours {ratio:.2f} times")
    benchmark.pedantic(ways["ours"], rounds=1)
    assert ratio > 1.3


def test_resets(benchmark):
    """A reset to a known task against Meta-World's, which plays about a hundred steps."""
    reference = plain("reach")
    env = metabench.make_vec("MetaWorld-Reach-v0", 64)
    batches = [np.random.default_rng(k).integers(50, size=64) for k in range(8)]
    for rows in batches:
        env.reset(seed=0, options={"task": rows})
    slots = np.arange(64)

    def ours_all():
        for rows in batches:
            env._trials.restart(slots, env._trials.table.batch("train", rows))

    def theirs():
        for _ in range(4):
            reference.reset()

    seconds = interleaved({"Meta-World": theirs, "ours": ours_all}, rounds=7)
    each, known = seconds["Meta-World"] / 4, seconds["ours"] / (64 * len(batches))
    benchmark.extra_info["ratio"] = round(each / known)
    print(f"\nMeta-World's reset {1e3 * each:.2f} ms, ours {1e6 * known:.1f} us a slot: {each / known:.0f} times")
    benchmark.pedantic(ours_all, rounds=1)
    assert each / known > 200
