"""Third parties' own environments (backend="reference"): copies go on exactly, threads do not meet."""

import copy
import pickle
import threading

import gymnasium as gym
import numpy as np
import pytest

from metabench.drift import Constant
from metabench.physics.foreign import ForeignSimulator, Reply
from metabench.registry import make, make_vec, specs
from metabench.rng import SlotRng
from metabench.tasks import TaskBatch

REFERENCES = ["MetaWorld-Reach-v0", "MetaWorld-ML10-v0", "HighwayEnvMerge-v0", "HighwayEnvMergeDiscrete-v0"]
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}


def needed(id):
    pytest.importorskip("metaworld" if id.startswith("MetaWorld") else "highway_env")


def actions(env, count):
    env.action_space.seed(5)
    return [env.action_space.sample() for _ in range(count)]


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("id", REFERENCES)
def test_a_copy_in_the_middle_of_an_episode_goes_on_exactly(id, way):
    needed(id)
    env = make(id, backend="reference", episodes_per_task=2)
    env.reset(seed=1)
    taken = actions(env, 20)
    for action in taken[:2]:
        env.step(action)
    env.reset()  # an episode before leaves no trace
    while any(env.step(taken[0])[2:4]):  # drives off: another start
        env.reset()
    twin = COPIES[way](env)
    for action in taken[3:]:
        one, two = env.step(action), twin.step(action)
        assert same(one, two) and one[4] == two[4]
        if one[2] or one[3]:
            break
    assert same((*env.reset(), 0, 0), (*twin.reset(), 0, 0))


def test_slots_of_a_copied_batch_go_on_each_by_itself():
    needed("MetaWorld-Reach-v0")
    envs = make_vec("MetaWorld-Reach-v0", 2, backend="reference", max_episode_steps=6)
    envs.reset(seed=3)
    taken = actions(envs, 9)
    for action in taken[:7]:  # past an automatic reset
        envs.step(action)
    twins = copy.deepcopy(envs)
    for action in taken[7:]:
        assert same(envs.step(action), twins.step(action))


@pytest.mark.slow
@pytest.mark.parametrize("id", sorted(s.id for s in specs() if s.id.startswith("MetaWorld")))
def test_every_class_of_meta_world_can_be_copied(id):
    needed(id)
    env = make(id, backend="reference")
    env.reset(seed=0)
    taken = actions(env, 30)
    for action in taken[:20]:
        env.step(action)
    env.reset()
    for action in taken[:20]:
        env.step(action)
    twin = copy.deepcopy(env)
    for action in taken[20:]:
        assert same(env.step(action), twin.step(action))


class Drifting:
    """An environment of somebody's that does not follow from its task and actions."""

    count = 0

    def begin(self, task):
        return task.copy()

    def step(self, action):
        Drifting.count += 1
        return Reply(np.array([float(Drifting.count)]), 0.0, False, None)


def test_what_cannot_be_played_again_is_not_copied():
    tasks, rng = TaskBatch(np.zeros(1, dtype=np.int64), np.ones((1, 1))), SlotRng.from_seeds([0])
    simulator = ForeignSimulator(Drifting, Constant(), tasks, rng, 9)
    assert (copy.deepcopy(simulator).observation == simulator.observation).all()
    simulator.step(np.zeros((1, 1)))
    with pytest.raises(ValueError, match="cannot be copied in the middle of this episode: played again, slot 0"):
        copy.deepcopy(simulator)


def rollout(id, seed, steps=12):
    envs = gym.make_vec(f"metabench/{id}", num_envs=2, backend="reference")
    envs.reset(seed=seed)
    taken = np.random.default_rng(0).integers(5, size=(steps, 2))
    return np.array([np.append(*envs.step(row)[:2]) for row in taken])


@pytest.mark.parametrize("id", ["HighwayEnvMerge-v0", "HighwayEnvMergeDiscrete-v0"])
def test_two_threads_with_highway_env_do_not_meet(id):
    needed(id)
    alone, got = [rollout(id, seed) for seed in range(3)], [None] * 3

    def work(k):
        got[k] = rollout(id, k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, two in zip(alone, got, strict=True):
        assert (one == two).all()
