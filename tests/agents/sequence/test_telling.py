"""What z tells of the task is measured on tasks and behaviours that were not fitted on; drawn steps follow the data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.parts.run import stream
from metabench_agents.sequence import meta_dt
from metabench_agents.sequence.episodes import Actions, Episodes, load_episodes
from metabench_agents.sequence.trials import telling
from metabench_agents.sequence.trials.model import TrialModel, TrialTrainer, read_episodes, sibling_errors
from metabench_agents.sequence.trials.telling import (
    common_share,
    drawn_steps,
    explained,
    fit_probe,
    invariance,
    parameters,
)
from metabench_agents.sequence.world_model import TrialModelFitting, WorldModelSettings

import metabench
from metabench.datasets import generate

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


def told_by_reward(tasks=12, per=10, steps=12):
    """Where the behaviours know the task and walk by it, and uniform ones do not; the reward is task times place."""
    rng, parts = np.random.default_rng(0), ([], [], [], [])
    for task in range(tasks):
        value = np.linspace(-1, 1, tasks)[task]
        for number in range(per):
            drift = 0.8 * value if number % 2 else 0.0
            action = np.clip(drift + rng.uniform(-0.5, 0.5, (steps, 2)), -1, 1)
            place = np.concatenate([np.zeros((1, 2)), action.cumsum(0)])
            for part, column in zip(parts, (place, action, value * place[1:, 0], task), strict=True):
                part.append(column)
    return Episodes.of(*parts, Actions(BOX))


def test_a_model_of_trials_learns_to_foretell_other_episodes():
    episodes = told_by_reward()
    settings = WorldModelSettings(
        decoders="reward", context=4, width=24, trial=TrialModelFitting(updates=300, trials=16, stretch=8)
    )
    torch.manual_seed(0)
    model = TrialModel(2, 2, settings)
    model.learn_scales(episodes)
    trainer = TrialTrainer(model, episodes, episodes, settings)
    before = trainer.held_out()
    for number in range(300):
        metrics = trainer.update(torch.Generator().manual_seed(number))
    assert set(metrics) == {"loss", "reward_error", "sibling_error"}
    assert trainer.held_out() < 0.35 * before and trainer.held_out() == trainer.held_out()
    z, _ = read_episodes(model, episodes)
    error = sibling_errors(model, episodes, z)
    by_step = [float(error[episodes.first + t].mean()) for t in range(12)]
    assert by_step[8] < 0.5 * by_step[0], "what has been seen tells what other episodes will bring"


def test_without_siblings_the_trials_own_steps_alone_are_foretold():
    episodes = told_by_reward()
    settings = WorldModelSettings(
        decoders="reward", context=4, width=8, trial=TrialModelFitting(updates=4, trials=8, stretch=8, siblings=False)
    )
    torch.manual_seed(0)
    model = TrialModel(2, 2, settings)
    model.learn_scales(episodes)
    trainer = TrialTrainer(model, episodes, episodes, settings)
    total, metrics = trainer.loss(*trainer.draw(torch.Generator().manual_seed(0)))
    assert total.item() == pytest.approx(metrics["reward_error"].item()) and metrics["sibling_error"] > 0
    both = TrialTrainer(model, episodes, episodes, replace(settings, trial=replace(settings.trial, siblings=True)))
    assert trainer.held_out() != both.held_out()


def test_a_probe_reads_what_is_there_and_nothing_else():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(3000, 4, generator=rng)
    target = torch.stack((z[:, 0] * 0.8 + 0.6 * z[:, 1].abs(), torch.randn(3000, generator=rng)), dim=1)
    probe = fit_probe(z[:2000], target[:2000])
    left = (probe(z[2000:]) - target[2000:]).square().mean(dim=0)
    assert left[0] < 0.05 and left[1] > 0.8
    assert explained(probe, z[2000:], target[2000:]) == pytest.approx(float(1 - left.mean()), abs=1e-5)


def test_parameters_are_in_units_of_the_training_tasks_and_constants_are_left_out():
    training = torch.tensor([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
    found = parameters(torch.tensor([[3.0, 7.0], [7.0, 9.0]]), training)
    assert torch.allclose(found, torch.tensor([[0.0], [2.0]]))


def test_invariance_is_measured_by_behaviour_on_tasks_that_were_left_out():
    """One behaviour's z is the task, the other's is the number of its own task alone: a fold cannot know it."""
    episodes = told_by_reward()
    number = torch.arange(len(episodes)) % 2
    episodes = episodes.take(torch.arange(len(episodes)))
    object.__setattr__(episodes, "behaviours", ("blind", "telling"))
    object.__setattr__(episodes, "behaviour", number)
    tasks = torch.linspace(-1, 1, 12)[:, None]
    noise = torch.randn(12, generator=torch.Generator().manual_seed(1))
    owner = torch.repeat_interleave(torch.arange(len(episodes)), episodes.length + 1)
    known = torch.where(number[owner] == 1, tasks[episodes.task[owner], 0], 0.0)
    z = torch.stack((known, torch.where(number[owner] == 0, noise[episodes.task[owner]], 0.0)), dim=1)
    found = invariance(z, episodes, tasks)
    assert set(found["telling"]) == {1, 2, 4, 8} and min(found["telling"].values()) > 0.8
    assert max(found["blind"].values()) < 0.2
    assert invariance(z, episodes, torch.ones(12, 1)) == {}, "there is nothing to tell"


def moving(directions, per=10, steps=12):
    """Tasks whose good episodes go each its own way; the others stand."""
    episodes = told_by_reward(len(directions), per, steps)
    owner = torch.repeat_interleave(torch.arange(len(episodes)), episodes.length + 1)
    good = torch.arange(len(episodes)) % per == 3
    action = torch.where(good[owner, None], torch.tensor(directions)[episodes.task[owner]], episodes.action)
    togo = torch.where(good[owner], 100.0, 0.0)
    object.__setattr__(episodes, "action", action)
    object.__setattr__(episodes, "togo", togo)
    return episodes


def test_drawn_steps_follow_what_good_episodes_have_in_common():
    apart = moving([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    together = moving([[1.0, 0.2], [1.0, -0.2], [1.0, 0.1], [1.0, 0.0]])
    half = moving([[1.0, 1.0], [1.0, -1.0]])
    assert common_share(apart) == pytest.approx(0.0, abs=1e-6)
    assert common_share(half) == pytest.approx(0.5)
    assert common_share(together) == pytest.approx(1.0 / np.mean([1.04, 1.04, 1.01, 1.0]) * (1 + 0.025**2), rel=1e-3)
    assert drawn_steps(together) == 0 == drawn_steps(half) and drawn_steps(apart) == 4
    error = torch.ones(len(apart.reward))
    for t in range(12):
        error[apart.first + t] = 1.0 - 0.1 * min(t, 6)
    assert drawn_steps(apart, error) == 6, "at step 6 all is known that will be, at step 5 five sixths"
    slow = torch.ones(len(apart.reward))
    for t in range(12):
        slow[apart.first + t] = 1.0 - 0.05 * t
    assert drawn_steps(apart, slow) == 8, "no more than eight"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    for quality, split in (("mixed-2", "train"), ("random", "test"), ("expert", "test")):
        generate(f"point-robot/{quality}-v0", split)


@pytest.mark.slow
def test_z_tells_goals_whatever_the_behaviour(data):
    """PointRobot: what Meta-DT claims of its z, held to a number: 0.9 at step 8 under actions that know nothing."""
    codec = Actions(metabench.spec("PointRobot-v0").family().action_space)
    table = metabench.spec("PointRobot-v0").table()
    tasks = {s: torch.as_tensor(np.asarray(table.rows[s], np.float32)) for s in ("train", "test")}
    learn = load_episodes("PointRobot-v0", "mixed-2", "train", codec)
    assert learn.behaviours[0] == "uniform actions" and torch.bincount(learn.behaviour).tolist() == [1350, 1800, 1350]
    fitting = TrialModelFitting(updates=3_000, asked=16, learning_rate=3e-3)
    settings = WorldModelSettings(decoders="reward", width=64, trial=fitting)
    torch.manual_seed(0)
    model = TrialModel(2, 2, settings)
    model.learn_scales(learn)
    trainer = TrialTrainer(model, learn, learn, settings)
    for number in range(3_000):
        trainer.update(stream(0, number))
    z, _ = read_episodes(model, learn)
    target = parameters(tasks["train"], tasks["train"])[learn.task]
    owner = torch.repeat_interleave(torch.arange(len(learn)), learn.length)
    probe = fit_probe(z[learn.rows()[0]], target[owner])
    found = {}
    for quality in ("random", "expert"):
        met = load_episodes("PointRobot-v0", quality, "test", codec)
        goals = parameters(tasks["test"], tasks["train"])[met.task]
        found[quality] = telling.tells(read_episodes(model, met)[0], met, goals, probe)
    error = sibling_errors(model, learn, z)
    print(found, telling.invariance(z, learn, tasks["train"]), meta_dt.drawn_steps(learn, error))
    assert found["random"][8] >= 0.9 and found["random"][16] >= 0.9 and found["expert"][4] >= 0.9
