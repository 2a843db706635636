"""The evaluator: fixed slots, nothing dropped, nothing counted early, the same numbers whatever the batch."""

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import metabench
from metabench import Family, Field, Protocol, Result, Spec, Timestep, evaluate, param, standard_protocol
from metabench.evaluation.evaluate import play_trials
from metabench.evaluation.play import play
from metabench.evaluation.summary import summarise
from metabench.evaluation.switches import reward_around_switches
from metabench.plugins import load_plugin
from metabench.rng import Array
from metabench.tasks import TaskTable

SUCCESS_AT, HORIZON, TRUE_RATE = 20, 100, 0.30


@dataclass(frozen=True)
class Difficulty:
    threshold: Array = param(0.0, 1.0, doc="success if the episode's luck is below it")


class Luck(NamedTuple):
    luck: Array  # [B] drawn at the start
    elapsed: Array  # [B]
    threshold: Array  # [B]


class EarlySuccess(Family[Luck, Difficulty]):
    """Ends at step 20 with success in 30 % of the episodes, at step 100 without it in the others."""

    context_type = Difficulty
    observation_fields = (Field("luck", 0, 1), Field("elapsed", 0, HORIZON))
    action_space = spaces.Discrete(2)
    action_meanings = ("nothing", "nothing too")
    horizon = HORIZON

    def initial(self, context, rng):
        return Luck(rng.random(), np.zeros(len(rng)), context.threshold)

    def transition(self, state, action, context, rng):
        return Luck(state.luck, state.elapsed + 1, state.threshold)

    def observation(self, state):
        return np.stack([state.luck, state.elapsed], axis=1).astype(np.float32)

    def success(self, state):
        return (state.elapsed == SUCCESS_AT) & (state.luck < state.threshold)

    def terminal(self, state):
        return self.success(state)

    def reward(self, state, action, next_state, context):
        return self.success(next_state).astype(float)


@pytest.fixture
def early_success(tmp_path, monkeypatch):
    """The fake benchmark, registered for one test."""
    rows = {split: np.full((n, 1), TRUE_RATE) for split, n in (("train", 1), ("test", 3), ("ood", 1))}
    table = TaskTable("EarlySuccess-v0", Difficulty, rows)
    spec = Spec(
        id="EarlySuccess-v0",
        entry_point=f"{__name__}:EarlySuccess",
        summary="fake",
        sources=("here",),
        horizon=HORIZON,
        episodes=4,
        repeats=2000,
        digests={split: table.digest(split) for split in rows},
    )
    monkeypatch.setattr(Spec, "family", lambda self: EarlySuccess())
    monkeypatch.setattr(Spec, "table", lambda self: table)
    monkeypatch.setattr(Spec, "references", lambda self, split: {})
    metabench.register(spec)
    yield spec.id
    from metabench import registry

    del registry._SPECS[spec.id], gym.registry["metabench/" + spec.id]


class Nothing:
    """Always action 0."""

    def begin(self, num_trials):
        return 0

    def act(self, step, belief):
        return np.zeros(len(step.reward), dtype=np.int64), belief


def test_early_ends_do_not_bias_the_score(early_success):
    """Counting the first episodes to finish would report about 0.5 here; every slot's own four episodes give 0.30."""
    result = evaluate(Nothing(), early_success, seed=0)
    returns = result.array()
    assert returns.shape == (3, 2000, 4)
    error = np.sqrt(TRUE_RATE * (1 - TRUE_RATE) / returns.size)
    assert abs(returns.mean() - TRUE_RATE) < 4 * error
    assert np.array_equal(np.array(result.successes), returns > 0)


