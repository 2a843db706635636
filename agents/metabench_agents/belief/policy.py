"""A policy over what is seen and what is believed: its network, its trials, PPO's passes over them, and the agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metabench import Timestep
from metabench.evaluation.play import Stream
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.belief.encoders import TrialMemory
from metabench_agents.belief.model import BeliefModel
from metabench_agents.parts.device import Device, set_rate
from metabench_agents.parts.layers import ActionHead, ObservationScaler, RunningScaler, linear, make_scaler
from metabench_agents.parts.losses import PPO, gae, ppo_policy_loss, value_loss
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.passes import passes

KEPT = 0.8  # share of ticks at which an exploring agent repeats its action


class BeliefActorCritic(nn.Module):
    """(observation, belief) -> policy and value, two hidden layers. Markov: all memory is in the belief.

    The first layer adds products of what is seen and what is believed: which way to go is a matter of both at once.
    Beliefs are brought to a running unit scale: means of a few tenths beside log variances of -4 are hard to tell apart
    for a fresh policy. `watch` is called between iterations, never within one.

    Args:
        env: A vector environment, for its spaces.
        belief: Columns of the latent's features.
        width: Of both hidden layers.
        reading: Columns beside them that need no scaling (`BeliefModel.read`).
        normalise: Whether observations without bounds are brought to a running unit scale.
    """

    def __init__(self, env: Any, belief: int, width: int, reading: int = 0, normalise: bool = False):
        super().__init__()
        observations, actions = env.single_observation_space, env.single_action_space
        self.scaler, self.columns = make_scaler(observations, normalise), belief
        self.belief_scaler = RunningScaler(belief)
        belief += reading
        self.seen, self.believed = linear(observations.shape[0], width), linear(belief, width) if belief else None
        self.enter, self.middle = linear(observations.shape[0] + belief, width), linear(width, width)
        self.policy = ActionHead(width, actions)
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


def make_actor(env: Any, model: Any, width: int) -> BeliefActorCritic:
    """The policy on what a `BeliefModel` or `SessionModel` shows of its beliefs."""
    base: BeliefModel = model.base
    return BeliefActorCritic(env, base.latent.parameters, width, base.reading, base.config.normalise)


def renew(actor: BeliefActorCritic, optimiser: torch.optim.Optimizer, env: Any, width: int, seed: int) -> None:
    """Starts a policy and its optimiser anew, in place: what it learned before there was a belief is in the way."""
    torch.manual_seed(seed)
    reading = actor.enter.in_features - actor.seen.in_features - actor.columns
    fresh = BeliefActorCritic(env, actor.columns, width, reading, isinstance(actor.scaler, ObservationScaler))
    fresh.scaler = actor.scaler  # what was seen stays as it is
    actor.load_state_dict(fresh.state_dict())
    for moments in optimiser.state.values():  # in place, for a graph keeps to the memory it has seen
        for moment in moments.values():
            moment.zero_()


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


def collect(
    model: BeliefModel,
    actor: Any,
    env: Any,
    ticks: int,
    drifts: bool,
    seed: int,
    generator: torch.Generator,
    explore: bool = False,
) -> BeliefRollout:
    """Plays one trial per slot, which is shown what an agent is; the belief is carried across its episodes.

    Args:
        model: Tells the belief at every tick, and what the policy is shown of it.
        actor: Chooses the actions: a `BeliefActorCritic`, or a module that answers as one.
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
    model: BeliefModel,
    actor: Any,
    env: Any,
    ticks: int,
    drifts: bool,
    seed: int,
    generator: torch.Generator,
    explore: bool,
) -> list[tuple[Tensor, ...]]:
    """The columns of `Trials`, then of `BeliefRollout`, tick by tick."""
    observation, _ = env.reset(seed=seed)
    shown, memory = Stream(observation, env.single_action_space), model.encoder.begin(env.num_envs)
    session = torch.zeros(env.num_envs, dtype=torch.int64)
    rows: list[tuple[Tensor, ...]] = []
    action = torch.zeros(())
    for t in range(ticks):
        step = shown.timestep()
        seen = torch.from_numpy(step.observation).float()  # physics families observe in double precision
        belief, memory = model.encoder.step(step, memory)
        features = model.read(belief, seen)
        params, value = actor(seen, features)
        drawn = actor.policy.uniform(params, generator) if explore else actor.policy.sample(params, generator)
        if t and explore:
            kept = torch.rand(env.num_envs, generator=generator) < KEPT
            drawn = torch.where(kept.reshape(-1, *[1] * (drawn.ndim - 1)), action, drawn)
        action = drawn
        log_prob, actions = actor.policy.log_prob(params, action), actor.policy.to_env(action)
        observation, raw, terminated, truncated, info = env.step(actions)
        done, final = terminated | truncated, info.get("final_obs")
        shown.advance(actions, observation, raw, done, final)
        following = torch.from_numpy(observation if final is None else np.where(done[:, None], final, observation))
        gained, first = torch.from_numpy(raw).float(), torch.from_numpy(step.first)
        played = (seen, torch.from_numpy(actions), gained, following.float(), first, session)
        rows.append((*played, features, action, log_prob, value))
        ended = info["session_ended"] | done if drifts else info["session_ended"]
        session = session + torch.from_numpy(ended).long()
    return rows


