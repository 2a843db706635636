"""The world model of whole trials: z is read step by step, is kept between episodes, and is the same at play."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.sequence.episodes import Actions, Episodes
from metabench_agents.sequence.playing import SequenceTick
from metabench_agents.sequence.prompts import SegmentSettings
from metabench_agents.sequence.trials.model import (
    TrialModel,
    TrialStep,
    TrialSurprise,
    read_episodes,
    steps_of,
    trial_errors,
)
from metabench_agents.sequence.world_model import WorldModelSettings

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
LENGTHS = (9, 6, 9, 4)


def some_episodes(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    return Episodes.of(
        [rng.normal(2.0, 3.0, (n + 1, 3)) for n in lengths],
        [rng.uniform(-1, 1, (n, 2)) for n in lengths],
        [rng.normal(5.0, 2.0, size=n) for n in lengths],
        np.arange(len(lengths)) % 2,
        Actions(BOX),
    )


def a_model(decoders="both", **changes):
    torch.manual_seed(0)
    model = TrialModel(3, 2, replace(WorldModelSettings(decoders=decoders, context=5, width=7), **changes))
    model.learn_scales(some_episodes())
    return model


def by_hand(model, episodes, order):
    """Z before every step of these episodes one after the other, and after the last; with torch's own recurrence."""
    hidden, out = torch.zeros(1, 1, model.width), []
    for episode in order:
        for t in range(int(episodes.length[episode])):
            row = int(episodes.first[episode]) + t
            out.append(model.out(hidden[0, 0]))
            change = (episodes.observation[row + 1] - episodes.observation[row]) / model.change
            got = (episodes.reward[row] - model.reward_mean) / model.reward_std
            more = (episodes.reward[row] - episodes.reward[row - 1]) / model.reward_change if t else torch.zeros(())
            told = torch.stack((got, more, torch.tensor(float(t == 0))))
            seen = (episodes.observation[row] - model.mean) / model.std
            x = torch.cat((seen, change, episodes.action[row], told))
            hidden = model.recurrence(torch.relu(model.embed(x))[None, None], hidden)[1]
        out.append(model.out(hidden[0, 0]))
    return torch.stack(out).detach()


def test_z_is_read_from_all_steps_of_the_trial_so_far():
    model, episodes = a_model(), some_episodes()
    z, memory = read_episodes(model, episodes)
    for e in range(len(episodes)):
        rows = episodes.first[e] + torch.arange(int(episodes.length[e]) + 1)
        assert torch.allclose(z[rows], by_hand(model, episodes, [e]), atol=1e-5)
    again, _ = read_episodes(model, episodes, memory[[1, 0, 3, 2]])
    for e, before in enumerate([1, 0, 3, 2]):
        rows = episodes.first[e] + torch.arange(int(episodes.length[e]) + 1)
        expected = by_hand(model, episodes, [before, e])[int(episodes.length[before]) + 1 :]
        assert torch.allclose(again[rows], expected, atol=1e-5)


def ticks_of(episodes, order):
    """One trial of these episodes, as an agent would have played them, and the tick after it."""
    ticks, zero = [], torch.zeros(1)
    reward, final = zero, torch.zeros(1, 3)
    for episode in order:
        for t in range(int(episodes.length[episode])):
            row = int(episodes.first[episode]) + t
            first, time = torch.tensor([t == 0]), torch.tensor([t])
            shown = final if t == 0 else torch.zeros(1, 3)
            parts = (episodes.observation[row][None], reward, first, time, zero, torch.zeros(1, 5))
            ticks.append(SequenceTick(*parts, episodes.action[row][None], shown))
            reward, final = episodes.reward[row][None], episodes.observation[row + 1][None]
    parts = (torch.full((1, 3), 9.0), reward, torch.tensor([True]), torch.tensor([0]), zero, torch.zeros(1, 5))
    return [*ticks, SequenceTick(*parts, torch.zeros(1, 2), final)]


def surprise(model, protocol="slots-2"):
    return TrialSurprise.of(model, WorldModelSettings(history=2), SegmentSettings(length=2), (), protocol)


@pytest.mark.parametrize("protocol", ["slots-2", "slots-1"])
def test_z_at_play_is_z_while_learning(protocol):
    """Over two episodes; under slots-1 an episode's last step is not told."""
    model, episodes = a_model(), some_episodes()
    recall, played = surprise(model, protocol), []
    for tick in ticks_of(episodes, [0, 1]):
        played.append(recall.recall(tuple(played), tick))
    found = torch.cat([tick.context for tick in played]).detach()
    expected = by_hand(model, episodes, [0, 1])
    assert torch.allclose(found[:9], expected[:9], atol=1e-5)
    if protocol == "slots-2":  # the z after an episode is the one the next begins with
        assert torch.allclose(found[9:], torch.cat((expected[9:10], expected[11:])), atol=1e-5)
    else:
        assert torch.allclose(found[9], found[8])


@pytest.mark.parametrize("decoders", ["reward", "state", "both"])
def test_errors_are_in_deviations_and_the_same_at_play(decoders):
    model, episodes = a_model(decoders), some_episodes()
    z, _ = read_episodes(model, episodes)
    error = trial_errors(model, episodes, z)
    row = int(episodes.first[2]) + 5
    step = TrialStep(*(column[0] for column in steps_of(episodes, torch.tensor([2]), torch.tensor([5]))))
    reward, state = model.foretell(z[row], step)
    expected = 0.0
    if reward is not None:
        expected += abs(float((reward - (episodes.reward[row] - model.reward_mean) / model.reward_std).detach()))
    if state is not None:
        change = (episodes.observation[row + 1] - episodes.observation[row]) / model.change
        expected += float((state - change).abs().sum().detach())
    assert float(error[row]) == pytest.approx(expected, rel=1e-4)
    assert not error[episodes.first + episodes.length].any()
    recall, played = surprise(model), []
    for tick in ticks_of(episodes, [2]):
        played.append(recall.recall(tuple(played), tick))
    at_play = recall.errors(tuple(played[:-1]), played[-1]).detach()
    assert torch.allclose(at_play[0], error[episodes.first[2] + torch.arange(9)], atol=1e-5)
    choice = recall.choose(tuple(played[:-1]), played[-1])
    sums = [float(at_play[0, start : start + 2].sum()) for start in range(2, 8)]
    assert choice.prompt.time[0].tolist() == [2 + int(np.argmax(sums)), 3 + int(np.argmax(sums))]
