"""PEARL: its test protocol, its contexts, its counting, and that a run continues to the same bits."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from metabench_agents.context import pearl
from metabench_agents.context.actor_critic import LatentSACConfig
from metabench_agents.context.collect import CollectionConfig
from metabench_agents.context.posterior import Evidence
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.config import read_config, with_settings
from metabench_agents.parts.run import Run, load_checkpoint, stream

import metabench
from metabench.evaluation.play import Stream

SMALL = pearl.Config(
    tasks=4,
    iterations=4,
    collection=CollectionConfig(initial_episodes=1, tasks_per_iteration=2, prior_episodes=1, posterior_episodes=2),
    updates=3,
    meta_batch=3,
    batch=16,
    encoder=pearl.FactorEncoderConfig(context=8, hidden=16, layers=1),
    sac=LatentSACConfig(hidden=16, layers=1),
    evaluate_every=2,
    evaluate_splits=("test",),
)


def untrained(benchmark="PointRobot-v0", **changes):
    network = pearl.build(benchmark, with_settings(SMALL, changes), seed=1).network
    for layer in network.encoder:  # encoders start next to zero: all factors would be equal
        if hasattr(layer, "weight"):
            torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    return network


def play(agent, trials=3, episodes=4, seed=0):
    """The stream of some trials: (step, belief after it) of each tick, as the evaluator plays."""
    env = metabench.make_vec("PointRobot-v0", trials, split="test", episodes_per_task=episodes)
    stream = Stream(env.reset(seed=seed)[0], env.single_action_space, agent.protocol)
    belief, ticks = agent.begin(trials), []
    for _ in range(20 * episodes):
        step = stream.timestep()
        action, belief = agent.act(step, belief)
        ticks.append((step, belief))
        observation, reward, terminated, truncated, info = env.step(action)
        stream.advance(action, observation, reward, terminated | truncated, info.get("final_obs"))
    return ticks


@pytest.mark.parametrize("next_observation", [False, True])
def test_the_context_is_what_this_trial_has_shown(next_observation):
    """The posterior of each episode is that of the trial's own transitions, computed here from the stream alone."""
    network = untrained(**{"encoder.next_observation": next_observation})
    ticks = play(pearl.PEARLAgent(network, exploration_episodes=1))
    seen, before = [], None
    for step, belief in ticks:
        if before:
            led_to = step.final if step.first[0] else step.observation
            seen.append((before.observation, step.action, step.reward, led_to))
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
    honest = play(pearl.PEARLAgent(network, exploration_episodes=2))

    class Blind(pearl.PEARLAgent):
        def act(self, step, belief):
            return super().act(step._replace(reward=step.reward - 7.0), belief)

    other = play(Blind(network, exploration_episodes=2))
    z = torch.stack([belief.guess.z for _, belief in honest])[::20]  # [episodes, trials, L]
    z_other = torch.stack([belief.guess.z for _, belief in other])[::20]
    assert torch.equal(z[:2], z_other[:2])
    assert not torch.allclose(z[2:], z_other[2:])
    assert len({tuple(row) for row in z.flatten(0, 1).tolist()}) == 12, "a guess per trial and episode"


def test_a_guess_holds_for_an_episode_and_prior_guesses_are_standard_normal():
    ticks = play(pearl.PEARLAgent(untrained(), exploration_episodes=9), trials=400, episodes=3)
    z = torch.stack([belief.guess.z for _, belief in ticks]).view(3, 20, 400, 5)
    assert (z == z[:, :1]).all()
    guesses = z[:, 0].flatten()
    assert abs(float(guesses.mean())) < 0.05 and abs(float(guesses.std()) - 1.0) < 0.05


def test_learned_data_never_enter_an_evaluation():
    """Same parameters, other training data: the same evaluation. (Another implementation failed here.)"""
    state = pearl.build("PointRobot-v0", SMALL, seed=0)
    agent = pearl.PEARLAgent(state.network, 1)
    clean = metabench.evaluate(agent, "PointRobot-v0").array()
    pearl.collect(state, range(4), SMALL, stream(0))
    assert sum(state.replay.count) == 4 * 60
    assert np.array_equal(clean, metabench.evaluate(agent, "PointRobot-v0").array())
    held = [v for v in vars(agent).values() if v is not None and not isinstance(v, (int, str))]
    assert held == [state.network], "the agent holds nothing but networks"


