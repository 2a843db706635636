"""Yardsticks against values known otherwise: brute force, exact dynamic programming, an independent reconstruction."""

import itertools
import random

import numpy as np
import pytest
from gymnasium import spaces

import metabench
from metabench import Timestep, evaluate, standard_protocol
from metabench.plugins import load_plugin
from metabench.yardsticks.grid_switch import (
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
from metabench.yardsticks.simple import Memoryless, RandomAgent
from metabench.yardsticks.switching import PlannedAgent, WinStayLoseShift, grid_switch_model

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
        action, _ = agent.act(Timestep(observation, None, reward, None, np.zeros_like(observation)), None)
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
        step = Timestep(observation, action, reward, first, np.zeros_like(observation))
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


# Below, GridSwitch is written a second time, so that a convention misread once cannot agree with itself.

ASYMMETRIC = GridSwitchModel(0.2, ((0.1, 0.9), (0.5, 0.5)))
PAIRS = ((0, 24), (24, 0), (12, 13), (2, 22), (6, 9), (20, 15))  # far, near, on one row, and both orders
EPISODES = 3000
STEPS = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1), 4: (-1, 0)}


def moved(cell, action):
    x, y = cell // 5 + STEPS[action][0], cell % 5 + STEPS[action][1]
    return x * 5 + y if 0 <= x < 5 and 0 <= y < 5 else cell


def towards(cell, target):
    dx, dy = target // 5 - cell // 5, target % 5 - cell % 5
    if dx:
        return 2 if dx > 0 else 4
    return {0: 0, 1: 1, -1: 3}[(dy > 0) - (dy < 0)]


