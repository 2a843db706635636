"""Copies of data with the rewards of other tasks: what each step is paid, and what a world model then reads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from metabench_agents.parts.run import Run, stream
from metabench_agents.sequence import meta_dt
from metabench_agents.sequence.episodes import Actions, hold_out, load_episodes
from metabench_agents.sequence.trials.relabelling import in_all_copies, relabelled

import metabench
from metabench.datasets import generate

POINT = "PointRobot-v0"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(generate("point-robot/expert-v0", "test", episodes=20, root=tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def episodes(data):
    return load_episodes(POINT, data, "test", Actions(metabench.spec(POINT).family().action_space))


def test_copies_are_paid_as_their_tasks_pay(episodes):
    codec, count = Actions(metabench.spec(POINT).family().action_space), len(episodes)
    found = relabelled(episodes, POINT, "test", codec, 2, stream(0))
    assert len(found) == 3 * count
    goals = torch.from_numpy(np.array(metabench.spec(POINT).table().rows["test"], np.float64))
    for e in (0, 7, count, count + 7, 2 * count + 31):
        rows = found.first[e] + torch.arange(int(found.length[e]))
        own = episodes.first[e % count] + torch.arange(int(found.length[e]))
        assert torch.equal(found.observation[rows], episodes.observation[own])
        assert torch.equal(found.action[rows], episodes.action[own])
        expected = -(found.observation[rows + 1, :2].double() - goals[found.task[e]]).norm(dim=1)
        assert torch.allclose(found.reward[rows].double(), expected, atol=1e-5)
        assert found.returns[e] == pytest.approx(float(expected.sum()), abs=1e-3)
    assert torch.equal(found.task[:count], episodes.task) and torch.equal(
        found.reward[: len(episodes.reward)], episodes.reward
    )
    for copy in (found.task[count : 2 * count], found.task[2 * count :]):
        assert (copy != episodes.task).all() and set(copy.tolist()) == set(episodes.task.tolist())
    assert torch.equal(relabelled(episodes, POINT, "test", codec, 2, stream(0)).task, found.task)


def test_what_is_held_out_is_held_out_in_every_copy(episodes):
    learn, held = (in_all_copies(numbers, len(episodes), 2) for numbers in hold_out(episodes))
    assert len(learn) + len(held) == 3 * len(episodes)
    assert not set((learn % len(episodes)).tolist()) & set((held % len(episodes)).tolist())


def test_one_task_is_refused(episodes):
    alone = replace(episodes, task=torch.zeros_like(episodes.task))
    with pytest.raises(ValueError, match="at least two tasks"):
        relabelled(alone, POINT, "test", Actions(metabench.spec(POINT).family().action_space), 1, stream(0))


def test_a_run_learns_from_them_and_is_its_seed(data, tmp_path):
    config = meta_dt.Config(data=data, split="test")
    world = replace(
        config.world_model,
        sees="trial",
        width=8,
        relabelled=2,
        trial=replace(config.world_model.trial, updates=20, trials=4),
    )
    small = replace(config.transformer, layers=1, width=8, window=1)
    config = replace(config, world_model=world, transformer=small, fitting=replace(config.fitting, updates=10, batch=8))
    returns = []
    for name in ("one", "two"):
        agent = meta_dt.train(POINT, config, seed=0, run=Run(tmp_path / name, show=False))
        returns.append(metabench.evaluate(agent, POINT).returns)
    assert returns[0] == returns[1] == metabench.evaluate(meta_dt.load(tmp_path / "one"), POINT).returns
