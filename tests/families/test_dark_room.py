"""The dark rooms, written a second time from their published rules; and their oracles against brute force."""

import itertools

import numpy as np
import pytest

import metabench
from metabench import Timestep, make, make_vec
from metabench.families.dark_room import CELLS, NEXT, SIZE
from metabench.plugins import load_oracle

STEPS = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1), 4: (-1, 0)}


def moved(x, y, action):
    dx, dy = STEPS[action]
    return min(max(x + dx, 0), 8), min(max(y + dy, 0), 8)


def test_dark_room_equals_its_published_rules_step_for_step():
    """9 x 9, from the centre, 20 steps, 1 at every step on the goal."""
    rng, goals = np.random.default_rng(0), metabench.spec("DarkRoom-v0").table().rows["train"][:, 0].astype(int)
    env = make_vec("DarkRoom-v0", len(goals), episodes_per_task=99)
    observation, _ = env.reset(seed=0, options={"task": list(range(len(goals)))})
    for episode in range(3):
        places = [(4, 4)] * len(goals)
        assert (observation == 4).all()
        for t in range(20):
            actions = rng.integers(5, size=len(goals))
            places = [moved(x, y, a) for (x, y), a in zip(places, actions.tolist(), strict=True)]
            observation, reward, terminated, truncated, info = env.step(actions)
            assert reward.tolist() == [float(x * 9 + y == g) for (x, y), g in zip(places, goals, strict=True)]
            assert not terminated.any() and truncated.all() == (t == 19)
            seen = info["final_obs"] if t == 19 else observation
            assert seen.tolist() == [list(place) for place in places], episode


def test_dark_key_to_door_equals_its_published_rules_step_for_step():
    """1 once for the key and 1 once for the door, which opens only with the key; 50 steps, from any cell."""
    rng = np.random.default_rng(1)
    near = np.array([[k, k + 1] for k in range(0, 80, 4)] + [[5, 5]] * 20)  # so that random walks get both
    tasks = {"key": near[:, 0], "door": near[:, 1]}
    env = make_vec("DarkKeyToDoor-v0", len(near), episodes_per_task=99)
    observation, _ = env.reset(seed=0, options={"task": tasks})
    seen_rewards = set()
    for _ in range(30):
        places, key, opened = observation.astype(int).tolist(), [False] * len(near), [False] * len(near)
        for _t in range(50):
            actions = rng.integers(5, size=len(near))
            expected = []
            for i, a in enumerate(actions.tolist()):
                places[i] = list(moved(*places[i], a))
                cell, paid = places[i][0] * 9 + places[i][1], 0
                if cell == near[i, 0] and not key[i]:
                    key[i], paid = True, paid + 1
                if cell == near[i, 1] and key[i] and not opened[i]:
                    opened[i], paid = True, paid + 1
                expected.append(float(paid))
            observation, reward, terminated, _, info = env.step(actions)
            assert reward.tolist() == expected and not terminated.any()
            assert info["success"].tolist() == opened
            seen_rewards |= set(expected)
    assert seen_rewards == {0.0, 1.0, 2.0}


def test_the_door_pays_nothing_without_the_key():
    env = make("DarkKeyToDoor-v0")
    for seed in range(50):
        observation, _ = env.reset(seed=seed, options={"task": {"key": 0, "door": 80}})
        x, y = observation.astype(int)
        rewards = [env.step(a)[1] for a in [2] * (8 - x) + [1] * (8 - y)]
        assert sum(rewards) == 0 or x + y == 0


def test_starts_are_even():
    env = make_vec("DarkKeyToDoor-v0", 81 * 500)
    observation, _ = env.reset(seed=0)
    counts = np.bincount((observation[:, 0] * SIZE + observation[:, 1]).astype(int), minlength=CELLS)
    assert np.all(abs(counts - 500) < 5 * np.sqrt(500))


def test_there_are_6561_tasks_and_no_two_splits_share_one():
    for id, total in (("DarkRoom-v0", 81), ("DarkKeyToDoor-v0", 6561)):
        rows = metabench.spec(id).table().rows
        assert len({tuple(row) for split in rows.values() for row in split.tolist()}) == total
        assert sum(len(split) for split in rows.values()) == total


def best(goal, horizon):
    """Backward induction: the most that can be got from every cell in so many steps."""
    pays, value = (np.arange(CELLS) == goal).astype(float), np.zeros(CELLS)
    for _ in range(horizon):
        value = (pays + value)[NEXT].max(axis=1)
    return value


def played(id, split, tasks, episodes):
    agent = load_oracle(id, split, 0)
    env = make_vec(id, len(tasks), split=split, expose_task=True, episodes_per_task=episodes)
    observation, _ = env.reset(seed=3, options={"task": tasks})
    starts, returns = [observation], [np.zeros(len(tasks))]
    belief, action, reward = agent.begin(len(tasks)), np.zeros(len(tasks), int), np.zeros(len(tasks))
    first = np.ones(len(tasks), bool)
    while len(returns) <= episodes:
        action, belief = agent.act(Timestep(observation, action, reward, first, np.zeros_like(observation)), belief)
        observation, reward, _, first, _ = env.step(action)
        returns[-1] = returns[-1] + reward
        if first.all():
            starts.append(observation)
            returns.append(np.zeros(len(tasks)))
    return starts, returns


@pytest.mark.parametrize("split", ["train", "test", "ood"])
def test_the_oracle_of_dark_room_gets_all_there_is(split):
    goals = metabench.spec("DarkRoom-v0").table().rows[split][:, 0].astype(int)
    _, returns = played("DarkRoom-v0", split, list(range(len(goals))), 2)
    assert returns[0].tolist() == [best(goal, 20)[40] for goal in goals] == returns[1].tolist()


def test_the_oracle_of_dark_key_to_door_takes_the_shortest_way():
    """It gets both wherever there is time, and an oracle of 16 + 16 steps always has."""
    _, returns = played("DarkKeyToDoor-v0", "ood", list(range(280)), 3)
    assert all((r == 2).all() for r in returns[:3])
    agent = load_oracle("DarkKeyToDoor-v0", "test", 0)
    for key, door, start in itertools.product((0, 44, 80), (8, 44), (40, 72)):
        env = make_vec("DarkKeyToDoor-v0", 1, expose_task=True)
        seed = next(s for s in range(2000) if start == _start(env, s, key, door))
        observation, _ = env.reset(seed=seed, options={"task": {"key": key, "door": door}})
        belief, reward, first, steps, total = agent.begin(1), np.zeros(1), np.ones(1, bool), 0, 0.0
        action = np.zeros(1, int)
        while total < 2:
            action, belief = agent.act(Timestep(observation, action, reward, first, observation), belief)
            observation, reward, *_ = env.step(action)
            first, steps, total = np.zeros(1, bool), steps + 1, total + reward[0]
        assert steps == max(_far(start, key) + _far(key, door), 1)


def _far(a, b):
    return abs(a // 9 - b // 9) + abs(a % 9 - b % 9)


def _start(env, seed, key, door):
    observation, _ = env.reset(seed=seed, options={"task": {"key": key, "door": door}})
    return int(observation[0, 0] * 9 + observation[0, 1])
