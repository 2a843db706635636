"""Soft actor-critic with a latent: losses by hand, the order of the update, gradients where they belong, bfloat16."""

import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.context.actor_critic import (
    Act,
    ActionScale,
    LatentActorCritic,
    LatentSAC,
    LatentSACConfig,
    bellman_target,
    critic_loss,
    frozen,
    mlp,
    policy_loss,
    squash,
    temperature_loss,
    value_loss,
)
from metabench_agents.context.collect import Collector
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.parts.device import Device
from metabench_agents.parts.device import learner as learns
from metabench_agents.parts.fast.linear import Linear, prefers_onednn
from metabench_agents.parts.run import stream
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import metabench
from metabench import Field

SEES, ACTS = tuple(Field(name, -2.0, 2.0) for name in "abc"), spaces.Box(-0.1, 0.1, (2,), np.float32)


def parts(seed=0, tasks=4, rows=8, device=None, **settings):
    torch.manual_seed(seed)
    config = LatentSACConfig(hidden=16, layers=2, **settings)
    network = LatentActorCritic(SEES, ACTS, 2, config)
    encoder = torch.nn.Linear(3, 2)
    batch = Transitions.unpack(torch.randn(tasks, rows, 10), 3, 2)
    batch = batch._replace(terminal=(batch.terminal > 1.0).float(), action=batch.action.clamp(-1, 1))
    return network, encoder, batch, LatentSAC(network, config, list(encoder.parameters()), device)


def test_losses_by_hand():
    reward, terminal, value = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([10.0, 10.0])
    target = bellman_target(reward, terminal, value, scale=5.0, discount=0.9)
    assert target.tolist() == pytest.approx([5.0 + 9.0, 10.0])
    q1, q2 = torch.tensor([14.0, 12.0]), torch.tensor([13.0, 10.0])
    assert float(critic_loss(q1, q2, target)) == pytest.approx((0 + 4) / 2 + (1 + 0) / 2)
    v, min_q, log_prob = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]), torch.tensor([0.5, -1.0])
    assert float(value_loss(v, min_q, log_prob)) == pytest.approx((0.25 + 4.0) / 2)
    act = Act(torch.zeros(2, 1), log_prob, torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [-2.0]]))
    assert float(policy_loss(act, min_q, 0.1, 0.01)) == pytest.approx((-1.5 - 2.0) / 2 + 0.1 * 5.0 + 0.01 * 2.0)


def test_normalised_values_are_a_layer_norm_before_each_relu_of_the_values_alone():
    torch.manual_seed(0)
    network = LatentActorCritic(SEES, ACTS, 2, LatentSACConfig(hidden=16, layers=2, normalised_values=True))
    layers = {
        name: [type(part).__name__ for part in getattr(network, name)] for name in ("policy", "q1", "q2", "value")
    }
    block = ["Linear", "LayerNorm", "ReLU"]
    assert layers["policy"] == ["Linear", "ReLU"] * 2 + ["Linear"]
    assert layers["q1"] == layers["q2"] == layers["value"] == block * 2 + ["Linear"]
    x = torch.randn(7, 7)
    first, second, last = network.q1[0], network.q1[3], network.q1[6]
    hidden = torch.relu(normal(first(x)))
    assert torch.allclose(network.q1(x), last(torch.relu(normal(second(hidden)))), atol=1e-6)
    plain = LatentActorCritic(SEES, ACTS, 2, LatentSACConfig(hidden=16, layers=2))
    assert not any(isinstance(part, torch.nn.LayerNorm) for part in plain.modules()), "off by default, as in oyster"


