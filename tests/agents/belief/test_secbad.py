"""SeCBAD: the recursion against all segmentations, its likelihoods against plain passes, its segments, its runs."""

import itertools

import numpy as np
import pytest
import torch
from metabench_agents.belief import secbad
from metabench_agents.belief.policy import collect, make_actor
from metabench_agents.belief.segments import Lengths, advance, backtrack, geometric_hazard, simulated_hazard
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.losses import session_of_belief
from metabench_agents.parts.run import Run, stream

import metabench
from metabench.evaluation.play import Stream

SMALL = {
    "model.encoder.embed": 8,
    "model.encoder.hidden": 8,
    "model.decoder.hidden": (8, 8),
    "model.reward_loss": "mse",
}


def segmentations(ticks):
    """All ways to cut `ticks` transitions into segments: tuples of where segments begin."""
    for cuts in itertools.product((False, True), repeat=ticks - 1):
        yield (0, *(t for t, cut in enumerate(cuts, start=1) if cut))


def enumerated(log_likelihood, hazard, ticks):
    """p(G = g) after `ticks` transitions, from every segmentation's probability: hazards, survivals, likelihoods.

    log_likelihood[s][t] is that of transition t in a segment that began with transition s.
    """
    total = np.zeros(ticks + 1)
    for starts in segmentations(ticks):
        log_p = 0.0
        for s, end in zip(starts, (*starts[1:], ticks), strict=True):
            log_p += sum(log_likelihood[s][t] for t in range(s, end))
            log_p += sum(np.log1p(-hazard[g]) for g in range(1, end - s))
            if end < ticks:
                log_p += np.log(hazard[end - s])
        total[ticks - starts[-1]] += np.exp(log_p)
    return total / total.sum()


@pytest.mark.parametrize("ticks", [2, 3, 5, 8])
def test_the_recursion_is_the_sum_over_all_segmentations(ticks):
    rng = np.random.default_rng(ticks)
    log_likelihood = rng.normal(size=(ticks, ticks))
    hazard = np.append(0.0, rng.uniform(0.05, 0.6, ticks))
    now = Lengths.none(1, ticks)
    for t in range(ticks):
        old = torch.zeros(1, ticks)
        for k, g in enumerate(now.length[0].tolist()):
            old[0, k] = log_likelihood[t - g][t] if g <= t else 0.0
        now, _ = advance(now, old, torch.tensor([log_likelihood[t][t]]), torch.tensor(hazard))
    found = np.zeros(ticks + 1)
    for g, log_p in zip(now.length[0].tolist(), now.log_p[0].tolist(), strict=True):
        found[g] += np.exp(log_p)
    assert found == pytest.approx(enumerated(log_likelihood, hazard, ticks), abs=1e-5)


def test_the_least_probable_length_makes_room():
    now = Lengths(torch.tensor([[0.7, 0.1, 0.2]]).log(), torch.tensor([[5, 2, 1]]))
    after, place = advance(now, torch.zeros(1, 3), torch.zeros(1), torch.full((4,), 0.25))
    assert place.tolist() == [1] and after.length.tolist() == [[6, 1, 2]]
    kept = torch.tensor([0.7 * 0.75, 0.25, 0.2 * 0.75])
    assert torch.allclose(after.log_p.exp()[0], kept / kept.sum())


def test_hazards():
    assert geometric_hazard(0.1, 3).tolist() == pytest.approx([0.0, 0.1, 0.1, 0.1])
    simulated = simulated_hazard("GridSwitch-v0", "train", 60)
    assert simulated[0] == 0 and simulated[1:20].mean() == pytest.approx(0.07, abs=0.006)
    fixed = simulated_hazard("CheetahDir-v0", "ood", 120)  # sessions of 100 steps
    assert (fixed[1:100] < 1e-5).all() and (fixed[100:] > 0.999).all()
    assert (simulated_hazard("GridNavigation-v0", "train", 20)[1:] < 1e-5).all()  # none ends


def test_segments_are_traced_back_from_the_last_tick():
    """At tick 6 the segment is 2 long: it begins with transition 4; at tick 4, 3 long: with 1; at 1, 1: with 0."""
    best = torch.tensor([[0, 0], [1, 1], [1, 2], [9, 3], [3, 4], [1, 5], [2, 6]])
    session = backtrack(best)
    assert session[:, 0].tolist() == [0, 1, 1, 1, 2, 2, 2] and not session[:, 1].any()


def make(changes={}, benchmark="ReacherSwitch-v0", trials=3):  # noqa: B006  it is read only
    env = metabench.make_vec(benchmark, trials)
    torch.manual_seed(0)
    config = with_settings(secbad.Config(), SMALL | {"model.decoder.sees": "all", "model.products": False} | changes)
    ticks = metabench.spec(benchmark).horizon
    hazard = geometric_hazard(0.2, ticks)
    return env, secbad.SegmentModel(config.segments, hazard, config.model, env, ticks)


def play(env, model, ticks):
    actor = make_actor(env, model, 8)
    return collect(model.base, actor, env, ticks, True, 0, stream(0))


