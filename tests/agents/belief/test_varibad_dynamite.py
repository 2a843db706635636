"""VariBAD and DynaMITE-RL as agents: what they see, what they remember, that runs repeat, that they learn."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from metabench_agents.belief import dynamite, sessions, varibad
from metabench_agents.belief.policy import BeliefActorCritic, BeliefAgent, collect, renew
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.losses import session_of_belief
from metabench_agents.parts.memory import TrialBuffer, has_sessions, trial_length
from metabench_agents.parts.run import Run, load_checkpoint, stream

import metabench
from metabench import Timestep
from metabench.evaluation.play import play

SMALL = {
    "trials": 16,
    "model.encoder.embed": 8,
    "model.encoder.hidden": 8,
    "model.decoder.hidden": (8, 8),
    "fit.updates": 2,
    "fit.trials": 8,
    "width": 16,
    "warmup.iterations": 2,
    "warmup.updates": 3,
    "buffer": 50,  # fewer than are played: it goes round
}
OFF = {
    "sessions.consistency": False,
    "sessions.conditioning": False,
    "sessions.masking": False,
    "sessions.termination_weight": 0.0,
}
CODE = """
import sys
from pathlib import Path
from metabench_agents.belief import dynamite
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run
config = with_settings(dynamite.Config(frames=60 * 16 * 24), SETTINGS)
dynamite.train("GridSwitch-v0", config, seed=3, run=Run(Path(sys.argv[1]), show=False, checkpoint_every=2))
"""


def small_run(folder, module=dynamite, changes={}, benchmark="GridSwitch-v0", seed=3, iterations=12):  # noqa: B006
    config = with_settings(module.Config(), SMALL | changes)
    config = with_settings(config, {"frames": trial_length("test", benchmark) * config.trials * iterations})
    return module.train(benchmark, config, seed=seed, run=Run(folder, show=False, checkpoint_every=2))


def rows(folder):
    table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in table]


def assert_equal_runs(a, b):
    assert rows(a) == rows(b)
    tensors = [load_checkpoint(folder).tensors for folder in (a, b)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def networks(benchmark="GridNavigation-v0", trials=6, changes={}):  # noqa: B006  it is read only
    env = metabench.make_vec(benchmark, trials)
    torch.manual_seed(0)
    config = with_settings(dynamite.Config(), SMALL | {"model.reward_loss": "mse"} | changes)
    model = sessions.SessionModel(config.sessions, config.model, env, trial_length("test", benchmark))
    actor = BeliefActorCritic(env, model.latent.parameters, 8, model.base.reading)
    return env, model, actor


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_beliefs_tick_by_tick_equal_the_training_pass(encoder, kind):
    env, model, actor = networks(changes={"model.encoder.kind": encoder, "model.latent.kind": kind})
    rollout = collect(model.base, actor, env, 60, False, 0, stream(0))
    with torch.no_grad():
        belief = model.beliefs(rollout.trials)
    assert torch.allclose(model.base.read(belief, rollout.trials.observation), rollout.belief, atol=1e-5)
    assert rollout.trials.first.sum(0).tolist() == [4] * 6  # four episodes in a trial, the belief kept across them
    assert not torch.allclose(rollout.belief[15], rollout.belief[0], atol=1e-4)


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_beliefs_do_not_see_the_future_nor_the_sessions(encoder):
    env, model, actor = networks("GridSwitch-v0", changes={"model.encoder.kind": encoder})
    trials = collect(model.base, actor, env, 60, True, 0, stream(0)).trials
    with torch.no_grad():
        before = model.beliefs(trials)
        trials.session[:] = 7
        assert torch.equal(model.beliefs(trials), before)
        trials.reward[30] += 5.0  # seen from tick 31 on
        after = model.beliefs(trials)
    assert torch.equal(after[:31], before[:31]) and not torch.allclose(after[31], before[31], atol=1e-4)


class Repeating:
    """An agent that does what was done in collected trials, and keeps what another believes meanwhile."""

    def __init__(self, agent, actions):
        self.agent, self.actions, self.read = agent, iter(actions), []

    def begin(self, num_trials):
        return self.agent.begin(num_trials)

    def act(self, step, belief):
        before = belief.core.clone()
        posterior, after = self.agent.infer(step, belief)
        assert torch.equal(belief.core, before), "infer changed the belief it was given"
        self.read.append(self.agent.model.read(posterior, torch.from_numpy(step.observation).float()))
        return next(self.actions), after


@pytest.mark.parametrize("id", ["GridNavigation-v0", "PointRobot-v0"])
def test_training_sees_and_believes_what_evaluation_shows(id):
    """The collector's ticks are those of the evaluator's loop, and its beliefs those of acting, tick by tick."""
    env, model, actor = networks(id, 3)
    ticks = trial_length("test", id)
    rollout = collect(model.base, actor, env, ticks, False, 0, stream(0))
    agent = Repeating(BeliefAgent("test", model.base, actor), rollout.trials.action.numpy())
    came, action, reward, first = (column.numpy() for column in rollout.trials.ticks())
    observation, _ = env.reset(seed=0)
    for t, tick in zip(range(ticks), play(agent, env, observation), strict=False):
        step = tick.step
        assert np.array_equal(step.observation, rollout.trials.observation[t].numpy())
        assert np.array_equal(step.action, action[t]) and np.array_equal(step.first, first[t])
        assert np.array_equal(step.reward.astype(np.float32), reward[t])
        led = step.final if t and step.first.any() else step.observation
        assert np.array_equal(led, came[t])  # inference is told where the last transition led, the policy where it is
        assert torch.allclose(agent.read[t], rollout.belief[t], atol=1e-5)
    assert first[1:].any() and len(agent.read) == ticks


def test_the_transition_that_ends_an_episode_is_believed():
    """Its reward and where it led move the belief at the next episode's first tick; the new start does not."""
    env, model, actor = networks()
    trials = collect(model.base, actor, env, 60, False, 0, stream(0)).trials
    with torch.no_grad():
        before = model.beliefs(trials)
        trials.observation[15] += 1.0
        assert torch.equal(model.beliefs(trials), before)
        for column, change in ((trials.reward, 1.0), (trials.next_observation, 1.0)):
            column[14] += change  # of the first episode's last step
            after = model.beliefs(trials)
            column[14] -= change
            assert torch.equal(after[:15], before[:15]) and not torch.allclose(after[15], before[15], atol=1e-4)


