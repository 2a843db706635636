"""VariBAD's and DynaMITE-RL's losses against hand-computed and brute-force values, each part alone."""

import itertools
import math

import pytest
import torch
from metabench_agents.belief import dynamite, sessions, varibad
from metabench_agents.belief.encoders import CategoricalLatent, GaussianLatent
from metabench_agents.belief.model import BeliefModel
from metabench_agents.belief.policy import BeliefActorCritic, collect
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.fast import pairs
from metabench_agents.parts.layers import Products
from metabench_agents.parts.losses import (
    chained_prior,
    last_of_session,
    next_reward_scale,
    reconstruction_loss,
    reward_log_likelihood,
    session_consistency,
    session_of_belief,
    termination_loss,
)
from metabench_agents.parts.run import stream

import metabench

SMALL = {
    "model.latent.size": 5,
    "model.encoder.hidden": 8,
    "model.encoder.embed": 8,
    "model.decoder.hidden": (8, 8),
    "model.reward_loss": "bernoulli",
}
OFF = {
    "sessions.consistency": False,
    "sessions.conditioning": False,
    "sessions.masking": False,
    "sessions.termination_weight": 0.0,
}


def make(changes={}):  # noqa: B006  it is read only
    """A DynaMITE model on GridSwitch."""
    config = with_settings(dynamite.Config(), SMALL | changes)
    torch.manual_seed(0)
    return sessions.SessionModel(config.sessions, config.model, metabench.make_vec("GridSwitch-v0", 2), 60)


def make_varibad(changes={}):  # noqa: B006
    """A VariBAD model on GridSwitch."""
    torch.manual_seed(0)
    return BeliefModel(
        with_settings(varibad.Config(), SMALL | changes).model, metabench.make_vec("GridSwitch-v0", 2), 60
    )


def play(trials=5, seed=0):
    """Random trials of GridSwitch with their session labels."""
    env = metabench.make_vec("GridSwitch-v0", trials)
    torch.manual_seed(seed)
    model = BeliefModel(with_settings(varibad.Config(), SMALL).model, env, 60)
    actor = BeliefActorCritic(env, 10, 8, model.reading)
    return collect(model, actor, env, 60, True, seed, stream(seed)).trials


def loss_of(elbo, model, batch, generator):
    """An ELBO of fresh draws."""
    return elbo(model, batch, model.base.draw(batch, generator))


def test_gaussian_kl_by_hand():
    latent = GaussianLatent(2)
    p = torch.tensor([1.0, 0.0, math.log(4.0), 0.0])  # N(1, 4) and N(0, 1)
    q = torch.tensor([0.0, 2.0, 0.0, math.log(0.25)])  # N(0, 1) and N(2, 1/4)
    first = 0.5 * (4.0 + 1.0 - 1.0 - math.log(4.0))
    second = 0.5 * (1.0 / 0.25 + 4.0 / 0.25 - 1.0 + math.log(0.25))
    assert latent.kl(p, q).item() == pytest.approx(first + second, abs=1e-5)
    assert latent.kl(p, p).item() == pytest.approx(0.0, abs=1e-7)


