"""Generative models: kinematics by hand, losses by hand, which columns are positions and velocities."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import (
    KinematicDecoder,
    NeuralDecoder,
    Prediction,
    TransitionDecoderConfig,
    Units,
    cluster_losses,
    make_decoder,
    reconstruction,
    vae_loss,
)
from metabench_agents.parts.features import Features, Pair, kinematic_pairs, point_masses

import metabench
from metabench import Field

SMALL = TransitionDecoderConfig(hidden=8, layers=1)
SPACE = spaces.Box(np.array([-10.0, -5.0, 0.0]), np.array([10.0, 5.0, 1.0]), dtype=np.float64)
TOLD = Features([Field(name, 0, 1) for name in "abc"])
FIELDS = (
    Field("ego_x", -10, 10, "m"),
    Field("ego_speed", -5, 5, "m/s"),
    Field("front_x", -10, 10, "m"),
    Field("front_vx", -5, 5, "m/s"),
    Field("gap", -10, 10, "m"),
    Field("gap_velocity", -5, 5, "m/s"),
    Field("heading_angle", -3, 3, "rad"),
    Field("heading_velocity", -3, 3, "rad/s"),
    Field("wind_speed", -3, 3, "m/s"),
    Field("presence", 0, 1),
)


def test_pairs_come_from_names_and_units():
    assert kinematic_pairs(FIELDS) == (Pair(0, 1), Pair(2, 3), Pair(4, 5), Pair(6, 7))
    assert kinematic_pairs(FIELDS[-2:]) == ()


def test_features_are_columns_and_distances():
    """Three masses: their columns, the second and third from the first, the third from the second."""
    fields = [Field(f"{c}_{w}", 0, 1, u) for c in "abc" for w, u in (("x", "m"), ("speed", "m/s"))]
    assert point_masses(fields) and not point_masses(FIELDS)
    features = Features(fields)
    told = features(torch.tensor([1.0, 10.0, 4.0, 20.0, 9.0, 30.0]))
    assert told.tolist() == [1.0, 10.0, 4.0, 20.0, 9.0, 30.0, 3.0, 8.0, 5.0]
    torch.manual_seed(0)
    seen = torch.randn(500, 6) * 3.0 + 2.0
    seen[:, 1] = 7.0  # never changes
    features.fit(seen)
    told = features(seen)
    assert torch.allclose(told.mean(0), torch.zeros(9), atol=1e-5)
    assert torch.allclose(told.std(0), torch.tensor([1.0, 0.0, *[1.0] * 7]), atol=1e-5)
    assert Features(FIELDS).size == len(FIELDS)


def constant_outputs(decoder, values):
    for parameter in decoder.body.parameters():
        parameter.data.zero_()
    decoder.body[-1].bias.data = torch.tensor(values)
    return decoder


def test_kinematics_by_hand():
    """x = 1 m at 2 m/s for 0.5 s under 3 tanh(0.7) m/s^2; the third column moves as the network says."""
    decoder = KinematicDecoder(TOLD, SPACE, 1, 2, SMALL, [Pair(0, 1)], dt=0.5)
    constant_outputs(decoder, [9.0, 0.7, 0.25, -1.5, 2.0])
    decoder.units.step.copy_(torch.tensor([7.0, 7.0, 0.4]))
    decoder.units.center.copy_(torch.tensor([1.0, 1.0, 0.1]))
    decoder.units.reward_center.fill_(1.0)
    decoder.units.reward_scale.fill_(2.0)
    step = decoder(torch.tensor([[1.0, 2.0, 0.5]]), torch.zeros(1, 1), torch.zeros(1, 2))
    expected = [1.0 + 2.0 * 0.5, 2.0 + 3.0 * np.tanh(0.7) * 0.5, 0.5 + 0.1 + 0.4 * 0.25]
    assert step.next_observation[0].tolist() == pytest.approx(expected)
    assert step.reward.tolist() == pytest.approx([1.0 + 2.0 * -1.5]) and step.ends.tolist() == [2.0]


def test_accelerations_are_bounded():
    decoder = constant_outputs(
        KinematicDecoder(TOLD, SPACE, 1, 2, SMALL, [Pair(0, 1)], dt=0.1), [0.0, 1e6, 0.0, 0.0, 0.0]
    )
    step = decoder(torch.zeros(1, 3), torch.zeros(1, 1), torch.zeros(1, 2))
    assert step.next_observation[0, 1].item() == pytest.approx(0.3)


def test_the_neural_decoder_and_bounds_by_hand():
    decoder = constant_outputs(NeuralDecoder(TOLD, SPACE, 1, 2, SMALL), [20.0, -1.0, 0.5, 4.0, 0.0])
    step = decoder(torch.tensor([[1.0, 2.0, 0.9]]), torch.zeros(1, 1), torch.zeros(1, 2))
    assert step.next_observation[0].tolist() == pytest.approx([21.0, 1.0, 1.4]) and step.reward.item() == 4.0
    decoder.units.reward_high.fill_(3.0)
    imagined = decoder.imagine(torch.tensor([[1.0, 2.0, 0.9]]), torch.zeros(1, 1), torch.zeros(1, 2))
    assert imagined.next_observation[0].tolist() == pytest.approx([10.0, 1.0, 1.0]) and imagined.reward.item() == 3.0


def test_units_are_moments():
    torch.manual_seed(0)
    seen = Transitions.unpack(torch.randn(50, 4, 9), 3, 1)
    seen.next_observation[..., 2] = seen.observation[..., 2]
    units = Units(3)
    units.fit(seen)
    change = (seen.next_observation - seen.observation).reshape(-1, 3)
    assert torch.allclose(units.center, change.mean(0)) and torch.allclose(units.step[:2], change.std(0)[:2])
    assert units.step[2] == 1.0 and torch.allclose(units.reward_scale, seen.reward.std())


def test_reconstruction_by_hand():
    units = Units(2)
    units.step.copy_(torch.tensor([1.0, 2.0]))
    units.reward_scale.fill_(4.0)
    predicted = Prediction(torch.tensor([1.0, 2.0]), torch.tensor(3.0), torch.tensor(0.0))
    seen = Transitions(
        *(torch.zeros(n) for n in (2, 1)), torch.tensor(1.0), torch.tensor([0.0, 0.0]), torch.tensor(1.0)
    )
    # ((1/1)^2 + (2/2)^2 + (2/4)^2) / (2 * 0.5^2) + log 2
    assert float(reconstruction(predicted, seen, units, 0.5)) == pytest.approx(2.25 / 0.5 + np.log(2.0))


def test_vae_loss_by_hand():
    belief = DiagonalGaussian(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [1.0]]))  # KL 0.5 and 0
    loss, metrics = vae_loss(torch.tensor([[2.0, 4.0], [0.0, 2.0]]), belief, beta=5.0, transitions=10)
    assert float(loss) == pytest.approx(10 * 2.0 + 5.0 * 0.25)
    assert float(metrics["kl"]) == pytest.approx(0.25)


def test_cluster_losses_by_hand():
    means = torch.tensor([[[0.0, 0.0], [2.0, 0.0]], [[1.0, 3.0], [1.0, 5.0]], [[1.0, 0.5], [1.0, 0.5]]])
    # Centres (1, 0), (1, 4), (1, 0.5): spreads 1, 1, 0; distances 4, 0.5, 3.5; only 0.5 is below 2.
    within, between = cluster_losses(means, separation=2.0)
    assert float(within) == pytest.approx(2.0 / 3.0)
    assert float(between) == pytest.approx(1.5**2 / 3.0)
    assert float(cluster_losses(means[:1], 2.0)[1]) == 0.0


def test_separation_pushes_equal_centres_without_nan():
    means = torch.zeros(2, 2, 3, requires_grad=True)
    sum(cluster_losses(means, 1.0)).backward()
    assert torch.isfinite(means.grad).all()


def test_cluster_gradients_pull_within_and_push_between():
    torch.manual_seed(0)
    means = (torch.randn(3, 4, 2) * 0.1).requires_grad_()
    optimiser = torch.optim.SGD([means], lr=0.2)
    for _ in range(400):
        optimiser.zero_grad()
        sum(cluster_losses(means, 1.0)).backward()
        optimiser.step()
    within, between = cluster_losses(means.detach(), 1.0)
    assert within < 1e-3 and between < 1e-2


def test_which_decoder_a_family_gets():
    def made(kind, fields):
        space = spaces.Box(-1.0, 1.0, (len(fields),))
        family = SimpleNamespace(observation_fields=fields, dt=0.1, observation_space=space)
        return type(make_decoder(replace(SMALL, kind=kind), family, Features(fields), 1, 2))

    assert made("auto", FIELDS[:4]) is KinematicDecoder
    assert made("neural", FIELDS[:4]) is NeuralDecoder
    assert made("auto", FIELDS[:4] + FIELDS[-1:]) is NeuralDecoder  # a column that is neither
    assert made("auto", FIELDS[6:8]) is NeuralDecoder  # angles are no point masses
    assert made("physics", FIELDS[:4] + FIELDS[-1:]) is KinematicDecoder
    with pytest.raises(ValueError, match="unknown decoder 'magic'"):
        made("magic", FIELDS)
    with pytest.raises(ValueError, match="no positions with velocities"):
        made("physics", FIELDS[-1:])


@pytest.mark.parametrize("id, kind", [("HighwayMerge-v0", KinematicDecoder), ("CheetahVel-v0", NeuralDecoder)])
def test_which_decoder_our_families_get(id, kind):
    spec = metabench.spec(id)
    family = spec.family()
    assert type(make_decoder(SMALL, family, Features(family.observation_fields), 1, 2)) is kind


def test_the_kinematics_are_highway_merges():
    """Played in the simulator, positions move by speed * dt; with the right accelerations speeds follow too."""
    env = metabench.make_vec("HighwayMerge-v0", 4)
    decoder = make_decoder(SMALL, env.family, Features(env.family.observation_fields), 1, 2)
    assert len(decoder.position) == len(decoder.velocity) == 9 and decoder.dt == 0.2
    before, _ = env.reset(seed=0)
    for _ in range(20):
        after, *_ = env.step(np.full((4, 1), 0.5, np.float32))
        change = torch.zeros(4, 18)
        wanted = torch.as_tensor((after - before)[:, decoder.velocity]) / (3.0 * 0.2)
        change[:, decoder.velocity] = torch.atanh(wanted.clamp(-0.999999, 0.999999))
        assert torch.allclose(decoder.move(torch.as_tensor(before), change), torch.as_tensor(after), atol=1e-3)
        before = after
