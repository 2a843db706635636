"""The world model: its recurrence is a GRU, its loss is what it says, z sees only its own episode, and it learns."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.parts import config
from metabench_agents.parts.run import Checkpoint
from metabench_agents.sequence import world_model
from metabench_agents.sequence.episodes import Actions, Episodes
from metabench_agents.sequence.world_model import (
    EpisodeSteps,
    HistoryEncoder,
    ShortGRU,
    WorldModel,
    WorldModelFitting,
    WorldModelSettings,
    WorldModelTrainer,
)

import metabench

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


def some_episodes(lengths=(9, 6, 9, 4), seed=0):
    rng = np.random.default_rng(seed)
    return Episodes.of(
        [rng.normal(2.0, 3.0, (n + 1, 3)) for n in lengths],
        [rng.uniform(-1, 1, (n, 2)) for n in lengths],
        [rng.normal(size=n) for n in lengths],
        np.arange(len(lengths)) % 2,
        Actions(BOX),
    )


def a_model(decoders="both"):
    torch.manual_seed(0)
    model = WorldModel(3, 2, WorldModelSettings(decoders=decoders, history=4, context=5, width=7))
    for bias in (p for n, p in model.named_parameters() if "bias" in n):  # they start at zero, where faults hide
        torch.nn.init.normal_(bias)
    return model


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_short_gru_is_torchs_gru_and_so_are_its_gradients(steps):
    torch.manual_seed(1)
    reference, x = torch.nn.GRU(6, 8), torch.randn(steps, 10, 6)
    weight_in, weight, bias_in, bias = reference.all_weights[0]
    pull = torch.randn(10, 8)
    expected = reference(x)[0][-1]
    (expected * pull).sum().backward()
    ours = [p.detach().clone().requires_grad_() for p in (weight_in, weight, bias_in, bias)]
    out = ShortGRU.apply(torch.nn.functional.linear(x, ours[0], ours[2]), ours[1], ours[3])
    (out * pull).sum().backward()
    assert torch.allclose(out, expected, atol=1e-6)
    for mine, theirs in zip(ours, (weight_in, weight, bias_in, bias), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)


@pytest.mark.parametrize("crossing", [False, True])
@pytest.mark.parametrize("decoders", ["reward", "state", "both"])
def test_compiled_updates_are_torchs(decoders, crossing):
    trainers = []
    for _ in range(2):
        model = a_model(decoders)
        steps = EpisodeSteps(some_episodes(), model, crossing=crossing)
        trainers.append(WorldModelTrainer(model, steps, steps, WorldModelFitting(batch=6)))
    ours, torchs = trainers
    assert ours.fast is not None
    torchs.fast, generator = None, torch.Generator().manual_seed(0)
    for number in range(12):
        pick = torch.randint(len(ours.learn), (6,), generator=generator)
        found, expected = ours.step(pick, 2e-3), torchs.step(pick, 2e-3)
        assert {n: float(x) for n, x in found.items()} == pytest.approx(
            {n: float(x) for n, x in expected.items()}, rel=1e-4
        )
        if not number:  # Adam's first step is blind to the size of a gradient: look at its memory
            moments = zip(ours.tensors().items(), torchs.tensors().items(), strict=True)
            assert all(n == m and torch.allclose(a, b, atol=1e-6, rtol=1e-4) for (n, a), (m, b) in moments)
    for mine, theirs in zip(ours.model.parameters(), torchs.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-5)


def test_compiled_updates_go_on_from_a_checkpoint_to_the_same_bits():
    def trainer():
        model = a_model()
        steps = EpisodeSteps(some_episodes(), model)
        return WorldModelTrainer(model, steps, steps, WorldModelFitting(batch=6, updates=300))

    def train(one, numbers):
        for number in numbers:
            one.update(torch.Generator().manual_seed(number))

    whole, half, rest = trainer(), trainer(), trainer()
    train(whole, range(120))
    train(half, range(100))
    kept = {name: tensor.clone() for name, tensor in half.tensors().items()}
    assert rest.restore(Checkpoint(1, kept, {})) == 100
    train(rest, range(100, 120))
    for name, tensor in whole.tensors().items():
        if name.startswith("now"):
            assert torch.equal(tensor, rest.tensors()[name]), name


def test_compiled_updates_want_all_parameters_of_the_model():
    model = a_model()
    with pytest.raises(ValueError, match="other parameters than the model"):
        world_model.compiled_updates(model, torch.optim.Adam(model.encoder.parameters()))


def test_z_is_made_of_the_steps_before_and_of_no_other_episode():
    model, episodes = a_model(), some_episodes()
    episodes_scaled = model.scaled(episodes.observation)
    z = world_model.contexts(model, episodes)
    for episode in range(len(episodes)):
        start, length = int(episodes.first[episode]), int(episodes.length[episode])
        for t in range(length):
            past = torch.zeros(4, 1, 6)
            for back in range(1, min(t, 4) + 1):
                row = start + t - back
                parts = (episodes_scaled[row], episodes.action[row], episodes.reward[row : row + 1])
                past[4 - back, 0] = torch.cat(parts)
            assert torch.allclose(z[start + t], model.encoder(past)[0], atol=1e-6)
    assert z[0].abs().sum() > 0, "an empty history is encoded too"
    crossed = world_model.contexts(model, episodes, crossing=True)
    rows, first = episodes.rows()
    differs = (crossed - z)[rows].abs().amax(dim=1) > 1e-6
    assert differs.tolist() == ((rows - first < 4) & (rows >= 4)).tolist()


@pytest.mark.parametrize("decoders", ["reward", "state", "both"])
def test_the_loss_is_the_mean_squared_error_of_what_is_foretold(decoders):
    model, episodes = a_model(decoders), some_episodes()
    steps = EpisodeSteps(episodes, model)
    step = steps.take(torch.tensor([0, 5, 8, 20]))
    total, metrics = world_model.loss(model, step)
    with torch.no_grad():
        reward, state = model.foretell(step)
    assert (reward is None) == (decoders == "state") and (state is None) == (decoders == "reward")
    expected, error = 0.0, torch.zeros(4)
    if reward is not None:
        expected += float(((reward - step.reward) ** 2).sum() / 4)
        error += (reward - step.reward).abs()
    if state is not None:
        expected += float(((state - step.next_observation) ** 2).sum() / 12)
        error += (state - step.next_observation).abs().sum(1)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert sum(float(m) for m in metrics.values()) == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(model.error(step), error)


def test_a_transition_is_the_step_and_what_came_of_it():
    model, episodes = a_model(), some_episodes()
    model.mean, model.std = episodes.scale()
    step = EpisodeSteps(episodes, model).take(torch.tensor([8, 9]))  # the last of episode 0, the first of episode 1
    scaled = model.scaled(episodes.observation)
    assert torch.equal(step.observation, scaled[[8, 10]]) and torch.equal(step.next_observation, scaled[[9, 11]])
    assert torch.equal(step.reward, episodes.reward[[8, 10]]) and torch.equal(step.action, episodes.action[[8, 10]])
    assert torch.equal(step.past[:, 0], torch.cat((scaled, episodes.action, episodes.reward[:, None]), 1)[4:8])
    assert not step.past[:, 1].any()


def test_mixed_scales_are_the_released_error():
    model, episodes = a_model("state"), some_episodes()
    model.mean, model.std = episodes.scale()
    step = EpisodeSteps(episodes, model).take(torch.arange(9))
    state = model.foretell(step)[1] * model.std + model.mean
    assert torch.allclose(model.error(step, mixed=True), (state - step.next_observation).abs().sum(1))


def test_errors_stand_at_their_rows():
    model, episodes = a_model(), some_episodes()
    errors, steps = world_model.errors(model, episodes), EpisodeSteps(episodes, model)
    rows, _ = episodes.rows()
    assert torch.allclose(errors[rows], model.error(steps.take(torch.arange(len(steps)))))
    assert (errors[episodes.first + episodes.length] == 0).all()


@pytest.mark.parametrize(
    ("family", "decoders"),
    [("PointRobot", "reward"), ("SparsePointRobot", "reward"), ("HopperParam", "state"), ("CheetahWindVel", "both")],
)
def test_what_is_foretold_follows_what_varies(family, decoders):
    assert world_model.decoders_for(family) == decoders
    assert WorldModelSettings().settled(family).decoders == decoders
    assert WorldModelSettings(decoders="both").settled(family).decoders == "both"


def test_families_whose_tasks_differ_in_one_thing_are_families():
    for name in (*config.REWARD_FAMILIES, *config.DYNAMICS_FAMILIES):
        assert type(metabench.spec(f"{name}-v0").family()).__name__ == name
    assert not {*config.REWARD_FAMILIES} & {*config.DYNAMICS_FAMILIES}


def test_a_world_model_that_does_not_know_what_to_foretell_says_so():
    with pytest.raises(ValueError, match="what a world model foretells is still open"):
        WorldModel(3, 2, WorldModelSettings())


def test_the_encoder_starts_as_released():
    encoder = HistoryEncoder(3, 2, WorldModelSettings(context=5, width=16))
    assert torch.allclose(encoder.weight.t() @ encoder.weight, torch.eye(16), atol=1e-5)
    assert all(not layer.bias.any() for layer in (*encoder.embed, encoder.out))


@pytest.mark.parametrize("decay", [False, True])
def test_the_learning_rate_warms_up_and_falls_and_the_best_model_is_kept(decay, monkeypatch):
    monkeypatch.setattr(world_model, "SELECT_EVERY", 1)
    model, generator = a_model("reward"), torch.Generator().manual_seed(0)
    steps = EpisodeSteps(some_episodes(), model)
    trainer = world_model.WorldModelTrainer(model, steps, steps, WorldModelFitting(200, 8, 1e-2, decay))
    rates, losses = [], []
    for done in range(1, 201):
        trainer.update(generator)
        rates.append(trainer.optimiser.param_groups[0]["lr"])
        losses.append(trainer.look(done)["held_out_loss"])
    assert rates[0] == pytest.approx(1e-4) and rates[49] == pytest.approx(5e-3 * (1 - 49 / 200 if decay else 1))
    assert rates[-1] == pytest.approx(5e-5 if decay else 1e-2)
    assert float(trainer.least) == pytest.approx(min(losses)) and min(losses) < losses[0]
    model.load_state_dict({name.removeprefix("world/"): tensor for name, tensor in trainer.best.items()})
    assert world_model.evaluate_loss(model, steps) == pytest.approx(min(losses))
