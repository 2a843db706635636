"""Yardsticks against values known otherwise: brute force, exact dynamic programming, an independent reconstruction."""

import itertools

import numpy as np
import pytest
from metabench_agents.grid_switch import (
    GOAL_REWARD,
    STEP_REWARD,
    Filter,
    GridSwitchModel,
    bayes_plan,
    bayes_value,
    oracle_plan,
    oracle_value,
    walk,
)
from metabench_agents.yardsticks import grid_switch_model

import metabench
from metabench import Timestep, evaluate, standard_protocol
from metabench.plugins import load_plugin

PAPER = GridSwitchModel(0.07, ((0.2, 0.8), (0.8, 0.2)))
UNEVEN = GridSwitchModel(0.3, ((0.1, 0.9), (0.5, 0.5)), horizon=4, size=2)


def test_bayes_optimal_value():
    """45.65, as an independent reconstruction found by dynamic programming over position x belief."""
    assert bayes_value(PAPER) == pytest.approx(45.65, abs=0.005)


def test_oracle_value():
    """The reconstruction's oracle walks to the paying goal: 50.5 +- 0.3 played. The optimum is at least that."""
    assert 50.5 <= oracle_value(PAPER) <= 50.8


@pytest.mark.parametrize("name", ["random", "win-stay-lose-shift", "bayes", "oracle"])
@pytest.mark.parametrize("split", ["test", "ood"])
def test_played_returns_equal_the_references(name, split):
    """Played by the evaluator; the Bayes filter's and the oracle's references are exact values."""
    protocol = standard_protocol("GridSwitch-v0", split, seed=5).model_copy(update={"repeats": 60})
    trials = evaluate(load_plugin(name).build("GridSwitch-v0", split, 1), protocol).trials()[:, 0]
    stored = metabench.spec("GridSwitch-v0").references(split)[name]
    error = np.hypot(trials.std() / np.sqrt(len(trials)), stored["stderr"])
    assert abs(trials.mean() - stored["mean"]) < 4 * error


def test_win_stay_lose_shift_over_all_pairs():
    """45.7 +- 0.4 in the independent reconstruction (even pairs and starts)."""
    agent = load_plugin("win-stay-lose-shift").build("GridSwitch-v0", "train", 0)
    means, sizes = [], []
    for split in ("train", "test"):
        protocol = standard_protocol("GridSwitch-v0", split, seed=5).model_copy(update={"repeats": 30})
        means.append(evaluate(agent, protocol).array().mean())
        sizes.append(metabench.spec("GridSwitch-v0").table().size(split))
    assert np.average(means, weights=sizes) == pytest.approx(45.7, abs=0.6)


def expectimax(model, cell, latents, t, a, b):
    """The best expected return by trying everything; `latents` is the belief P(latent), a plain recursion."""
    if t == model.horizon:
        return 0.0
    chain, best = model.step_chain, -np.inf
    for action in range(5):
        there = model.moves()[cell, action]
        if there in (a, b):
            total = 0.0
            for latent, probability in enumerate(latents):
                hit = there == (a, b)[latent]
                reward = GOAL_REWARD if hit else STEP_REWARD
                total += probability * (reward + expectimax(model, there, tuple(chain[latent]), t + 1, a, b))
        else:
            after = tuple(np.asarray(latents) @ chain)
            total = STEP_REWARD + expectimax(model, there, after, t + 1, a, b)
        best = max(best, total)
    return best


@pytest.mark.parametrize(("a", "b"), [(0, 3), (1, 2), (3, 1)])
def test_bayes_plan_equals_expectimax(a, b):
    value = bayes_plan(UNEVEN, a, b).value
    for cell in range(4):
        assert value[cell, 0] == pytest.approx(expectimax(UNEVEN, cell, (0.5, 0.5), 0, a, b), abs=1e-12)


def best_seeing(model, cell, latent, t, a, b):
    if t == model.horizon:
        return 0.0
    options = []
    for there in model.moves()[cell]:
        reward = GOAL_REWARD if there == (a, b)[latent] else STEP_REWARD
        later = sum(p * best_seeing(model, there, n, t + 1, a, b) for n, p in enumerate(model.step_chain[latent]))
        options.append(reward + later)
    return max(options)


