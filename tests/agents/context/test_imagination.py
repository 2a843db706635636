"""Imagined tasks and imagined experience: interpolation by hand, rollouts in a known model."""

import numpy as np
import pytest
import torch
from metabench_agents.context.actor_critic import LatentActorCritic, LatentSACConfig
from metabench_agents.context.imagination import (
    choose,
    interpolate,
    relabel,
    rollouts,
)
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import NeuralDecoder, Prediction, TransitionDecoderConfig
from metabench_agents.parts.run import stream

import metabench

SMALL = TransitionDecoderConfig(hidden=8, layers=1)


def test_interpolation_by_hand():
    """Two factors, three tasks: factor 0 takes 0, 1, 3 and lives in dimension 2; factor 1 takes 5, 5, 7, in 0."""
    means = torch.tensor([[10.0, 0.5, -1.0], [12.0, 0.6, 0.0], [20.0, 0.7, 4.0]])
    factors = np.array([[0.0, 5.0], [1.0, 5.0], [3.0, 7.0]])
    imagined = interpolate(means, factors, (2, 0), density=2)
    assert len(imagined.base) == 3 * 2 + 3  # factor 0 has two gaps, factor 1 one; every real task lends its rest
    first = imagined.take(np.arange(3))  # between 0 and 1
    assert first.factors.tolist() == [[0.5, 5.0], [0.5, 5.0], [0.5, 7.0]]
    assert torch.allclose(first.z, torch.tensor([[10.0, 0.5, -0.5], [12.0, 0.6, -0.5], [20.0, 0.7, -0.5]]))
    assert first.base.tolist() == [0, 1, 2]
    third = imagined.take(np.arange(6, 9))  # 5 is at the mean of 10 and 12
    assert third.factors.tolist() == [[0.0, 6.0], [1.0, 6.0], [3.0, 6.0]]
    assert torch.allclose(third.z[:, 0], torch.tensor(15.5)) and torch.allclose(third.z[:, 1:], means[:, 1:])


def test_density_divides_the_gap():
    imagined = interpolate(torch.tensor([[0.0], [8.0]]), np.array([[1.0], [2.0]]), (0,), density=4)
    assert imagined.z[::2, 0].tolist() == [2.0, 4.0, 6.0]
    assert imagined.factors[::2, 0].tolist() == [1.25, 1.5, 1.75]
    with pytest.raises(ValueError, match="nothing lies between"):
        interpolate(torch.zeros(2, 1), np.ones((2, 1)), (0,), density=4)


def test_choice_is_without_replacement_while_it_can_be():
    imagined = interpolate(torch.tensor([[0.0], [8.0]]), np.array([[1.0], [2.0]]), (0,), density=4)
    rows = [tuple(row) for row in choose(imagined, 6, stream(0)).factors.tolist()]
    assert sorted(rows) == sorted(tuple(row) for row in imagined.factors.tolist())
    assert len(choose(imagined, 15, stream(0)).base) == 15


class TrueModel(NeuralDecoder):
    """PointRobot itself: z is the goal, the first two columns of it."""

    def forward(self, observation, action, z):
        after = observation + 0.1 * action
        return Prediction(after, -torch.linalg.norm(after - z[..., :2], dim=-1), torch.full(z.shape[:-1], -9.0))


@pytest.fixture
def parts():
    env = metabench.make_vec("PointRobot-v0", 1)
    torch.manual_seed(0)
    core = LatentActorCritic(
        env.family.observation_fields, env.single_action_space, 3, LatentSACConfig(hidden=16, layers=1)
    )
    return TrueModel(core.features, env.single_observation_space, 2, 3, SMALL), core


def test_rollouts_end_where_the_model_says(parts):
    _, core = parts

    class Ends(TrueModel):
        def forward(self, observation, action, z):
            step = super().forward(observation, action, z)
            return step._replace(ends=torch.where(z[..., 2] > 0, 9.0, -9.0))

    decoder = Ends(
        core.features,
        metabench.make_vec("PointRobot-v0", 1).single_observation_space,
        2,
        3,
        TransitionDecoderConfig(hidden=8, layers=1),
    )
    z = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    first, second = rollouts(decoder, core, torch.zeros(2, 2), z, z, 7, stream(0))
    assert len(first) == 1 and len(second) == 7
    assert first[0, -1] == 1.0 and second[:, -1].sum() == 0.0


def test_imagined_states_stay_in_the_space(parts):
    _, core = parts

    class Flies(TrueModel):
        def forward(self, observation, action, z):
            return super().forward(observation, action, z)._replace(next_observation=observation + 100.0)

    decoder = Flies(
        core.features,
        metabench.make_vec("PointRobot-v0", 1).single_observation_space,
        2,
        3,
        TransitionDecoderConfig(hidden=8, layers=1),
    )
    z = torch.zeros(1, 3)
    (rows,) = rollouts(decoder, core, torch.zeros(1, 2), z, z, 3, stream(0))
    assert Transitions.unpack(rows, 2, 2).next_observation.max() == 2.0


def test_relabelling_keeps_states_and_actions(parts):
    decoder, _ = parts
    torch.manual_seed(0)
    seen = Transitions.unpack(torch.rand(2, 4, 8), 2, 2)
    z = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    other = relabel(decoder, seen, z)
    assert torch.equal(other.observation, seen.observation) and torch.equal(other.action, seen.action)
    after = seen.observation + 0.1 * seen.action
    assert torch.allclose(other.next_observation, after)
    assert torch.allclose(other.reward, -torch.linalg.norm(after - z[:, None, :2], dim=-1))
    assert (other.terminal == 0).all()


def test_nothing_is_differentiated_through_the_model(parts):
    decoder, core = parts
    (rows,) = rollouts(decoder, core, torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 3), 3, stream(0))
    assert not rows.requires_grad
