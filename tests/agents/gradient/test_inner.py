"""The inner step and its second-order gradient: by hand, by loops over trials, by finite differences."""

import pytest
import torch
from gymnasium import spaces
from metabench_agents.gradient import inner, maml
from metabench_agents.gradient.inner import Batch, InnerConfig, NetworkConfig, Policy
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.device import Device

TRIALS, EPISODES, TICKS = 3, 2, 4


class Env:
    """Spaces alone."""

    def __init__(self, discrete):
        self.single_observation_space = spaces.Box(-1.0, 1.0, (2,))
        self.single_action_space = spaces.Discrete(3) if discrete else spaces.Box(-1.0, 1.0, (2,))


def policy_of(discrete, seed=0):
    torch.manual_seed(seed)
    policy = Policy(NetworkConfig(hidden=4, layers=1), Env(discrete)).double()
    for parameter in policy.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return policy


def batch_of(policy, seed, trials=TRIALS):
    generator = torch.Generator().manual_seed(seed)
    shape = (trials, EPISODES, TICKS)
    observation = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 2 - 1
    if policy.head.discrete:
        action = torch.randint(3, shape, generator=generator)
    else:
        action = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
    advantage = torch.randn(*shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return Batch(observation, action, policy.log_prob(observation, action), advantage)


def theta_of(policy):
    return dict(policy.named_parameters())


def one(batch, trial):
    return Batch(*(column[trial] for column in batch))


@pytest.mark.parametrize("discrete", [False, True])
def test_a_step_of_all_trials_is_that_of_each_by_plain_autograd(discrete):
    policy, settings = policy_of(discrete), InnerConfig(rate=0.7)
    batch = batch_of(policy, 1)
    theta = {n: p.detach().expand(TRIALS, *p.shape) for n, p in policy.named_parameters()}
    together = inner.step_of_trials(policy, theta, batch, settings)
    for trial in range(TRIALS):
        own = one(batch, trial)
        loss = -(policy.log_prob(own.observation, own.action) * own.advantage).mean()
        slopes = torch.autograd.grad(loss, list(policy.parameters()))
        for (name, p), slope in zip(policy.named_parameters(), slopes, strict=True):
            assert torch.allclose(together[name][trial], p - 0.7 * slope, atol=1e-12)


def meta_loss(policy, settings, before, after):
    """The outer loss as a function of a flat vector."""

    def at(vector):
        theta = maml.unflattened(vector, policy)
        return maml.surrogate(inner.answers(policy, theta, before, after, settings), after)

    return at


def differences(function, vector, size=1e-5):
    steps = torch.eye(len(vector), dtype=vector.dtype) * size
    return torch.stack([(function(vector + s) - function(vector - s)) / (2 * size) for s in steps])


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_outer_gradient_goes_through_the_inner_steps(discrete, steps):
    """Central differences of the whole two-level loss, in double precision."""
    policy, settings = policy_of(discrete), InnerConfig(rate=0.5, steps=steps)
    before, after = tuple(batch_of(policy, 2 + s) for s in range(steps)), batch_of(policy, 9)
    function, vector = meta_loss(policy, settings, before, after), maml.flattened(policy)
    moving = vector.clone().requires_grad_()
    (ours,) = torch.autograd.grad(function(moving), moving)
    assert torch.allclose(ours, differences(lambda v: function(v).detach(), vector), atol=1e-8)
    first = meta_loss(policy, InnerConfig(rate=0.5, steps=steps, first_order=True), before, after)
    assert torch.equal(first(vector), function(vector))
    (short,) = torch.autograd.grad(first(moving), moving)
    assert (short - ours).abs().max() > 1e-3, "the second order does not count, so it is not tested"


def test_the_first_order_is_the_outer_gradient_where_the_inner_step_led():
    policy, settings = policy_of(False), InnerConfig(rate=0.5, first_order=True)
    before, after = batch_of(policy, 2), batch_of(policy, 9)
    moving = maml.flattened(policy).requires_grad_()
    (ours,) = torch.autograd.grad(meta_loss(policy, settings, (before,), after)(moving), moving)
    total = torch.zeros_like(ours)
    for trial in range(TRIALS):
        own = inner.adapted(policy, theta_of(policy), one(before, trial), settings)
        led = {n: p.detach().requires_grad_() for n, p in own.items()}
        last = one(after, trial)
        log_prob = policy.with_parameters(led, Policy.log_prob, last.observation, last.action)
        loss = -((log_prob - last.log_prob).exp() * last.advantage).mean()
        total += torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(led.values()))]) / TRIALS
    assert torch.allclose(ours, total, atol=1e-12)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_divergence_is_torchs_and_its_curvature_that_of_differences(discrete):
    policy, settings = policy_of(discrete), InnerConfig(rate=0.5)
    before, after = (batch_of(policy, 2),), batch_of(policy, 9)
    vector = maml.flattened(policy)

    def answer(at):
        return inner.answers(policy, maml.unflattened(at, policy), before, after, settings)

    old, new = answer(vector), answer(vector + 0.1)
    if discrete:
        pair = (torch.distributions.Categorical(logits=x.params) for x in (old, new))
        expected = torch.distributions.kl_divergence(*pair).mean()
    else:
        pair = (torch.distributions.Normal(x.params, x.log_std[:, None, None].exp()) for x in (old, new))
        expected = torch.distributions.kl_divergence(*pair).sum(-1).mean()
    assert float(inner.divergence(old, new, discrete)) == pytest.approx(float(expected.detach()))
    kept = inner.Answer(*(column.detach() for column in old))

    def slope(at):
        at = at.detach().requires_grad_()
        (own,) = torch.autograd.grad(inner.divergence(kept, answer(at), discrete), at, create_graph=True)
        return own

    direction = torch.randn(len(vector), dtype=torch.float64)
    at = vector.clone().requires_grad_()
    (start,) = torch.autograd.grad(inner.divergence(kept, answer(at), discrete), at, create_graph=True)
    assert start.abs().max() < 1e-12
    (product,) = torch.autograd.grad(start @ direction, at)
    size = 1e-5
    expected = (slope(vector + size * direction) - slope(vector - size * direction)).detach() / (2 * size)
    assert torch.allclose(product, expected, atol=1e-7)