def apart(cell, target):
    return abs(target // 5 - cell // 5) + abs(target % 5 - cell % 5)


def play(agent, model, seed):
    """Returns `[EPISODES]` of one episode each, simulated slot by slot."""
    rng = random.Random(seed)
    goals = [PAIRS[i % len(PAIRS)] for i in range(EPISODES)]
    cells = [rng.choice([c for c in range(25) if c not in pair]) for pair in goals]
    paying = [rng.randrange(2) for _ in goals]
    belief, first = agent.begin(EPISODES), np.ones(EPISODES, dtype=bool)
    action, reward, total = np.zeros(EPISODES, dtype=np.int64), np.zeros(EPISODES), np.zeros(EPISODES)
    for _ in range(model.horizon):
        rows = [[*divmod(c, 5), *divmod(a, 5), *divmod(b, 5)] for c, (a, b) in zip(cells, goals, strict=True)]
        if agent.privileged:
            rows = [[*row, *pair, m] for row, pair, m in zip(rows, goals, paying, strict=True)]
        step = Timestep(np.array(rows, dtype=np.float32), action, reward, first, np.zeros((len(rows), len(rows[0]))))
        action, belief = agent.act(step, belief)
        cells = [moved(c, a) for c, a in zip(cells, action.tolist(), strict=True)]
        reward = np.array([1.0 if c == pair[m] else -0.1 for c, pair, m in zip(cells, goals, paying, strict=True)])
        for i, m in enumerate(paying):
            if rng.random() < model.p:
                paying[i] = 0 if rng.random() < model.chain[m][0] else 1
        total, first = total + reward, np.zeros(EPISODES, dtype=bool)
    return total


def exact(model, pair, options, shift):
    """The expected return of a fixed policy by evaluating it backwards over (cell, target, paying).

    `options(cell, target, paying)` are its actions, equally likely; where `shift`, a loss on the target changes it.
    """
    states, chain = list(itertools.product(range(25), range(2), range(2))), model.step_chain
    there = np.array([[moved(s[0], action) for action in options(*s)] for s in states])
    target, paying = np.array(states)[:, 1:2], np.array(states)[:, 2:3]
    reward = np.where(there == np.array(pair)[paying], 1.0, -0.1)
    lost = shift & (there == np.array(pair)[target]) & (target != paying)
    then, value = np.where(lost, 1 - target, target), np.zeros((25, 2, 2))
    for _ in range(model.horizon):
        value = (reward + (chain[paying] * value[there, then]).sum(axis=2)).mean(axis=1).reshape(25, 2, 2)
    nearer = [(c, int(apart(c, pair[1]) < apart(c, pair[0]))) for c in range(25) if c not in pair]
    return np.mean([value[state] for state in nearer])


def exact_of(name, model, pair):
    free = np.delete(np.arange(25), pair)
    if name == "bayes":
        return bayes_plan(model, *pair).value[free, 0].mean()
    if name == "oracle":
        return oracle_plan(model, *pair).value[free].mean()
    options = {
        "random": lambda cell, target, paying: range(5),
        "greedy": lambda cell, target, paying: [towards(cell, pair[paying])],
        "win-stay-lose-shift": lambda cell, target, paying: [towards(cell, pair[target])],
    }
    return exact(model, pair, options[name], shift=name == "win-stay-lose-shift")


def walk_to_the_paying_goal(observation):
    cells = observation[:, 0] * 5 + observation[:, 1]
    return walk(
        cells.astype(np.int64), observation[np.arange(len(cells)), 6 + observation[:, 8].astype(int)].astype(int)
    )


def agent_of(name, model):
    return {
        "random": lambda: RandomAgent(spaces.Discrete(5), 3),
        "greedy": lambda: Memoryless(walk_to_the_paying_goal),
        "win-stay-lose-shift": WinStayLoseShift,
        "bayes": lambda: PlannedAgent(model, bayes_plan, sees=False, name="bayes"),
        "oracle": lambda: PlannedAgent(model, oracle_plan, sees=True, name="oracle"),
    }[name]()


@pytest.mark.parametrize("name", ["random", "greedy", "win-stay-lose-shift", "bayes", "oracle"])
@pytest.mark.parametrize("model", [PAPER, ASYMMETRIC], ids=["paper", "asymmetric"])
def test_returns_in_a_second_simulator_equal_the_exact_values(name, model):
    returns = play(agent_of(name, model), model, seed=11)
    expected = np.mean([exact_of(name, model, pair) for pair in PAIRS])
    assert abs(returns.mean() - expected) < 4 * returns.std() / np.sqrt(EPISODES)


@pytest.mark.parametrize("model", [PAPER, ASYMMETRIC], ids=["paper", "asymmetric"])
def test_seeing_and_planning_never_hurt(model):
    for pair in PAIRS:
        value = {name: exact_of(name, model, pair) for name in ("win-stay-lose-shift", "bayes", "greedy", "oracle")}
        slack = 1e-9  # win-stay/lose-shift is itself optimal on neighbouring candidates: equal but for rounding
        assert value["win-stay-lose-shift"] <= value["bayes"] + slack
        assert max(value["bayes"], value["greedy"]) <= value["oracle"] + slack


@pytest.mark.parametrize(("name", "known"), [("greedy", 50.5670), ("win-stay-lose-shift", 45.6184)])
def test_exact_values_over_all_pairs(name, known):
    """The independent reconstruction played both: 50.5 +- 0.3 and 45.7 +- 0.4."""
    pairs = itertools.permutations(range(25), 2)
    assert np.mean([exact_of(name, PAPER, pair) for pair in pairs]) == pytest.approx(known, abs=5e-5)


@pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.Box(-0.1, 0.1, (2,))], ids=["discrete", "box"])
def test_random_does_not_depend_on_the_batch(space):
    """The first trials act alike in batches of 1, 3 and 8, and all actions are legal."""
    agent, played = RandomAgent(space, 7), {}
    for size in (1, 3, 8):
        belief, actions = agent.begin(size), []
        for _ in range(5):
            step = Timestep(
                np.zeros((size, 2)), np.zeros(size), np.zeros(size), np.zeros(size, dtype=bool), np.zeros((size, 2))
            )
            action, belief = agent.act(step, belief)
            assert all(space.contains(a) for a in action)
            actions.append(action)
        played[size] = np.stack(actions)
    assert np.array_equal(played[8][:, :3], played[3]) and np.array_equal(played[3][:, :1], played[1])


@pytest.mark.parametrize("name", ["win-stay-lose-shift", "bayes"])
def test_an_episode_start_forgets_the_last_episode(name):
    agent = agent_of(name, PAPER)
    observation = np.array([[2, 2, 0, 0, 4, 3]], dtype=np.float32)
    start = Timestep(
        observation, np.zeros(1, dtype=np.int64), np.zeros(1), np.ones(1, dtype=bool), np.zeros_like(observation)
    )
    on_goal = Timestep(
        np.array([[0, 0, 0, 0, 4, 3]], dtype=np.float32), start.action, np.array([-0.1]), ~start.first, np.zeros((1, 6))
    )
    fresh, _ = agent.act(start, agent.begin(1))
    _, belief = agent.act(on_goal, agent.act(start, agent.begin(1))[1])
    again, after = agent.act(start, belief)
    assert np.array_equal(fresh, again)
    expected = agent.act(start, agent.begin(1))[1]
    assert all(np.array_equal(x, y) for x, y in zip(after, expected, strict=True))
