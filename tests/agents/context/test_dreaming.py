"""Policies that learn in a world of their own: episodes of it, PPO over them, and that it learns."""

import pytest
import torch
from metabench_agents.context.dreaming import DreamConfig, LatentGaussianPolicy, imagine_episodes, learn_in
from metabench_agents.parts.losses import PPO
from metabench_agents.parts.view import Sight, ViewConfig

import metabench

FAMILY = metabench.spec("PointRobot-v0").family()
SIGHT = Sight(FAMILY.observation_fields, ViewConfig(hold=4, time=True), 10)


class Match:
    """A step pays minus the distance of the action from z; a second column above 0.9 ends the episode."""

    def begin(self, count, generator):
        z = 1.2 * torch.rand(count, 1, generator=generator) - 0.6
        return torch.zeros(count, 2), z, torch.zeros(count, 2)

    def hold(self, state, action, alive, steps):
        self.asked = [*getattr(self, "asked", []), steps]
        paid = -(action[:, 0] - self.z[:, 0]).abs() * steps
        total = torch.where(alive, paid, 0.0)
        return state, total, alive & (action[:, 1] < 0.9), int(alive.sum()) * steps

    def observe(self, state):
        return state


class Known(Match):
    def begin(self, count, generator):
        state, self.z, observation = super().begin(count, generator)
        return state, self.z, observation


def policy(config):
    torch.manual_seed(0)
    made = LatentGaussianPolicy(SIGHT, FAMILY.action_space, 1, config)
    made.features.fit(torch.randn(100, 3))
    return made


def test_an_episode_is_decided_in_parts_of_the_held_steps():
    world = Known()
    batch = imagine_episodes(policy(DreamConfig()), world, SIGHT, 32, torch.Generator().manual_seed(0))
    assert world.asked == [4, 4, 2] and batch.reward.shape == (3, 32)
    assert batch.live[0].all() and not batch.live[2].all()
    assert batch.reward[~batch.live].eq(0).all()
    living = [int(alive.sum()) for alive in batch.live]
    assert batch.steps == 4 * living[0] + 4 * living[1] + 2 * living[2]


def test_time_is_shown_at_each_decision():
    batch = imagine_episodes(policy(DreamConfig()), Known(), SIGHT, 4, torch.Generator().manual_seed(0))
    assert batch.seen[:, 0, 2].tolist() == pytest.approx([-1.0, -0.2, 0.6], abs=1e-6)


def test_ppo_learns_in_a_world_to_do_as_the_latent_says():
    ppo = PPO(learning_rate=3e-3, discount=0.9, trace=0.9, epochs=4, minibatches=4, value_weight=1.0, entropy=0.0)
    config = DreamConfig(steps=600_000, slots=256, hidden=32, reward_scale=1.0, ppo=ppo)
    learner, seen = policy(config), []
    draws = torch.Generator().manual_seed(1)
    metrics = learn_in(learner, Known(), SIGHT, config, draws, lambda steps, mean: seen.append((steps, mean)))
    assert seen[-1][0] == metrics["dream_steps"] <= 600_000 + 2560
    with torch.no_grad():
        z = torch.linspace(-0.6, 0.6, 13)[:, None]
        state = learner.see(SIGHT(torch.zeros(13, 2), torch.zeros(13)), z)
        error = (learner.act(state, torch.zeros(13, 2)).action[:, :1] - z).abs().mean()
    assert float(error) < 0.1 and seen[-1][1] > seen[0][1] + 2.0
