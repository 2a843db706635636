"""How fast PPO learns on GridSwitch when inference is given: the true latent, or the exact Bayes posterior.

    python -m studies.dynamite.policy_ceiling --belief bayes --discount 0.9 --steps 500000

Prints the mean return at the end and the steps after which the return, averaged over 19,200 steps, passed 20, 35
and 40: what an agent with a learned belief can hope for. Rates fall as in a run of 1.5 million steps.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from metabench_agents.belief.policy import BeliefRollout, ppo_update
from metabench_agents.parts.layers import ActionHead, linear
from metabench_agents.parts.losses import PPO, next_reward_scale
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import stream
from torch import Tensor, nn

import metabench

BENCHMARK, TICKS, TRIALS, PLANNED = "GridSwitch-v0", 60, 64, 1_500_000
SWITCH = 0.07 * 0.8  # probability that the paying candidate is the other one a step later
LEVELS = (20, 35, 40)


class Policy(nn.Module):
    """Two hidden layers over position, candidates and the probability that the first candidate pays."""

    def __init__(self, space: object, width: int):
        super().__init__()
        self.layers = nn.Sequential(linear(8, width), nn.ReLU(), linear(width, width), nn.ReLU())
        self.policy, self.value = ActionHead(width, space), linear(width, 1, gain=1.0)  # pyright: ignore[reportArgumentType]

    def forward(self, observation: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the policy and values."""
        sign = 2.0 * belief - 1.0
        x = self.layers(torch.cat((observation / 2.0 - 1.0, 2.0 * sign, -2.0 * sign), dim=-1))
        return self.policy(x), self.value(x)[..., 0]


def posterior(before: Tensor, entered: Tensor, reward: Tensor) -> Tensor:
    """Probability `[B, 1]` that the first candidate pays next: what the step showed, then one step of the chain."""
    at_a, at_b = ((entered[:, :2] == entered[:, i : i + 2]).all(1) for i in (2, 4))
    won = (reward > 0).float()
    known = torch.where(at_a, won, torch.where(at_b, 1.0 - won, before[:, 0]))
    return (known * (1.0 - SWITCH) + (1.0 - known) * SWITCH)[:, None]


def play(policy: Policy, env: Any, kind: str, seed: int) -> BeliefRollout:
    """One trial per slot, with the given belief."""
    observation, _ = env.reset(seed=seed)
    belief, rows, generator = torch.full((TRIALS, 1), 0.5), [], stream(0, seed)
    for _ in range(TICKS):
        seen = torch.from_numpy(observation)
        if kind == "latent":
            belief = 1.0 - seen[:, 8:9]
        with torch.no_grad():
            params, value = policy(seen[:, :6], belief)
            action = policy.policy.sample(params, generator)
            log_prob = policy.policy.log_prob(params, action)
        observation, reward, terminated, truncated, info = env.step(action.numpy())
        gained = torch.from_numpy(reward).float()
        rows.append((seen[:, :6], action, gained, belief, log_prob, value))
        entered = info["final_obs"] if (terminated | truncated).any() else observation
        belief = posterior(belief, torch.from_numpy(entered), gained)
    seen, action, gained, beliefs, log_prob, value = (torch.stack(column) for column in zip(*rows, strict=True))
    first = torch.zeros_like(gained, dtype=torch.bool)
    return BeliefRollout(Trials(seen, action, gained, seen, first, action), beliefs, action, log_prob, value)


def main() -> None:
    """One run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--belief", choices=("latent", "bayes"), default="bayes")
    parser.add_argument("--steps", type=int, default=600_000)
    parser.add_argument("--seed", type=int, default=0)
    for name, default in (("entropy", 0.1), ("discount", 0.95), ("trace", 0.95)):
        parser.add_argument(f"--{name}", type=float, default=default)
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    env = metabench.make_vec(BENCHMARK, TRIALS, expose_task=True)
    policy = Policy(env.single_action_space, 128)
    settings = PPO(discount=a.discount, trace=a.trace, epochs=4, entropy=a.entropy)
    optimiser = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate, eps=1e-5, fused=True)
    scale, returns = 1.0, []
    for iteration in range(a.steps // (TICKS * TRIALS)):
        left = 1.0 - iteration * TICKS * TRIALS / PLANNED
        rollout = play(policy, env, a.belief, (a.seed * 2**12 + iteration) * 2**20)
        scale = next_reward_scale(scale, rollout.trials.reward, a.discount, iteration)
        ppo_update(policy, optimiser, rollout, settings, scale, left, stream(1, a.seed, iteration))  # pyright: ignore[reportArgumentType]
        returns.append(float(rollout.trials.reward.sum()) / TRIALS)
    smooth = [np.mean(returns[max(0, i - 4) : i + 1]) for i in range(len(returns))]
    passed = {level: next((i + 1 for i, r in enumerate(smooth) if r >= level), None) for level in LEVELS}
    print(f"return {np.mean(returns[-10:]):.1f};", end=" ")
    print(
        ", ".join(f"{k} after {'never' if v is None else f'{v * TICKS * TRIALS:,} steps'}" for k, v in passed.items())
    )


if __name__ == "__main__":
    main()
