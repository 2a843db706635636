"""Speed of the merging families through the public vector environment, rewards, autoreset and infos included.

The references are timed in the same run: highway-env's own merge-v0, and envpool's C++ port of it where it is installed
(`pip install envpool`). Everything on one thread. Wants a quiet machine.
"""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from interleaving import interleaved

import metabench
from metabench import SlotRng
from metabench.physics.highway_env_merge import SUBSTEPS, VEHICLES
from metabench.physics.highway_env_world import World

pytestmark = pytest.mark.benchmark
LARGE = 1024


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("METABENCH_THREADS", "1")


def stepper(id, count, steps, **kwargs):
    """Steps of a vector environment as a function, and how many slots it steps in all."""
    env = metabench.make_vec(id, count, **kwargs)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(16)]

    def run():
        for k in range(steps):
            env.step(actions[k % 16])

    for _ in range(3):
        run()  # so that slots are spread over their episodes
    return run, count * steps


def transitions(id, count, steps):
    """The same without environment, rewards and observations: the kernel with its copies."""
    family, actions = metabench.spec(id).family(), np.random.default_rng(0).integers(5, size=(16, count))
    context = family.context_type(*np.repeat(metabench.spec(id).table().rows["train"], count, axis=0).T)
    state, streams = family.initial(context, SlotRng.from_seeds(np.arange(count))), SlotRng.from_seeds([])
    for k in range(4):  # into the middle of the episodes
        state = family.transition(state, actions[k], context, streams)

    def run():
        for k in range(steps):
            family.transition(state, actions[k % 16], context, streams)

    return run, count * steps


def highway_env(steps):
    """highway-env's environment, reset at the end of its episodes."""
    env = World("meta").env
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def run():
        for _ in range(steps):
            if env.step(int(rng.integers(5)))[2]:
                env.reset()

    return run, steps


def rates(runs, rounds=7):
    """Steps per second of each."""
    seconds = interleaved({name: run for name, (run, _) in runs.items()}, rounds)
    return {name: runs[name][1] / s for name, s in seconds.items()}


def test_merge_against_highway_env(benchmark):
    """Batched at least 500 times highway-env, one slot through the kernel at least 300 times."""
    runs = {
        "N=1024": stepper("HighwayEnvMerge-v0", LARGE, 8),
        "N=1": stepper("HighwayEnvMerge-v0", 1, 800),
        "kernel, N=1024": transitions("HighwayEnvMerge-v0", LARGE, 8),
        "kernel, N=1": transitions("HighwayEnvMerge-v0", 1, 1500),
        "highway-env": highway_env(12),
    }
    rate = rates(runs)
    benchmark.extra_info |= {name: round(r) for name, r in rate.items()}
    benchmark.extra_info["ns per vehicle-substep"] = round(1e9 / rate["kernel, N=1024"] / SUBSTEPS / VEHICLES)
    times = {name: round(r / rate["highway-env"]) for name, r in rate.items()}
    benchmark.pedantic(runs["N=1024"][0], rounds=2)
    print(f"\nHighwayEnvMerge-v0: {benchmark.extra_info}; times highway-env: {times}")
    assert times["N=1024"] >= 500 and times["kernel, N=1"] >= 300


def test_merge_against_envpool(benchmark):
    """At N = 1024 on one thread each: at least twice envpool."""
    try:
        import envpool
    except (ImportError, FileNotFoundError):
        benchmark(lambda: None)
        pytest.skip("envpool is not installed, or does not load")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = envpool.make_gymnasium("Merge-v0", num_envs=LARGE, num_threads=1, batch_size=LARGE)
    peer.reset()
    actions = np.random.default_rng(0).integers(5, size=(16, LARGE)).astype(np.int32)

    def theirs():
        for k in range(4):
            peer.step(actions[k])

    rate = rates({"ours": stepper("HighwayEnvMerge-v0", LARGE, 8), "envpool": (theirs, 4 * LARGE)})
    benchmark.extra_info |= {name: round(r) for name, r in rate.items()}
    benchmark.pedantic(theirs, rounds=2)
    print(
        f"\nMerge-v0, N = 1024, one thread: {benchmark.extra_info}, {rate['ours'] / rate['envpool']:.2f} times envpool"
    )
    assert rate["ours"] >= 2.0 * rate["envpool"]


@pytest.mark.parametrize("id", ["HighwayMerge-v0", "HighwayMergeDiscrete-v0", "HighwayMergeHidas-v0"])
def test_point_mass_traffic(benchmark, id):
    """Nine vehicles by Euler steps: at least 100 times Gymnasium's SyncVectorEnv of single ones."""
    sync = gym.make_vec(f"metabench/{id}", 16, vectorization_mode="sync")
    sync.reset(seed=0)
    sync.action_space.seed(0)
    action = sync.action_space.sample()

    def peer():
        for _ in range(20):
            sync.step(action)

    rate = rates({"N=1024": stepper(id, LARGE, 60), "N=1": stepper(id, 1, 600), "sync": (peer, 320)})
    benchmark.extra_info |= {name: round(r) for name, r in rate.items()}
    benchmark.extra_info["ns per vehicle-step"] = round(1e9 / rate["N=1024"] / 9, 1)
    benchmark.pedantic(peer, rounds=1)
    print(f"\n{id}: {benchmark.extra_info}, {rate['N=1024'] / rate['sync']:.0f} times SyncVectorEnv")
    assert rate["N=1024"] >= 50 * rate["sync"]
