"""At play z is the mean code of the trial's own transitions, the last of an episode included, and of nothing else."""

import numpy as np
import pytest
import torch
from metabench_agents.context.offline.actor_critic import ActorCriticConfig
from metabench_agents.context.offline.encoder import EncoderConfig, mean_of_first
from metabench_agents.context.offline.network import OfflineNetwork
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig
from metabench_agents.context.replay import Transitions

import metabench
from metabench.evaluation.play import play

ID = "PointRobot-v0"


def network():
    torch.manual_seed(0)
    return OfflineNetwork(ID, EncoderConfig(latent=3, hidden=16), ActorCriticConfig(hidden=16)).eval()


def ticks(agent, count, slots=3, version="slots-2"):
    """What an agent was shown and did, and what it acted on, tick by tick."""
    beliefs, act = [], agent.act

    def spying(step, belief):
        action, after = act(step, belief)
        beliefs.append(after)
        return action, after

    agent.act = spying
    env = metabench.make_vec(ID, slots, split="test", episodes_per_task=9)
    observation, _ = env.reset(seed=0)
    found = []
    for tick in play(agent, env, observation, version=version):
        found.append(tick)
        if len(found) == count:
            return found, beliefs
    raise AssertionError


@pytest.mark.parametrize("version", ["slots-1", "slots-2"])
def test_z_is_the_mean_code_of_the_trial_so_far(version):
    net = network()
    agent = OfflineContextAgent("x", net, PlayingConfig(), protocol=version)
    found, beliefs = ticks(agent, 45, version=version)
    seen = [[] for _ in range(3)]
    for number, (tick, belief) in enumerate(zip(found, beliefs, strict=True)):
        for slot in range(3):
            want = torch.stack(seen[slot]).mean(0) if seen[slot] else torch.zeros(3)
            assert torch.allclose(belief.z[slot], want, atol=1e-5), (number, slot)
            ended = bool((tick.terminated | tick.truncated)[slot])
            if ended and version == "slots-1":
                continue  # the agent is not told how an episode ended
            led_to = tick.info["final_obs"][slot] if ended else tick.observation[slot]
            columns = (tick.step.observation[slot], tick.action[slot] / 0.1, tick.reward[slot], led_to, 0.0)
            row = Transitions(*(torch.as_tensor(np.asarray(c, np.float32)) for c in columns))
            with torch.no_grad():
                seen[slot].append(net.encoder.codes(row))


def test_z_may_be_renewed_where_an_episode_begins_only():
    agent = OfflineContextAgent("x", network(), PlayingConfig(renew="episode"))
    _, beliefs = ticks(agent, 45)
    assert all(not belief.z.any() for belief in beliefs[:20]), "the first episode is played with z of nothing"
    for start in (20, 40):
        z = beliefs[start].z
        assert z.any() and all(torch.equal(belief.z, z) for belief in beliefs[start : start + 5])
    assert not torch.equal(beliefs[20].z, beliefs[40].z)


def test_a_trial_begins_with_drawn_actions_in_its_first_episode_alone():
    net = network()
    drawn, _ = ticks(OfflineContextAgent("x", net, PlayingConfig(explore=5)), 45, slots=40)
    own, _ = ticks(OfflineContextAgent("x", net, PlayingConfig()), 45, slots=40)
    first = np.stack([tick.action for tick in drawn[:5]])
    assert abs(first.mean()) < 0.01 and first.std() == pytest.approx(0.1 / np.sqrt(3.0), rel=0.1)
    assert np.stack([tick.action for tick in own[:5]]).std() < first.std() / 3
    assert len(np.unique(first)) > 390, "every trial draws its own"
    again, _ = ticks(OfflineContextAgent("x", net, PlayingConfig(explore=5)), 5, slots=40)
    assert np.array_equal(first, np.stack([tick.action for tick in again]))
    assert np.stack([tick.action for tick in drawn[20:25]]).std() < first.std() / 3


def test_acting_changes_no_belief():
    agent = OfflineContextAgent("x", network(), PlayingConfig())
    _, beliefs = ticks(agent, 3)
    step = metabench.Timestep(
        np.ones((3, 2)), np.full((3, 2), 0.05), np.ones(3), np.zeros(3, dtype=bool), np.zeros((3, 2))
    )
    before = [x.clone() for x in beliefs[2] if isinstance(x, torch.Tensor)]
    one, other = (agent.act(step, beliefs[2])[0] for _ in range(2))
    assert np.array_equal(one, other)
    assert all(torch.equal(a, b) for a, b in zip(before, [x for x in beliefs[2] if torch.is_tensor(x)], strict=True))


def test_the_mean_of_the_first_codes():
    codes = torch.arange(12.0).view(2, 3, 2)
    found = mean_of_first(codes, torch.tensor([2, 0]))
    assert found.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert torch.equal(mean_of_first(codes, torch.tensor([3, 3])), codes.mean(1))
