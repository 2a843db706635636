"""Every loss against brute force in its own loops, and its gradient against finite differences."""

import math

import pytest
import torch
from metabench_agents.context.offline import csro, losses
from metabench_agents.context.offline.corro import info_nce, vae_loss
from metabench_agents.context.offline.unicorn import unicorn_loss


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(x):
    return math.log1p(math.exp(x))


def check_gradient(function, *inputs):
    """By finite differences, in float64, of every input at once."""
    assert torch.autograd.gradcheck(function, [x.clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize("tasks", [[0, 1, 0, 2, 1], [0, 1, 2, 3, 4], [3, 3, 3, 3, 3]])
def test_the_metric_loss_is_that_over_all_pairs(tasks):
    z, task = normal(5, 3), torch.tensor(tasks)
    pull, push, near, far = 0.0, 0.0, 0, 0
    for i in range(5):
        for j in range(i + 1, 5):
            distance = sum((float(z[i, k]) - float(z[j, k])) ** 2 for k in range(3)) / 3
            if tasks[i] == tasks[j]:
                pull, near = pull + math.sqrt(distance + 1e-3), near + 1
            else:
                push, far = push + 1.0 / (distance + 0.1), far + 1
    found, metrics = losses.distance_metric_loss(z, task)
    assert float(found) == pytest.approx(pull / (near + 1e-3) + push / (far + 1e-3), rel=1e-6)
    assert float(metrics["pull"]) == pytest.approx(pull / (near + 1e-3))
    check_gradient(lambda x: losses.distance_metric_loss(x, task)[0], z)


def test_contexts_that_lie_at_one_place_have_a_finite_gradient():
    z = torch.zeros(4, 3, requires_grad=True)
    losses.distance_metric_loss(z, torch.tensor([0, 0, 1, 1]))[0].backward()
    assert torch.isfinite(z.grad).all()


def test_the_divergence_is_its_formula():
    policy, data = normal(6), normal(6, seed=1)
    found = losses.dual_divergence(policy, data)
    for f, p, d in zip(found.tolist(), policy.tolist(), data.tolist(), strict=True):
        assert f == pytest.approx(math.log(soft(p) + 1e-8) - soft(d) + 1.0, rel=1e-6)
    check_gradient(losses.dual_divergence, policy, data)


def test_the_dual_critic_rises_to_the_divergence():
    """Of two policies over three actions: the best c gives the true divergence, and no c gives more."""
    p, b = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    truth = float((p * (p / b).log()).sum())
    c = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([c], lr=0.05)

    def estimate():
        s = torch.nn.functional.softplus(c)
        return (p * s.log()).sum() - (b * s).sum() + 1.0

    for _ in range(2000):
        optimiser.zero_grad()
        (-estimate()).backward()
        optimiser.step()
        assert float(estimate().detach()) <= truth + 1e-5
    assert float(estimate().detach()) == pytest.approx(truth, abs=1e-4)


def test_the_dual_critics_loss_is_its_formula():
    policy, data, between = normal(4), normal(4, seed=1), 2.0 * normal(4, seed=2)
    found = float(losses.dual_critic_loss(policy, data, between, 5.0))
    terms = [math.log(soft(p) + 1e-8) - soft(d) + 1.0 for p, d in zip(policy.tolist(), data.tolist(), strict=True)]
    beyond = [max(0.0, math.sqrt(1e-8 + c * c) - 1.0) ** 2 for c in between.tolist()]
    assert found == pytest.approx(-sum(terms) / 4 + 5.0 * sum(beyond) / 4, rel=1e-6)
    check_gradient(lambda *x: losses.dual_critic_loss(*x, 5.0), policy, data, between)


def test_iqls_value_loss_is_its_formula():
    q, v = normal(8), normal(8, seed=1)
    want = sum((0.8 if a > b else 0.2) * (a - b) ** 2 for a, b in zip(q.tolist(), v.tolist(), strict=True)) / 8
    assert float(losses.iql_value_loss(q, v, 0.8)) == pytest.approx(want, rel=1e-6)
    check_gradient(lambda x: losses.iql_value_loss(q, x, 0.8), v)


def test_iqls_policy_loss_weighs_by_the_advantage_in_its_spread():
    log_prob, advantage = normal(2, 4), 1000.0 * normal(2, 4, seed=1)
    spread = float(advantage.std())
    weights = [min(math.exp(2.0 * a / spread), 5.0) for a in advantage.flatten().tolist()]
    want = -sum(w * lp for w, lp in zip(weights, log_prob.flatten().tolist(), strict=True)) / 8
    found, _ = losses.iql_policy_loss(log_prob, advantage, 2.0, 5.0)
    assert float(found) == pytest.approx(want, rel=1e-6)
    check_gradient(lambda x: losses.iql_policy_loss(x, advantage, 2.0, 5.0)[0], log_prob)


def test_the_gaussians_density_is_torchs():
    action, mean, log_std = normal(5, 2), normal(5, 2, seed=1), 0.3 * normal(5, 2, seed=2)
    want = torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(-1)
    assert torch.allclose(losses.gaussian_log_prob(action, mean, log_std), want)
    check_gradient(losses.gaussian_log_prob, action, mean, log_std)


def test_unicorns_loss_is_its_formula():
    foretold, brought, z, task = normal(3, 4, 2), normal(3, 4, 2, seed=1), normal(3, 5, seed=2), torch.tensor([0, 1, 0])
    error = sum((a - b) ** 2 for a, b in zip(foretold.flatten().tolist(), brought.flatten().tolist(), strict=True)) / 24
    metric = float(losses.distance_metric_loss(z, task)[0])
    assert float(unicorn_loss(foretold, brought, z, task, 0.3)[0]) == pytest.approx(error + 0.3 * metric, rel=1e-6)
    check_gradient(lambda f, x: unicorn_loss(f, brought, x, task, 0.3)[0], foretold, z)


def test_clubs_bound_is_that_over_all_pairs():
    codes, mean, variance = normal(2, 5, 3), normal(2, 5, 3, seed=1), 0.3 + normal(2, 5, 3, seed=2).square()
    own = pairs = 0.0
    for t in range(2):
        for i in range(5):
            for k in range(3):
                own += float((codes[t, i, k] - mean[t, i, k]) ** 2 / variance[t, i, k]) / 30
                for j in range(5):
                    pairs += float((codes[t, j, k] - mean[t, i, k]) ** 2 / variance[t, i, k]) / 150
    assert float(csro.club_loss(codes, csro.Guessed(mean, variance))) == pytest.approx(pairs - own, rel=1e-6)
    check_gradient(lambda x: csro.club_loss(x, csro.Guessed(mean, variance)), codes)


def test_clubs_bound_falls_to_nothing_where_the_codes_do_not_depend_on_the_pair():
    """And is positive where they do: the estimate is of mutual information."""
    codes = normal(1, 4000, 1)
    told = csro.Guessed(codes.clone(), torch.ones_like(codes))
    blind = csro.Guessed(normal(1, 4000, 1, seed=5), torch.ones_like(codes))
    assert float(csro.club_loss(codes, told)) > 1.5 and abs(float(csro.club_loss(codes, blind))) < 0.1


def test_the_guess_and_the_bound_teach_their_own_side_only():
    codes, mean, variance = (
        x.requires_grad_() for x in (normal(1, 4, 2), normal(1, 4, 2, seed=1), torch.ones(1, 4, 2))
    )
    csro.club_loss(codes, csro.Guessed(mean, variance)).backward()
    assert codes.grad is not None and mean.grad is None and variance.grad is None
    codes.grad = None
    csro.guess_loss(codes, csro.Guessed(mean, variance)).backward()
    assert codes.grad is None and mean.grad is not None and variance.grad is not None


def test_the_guess_loss_is_the_likelihoods():
    codes, mean, variance = normal(2, 3, 2), normal(2, 3, 2, seed=1), 0.3 + normal(2, 3, 2, seed=2).square()
    likelihood = torch.distributions.Normal(mean, variance.sqrt()).log_prob(codes).mean()
    want = -likelihood - 0.5 * math.log(2.0 * math.pi)
    assert float(csro.guess_loss(codes, csro.Guessed(mean, variance))) == pytest.approx(float(want), rel=1e-6)


def test_info_nce_is_its_formula():
    query, key, negative = normal(4, 3), normal(4, 3, seed=1), normal(4, 2, 3, seed=2)
    want = 0.0
    for b in range(4):
        near = math.exp(float(query[b] @ key[b]) / 0.5)
        far = sum(math.exp(float(query[b] @ negative[b, n]) / 0.5) for n in range(2))
        want -= math.log(near / (near + far)) / 4
    assert float(info_nce(query, key, negative, 0.5)[0]) == pytest.approx(want, rel=1e-6)
    check_gradient(lambda *x: info_nce(*x, 0.5)[0], query, key, negative)


def test_the_vaes_loss_is_its_formula():
    foretold, outcome, mean, log_std = normal(4, 2), normal(4, 2, seed=1), normal(4, 3, seed=2), normal(4, 3, seed=3)
    latent, prior = (torch.distributions.Normal(m, s) for m, s in ((mean, log_std.exp()), (0.0 * mean, 1.0)))
    divergence = torch.distributions.kl_divergence(latent, prior).sum(-1)
    want = (((foretold - outcome) ** 2).sum(-1) + divergence).mean()
    assert float(vae_loss(foretold, outcome, mean, log_std)) == pytest.approx(float(want), rel=1e-6)
    check_gradient(lambda f, m, s: vae_loss(f, outcome, m, s), foretold, mean, log_std)