def normal(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def test_the_value_target_has_no_gradient():
    min_q = torch.ones(3, requires_grad=True)
    value = torch.zeros(3, requires_grad=True)
    value_loss(value, min_q, torch.zeros(3)).backward()
    assert min_q.grad is None and value.grad.tolist() == pytest.approx([-2.0 / 3] * 3)


def test_log_density_is_torchs():
    torch.manual_seed(0)
    mean, log_std, noise = torch.randn(5, 2), torch.randn(5, 2) * 0.3, torch.randn(5, 2)
    act = squash(mean, log_std, noise)
    law = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    assert torch.allclose(act.log_prob, law.log_prob(act.action).sum(-1), atol=1e-3)
    far = squash(torch.tensor([[30.0]]), torch.tensor([[0.0]]), torch.zeros(1, 1))  # tanh is 1 to the last bit
    assert float(far.log_prob) == pytest.approx(-0.5 * math.log(2 * math.pi) - 2 * (math.log(2.0) - 30.0), rel=1e-5)


def test_actions_go_to_the_box_and_back():
    scale = ActionScale(spaces.Box(np.array([-1.0, 0.0]), np.array([3.0, 0.5]), dtype=np.float64))
    unit = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [0.5, -0.25]])
    assert scale.to_env(unit).tolist() == [[-1.0, 0.5], [1.0, 0.25], [2.0, 0.1875]]
    assert torch.allclose(scale.from_env(scale.to_env(unit)), unit)
    for space in (spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (1,))):
        with pytest.raises(ValueError, match="bounded Box"):
            ActionScale(space)


def reference(network, encoder, batch, facts, noise, settings):
    """One update the way PEARL's code does it: one optimiser per network, a backward pass after the other."""
    named = {"q1": network.q1, "q2": network.q2, "encoder": encoder, "value": network.value, "policy": network.policy}
    adam = {name: torch.optim.Adam(net.parameters(), lr=settings.learning_rate) for name, net in named.items()}
    z = encoder(facts)
    rows = batch.reward.shape[1]
    wide, still = z.repeat_interleave(rows, 0), z.detach().repeat_interleave(rows, 0)
    flat = Transitions(*(c.flatten(0, 1) for c in batch))
    state = torch.cat((network.features(flat.observation), wide), -1)
    quiet = torch.cat((network.features(flat.observation), still), -1)
    act = network.act(quiet, noise.flatten(0, 1))
    with torch.no_grad():
        following = network.target(torch.cat((network.features(flat.next_observation), still), -1))[:, 0]
        target = settings.reward_scale * flat.reward + (1 - flat.terminal) * settings.discount * following
    q1, q2 = (net(torch.cat((state, flat.action), -1))[:, 0] for net in (network.q1, network.q2))
    (((q1 - target) ** 2).mean() + ((q2 - target) ** 2).mean() + 0.1 * (z**2).sum()).backward()
    for name in ("q1", "q2", "encoder"):
        adam[name].step()
    value = network.value(quiet)[:, 0]
    low = torch.min(*(net(torch.cat((quiet, act.action), -1))[:, 0] for net in (network.q1, network.q2)))
    ((value - (low - act.log_prob).detach()) ** 2).mean().backward()
    adam["value"].step()
    penalty = settings.mean_weight * (act.mean**2).mean() + settings.std_weight * (act.log_std**2).mean()
    ((act.log_prob - low).mean() + penalty).backward()
    adam["policy"].step()
    with torch.no_grad():
        for slow, fast in zip(network.target.parameters(), network.value.parameters(), strict=True):
            slow.mul_(1 - settings.target_rate).add_(settings.target_rate * fast)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, when it compiles
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_update_is_the_plain_one(compile):
    network, encoder, batch, learner = parts(device=Device(form="compiled" if compile else "eager"))
    other, other_encoder = copy.deepcopy(network), copy.deepcopy(encoder)
    facts, noise = torch.randn(4, 3), torch.randn(4, 8, 2)
    reference(other, other_encoder, batch, facts, noise, learner.config)
    z = encoder(facts)
    learner.update(batch, z, noise, 0.1 * (z**2).sum())
    for ours, plain in zip(
        [*network.parameters(), *encoder.parameters()], [*other.parameters(), *other_encoder.parameters()], strict=True
    ):
        assert torch.allclose(ours, plain, atol=2e-6)


