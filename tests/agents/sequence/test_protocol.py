"""What a sequence agent remembers of how an episode ended: all of it under slots-2, nothing under slots-1."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.sequence.decision_transformer import DecisionTransformer, DecisionTransformerSettings
from metabench_agents.sequence.episodes import Actions
from metabench_agents.sequence.playing import PlayingSettings, SequenceAgent
from metabench_agents.sequence.targets import Asking, TargetSettings

import metabench
from metabench.evaluation.play import Stream
from metabench.leaderboard.records import Results
from metabench.plugins import load_plugin

BOX = spaces.Box(-2.0, 2.0, (2,), np.float32)
BOARD = Path(__file__).parents[3] / "leaderboards" / "point-robot"
LENGTHS = [3, 2]  # of two episodes of one trial; of the other trial [2, 3]: they are out of step
REWARD = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0], [16.0, 160.0]])  # [tick, trial]
ENDS = np.array([[0, 0], [0, 1], [1, 0], [0, 0], [1, 1]], dtype=bool)


def agent(protocol, target=100.0):
    torch.manual_seed(0)
    net = DecisionTransformer(3, 2, 10, 0, DecisionTransformerSettings(window=6, layers=1, width=16))
    net.return_scale = torch.tensor(4.0)
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    kind = TargetSettings("expectile" if target is None else "return", every_step=True)
    asking = Asking(net, kind, torch.tensor(target or torch.inf), 0)
    return SequenceAgent(net, Actions(BOX), "t", asking, PlayingSettings(explore=0), protocol=protocol)


def play(player, version):
    """Two trials of two episodes and the tick after them; what was seen, the ends and the actions."""
    rng = np.random.default_rng(0)
    seen, ends = rng.normal(size=(6, 2, 3)).astype(np.float32), rng.normal(size=(5, 2, 3)).astype(np.float32)
    stream, belief, actions = Stream(seen[0], BOX, version), player.begin(2), []
    for t in range(6):
        action, belief = player.act(stream.timestep(), belief)
        actions.append(action)
        if t < 5:
            stream.advance(action, seen[t + 1], REWARD[t], ENDS[t], ends[t])
    return belief.ticks, ends, np.stack(actions)


@pytest.mark.parametrize("version", ["slots-1", "slots-2"])
def test_two_episodes_are_remembered(version):
    ticks, ends, actions = play(agent(version), version)
    assert torch.equal(torch.stack([t.time for t in ticks]).T, torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 0]]))
    for t, tick in enumerate(ticks):
        assert np.allclose(tick.action * 2.0, actions[t], atol=1e-6)
        if t == 0:
            assert tick.first.all() and not tick.reward.any() and not tick.final.any()
            continue
        begun = ENDS[t - 1]
        assert np.array_equal(tick.first, begun)
        shown = REWARD[t - 1] if version == "slots-2" else np.where(begun, 0.0, REWARD[t - 1])
        assert np.array_equal(tick.reward, shown)
        assert np.array_equal(tick.last_reward, np.where(begun, 0.0, REWARD[t - 1])), "the network is shown no other"
        final = np.where(begun[:, None] & (version == "slots-2"), ends[t - 1], 0.0)
        assert np.array_equal(tick.final, final)


@pytest.mark.parametrize("version", ["slots-1", "slots-2"])
def test_an_episode_asks_anew_and_its_rewards_lower_what_is_asked(version):
    ticks, _, _ = play(agent(version), version)
    asked = torch.stack([t.togo for t in ticks]).T * 4.0
    assert torch.allclose(asked[0], torch.tensor([100.0, 99.0, 97.0, 100.0, 92.0, 100.0]))
    assert torch.allclose(asked[1], torch.tensor([100.0, 90.0, 100.0, 60.0, -20.0, 100.0]))


def test_what_ended_an_episode_reaches_no_action_of_the_next():
    """Without prompts nothing is kept from one episode to the next, whatever is shown between them."""
    _, _, before = play(agent("slots-1"), "slots-1")
    for version in ("slots-1", "slots-2"):
        _, _, told = play(agent(version, None), "slots-2")
        _, _, blind = play(agent(version, None), "slots-1")
        assert np.array_equal(told, blind)
    assert np.array_equal(play(agent("slots-2"), "slots-2")[2], before)


def test_an_agent_of_slots_1_forgets_what_slots_2_would_tell_it():
    ticks, _, _ = play(agent("slots-1"), "slots-2")
    assert not any(t.final.any() or t.reward[t.first].any() for t in ticks)
    with pytest.raises(ValueError, match="unknown version 'slots-9'"):
        agent("slots-9")


def returns_of(name, run, folder):
    """The returns of a published policy in its entry, and those it has when it is played here."""
    (entry,) = BOARD.glob(f"{name}/*")
    published = Results.model_validate(json.loads((entry / "result.json").read_text())).results[run]
    for file, target in (("config.json", "config.json"), ("policy.safetensors", "checkpoint.safetensors")):
        shutil.copy(entry / "policies" / f"run_{run:03d}" / file, folder / target)
    player = load_plugin(name).load(folder)  # pyright: ignore[reportAttributeAccessIssue]
    assert player.protocol == published.protocol.version == "slots-1"
    assert metabench.evaluate(player, "PointRobot-v0").protocol.version == "slots-1"
    return published.array(), metabench.evaluate(player, published.protocol).array()


NAMES = ("bc", "dt", "prompt-dt", "meta-dt")


@pytest.mark.parametrize("name", NAMES)
def test_a_published_policy_reaches_what_its_entry_says(name, tmp_path):
    """To what other processors round otherwise: measured, 1e-5 after forty steps."""
    published, played = returns_of(name, 0, tmp_path)
    assert np.allclose(published, played, atol=1e-4, rtol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("run", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_every_published_policy_reaches_what_its_entry_says(name, run, tmp_path):
    published, played = returns_of(name, run, tmp_path)
    assert np.allclose(published, played, atol=1e-4, rtol=0.0)
