"""Both actor-critics find the better actions of the data, task by task, and BRAC's alpha follows the divergence."""

import pytest
import torch
from metabench_agents.context.actor_critic import ActionScale
from metabench_agents.context.offline.actor_critic import (
    ActorCriticConfig,
    BRACConfig,
    Draws,
    OfflineActorCritic,
    OfflineLearner,
    iql_loss,
)
from metabench_agents.context.replay import Transitions

import metabench

FAMILY = metabench.spec("PointRobot-v0").family()


def learner(kind, **changes):
    torch.manual_seed(0)
    config = ActorCriticConfig(kind=kind, hidden=32, learning_rate=3e-3, discount=0.0, **changes)
    network = OfflineActorCritic(FAMILY.observation_fields, ActionScale(FAMILY.action_space), 1, config)
    return OfflineLearner(network)


def batch(generator, rows=64, terminal=0.0):
    """Two tasks that want the first action at 0.6 and at -0.6; data lie evenly between -0.8 and 0.8."""
    action = 1.6 * torch.rand(2, rows, 2, generator=generator) - 0.8
    seen = torch.randn(2, rows, 2, generator=generator)
    wanted = torch.tensor([0.6, -0.6])[:, None]
    reward = -3.0 * (action[..., 0] - wanted).abs()
    return Transitions(seen, action, reward, seen, torch.full((2, rows), terminal))


Z = torch.tensor([[1.0], [-1.0]])


def update(own, generator, batches):
    """One update; all batches but the first are the dual critic's."""
    drawn = [batch(generator) for _ in range(batches)]
    return own.update(drawn, Z, [Draws.of(part, generator) for part in drawn])


@pytest.mark.parametrize("kind", ["iql", "brac"])
def test_the_policy_goes_where_the_task_pays(kind):
    brac = BRACConfig(alpha=1.0, alpha_rate=0.0, dual_rate=1e-3)
    own, generator = learner(kind, brac=brac), torch.Generator().manual_seed(0)
    for _ in range(250):
        update(own, generator, 4 if kind == "brac" else 1)
    seen = torch.zeros(2, 2)
    action = own.network.act(own.network.see(seen, Z)).detach()
    assert float(action[0, 0]) > 0.3 and float(action[1, 0]) < -0.3
    assert float(action[:, 1].abs().max()) < 0.35, "nothing is to be had along the second axis"


@pytest.mark.parametrize(("target", "direction"), [(-10.0, 1), (10.0, -1)])
def test_alpha_follows_the_divergence(target, direction):
    own = learner("brac", brac=BRACConfig(alpha=100.0, divergence=target))
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        metrics = update(own, generator, 2)
    assert direction * (float(own.network.alpha) - 100.0) > 10.0
    assert float(metrics["alpha"]) == float(own.network.alpha)
    own.network.alpha.fill_(1999.0)
    update(own, generator, 2)
    assert float(own.network.alpha) <= 2000.0


def test_iqls_loss_is_its_three_parts_and_nothing_follows_an_end():
    own, generator = learner("iql"), torch.Generator().manual_seed(0)
    wide = Z[:, None].expand(-1, 64, -1)
    total, metrics = iql_loss(own.network, batch(generator), wide)
    parts = [metrics[name] for name in ("policy_loss", "critic_loss", "value_loss")]
    assert torch.allclose(total.detach(), torch.stack(parts).sum())
    generator.manual_seed(1)
    ended, goes_on = (batch(generator.manual_seed(1), terminal=t) for t in (1.0, 0.0))
    torch.manual_seed(0)
    patient = OfflineActorCritic(
        FAMILY.observation_fields, ActionScale(FAMILY.action_space), 1, ActorCriticConfig(hidden=32, discount=0.9)
    )
    with torch.no_grad():
        for parameter in patient.value.parameters():
            parameter.fill_(1.0)
    losses = [float(iql_loss(patient, b, wide)[1]["critic_loss"]) for b in (ended, goes_on)]
    assert losses[1] > 100.0 * losses[0], "the value of what follows enters where the episode goes on, and only there"


@pytest.mark.parametrize("kind", ["iql", "brac"])
def test_slow_copies_follow(kind):
    own, generator = learner(kind), torch.Generator().manual_seed(0)
    names = {"iql": {"q1", "q2"}, "brac": {"value"}}[kind]
    assert set(own.network.slow) == names
    name = min(names)
    before = [p.clone() for p in own.network.slow[name].parameters()]
    update(own, generator, 2)
    now = getattr(own.network, name).parameters()
    for old, slow, fast in zip(before, own.network.slow[name].parameters(), now, strict=True):
        assert torch.allclose(slow, old + 5e-3 * (fast - old), atol=1e-7) and not slow.requires_grad
