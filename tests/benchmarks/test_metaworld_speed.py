"""Speed of the Meta-World families through the public vector environment, rewards, infos and autoreset included.

Every number is a ratio against a reference timed in the same run: the same physics as a loop of five `mj_step` and the
`mj_forward` that Meta-World's step needs, on one core (the limit); Meta-World's own Python; envpool's C++ port where it
is installed. Wants a quiet machine with two cores.
"""

import copy
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
from metabench.physics.metaworld.models import starts

pytestmark = pytest.mark.benchmark
SLOTS, STEPS = 64, 40  # of a round
WORK = SLOTS * STEPS
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


def tasks_and_actions(id, count, steps):
    """Training tasks, evenly over the table, and random actions `[steps, count, 4]`."""
    size = metabench.spec(id).table().size("train")
    rows = np.arange(count) * size // count
    return rows, np.random.default_rng(0).uniform(-1, 1, (steps, count, 4)).astype(np.float32)


def ours(id, count, threads, steps=STEPS):
    """The first steps of `count` slots as a function, their reset included."""
    env = copy.deepcopy(metabench.make_vec(id, count))  # with a family, and so with threads, of its own
    env.family.threads = threads
    rows, actions = tasks_and_actions(id, count, steps)
    env.reset(seed=0, options={"task": rows})

    def run():
        env.reset(options={"task": rows})
        for action in actions:
            env.step(action)

    return run


def raw(id, count, steps=STEPS):
    """The same physics, the same trajectories, on one core: what a step cannot do without."""
    env = metabench.make_vec(id, count)
    rows, actions = tasks_and_actions(id, count, steps)
    env.reset(seed=0, options={"task": rows})
    simulator, kind, runs = env._trials.simulator, mujoco.mjtState.mjSTATE_INTEGRATION, []
    prepared, names = env.family.prepared(simulator.context), env.family.names
    for slot, start in enumerate(prepared.starts):
        scene = starts().scene(names[int(prepared.kind[slot])])
        place, places = scene.env.hand_init_pos.astype(np.float64), []
        for action in actions[:, slot]:
            place = np.clip(place + np.clip(action[:3], -1, 1) * 0.01, scene.env.mocap_low, scene.env.mocap_high)
            places.append(place)
        runs.append((scene.model, mujoco.MjData(scene.model), start, places, actions[:, slot, 3:] * [1.0, -1.0]))

    def run():
        for model, data, start, places, controls in runs:
            for field, values in start.keep[1].items():
                getattr(model, field)[:] = values
            mujoco.mj_setState(model, data, start.state, kind)
            mocap, control = data.mocap_pos[0], data.ctrl
            for place, effort in zip(places, controls, strict=True):
                mocap[:] = place
                control[:] = effort
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
    id = f"MetaWorld-{camel(name)}-v0"
    runs = {"raw": raw(id, SLOTS)}
    for threads in (1, 2):
        runs[f"N=64, {threads} threads"] = ours(id, SLOTS, threads)
    seconds = interleaved(runs, rounds=5)
    ratios = {label: seconds["raw"] / s for label, s in seconds.items() if label != "raw"}
    benchmark.extra_info.update({label: round(r, 2) for label, r in ratios.items()})
    print(f"\n{name}: one core {WORK / seconds['raw']:,.0f} steps/s;", {k: round(r, 2) for k, r in ratios.items()})
    benchmark.pedantic(runs["N=64, 1 threads"], rounds=1)
    assert ratios["N=64, 1 threads"] > 0.75
    if CORES >= 2:
        assert ratios["N=64, 2 threads"] > 0.75 * 2


def test_many_classes_at_once_against_the_limit(benchmark):
    """ML10: ten scenes in one batch."""
    id = "MetaWorld-ML10-v0"
    runs = {"raw": raw(id, SLOTS), "N=64, 2 threads": ours(id, SLOTS, 2)}
    seconds = interleaved(runs, rounds=5)
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
        "ours": ours("MetaWorld-Reach-v0", SLOTS, 2),
        "one of ours": ours("MetaWorld-Reach-v0", 1, 1, 256),
    }
    seconds = interleaved(ways, rounds=5)
    batch = seconds["Meta-World"] / 256 / (seconds["ours"] / WORK)
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
    _, actions = tasks_and_actions("MetaWorld-Reach-v0", SLOTS, STEPS)

    def theirs():  # goes on and on: a reset of theirs is a hundred steps
        for action in actions:
            env.step(action)

    ways = {"envpool": theirs, "ours": ours("MetaWorld-Reach-v0", SLOTS, 2)}
    seconds = interleaved(ways, rounds=5)
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
