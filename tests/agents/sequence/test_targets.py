"""What is asked for at every step of a hand-made trial, under each way of asking, and what a rank teaches."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.sequence.decision_transformer import (
    DecisionTransformer,
    DecisionTransformerSettings,
    TransformerFitting,
    TransformerTrainer,
    loss,
)
from metabench_agents.sequence.episodes import Actions, Window
from metabench_agents.sequence.playing import PlayingSettings, SequenceAgent
from metabench_agents.sequence.targets import Asking, TargetSettings

from metabench import Timestep

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
SCALE = 4.0
FIRST = [True, False, False, False, True, False, False]  # a trial of two episodes
REWARD = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]  # at each tick, the one before; 8 ended the first episode


def network():
    torch.manual_seed(0)
    net = DecisionTransformer(3, 2, 10, 0, DecisionTransformerSettings(window=6, layers=1, width=16, dropout=0.0))
    net.return_scale = torch.tensor(SCALE)
    return net


def asked(settings, value=torch.inf, explore=0):
    """What is asked for at every tick, in the environment's units, and what the network hopes for there."""
    net = network()
    value = value if callable(value) else torch.tensor(value)
    asking = Asking(net, settings, value, explore)
    agent = SequenceAgent(net, Actions(BOX), "t", asking, PlayingSettings(explore=explore))
    rng, belief = np.random.default_rng(0), agent.begin(1)
    for first, reward in zip(FIRST, REWARD, strict=True):
        seen = rng.normal(size=(1, 3 + agent.privileged)).astype(np.float32)
        step = Timestep(seen, np.zeros((1, 2)), np.array([reward]), np.array([first]), np.zeros_like(seen))
        belief = agent.act(step, belief)[1]
    hopes = []
    for tick in belief.ticks:
        with torch.no_grad():
            hopes.append(float(net.aspire(tick.observation, tick.last_reward, tick.time, tick.context)) * SCALE)
    return [float(tick.togo) * SCALE for tick in belief.ticks], hopes


def test_a_rank_is_one_at_every_step():
    found, _ = asked(TargetSettings("rank"))
    assert found == [SCALE] * 7, "a rank is no return: it is not divided by the return scale"


@pytest.mark.parametrize("value", [50.0, lambda task: torch.full((len(task),), 50.0)], ids=["one", "of the task"])
def test_a_return_falls_by_the_rewards(value):
    found, _ = asked(TargetSettings("return"), value)
    assert found == [50.0, 49.0, 47.0, 43.0, 50.0, 34.0, 2.0]


def test_an_expectile_is_asked_once_an_episode_and_falls_by_the_rewards():
    found, hopes = asked(TargetSettings("expectile"))
    expected = [hopes[0], hopes[0] - 1, hopes[0] - 3, hopes[0] - 7, hopes[4], hopes[4] - 16, hopes[4] - 48]
    assert np.allclose(found, expected, atol=1e-4)


def test_an_expectile_is_asked_again_when_the_drawn_steps_have_told_something():
    """Two drawn steps; in the second episode there are none."""
    found, hopes = asked(TargetSettings("expectile"), explore=2)
    expected = [*hopes[:3], hopes[2] - 4, hopes[4], hopes[4] - 16, hopes[4] - 48]
    assert np.allclose(found, expected, atol=1e-4)


def test_asked_at_every_step_nothing_falls():
    found, hopes = asked(TargetSettings("expectile", every_step=True))
    assert np.allclose(found, hopes, atol=1e-5) and len(set(found)) == 7


def test_a_rank_and_a_tasks_own_return_exclude_each_other():
    with pytest.raises(ValueError, match="cannot ask for a task's return"):
        Asking(network(), TargetSettings("rank"), lambda task: task[:, 0], 0)


def test_a_network_of_ranks_is_told_them_while_learning():
    """Its updates are those on windows whose returns to go are the ranks, whatever the returns are."""
    rng = torch.Generator().manual_seed(1)
    shapes = ((4, 6, 3), (4, 6, 0), (4, 6, 2), (4, 6))
    parts = [torch.randn(shape, generator=rng) for shape in shapes]
    time, real = torch.arange(6).expand(4, 6), torch.ones(4, 6, dtype=torch.bool)
    rank = torch.tensor([0.0, 0.25, 0.75, 1.0])[:, None].expand(4, 6)
    window = Window(*parts, time, real, parts[3], rank)
    net = network()
    expected = float(loss(net, window._replace(togo=rank), None)[0].detach())
    trainer = TransformerTrainer(net, TransformerFitting(warmup=1), ranked=True)
    before = [p.clone() for p in net.aspiration.parameters()]
    metrics = trainer.update(window, None, 0, torch.Generator())
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, net.aspiration.parameters(), strict=True))
