"""The model of vehicles: Euler steps, one network for all of them, and the same steps compiled."""

import numpy as np
import pytest
import torch
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import NeuralDecoder, TransitionDecoderConfig, make_decoder
from metabench_agents.context.vehicles import GAPS, MAX_ACCELERATION, PLACES, VehicleDecoder
from metabench_agents.parts.features import Features

import metabench

FAMILY = metabench.spec("HighwayMerge-v0").family()
FIELDS = FAMILY.observation_fields


def decoder(latent=3, seed=0, hidden=16):
    torch.manual_seed(seed)
    made = make_decoder(TransitionDecoderConfig("vehicles", hidden), FAMILY, Features(FIELDS), 1, latent)
    assert isinstance(made, VehicleDecoder)
    return made


def traffic(count, seed=0):
    env = metabench.make_vec("HighwayMerge-v0", count)
    observation = torch.as_tensor(env.reset(seed=seed)[0]).clone()
    generator = torch.Generator().manual_seed(seed)
    observation[:, 0] = 70 * torch.rand(count, generator=generator) - 60  # egos on the ramp and on the road
    return observation, torch.randn(count, 3, generator=generator), 2 * torch.rand(count, 1, generator=generator) - 1


def test_compiled_steps_are_the_decoders():
    model, (observation, z, action) = decoder(), traffic(64)
    model.end.biases[2].data.fill_(-0.05)  # some end, some go on
    model.units.reward_low.fill_(-0.1)
    model.units.reward_high.fill_(0.1)
    alive = torch.ones(64, dtype=torch.bool)
    with torch.no_grad():
        (theirs, _), total, left, count = NeuralDecoder.hold(model, (observation, z), action, alive, 5)
        state, mine, still, taken = model.hold(model.enter(observation, z), action, alive, 5)
    assert 0 < int(left.sum()) < 64 and torch.equal(left, still) and count == taken
    assert torch.allclose(model.observe(state)[left], theirs[left], atol=1e-3)
    assert torch.allclose(mine, total, atol=1e-4) and float(mine.abs().max()) <= 0.5 + 1e-5


def test_compiled_steps_leave_the_ended_alone():
    model, (observation, z, action) = decoder(), traffic(8)
    alive = torch.arange(8) % 2 == 0
    state, total, _, count = model.hold(model.enter(observation, z), action, alive, 3)
    assert torch.equal(model.observe(state)[1::2], observation[1::2])
    assert total[1::2].eq(0).all() and count <= 12


def test_vehicles_move_by_euler_steps_within_the_bound():
    model, (observation, z, action) = decoder(), traffic(32)
    with torch.no_grad():
        after = model(observation, action, z).next_observation
    assert torch.allclose(after[:, :9], observation[:, :9] + 0.2 * observation[:, 9:], atol=1e-4)
    change = (after[:, 9:] - observation[:, 9:]) / 0.2
    assert float(change.abs().max()) <= MAX_ACCELERATION + 1e-3 and float(change.std()) > 0


def test_all_cars_share_one_network():
    """Two cars in the same situation do the same, whatever their number."""
    model, (observation, z, action) = decoder(), traffic(1)
    for car in range(2, 9):  # a column with equal gaps and speeds, the ego far behind it
        observation[0, 1 + car - 1] = 100.0 - 9.0 * car
    observation[0, 1] = 91.0
    observation[0, 0], observation[0, 9:] = -80.0, 12.0
    with torch.no_grad():
        after = model(observation, action, z).next_observation
    change = after[0, 11:] - observation[0, 11:]
    assert torch.allclose(change, change[:1].expand_as(change), atol=1e-5)


def test_the_task_moves_the_drivers():
    model, (observation, z, action) = decoder(), traffic(16)
    with torch.no_grad():
        one, two = (model(observation, action, task).next_observation for task in (z, z + 1))
    assert not torch.allclose(one[:, 10:], two[:, 10:])
    assert torch.equal(one[:, :9], two[:, :9])


