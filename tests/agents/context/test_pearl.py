"""PEARL: its test protocol, its contexts, its counting, and that a run continues to the same bits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from metabench_agents.context import pearl
from metabench_agents.context.posterior import Evidence
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.run import Run, load_checkpoint, stream

import metabench
from metabench import Timestep

SMALL = pearl.Config(
    tasks=4,
    iterations=4,
    initial_episodes=1,
    tasks_per_iteration=2,
    prior_episodes=1,
    posterior_episodes=2,
    updates=3,
    meta_batch=3,
    batch=16,
    context=8,
    hidden=16,
    layers=1,
    encoder_hidden=16,
    encoder_layers=1,
    evaluate_every=2,
    evaluate_splits=("test",),
)


def untrained(benchmark="PointRobot-v0", **kwargs):
    network, *_ = pearl.build(benchmark, replace(SMALL, **kwargs), seed=1)
    for layer in network.encoder:  # encoders start next to zero: all factors would be equal
        if hasattr(layer, "weight"):
            torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    return network


def play(agent, trials=3, episodes=4, seed=0):
    """The stream of some trials: (step, belief after it) of each tick, as the evaluator plays."""
    env = metabench.make_vec("PointRobot-v0", trials, split="test", episodes_per_task=episodes)
    observation, _ = env.reset(seed=seed)
    belief, ticks = agent.begin(trials), []
    action, reward = np.zeros((trials, 2), np.float32), np.zeros(trials)
    first = np.ones(trials, dtype=bool)
    for _ in range(20 * episodes):
        step = Timestep(observation, action, reward, first, np.zeros_like(observation))
        action, belief = agent.act(step, belief)
        ticks.append((step, belief))
        observation, reward, terminated, truncated, _ = env.step(action)
        first = terminated | truncated
        reward = np.where(first, 0.0, reward)
        action = np.where(first[:, None], np.float32(0), action)
    return ticks


@pytest.mark.parametrize("next_observation", [False, True])
def test_the_context_is_what_this_trial_has_shown(next_observation):
    """The posterior of each episode is that of the trial's own transitions, computed here from the stream alone."""
    network = untrained(next_observation=next_observation)
    ticks = play(pearl.Agent(network, exploration_episodes=1))
    seen, before = [], None
    for step, belief in ticks:
        if not step.first[0]:
            seen.append((before.observation, step.action, step.reward, step.observation))
        before = step
        if not seen:
            assert torch.equal(belief.memory.precision, torch.zeros(3, 5))
            continue
        o, a, r, n = (torch.as_tensor(np.stack(c, axis=1)).float() for c in zip(*seen, strict=True))
        context = Transitions(o, a / 0.1, r, n, torch.zeros_like(r))  # actions in the policy's units
        expected = Evidence.total(network.factors(context))
        assert torch.allclose(belief.memory.precision, expected.precision, rtol=1e-4)
        assert torch.allclose(belief.memory.weighted, expected.weighted, rtol=1e-3, atol=1e-3)


def test_exploration_does_not_know_what_has_been_seen():
    """Guesses of exploration episodes are the same whatever the rewards; those after them are not."""
    network = untrained()
    network.encoder[-1].bias.data[5:] = -3.0
    honest = play(pearl.Agent(network, exploration_episodes=2))

    class Blind(pearl.Agent):
        def act(self, step, belief):
            return super().act(step._replace(reward=step.reward - 7.0), belief)

    other = play(Blind(network, exploration_episodes=2))
    z = torch.stack([belief.guess.z for _, belief in honest])[::20]  # [episodes, trials, L]
    z_other = torch.stack([belief.guess.z for _, belief in other])[::20]
    assert torch.equal(z[:2], z_other[:2])
    assert not torch.allclose(z[2:], z_other[2:])
    assert len({tuple(row) for row in z.flatten(0, 1).tolist()}) == 12, "a guess per trial and episode"


def test_a_guess_holds_for_an_episode_and_prior_guesses_are_standard_normal():
    ticks = play(pearl.Agent(untrained(), exploration_episodes=9), trials=400, episodes=3)
    z = torch.stack([belief.guess.z for _, belief in ticks]).view(3, 20, 400, 5)
    assert (z == z[:, :1]).all()
    guesses = z[:, 0].flatten()
    assert abs(float(guesses.mean())) < 0.05 and abs(float(guesses.std()) - 1.0) < 0.05


def test_learned_data_never_enter_an_evaluation():
    """Same parameters, other training data: the same evaluation. (Another implementation failed here.)"""
    network, _learner, replay, collector = pearl.build("PointRobot-v0", SMALL, seed=0)
    agent = pearl.Agent(network, 1)
    clean = metabench.evaluate(agent, "PointRobot-v0").array()
    pearl.collect(network, collector, replay, range(4), SMALL, stream(0))
    assert replay.transitions == 4 * 60
    assert np.array_equal(clean, metabench.evaluate(agent, "PointRobot-v0").array())
    held = [v for v in vars(agent).values() if not isinstance(v, (int, str))]
    assert held == [network], "the agent holds nothing but networks"