def test_categorical_kl_by_hand():
    latent = CategoricalLatent(1, 2)
    p, q = torch.log(torch.tensor([0.75, 0.25])), torch.zeros(2)
    assert latent.kl(p, q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert latent.kl(p + 3.0, q).item() == pytest.approx(latent.kl(p, q).item(), abs=1e-6)  # logits have no zero


def test_zeros_are_the_prior():
    draws = GaussianLatent(1).place(torch.zeros(20_000, 2), GaussianLatent(1).noise(20_000, generator=stream(0)))
    assert draws.mean().abs() < 0.03 and (draws.std() - 1.0).abs() < 0.03
    assert torch.equal(CategoricalLatent(2, 4).features(torch.zeros(8)), torch.full((8,), 0.25))


def test_categorical_draws_follow_their_probabilities():
    latent, p = CategoricalLatent(1, 3), torch.tensor([0.2, 0.5, 0.3])
    belief = p.log().expand(30_000, 3).clone().requires_grad_()
    draws = latent.place(belief, latent.noise(30_000, generator=stream(1)))
    assert torch.equal(draws.sum(-1).round(), torch.ones(30_000)) and draws.detach().max() == 1.0
    assert draws.mean(0).tolist() == pytest.approx(p.tolist(), abs=0.01)
    draws[:, 0].sum().backward()
    assert belief.grad.abs().sum() > 0  # the softmax's gradient passes the hard choice


def test_reward_likelihoods_by_hand():
    prediction, reward = torch.tensor([[[0.3]], [[-1.0]]]), torch.tensor([[1.0]])
    assert reward_log_likelihood(prediction, reward, "mse")[:, 0, 0].tolist() == pytest.approx([-0.49, -4.0])
    won = reward_log_likelihood(prediction, reward, "bernoulli")[:, 0, 0]
    assert won.tolist() == pytest.approx([math.log(1 / (1 + math.exp(-0.3))), math.log(1 / (1 + math.exp(1.0)))])
    lost = reward_log_likelihood(prediction, torch.tensor([[-0.1]]), "bernoulli")[0, 0, 0]
    assert lost.item() == pytest.approx(math.log(1 - 1 / (1 + math.exp(-0.3))))


def test_reconstruction_by_hand():
    value = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]]])  # one term, two transitions, two trials
    assert reconstruction_loss(value)[0].item() == pytest.approx(((1 + 3) + (2 + 4)) / 2)
    mask = torch.tensor([[[True, False], [False, True]]])
    assert reconstruction_loss(value, mask)[0].item() == pytest.approx((1 + 4) / 2)
    assert reconstruction_loss(value, None, share=0.25)[0].item() == pytest.approx(4 * 5.0)


def test_subsampling_is_unbiased():
    """The mean over many draws of terms and steps is the sum over all of them."""
    full = make({"model.terms": 0, "model.steps": 0})
    some = make({"model.terms": 7, "model.steps": 11})
    some.load_state_dict(full.state_dict())
    batch, belief = play(), None
    for model in (full, some):
        model.latent.sample = lambda belief, generator: belief[..., :5]  # means: draws of latents aside
    with torch.no_grad():
        belief = full.beliefs(batch)

        def loss(model, seed):
            drawn = model.base.likelihood(belief, batch, model.base.draw(batch, stream(seed)))
            return reconstruction_loss(drawn.value, None, drawn.share)[0].item()

        estimates = torch.tensor([loss(some, seed) for seed in range(400)])
        assert abs(estimates.mean() - loss(full, 0)) < 4 * estimates.std() / 20


def test_the_prior_is_the_belief_before():
    belief = torch.arange(12.0).reshape(3, 2, 2)
    prior = chained_prior(belief)
    assert torch.equal(prior[0], torch.zeros(2, 2)) and torch.equal(prior[1:], belief[:-1])


def test_which_session_a_belief_is_about():
    session = torch.tensor([[0, 0, 1, 1, 2, 3]]).T  # of the coming transition
    # Tick 0: the session that begins; then the one of the transition just seen, wherever episodes begin.
    assert session_of_belief(session)[:, 0].tolist() == [0, 0, 0, 1, 1, 2]


def test_last_of_session():
    session = torch.tensor([[0, 0, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0]]).T
    assert last_of_session(session).T.tolist() == [[1, 1, 2, 5, 5, 5], [5, 5, 5, 5, 5, 5]]


def test_consistency_by_hand():
    theta = torch.tensor([[3.0, 1.0, 2.0, 0.0, 5.0, 0.5, 0.75]]).T
    session = torch.tensor([[0, 0, 0, 0, 1, 1, 1]]).T
    # Within session 0 it rises once, by 1; over the border it does not count; in session 1 by 0.25.
    assert session_consistency(theta, session)[0].item() == pytest.approx(1.25)
    assert session_consistency(theta, torch.arange(7)[:, None])[0].item() == 0.0


