"""MAML plays as it was trained, adapts where an episode of the trial ends, repeats to the bit, and learns."""

import json

import numpy as np
import pytest
import torch
from metabench_agents.gradient import maml
from metabench_agents.gradient.inner import of_trials, step_of_trials
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run, load_checkpoint, stream

import metabench
from metabench.evaluation.play import Stream

SMALL = {"tasks": 2, "trials_per_task": 2, "network.hidden": 8, "inner.rate": 0.5}


class Interrupted(maml.Run):
    """A run that is cut off while its sixth iteration is told of."""

    rows = 5

    def log(self, row):
        self.rows -= 1
        if self.rows < 0:
            raise KeyboardInterrupt
        super().log(row)


def small_run(folder, benchmark="PointRobot-v0", kind=Run, iterations=8, **changes):
    config = with_settings(maml.Config(), SMALL | changes)
    horizon = metabench.spec(benchmark).horizon
    config = with_settings(config, {"frames": config.trials * config.episodes * horizon * iterations})
    return maml.train(benchmark, config, seed=2, run=kind(folder, show=False, checkpoint_every=3))


def rows(folder):
    table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in table]


class Replaying:
    """What an agent chooses from, with a trial's actions in the place of drawn ones."""

    def __init__(self, actions):
        self.turn, self.actions = 0, actions

    def __call__(self, policy, parameters, function, *args):
        _, best = of_trials(policy, parameters, function, *args)
        played = self.actions[:, min(self.turn, self.actions.shape[1] - 1)]
        self.turn += 1
        return played, best


