"""The tabular learner: its update by hand, its beliefs, and that it learns."""

import numpy as np
import pytest

import metabench
from metabench import Timestep
from metabench.evaluation.results import Protocol
from metabench.plugins import load_plugin
from metabench.yardsticks.q_learning import Learning, QLearner, learning_of, q_learner


def step(cell, action, reward, first=False, final=(0, 0)):
    observation = np.array([[cell // 5, cell % 5]], np.float32)
    return Timestep(
        observation, np.array([action]), np.array([reward]), np.array([first]), np.array([final], np.float32)
    )


def test_updates_by_hand():
    """Cells 0 -> 1 -> end of the episode in 6: Q(0, a) and Q(1, b) move half way to r + 0.9 max Q."""
    agent = QLearner(Learning(5, rate=0.5, discount=0.9, optimism=1.0, first=0.0, last=0.0), 5, 2, 0, False, False)
    a, belief = agent.act(step(0, 0, 0.0, True), agent.begin(1))
    b, belief = agent.act(step(1, a[0], 2.0), belief)
    assert belief.table[0, 0, a[0]] == pytest.approx(0.5 * 1.0 + 0.5 * (2.0 + 0.9 * 1.0))
    assert np.delete(belief.table[0].ravel(), a[0]) == pytest.approx(1.0)
    _, belief = agent.act(step(0, b[0], -1.0, True, (1, 1)), belief)
    assert belief.table[0, 1, b[0]] == pytest.approx(0.5 * 1.0 + 0.5 * (-1.0 + 0.9 * 1.0))
    assert belief.episode.tolist() == [1]


@pytest.mark.parametrize("id", ["DarkRoom-v0", "DarkKeyToDoor-v0", "GridNavigation-v0", "GridSwitch-v0"])
def test_learners_learn_keep_beliefs_and_do_not_look_at_the_task(id):
    agents = [q_learner(id, 0), q_learner(id, 0, in_place=True), q_learner(id, 0, shown=True)]
    episodes = 25
    protocol = Protocol(benchmark=id, split="ood", episodes=episodes, repeats=1, seed=0)
    curves = [metabench.evaluate(agent, protocol).trials() for agent in agents]
    assert np.array_equal(curves[0], curves[1]) and np.array_equal(curves[0], curves[2])
    assert curves[0][:, -5:].mean() > curves[0][:, :5].mean() + 0.05


def test_beliefs_are_values():
    agent = load_plugin("q-learning").build("DarkRoom-v0", "test", 0)
    _, belief = agent.act(step(0, 0, 0.0, True), agent.begin(1))
    table = belief.table.copy()
    first, _ = agent.act(step(1, 2, 1.0), belief)
    again, _ = agent.act(step(1, 2, 1.0), belief)
    assert np.array_equal(belief.table, table) and np.array_equal(first, again)


def test_rewards_tell_the_state():
    """GridSwitch: the first candidate was found not to pay, so the second does."""
    learning = learning_of("GridSwitch-v0")
    observation, nothing = np.array([[2, 2, 0, 1, 3, 4]], np.float32), np.zeros(1, int)
    for cell, reward, told in ((1, -0.1, 2), (1, 1.0, 1), (19, 1.0, 2), (19, -0.1, 1), (7, -0.1, 0)):
        assert learning.tell(nothing, np.array([cell]), np.array([reward]), observation).tolist() == [told]
    key = learning_of("DarkKeyToDoor-v0").tell
    assert key(np.array([0, 1, 2]), nothing, np.array([1.0, 1.0, 0.0]), observation).tolist() == [1, 2, 2]


def test_it_says_where_it_is_defined():
    with pytest.raises(ValueError, match="no tabular learner for PointRobot-v0"):
        load_plugin("q-learning").build("PointRobot-v0", "test", 0)
