"""VariBAD and DynaMITE-RL as agents: what they see, what they remember, that runs repeat, that they learn."""

import dataclasses
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
from metabench_agents.belief.policy import ActorCritic, collect, has_sessions, renew, trial_length
from metabench_agents.parts.memory import TrialBuffer
from metabench_agents.parts.run import Run, load_checkpoint, stream

import metabench
from metabench import Timestep

SMALL = {
    "trials": 16,
    "encoder_embed": 8,
    "encoder_hidden": 8,
    "decoder_hidden": (8, 8),
    "model_updates": 2,
    "model_trials": 8,
    "width": 16,
    "warmup": 2,
    "warmup_updates": 3,
    "buffer": 50,  # fewer than are played: it goes round
}
OFF = {"consistency": False, "conditioning": False, "masking": False, "termination_weight": 0.0}
CODE = """
import sys
from pathlib import Path
from metabench_agents.belief import dynamite
from metabench_agents.parts.run import Run
config = dynamite.Config(frames=60 * 16 * 24, **SETTINGS)
dynamite.train("GridSwitch-v0", config, seed=3, run=Run(Path(sys.argv[1]), show=False, checkpoint_every=2))
"""


def small_run(folder, module=dynamite, benchmark="GridSwitch-v0", seed=3, iterations=12, **changes):
    config = module.Config(**SMALL | changes)
    config = dataclasses.replace(config, frames=trial_length("test", benchmark) * config.trials * iterations)
    return module.train(benchmark, config, seed=seed, run=Run(folder, show=False, checkpoint_every=2))


def rows(folder):
    table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in table]


def assert_equal_runs(a, b):
    assert rows(a) == rows(b)
    tensors = [load_checkpoint(folder).tensors for folder in (a, b)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def networks(benchmark="GridNavigation-v0", trials=6, **changes):
    env = metabench.make_vec(benchmark, trials)
    torch.manual_seed(0)
    config = dynamite.Config(**SMALL | {"reward_loss": "mse"} | changes)
    model = sessions.SessionModel(config, env, trial_length("test", benchmark))
    actor = ActorCritic(env, model.latent.parameters, 8, model.base.reading)
    return env, model, actor


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_beliefs_tick_by_tick_equal_the_training_pass(encoder, kind):
    env, model, actor = networks(encoder=encoder, latent_kind=kind)
    rollout = collect(model.base, actor, env, 60, False, 0, stream(0))
    with torch.no_grad():
        belief = model.beliefs(rollout.trials)
    assert torch.allclose(model.base.read(belief, rollout.trials.observation), rollout.belief, atol=1e-5)
    assert rollout.trials.first.sum(0).tolist() == [4] * 6  # four episodes in a trial, the belief kept across them
    assert not torch.allclose(rollout.belief[15], rollout.belief[0], atol=1e-4)


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_beliefs_do_not_see_the_future_nor_the_sessions(encoder):
    env, model, actor = networks("GridSwitch-v0", encoder=encoder)
    trials = collect(model.base, actor, env, 60, True, 0, stream(0)).trials
    with torch.no_grad():
        before = model.beliefs(trials)
        trials.session[:] = 7
        assert torch.equal(model.beliefs(trials), before)
        trials.reward[30] += 5.0  # seen from tick 31 on
        after = model.beliefs(trials)
    assert torch.equal(after[:31], before[:31]) and not torch.allclose(after[31], before[31], atol=1e-4)


@pytest.mark.parametrize("id", ["GridNavigation-v0", "PointRobot-v0"])
def test_the_agent_believes_what_the_collector_does(id):
    """Shown the stream of a collected trial as the evaluator shows it, the agent has the collector's beliefs."""
    env, model, actor = networks(id, 3)
    ticks = trial_length("test", id)
    rollout = collect(model.base, actor, env, ticks, False, 0, stream(0))
    agent = varibad.BeliefAgent("test", model.base, actor)
    belief, beliefs = agent.begin(3), []
    observation, _ = env.reset(seed=0)
    action, reward, first = np.zeros((3, *env.single_action_space.shape)), np.zeros(3), np.ones(3, dtype=bool)
    action = action.astype(env.single_action_space.dtype)
    for t in range(ticks):
        before = belief.clone()
        posterior, after = agent.infer(Timestep(observation, action, reward, first, np.zeros_like(observation)), belief)
        assert torch.equal(belief, before), "infer changed the belief it was given"
        belief = after
        beliefs.append(agent.model.read(posterior, torch.as_tensor(observation).float()))
        action = rollout.trials.action[t].numpy()
        observation, reward, terminated, truncated, _ = env.step(action)
        first = terminated | truncated
        reward = np.where(first, 0.0, reward)
        action = np.where(first.reshape(-1, *[1] * (action.ndim - 1)), 0, action).astype(action.dtype)
    assert torch.allclose(torch.stack(beliefs), rollout.belief, atol=1e-5)


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
    small_run(tmp_path / "d", dynamite, **OFF)
    assert rows(tmp_path / "v") == rows(tmp_path / "d")
    theirs, ours = (load_checkpoint(tmp_path / name).tensors for name in ("v", "d"))
    ours = {name.replace("model/base/", "model/").replace("model/base.", "model/"): t for name, t in ours.items()}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_scout_is_thrown_away(tmp_path):
    """After the warm-up policy and optimiser are as new, and another seed begins with another policy."""
    env = metabench.make_vec("GridSwitch-v0", 2)
    torch.manual_seed(1)
    actor = ActorCritic(env, 4, 8, 3)
    adam = torch.optim.Adam(actor.parameters(), lr=0.1)
    actor.watch(torch.ones(5, 7))
    sum(parameter.sum() for parameter in actor.parameters()).backward()
    adam.step()
    renew(actor, adam, env, 8, seed=7)
    torch.manual_seed(7)
    fresh = ActorCritic(env, 4, 8, 3).state_dict()
    assert not adam.state and all(torch.equal(tensor, fresh[name]) for name, tensor in actor.state_dict().items())
    small_run(tmp_path / "scout", iterations=3)
    small_run(tmp_path / "random", iterations=3, scout=False)
    assert "entropy" in rows(tmp_path / "scout")[0] and "entropy" not in rows(tmp_path / "random")[0]
    assert "entropy" in rows(tmp_path / "random")[2]


def test_two_runs_are_equal_to_the_bit(tmp_path):
    small_run(tmp_path / "a")
    small_run(tmp_path / "b")
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    small_run(tmp_path / "c", seed=4)
    assert rows(tmp_path / "c")[0] != rows(tmp_path / "a")[0]


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
        (varibad, {"decoder": "cells", "terms": 0}),
        (dynamite, {}),
        (dynamite, {"latent_kind": "categorical", "latent": 3}),
        (dynamite, {"encoder": "transformer", "encoder_layers": 1, "encoder_heads": 2}),
    ],
)
def test_loading_gives_the_same_agent(tmp_path, module, changes):
    trained = small_run(tmp_path, module, iterations=3, **changes)
    loaded = module.load(tmp_path)
    results = [metabench.evaluate(agent, "GridSwitch-v0", seed=1).returns for agent in (trained, loaded)]
    assert results[0] == results[1]


