"""RL² whose memory is a transformer over the trial: causal, cached, a value, saved and continued to the same bits."""

import json

import numpy as np
import pytest
import torch
from metabench_agents import rl2
from metabench_agents.parts.attention.ticks import CausalTransformer, GRUGate, turned
from metabench_agents.parts.config import read_config
from metabench_agents.parts.decisions import merged
from metabench_agents.parts.device import Device
from metabench_agents.parts.losses import PPO
from metabench_agents.parts.memory import Rollout
from metabench_agents.parts.run import Run, load_checkpoint, stream

import metabench
from metabench.evaluation.results import Protocol
from metabench.runs import Stopped

SIZES = rl2.NetworkConfig(hidden=16, embed=16, head=16)
SMALL = rl2.TransformerConfig(layers=2, heads=2)
CONFIG = rl2.Config(frames=60 * 8 * 4, trials=8, core="transformer", network=SIZES, transformer=SMALL)


def woken(network, scale=0.3):
    """Weights that make everything matter, the output layers that begin at zero too."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(scale * torch.randn_like(weight))
    return network


def core(gate="gru", place="rotary", ticks=0):
    made = CausalTransformer(6, 16, layers=2, heads=2, ticks=ticks, place=place, gate=gate)
    return woken(made)


@pytest.mark.parametrize("gate", ["none", "small", "gru"])
@pytest.mark.parametrize(("place", "ticks"), [("rotary", 0), ("learned", 200)])
def test_step_by_step_equals_the_whole_sequence(gate, place, ticks):
    """Over two growths of the cache."""
    network, x = core(gate, place, ticks), torch.randn(150, 3, 6)
    whole, memory = network.sequence(x), network.begin(3)
    with torch.no_grad():
        for t in range(150):
            told, memory = network.step(x[t], memory)
            assert torch.allclose(told, whole[t], atol=1e-5), t


def test_a_tick_sees_itself_and_what_came_before():
    network, x = core(), torch.randn(40, 2, 6)
    other = x.clone()
    other[25] += 1.0
    gap = (network.sequence(other) - network.sequence(x)).abs().amax(dim=(1, 2))
    assert (gap[:25] == 0).all() and (gap[25:] > 0).all()


@pytest.mark.parametrize("place", ["rotary", "learned"])
def test_positions_are_told(place):
    """The same ticks in another order are another trial."""
    network, x = core(place=place, ticks=8), torch.randn(8, 1, 6)
    other = x[[1, 0, 2, 3, 4, 5, 6, 7]]
    assert (network.sequence(other)[-1] - network.sequence(x)[-1]).abs().max() > 1e-4


def test_a_turn_keeps_lengths_and_tells_distances_alone():
    q, k, speed = torch.randn(8), torch.randn(8), torch.tensor([1.0, 0.3, 0.1, 0.01])
    scores = [turned(q, (n + 5) * speed) @ turned(k, n * speed) for n in (0, 3, 400)]
    assert torch.allclose(torch.stack(scores), scores[0].expand(3), atol=1e-4)
    assert torch.allclose(turned(q, 7 * speed).norm(), q.norm())
    by_hand = q[0] * np.cos(0.5) - q[4] * np.sin(0.5)
    assert turned(q, 0.5 * torch.ones(4))[0] == pytest.approx(float(by_hand), abs=1e-6)


def test_the_gate_by_hand():
    gate, x, y = woken(GRUGate(3)), torch.randn(2, 3), torch.randn(2, 3)
    (wr, wz, wg), (br, bz, bg) = gate.found.weight.chunk(3), gate.found.bias.chunk(3)
    (ur, uz), ug, found = gate.stream.weight.chunk(2), gate.candidate.weight, y.relu()
    r, z = torch.sigmoid(found @ wr.T + br + x @ ur.T), torch.sigmoid(found @ wz.T + bz + x @ uz.T)
    new = torch.tanh(found @ wg.T + bg + (r * x) @ ug.T)
    assert torch.allclose(gate(x, y), (1 - z) * x + z * new, atol=1e-6)
    fresh = GRUGate(3)
    assert fresh.found.bias.tolist() == [0, 0, 0, -2, -2, -2, 0, 0, 0]


def test_a_memory_is_a_value():
    """Two ways on from one memory, the first taken again after the second; nothing that was known changes."""
    network, x = core(), torch.randn(100, 2, 6)
    with torch.no_grad():
        memory = network.begin(2)
        for t in range(30):
            _, memory = network.step(x[t], memory)
        before = [store[:, :, :30].clone() for store in (*memory.keys, *memory.values)]
        first, one = network.step(x[30], memory)
        other, two = network.step(x[60], memory)
        again, _ = network.step(x[30], memory)
        assert torch.equal(first, again) and not torch.equal(first, other)
        for begun, path in ((one, (30, 31)), (two, (60, 31))):
            told, _ = network.step(x[31], begun)
            whole = network.sequence(torch.cat((x[:30], x[list(path)])))[-1]
            assert torch.allclose(told, whole, atol=1e-5)
    assert all(torch.equal(a, b[:, :, :30]) for a, b in zip(before, (*memory.keys, *memory.values), strict=True))


def test_trials_that_are_left_out_of_a_step_stay_where_they_were():
    """As `view.whole` leaves out those whose episode goes on: each trial is what its own ticks make of it."""
    network, x, rng = core(), torch.randn(100, 3, 6), np.random.default_rng(0)
    memory, own, told = network.begin(3), [[], [], []], torch.zeros(3, 16)
    with torch.no_grad():
        for t in range(100):
            asked = rng.random(3) < (0.5 if t % 20 < 10 else 1.0)
            answer, new = network.step(x[t], memory)
            memory = merged(asked, new, memory)
            told = torch.where(torch.from_numpy(asked)[:, None], answer, told)
            for row in np.flatnonzero(asked):
                own[row].append(x[t, row])
    assert memory.length.tolist() == [len(ticks) for ticks in own] and len(set(memory.length.tolist())) > 1
    for row, ticks in enumerate(own):
        assert torch.allclose(network.sequence(torch.stack(ticks)[:, None])[-1, 0], told[row], atol=1e-5)


@pytest.mark.parametrize("id", ["GridNavigation-v0", "PointRobot-v0"])
def test_acting_equals_the_training_pass(id):
    """Values and log probabilities of a collected trial are those that the update computes over it."""
    env, chosen = metabench.make_vec(id, 6), metabench.spec(id)
    network = woken(rl2.Network(rl2.NetworkConfig(), env, rl2.TransformerConfig()), 0.05)
    batch = rl2.empty_rollout(network, env, chosen.horizon * chosen.episodes, 6)
    rl2.collect(network, env, batch, 0, stream(0))
    params, value = network(batch)
    assert torch.allclose(value, batch.value, atol=1e-5) and value.std() > 0.01
    assert torch.allclose(network.policy.log_prob(params, batch.action), batch.log_prob, atol=1e-5)
    agent = rl2.Agent(network)
    ours = metabench.evaluate(agent, id).returns
    assert ours == metabench.evaluate(agent, id).returns


def test_the_policy_begins_without_memory():
    """GTrXL's reason for gates: what a layer finds is let in little by little. Without gates it counts at once."""
    x, gaps = torch.randn(60, 4, 6), {}
    for gate in ("none", "small", "gru"):
        torch.manual_seed(0)
        network = CausalTransformer(6, 16, layers=2, heads=2, place="rotary", gate=gate)
        other = torch.cat((x[:-1].flip(0), x[-1:]))
        gap = network.sequence(other)[-1] - network.sequence(x)[-1]
        gaps[gate] = float(gap.detach().abs().max())
    assert gaps["small"] == 0.0 and 0.0 < gaps["gru"] < gaps["none"]


