"""What an agent that guesses the task remembers of a trial, tick by tick; published policies play as they did."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.context import metadreamer, pearl
from metabench_agents.context.actor_critic import LatentSACConfig
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import TransitionDecoderConfig
from metabench_agents.context.task_encoder import TaskModelConfig

import metabench
from metabench.evaluation.play import Stream
from metabench.runs import CHECKPOINT, CONFIG

ENTRIES = Path(__file__).parents[3] / "leaderboards" / "point-robot"
SIZES = LatentSACConfig(hidden=8, layers=1)


def untrained(algorithm, protocol):
    """An agent of small random networks, whose encoder tells contexts apart."""
    torch.manual_seed(0)
    if algorithm is pearl:
        encoder = pearl.FactorEncoderConfig(hidden=8, layers=1, next_observation=True)
        config = pearl.Config(sac=SIZES, encoder=encoder)
        network = pearl.build("PointRobot-v0", config, 0).network
        agent = pearl.PEARLAgent(network, 1, protocol)
        parts = network.encoder
    else:
        config = metadreamer.Config(
            sac=SIZES, model=TaskModelConfig(width=8, decoder=TransitionDecoderConfig(hidden=8))
        )
        network = metadreamer.build("PointRobot-v0", config, 0).network
        agent, parts = metadreamer.MetaDreamerAgent(network, 1, protocol), network.model
    for parameter in parts.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return agent


@torch.inference_mode()
def belief_about(agent, context):
    """The encoder's belief after a context `[N, ...]`, as training computes it."""
    whole = Transitions(*(column[None] for column in context))
    if isinstance(agent, pearl.PEARLAgent):
        return agent.network.posterior(whole)
    return agent.network.model.posterior(whole, torch.tensor([len(context.reward)]))


@torch.inference_mode()
def held(agent, belief, slot):
    """What the agent's memory says of a slot's task; None where it is empty."""
    if isinstance(agent, pearl.PEARLAgent):
        posterior = belief.memory.posterior()
        return None if float(belief.memory.precision[slot].abs().sum()) == 0.0 else posterior.mean[slot]
    return None if not bool(belief.memory[slot].any()) else agent.network.model.out(belief.memory)[slot].chunk(2)[0]


# Two trials side by side. Their observations are (n, n) / 10 for the numbers here, the reward that an action brings is
# told after it, and where an episode ended, the observation it ended in.
WALKS = (  # of a trial: (what is seen next, reward, what the episode ended in)
    [(1, 0.5, None), (0, 0.25, 2), (5, -1.0, None), (0, 2.0, 7)],  # episodes of two steps
    [(3, 1.5, None), (4, -0.5, None), (0, 3.0, 6), (8, 1.0, None)],  # an episode of three, and the next one's first
)
WHOLE = (  # which transitions (from, to, reward) have been taken in at each tick under slots-2: all there have been
    [[], [(0, 1, 0.5)], [(1, 2, 0.25)], [(0, 5, -1.0)], [(5, 7, 2.0)]],
    [[], [(0, 3, 1.5)], [(3, 4, -0.5)], [(4, 6, 3.0)], [(0, 8, 1.0)]],
)
PARTIAL = (  # under slots-1: none that ended an episode
    [[], [(0, 1, 0.5)], [], [(0, 5, -1.0)], []],
    [[], [(0, 3, 1.5)], [(3, 4, -0.5)], [], [(0, 8, 1.0)]],
)