def test_act_leaves_the_belief_alone_and_evaluations_repeat():
    agent = pearl.PEARLAgent(untrained(), 1)
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
    state = pearl.build("PointRobot-v0", SMALL, seed=0)
    replay, collector = state.replay, state.collector
    pearl.collect(state, [0, 1, 2, 3], SMALL, stream(0))
    assert collector.frames == sum(replay.count) == 4 * 3 * 20
    assert [end - first for first, end in replay.context] == [20] * 4  # one prior episode
    pearl.collect(state, [2], SMALL, stream(1))
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


DEFAULTS = {  # configs/default.py of katerakelly/oyster at 44e20fd, in its own terms: steps, not episodes
    "meta_batch": 16,
    "num_iterations": 500,
    "num_initial_steps": 2000,
    "num_tasks_sample": 5,
    "num_steps_prior": 400,
    "num_steps_posterior": 0,
    "num_extra_rl_steps_posterior": 400,
    "num_train_steps_per_itr": 2000,
    "batch_size": 256,
    "embedding_batch_size": 64,
    "max_path_length": 200,
    "discount": 0.99,
    "soft_target_tau": 0.005,
    "policy_lr": 3e-4,
    "reward_scale": 5.0,
    "kl_lambda": 0.1,
    "use_next_obs_in_context": False,
    "num_exp_traj_eval": 1,
    "latent_size": 5,
    "net_size": 300,
}
BODY = {"num_extra_rl_steps_posterior": 600, "num_exp_traj_eval": 2}
ANT = {**BODY, "num_train_steps_per_itr": 4000, "embedding_batch_size": 256}
PARAM = {**ANT, "embedding_batch_size": 100, "meta_batch": 10, "use_next_obs_in_context": True}
SHORT = {"num_initial_steps": 200, "num_train_steps_per_itr": 1000, "max_path_length": 20, "reward_scale": 100.0}
OYSTER = {  # its configs/*.json: what differs from the defaults
    "CheetahVel-v0": {**BODY, "embedding_batch_size": 100},
    "CheetahDir-v0": {
        "meta_batch": 4,
        "num_steps_prior": 1000,
        "num_extra_rl_steps_posterior": 1000,
        "num_exp_traj_eval": 2,
        "embedding_batch_size": 256,
    },
    "AntDir-v0": {**ANT, "meta_batch": 4},
    "AntGoal-v0": {**ANT, "meta_batch": 10, "kl_lambda": 1.0},
    "HumanoidDir-v0": ANT,
    "WalkerParam-v0": PARAM,
    "HopperParam-v0": PARAM,
    "PointRobot-v0": {**SHORT, "num_steps_prior": 200, "num_extra_rl_steps_posterior": 200},
    "SparsePointRobot-v0": {
        **SHORT,
        "num_tasks_sample": 10,
        "num_steps_prior": 100,
        "num_steps_posterior": 900,
        "num_extra_rl_steps_posterior": 0,
        "embedding_batch_size": 1024,
        "discount": 0.9,
        "kl_lambda": 1.0,
        "num_exp_traj_eval": 5,
    },
    "ReacherGoal-v0": {},  # oyster has none: its defaults
}


@pytest.mark.parametrize("id", OYSTER)
def test_published_settings_are_oysters(id):
    """Every number of its files, translated from steps to episodes."""
    told, ours = DEFAULTS | OYSTER[id], pearl.published(id)
    episode = told["max_path_length"]
    collection = CollectionConfig(
        tasks_per_iteration=told["num_tasks_sample"],
        initial_episodes=told["num_initial_steps"] // episode,
        prior_episodes=told["num_steps_prior"] // episode,
        context_episodes=told["num_steps_posterior"] // episode,
        posterior_episodes=told["num_extra_rl_steps_posterior"] // episode,
    )
    sac = LatentSACConfig(
        hidden=told["net_size"],
        learning_rate=told["policy_lr"],
        discount=told["discount"],
        reward_scale=told["reward_scale"],
        target_rate=told["soft_target_tau"],
    )
    encoder = pearl.FactorEncoderConfig(
        context=told["embedding_batch_size"],
        next_observation=told["use_next_obs_in_context"],
        kl_weight=told["kl_lambda"],
    )
    assert ours == pearl.Config(
        iterations=told["num_iterations"],
        collection=collection,
        updates=told["num_train_steps_per_itr"],
        meta_batch=told["meta_batch"],
        batch=told["batch_size"],
        latent=told["latent_size"],
        encoder=encoder,
        sac=sac,
        exploration_episodes=told["num_exp_traj_eval"],
    )
    assert set(pearl.PUBLISHED) == set(OYSTER) - {"ReacherGoal-v0"}