def comparable(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]
    return rows, load_checkpoint(folder).tensors


def test_a_run_is_continued_to_the_same_bits_and_read_again(tmp_path):
    whole = rl2.train("GridSwitch-v0", CONFIG, seed=3, run=Run(tmp_path / "whole", show=False))
    run = Run(tmp_path / "parts", show=False, checkpoint_every=2)
    run.request_stop()
    with pytest.raises(Stopped):
        rl2.train("GridSwitch-v0", CONFIG, seed=3, run=run)
    rl2.train("GridSwitch-v0", CONFIG, seed=3, run=Run(tmp_path / "parts", show=False))
    (rows, tensors), (also, others) = (comparable(tmp_path / name) for name in ("whole", "parts"))
    assert rows == also and len(rows) == 4
    assert all(torch.equal(tensors[name], others[name]) for name in tensors | others)
    read = rl2.load(tmp_path / "parts")
    assert isinstance(read.network.core, CausalTransformer)
    results = [metabench.evaluate(agent, "GridSwitch-v0", seed=1).returns for agent in (whole, read)]
    assert results[0] == results[1]


def test_settings_come_back_and_those_of_before_mean_a_gru(tmp_path):
    rl2.train("GridSwitch-v0", CONFIG, seed=0, run=Run(tmp_path, show=False))
    saved = json.loads((tmp_path / "config.json").read_text())["config"]
    assert read_config(rl2.Config, saved) == CONFIG
    before = {name: value for name, value in saved.items() if name not in ("core", "transformer")}
    assert read_config(rl2.Config, before).core == "gru"
    torch.manual_seed(0)
    old = rl2.Network(SIZES, metabench.make_vec("GridSwitch-v0", 1))
    parts = {name.partition(".")[0] for name in old.state_dict()}
    assert parts == {"scaler", "embed", "core", "trunk", "policy", "value"}
    assert "core.core.weight_ih_l0" in old.state_dict()


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path):
    runs = [Run(tmp_path / name, show=False) for name in "ab"]
    with pytest.raises(ValueError, match="seeds that learn together remember in a GRU"):
        rl2.train_seeds("GridSwitch-v0", CONFIG, seeds=(0, 1), runs=runs)
    env = metabench.make_vec("GridSwitch-v0", 1)
    with pytest.raises(ValueError, match="3 attention heads do not divide a width of 16"):
        rl2.Network(SIZES, env, rl2.TransformerConfig(heads=3))
    with pytest.raises(ValueError, match="heads of an even width, and 16 over 16 is odd"):
        rl2.Network(SIZES, env, rl2.TransformerConfig(heads=16))