def test_box_actions_several_episodes_and_decoded_states(tmp_path):
    agent = small_run(tmp_path, varibad, "PointRobot-v0", iterations=3, decoder="all", state_decoder=True)
    assert metabench.evaluate(agent, "PointRobot-v0").array().shape == (5, 1, 2)
    assert rows(tmp_path)[-1]["frames"] == 40 * 16 * 3


def test_physics_with_sessions(tmp_path):
    """Observations in double precision, rewards of many values, sessions."""
    pytest.importorskip("mujoco")
    small_run(tmp_path, dynamite, "CheetahDirSwitch-v0", iterations=2, trials=4, warmup=1, decoder="step")
    assert rows(tmp_path)[-1]["frames"] == trial_length("test", "CheetahDirSwitch-v0") * 4 * 2
    loaded = dynamite.load(tmp_path)
    step = Timestep(
        np.zeros((2, 20)), np.zeros((2, 6), np.float32), np.zeros(2), np.ones(2, dtype=bool), np.zeros((2, 20))
    )
    assert loaded.act(step, loaded.begin(2))[0].shape == (2, 6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reward_loss": "l1"}, "unknown reward_loss 'l1'"),
        ({"decoder": "nothing"}, "a decoder cannot see 'nothing'"),
        ({"encoder": "lstm"}, "unknown encoder 'lstm'"),
        ({"latent_kind": "beta"}, "unknown latent 'beta'"),
        ({"encoder": "transformer", "encoder_heads": 3}, "3 attention heads do not divide"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        small_run(tmp_path, **changes)


def test_rewards_of_more_than_two_values_are_no_coin(tmp_path):
    with pytest.raises(ValueError, match="rewards of PointRobot-v0 take more than two values"):
        small_run(tmp_path, varibad, "PointRobot-v0", reward_loss="bernoulli")
