"""Exact Bayes in DarkRoom: its inference by hand, and that what a DPT is taught decides what it finds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.view import ViewConfig

import metabench
from metabench.loading import load_agent
from studies.incontext import places
from studies.incontext.exact import BEST, CELLS, draw, goals, play, prior, weights
from studies.incontext.explained import DISCOUNT, discounted, explained, features
from studies.incontext.longer import REPEATS, longer, optimum
from studies.incontext.tables import LAST, ends


def test_the_best_actions_are_the_oracles():
    for goal in (0, 40, 77):
        env = metabench.make_vec("DarkRoom-v0", 1)
        oracle = metabench.spec("DarkRoom-v0").oracle
        assert oracle == "metabench.yardsticks.dark_room:dark_room"
        from metabench.yardsticks.dark_room import to_goal

        seen = np.array([[*divmod(cell, 9), goal] for cell in range(CELLS)], dtype=np.float64)
        assert np.array_equal(to_goal(seen), BEST[:, goal])
        env.close()


def test_weights_by_hand():
    believed = np.zeros(CELLS)
    believed[[3, 5, 8]] = (0.5, 0.3, 0.2)
    visited, keeps = np.zeros((2, CELLS), dtype=bool), np.ones((2, CELLS), dtype=bool)
    visited[0, 3], keeps[0, 5] = True, False
    left = weights(believed, visited, keeps)
    assert left[0, [3, 5, 8]] == pytest.approx([0, 0.0003 / 0.2003, 0.2 / 0.2003])
    assert left[1] == pytest.approx(believed)
    visited[1, [3, 5, 8]] = True
    assert weights(believed, visited, None)[1] == pytest.approx(np.full(CELLS, 1 / CELLS))
    assert draw(np.array([[0.2, 0.5, 0.3]] * 3), np.array([0.1, 0.6, 0.99])).tolist() == [0, 1, 2]
    assert prior(0.0).sum() == pytest.approx(1) and (prior(0.0) > 0).sum() == 55 and (prior(0.05) > 0).all()


def test_staying_with_what_one_began_finds_goals_that_drawing_every_step_does_not():
    """With the same knowledge, on goals that are seven or eight steps away; five per cent of the prior is on them."""
    hidden = np.repeat(goals("ood"), 2)
    found = {way: play(hidden, prior(0.05), way, episodes=40)[:, -5:].mean() for way in ("step", "answers", "goal")}
    assert found["step"] < 2 < 8 < min(found["answers"], found["goal"])


def test_a_walk_that_draws_every_step_gets_everywhere_in_episodes_of_a_hundred_steps():
    """As long as those of DPT's own code: there it is near the optimum within ten episodes, with 20 steps it is not."""
    hidden = np.repeat(goals("test"), 2)
    long = play(hidden, prior(0.05), "step", episodes=12, window=400, steps=100)[:, -3:].mean()
    short = play(hidden, prior(0.05), "step", episodes=12, window=400)[:, -3:].mean()
    assert long > 0.8 * 97 and short < 0.6 * 17


@pytest.mark.parametrize("split", ["test", "ood"])
def test_longer_episodes_of_the_same_goals(split):
    """Who knows the goal: as the oracle's reference in 20 steps, and 80 more ones on the goal in 100."""
    told = metabench.spec("DarkRoom-v0").references(split)["oracle"]["mean"]
    assert optimum(split, 20) == pytest.approx(told)
    assert optimum(split, 100) == pytest.approx(told + 80)
    returns = longer(load_agent("random", "DarkRoom-v0"), split, steps=30, episodes=2)
    assert returns.shape == (REPEATS * len(goals(split)), 2) and returns.min() >= 0 and returns.max() <= 30
    assert np.array_equal(returns, returns.round())


def test_goals_that_are_missed_at_the_end_and_those_found_before():
    returns = np.zeros((3, 2, 2 * LAST))  # [task, repeat, episode]
    returns[0, :, LAST:] = 1.0  # kept
    returns[1, 0, 3] = 5.0  # found once, in one trial
    assert ends(returns) == (2, 1)
    returns[2, :, -1] = 0.9 * LAST  # 0.9 on average
    assert ends(returns) == (2, 2)


def test_what_is_known_of_a_trial_is_what_came_before():
    reward = np.array([[1.0], [0.0], [1.0], [0.0], [0.0]])
    first = np.array([[True], [False], [False], [False], [True]])
    known = features(reward, first, np.zeros((5, 1, 2)))[:, 0]
    assert known[:, 1].tolist() == [0, 1, 1, 1, 0], "the key, within an episode"
    assert known[:, 2].tolist() == [0, 0, 0, 1, 0], "the door"
    assert known[:, 7].tolist() == [0, 1, 1, 1, 1], "whatever was found, through the trial"
    assert np.allclose(discounted(reward)[:, 0], [1 + DISCOUNT**2, DISCOUNT, 1, 0, 0])


def test_a_regression_explains_what_is_linear_and_no_more():
    x = np.random.default_rng(0).normal(size=(500, 2))
    given = np.column_stack((np.ones(500), x[:, 0]))
    assert np.isclose(explained(given, 3.0 - x[:, 0]), 1.0) and abs(explained(given, x[:, 1])) < 0.02


def test_what_a_belief_knows_of_places_is_counted_where_they_were_found(monkeypatch):
    """The key is found in every trial's first episode at (2, 3); the door in that of the first half at (4, 4)."""
    ticks, slots = places.EPISODES * places.STEPS, places.TRIALS
    observation, reward = torch.zeros(ticks, slots, 2), torch.zeros(ticks, slots)
    observation[7], reward[7] = torch.tensor([2.0, 3.0]), 1.0
    observation[9, : slots // 2], reward[9, : slots // 2] = torch.tensor([4.0, 4.0]), 1.0
    blank = torch.zeros(ticks, slots)
    trials = Trials(observation, blank.long(), reward, observation, blank.bool(), blank.long())
    logits = np.zeros((slots, 81))
    logits[:, 2 * 9 + 3], logits[:, 50], logits[:, 4 * 9 + 4] = 3.0, 2.0, 1.0
    monkeypatch.setattr(places, "paying", lambda model, belief, paid: logits)
    model = SimpleNamespace(beliefs=lambda trials: torch.zeros(ticks, slots, 1))
    told = places.report(model, ViewConfig(), trials)
    assert told["key, first"] == [1.0] * 4 and told["door, first"] == [0.0] * 4
    assert told["key, first 3"] == told["door, first 3"] == [1.0] * 4
