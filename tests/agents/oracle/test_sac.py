"""The soft actor-critic update against torch's own optimiser, autograd, distributions and a plain rewriting."""

import math

import pytest
import torch
from metabench_agents.parts.device import Device
from metabench_agents.parts.fast import sac
from metabench_agents.parts.fast.sac import SAC, Noise, SACBatch, SACConfig
from metabench_agents.parts.memory import Replay

S, A, B = 5, 3, 16
CONFIG = SACConfig(hidden=8, batch=B)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    r = lambda *shape: torch.randn(shape, generator=g)  # noqa: E731
    terminal = (torch.rand(B, generator=g) < 0.3).float()
    return SACBatch(r(B, S), torch.tanh(r(B, A)), r(B), r(B, S), terminal)


@pytest.fixture
def state():
    return sac.initial_state(S, A, CONFIG, torch.Generator().manual_seed(0))


def noise(seed=2):
    drawn = torch.randn((2, B, A), generator=torch.Generator().manual_seed(seed))
    return Noise(drawn[0], drawn[1])


def plain_net(net, x, copy=0):
    for layer in range(3):
        x = x @ net[2 * layer][copy] + net[2 * layer + 1][copy, 0]
        x = torch.relu(x) if layer < 2 else x
    return x


def plain_policy(net, observation, eps):
    """The same by torch.distributions."""
    mean, raw = plain_net(net, observation).chunk(2, -1)
    log_std = -5.0 + 3.5 * (torch.tanh(raw) + 1.0)
    normal = torch.distributions.Normal(mean, log_std.exp())
    u = mean + log_std.exp() * eps
    return torch.tanh(u), (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2 + 1e-6)).sum(-1)


def test_log_density_is_that_of_a_squashed_gaussian(state, batch):
    action, log_prob = sac.sample(state.actor, batch.observation, noise().here)
    expected_action, expected = plain_policy(state.actor, batch.observation, noise().here)
    torch.testing.assert_close(action, expected_action)
    torch.testing.assert_close(log_prob, expected)


def test_density_integrates_to_one():
    """One action dimension, one state: the density over (-1, 1) sums to 1."""
    net = sac.initial_net(1, (1, 4, 4, 2), torch.Generator().manual_seed(3))
    mean, log_std = sac.gaussian(net, torch.ones(1, 1))
    a = torch.linspace(-0.99999, 0.99999, 200_001)
    u = torch.atanh(a)
    eps = (u - mean[0, 0]) / log_std[0, 0].exp()
    log_prob = -0.5 * eps**2 - log_std[0, 0] - 0.5 * math.log(2 * math.pi) - torch.log(1 - a**2 + 1e-6)
    assert torch.trapezoid(log_prob.exp(), a).item() == pytest.approx(1.0, abs=2e-3)


def test_target_by_hand(state, batch):
    alpha = torch.tensor([0.3])
    ours = sac.soft_target(state.target, state.actor, batch, noise().following, alpha, CONFIG)
    action, log_prob = plain_policy(state.actor, batch.next_observation, noise().following)
    both = [plain_net(state.target, torch.cat((batch.next_observation, action), -1), k)[:, 0] for k in (0, 1)]
    expected = batch.reward + 0.99 * (1 - batch.terminal) * (torch.minimum(*both) - 0.3 * log_prob)
    torch.testing.assert_close(ours, expected)
    assert (ours[batch.terminal == 1] == batch.reward[batch.terminal == 1]).all()