def test_oracle_plan_equals_brute_force():
    value = oracle_plan(UNEVEN, 0, 3).value
    for cell, latent in itertools.product(range(4), range(2)):
        assert value[cell, latent] == pytest.approx(best_seeing(UNEVEN, cell, latent, 0, 0, 3), abs=1e-12)


@pytest.mark.parametrize("model", [PAPER, UNEVEN, GridSwitchModel(1.0, ((0.3, 0.7), (0.6, 0.4)), horizon=6)])
def test_the_filter_equals_the_sum_over_all_latent_paths(model):
    """P(latent) by enumerating every path that agrees with what was seen."""
    horizon, chain = min(model.horizon, 6), model.step_chain
    nodes = Filter.of(model)
    for seen in itertools.product((-1, 0, 1), repeat=horizon - 1):
        weights = np.zeros(2)
        for path in itertools.product((0, 1), repeat=horizon):
            agrees = all(s in (-1, m) for s, m in zip(seen, path, strict=False))
            probability = 0.5 * np.prod([chain[m, n] for m, n in itertools.pairwise(path)])
            weights[path[-1]] += agrees * probability
        if weights.sum() == 0:
            continue
        node = np.zeros(1, dtype=np.int64)
        for s in seen:
            node = nodes.after(node, np.array([s]))
        assert nodes.probability[node[0]] == pytest.approx(weights[0] / weights.sum(), abs=1e-12)


def test_walks_are_shortest():
    moves = PAPER.moves()
    for start, target in itertools.product(range(25), repeat=2):
        cell, steps = start, 0
        while cell != target:
            cell = int(moves[cell, walk(np.array([cell]), np.array([target]))[0]])
            steps += 1
        assert steps == abs(start // 5 - target // 5) + abs(start % 5 - target % 5)


@pytest.mark.parametrize("id", ["GridNavigation-v0", "PointRobot-v0", "SparsePointRobot-v0"])
@pytest.mark.parametrize("split", ["train", "test", "ood"])
def test_oracles_reach_the_goal_and_stay(id, split):
    agent = load_plugin("oracle").build(id, split, 0)
    env = metabench.make_vec(id, 64, split=split, expose_task=True)
    observation, _ = env.reset(seed=0)
    reward = np.zeros(64)
    for _ in range(metabench.spec(id).horizon - 1):
        action, _ = agent.act(Timestep(observation, None, reward, None), None)
        observation, reward, *_ = env.step(action)
    assert reward == pytest.approx({"PointRobot-v0": 0.0}.get(id, 1.0), abs=2e-6)


@pytest.mark.parametrize("name", ["random", "win-stay-lose-shift", "bayes", "oracle"])
def test_beliefs_are_values(name):
    """`act` leaves its belief as it was, and a trial does not depend on its neighbours."""
    agent = load_plugin(name).build("GridSwitch-v0", "test", 3)
    env = metabench.make_vec("GridSwitch-v0", 8, split="test", expose_task=agent.privileged)
    observation, _ = env.reset(seed=2)
    belief, first = agent.begin(8), np.ones(8, dtype=bool)
    action, reward = np.zeros(8, dtype=np.int64), np.zeros(8)
    for _ in range(30):
        step = Timestep(observation, action, reward, first)
        action, after = agent.act(step, belief)
        again, _ = agent.act(step, belief)
        assert np.array_equal(action, again), "the belief was changed by the first call"
        if name != "random":
            part = tuple(x[2:5] for x in belief) if isinstance(belief, tuple) else belief[2:5]
            part = type(belief)(*part) if hasattr(belief, "_fields") else part
            alone, _ = agent.act(Timestep(*(column[2:5] for column in step)), part)
            assert np.array_equal(alone, action[2:5])
        belief, first = after, np.zeros(8, dtype=bool)
        observation, reward, *_ = env.step(action)


def test_yardsticks_say_where_they_are_defined():
    with pytest.raises(ValueError, match="not on PointRobot-v0"):
        grid_switch_model("PointRobot-v0", "test")


def test_bayes_knows_the_split_it_is_built_for():
    assert grid_switch_model("GridSwitch-v0", "ood").p == 0.14
    assert grid_switch_model("GridSwitch-v0", "test").p == 0.07
