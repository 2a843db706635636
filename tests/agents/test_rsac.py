"""Recurrent SAC: what it sees, its losses by hand and by plain loops, runs that repeat, that it learns."""

import json
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents import rsac
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run, load_checkpoint, stream
from metabench_agents.parts.soft import (
    SoftActor,
    SoftConfig,
    SoftCritics,
    critic_loss,
    entropy_target,
    soft_value,
    temperature_loss,
)

import metabench
from metabench.evaluation.play import Stream

BOX = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32))
SMALL = {"trials": 3, "batch": 2, "every": 100, "buffer": 8} | {
    f"network.{name}": 8 for name in ("embed", "hidden", "width")
}


class Interrupted(rsac.Run):
    """A run that is cut off while its sixth iteration is told of."""

    rows = 5

    def log(self, row):
        self.rows -= 1
        if self.rows < 0:
            raise KeyboardInterrupt
        super().log(row)


def small_run(folder, benchmark="ReacherSwitch-v0", kind=Run, iterations=8, **changes):
    ticks = metabench.spec(benchmark).horizon * metabench.spec(benchmark).episodes
    config = with_settings(rsac.Config(), SMALL | {"frames": ticks * 3 * iterations} | changes)
    return rsac.train(benchmark, config, seed=2, run=kind(folder, show=False, checkpoint_every=3))


def rows(folder):
    table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in table]


def test_squashed_densities_are_those_of_the_transformed_gaussian():
    torch.manual_seed(0)
    actor = SoftActor(3, 8, BOX)
    params, noise = actor(torch.randn(5, 3)), torch.randn(5, 2)
    action, log_prob = actor.draw(params, noise)
    mean, raw = params.chunk(2, dim=-1)
    std = (-5.0 + 3.5 * (torch.tanh(raw) + 1.0)).exp()
    base = torch.distributions.Normal(mean, std)
    squashed = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform(cache_size=1)])
    assert torch.allclose(action, torch.tanh(mean + std * noise))
    assert torch.allclose(log_prob, squashed.log_prob(action).sum(-1), atol=1e-3)
    assert torch.equal(actor.sample(params, None), torch.tanh(mean))
    env = actor.to_env(actor.sample(params, stream(0)).detach())
    assert (env >= BOX.low).all() and (env <= BOX.high).all() and env[:, 1].max() > 1.0


@torch.no_grad()
def test_soft_values_by_hand():
    torch.manual_seed(0)
    actor, critics, x = SoftActor(3, 8, BOX), SoftCritics(3, 8, BOX), torch.randn(5, 3)
    params, noise = actor(x), torch.randn(5, 2)
    action, log_prob = actor.draw(params, noise)
    both = torch.stack([net(torch.cat((x, action), -1))[:, 0] for net in (critics.first, critics.second)])
    value, entropy = soft_value(actor, critics, params, x, torch.tensor(0.5), noise)
    assert torch.allclose(value, both.min(0).values - 0.5 * log_prob) and torch.allclose(entropy, -log_prob)


def test_small_losses_by_hand():
    value, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([0.0, 4.0])
    assert float(critic_loss(value, target)) == pytest.approx((1 + 4) / 2 + 16 / 2)
    assert entropy_target(BOX, SoftConfig()) == -2 and entropy_target(
        spaces.Discrete(5), SoftConfig()
    ) == pytest.approx(0.3 * math.log(5))
    log_alpha = torch.tensor(0.0, requires_grad=True)
    temperature_loss(log_alpha, torch.tensor([1.0, 3.0]), 5.0).backward()
    assert float(log_alpha.grad) == -3.0  # entropy 2 is below 5: the temperature is to rise


def test_acting_equals_the_training_pass():
    """The memory carried tick by tick gives the policy that the update computes over whole trials."""
    env = metabench.make_vec("GridNavigation-v0", 4)
    torch.manual_seed(0)
    learner = rsac.Learner(with_settings(rsac.Config(), SMALL), env)
    agent = rsac.Agent(learner.actor)
    trials = rsac.collect(agent, env, 60, 0, stream(0), False)
    ticks = rsac.ticks_of(trials)
    with torch.no_grad():
        params = learner.actor.policy(learner.actor.encoder(ticks))
    assert params.shape == (61, 4, 5) and trials.first.sum(0).tolist() == [4] * 4
    shown, memory = Stream(trials.observation[0].numpy(), env.single_action_space), agent.begin(4)
    for t in range(60):
        step = shown.timestep()
        assert np.array_equal(step.action, ticks.action[t].numpy()) or t == 0
        action, memory = agent.act(step, memory)
        clear = params[t].sort(-1).values
        assert (action == params[t].argmax(-1).numpy())[(clear[:, -1] - clear[:, -2] > 1e-5).numpy()].all()
        done = np.full(4, t % 15 == 14)
        following = trials.observation[min(t + 1, 59)].numpy()
        led = trials.next_observation[t].numpy()
        shown.advance(trials.action[t].numpy(), following, trials.reward[t].numpy(), done, led)