def test_update_equals_a_plain_one(state, batch):
    """Five updates against autograd and torch.optim.Adam."""
    plain = sac.initial_state(S, A, CONFIG, torch.Generator().manual_seed(0))
    actor, critic, log_alpha = plain.actor, plain.critic, plain.temperature[0]
    for tensor in (*actor, *critic, log_alpha):
        tensor.requires_grad_(True)
    slow = [x.detach().clone() for x in critic]
    rates = ((critic, 1e-3), (actor, 3e-4), ([log_alpha], 1e-3))
    critic_opt, actor_opt, alpha_opt = (torch.optim.Adam(p, lr=rate) for p, rate in rates)
    for seed in range(5):
        eps = noise(seed)
        with torch.no_grad():
            sac.update(state, batch, eps, CONFIG)
            alpha = log_alpha.exp()
            target = sac.soft_target(slow, actor, batch, eps.following, alpha, CONFIG)
        x = torch.cat((batch.observation, batch.action), -1)
        loss = sum(((plain_net(critic, x, k)[:, 0] - target) ** 2).mean() for k in (0, 1))
        critic_opt.zero_grad()
        loss.backward()
        critic_opt.step()
        action, log_prob = plain_policy(actor, batch.observation, eps.here)
        x = torch.cat((batch.observation, action), -1)
        value = torch.minimum(*(plain_net(critic, x, k)[:, 0] for k in (0, 1)))
        actor_opt.zero_grad()
        (alpha * log_prob - value).mean().backward()
        actor_opt.step()
        alpha_opt.zero_grad()
        (-log_alpha.exp() * (log_prob.detach() - A).mean()).sum().backward()
        alpha_opt.step()
        with torch.no_grad():
            slow = [a.lerp(b, 0.005) for a, b in zip(slow, critic, strict=True)]
    ours = (*state.actor, *state.critic, *state.target, *state.temperature)
    theirs = (*actor, *critic, *slow, log_alpha)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-6)


def test_bfloat16_is_near(state, batch):
    exact = sac.critics(state.critic, batch.observation, batch.action)
    near = sac.critics(state.critic, batch.observation, batch.action, bfloat16=True)
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.02)
    assert not torch.equal(near, exact)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself
@pytest.mark.skipif(not sac.can_compile(), reason="torch.compile needs a C++ compiler")
def test_compiled_equals_eager(batch):
    states = []
    for compiled in (False, True):
        one = SAC(S, A, CONFIG, torch.Generator().manual_seed(0), Device(form="compiled" if compiled else "eager"))
        one.observe(batch.observation)
        generator = torch.Generator().manual_seed(5)
        for _ in range(10):
            metrics = one.update(batch, generator)
        states.append((one.tensors(), metrics))
    for name, tensor in states[0][0].items():
        torch.testing.assert_close(states[1][0][name], tensor, rtol=1e-4, atol=1e-5)
    for name, value in states[0][1].items():
        torch.testing.assert_close(states[1][1][name], value, rtol=1e-5, atol=1e-5)


def test_a_missing_compiler_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    SAC(S, A, CONFIG, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="need a C\\+\\+ compiler"):
        SAC(S, A, CONFIG, torch.Generator().manual_seed(0), Device(form="compiled"))


def test_moments_are_numpys():
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn((n, 3), generator=g) * torch.tensor([1.0, 100.0, 0.0]) + 7.0 for n in (1, 5, 40)]
    moments = sac.Moments(3)
    for part in parts:
        moments.add(part)
    everything = torch.cat(parts).double()
    center, inverse = moments.scale()
    torch.testing.assert_close(center.double(), everything.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(1 / inverse[:2].double(), everything[:, :2].std(0, correction=0), rtol=1e-5, atol=1e-5)
    assert inverse[2] == 1.0


def test_a_restored_one_goes_on_the_same(batch):
    one, other = (SAC(S, A, CONFIG, torch.Generator().manual_seed(seed)) for seed in (0, 9))
    one.observe(batch.observation)
    one.update(batch, torch.Generator().manual_seed(1))
    other.load({name: tensor.clone() for name, tensor in one.tensors().items()})
    for each in (one, other):
        each.update(batch, torch.Generator().manual_seed(2))
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name])


def test_replay_overwrites_the_oldest_and_draws_all():
    replay = Replay(10, 2, 1)
    for start in (0, 4, 8, 12):
        number = torch.arange(start, start + 4.0)
        replay.add(number[:, None].expand(4, 2), number[:, None], number, number[:, None].expand(4, 2) + 1, number % 2)
    assert len(replay) == 10
    parts = replay.sample(3, 200, torch.Generator().manual_seed(0))
    assert len(parts) == 3
    for o, a, r, following, terminal in parts:
        assert o.shape == (200, 2) and a.shape == (200, 1) and r.shape == (200,)
        assert (o[:, 0] == r).all() and (following[:, 1] == r + 1).all() and (terminal == r % 2).all()
    assert set(torch.cat([part[2] for part in parts]).tolist()) == set(map(float, range(6, 16)))