def test_the_biased_count_would_be_wrong(early_success):
    """The first 3 episodes to finish in every group of 4 environments, as one published evaluator counts: the trap."""
    groups, size, wanted = 250, 4, 3
    env = metabench.make_vec(early_success, groups * size, split="test", episodes_per_task=99)
    env.reset(seed=0)
    counted = [[] for _ in range(groups)]
    while min(len(c) for c in counted) < wanted:
        _, reward, terminated, truncated, _ = env.step(np.zeros(groups * size, dtype=np.int64))
        for slot in np.flatnonzero(terminated | truncated):
            counted[slot // size].append(reward[slot])
    assert np.mean([c[:wanted] for c in counted]) > TRUE_RATE + 0.15


class Recorder:
    """Remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def begin(self, num_trials):
        return 0

    def act(self, step, belief):
        self.seen.append(Timestep(*(column.copy() for column in step)))
        return np.full(len(step.reward), 1 + belief % 4), belief + 1


@pytest.mark.parametrize("version", ["slots-1", "slots-2"])
def test_agents_see_the_stream_they_are_promised(version):
    agent, env = Recorder(), metabench.make_vec("GridNavigation-v0", 3, split="test", episodes_per_task=2)
    play_trials(agent, env, np.array([0, 1, 2]), 2, seed=0, version=version)
    assert len(agent.seen) == 30
    firsts = np.stack([step.first for step in agent.seen])
    assert (np.flatnonzero(firsts.all(axis=1)) == [0, 15]).all() and firsts.sum() == 6
    for t, step in enumerate(agent.seen):
        assert (step.observation == 0).all() or not step.first[0]
        told = t > 0 and (version == "slots-2" or not step.first[0])
        assert (step.action == (1 + (t - 1) % 4 if told else 0)).all()
        assert np.isin(step.reward, [1.0, -0.1] if told else [0.0]).all()
    twin = metabench.make_vec("GridNavigation-v0", 3, split="test", episodes_per_task=2)
    twin.reset(seed=0, options={"task": np.array([0, 1, 2])})
    for t in range(15):
        _, reward, *_, info = twin.step(np.full(3, 1 + t % 4))
    ended, others = agent.seen[15], [step for t, step in enumerate(agent.seen) if t != 15]
    assert not any(step.final.any() for step in others)
    if version == "slots-2":
        assert np.array_equal(ended.final, info["final_obs"]) and np.array_equal(ended.reward, reward)
        assert ended.final.any(axis=1).all()
    else:
        assert not ended.final.any() and not ended.reward.any()


class Vandal(Recorder):
    """Writes into whatever it is handed, and into what it handed out."""

    action = np.ones(3, dtype=np.int64)

    def act(self, step, belief):
        for column in step:
            column[...] = 0
        self.action[...] = 1 + belief % 4
        return self.action, belief + 1


def test_an_agent_cannot_change_what_is_recorded_of_it():
    def played(agent):
        env = metabench.make_vec("GridNavigation-v0", 3, split="test", episodes_per_task=2)
        observation, _ = env.reset(seed=0, options={"task": np.array([0, 1, 2])})
        return list(itertools.islice(play(agent, env, observation), 30))

    for honest, forged in zip(played(Recorder()), played(Vandal()), strict=True):
        assert np.array_equal(honest.action, forged.action) and np.array_equal(honest.reward, forged.reward)
        assert np.array_equal(honest.observation, forged.observation)


def test_an_agent_is_played_under_the_version_it_was_trained_for():
    agent = Recorder()
    assert evaluate(agent, "GridNavigation-v0", split="ood").protocol.version == "slots-2"
    agent.protocol = "slots-1"
    assert evaluate(agent, "GridNavigation-v0", split="ood").protocol.version == "slots-1"
    later = standard_protocol("GridNavigation-v0", "ood")
    assert evaluate(agent, later).protocol.version == "slots-2", "who names a protocol gets it"
    with pytest.raises(ValueError, match="unknown version 'slots-9' of the protocol; there are slots-1, slots-2"):
        evaluate(agent, later.model_copy(update={"version": "slots-9"}))


def test_results_do_not_depend_on_slots_or_process():
    agent = load_plugin("bayes").build("GridSwitch-v0", "test", 0)
    protocol = standard_protocol("GridSwitch-v0", "test", seed=3).model_copy(update={"repeats": 2})
    whole = evaluate(agent, protocol)
    assert whole.returns == evaluate(agent, protocol, slots=7).returns
    assert whole.returns != evaluate(agent, protocol.model_copy(update={"seed": 4})).returns
    code = (
        "import metabench; from metabench.plugins import load_plugin;"
        "from metabench import Protocol, evaluate; import sys;"
        "agent = load_plugin('bayes').build('GridSwitch-v0', 'test', 0);"
        "print(evaluate(agent, Protocol.model_validate_json(sys.argv[1])).to_json())"
    )
    there = subprocess.check_output([sys.executable, "-c", code, protocol.model_dump_json()], text=True)
    assert Result.from_json(there) == whole


def test_seeds_share_no_trial():
    """Trial i of one seed must not be trial i + 1 of the seed before it."""
    agent = load_plugin("random").build("GridSwitch-v0", "test", 0)
    first, second = (evaluate(agent, "GridSwitch-v0", seed=s).trials()[:, 0] for s in (0, 1))
    assert not np.array_equal(first[1:], second[:-1])
    assert abs(np.corrcoef(first[1:], second[:-1])[0, 1]) < 0.15


def test_progress_and_names():
    calls = []
    result = evaluate(Nothing(), "GridNavigation-v0", slots=30, progress=lambda *c: calls.append(c), train_seed=5)
    assert calls == [(30, 100), (60, 100), (90, 100), (100, 100)]
    assert (result.agent, result.track, result.train_seed) == ("Nothing", "online", 5)


def test_privileged_agents_are_filed_apart():
    result = evaluate(load_plugin("oracle").build("GridNavigation-v0", "test", 0), "GridNavigation-v0")
    assert result.track == "oracle"
    assert result.task_digest == metabench.spec("GridNavigation-v0").digests["test"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: evaluate(Nothing(), "GridNav-v0"), "unknown id 'GridNav-v0'; did you mean"),
        (lambda: evaluate(Nothing(), "GridSwitch-v0", split="tset"), "unknown split 'tset'.*did you mean 'test'"),
        (lambda: evaluate(Nothing(), "GridSwitch-v0", split="fresh"), "'fresh' of GridSwitch-v0 has no table"),
        (lambda: Protocol(benchmark="x", split="test", episodes=0, repeats=1, seed=0), "greater than or equal to 1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_summary_by_hand():
    result = evaluate(load_plugin("oracle").build("PointRobot-v0", "test", 0), "PointRobot-v0")
    summary = summarise([result])
    assert summary.score.estimate == pytest.approx(np.mean(sorted(_normalised(result))[1:-1]), abs=1e-9)
    assert summary.regret == pytest.approx(0.0, abs=1e-6)
    assert summary.curve.shape == (2,) and summary.zero_shot == summary.curve[0] and summary.runs == 1


def _normalised(result):
    levels = metabench.spec("PointRobot-v0").references("test")
    low, high = levels["random"]["mean"], levels["oracle"]["mean"]
    return (result.array().mean(axis=(1, 2)) - low) / (high - low)


def test_summary_over_runs_and_its_errors():
    agent = load_plugin("random").build("GridSwitch-v0", "test", 0)
    runs = [evaluate(agent, "GridSwitch-v0", train_seed=s) for s in (1, 2)]
    assert summarise(runs).runs == 2
    with pytest.raises(ValueError, match="results of one agent under one protocol"):
        summarise([runs[0], evaluate(agent, "GridSwitch-v0", split="ood")])
    with pytest.raises(ValueError, match="no result"):
        summarise([])


def test_a_switch_shows_in_the_rewards():
    """The Bayes agent stands on the goal before a switch, pays once or more after it, and is back later."""
    curve = reward_around_switches(load_plugin("bayes").build("GridSwitch-v0", "test", 0), "GridSwitch-v0")
    assert curve.switches > 50
    before, at, after = curve.reward[4], curve.reward[5], curve.reward[-1]
    assert curve.offset[5] == 0
    assert before > 0.9 and at < 0.0 and after > 0.95
    with pytest.raises(ValueError, match="shows no change of its task"):
        reward_around_switches(Nothing(), "GridNavigation-v0")


def test_references_are_what_the_script_measures():
    """The cheap ones again; `python scripts/measure_references.py --check` does all."""
    for name in ("random", "bayes", "oracle"):
        agent = load_plugin(name).build("GridSwitch-v0", "ood", 1)
        protocol = standard_protocol("GridSwitch-v0", "ood", seed=77).model_copy(update={"repeats": 40})
        trials = evaluate(agent, protocol).trials()
        stored = metabench.spec("GridSwitch-v0").references("ood")[name]["mean"]
        assert abs(trials.mean() - stored) < 4 * trials.std() / np.sqrt(len(trials))


def test_result_json_is_plain(tmp_path):
    result = evaluate(Nothing(), "GridNavigation-v0")
    result.save(tmp_path / "deep" / "result.json")
    record = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert record["schema_version"] == 1 and len(record["returns"]) == 5
    assert Result.load(tmp_path / "deep" / "result.json") == result
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["result.json"]
