"""The planners of HighwayMerge: what they believe, and that knowing more pays."""

import numpy as np
import pytest

import metabench
from metabench.evaluation.results import Protocol
from metabench.yardsticks.highway_merge import MergePlanner, Search
from metabench.yardsticks.simple import RandomAgent, oracle

SMALL = Search(plans=24, elites=4, rounds=3)


def play(agent, id="HighwayMerge-v0", episodes=2):
    protocol = Protocol(benchmark=id, split="train", episodes=episodes, repeats=1, seed=3)
    return metabench.evaluate(agent, protocol).array()[:, 0]  # [task, episode]


def test_knowing_the_drivers_pays():
    space = metabench.spec("HighwayMerge-v0").family().action_space
    free, adaptive, seeing = (
        MergePlanner("HighwayMerge-v0", n, 0, SMALL) for n in ("context-free", "adaptive", "oracle")
    )
    returns = {"random": play(RandomAgent(space, 0)), "free": play(free), "oracle": play(seeing)}
    returns["adaptive"] = play(adaptive)
    low, high = returns["random"].mean(), returns["oracle"].mean()
    share = {name: (r - low) / (high - low) for name, r in returns.items()}
    assert share["free"].mean() < 0.75  # what a policy loses that does not know the drivers
    assert share["adaptive"][:, 1].mean() > share["free"].mean() + 0.15  # closed in the second episode


def test_the_posterior_finds_the_courtesy():
    agent = MergePlanner("HighwayMerge-v0", "adaptive", 0, SMALL)
    env = metabench.make_vec("HighwayMerge-v0", 16, episodes_per_task=2)
    observation, _ = env.reset(seed=0, options={"task": list(range(16))})
    truth = np.array([task.context[1] for task in env.tasks])
    belief, action = agent.begin(16), np.zeros((16, 1), np.float32)
    first, reward = np.ones(16, dtype=bool), np.zeros(16)
    for _ in range(70):
        action, belief = agent.act(
            metabench.Timestep(observation, action, reward, first, np.zeros_like(observation)), belief
        )
        observation, reward, terminated, truncated, _ = env.step(action)
        first = terminated | truncated
        action = np.where(first[:, None], 0.0, action)
    found = agent.contexts[belief.weights.argmax(axis=1), 1]
    assert np.corrcoef(found, truth)[0, 1] > 0.9 and np.median(abs(found - truth)) <= 0.13


@pytest.mark.parametrize("id", ["HighwayMergeDiscrete-v0", "HighwayMergeHidas-v0"])
def test_the_other_forms_have_oracles(id):
    agent = oracle.build(id, "test", 0)
    assert agent.privileged and agent.name == "oracle"
    agent.search = SMALL
    space = metabench.spec(id).family().action_space
    assert play(agent, id, 1).mean() > play(RandomAgent(space, 0), id, 1).mean() + 3.0


def test_the_same_seed_the_same_plans():
    runs = [play(MergePlanner("HighwayMerge-v0", "adaptive", seed, SMALL), episodes=1) for seed in (0, 0, 1)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


def test_other_benchmarks_are_refused():
    with pytest.raises(ValueError, match="defined on HighwayMerge, HighwayMergeHidas only, not on PointRobot-v0"):
        MergePlanner("PointRobot-v0", "oracle", 0)