def test_consistency_of_beliefs_equals_brute_force():
    """Part (a): plain loops over trials and sessions; the final belief has no gradient."""
    model = make()
    belief = torch.randn(9, 3, 10, requires_grad=True)
    session = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [0] * 9, [0, 1, 1, 1, 1, 2, 2, 3, 3]]).T
    ours, _ = sessions.consistency_loss(model, belief, session)
    total = 0.0
    for b in range(3):
        for s in session[:, b].unique().tolist():
            ticks = (session[:, b] == s).nonzero()[:, 0].tolist()
            theta = [model.latent.kl(belief[t, b], belief[ticks[-1], b].detach()) for t in ticks]
            total += sum(max(0.0, (after - before).item()) for before, after in itertools.pairwise(theta))
    assert ours.item() == pytest.approx(total / 3, rel=1e-5)
    ours.backward()
    # In session 0 of trial 0 the final belief is tick 2; theta there is 0, so no rise can pull at it.
    assert torch.equal(belief.grad[2, 0], torch.zeros(10))
    assert belief.grad.abs().sum() > 0


def test_conditioning_replaces_the_prior_at_borders_only():
    """Part (b): the learned prior of the last belief before the border, which gets no gradient from it."""
    model = make()
    belief = torch.randn(6, 1, 10, requires_grad=True)
    session = torch.tensor([[0, 0, 0, 1, 1, 1]]).T
    prior = sessions.prior_of(model, belief, session)
    plain = chained_prior(belief)
    assert torch.equal(prior[[0, 1, 2, 4, 5]], plain[[0, 1, 2, 4, 5]])
    expected = model.latent.normalise(model.prior(belief[2]))
    assert torch.allclose(prior[3], expected) and not torch.allclose(prior[3], plain[3])
    prior[3].sum().backward()
    assert belief.grad.abs().sum() == 0 and all(p.grad.abs().sum() > 0 for p in model.prior.parameters())
    without = make({"sessions.conditioning": False})
    assert without.prior is None and torch.equal(sessions.prior_of(without, belief, session), plain)


def test_the_learned_prior_finds_the_latent_dynamics():
    """On beliefs that jump to their opposite at every border, its KL falls to nothing."""
    model = make()
    optimiser = torch.optim.Adam(model.prior.parameters(), lr=1e-2)
    sign = torch.randn(1, 64, 1).sign()
    belief = torch.cat((sign, -sign)).expand(2, 64, 5)
    belief = torch.cat((belief, torch.full_like(belief, -2.0)), dim=-1)
    session = torch.arange(2)[:, None].expand(2, 64)
    losses = []
    for _ in range(300):
        kl = model.latent.kl(belief, sessions.prior_of(model, belief, session))[1].mean()
        optimiser.zero_grad()
        kl.backward()
        optimiser.step()
        losses.append(kl.item())
    assert losses[-1] < 0.05 < 5.0 < losses[0]


@pytest.mark.parametrize("worth", [0, 10**9])
def test_masking_equals_brute_force(monkeypatch, worth):
    """Part (c): only pairs of a belief and a transition of the same session count; the others may be left out."""
    monkeypatch.setattr(pairs, "WORTH", worth)
    model = make(OFF | {"sessions.masking": True, "model.kl_weight": 0.0, "model.terms": 0, "model.steps": 0})
    batch = play()
    total, _ = loss_of(sessions.elbo, model, batch, stream(4))
    with torch.no_grad():
        belief = model.beliefs(batch)
        drawn = model.base.likelihood(belief, batch, model.base.draw(batch, stream(4)))
        about, summed = session_of_belief(batch.session), 0.0
        for b in range(5):
            for k in range(60):
                for t in range(60):
                    if about[k, b] == batch.session[t, b]:
                        summed -= drawn.value[k, t, b].item()
    assert total.item() == pytest.approx(summed / 5, rel=1e-4)
    assert batch.session.max() >= 2  # there were borders to find


def test_termination_by_hand():
    logit, session = torch.tensor([[-1.0, 2.0, 0.5]]).T, torch.tensor([[0, 1, 1]]).T
    softplus = [math.log1p(math.exp(x)) for x in (-1.0, -2.0, 0.5)]
    assert termination_loss(logit, session)[0].item() == pytest.approx(sum(softplus) / 3, abs=1e-6)


