"""A policy over what is seen and what is believed: its network, its trials, and PPO's passes over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench_agents.belief.encoders import Encoder
from metabench_agents.parts.layers import Head, RunningScaler, Scaler, linear
from metabench_agents.parts.losses import gae, ppo_policy_loss, value_loss
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import Run

KEPT = 0.8  # share of ticks at which an exploring agent repeats its action


class ActorCritic(nn.Module):
    """(observation, belief) -> policy and value, two hidden layers. Markov: all memory is in the belief.

    The first layer adds products of what is seen and what is believed: which way to go is a matter of both at once.
    Beliefs are brought to a running unit scale: means of a few tenths beside log variances of -4 are hard to tell apart
    for a fresh policy. `watch` is called between iterations, never within one.

    Args:
        env: A vector environment, for its spaces.
        belief: Columns of the latent's features.
        width: Of both hidden layers.
        reading: Columns beside them that need no scaling (`BeliefModel.read`).
    """

    def __init__(self, env: Any, belief: int, width: int, reading: int = 0):
        super().__init__()
        observations, actions = env.single_observation_space, env.single_action_space
        self.scaler, self.belief_scaler, self.columns = Scaler(observations), RunningScaler(belief), belief
        belief += reading
        self.seen, self.believed = linear(observations.shape[0], width), linear(belief, width) if belief else None
        self.enter, self.middle = linear(observations.shape[0] + belief, width), linear(width, width)
        self.policy = Head(width, actions)
        self.value = linear(width, 1, gain=1.0)

    def watch(self, belief: Tensor) -> None:
        """Takes in beliefs `[..., belief + reading]` for the running scale."""
        self.belief_scaler.update(belief[..., : self.columns])

    def scaled(self, observation: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Both inputs as the layers read them."""
        features, rest = belief[..., : self.columns], belief[..., self.columns :]
        return self.scaler(observation), torch.cat((self.belief_scaler(features), rest), dim=-1)

    def forward(self, observation: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the policy `[..., A]` and values `[...]`; `belief` as `BeliefModel.read` gives it."""
        seen, believed = self.scaled(observation, belief)
        x = self.enter(torch.cat((seen, believed), dim=-1))
        if self.believed is not None:
            x = x + self.seen(seen) * self.believed(believed)
        x = torch.relu(self.middle(torch.relu(x)))
        return self.policy(x), self.value(x)[..., 0]


def renew(actor: ActorCritic, optimiser: torch.optim.Optimizer, env: Any, width: int, seed: int) -> None:
    """Starts a policy and its optimiser anew, in place: what it learned before there was a belief is in the way."""
    torch.manual_seed(seed)
    reading = actor.enter.in_features - actor.seen.in_features - actor.columns
    actor.load_state_dict(ActorCritic(env, actor.columns, width, reading).state_dict())
    optimiser.state.clear()


@dataclass
class BeliefRollout:
    """One on-policy iteration: trials, and what policy and inference said at each tick."""

    trials: Trials
    belief: Tensor  # [T, B, P] what the policy is shown of it
    action: Tensor  # [T, B] or [T, B, A] in the policy's units
    log_prob: Tensor  # [T, B]
    value: Tensor  # [T, B]

    def mean_return(self) -> float:
        """Undiscounted return per episode."""
        return float(self.trials.reward.sum()) / float(self.trials.first.sum())


class Beliefs(Protocol):
    """A `belief_model.BeliefModel`, as far as playing goes."""

    encoder: Encoder

    def read(self, belief: Tensor, observation: Tensor) -> Tensor:
        """What the policy is shown, `[..., P]`."""
        ...


class PPO(NamedTuple):
    """Settings of the policy's update."""

    discount: float  # gamma
    trace: float  # lambda of GAE
    epochs: int  # passes over the ticks
    minibatches: int  # parts of a pass
    clip: float  # of the policy ratio
    value_weight: float
    entropy: float  # weight of the entropy bonus
    max_grad_norm: float


def trial_length(name: str, benchmark: str) -> int:
    """Ticks of a trial; ValueError for benchmarks whose episodes may end early, naming the agent `name`."""
    spec = metabench.spec(benchmark)
    if type(spec.family()).terminal is not metabench.Family.terminal:
        raise ValueError(f"{name} trains on trials of one length, and episodes of {benchmark} may end early")
    return spec.horizon * spec.episodes


def has_sessions(benchmark: str, split: str) -> bool:
    """Whether the hidden task changes inside an episode."""
    spec = metabench.spec(benchmark)
    sessions = spec.split_sessions.get(split, spec.sessions)
    return sessions is not None and sessions["kind"] != "constant"


def collect(
    model: Beliefs,
    actor: ActorCritic,
    env: Any,
    ticks: int,
    drifts: bool,
    seed: int,
    generator: torch.Generator,
    explore: bool = False,
) -> BeliefRollout:
    """Plays one trial per slot, the belief carried across its episodes.

    Args:
        model: Tells the belief at every tick, and what the policy is shown of it.
        actor: Chooses the actions.
        env: A native vector environment.
        ticks: Length of a trial.
        drifts: Whether an episode begins with a new session.
        seed: Of the environments.
        generator: For the actions.
        explore: Whether actions are random instead, each kept for five ticks on average: what inference can learn from
            before there is a policy. An agent that redraws its action at every tick neither stays nor gets far.
    """
    rows = _play(model, actor, env, ticks, drifts, seed, generator, explore)
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return BeliefRollout(Trials(*columns[:6]), *columns[6:])


@torch.inference_mode()
def _play(
    model: Beliefs,
    actor: ActorCritic,
    env: Any,
    ticks: int,
    drifts: bool,
    seed: int,
    generator: torch.Generator,
    explore: bool = False,
) -> list[tuple[Tensor, ...]]:
    """The columns of `Trials`, then of `BeliefRollout`, tick by tick."""
    observation, _ = env.reset(seed=seed)
    encoder = model.encoder
    memory = encoder.begin(env.num_envs)
    seen = torch.from_numpy(observation).float()  # physics families observe in double precision
    reward, first = torch.zeros(env.num_envs), torch.ones(env.num_envs, dtype=torch.bool)
    session = torch.zeros(env.num_envs, dtype=torch.int64)
    played = torch.from_numpy(np.zeros((env.num_envs, *env.single_action_space.shape), env.single_action_space.dtype))
    rows: list[tuple[Tensor, ...]] = []
    action = played
    for _ in range(ticks):
        belief, memory = encoder.step(encoder.tick(seen, played, reward, first), memory)
        features = model.read(belief, seen)
        params, value = actor(seen, features)
        drawn = actor.policy.uniform(params, generator) if explore else actor.policy.sample(params, generator)
        if rows and explore:
            kept = torch.rand(len(reward), generator=generator) < KEPT
            drawn = torch.where(kept.reshape(-1, *[1] * (drawn.ndim - 1)), action, drawn)
        action = drawn
        actions = actor.policy.to_env(action)
        observation, raw, terminated, truncated, info = env.step(actions)
        done = terminated | truncated
        following = np.where(done[:, None], info["final_obs"], observation) if done.any() else observation
        gained, played, following = (
            torch.from_numpy(raw).float(),
            torch.from_numpy(actions),
            torch.from_numpy(following).float(),
        )
        log_prob = actor.policy.log_prob(params, action)
        rows.append((seen, played, gained, following, first, session, features, action, log_prob, value))
        first = torch.from_numpy(done)
        ended = torch.from_numpy(info["session_ended"])
        session = session + ((ended | first) if drifts else ended).long()
        seen, reward = torch.from_numpy(observation).float(), torch.where(first, 0.0, gained)
    return rows


def ppo_update(
    actor: ActorCritic,
    optimiser: torch.optim.Optimizer,
    rollout: BeliefRollout,
    settings: PPO,
    scale: float,
    generator: torch.Generator,
) -> dict[str, float]:
    """PPO's passes over one iteration; `actor` and `optimiser` change in place. Rewards are divided by `scale`.

    Beliefs are inputs here: no gradient of the policy reaches the inference network, as in VariBAD.
    """
    reward = rollout.trials.reward / scale
    end = torch.zeros_like(rollout.value[0])
    advantage = gae(reward, rollout.value, end, settings.discount, settings.trace)
    target = (advantage + rollout.value).flatten()
    advantage = ((advantage - advantage.mean()) / (advantage.std() + 1e-8)).flatten()
    columns = (rollout.trials.observation, rollout.belief, rollout.action, rollout.log_prob, rollout.value)
    observation, belief, action, log_prob, value = (column.flatten(0, 1) for column in columns)
    sums: dict[str, Tensor] = {}
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(target), generator=generator).chunk(settings.minibatches):
            params, now = actor(observation[rows], belief[rows])
            policy, metrics = ppo_policy_loss(
                actor.policy.log_prob(params, action[rows]), log_prob[rows], advantage[rows], settings.clip
            )
            critic, more = value_loss(now, target[rows], value[rows], clip=None)
            entropy = actor.policy.entropy(params).mean()
            optimiser.zero_grad(set_to_none=True)
            (policy + settings.value_weight * critic - settings.entropy * entropy).backward()
            nn.utils.clip_grad_norm_(actor.parameters(), settings.max_grad_norm)
            optimiser.step()
            parts = {"policy_loss": policy.detach(), "value_loss": critic.detach(), "entropy": entropy.detach()}
            for name, part in (metrics | more | parts).items():
                sums[name] = sums.get(name, torch.zeros(())) + part
    count = settings.epochs * settings.minibatches
    return {name: float(total) / count for name, total in sums.items()}


def tell(
    run: Run, advance: Any, iteration: int, rollout: BeliefRollout, metrics: Mapping[str, float], seconds: float
) -> None:
    """Logs an iteration that took `seconds`, and moves the progress bar."""
    played, mean_return = rollout.trials.reward.numel(), rollout.mean_return()
    head = {"iteration": iteration + 1, "frames": (iteration + 1) * played, "return": mean_return}
    run.log(head | dict(metrics) | {"time/frames_per_s": played / seconds, "time/seconds": seconds})
    advance(iteration + 1, f"return {mean_return:7.2f}   {played / seconds / 1000:5.0f}k frames/s")