def test_the_critics_alone_teach_the_encoder():
    """With constant critics nothing reaches the encoder, whatever policy and value lose."""
    network, encoder, batch, learner = parts()
    for critic in (network.q1, network.q2):
        critic[0].weight.data.zero_()  # neither z nor the state matter
    before = copy.deepcopy(encoder.state_dict())
    z = encoder(torch.randn(4, 3))
    learner.update(batch, z, torch.randn(4, 8, 2))
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_a_missing_compiler_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="need a C\\+\\+ compiler"):
        parts(device=Device(form="compiled"))


def test_freezing_is_undone():
    network = mlp(2, 4, 1, 1)
    x = torch.randn(3, 2, requires_grad=True)
    with pytest.raises(RuntimeError), frozen(network):
        (gradient,) = torch.autograd.grad(network(x).sum(), [x])
        assert gradient.abs().sum() > 0
        raise RuntimeError
    assert all(p.requires_grad for p in network.parameters())


def test_bfloat16_sees_the_new_weights():
    """Autocast caches the weights it has cast: kept over the critics' step, the policy would see old ones."""
    network, encoder, batch, learner = parts(device=Device(precision="bf16"), learning_rate=0.05)
    other, other_encoder, _, plain = parts(learning_rate=0.05)
    noise = torch.randn(4, 8, 2)
    for _ in range(3):
        facts = torch.randn(4, 3)
        half = learner.update(batch, encoder(facts), noise)
        full = plain.update(batch, other_encoder(facts), noise)
    for name in ("value_loss", "policy_loss", "q"):
        assert float(half[name]) == pytest.approx(float(full[name]), rel=0.1, abs=0.05), name
    assert next(network.q1.parameters()).dtype == torch.float32
    assert other is not network


def test_linear_layers_equal_torchs():
    torch.manual_seed(0)
    layer, x = Linear(12, 7), torch.randn(4, 200, 12, requires_grad=True)
    plain, y = torch.nn.Linear(12, 7), x.detach().clone().requires_grad_()
    plain.load_state_dict(layer.state_dict())
    weights = torch.randn(4, 200, 7)
    ours, theirs = layer(x), plain(y)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert torch.allclose(ours, theirs, atol=1e-5) and torch.allclose(x.grad, y.grad, atol=1e-5)
    assert torch.allclose(layer.weight.grad, plain.weight.grad, atol=1e-4)
    assert torch.allclose(layer.bias.grad, plain.bias.grad, atol=1e-4)
    assert isinstance(prefers_onednn(), bool)


def solve(seed, bf16, updates=900):
    """PointRobot learned with its goals as latents: the return of the last episodes, trained on all of it."""
    config = LatentSACConfig(64, 2, learning_rate=3e-3, discount=0.9, reward_scale=20.0, target_rate=0.02)
    core = LatentActorCritic(metabench.spec("PointRobot-v0").family().observation_fields, point_actions(), 2, config)
    device = Device(precision="bf16" if bf16 else "fp32")
    learner, collector = LatentSAC(core, config, device=device), Collector("PointRobot-v0", "train", seed)
    goals = torch.tensor(metabench.spec("PointRobot-v0").table().rows["train"]).float()
    replay, tasks, generator = TaskReplay(45, 2, 2, 10_000), list(range(45)), stream(seed)

    def collect(episodes):
        played = collector.play(core, tasks, lambda number: goals, episodes, generator)
        for task, rows in zip(tasks, played.rows, strict=True):
            replay.add(task, rows, context=False)
        return float(played.returns.mean())

    collect(5)
    core.features.fit(replay.sample(tasks, 100, generator).observation)
    for number in range(1, updates + 1):
        drawn = torch.randint(45, (16,), generator=generator)
        noise = torch.randn(16, 32, 2, generator=generator)
        learner.update(replay.sample(drawn.tolist(), 32, generator), goals[drawn], noise)
        if number % 300 == 0:
            last = collect(2)
    return last


def point_actions():
    return metabench.spec("PointRobot-v0").family().action_space


@pytest.mark.slow
def test_learning_in_bfloat16_is_as_good():
    """Three runs each, from the same seeds: no worse than the runs' own spread, and both solve the task (oracle -3)."""
    torch.manual_seed(0)
    full, half = (np.array([solve(seed, bf16) for seed in range(3)]) for bf16 in (False, True))
    print(f"returns in float32 {full.round(2)}, in bfloat16 {half.round(2)}")
    spread = max(np.ptp(full), np.ptp(half), 0.3)
    assert abs(full.mean() - half.mean()) <= spread
    assert full.mean() > -5.0 and half.mean() > -5.0