@torch.no_grad()
def test_acting_follows_every_segmentation_with_the_encoders_own_numbers():
    """Twelve ticks with room for all lengths: probabilities by enumeration, likelihoods by a pass for every start."""
    ticks = 12
    env, model = make({"segments.candidates": ticks, "segments.noise": 3.0})
    trials = play(env, model, ticks).trials
    came, action, reward, first = trials.ticks()
    memory = model.begin(3)
    for t in range(ticks):
        memory = model.take(memory, came[t].float(), action[t], reward[t], first[t])
        memory = memory._replace(seen=trials.observation[t].float())
    seen, encoder = ticks - 1, model.task.encoder  # transitions
    for b in range(3):
        table = np.full((seen, seen), np.nan)
        features = {}
        for s in range(seen):  # a segment that begins with transition s is fed from tick s + 1 on; the first from 0
            hidden = torch.zeros(1, 8)
            for t in range(s, seen):
                if t > s or s == 0:
                    absent = torch.tensor([t == 0])
                    tick = encoder.tick(
                        came[t, b : b + 1].float(),
                        action_at(action, t, b),
                        reward[t, b : b + 1],
                        first[t, b : b + 1],
                        absent,
                    )
                    hidden, _ = encoder.core.step(tick, hidden)
                    belief = model.latent.normalise(encoder.out(hidden))
                if t == s:  # under the prior, also where the trial begins: the encoder has seen its first observation
                    belief = belief if s == 0 else torch.zeros(1, model.latent.parameters)
                z = model.latent.place(belief, model.noise[:, 0])[:, None]
                predicted = model.task.reward(z, trials.at(torch.tensor([t])).split(1)[b])[:, 0, 0, 0]
                log_p = -((predicted - trials.reward[t, b]) ** 2) / (2 * 3.0**2)
                table[s, t] = float(torch.logsumexp(log_p, 0))
            tick = encoder.tick(
                came[seen, b : b + 1].float(),
                action_at(action, seen, b),
                reward[seen, b : b + 1],
                first[seen, b : b + 1],
                torch.tensor([False]),
            )
            features[seen - s] = encoder.core.step(tick, hidden)[0]
        expected = enumerated(table, [0.0] + [0.2] * ticks, seen)
        for k in range(ticks):
            g, p = int(memory.lengths.length[b, k]), float(memory.lengths.log_p[b, k].exp())
            if p > 0:
                assert p == pytest.approx(expected[g], abs=2e-4)
                assert torch.allclose(memory.hidden[b, k], features[g][0], atol=1e-5)


def action_at(action, t, b):
    return action[t, b : b + 1]


@torch.no_grad()
def test_the_training_pass_restarts_where_segments_begin():
    env, model = make()
    trials = play(env, model, 100).trials
    segment = (torch.arange(100) >= 40).long()[:, None].expand(100, 3)
    belief = model.restarted(trials, session_of_belief(segment))
    plain = model.task.beliefs(trials)
    assert torch.allclose(belief[:41], plain[:41], atol=1e-5) and not torch.allclose(belief[41:], plain[41:], atol=1e-3)
    prior = secbad.segment_prior(belief, session_of_belief(segment))
    assert not prior[0].any() and not prior[41].any() and torch.equal(prior[42], belief[41])


@torch.no_grad()
def test_a_sure_likelihood_finds_a_change_of_the_reward():
    """Rewards jump by 5 at transition 60; the decoder is made to say what the belief's mean says."""
    env, model = make({"segments.noise": 0.5, "segments.candidates": 100})
    trials = play(env, model, 100).trials
    trials.reward[:60], trials.reward[60:] = 0.0, 5.0

    class Says(torch.nn.Module):
        def forward(self, z, batch):
            return (z[..., :1] * 5.0)[:, None].expand(-1, len(batch.reward), -1, -1)

    class Reads(torch.nn.Module):
        def forward(self, hidden):
            out = torch.full((*hidden.shape[:-1], 10), -6.0)
            out[..., 0] = hidden[..., 0]
            return out

    class Last(torch.nn.Module):
        hidden = 8

        def step(self, x, memory):
            after = torch.where(x[..., :1] > 2.5, 1.0, 0.0).expand(-1, 8)
            return after, after

        def each(self, x, memory):
            return self.step(x, memory)[0][:, None].expand(memory.shape).clone()

    model.task.reward = Says()
    model.task.encoder.out, model.task.encoder.core = Reads(), Last()
    model.task.encoder.tick = lambda came, action, reward, first, absent: reward[:, None].expand(-1, 8)
    segment = model.infer(trials)
    assert (segment[:60] == segment[:1]).all() and (segment[60:-1] == segment[60]).all()
    assert (segment[60] == segment[59] + 1).all()


def test_other_encoders_and_compiling_are_refused(tmp_path):
    with pytest.raises(ValueError, match="only gru can"):
        make({"model.encoder.kind": "transformer"})
    with pytest.raises(ValueError, match="at least 2"):
        make({"segments.candidates": 1})
    config = with_settings(secbad.Config(), {"form": "compiled"})
    with pytest.raises(ValueError, match="not compiled"):
        secbad.train("GridSwitch-v0", config, seed=0, run=Run(tmp_path, show=False))


def test_acting_is_what_collecting_saw():
    env, model = make({"segments.candidates": 5})
    rollout = play(env, model, 100)
    shown, memory = Stream(rollout.trials.observation[0].numpy(), env.single_action_space), model.begin(3)
    for t in range(20):
        belief, memory = model.step(shown.timestep(), memory)
        read = model.read(belief, rollout.trials.observation[t].float())
        assert torch.allclose(read, rollout.belief[t], atol=1e-5)
        columns = (rollout.trials.action[t], rollout.trials.next_observation[t], rollout.trials.reward[t])
        shown.advance(*(column.numpy() for column in columns), np.zeros(3, bool), None)