def test_beliefs_of_an_earlier_protocol_never_read_how_an_episode_ended():
    _, model, actor = networks(trials=1)
    seen, ended = np.zeros((1, 2), np.float32), np.full((1, 2), 3, np.float32)
    step = Timestep(seen, np.zeros(1, np.int64), np.ones(1), np.ones(1, dtype=bool), ended)
    for protocol, alike in (("slots-2", False), ("slots-1", True)):
        agent = BeliefAgent("test", model.base, actor, protocol)
        begun = agent.begin(1)._replace(begun=True)
        blank = step._replace(reward=np.zeros(1), final=np.zeros_like(seen))
        assert torch.equal(agent.infer(step, begun)[0], agent.infer(blank, begun)[0]) is alike


def test_an_episodes_own_session_is_believed_one_tick_after_it_begins():
    """The belief at an episode's first tick is the last one about the session that is over."""
    env, model, actor = networks()
    trials = collect(model.base, actor, env, 60, True, 0, stream(0)).trials
    assert trials.session[:, 0].tolist() == [t // 15 for t in range(60)]  # of the coming transition
    assert session_of_belief(trials.session)[:, 0].tolist() == [max(0, t - 1) // 15 for t in range(60)]


def test_session_labels_are_the_environments():
    env, model, actor = networks("GridSwitch-v0", 32)
    trials = collect(model.base, actor, env, 60, True, 0, stream(0)).trials
    replay = metabench.make_vec("GridSwitch-v0", 32, expose_task=True)
    paying, _ = replay.reset(seed=0)
    changes = 0
    for t in range(59):
        paying_next, _, _, _, info = replay.step(trials.action[t].numpy())
        assert (trials.session[t + 1] - trials.session[t]).bool().tolist() == info["session_ended"].tolist()
        changed = paying_next[:, 8] != paying[:, 8]
        assert not (changed & (trials.session[t + 1] == trials.session[t]).numpy()).any()
        changes, paying = changes + changed.sum(), paying_next
    assert changes > 50
    assert has_sessions("GridSwitch-v0", "train") and not has_sessions("GridNavigation-v0", "train")


def test_the_buffer_keeps_the_latest_trials():
    env, model, actor = networks("GridSwitch-v0", 6)
    buffer, kept = TrialBuffer(10), []
    for seed in range(3):
        trials = collect(model.base, actor, env, 60, True, seed, stream(seed)).trials
        buffer.add(trials)
        kept.append(trials.reward.sum(0))
    latest = torch.cat(kept)[-10:]
    assert torch.allclose(buffer.columns["reward"].sum(0).sort().values, latest.sort().values, atol=1e-4)
    again = TrialBuffer(10)
    again.restore(buffer.tensors())
    for name, column in buffer.columns.items():
        assert torch.equal(again.columns[name], column), name
    assert torch.equal(again.sample(4, stream(1)).reward, buffer.sample(4, stream(1)).reward)


def test_all_parts_off_trains_as_varibad(tmp_path):
    """Every metric of every iteration is VariBAD's, and so are the networks."""
    small_run(tmp_path / "v", varibad)
    small_run(tmp_path / "d", dynamite, OFF)
    assert rows(tmp_path / "v") == rows(tmp_path / "d")
    theirs, ours = (load_checkpoint(tmp_path / name).tensors for name in ("v", "d"))
    ours = {name.replace("model/base/", "model/").replace("model/base.", "model/"): t for name, t in ours.items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_scout_is_thrown_away(tmp_path):
    """After the warm-up policy and optimiser are as new, and another seed begins with another policy."""
    env = metabench.make_vec("GridSwitch-v0", 2)
    torch.manual_seed(1)
    actor = BeliefActorCritic(env, 4, 8, 3)
    adam = torch.optim.Adam(actor.parameters(), lr=0.1)
    actor.watch(torch.ones(5, 7))
    sum(parameter.sum() for parameter in actor.parameters()).backward()
    adam.step()
    renew(actor, adam, env, 8, seed=7)
    torch.manual_seed(7)
    fresh = BeliefActorCritic(env, 4, 8, 3).state_dict()
    assert not any(moment.any() for own in adam.state.values() for moment in own.values())
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in actor.state_dict().items())
    small_run(tmp_path / "scout", iterations=3)
    small_run(tmp_path / "random", changes={"warmup.scout": False}, iterations=3)
    assert "entropy" in rows(tmp_path / "scout")[0] and "entropy" not in rows(tmp_path / "random")[0]
    assert "entropy" in rows(tmp_path / "random")[2]


def test_two_runs_are_equal_to_the_bit(tmp_path):
    small_run(tmp_path / "a")
    small_run(tmp_path / "b")
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    small_run(tmp_path / "c", seed=4)
    assert rows(tmp_path / "c")[0] != rows(tmp_path / "a")[0]


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(tmp_path):
    """kill -9, continued by a new process."""
    script = tmp_path / "script.py"
    script.write_text(f"SETTINGS = {SMALL!r}\n{CODE}")
    paths = [str(Path(dynamite.__file__).parent.parent), str(Path(metabench.__file__).parent.parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def launch(folder):
        return subprocess.Popen([sys.executable, str(script), str(folder)], env=environment)

    whole = launch(tmp_path / "whole")
    assert whole.wait(timeout=240) == 0
    killed, metrics = tmp_path / "killed", tmp_path / "killed" / "metrics.jsonl"
    for lines in (9,):
        process = launch(killed)
        deadline = time.monotonic() + 240
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert launch(killed).wait(timeout=240) == 0
    assert_equal_runs(tmp_path / "whole", killed)


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        (varibad, {}),
        (varibad, {"model.decoder.sees": "cells", "model.terms": 0}),
        (dynamite, {}),
        (dynamite, {"model.latent.kind": "categorical", "model.latent.size": 3}),
        (dynamite, {"model.encoder.kind": "transformer", "model.encoder.layers": 1, "model.encoder.heads": 2}),
    ],
)
def test_loading_gives_the_same_agent(tmp_path, module, changes):
    trained = small_run(tmp_path, module, changes, iterations=3)
    loaded = module.load(tmp_path)
    assert trained.protocol == loaded.protocol == "slots-2"
    results = [metabench.evaluate(agent, "GridSwitch-v0", seed=1).returns for agent in (trained, loaded)]
    assert results[0] == results[1]


def test_box_actions_several_episodes_and_decoded_states(tmp_path):
    agent = small_run(
        tmp_path, varibad, {"model.decoder.sees": "all", "model.decoder.states": True}, "PointRobot-v0", iterations=3
    )
    assert metabench.evaluate(agent, "PointRobot-v0").array().shape == (5, 1, 2)
    assert rows(tmp_path)[-1]["frames"] == 40 * 16 * 3


def test_physics_with_sessions(tmp_path):
    """Observations in double precision, rewards of many values, sessions."""
    pytest.importorskip("mujoco")
    changes = {"trials": 4, "warmup.iterations": 1, "model.decoder.sees": "step"}
    small_run(tmp_path, dynamite, changes, "CheetahDirSwitch-v0", iterations=2)
    assert rows(tmp_path)[-1]["frames"] == trial_length("test", "CheetahDirSwitch-v0") * 4 * 2
    loaded = dynamite.load(tmp_path)
    step = Timestep(
        np.zeros((2, 20)), np.zeros((2, 6), np.float32), np.zeros(2), np.ones(2, dtype=bool), np.zeros((2, 20))
    )
    assert loaded.act(step, loaded.begin(2))[0].shape == (2, 6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model.reward_loss": "l1"}, "unknown reward_loss 'l1'"),
        ({"model.decoder.sees": "nothing"}, "a decoder cannot see 'nothing'"),
        ({"model.encoder.kind": "lstm"}, "unknown encoder 'lstm'"),
        ({"model.latent.kind": "beta"}, "unknown latent 'beta'"),
        ({"model.encoder.kind": "transformer", "model.encoder.heads": 3}, "3 attention heads do not divide"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_run(tmp_path, changes=changes)


def test_rewards_of_more_than_two_values_are_no_coin(tmp_path):
    with pytest.raises(ValueError, match="rewards of PointRobot-v0 take more than two values"):
        small_run(tmp_path, varibad, {"model.reward_loss": "bernoulli"}, "PointRobot-v0")