def test_captured_updates_are_the_eager_ones():
    """As graphs of five updates each: every one with its own batch, guesses and noise."""
    results = []
    for form in ("eager", "captured"):
        network, _, _, _ = parts()
        learner = LatentSAC(network, LatentSACConfig(hidden=16, layers=2), device=Device("cpu", form=form))
        updates, told = learner.device.updates(learner.update, 5), []
        for number in range(22):
            batch = Transitions.unpack(torch.randn(4, 8, 10, generator=stream(number)), 3, 2)
            batch = batch._replace(terminal=(batch.terminal > 1.0).float(), action=batch.action.clamp(-1, 1))
            z, noise = torch.randn(4, 2, generator=stream(1, number)), torch.randn(4, 8, 2, generator=stream(2, number))
            updates.add(batch, z, noise)
            if number % 11 == 10:
                told.append(updates.means())
        results.append((torch.cat([p.detach().flatten() for p in network.parameters()]), told))
    (eager, told), (captured, also) = results
    assert torch.allclose(eager, captured, atol=1e-5)
    for one, other in zip(told, also, strict=True):
        assert all(one[name] == pytest.approx(other[name], abs=1e-4) for name in one)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_updates_on_a_gpu_are_those_on_the_cpu():
    losses, weights = {}, {}
    for name in ("cpu", "cuda"):
        device = Device(name)
        torch.manual_seed(0)
        network, _, batch, _ = parts()
        network = learns(network, device)
        learner = LatentSAC(network, LatentSACConfig(hidden=16, layers=2), device=device)
        z, noise = torch.randn(4, 2, generator=stream(1)), torch.randn(4, 8, 2, generator=stream(2))
        updates = device.updates(learner.update)
        for _ in range(10):
            updates.add(batch, z, noise)
        losses[name] = updates.means()["critic_loss"]
        weights[name] = torch.cat([p.detach().cpu().flatten() for p in network.parameters()])
    assert losses["cpu"] == pytest.approx(losses["cuda"], rel=1e-4)
    assert torch.allclose(weights["cpu"], weights["cuda"], atol=1e-5)


def test_the_temperature_falls_while_the_entropy_is_above_its_aim():
    log_temperature = torch.tensor(0.3, requires_grad=True)
    for log_prob, slope in ((-3.0, 5.0), (5.0, -3.0)):  # an entropy of 3 nats, then of -5; the aim is -2
        loss = temperature_loss(log_temperature, torch.full((4,), log_prob), -2.0)
        (gradient,) = torch.autograd.grad(loss, log_temperature)
        assert float(gradient) == pytest.approx(slope)


def test_a_temperature_weighs_the_entropy_in_both_losses():
    act = Act(torch.zeros(3, 1), torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 1), torch.zeros(3, 1))
    min_q = torch.tensor([0.5, 0.5, 0.5])
    assert float(policy_loss(act, min_q, 0.0, 0.0, 0.25)) == pytest.approx(0.25 * 2.0 - 0.5)
    assert float(value_loss(min_q - 0.25 * act.log_prob, min_q, act.log_prob, 0.25)) == pytest.approx(0.0)


def test_a_learned_temperature_is_kept_with_the_moments():
    network, _, batch, first = parts(learned_temperature=True)
    learner, other = LatentSAC(network, first.config), LatentSAC(network, first.config)
    z, noise = torch.randn(4, 2), torch.randn(4, 8, 2)
    metrics = [learner.update(batch, z, noise)["temperature"] for _ in range(5)]
    assert float(metrics[-1]) < 1.0  # a fresh policy's entropy is above -2 nats
    other.restore(learner.tensors())
    assert float(other.log_temperature.detach()) == float(learner.log_temperature.detach())
    fixed = parts()
    assert "temperature" not in LatentSAC(fixed[0], fixed[3].config).update(batch, z, noise)
