"""MetaDreamer's rounds: what is held out, which tasks are imagined, when a fit stops and a model is not dreamt in."""

import json

import numpy as np
import pytest
import torch
from metabench_agents.context import metadreamer
from metabench_agents.context.metadreamer import in_rounds
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.rounds import (
    ImaginedTasks,
    RoundsConfig,
    collect_round,
    everything,
    fit_round,
    judge,
)
from metabench_agents.context.task_decoders import Prediction
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run, load_checkpoint

import metabench

ID = "HighwayMerge-v0"
SMALL = with_settings(
    metadreamer.Config(),
    {
        "split": "R8",
        "tasks": 8,
        "learner": "ppo",
        "view.near": True,
        "view.hold": 5,
        "view.time": True,
        "iterations": 2,
        "collection.initial_episodes": 3,
        "collection.prior_episodes": 2,
        "collection.posterior_episodes": 1,
        "model.decoder.kind": "vehicles",
        "model.decoder.hidden": 16,
        "model.updates": 4,
        "model.targets": 8,
        "model.context": 60,
        "model.partial": "foretell",
        "model.starts": 1.0,
        "rounds.check": 2,
        "rounds.least_skill": -1000.0,
        "dream.steps": 1000,
        "dream.slots": 16,
    },
)


@pytest.fixture(scope="module")
def collected():
    state = metadreamer.build_rounds(ID, SMALL, 0)
    network, generator = state.network, torch.Generator().manual_seed(0)
    given = (state.rows, state.sight, SMALL.collection, 60, 1, generator, True)
    collect_round(network.core, network.model, state.collector, state.known, *given)
    seen, _ = everything(state.known.replay)
    network.model.features.fit(seen.observation)
    network.model.decoder.units.fit(seen)
    network.model.decoder.fit_starts(torch.cat(state.known.starts))
    return state


def test_all_that_is_played_is_counted_and_some_of_it_is_held_out(collected):
    learned, held = (sum(replay.count) for replay in (collected.known.replay, collected.known.held))
    assert learned + held == collected.collector.frames
    assert all(len(own) == 3 for own in collected.known.starts)
    assert 0.2 < held / (learned + held) < 0.5  # one of three episodes


def test_random_decisions_stand_for_five_steps(collected):
    seen = collected.known.replay.rows[0][: collected.known.replay.count[0]]
    actions = seen[:30, 18]  # no episode is over before
    assert len(actions.unique()) == 6 and actions.unflatten(0, (6, 5)).std(1).max() == 0


def test_first_states_are_those_that_episodes_began_in(collected):
    known = collected.known
    assert torch.equal(known.replay.rows[0][0, :18], known.starts[0][0])
    assert (torch.cat(known.starts)[:, 0] == -80).all()


def test_a_perfect_model_has_skill_one_and_no_model_none(collected):
    model, known = collected.network.model, collected.known
    decoder, seen = model.decoder, everything(known.held)[0]

    class Told(torch.nn.Module):
        """Foretells what came, or nothing but the mean change."""

        units, velocity, dt = decoder.units, decoder.velocity, decoder.dt
        evidence, evidence_columns = decoder.evidence, decoder.evidence_columns

        def __init__(self, knows):
            super().__init__()
            self.knows = knows

        def told(self, observation, action, z, ended):
            if self.knows:
                return Prediction(seen.next_observation, seen.reward, 2 * seen.terminal - 1)
            usual = observation + decoder.units.center
            return Prediction(usual, seen.reward.mean().expand_as(seen.reward), -torch.ones_like(seen.reward))

    for knows in (True, False):
        model.decoder = Told(knows)
        try:
            scores = judge(model, known, 60, torch.Generator().manual_seed(0))
        finally:
            model.decoder = decoder
        assert scores["skill"] == pytest.approx(float(knows), abs=0.05)
        assert scores["ends_wrong"] == pytest.approx(0.0 if knows else scores["ends"])


def test_a_fit_stops_when_nothing_gets_better_and_keeps_the_best(collected):
    patient = RoundsConfig(check=2, patience=2)
    config = with_settings(SMALL.model, {"updates": 1000, "learning_rate": 0.0})
    before = {name: value.clone() for name, value in collected.network.model.state_dict().items()}
    metrics = fit_round(collected.network.model, collected.known, config, patient, (0, 0))
    assert metrics["model_updates"] < 40
    assert all(torch.equal(value, before[name]) for name, value in collected.network.model.state_dict().items())


@pytest.mark.parametrize("kind", ["box", "lines", "hull", "real"])
def test_imagined_tasks_lie_between_the_real_ones(collected, kind):
    mean = torch.as_tensor(collected.known.factors, dtype=torch.float32)
    mean = torch.cat(((mean - mean.mean(0)) / mean.std(0), torch.zeros(8, 2)), dim=1)[:, None]
    noise = 0.01 * torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(0))
    belief = DiagonalGaussian(mean + noise, torch.full((8, 4, 4), 0.01))
    world = ImaginedTasks(collected.network.model.decoder, belief, collected.known, RoundsConfig(tasks=kind))
    z, base = world.latents(400, torch.Generator().manual_seed(0))
    low, high = world.centers.amin(0), world.centers.amax(0)
    assert ((z >= low - 1e-5) & (z <= high + 1e-5)).all()
    changed = (z - world.centers[base]).abs() > 1e-6
    if kind == "real":
        assert not changed.any()
    elif kind == "lines":
        assert world.dimensions == [0, 1] and (changed.sum(1) == 1).all()
    else:
        assert len(z.unique(dim=0)) > 390
        assert z[:, :2].std(0).min() > 0.4
    if kind == "box":
        assert not changed[:, 2:].any() and changed[:, :2].all()


