"""SAC as the teacher of a policy on the belief: hyper-states, what plays is what has learned, runs that repeat."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.belief import dynamite, hyper, varibad
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.fast.sac import gaussian
from metabench_agents.parts.memory import trial_length
from metabench_agents.parts.run import Run, load_checkpoint, stream
from metabench_agents.parts.soft import SoftActor
from safetensors.torch import load_file

import metabench
from metabench.runs import without_learner

SMALL = {
    "learner": "sac",
    "trials": 4,
    "model.encoder.embed": 8,
    "model.encoder.hidden": 8,
    "model.decoder.hidden": (8, 8),
    "fit.updates": 2,
    "fit.trials": 4,
    "warmup.iterations": 2,
    "warmup.updates": 3,
    "buffer": 14,  # fewer than are played: it goes round
    "soft.every": 20,
    "soft.sac.hidden": 16,
    "soft.sac.batch": 8,
    "soft.trials": 6,
    "soft.compiled": False,
}
BOX = spaces.Box(-2.0, 2.0, (3,))


def small_run(folder, module=dynamite, benchmark="ReacherSwitch-v0", seed=3, iterations=6, kind=Run, **changes):
    config = with_settings(module.Config(), SMALL | changes)
    config = with_settings(config, {"frames": trial_length("test", benchmark) * config.trials * iterations})
    return module.train(benchmark, config, seed=seed, run=kind(folder, show=False, checkpoint_every=2))


def test_the_density_of_an_action_is_that_of_its_draw():
    torch.manual_seed(0)
    actor = SoftActor(5, 8, BOX)
    params = actor(torch.randn(7, 5)) * 30.0
    action, density = actor.draw(params, torch.randn(7, 3))
    assert torch.allclose(actor.log_prob(params, action), density, atol=2e-3)
    assert torch.isfinite(actor.log_prob(params, torch.ones(7, 3))).all()
    uniform = actor.uniform(params, stream(0))
    assert uniform.shape == (7, 3) and uniform.abs().max() <= 1.0


def played(benchmark="ReacherSwitch-v0", slots=3):
    """A policy, the model that it acts on, and one iteration of theirs."""
    env, ticks = metabench.make_vec(benchmark, slots), trial_length("test", benchmark)
    config = with_settings(varibad.Config(), SMALL | {"model.reward_loss": "mse"})
    torch.manual_seed(0)
    model = varibad.BeliefModel(config.model, env, ticks)
    policy = hyper.SoftPolicy(config, env, model, hyper.Device(), stream(0))
    return model, policy, hyper.collect(model, policy.actor, env, ticks, False, 1, stream(1), True)


def test_hyper_states_are_what_was_seen_and_believed_while_playing():
    model, policy, rollout = played()
    trials, steps = rollout.trials, hyper.hyper_steps(rollout.trials, rollout.action, model)
    state, after = (column.view(*trials.reward.shape, -1) for column in (steps.state, steps.next_state))
    seen = trials.observation.shape[-1]
    assert torch.equal(state[..., :seen], trials.observation)
    assert torch.allclose(state[..., seen:], rollout.belief, rtol=1e-3, atol=1e-4)
    kept = policy.actor.policy.from_env(trials.action)
    assert torch.allclose(kept, rollout.action, atol=1e-5) and torch.equal(steps.action.view_as(kept), rollout.action)
    assert torch.equal(after[:-1], state[1:])
    assert torch.equal(after[-1, :, :seen], trials.next_observation[-1])  # the clock is not seen: no end
    assert torch.equal(after[-1, :, seen:], state[-1, :, seen:])
    batch = steps.batch(torch.tensor([4, 2]))
    assert torch.equal(batch.observation, steps.state[[4, 2]]) and not batch.terminal.any()


def test_in_hindsight_a_step_has_the_last_belief_about_its_session():
    model, _, rollout = played()
    trials, session = rollout.trials, rollout.trials.session
    steps = hyper.hyper_steps(trials, rollout.action, model, hindsight=True)
    belief, seen = model.beliefs(trials), trials.observation.shape[-1]
    state, after = (column.view(*session.shape, -1) for column in (steps.state, steps.next_state))
    for t in range(len(session)):
        for b in range(session.shape[1]):
            end = max(k for k in range(len(session)) if session[k, b] == session[t, b])
            last = belief[min(end + 1, len(session) - 1), b]  # which has seen the session's last transition
            told = model.read(last, trials.observation[t, b]), model.read(last, trials.next_observation[t, b])
            assert torch.allclose(state[t, b, seen:], told[0], atol=1e-4)
            assert torch.allclose(after[t, b, seen:], told[1], atol=1e-4)
    assert torch.equal(after[..., :seen], trials.next_observation)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_first_steps_of_a_session_are_left_out(count):
    model, _, rollout = played()
    steps, session = hyper.hyper_steps(rollout.trials, rollout.action, model), rollout.trials.session
    assert int((session[1:] != session[:-1]).sum()) > 0
    kept = hyper.settled(steps, session, count)
    rewards = []
    for t in range(len(session)):
        for b in range(session.shape[1]):
            before = session[max(0, t - count) : t, b]
            if (before == session[t, b]).all():
                rewards.append(float(rollout.trials.reward[t, b]))
    assert kept.reward.tolist() == pytest.approx(rewards)
    assert (len(rewards) == len(steps.reward)) == (count == 0)


def test_what_plays_is_what_has_learned():
    model, policy, rollout = played()
    policy.sac.observe(torch.cat((rollout.trials.observation, rollout.belief), dim=-1).flatten(0, 1))
    steps = hyper.hyper_steps(rollout.trials, rollout.action, model)
    told = policy.improve(steps, 5, stream(3))
    assert np.isfinite(list(told.values())).all() and "critic_loss" in told
    observation, belief = rollout.trials.observation[7], rollout.belief[7]
    params, value = policy.actor(observation, belief)
    mean, log_std = gaussian(policy.sac.state.actor, policy.sac.scaled(torch.cat((observation, belief), -1)))
    action = policy.actor.policy.sample(params, None)
    assert torch.allclose(action, torch.tanh(mean), atol=1e-5) and not value.any()
    noise = torch.randn(3, 2)
    assert torch.allclose(
        policy.actor.policy.draw(params, noise)[0], torch.tanh(mean + log_std.exp() * noise), atol=1e-5
    )


@pytest.mark.parametrize(("module", "id"), [(varibad, "PointRobot-v0"), (dynamite, "ReacherSwitch-v0")])
def test_loading_gives_the_same_agent(tmp_path, module, id):
    trained = small_run(tmp_path, module, id, iterations=3)
    loaded = module.load(tmp_path)
    assert trained.protocol == loaded.protocol == "slots-2" and loaded.track == "online"
    results = [metabench.evaluate(agent, id, seed=1).returns for agent in (trained, loaded)]
    assert results[0] == results[1]
    assert np.isfinite(np.array(results[0])).all()


def test_what_is_published_is_without_critics_and_moments(tmp_path):
    small_run(tmp_path, iterations=3)
    whole = (tmp_path / "checkpoint.safetensors").read_bytes()
    published = tmp_path / "published.safetensors"
    published.write_bytes(without_learner(whole))
    names = set(load_file(published))
    assert any(name.startswith("actor/") for name in names) and not any("sac" in name for name in names)
    assert any(name.startswith("sac-optimiser/") for name in load_file(tmp_path / "checkpoint.safetensors"))


class Interrupted(Run):
    """A run that is cut off while its sixth row is told of."""

    rows = 5

    def log(self, row):
        self.rows -= 1
        if self.rows < 0:
            raise KeyboardInterrupt
        super().log(row)


def test_a_cut_off_run_continues_to_the_same_bits(tmp_path):
    small_run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path / "cut", kind=Interrupted)
    small_run(tmp_path / "cut")
    whole, cut = (load_checkpoint(tmp_path / name).tensors for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)


def test_sessions_left_out_or_not_make_a_difference(tmp_path):
    small_run(tmp_path / "all", iterations=3)
    small_run(tmp_path / "settled", iterations=3, **{"soft.settling": 2})
    small_run(tmp_path / "hindsight", iterations=3, **{"soft.hindsight": True})
    learned = [
        load_checkpoint(tmp_path / name).tensors["sac-optimiser/learner/0"] for name in ("all", "settled", "hindsight")
    ]
    assert not any(torch.equal(learned[0], other) for other in learned[1:])


def test_discrete_actions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dynamite with learner sac needs actions in a box"):
        small_run(tmp_path, benchmark="GridSwitch-v0")
