"""Losses as pure functions of tensors; each returns `(loss, metrics)`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PPO:
    """Settings of proximal policy optimisation and of the advantages it goes by."""

    learning_rate: float = 3e-3  # Adam's for policy and value, falling linearly to zero
    discount: float = 0.95  # gamma
    trace: float = 0.95  # lambda of GAE
    epochs: int = 2  # passes over each iteration's trials
    minibatches: int = 4  # parts of a pass
    clip: float = 0.2  # of the policy ratio
    value_weight: float = 0.5  # of the value loss
    entropy: float = 0.1  # weight of the entropy bonus at the start, falling linearly to zero
    max_grad_norm: float = 0.5  # gradient clipping of policy and value
    target_kl: float = 0.0  # KL from the playing policy where an iteration's passes end, at 1.5 times it; 0 for never
    adaptive: bool = False  # whether the learning rate also follows: lower above twice `target_kl`, higher below half


KL_MARGIN = 1.5  # an iteration's passes end where the KL is this many times its target (Stable-Baselines3's)
RATE_STEP, RATE_LOW, RATE_HIGH = 1.5, 0.01, 10.0  # by how much a rate is adapted, and its bounds, in learning rates


def went_too_far(kl: Tensor, settings: PPO) -> bool:
    """Whether a minibatch's KL says that the iteration is to end before its step. Reads the tensor only if it must."""
    return settings.target_kl > 0.0 and float(kl) > KL_MARGIN * settings.target_kl


def next_rate(rate: float, kl: float, settings: PPO) -> float:
    """The factor of the next iteration's learning rate, by how far the policy went in this one.

    The rule by which Schulman et al. 2017 (arXiv 1707.06347, section 4) adapt their KL penalty, with the learning rate
    in its place, as robotics' implementations have it: divided by 1.5 where the KL is above twice its target,
    multiplied by 1.5 where it is below half of it. It multiplies the rate that falls linearly.

    Args:
        rate: The factor before.
        kl: Of the last minibatch, from the policy that played.
        settings: PPO's; without `adaptive` and a target the factor stays.
    """
    if not settings.adaptive or settings.target_kl <= 0.0:
        return rate
    if kl > 2.0 * settings.target_kl:
        rate /= RATE_STEP
    elif kl < settings.target_kl / 2.0:
        rate *= RATE_STEP
    return min(max(rate, RATE_LOW), RATE_HIGH)


