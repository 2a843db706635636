"""Speed of ScratchItch through the public vector environment, against raw `mj_step` and Assistive Gym's figure."""

import os

import mujoco
import numpy as np
import pytest
from interleaving import interleaved

import metabench
from metabench import Timestep
from metabench.yardsticks.scratch_itch import itch_filter, oracle

pytestmark = pytest.mark.benchmark
ID, WORK = "ScratchItch-v0", 1280  # environment steps a round
ASSISTIVE_GYM = 350  # steps/s of its ScratchItchJaco-v1, one process, measured on a comparable core
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def batch(count, threads):
    """An environment that steps on so many threads, and its actions."""
    env = metabench.make_vec(ID, count)
    family = type(env.family)()  # of its own, as its threads are
    family.threads = threads
    env._trials.family = env._face.family = family
    env.reset(seed=0)
    env.action_space.seed(0)
    return env, [env.action_space.sample() for _ in range(16)]


def ours(count, threads):
    env, actions = batch(count, threads)

    def run():
        for k in range(max(1, WORK // count)):
            env.step(actions[k % 16])

    return run


def raw(forward):
    """A C loop of `mj_step` x frame_skip on one core under random targets; with the `mj_forward` we add, or without."""
    family = metabench.spec(ID).family()
    model, data = family.model, mujoco.MjData(family.model)
    targets = np.random.default_rng(0).uniform(-0.25, 0.25, (WORK, 7))
    start = metabench.make_vec(ID, 1)
    start.reset(seed=0)
    state = start._trials.simulator.state.physics[0]

    def run():
        for k in range(WORK):
            if k % 200 == 0:
                mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
            data.ctrl[:] = data.qpos[4:] + targets[k]
            mujoco.mj_step(model, data, nstep=family.frame_skip)
            if forward:
                mujoco.mj_forward(model, data)

    return run


def test_against_the_limit_and_assistive_gym(benchmark):
    """At N = 64: most of the raw loop, and at least 20 times Assistive Gym on two cores."""
    runs = {"raw": raw(False), "raw + mj_forward": raw(True)}
    for count, threads in ((1, 1), (16, 1), (64, 1), (64, 2), (256, 2)):
        runs[f"N={count}, {threads} threads"] = ours(count, threads)
    seconds = interleaved(runs, rounds=9)
    ratios = {name: seconds["raw"] / s for name, s in seconds.items() if name != "raw"}
    rates = {name: WORK / s for name, s in seconds.items()}
    benchmark.extra_info |= {name: round(ratio, 2) for name, ratio in ratios.items()}
    benchmark.extra_info |= {f"steps/s, {name}": round(rate) for name, rate in rates.items()}
    benchmark.extra_info["times Assistive Gym"] = round(rates["N=64, 2 threads"] / ASSISTIVE_GYM, 1)
    benchmark.pedantic(runs["N=64, 2 threads"], rounds=3)
    print(f"\n{ID}: of raw on one core: {benchmark.extra_info}")
    assert ratios["N=64, 1 threads"] >= 0.75
    if CORES >= 2:
        assert ratios["N=64, 2 threads"] >= 2 * 0.6


def test_the_agents_by_hand(benchmark):
    """The controller and the filter cost no more than a few times the environment."""
    env = metabench.make_vec(ID, 64, expose_task=True)
    observation, _ = env.reset(seed=0)
    step = Timestep(
        observation,
        np.zeros((64, 7), np.float32),
        np.full(64, -0.2),
        np.zeros(64, dtype=bool),
        np.zeros_like(observation),
    )
    agents = {"oracle": oracle.build(ID, "test", 0), "itch-filter": itch_filter.build(ID, "train", 0)}
    runs = {name: lambda agent=agent: agent.act(step, agent.begin(64)) for name, agent in agents.items()}
    runs["environment"] = lambda: env.step(step.action)
    seconds = interleaved(runs, rounds=15)
    ratios = {name: seconds[name] / seconds["environment"] for name in agents}
    benchmark.extra_info |= {name: round(ratio, 2) for name, ratio in ratios.items()}
    benchmark(runs["oracle"])
    print(f"\ntimes a step of 64 environments: {ratios}")
    assert ratios["oracle"] < 3 and ratios["itch-filter"] < 20