def test_it_learns_the_drivers_of_one_task():
    """Held-out accelerations of one task are foretold four times better than by nothing."""
    env = metabench.make_vec("HighwayMerge-v0", 48, split="R8", episodes_per_task=100)
    before, _ = env.reset(seed=0, options={"task": [3] * 48})
    rows, rng = [], np.random.default_rng(0)
    for action in np.repeat(rng.uniform(-1, 1, (11, 48, 1)).astype(np.float32), 5, axis=0):
        after, reward, terminated, truncated, info = env.step(action)
        done = (terminated | truncated)[:, None]
        led = np.where(done, info["final_obs"], after) if done.any() else after
        parts = (before, action, reward, led, terminated)
        rows.append(Transitions(*(torch.as_tensor(np.array(p)).float() for p in parts)).pack())
        before = after
    seen = Transitions.unpack(torch.cat(rows), 18, 1)
    model, held = decoder(hidden=32), slice(0, None, 5)
    model.units.fit(seen)
    model.fit_starts(seen.observation[:48])
    train = torch.arange(len(seen.reward)) % 5 != 0
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    z = torch.zeros(256, 3)
    for _ in range(300):
        rows_ = torch.where(train)[0]
        pick = rows_[torch.randint(len(rows_), (256,), generator=generator)]
        told = model.told(seen.observation[pick], seen.action[pick], z, seen.terminal[pick])
        off = (told.next_observation - seen.next_observation[pick]) / model.units.step
        loss = (off**2).mean() + ((told.reward - seen.reward[pick]) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    apart = Transitions(*(column[held] for column in seen))
    with torch.no_grad():
        told = model.told(apart.observation, apart.action, torch.zeros(len(apart.reward), 3), apart.terminal)
    error = (told.next_observation - apart.next_observation)[:, 9:]
    nothing = (apart.next_observation - apart.observation)[:, 9:]
    assert float(error.pow(2).mean()) < float(nothing.pow(2).mean()) / 16
    assert float((told.reward - apart.reward).pow(2).mean()) < 0.1 * float(apart.reward.var())


def test_fresh_starts_are_of_the_task_and_never_the_same():
    torch.manual_seed(0)
    known = [level + 0.1 * torch.randn(10, 18) for level in (1.0, 3.0)]
    known = [own + torch.arange(18.0) for own in known]  # the columns differ, whatever the task
    z = torch.full((500, 3), 0.5)  # a task that was never seen, between the two
    centers = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    starts = decoder().fresh_starts(z, known, centers, torch.Generator().manual_seed(0)) - torch.arange(18.0)
    assert float((starts.mean(0) - 2.0).abs().max()) < 0.1
    assert 0.07 < float(starts.std(0).mean()) < 0.13 and float(starts.std(0).min()) > 0.05
    assert len(starts.unique(dim=0)) == 500


def test_first_states_tell_of_the_task():
    model, known = decoder(), torch.cat([torch.full((10, 18), 1.0), torch.full((10, 18), 3.0)])
    tasks = torch.cat([torch.zeros(10, 3), torch.ones(10, 3)])
    model.fit_starts(known)
    with torch.no_grad():
        model.first_state.weight.fill_(2.0 / 3.0)
        model.first_state.bias.fill_(-1.0)
    right = model.start_loss(known, tasks)
    assert right.shape == (20,) and (right < model.start_loss(known, 1.0 - tasks)).all()


def test_a_decoder_of_vehicles_needs_vehicles():
    family = metabench.spec("PointRobot-v0").family()
    with pytest.raises(ValueError, match="three observed point masses or more"):
        make_decoder(TransitionDecoderConfig("vehicles"), family, Features(family.observation_fields), 2, 2)


def test_the_ladders_cover_the_road():
    assert PLACES[0] == -60.0 and PLACES[-1] == 10.0 and tuple(range(13)) == GAPS
