"""Filters of switching tasks: rewards against the families' own, the recursion against enumeration, what they reach."""

import itertools

import numpy as np
import pytest

import metabench
from metabench.evaluation.play import play
from metabench.evaluation.results import Protocol
from metabench.plugins import load_oracle, load_plugin
from metabench.yardsticks.filtering import HiddenTasks, renew
from metabench.yardsticks.rewards import season, seen_reward
from metabench.yardsticks.simple import RandomAgent

SWITCHES = ("CheetahVelSwitch-v0", "CheetahDirSwitch-v0", "CheetahWindVelSwitch-v0", "ReacherSwitch-v0")


@pytest.mark.parametrize("name", [*SWITCHES, "CheetahVel-v0", "PointRobot-v0", "GridNavigation-v0", "GridSwitch-v0"])
def test_rewards_are_known_from_what_is_seen(name):
    """Sixty random steps of eight slots: equal to what the family paid, sessions and all."""
    env = metabench.make_vec(name, 8, expose_task=True)
    observation, _ = env.reset(seed=3)
    columns = len(metabench.spec(name).family().observation_fields)
    agent, reward = RandomAgent(env.single_action_space, 0), seen_reward(name)
    for tick, t in zip(play(agent, env, observation), range(45), strict=False):
        before, context = tick.step.observation[:, :columns], tick.step.observation[:, columns:]
        after = tick.info.get("final_obs")
        after = (tick.observation if after is None or not tick.truncated.any() else after)[:, :columns]
        assert reward(before, tick.action, after, context) == pytest.approx(
            tick.reward, abs=0.1 if t == 0 and "Cheetah" in name else 1e-5
        )


def test_rewards_that_are_not_seen_are_refused():
    with pytest.raises(ValueError, match="not known from its observations"):
        seen_reward("HighwayMerge-v0")
    with pytest.raises(ValueError, match="this filter is defined for"):
        load_plugin("task-filter").build("GridSwitch-v0", "train", 0)
    with pytest.raises(ValueError, match="end with one probability"):
        load_plugin("task-filter").build("CheetahDir-v0", "ood", 0)


def test_the_season_is_the_familys():
    context = metabench.spec("CheetahWindVelSwitch-v0").table().context_type(np.arange(9), np.arange(9) * 7)
    wind, speed = season(context.start + context.passed)
    assert wind == pytest.approx(context.wind) and speed == pytest.approx(context.speed)


@pytest.mark.parametrize("follows", ["anew", "the next one"])
def test_the_filter_is_the_sum_over_all_histories(follows):
    """Three tasks, five rewards: every sequence of tasks with its probability, brute force."""
    rng = np.random.default_rng(0)
    count, steps, p = 3, 5, 0.3
    prior, likelihood = np.array([0.5, 0.3, 0.2]), rng.uniform(0.05, 1.0, (steps, count))
    if follows == "anew":
        moves = np.tile(prior, (count, 1))
        tasks = HiddenTasks(np.zeros((count, 1)), prior, 1.0, lambda q: np.broadcast_to(prior, q.shape))
    else:
        moves = np.roll(np.eye(count), 1, axis=1)
        tasks = HiddenTasks(np.zeros((count, 1)), prior, 1.0, lambda q: np.roll(q, 1, axis=1))
    total = np.zeros(count)
    for history in itertools.product(range(count), repeat=steps + 1):
        probability = prior[history[0]]
        for t, (now, then) in enumerate(itertools.pairwise(history)):
            probability *= likelihood[t, now] * ((1 - p) * (now == then) + p * moves[now, then])
        total[history[-1]] += probability
    posterior = prior[None]
    for t in range(steps):
        posterior = renew(posterior, likelihood[t : t + 1], tasks, p)
    assert posterior[0] == pytest.approx(total / total.sum(), abs=1e-12)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_filter_lies_between_standing_still_and_the_oracle(name):
    """A few training trials: at least three quarters of the way from doing nothing to the oracle that sees the task."""
    protocol = Protocol(benchmark=name, split="train", episodes=1, repeats=1, seed=5)
    means = {
        yardstick: metabench.evaluate(load_plugin(yardstick).build(name, "train", 0), protocol).array().mean()
        for yardstick in ("zero", "task-filter", "oracle")
    }
    way = (means["task-filter"] - means["zero"]) / (means["oracle"] - means["zero"])
    assert 0.75 < way < 1.05, means


def test_the_windy_oracle_belongs_to_its_benchmark():
    oracle = load_oracle("CheetahWindVelSwitch-v0", "test", 0)
    assert oracle.name == "oracle" and oracle.privileged
