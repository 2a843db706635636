"""Imagination beside the simulator: in a known model they are the same, and errors are counted by hand."""

import numpy as np
import pytest
import torch
from metabench_agents.context.actor_critic import LatentActorCritic, LatentSACConfig
from metabench_agents.context.fidelity import dream, imagination_errors, simulated
from metabench_agents.context.imagination import rollouts
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import NeuralDecoder, Prediction, TransitionDecoderConfig
from metabench_agents.parts.run import stream

import metabench

SMALL = TransitionDecoderConfig(hidden=8, layers=1)


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


def test_rollouts_in_the_true_model_are_the_simulators(parts):
    decoder, core = parts
    goals = np.array([[0.4, -0.8], [-0.3, 0.2], [0.9, 0.9]])
    world = torch.cat((torch.tensor(goals), torch.zeros(3, 1)), dim=1).float()
    played, alive = simulated("PointRobot-v0", goals, core, world, 20, 0, stream(5))
    imagined = rollouts(decoder, core, torch.zeros(3, 2), world, world, 20, stream(5))
    assert alive.all() and alive.shape == (3, 20)
    for slot in range(3):
        mine = Transitions.unpack(imagined[slot], 2, 2)
        for ours, theirs in zip(mine, played, strict=True):
            assert torch.allclose(ours, theirs[slot], atol=1e-5)
    errors = imagination_errors(decoder, played, alive, world)
    assert errors.state.max() < 1e-5 and errors.reward.max() < 1e-5 and errors.state.shape == (20,)
    wrong = imagination_errors(decoder, played, alive, world + 0.5)
    assert wrong.state.max() < 1e-5 and wrong.reward.min() > 0.05


def test_errors_by_hand_and_dead_steps_do_not_count(parts):
    decoder, _ = parts
    rows = torch.zeros(2, 3, 8)
    played = Transitions.unpack(rows, 2, 2)
    played.next_observation[:, :, 0] = torch.tensor([[1.0, 1.0, 99.0], [2.0, 2.0, 2.0]])
    alive = torch.tensor([[True, True, False], [True, True, True]])
    errors = imagination_errors(decoder, played, alive, torch.zeros(2, 3))  # the model stays at 0
    root, spread = float(np.sqrt(2.5)), float(np.std([1, 1, 2, 2, 2], ddof=1))
    assert errors.state.tolist() == pytest.approx([root / spread / np.sqrt(2)] * 2 + [2 / spread / np.sqrt(2)])


def test_dreams_start_where_episodes_do(parts):
    decoder, _ = parts
    played = Transitions.unpack(torch.rand(2, 4, 8), 2, 2)
    states, rewards = dream(decoder, played, torch.zeros(2, 3))
    assert torch.allclose(states[:, -1], played.observation[:, 0] + 0.1 * played.action.sum(1))
    assert rewards.shape == (2, 4)