@pytest.mark.parametrize("id", ["PointRobot-v0", "GridNavigation-v0"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_inner_step_is_taken_where_an_episode_ends(id, steps, monkeypatch):
    """Played tick by tick over the same episodes, an agent comes to the parameters that training adapted to."""
    config = with_settings(maml.Config(), SMALL | {"inner.steps": steps, "inner.episodes": 2})
    policy, env = maml.fresh(config, id, 0)
    ticks, space, count = metabench.spec(id).horizon, env.single_action_space, config.inner.steps * 2
    collected = maml.collect(policy, env, config, ticks, 7, stream(0))
    expected = {n: p.detach().expand(4, *p.shape) for n, p in policy.named_parameters()}
    for batch in collected.before:
        with torch.no_grad():
            expected = step_of_trials(policy, expected, batch, config.inner)
    actions = torch.cat([batch.action.flatten(1, 2) for batch in collected.before], dim=1)
    agent = maml.Agent(policy, config, ticks)
    observation, memory = maml.begin_trials(env, config, 7), agent.begin(4)
    theta = {n: p.clone() for n, p in memory.parameters.items()}
    shown = Stream(observation, space)
    monkeypatch.setattr(maml, "of_trials", Replaying(actions))
    for t in range(count * ticks + 1):
        before = memory
        copies = [np.asarray(column).copy() for column in (memory.observation, memory.reward, memory.episode)]
        action, memory = agent.act(shown.timestep(), memory)
        for column, copy in zip((before.observation, before.reward, before.episode), copies, strict=True):
            assert np.array_equal(column, copy), "act changed the belief it was given"
        moved = any(not torch.equal(memory.parameters[n], before.parameters[n]) for n in theta)
        assert moved == (t > 0 and t % (2 * ticks) == 0)
        observation, reward, terminated, truncated, info = env.step(action)
        done = terminated | truncated
        shown.advance(action, observation, reward, done, info.get("final_obs"))
    for name, own in memory.parameters.items():
        assert torch.allclose(own, expected[name], atol=1e-5)
        assert not torch.allclose(own, theta[name], atol=1e-4) or own.ndim == 1


def test_it_draws_until_it_has_adapted_and_stays_then():
    config = with_settings(maml.Config(), SMALL)
    policy, _ = maml.fresh(config, "PointRobot-v0", 0)
    agent, env = maml.Agent(policy, config, 20), metabench.make_vec("PointRobot-v0", 3, episodes_per_task=4)
    observation, _ = env.reset(seed=0, options={"task": [5, 5, 5]})
    shown, memory, played, kept = Stream(observation, env.single_action_space), agent.begin(3), [], []
    for _ in range(80):
        action, memory = agent.act(shown.timestep(), memory)
        observation, reward, terminated, truncated, info = env.step(action)
        shown.advance(action, observation, reward, terminated | truncated, info.get("final_obs"))
        played.append(action)
        kept.append(memory.parameters["head.out.weight"])
    episodes = np.array(played).reshape(4, 20, 3, 2)
    assert not np.allclose(episodes[0, :, 0], episodes[0, :, 1]), "trials draw alike"
    assert not np.array_equal(episodes[1], episodes[0])
    assert np.array_equal(episodes[1], episodes[2]) and np.array_equal(episodes[2], episodes[3])
    assert torch.equal(kept[20], kept[79]) and not torch.equal(kept[19], kept[20])


def test_trials_of_a_task_stand_side_by_side():
    config = with_settings(maml.Config(), {"tasks": 3, "trials_per_task": 4})
    _, env = maml.fresh(config, "PointRobot-v0", 0)
    maml.begin_trials(env, config, 3)
    tasks = [task.context for task in env.tasks]
    assert all(len(set(tasks[i : i + 4])) == 1 for i in (0, 4, 8)) and len(set(tasks)) == 3
    fresh = with_settings(config, {"split": "fresh"})
    _, env = maml.fresh(fresh, "PointRobot-v0", 0)
    maml.begin_trials(env, fresh, 3)
    assert len({task.context for task in env.tasks}) == 3


@pytest.mark.parametrize("outer", ["trpo", "ppo"])
def test_a_cut_off_run_continues_to_the_same_bits_and_loads(tmp_path, outer):
    trained = small_run(tmp_path / "whole", outer=outer)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "cut", kind=Interrupted, outer=outer)
    small_run(tmp_path / "cut", outer=outer)
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")
    whole, cut = (load_checkpoint(tmp_path / name).tensors for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    loaded = maml.load(tmp_path / "cut")
    results = [metabench.evaluate(agent, "PointRobot-v0", seed=1).returns for agent in (trained, loaded)]
    assert results[0] == results[1]


def test_discrete_actions_and_several_steps(tmp_path):
    agent = small_run(tmp_path, "GridNavigation-v0", iterations=3, **{"inner.steps": 2, "after": 2})
    assert metabench.evaluate(agent, "GridNavigation-v0").array().shape[-1] == 4
    assert rows(tmp_path)[-1]["frames"] == 3 * 4 * 4 * 15


def test_an_adapted_episode_is_recommended_to_be_the_last():
    assert maml.recommended("PointRobot-v0").inner.episodes == 1
    recommended = maml.recommended("HighwayMerge-v0")
    assert recommended.inner.episodes == 2 and recommended.view.whole and recommended.view.hold == 5


def test_what_is_not_offered_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not compiled; use --form eager"):
        small_run(tmp_path / "a", form="compiled")
    with pytest.raises(ValueError, match="unknown outer step 'sgd' of maml; available: trpo, ppo"):
        small_run(tmp_path / "b", outer="sgd")


@pytest.mark.slow
@pytest.mark.parametrize("outer", ["trpo", "ppo"])
def test_one_step_walks_towards_the_goal(tmp_path, outer):
    """200,000 frames of PointRobot: the adapted episode is far above the best that can be done without adapting."""
    config = with_settings(maml.recommended("PointRobot-v0"), {"frames": 200_000, "outer": outer})
    agent = maml.train("PointRobot-v0", config, seed=0, run=Run(tmp_path, show=False))
    curve = metabench.evaluate(agent, "PointRobot-v0", split="train").trials().mean(axis=0)
    goals = metabench.spec("PointRobot-v0").table().rows["train"]
    assert curve[1] > -20 * np.linalg.norm(goals, axis=1).mean() + 2.5
    assert curve[1] > curve[0] + 2.5
