"""Histories of tabular learners: every episode of each in order, with the oracle's exact actions."""

import numpy as np
import pytest

from metabench.datasets import generate, load_dataset
from metabench.datasets.ids import DatasetId
from metabench.datasets.recipe import standard_episodes
from metabench.datasets.verify import verify
from metabench.yardsticks.grid_switch import walk


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    generate("grid-navigation/history-v0", "test", episodes=150, root=root)
    return load_dataset("grid-navigation/history-v0", "test", root=root)


def test_each_learner_has_all_its_episodes_in_order_and_gets_better(history):
    episodes = history.episodes
    assert len(episodes) == 5 * 150 and (episodes["place"] == np.tile(np.arange(50), 15)).all()
    assert (episodes["task"] == np.repeat(np.arange(5), 150)).all()
    returns = episodes["return"].reshape(15, 50)
    assert returns[:, -10:].mean() > returns[:, :10].mean() + 5
    assert not (returns[0] == returns[1]).all(), "two learners of one task are two"
    assert not verify(history.folder, replay=4)


def test_the_expert_action_is_the_oracles(history):
    seen = np.array(history.column("observation")).astype(np.int64)
    task = np.repeat(history.episodes["task"], history.episodes["length"])
    goal = history_goals()[task]
    assert np.array_equal(history.expert_actions(), walk(seen[:, 0] * 5 + seen[:, 1], goal))


def history_goals():
    import metabench

    return metabench.spec("GridNavigation-v0").table().rows["test"][:, 0].astype(np.int64)


def test_the_same_bytes_again_and_plain_refusals(history, tmp_path):
    again = generate("grid-navigation/history-v0", "test", episodes=150, root=tmp_path)
    assert load_dataset(again).manifest.to_bytes() == history.manifest.to_bytes()
    with pytest.raises(ValueError, match="learns for 50 episodes, so episodes must be a multiple, got 60"):
        generate("grid-navigation/history-v0", "test", episodes=60, root=tmp_path / "b")
    with pytest.raises(ValueError, match="no tabular learner for PointRobot-v0"):
        generate("point-robot/history-v0", "test", root=tmp_path)


def test_there_are_two_thousand_learners_unless_asked_otherwise():
    assert standard_episodes(DatasetId.parse("dark-room/history-v0"), "train") == 37 * 100
    assert standard_episodes(DatasetId.parse("dark-room/medium-v0"), "train") == 100