def test_act_leaves_the_belief_alone_and_evaluations_repeat():
    agent = pearl.Agent(untrained(), 1)
    step, belief = play(agent, episodes=2)[25]
    copies = [x.clone() for x in (*belief.memory, belief.guess.z, belief.observation)]
    streams = [s.copy() for s in belief.guess[2:]]
    for first in (np.zeros(3, dtype=bool), np.array([True, False, True])):
        agent.act(step._replace(first=first), belief)
    after = (*belief.memory, belief.guess.z, belief.observation)
    assert all(torch.equal(a, b) for a, b in zip(copies, after, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(streams, belief.guess[2:], strict=True))
    first, second = (metabench.evaluate(agent, "PointRobot-v0").array() for _ in range(2))
    assert np.array_equal(first, second)


def test_contexts_are_prior_episodes_and_steps_are_counted():
    network, _, replay, collector = pearl.build("PointRobot-v0", SMALL, seed=0)
    pearl.collect(network, collector, replay, [0, 1, 2, 3], SMALL, stream(0))
    assert collector.frames == replay.transitions == 4 * 3 * 20
    assert [end - first for first, end in replay.context] == [20] * 4  # one prior episode
    pearl.collect(network, collector, replay, [2], SMALL, stream(1))
    assert collector.frames == 300 and replay.context[2] == (60, 80) and replay.context[1] == (0, 20)
    window, _ = replay.windows([2], 20, stream(2))
    table = metabench.spec("PointRobot-v0").table().rows["train"]
    assert torch.allclose(window.observation[0, 0], torch.zeros(2))  # a whole episode, from its start
    moved = window.next_observation[0] - window.observation[0]
    assert torch.allclose(moved, window.action[0] * 0.1, atol=1e-6)  # actions are in the policy's units
    distance = torch.linalg.norm(window.next_observation[0] - torch.tensor(table[2]).float(), dim=1)
    assert torch.allclose(window.reward[0], -distance, atol=1e-5)  # and each slot has played its own task


def test_a_killed_run_continues_to_the_same_bits(tmp_path):
    def finish(folder, **kwargs):
        return pearl.train("PointRobot-v0", SMALL, seed=3, run=Run(folder, show=False, checkpoint_every=1, **kwargs))

    class Killed(Exception):
        pass

    class Dies(Run):
        def save(self, iteration, *args):
            super().save(iteration, *args)
            if iteration == 2:
                raise Killed

    finish(tmp_path / "whole")
    with pytest.raises(Killed):
        pearl.train("PointRobot-v0", SMALL, seed=3, run=Dies(tmp_path / "killed", show=False, checkpoint_every=1))
    finish(tmp_path / "killed")
    finished = [load_checkpoint(tmp_path / name) for name in ("whole", "killed")]
    assert finished[0].state["collector"] == finished[1].state["collector"]
    assert all(torch.equal(finished[0].tensors[name], finished[1].tensors[name]) for name in finished[0].tensors)
    rows = []
    for name in ("whole", "killed"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        rows.append([{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines])
    assert rows[0] == rows[1] and len(rows[0]) == 4
    assert (
        rows[0][1]["frames"] == 4 * 20 + 2 * 2 * 3 * 20 and "test/last" in rows[0][1] and "test/last" not in rows[0][0]
    )
    agent = pearl.load(tmp_path / "whole")
    assert np.isfinite(metabench.evaluate(agent, "PointRobot-v0").array()).all()


def test_what_does_not_fit_is_told_in_a_sentence():
    with pytest.raises(ValueError, match="bounded Box"):
        pearl.build("GridNavigation-v0", SMALL, 0)
    with pytest.raises(ValueError, match="tasks must be 1 to 45"):
        pearl.build("PointRobot-v0", replace(SMALL, tasks=46), 0)
    assert pearl.published("CheetahVel-v0").context == 100
    assert pearl.published("ReacherGoal-v0") == pearl.Config()


@pytest.mark.slow
def test_it_learns_point_robot(tmp_path):
    """After eight exploration episodes it walks to goals it was not trained on."""
    config = replace(pearl.Config(), **POINT_ROBOT)
    agent = pearl.train("PointRobot-v0", config, seed=0, run=Run(tmp_path, show=False))
    protocol = metabench.Protocol(benchmark="PointRobot-v0", split="test", episodes=9, repeats=4, seed=0)
    returns = metabench.evaluate(agent, protocol).trials().mean(axis=0)
    spec = metabench.spec("PointRobot-v0")
    random, oracle = (spec.references("test")[name]["mean"] for name in ("random", "oracle"))
    assert (returns[8] - random) / (oracle - random) > 0.65
    assert returns[8] > returns[:8].max() + 5.0, "it has adapted"


POINT_ROBOT = {
    "iterations": 40,
    "prior_episodes": 10,
    "tasks_per_iteration": 45,
    "posterior_episodes": 4,
    "updates": 600,
    "batch": 64,
    "context": 60,
    "hidden": 64,
    "layers": 2,
    "encoder_hidden": 128,
    "kl_weight": 1e-2,
    "learning_rate": 3e-3,
    "discount": 0.9,
    "reward_scale": 10.0,
    "target_rate": 0.02,
    "exploration_episodes": 8,
}