def ppo_update(
    actor: BeliefActorCritic,
    optimiser: torch.optim.Optimizer,
    rollout: BeliefRollout,
    settings: PPO,
    scale: float,
    left: float,
    generator: torch.Generator,
    entropy_weight: float | None = None,
    rate: float = 1.0,
) -> dict[str, float]:
    """`Improvement.improve` on the CPU."""
    given = (rollout, scale, left, generator, entropy_weight, rate)
    return Improvement(actor, optimiser, settings).improve(*given)


class Improvement:
    """PPO's passes over iterations, in the form of a device.

    Beliefs are inputs here: no gradient of the policy reaches the inference network, as in VariBAD. The return to
    maximise is the trial's: advantages flow across the borders of its episodes.

    Args:
        actor: On the device; changed in place.
        optimiser: Likewise.
        settings: PPO's.
        device: Where the actor is.
    """

    def __init__(
        self,
        actor: BeliefActorCritic,
        optimiser: torch.optim.Optimizer,
        settings: PPO,
        device: Device | None = None,
    ):
        self.actor, self.optimiser, self.settings, self.device = actor, optimiser, settings, device or Device()
        self.passes = self.device.function(self.step)

    def improve(
        self,
        rollout: BeliefRollout,
        scale: float,
        left: float,
        generator: torch.Generator,
        entropy_weight: float | None = None,
        rate: float = 1.0,
    ) -> dict[str, float]:
        """PPO's passes over one iteration.

        Args:
            rollout: Whole trials.
            scale: What rewards are divided by.
            left: The share of the training that is left: learning rate and entropy bonus fall with it.
            generator: For the order of the minibatches.
            entropy_weight: Of the entropy bonus, if it is not to be that of the settings.
            rate: A factor of the learning rate; see `next_rate`.

        Returns:
            Means over the gradient steps; `kl_end` of the last minibatch alone, and `steps`, how many there were.
        """
        own = self.settings
        weight = own.entropy * left if entropy_weight is None else entropy_weight
        trials = rollout.trials
        columns = (trials.observation, rollout.belief, rollout.action, rollout.log_prob, rollout.value, trials.reward)
        count = trials.reward.numel()
        order = torch.stack([torch.randperm(count, generator=generator) for _ in range(own.epochs)])
        told = self.passes(columns, order, float(scale), float(weight), own.learning_rate * left * rate)
        return {name: float(value) for name, value in told.items()}

    def step(
        self,
        columns: tuple[Tensor, ...],
        order: Tensor,
        scale: Tensor | float,
        weight: Tensor | float,
        rate: Tensor | float,
    ) -> dict[str, Tensor]:
        """The same as a pure function; `order` `[epochs, T B]` of the ticks."""
        settings, actor = self.settings, self.actor
        set_rate(self.optimiser, rate)
        *inputs, value, reward = columns
        end = torch.zeros_like(value[0])
        advantage = gae(reward / scale, value, end, settings.discount, settings.trace)
        target = (advantage + value).flatten()
        advantage = ((advantage - advantage.mean()) / (advantage.std() + 1e-8)).flatten()
        observation, belief, action, log_prob = (column.flatten(0, 1) for column in inputs)

        def loss_of(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            params, now = actor(observation[rows], belief[rows])
            policy, metrics = ppo_policy_loss(
                actor.policy.log_prob(params, action[rows]), log_prob[rows], advantage[rows], settings.clip
            )
            critic, more = value_loss(now, target[rows])
            entropy = actor.policy.entropy(params).mean()
            parts = {"policy_loss": policy.detach(), "value_loss": critic.detach(), "entropy": entropy.detach()}
            return policy + settings.value_weight * critic - weight * entropy, metrics | more | parts

        minibatches = (rows for one in order for rows in one.chunk(settings.minibatches))
        return passes(self.device, self.optimiser, settings, minibatches, loss_of)


class BeliefAgent:
    """A trained policy on a trained belief. Takes the most probable action; its belief is the encoder's memory.

    Args:
        name: The algorithm's.
        model: Infers the hidden task.
        actor: Acts on what it infers: a `BeliefActorCritic`, or a module that answers as one.
        protocol: The version under which both learned; see `BeliefEncoder.step`.
        track: What it learned from.
    """

    def __init__(
        self,
        name: str,
        model: BeliefModel,
        actor: Any,
        protocol: str = PROTOCOL_VERSION,
        track: str = "online",
    ):
        self.name, self.protocol, self.track = name, protocol, track
        self.model, self.actor = model.eval(), actor.eval()

    def begin(self, num_trials: int) -> TrialMemory:
        """Nothing has been seen."""
        return self.model.encoder.begin(num_trials)

    @torch.inference_mode()
    def infer(self, step: Timestep, belief: TrialMemory) -> tuple[Tensor, TrialMemory]:
        """The posterior's parameters `[B, P]` after this tick, and the belief."""
        return self.model.encoder.step(step, belief, self.protocol)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: TrialMemory) -> tuple[np.ndarray, TrialMemory]:
        """Actions for this tick, and the belief after it."""
        posterior, belief = self.infer(step, belief)
        observation = torch.as_tensor(step.observation).float()
        params, _ = self.actor(observation, self.model.read(posterior, observation))
        return self.actor.policy.to_env(self.actor.policy.sample(params, None)), belief