def gae(rewards: Tensor, values: Tensor, last_value: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    A_t = sum_l (discount * trace)^l delta_{t+l}, delta_t = r_t + discount V_{t+1} - V_t. In meta-RL the return to
    maximise is the trial's, so values flow across the borders of its episodes.

    Args:
        rewards: `[T, B]`.
        values: `[T, B]` V_t before the reward of step t.
        last_value: `[B]` value after the last step: 0 at the end of a trial.
        discount: gamma.
        trace: lambda.

    Returns:
        Advantages `[T, B]`; targets of the values are advantages + values.
    """
    advantages, running, following = torch.empty_like(rewards), torch.zeros_like(last_value), last_value
    for t in range(len(rewards) - 1, -1, -1):
        delta = rewards[t] + discount * following - values[t]
        running = delta + discount * trace * running
        advantages[t], following = running, values[t]
    return advantages


def ppo_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate (Schulman et al. 2017, arXiv 1707.06347, eq. 7), negated for minimisation.

    L = -mean(min(rho A, clip(rho, 1 - clip, 1 + clip) A)), rho the ratio of new to old probabilities.
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    with torch.no_grad():
        metrics = {
            "kl": ((ratio - 1.0) - log_ratio).mean(),  # low-variance estimate, never negative
            "clipped": ((ratio - 1.0).abs() > clip).float().mean(),
        }
    return loss, metrics


def value_loss(value: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the mean squared error."""
    loss = 0.5 * ((value - target) ** 2).mean()
    with torch.no_grad():
        explained = 1.0 - (target - value).var(correction=0) / target.var(correction=0).clamp_min(1e-8)
    return loss, {"explained_variance": explained}


def reward_log_likelihood(prediction: Tensor, reward: Tensor, kind: str) -> Tensor:
    """Log likelihood of rewards up to a constant, `[K, M, B]` from predictions `[K, M, B]` and rewards `[M, B]`.

    Args:
        prediction: Of every pair of a latent and a transition.
        reward: What came.
        kind: "mse", a Gaussian of variance 1/2: -(prediction - r)^2; or "bernoulli", whether the reward is positive:
            prediction is the logit. Both as in VariBAD's code release.
    """
    if kind == "mse":
        return -((prediction - reward) ** 2)
    won = (reward > 0).to(prediction.dtype)
    return won * prediction - torch.nn.functional.softplus(prediction)


def reconstruction_loss(
    log_likelihood: Tensor, mask: Tensor | None = None, share: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """VariBAD's reconstruction term (arXiv 1910.08348, eq. 8 and 9): -sum_k sum_t log p(x_t | m_k), mean over trials.

    Args:
        log_likelihood: `[K, M, B]` of transition t under a latent drawn from belief k.
        mask: `[K, M, B]` bool, which pairs count: DynaMITE-RL's session reconstruction masking keeps those whose
            transition is of the session that the belief is about. None counts all, as VariBAD does.
        share: What part of all pairs was drawn; the sum is divided by it, so that subsampling leaves it unbiased.
    """
    kept = log_likelihood if mask is None else torch.where(mask, log_likelihood, 0.0)
    loss = -kept.sum((0, 1)).mean() / share
    with torch.no_grad():
        pairs = float(log_likelihood.numel()) if mask is None else mask.sum().clamp_min(1)
        metrics = {"reconstruction_per_pair": -kept.sum() / pairs}
    return loss, metrics


def chained_prior(belief: Tensor) -> Tensor:
    """VariBAD's prior of each belief `[T, B, P]`: the belief before it, with its gradient; zeros for the first."""
    return torch.cat((torch.zeros_like(belief[:1]), belief[:-1]))


def session_of_belief(session: Tensor) -> Tensor:
    """Which session the belief at each tick is about, `[T, B]`: the one of the last transition seen.

    At a later episode's first tick that is the transition which ended the episode before: where an episode begins with
    a session of its own, the belief there is the last one about the session that is over, and the next belief the first
    about the new one, as at a hidden change inside an episode. Only at the trial's start no transition has been seen,
    and the belief is about the session that begins.

    Args:
        session: `[T, B]` the session of each tick's coming transition, counted along the trial.
    """
    return torch.cat((session[:1], session[:-1]))


def session_consistency(kl_to_final: Tensor, session: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """DynaMITE-RL's consistency term (arXiv 2402.15957): sum_t max(theta_{t+1} - theta_t, 0), mean over trials.

    theta_t is the KL from the belief at t to the last belief of its session: within a session a belief may only come
    nearer to it.

    Args:
        kl_to_final: theta, `[T, B]`.
        session: `[T, B]` which session each belief is about; pairs that straddle a border do not count.
    """
    same = session[1:] == session[:-1]
    rise = torch.where(same, torch.relu(kl_to_final[1:] - kl_to_final[:-1]), 0.0)
    return rise.sum(0).mean(), {"rising": (rise > 0).float().mean()}


def last_of_session(session: Tensor) -> Tensor:
    """`[T, B]` int64: the last tick whose belief is about the same session, for sessions that are numbered upwards."""
    ticks = torch.arange(len(session), device=session.device).reshape(-1, *[1] * (session.ndim - 1)).expand_as(session)
    border = torch.ones_like(session, dtype=torch.bool)
    border[:-1] = session[1:] != session[:-1]
    marked = torch.where(border, ticks, len(session))
    return marked.flip(0).cummin(0).values.flip(0)


def termination_loss(logit: Tensor, session: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Binary cross-entropy of whether the transition just seen was the first of a new session; mean over ticks.

    Args:
        logit: `[T, B]` from the belief at each tick.
        session: `[T, B]` which session each belief is about.
    """
    began = torch.zeros_like(logit)
    began[1:] = (session[1:] != session[:-1]).to(logit.dtype)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, began)
    return loss, {"began": began.mean()}


def next_reward_scale(scale: float, reward: Tensor, discount: float, iteration: int) -> float:
    """What rewards are divided by: the root mean square of the discounted return to go.

    Args:
        scale: The one before.
        reward: `[T, B]` of this iteration.
        discount: gamma.
        iteration: How many came before; the average runs over about the last 100.
    """
    togo, square = torch.zeros_like(reward[0]), torch.zeros((), dtype=torch.float64, device=reward.device)
    for t in range(len(reward) - 1, -1, -1):
        togo = reward[t] + discount * togo
        square += (togo**2).mean()
    fresh = float(square) / len(reward)
    weight = 1.0 / min(iteration + 1, 100)
    return max(1e-4, ((1.0 - weight) * scale**2 + weight * fresh) ** 0.5)


def expectile_loss(difference: Tensor, expectile: float) -> tuple[Tensor, dict[str, Tensor]]:
    """IQL's asymmetric squared error (Kostrikov et al. 2022, arXiv 2110.06169, eq. 5): mean |tau - 1(u < 0)| u^2.

    Args:
        difference: u, `[B]` target minus prediction.
        expectile: tau; above one half, targets above the prediction count more.
    """
    weight = torch.where(difference < 0, 1.0 - expectile, expectile)
    return (weight * difference**2).mean(), {"below": (difference < 0).float().mean()}


def advantage_weighted_loss(
    log_prob: Tensor, advantage: Tensor, temperature: float, max_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """IQL's policy extraction (eq. 7): -mean min(exp(beta A), max_weight) log pi(a|s); no gradient through A.

    Args:
        log_prob: `[B]` of the dataset's actions.
        advantage: A, `[B]` Q minus V.
        temperature: beta.
        max_weight: Keeps single steps from deciding.
    """
    weight = (temperature * advantage.detach()).clamp_max(math.log(max_weight)).exp()
    return -(weight * log_prob).mean(), {"weight": weight.mean()}