def test_context_episodes_enter_the_context_one_by_one():
    """Prior and context episodes are the context, in order; each guess after the first knows those before it."""
    config = with_settings(SMALL, {"collection.context_episodes": 3, "collection.posterior_episodes": 1})
    state = pearl.build("PointRobot-v0", config, seed=0)
    known, infer = [], state.network.posterior

    def watched(context):
        known.append(state.replay.context[0])
        return infer(context)

    state.network.posterior = watched
    row = pearl.collect(state, [0, 1], config, stream(0))
    assert known == [(0, 20), (0, 40), (0, 60), (0, 80)], "before each of the three, and before the last"
    assert state.replay.context[:2] == [(0, 80)] * 2 and state.replay.count[:2] == [100] * 2
    assert state.collector.frames == 2 * 5 * 20 and {"return_prior", "return_posterior"} <= set(row)
    pearl.collect(state, [0], config, stream(1))
    assert state.replay.context[0] == (100, 180)


def test_settings_are_written_in_groups_and_flat_ones_are_read(tmp_path):
    config = replace(SMALL, iterations=1)
    pearl.train("PointRobot-v0", config, seed=0, run=Run(tmp_path, show=False))
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["config"] == json.loads(json.dumps(asdict(config)))
    agent = pearl.load(tmp_path)
    flat = {
        "hidden": 16,
        "layers": 1,
        "encoder_hidden": 16,
        "encoder_layers": 1,
        "context": 8,
        "tasks_per_iteration": 2,
    }
    assert read_config(pearl.Config, flat, pearl.RENAMED) == with_settings(
        pearl.Config(),
        {
            "sac.hidden": 16,
            "sac.layers": 1,
            "encoder": pearl.FactorEncoderConfig(8, hidden=16, layers=1),
            "collection.tasks_per_iteration": 2,
        },
    )
    (tmp_path / "config.json").write_text(json.dumps(settings | {"config": flat}))
    again = pearl.load(tmp_path)
    assert agent.protocol == again.protocol == "slots-2"
    for one, other in zip(agent.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_it_learns_point_robot(tmp_path):
    """After eight exploration episodes it walks to goals it was not trained on."""
    config = with_settings(pearl.Config(), POINT_ROBOT)
    agent = pearl.train("PointRobot-v0", config, seed=0, run=Run(tmp_path, show=False))
    protocol = metabench.Protocol(benchmark="PointRobot-v0", split="test", episodes=9, repeats=4, seed=0)
    returns = metabench.evaluate(agent, protocol).trials().mean(axis=0)
    spec = metabench.spec("PointRobot-v0")
    random, oracle = (spec.references("test")[name]["mean"] for name in ("random", "oracle"))
    assert (returns[8] - random) / (oracle - random) > 0.65
    assert returns[8] > returns[:8].max() + 5.0, "it has adapted"


POINT_ROBOT = {
    "iterations": 40,
    "collection.prior_episodes": 10,
    "collection.tasks_per_iteration": 45,
    "collection.posterior_episodes": 4,
    "updates": 600,
    "batch": 64,
    "encoder.context": 60,
    "encoder.hidden": 128,
    "encoder.kl_weight": 1e-2,
    "sac.hidden": 64,
    "sac.layers": 2,
    "sac.learning_rate": 3e-3,
    "sac.discount": 0.9,
    "sac.reward_scale": 10.0,
    "sac.target_rate": 0.02,
    "exploration_episodes": 8,
}