def test_guesses_lie_about_the_imagined_task(collected):
    belief = DiagonalGaussian(torch.randn(8, 4, 4), torch.full((8, 4, 4), 0.04))
    for doubt, prior, spread in ((0.0, 0.0, 0.0), (1.0, 0.0, 0.2), (0.0, 1.0, None)):
        config = RoundsConfig(tasks="hull", doubt=doubt, prior=prior)
        world = ImaginedTasks(collected.network.model.decoder, belief, collected.known, config)
        state, guess, _ = world.begin(500, torch.Generator().manual_seed(0))
        if spread is None:
            assert float(guess.std()) == pytest.approx(1.0, abs=0.1)
        else:
            assert float((guess - state[2]).std()) == pytest.approx(spread, abs=0.02)


def test_starts_are_fresh_or_those_that_were_seen(collected):
    belief = DiagonalGaussian(torch.randn(8, 4, 4), torch.full((8, 4, 4), 0.04))
    for starts, kinds in (("fresh", 200), ("one", 8)):
        config = RoundsConfig(tasks="hull", starts=starts)
        world = ImaginedTasks(collected.network.model.decoder, belief, collected.known, config)
        _, _, observation = world.begin(200, torch.Generator().manual_seed(0))
        assert len(observation.unique(dim=0)) == kinds


@pytest.mark.parametrize("field", ["tasks", "starts"])
def test_an_unknown_imagination_is_refused(collected, field):
    belief = DiagonalGaussian(torch.randn(8, 4, 4), torch.full((8, 4, 4), 0.04))
    with pytest.raises(ValueError, match="unknown imagined"):
        ImaginedTasks(collected.network.model.decoder, belief, collected.known, RoundsConfig(**{field: "x"}))


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_on_to_the_same_bits(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    metadreamer.train(ID, SMALL, seed=0, run=Run(whole, show=False))
    first = Run(parts, show=False)
    first.request_stop()
    with pytest.raises(Exception, match="iteration 1"):
        metadreamer.train(ID, SMALL, seed=0, run=first)
    metadreamer.train(ID, SMALL, seed=0, run=Run(parts, show=False))
    ours, theirs = (load_checkpoint(folder).tensors for folder in (whole, parts))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    timeless = [[{k: v for k, v in row.items() if k != "time/seconds"} for row in rows(f)] for f in (whole, parts)]
    assert timeless[0] == timeless[1]


def test_a_model_without_skill_is_not_dreamt_in(tmp_path):
    config = with_settings(SMALL, {"iterations": 1, "rounds.least_skill": 0.999})
    state = metadreamer.build_rounds(ID, config, 3)
    metadreamer.train(ID, config, seed=3, run=Run(tmp_path, show=False))
    row = rows(tmp_path)[0]
    assert row["trusted"] == 0.0 and "dream_return" not in row and row["held_skill"] < 0.999
    policy = load_checkpoint(tmp_path).tensors
    fresh = state.network.core.state_dict()
    assert all(torch.equal(policy[f"network/core.{name}"], value) for name, value in fresh.items())


def test_the_policy_that_earns_most_in_the_model_stays(tmp_path):
    """The first try is the run with one; a better one takes its place, and no real step is taken for that."""
    one, three = (with_settings(SMALL, {"iterations": 1, "dream.tries": tries}) for tries in (1, 3))
    metadreamer.train(ID, one, seed=3, run=Run(tmp_path / "one", show=False))
    metadreamer.train(ID, three, seed=3, run=Run(tmp_path / "three", show=False))
    single, best = rows(tmp_path / "one")[0], rows(tmp_path / "three")[0]
    assert best["dream_worst"] <= single["dream_return"] <= best["dream_return"] and "dream_worst" not in single
    assert best["frames"] == single["frames"] and best["held_skill"] == single["held_skill"]

    state, made, generator = metadreamer.build_rounds(ID, three, 3), [], torch.Generator()

    def dreamt(policy, *given):
        made.append({name: tensor.clone() for name, tensor in policy.state_dict().items()})
        return {"dream_return": [1.0, 3.0, 2.0][len(made) - 1]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_rounds, "dream_round", dreamt)
        assert metadreamer.dream(state, three, (3, 0), generator) == {"dream_return": 3.0, "dream_worst": 1.0}
    kept = state.network.core.state_dict()
    assert all(torch.equal(kept[name], made[1][name]) for name in kept)
    assert not all(torch.equal(made[0][name], made[1][name]) for name in kept)


def test_an_unknown_learner_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown learner 'x'; available: sac, ppo"):
        metadreamer.train(ID, with_settings(SMALL, {"learner": "x"}), seed=0, run=Run(tmp_path, show=False))


def test_an_agent_that_is_loaded_plays_the_same(tmp_path):
    agent = metadreamer.train(ID, SMALL, seed=1, run=Run(tmp_path, show=False))
    ours, theirs = (metabench.evaluate(a, ID).returns for a in (agent, metadreamer.load(tmp_path)))
    assert np.array_equal(ours, theirs)