def test_trpos_step_keeps_to_its_region_and_lowers_the_loss():
    policy = policy_of(False)
    config = with_settings(maml.Config(), {"inner.rate": 0.5, "trpo.kl": 0.02})
    before, after = (batch_of(policy, 2),), batch_of(policy, 9)
    with torch.no_grad():
        own = inner.answers(policy, theta_of(policy), before, after, config.inner)
    after = after._replace(log_prob=own.log_prob)
    start = maml.flattened(policy)
    metrics = maml.TRPO(policy, config, Device()).improve(maml.Collected(before, after, (0.0, 0.0)))
    with torch.no_grad():
        new = inner.answers(policy, theta_of(policy), before, after, config.inner)
    assert 0.0 < metrics["kl"] <= 0.02 and metrics["gain"] > 0.0
    assert float(inner.divergence(own, new, False)) == pytest.approx(metrics["kl"], abs=1e-6)
    assert float(maml.surrogate(new, after)) == pytest.approx(metrics["loss"] - metrics["gain"], abs=1e-6)
    assert not torch.equal(maml.flattened(policy), start)


def taught(outer, device):
    """Four outer steps on the same episodes; parameters and what was told."""
    policy, told = policy_of(True).float(), []
    config = with_settings(maml.Config(), {"outer": outer, "inner.rate": 0.5, "trpo.kl": 0.02})
    before, after = (
        Batch(*(column.float() if column.is_floating_point() else column for column in batch_of(policy_of(True), seed)))
        for seed in (2, 9)
    )
    learns = device.place(policy)
    step = maml.TRPO(learns, config, device) if outer == "trpo" else maml.Proximal(learns, config, device)
    for number in range(4):
        given = maml.Collected((before,), after._replace(advantage=after.advantage + number), (0.0, 0.0))
        more = () if isinstance(step, maml.TRPO) else (1.0 - number / 4, torch.Generator().manual_seed(number))
        told.append(step.improve(given, *more))
    return maml.flattened(learns).cpu(), told


def assert_alike(one, other):
    (eager, rows), (theirs, others) = one, other
    assert torch.allclose(eager, theirs, atol=1e-4)
    for row, told in zip(rows, others, strict=True):
        assert all(row[name] == pytest.approx(told[name], abs=1e-3) for name in row)


@pytest.mark.parametrize("outer", ["trpo", "ppo"])
def test_a_captured_outer_step_is_the_eager_one(outer):
    assert_alike(taught(outer, Device("cpu")), taught(outer, Device("cpu", form="captured")))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", ["eager", "captured"])
@pytest.mark.parametrize("outer", ["trpo", "ppo"])
def test_a_gpu_steps_as_the_cpu_does(outer, form):
    assert_alike(taught(outer, Device("cpu")), taught(outer, Device("cuda", form=form)))
