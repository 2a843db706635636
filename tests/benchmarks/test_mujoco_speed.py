"""Speed of the MuJoCo families through the public vector environment, rewards, autoreset and infos included.

Every number is a ratio against a reference timed in the same run: a C loop of `mj_step` x frame_skip on one core (the
limit), Gymnasium's Sync- and AsyncVectorEnv, and envpool where it is installed. Wants a quiet machine with two cores.
"""

import copy
import gc
import os

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from interleaving import interleaved
from metabench_agents.parts.layers import linear

import metabench

pytestmark = pytest.mark.benchmark
PEERS = {
    "CheetahVel-v0": "HalfCheetah-v5",
    "AntDir-v0": "Ant-v5",
    "HopperParam-v0": "Hopper-v5",
    "WalkerParam-v0": "Walker2d-v5",
}
ENVPOOL = {"CheetahVel-v0": "HalfCheetah-v4", "AntDir-v0": "Ant-v4"}
WORK = 2400  # environment steps a round
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def own(env, threads):
    """The environment with a family, and so with threads, of its own."""
    env = copy.deepcopy(env)
    env.family.threads = threads
    return env


def ours(id, count, threads, work=WORK):
    """Vector steps of `count` slots as a function."""
    env = own(metabench.make_vec(id, count), threads)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(16)]

    def run():
        for k in range(max(1, work // count)):
            env.step(actions[k % 16])

    return run


def raw(id, work=WORK):
    """The same physics as a C loop on one core: one slot's trajectory under random controls, reset as often as ours."""
    family = metabench.spec(id).family()
    context = family.context_type(*(np.zeros(1) for _ in family.parameters))
    model = family.model_of(context)
    data = mujoco.MjData(model)
    actions = np.random.default_rng(0).uniform(-1, 1, (work, model.nu)) * family.action_space.high

    def run():
        for k in range(work):
            if k % 200 == 0:
                mujoco.mj_resetData(model, data)
            data.ctrl[:] = actions[k]
            mujoco.mj_step(model, data, nstep=family.frame_skip)

    return run


@pytest.mark.parametrize("id", list(PEERS))
def test_against_the_limit(benchmark, id):
    """At N = 64: two threads reach most of twice the one-core loop, one thread nearly all of it."""
    runs = {"raw": raw(id)}
    for count in (16, 64):
        for threads in (1, 2):
            runs[f"N={count}, {threads} threads"] = ours(id, count, threads)
    seconds = interleaved(runs, rounds=9)
    ratios = {name: seconds["raw"] / s for name, s in seconds.items() if name != "raw"}
    benchmark.extra_info |= {name: round(ratio, 2) for name, ratio in ratios.items()}
    benchmark.extra_info["raw steps/s"] = round(WORK / seconds["raw"])
    benchmark.pedantic(runs["N=64, 2 threads"], rounds=3)
    print(f"\n{id}: of raw on one core: {benchmark.extra_info}")
    assert ratios["N=64, 1 threads"] >= 0.85
    if CORES >= 2:
        assert ratios["N=64, 2 threads"] >= 2 * 0.7
        assert ratios["N=16, 2 threads"] >= 2 * 0.6


@pytest.mark.parametrize(("id", "sync", "asynchronous"), [("CheetahVel-v0", 3.0, 10.0), ("AntDir-v0", 2.0, 2.0)])
def test_against_gymnasium(benchmark, id, sync, asynchronous):
    """At N = 16 against Gymnasium's own environments, vectorised by Gymnasium."""
    runs = {"ours": ours(id, 16, 2)}
    peers = {mode: gym.make_vec(PEERS[id], 16, vectorization_mode=mode) for mode in ("sync", "async")}
    for mode, env in peers.items():
        env.reset(seed=0)
        action = env.action_space.sample()
        steps = WORK // 16 if mode == "sync" else WORK // 64

        def run(env=env, action=action, steps=steps):
            for _ in range(steps):
                env.step(action)

        runs[mode] = run
    seconds = interleaved(runs, rounds=5)
    seconds["async"] *= 4
    for env in peers.values():
        env.close()
    ratios = {mode: seconds[mode] / seconds["ours"] for mode in peers}
    benchmark.extra_info |= {mode: round(ratio, 2) for mode, ratio in ratios.items()}
    benchmark.pedantic(runs["ours"], rounds=3)
    print(f"\n{id}: times Gymnasium's vector environments at N = 16: {benchmark.extra_info}")
    assert ratios["sync"] >= 0.8 * sync and ratios["async"] >= 0.5 * asynchronous


@pytest.mark.parametrize(("id", "goal"), [("CheetahVel-v0", 1.7), ("AntDir-v0", 1.4)])
def test_against_envpool(benchmark, id, goal):
    """On the same threads as envpool, if it is there (`pip install envpool`)."""
    try:
        import envpool
    except (ImportError, FileNotFoundError):  # it also fails where its Atari part is missing
        benchmark(lambda: None)
        pytest.skip("envpool is not installed, or does not load")
    env = envpool.make_gymnasium(ENVPOOL[id], num_envs=64, num_threads=2)
    env.reset()
    action = np.random.default_rng(0).uniform(-1, 1, (64, metabench.spec(id).family().action_space.shape[0]))

    def peer():
        for _ in range(WORK // 64):
            env.step(action)

    seconds = interleaved({"ours": ours(id, 64, 2), "envpool": peer}, rounds=9)
    ratio = seconds["envpool"] / seconds["ours"]
    benchmark.extra_info["times envpool"] = round(ratio, 2)
    benchmark.pedantic(peer, rounds=2)
    print(f"\n{id}: {ratio:.2f} times envpool {envpool.__version__}, N = 64, 2 threads")
    assert ratio >= 0.8 * goal


@pytest.mark.parametrize("id", [*PEERS, "HumanoidDir-v0", "ReacherGoal-v0"])
def test_single_environments(benchmark, id):
    """One environment by gym.make, against Gymnasium's own: not slower, 10 % of noise allowed."""
    family = metabench.spec(id).family()

    def stepper(env):
        env.reset(seed=0)
        env.action_space.seed(0)
        actions = [env.action_space.sample() for _ in range(16)]

        def run():
            for k in range(400):
                *_, terminated, truncated, _ = env.step(actions[k % 16])
                if terminated or truncated:
                    env.reset()

        return run

    keywords = {} if id in ("CheetahVel-v0", "ReacherGoal-v0") else {"terminate_when_unhealthy": False}
    name = {**PEERS, "HumanoidDir-v0": "Humanoid-v5", "ReacherGoal-v0": "Reacher-v5"}[id]
    peer = gym.make(name, max_episode_steps=family.horizon, **keywords)  # episodes as long as ours
    if family.timestep is not None:
        peer.unwrapped.model.opt.timestep = family.timestep
    runs = {"ours": stepper(gym.make(f"metabench/{id}")), "gymnasium": stepper(peer)}
    seconds = interleaved(runs, rounds=9)
    ratio = seconds["gymnasium"] / seconds["ours"]
    benchmark.extra_info["times Gymnasium"] = round(ratio, 2)
    benchmark.pedantic(runs["ours"], rounds=3)
    print(f"\n{id}: single environment, {ratio:.2f} times {name}")
    assert ratio >= 0.9


def test_policy_in_the_loop(benchmark):
    """A 256-256 torch policy chooses every action of 64 cheetahs: the loop keeps most of the environments' rate.

    The environments' own rate is that of the same states under the same actions, played again without the policy:
    other states would have other contacts, and so another cost.
    """
    torch.set_num_threads(1)
    env = own(metabench.make_vec("CheetahVel-v0", 64), 2)
    policy = torch.nn.Sequential(linear(20, 256), torch.nn.ReLU(), linear(256, 256), torch.nn.ReLU(), linear(256, 6))
    seen = env.reset(seed=0)[0]
    for _ in range(100):
        seen = env.step(np.zeros((64, 6)))[0]
    simulator, actions = env._trials.simulator, []
    begin = simulator.state

    @torch.inference_mode()
    def closed():
        simulator.state, observation = begin, seen
        actions.clear()
        for _ in range(WORK // 64):
            actions.append(policy(torch.from_numpy(observation).float()).tanh().numpy())
            observation = env.step(actions[-1])[0]

    def opened():
        simulator.state = begin
        for action in actions:
            env.step(action)

    seconds = interleaved({"closed": closed, "open": opened}, rounds=25)
    ratio = seconds["open"] / seconds["closed"]
    benchmark.extra_info["of the environments alone"] = round(ratio, 2)
    benchmark.pedantic(closed, rounds=3)
    print(f"\nclosed loop: {ratio:.2f} of the environments alone")
    assert ratio >= 0.7


def test_memory(benchmark):
    """Bytes of a slot and of a cached model; printed for the docs."""
    env = metabench.make_vec("HopperParam-v0", 64)
    env.reset(seed=0)
    family = env.family
    stepper = family._steppers[64]
    per_slot = (stepper.states.nbytes + stepper.outputs.nbytes + stepper.controls.nbytes) / 64
    model = family.model_of(env._trials.simulator.context)
    gc.collect()
    benchmark.extra_info |= {"bytes per slot": round(per_slot), "bytes per model": model.nbuffer}
    benchmark(lambda: None)
    print(f"\nHopperParam-v0: {per_slot:.0f} bytes per slot in the stepper, {model.nbuffer:,} bytes per cached model")
    assert per_slot < 4096