@pytest.mark.parametrize("part", ["consistency", "conditioning", "masking", "termination_weight"])
def test_each_part_alone_changes_the_loss(part):
    batch, values = play(), []
    for changes in (OFF, OFF | {f"sessions.{part}": True if part != "termination_weight" else 1.0}):
        model = make(changes | {"model.kl_weight": 1.0, "sessions.consistency_weight": 1.0})
        with torch.no_grad():
            model.base.encoder.out.weight *= 20  # beliefs away from the prior
        values.append(loss_of(sessions.elbo, model, batch, stream(2))[0].item())
    assert values[0] != pytest.approx(values[1], rel=1e-4)


def test_all_parts_off_is_varibad():
    """The same initial networks, the same loss and the same gradients, to the bit."""
    model, twin = make(OFF), make_varibad()
    own, theirs = vars(dynamite.Config()), vars(varibad.Config())
    assert own.keys() - theirs.keys() == {"sessions"}
    assert all(own[name] == theirs[name] for name in theirs), "their defaults differ"
    batch = play()
    ours, _ = loss_of(sessions.elbo, model, batch, stream(3))
    theirs, _ = loss_of(varibad.elbo, twin, batch, stream(3))
    assert torch.equal(ours, theirs)
    ours.backward()
    theirs.backward()
    own = dict(model.base.named_parameters())
    assert own.keys() == dict(twin.named_parameters()).keys()
    for name, parameter in twin.named_parameters():
        assert torch.equal(own[name].grad, parameter.grad), name


def test_the_elbo_is_its_parts():
    model = make_varibad({"model.kl_weight": 0.3})
    total, metrics = loss_of(varibad.elbo, model, play(), stream(0))
    assert total.item() == pytest.approx((metrics["reconstruction"] + 0.3 * metrics["belief_kl"]).item(), rel=1e-6)


def test_reward_scale_is_the_size_of_returns_to_go():
    reward = torch.tensor([[1.0], [2.0]])
    togo = [1.0 + 0.5 * 2.0, 2.0]
    assert next_reward_scale(1.0, reward, 0.5, 0) == pytest.approx(math.sqrt((togo[0] ** 2 + togo[1] ** 2) / 2))


@pytest.mark.parametrize("decoder", ["next", "step", "all", "cells"])
def test_what_the_policy_reads_is_the_decoders_last_hidden_layer(decoder):
    """The decoder's own output layer makes its prediction of it."""
    model = make({"model.decoder.sees": decoder})
    batch, base, hidden = play(), model.base, model.base.config.decoder.hidden
    with torch.no_grad():
        belief = model.beliefs(batch)
        read = base.read(belief, batch.observation)
    assert read.shape[-1] == 10 + sum(hidden) == 10 + base.reading
    assert torch.equal(read[..., :10], belief) and not read[..., 10:].requires_grad
    with torch.no_grad():
        last = read[..., -hidden[-1] :]
        t, b = 7, 2
        stay = batch.at(torch.tensor([t]))
        stay.next_observation = stay.observation.clone()
        z = base.latent.mean(belief)[t][None]
        if decoder == "cells":
            cell = int(stay.observation[0, b, 0] * 5 + stay.observation[0, b, 1])
            assert torch.allclose(base.reward.layers[-1](last[t, b])[cell], base.reward(z, stay)[0, 0, b, 0], atol=1e-6)
        elif decoder == "next":
            assert torch.allclose(base.reward.pairs.rest[-1](last[t, b]), base.reward(z, stay)[0, 0, b], atol=1e-6)


def test_nothing_is_read_where_it_is_switched_off():
    model = make({"model.reading": False})
    batch = play()
    belief = model.beliefs(batch)
    assert model.base.reading == 0 and torch.equal(model.base.read(belief, batch.observation), belief)


def test_products_by_hand():
    layer = Products(2, 1)
    with torch.no_grad():
        for part, weight, bias in (
            (layer.own, [1.0, 2.0], 0.5),
            (layer.left, [1.0, -1.0], 0.0),
            (layer.right, [0.0, 1.0], 2.0),
        ):
            part.weight[:] = torch.tensor([weight])
            part.bias[:] = bias
    assert layer(torch.tensor([3.0, 4.0])).item() == pytest.approx((3.0 + 8.0 + 0.5) + (3.0 - 4.0) * (4.0 + 2.0))
