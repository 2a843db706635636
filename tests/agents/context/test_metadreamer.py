"""MetaDreamer: its encoder, its losses, its dreams, its counting, and that a run continues to the same bits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from metabench_agents.context import metadreamer
from metabench_agents.context.actor_critic import LatentSACConfig
from metabench_agents.context.collect import CollectionConfig
from metabench_agents.context.imagination import ImaginationConfig, factor_map
from metabench_agents.context.metadreamer import learning
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import TransitionDecoderConfig
from metabench_agents.context.task_encoder import TaskModelConfig, model_draws, model_loss
from metabench_agents.parts.config import read_config, with_settings
from metabench_agents.parts.run import Run, load_checkpoint, stream

import metabench
from metabench.evaluation.play import Stream

SMALL = metadreamer.Config(
    tasks=4,
    iterations=4,
    collection=CollectionConfig(initial_episodes=2, tasks_per_iteration=2, prior_episodes=2, posterior_episodes=2),
    updates=4,
    meta_batch=5,
    batch=16,
    model=TaskModelConfig(
        updates=3, context=15, targets=8, width=8, decoder=TransitionDecoderConfig(hidden=16, layers=1)
    ),
    imagination=ImaginationConfig(tasks=3, every=2, episodes=2),
    sac=LatentSACConfig(hidden=16, layers=1, learning_rate=1e-3),
    evaluate_every=2,
    evaluate_splits=("test",),
)


def started(**changes):
    config = with_settings(SMALL, changes)
    state = metadreamer.build("PointRobot-v0", config, seed=1)
    initial = with_settings(config, {"collection.prior_episodes": 2, "collection.posterior_episodes": 1})
    metadreamer.collect(state, list(range(len(state.replay))), initial, stream(0))
    state.network.model.decoder.units.fit(state.replay.sample(range(len(state.replay)), 100, stream(1)))
    return state, config


def test_the_agent_believes_what_the_encoder_does():
    """Tick by tick the agent has the beliefs that training computes over the whole context."""
    state, _config = started()
    agent, trials, steps = metadreamer.MetaDreamerAgent(state.network, 1), 3, 45
    env = metabench.make_vec("PointRobot-v0", trials, split="test", episodes_per_task=9)
    observation, _ = env.reset(seed=0)
    belief, seen, stream = agent.begin(trials), [], Stream(observation, env.single_action_space)
    for _ in range(steps):
        held = belief.memory.clone()
        action, after = agent.act(stream.timestep(), belief)
        assert torch.equal(held, belief.memory), "act changed the belief it was given"
        belief, before = after, observation
        observation, reward, terminated, truncated, info = env.step(action)
        done = terminated | truncated
        seen.append((before, action, reward, info["final_obs"] if done.all() else observation))
        stream.advance(action, observation, reward, done, info.get("final_obs"))
    seen.pop()  # the last step has not been shown yet
    o, a, r, n = (torch.as_tensor(np.stack(column, axis=1)).float() for column in zip(*seen, strict=True))
    context = Transitions(o, a / 0.1, r, n, torch.zeros_like(r))
    expected = state.network.model.posterior(context, torch.full((trials,), len(seen)))
    with torch.inference_mode():
        ours = DiagonalGaussian.of(state.network.model.out(belief.memory))
    assert torch.allclose(ours.mean, expected.mean, atol=1e-5)
    assert torch.allclose(ours.variance, expected.variance, atol=1e-5)
    assert belief.guess.episode.tolist() == [2] * trials


def test_padding_does_not_matter():
    state, _ = started()
    context, lengths = state.replay.windows([0, 1], 30, stream(3))
    short = Transitions(*(column[:, :12] for column in context))
    mixed = state.network.model.posterior(context, torch.tensor([12, 30]))
    assert lengths.tolist() == [30, 30]
    assert torch.allclose(
        state.network.model.posterior(short, torch.tensor([12, 12])).mean[0], mixed.mean[0], atol=1e-6
    )


def test_model_loss_is_the_sum_of_its_parts():
    """Brute force: every context, part and target by itself."""
    state, config = started()
    model, generator = state.network.model, stream(7)
    weights = replace(config.model, beta=3.0, within=0.5, between=2.0, separation=4.0)
    context, lengths = state.replay.windows([0, 0, 1, 1, 2, 2], 15, stream(4))
    context = Transitions(*(column.unflatten(0, (3, 2)) for column in context))
    seen = state.replay.sample([0, 1, 2], 5, stream(5))
    draws = model_draws(lengths.view(3, 2), config.latent, generator)
    loss, metrics = model_loss(model, context, lengths.view(3, 2), seen, weights, draws)
    again = stream(7)
    parts = (torch.rand(6, generator=again) * 15).long() + 1
    noise = torch.randn(3, 2, 2, config.latent, generator=again)
    rebuilt, divergence, means = [], [], torch.zeros(3, 2, config.latent)
    for t in range(3):
        for p in range(2):
            for k, end in enumerate((15, int(parts[2 * t + p]))):
                alone = Transitions(*(column[t : t + 1, p, :end] for column in context))
                belief = model.posterior(alone, torch.tensor([end]))
                z = belief.sample(noise[t, p, k])
                divergence.append(belief.kl()[0])
                if k == 0:
                    means[t, p] = belief.mean[0]
                for m in range(5):
                    step = model.decoder(seen.observation[t, m], seen.action[t, m], z[0])
                    units = model.decoder.units
                    square = ((step.next_observation - seen.next_observation[t, m]) / units.step).pow(2).sum()
                    square = square + ((step.reward - seen.reward[t, m]) / units.reward_scale) ** 2
                    ends = torch.log1p(torch.exp(step.ends))  # none ends
                    rebuilt.append(square / (2 * config.model.deviation**2) + ends)
    centers = means.mean(1)
    within = ((means - centers[:, None]) ** 2).sum(-1).mean()
    gaps = torch.stack([(centers[a] - centers[b]).norm() for a, b in ((0, 1), (0, 2), (1, 2))])
    between = ((4.0 - gaps).clamp_min(0) ** 2).mean()
    expected = 15 * torch.stack(rebuilt).mean() + 3.0 * torch.stack(divergence).mean() + 0.5 * within + 2.0 * between
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert set(metrics) == {"reconstruction", "kl", "within", "between"}


def test_the_policy_does_not_teach_the_model_nor_the_other_way():
    state, config = started()
    model = [p.clone() for p in state.network.model.parameters()]
    policy = [p.clone() for p in state.network.core.parameters()]
    dream = metadreamer.imagine(state, config, stream(0))
    for _ in range(3):
        metadreamer.update(state, dream, config, stream(1))
    assert all(torch.equal(a, b) for a, b in zip(model, state.network.model.parameters(), strict=True))
    changed = [p.clone() for p in state.network.core.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(policy, changed, strict=True))
    metadreamer.update_model(state, config, stream(2))
    assert all(torch.equal(a, b) for a, b in zip(changed, state.network.core.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(model, state.network.model.parameters(), strict=True))


@pytest.mark.parametrize("run", metadreamer.RUNS)
def test_each_run_dreams_what_its_name_says(run):
    state, config = started(
        **{**metadreamer.RUNS[run], "imagination.tasks": min(3, metadreamer.RUNS[run]["imagination.tasks"])}
    )
    dream = metadreamer.imagine(state, config, stream(0))
    assert len(state.replay) == (16 if "16" in run else 8)
    imagined = len(dream.imagined.base) if dream.imagined else 0
    assert imagined == (3 if "I" in run else 0)
    played = [i for i, count in enumerate(dream.replay.count) if count] if dream.replay else []
    real = list(range(len(state.replay))) if "IR" in run else []
    assert played == real + list(range(len(state.replay), len(state.replay) + imagined))
    before = state.collector.frames
    metrics = metadreamer.update(state, dream, config, stream(1))
    assert all(np.isfinite(float(value)) for value in metrics.values())
    assert state.collector.frames == before, "imagination costs no real steps"


def test_short_rollouts_start_anywhere():
    """Whole episodes begin where real ones do, at the origin; short rollouts in any real state of their base task."""
    for steps, anywhere in ((0, False), (3, True)):
        state, config = started(**{"imagination.steps": steps, "imagination.episodes": 20})
        state.network.model.decoder.body[-1].bias.data[-1] = -9.0  # no episode ends early
        dream = metadreamer.imagine(state, config, stream(0))
        rows = torch.stack([own[: 20 * (steps or 20) : steps or 20] for own in dream.replay.rows])
        starts = Transitions.unpack(rows, 2, 2).observation
        assert bool((starts.abs().sum(-1) > 0).any()) == anywhere
        assert dream.replay.count == [20 * (steps or 20)] * 7


@pytest.mark.parametrize("ablation", metadreamer.ABLATIONS)
def test_ablations_run(ablation):
    state, config = started(**metadreamer.ABLATIONS[ablation])
    dream = metadreamer.imagine(state, config, stream(0))
    assert (dream.imagined is None) == (ablation == "no-meta-imagination")
    assert (dream.replay is None) == (ablation == "no-mdp-imagination")
    metadreamer.update_model(state, config, stream(1))
    for n in range(3):
        metadreamer.update(state, dream, config, stream(2 + n))


def test_imagined_batches_mix_real_and_imagined_rows():
    state, config = started(**{"imagination.share": 0.25, "batch": 16})
    dream = metadreamer.imagine(state, config, stream(0))
    for rows in state.replay.rows:
        rows[:, -1] = 5.0  # mark what is real
    seen = []
    state.sac.update = lambda batch, z, noise: seen.append(batch.terminal) or {}
    for n in range(10):
        metadreamer.update(state, dream, config, stream(n))
    counts = {int((row == 5.0).sum()) for marks in seen for row in marks}
    assert counts == {12, 0}  # three quarters of a real task's rows, none of an imagined task's


def test_the_map_finds_the_factors():
    """Beliefs that are the factors in scrambled dimensions: f(k) unscrambles them."""
    factors = np.random.default_rng(0).uniform(-1, 1, (8, 2))
    means = torch.zeros(8, 16, 4)
    means[..., 3], means[..., 1] = (torch.tensor(-(factors[:, k] ** 3))[:, None].float() for k in (0, 1))
    means += 0.01 * torch.randn(means.shape, generator=stream(0))
    assert factor_map(DiagonalGaussian(means, torch.ones_like(means)), factors) == (3, 1)


def test_few_tasks_are_spread_over_the_table():
    assert metadreamer.spread(45, 4) == [0, 15, 29, 44]
    assert metadreamer.spread(45, 45) == list(range(45))
    state, _ = started()
    table = metabench.spec("PointRobot-v0").table().rows["train"]
    assert np.array_equal(state.factors, table[[0, 15, 29, 44]])
    context, _ = state.replay.windows([2], 15, stream(0))
    distance = (context.next_observation[0] - torch.tensor(table[29]).float()).norm(dim=-1)
    assert torch.allclose(context.reward[0], -distance, atol=1e-5)


def test_a_killed_run_continues_to_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    class Dies(Run):
        def save(self, iteration, *args):
            super().save(iteration, *args)
            if iteration == 2:
                raise Killed

    def go(folder, kind):
        return metadreamer.train("PointRobot-v0", SMALL, seed=3, run=kind(folder, show=False, checkpoint_every=1))

    go(tmp_path / "whole", Run)
    with pytest.raises(Killed):
        go(tmp_path / "killed", Dies)
    go(tmp_path / "killed", Run)
    finished = [load_checkpoint(tmp_path / name).tensors for name in ("whole", "killed")]
    assert all(torch.equal(finished[0][name], finished[1][name]) for name in finished[0])
    rows = []
    for name in ("whole", "killed"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        rows.append([{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines])
    assert rows[0] == rows[1] and len(rows[0]) == 4
    assert rows[0][-1]["frames"] == 4 * 2 * 20 + 4 * 2 * 4 * 20
    assert {"mig", "imagination_state", "neighbour_reward", "model_reward", "test/last"} <= set(rows[0][1])
    assert np.isfinite(metabench.evaluate(metadreamer.load(tmp_path / "whole"), "PointRobot-v0").array()).all()


def test_flat_settings_are_read():
    """Every setting that the first runs wrote, each with a value of its own, comes to its group."""
    flat = {name: index + 2 for index, name in enumerate(FLAT)}
    switches = {"bf16": True, "compile": False}
    config = read_config(metadreamer.Config, flat | switches, metadreamer.RENAMED)
    assert (config.precision, config.form) == ("bf16", "auto")

    def at(path):
        value = config
        for part in path.split("."):
            value = getattr(value, part)
        return value

    assert {name: at(path) for name, path in FLAT.items()} == flat


FLAT = {
    **{name: name for name in ("split", "tasks", "iterations", "updates", "meta_batch", "batch", "replay", "latent")},
    **{name: name for name in ("exploration_episodes", "evaluate_every", "evaluate_splits", "device")},
    **{name: f"collection.{name}" for name in ("initial_episodes", "tasks_per_iteration", "prior_episodes")},
    "posterior_episodes": "collection.posterior_episodes",
    **{name: f"imagination.{name}" for name in ("rollouts", "density")},
    "imagined_tasks": "imagination.tasks",
    "imagine_every": "imagination.every",
    "rollouts_per_task": "imagination.episodes",
    "rollout_steps": "imagination.steps",
    "imagined_share": "imagination.share",
    **{
        name: f"model.{name}" for name in ("context", "targets", "deviation", "beta", "within", "between", "separation")
    },
    "model_updates": "model.updates",
    "model_rate": "model.learning_rate",
    "core": "model.width",
    "decoder": "model.decoder.kind",
    "decoder_hidden": "model.decoder.hidden",
    "decoder_layers": "model.decoder.layers",
    **{name: f"sac.{name}" for name in ("hidden", "layers", "normalised_values", "learning_rate", "discount")},
    **{name: f"sac.{name}" for name in ("reward_scale", "target_rate")},
}


def test_what_does_not_fit_is_told_in_a_sentence():
    for changes, words in (
        ({"imagination.rollouts": "some"}, "unknown rollouts 'some'"),
        ({"tasks": 99}, "tasks must be 1 to 45"),
        ({"imagination.rollouts": "imagined", "imagination.tasks": 0}, "need imagination.tasks"),
        ({"model.decoder.kind": "physics"}, "no positions with velocities"),
    ):
        with pytest.raises(ValueError, match=words):
            metadreamer.build("PointRobot-v0", with_settings(SMALL, changes), 0)


def test_imagination_compares_with_the_simulator():
    """With the true model, whose latent is the goal, imagined tasks have no error; a neighbour's latent has."""
    state, config = started()

    class Knows(type(state.network.model.decoder)):
        def forward(self, observation, action, z):
            step = super().forward(observation, action, z)
            after = observation + 0.1 * action
            reward = -torch.linalg.norm(after - z[..., :2], dim=-1)
            return step._replace(next_observation=after, reward=reward, ends=step.ends * 0 - 9.0)

    state.network.model.decoder.__class__ = Knows
    state.network.model.decoder.units.reward_low.fill_(-np.inf)  # the true model knows rewards that were not seen
    state.network.model.decoder.units.reward_high.fill_(np.inf)
    goals = torch.tensor(state.factors).float()[:, None].expand(-1, 64, -1)
    means = torch.cat((goals, torch.zeros(4, 64, 2)), dim=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "real_beliefs", lambda *a, **k: DiagonalGaussian(means, torch.ones_like(means)))
        scores = metadreamer.diagnose(state, config, stream(0))
    assert scores["imagination_reward"] < 1e-5 and scores["model_reward"] < 1e-5 and scores["imagination_state"] < 1e-5
    assert scores["neighbour_reward"] > 0.01