def taught(form):
    """Iterations in a form: parameters, and what was told."""
    env, device = metabench.make_vec("GridSwitch-v0", 8), Device("cpu", form=form)
    torch.manual_seed(0)
    network, settings, told = rl2.Network(SIZES, env, SMALL), PPO(learning_rate=1e-3), []
    optimiser, act = device.adam(network.parameters(), 1e-3, eps=1e-5), rl2.acting(network, device)
    passes = device.function(lambda *given: rl2.improve(network, optimiser, settings, device, *given))
    for iteration in range(4):
        batch = rl2.empty_rollout(network, env, 60, 8)
        rl2.collect(network, env, batch, iteration, stream(iteration), device, act)
        told.append(passes(batch, rl2.orders(settings, 8, stream(1, iteration)), 1.0, 1.0 - iteration / 4, 1.0))
    return torch.cat([p.detach().flatten() for p in network.parameters()]), told


def test_a_captured_iteration_improves_as_the_eager_one_does():
    """The update is a graph; acting, whose memory grows, is not."""
    (eager, told), (captured, also) = taught("eager"), taught("captured")
    assert torch.allclose(eager, captured, atol=1e-4)
    for one, other in zip(told, also, strict=True):
        assert all(float(one[name]) == pytest.approx(float(other[name]), abs=1e-3) for name in one)


@pytest.mark.slow
def test_it_learns_to_adapt(tmp_path):
    """600,000 frames of GridNavigation: far from random, and better once the goal has been found."""
    config = rl2.Config(frames=600_000, core="transformer", ppo=PPO(learning_rate=1e-3))
    agent = rl2.train("GridNavigation-v0", config, seed=0, run=Run(tmp_path, show=False))
    curve = metabench.evaluate(agent, "GridNavigation-v0", split="train").trials().mean(axis=0)
    random = metabench.spec("GridNavigation-v0").references("train")["random"]["mean"]
    assert curve[0] > random + 2.0
    assert curve[1:].mean() > curve[0] + 1.5, "later episodes do not use what the first one found"


def test_a_trial_may_be_longer_than_those_it_was_trained_on(tmp_path):
    """Rotary positions have no last one: a hundred episodes of a policy trained on four."""
    agent = rl2.train("GridNavigation-v0", CONFIG, seed=0, run=Run(tmp_path, show=False))
    protocol = Protocol(benchmark="GridNavigation-v0", split="test", episodes=70, repeats=1, seed=0)
    assert np.isfinite(metabench.evaluate(agent, protocol).array()).all()
    batch = Rollout.empty(1050, 4, 2, (), True)
    env = metabench.make_vec("GridNavigation-v0", 4, episodes_per_task=70)
    rl2.collect(agent.network, env, batch, 0, stream(0))
    params, value = agent.network(batch)
    assert torch.allclose(value, batch.value, atol=1e-5)
    assert torch.allclose(agent.network.policy.log_prob(params, batch.action), batch.log_prob, atol=1e-5)