def test_the_target_is_bootstrapped_along_the_trial_by_a_plain_loop(monkeypatch):
    env = metabench.make_vec("ReacherSwitch-v0", 2)
    torch.manual_seed(0)
    config = with_settings(rsac.Config(), SMALL | {"reward_scale": 0.5})
    learner = rsac.Learner(config, env)
    for parameter in learner.target.parameters():
        parameter.data.mul_(1.5)  # so that a target from the wrong critics would be seen
    ticks = rsac.ticks_of(rsac.collect(rsac.Agent(learner.actor), env, 100, 0, stream(0), True))
    policy, alpha, seen = learner.actor.policy, learner.alpha["log"].detach().exp(), {}
    noise = policy.chance(101, 2, generator=stream(5))
    with torch.no_grad():
        params, slow = policy(learner.actor.encoder(ticks)), learner.target.encoder(ticks)
        expected = torch.stack(
            [
                ticks.reward[t + 1] * 0.5
                + 0.97 * soft_value(policy, learner.target.critics, params[t + 1], slow[t + 1], alpha, noise[t + 1])[0]
                for t in range(100)
            ]
        )
    real = rsac.critic_loss

    def spy(value, target):
        seen["target"] = target
        return real(value, target)

    monkeypatch.setattr(rsac, "critic_loss", spy)
    metrics = rsac.update(learner, ticks, config, stream(5))
    assert torch.allclose(seen["target"], expected, atol=1e-5)
    assert all(math.isfinite(float(value)) for value in metrics.values())


def test_windows_are_parts_of_trials():
    ticks = rsac.Ticks(*(torch.arange(11.0)[:, None].expand(11, 2) for _ in range(5)))
    part = rsac.window_of(ticks, 4, stream(0)).reward
    assert len(part) == 5 and torch.equal(part - part[0], torch.arange(5.0)[:, None].expand(5, 2))
    assert rsac.window_of(ticks, 0, stream(0)) is ticks and rsac.window_of(ticks, 10, stream(0)) is ticks


def test_a_cut_off_run_continues_to_the_same_bits_and_loads(tmp_path):
    trained = small_run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "cut", kind=Interrupted)
    small_run(tmp_path / "cut")
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")
    whole, cut = (load_checkpoint(tmp_path / name).tensors for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    loaded = rsac.load(tmp_path / "cut")
    results = [metabench.evaluate(agent, "ReacherSwitch-v0", seed=1).returns for agent in (trained, loaded)]
    assert results[0] == results[1]


def test_discrete_actions_and_boundless_boxes(tmp_path, monkeypatch):
    agent = small_run(tmp_path / "grid", "GridSwitch-v0", iterations=4, window=20)
    assert metabench.evaluate(agent, "GridSwitch-v0").array().shape[-1] == 1
    family = type(metabench.spec("PointRobot-v0").family())
    monkeypatch.setattr(family, "action_space", spaces.Box(-np.inf, np.inf, (2,), np.float32))
    with pytest.raises(ValueError, match="bounded box or Discrete"):
        small_run(tmp_path / "free", "PointRobot-v0")


@pytest.mark.slow
def test_it_learns_with_continuous_actions(tmp_path):
    """40,000 frames of PointRobot: above staying in the middle, the best that can be done without memory."""
    config = with_settings(rsac.Config(), {"frames": 40_000, "every": 10})
    agent = rsac.train("PointRobot-v0", config, seed=0, run=Run(tmp_path, show=False))
    goals = metabench.spec("PointRobot-v0").table().rows["train"]
    staying = -20 * np.linalg.norm(goals, axis=1).mean()
    assert metabench.evaluate(agent, "PointRobot-v0", split="train").array().mean() > staying + 2.0