@pytest.mark.parametrize("algorithm", [pearl, metadreamer], ids=lambda a: a.NAME)
@pytest.mark.parametrize(
    ("protocol", "version", "expected"),
    [("slots-2", "slots-2", WHOLE), ("slots-1", "slots-1", PARTIAL), ("slots-1", "slots-2", PARTIAL)],
)
def test_the_context_is_what_the_trial_has_shown(algorithm, protocol, version, expected):
    agent = untrained(algorithm, protocol)
    place = np.array([0.0, 0.0])
    stream = Stream(np.zeros((2, 2), np.float32), spaces.Box(-0.1, 0.1, (2,), np.float32), version)
    belief, actions = agent.begin(2), []
    contexts = ([], [])
    for tick in range(5):
        action, belief = agent.act(stream.timestep(), belief)
        for slot, context in enumerate(contexts):
            for source, target, reward in expected[slot][tick]:
                did = torch.as_tensor(actions[-1][slot]) / 0.1
                ends = [torch.full((2,), number / 10.0) for number in (source, target)]
                context.append((ends[0], did, torch.tensor(reward), ends[1], torch.tensor(0.0)))
            found = held(agent, belief, slot)
            if not context:
                assert found is None
                continue
            columns = Transitions(*(torch.stack(column) for column in zip(*context, strict=True)))
            assert torch.allclose(found, belief_about(agent, columns).mean[0], atol=1e-5), (tick, slot)
        actions.append(action)
        if tick < 4:
            seen, rewards, final = zip(*(walk[tick] for walk in WALKS), strict=True)
            place = np.repeat(np.array(seen, np.float32)[:, None] / 10, 2, axis=1)
            done = np.array([end is not None for end in final])
            ended = np.repeat(np.array([end or 0 for end in final], np.float32)[:, None] / 10, 2, axis=1)
            stream.advance(action, place, np.array(rewards), done, ended)


@pytest.mark.parametrize("algorithm", [pearl, metadreamer], ids=lambda a: a.NAME)
def test_a_guess_is_made_from_the_episodes_last_transition_too(algorithm):
    """What only the end of the first episode tells changes the second episode's guess; under slots-1 it cannot."""
    guesses = {}
    for protocol in ("slots-1", "slots-2"):
        for reward in (0.0, 50.0):
            agent = untrained(algorithm, protocol)
            stream = Stream(np.zeros((1, 2), np.float32), spaces.Box(-0.1, 0.1, (2,), np.float32), protocol)
            action, belief = agent.act(stream.timestep(), agent.begin(1))
            stream.advance(action, np.full((1, 2), 0.1, np.float32), np.zeros(1), np.array([False]), None)
            action, belief = agent.act(stream.timestep(), belief)
            final = np.full((1, 2), 0.2, np.float32)
            stream.advance(action, np.zeros((1, 2), np.float32), np.array([reward]), np.array([True]), final)
            guesses[protocol, reward] = agent.act(stream.timestep(), belief)[1].guess.z
    assert torch.equal(guesses["slots-1", 0.0], guesses["slots-1", 50.0])
    assert not torch.allclose(guesses["slots-2", 0.0], guesses["slots-2", 50.0])


def published():
    for algorithm in (pearl, metadreamer):
        for entry in sorted((ENTRIES / algorithm.NAME).glob("*/result.json")):
            for index, policy in enumerate(sorted(entry.parent.glob("policies/run_*"))):
                marks = [pytest.mark.slow] if index else []  # one of each entry is enough every day
                yield pytest.param(algorithm, entry, index, policy, id=f"{algorithm.NAME}-{index}", marks=marks)


@pytest.mark.parametrize(("algorithm", "entry", "index", "policy"), list(published()))
def test_published_policies_play_as_they_did(tmp_path, algorithm, entry, index, policy):
    (tmp_path / CONFIG).write_bytes((policy / "config.json").read_bytes())
    (tmp_path / CHECKPOINT).write_bytes((policy / "policy.safetensors").read_bytes())
    agent = algorithm.load(tmp_path)
    record = json.loads(entry.read_text())["results"][index]
    protocol = metabench.Protocol(**record["protocol"])
    assert agent.protocol == protocol.version == "slots-1"
    again = metabench.evaluate(agent, protocol).array()
    assert np.allclose(again, np.array(record["returns"]), rtol=0, atol=1e-5)  # equal where the processor is
