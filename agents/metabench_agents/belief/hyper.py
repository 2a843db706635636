"""Soft actor-critic on hyper-states, which are what is seen and what is believed, from past trials.

Sources: Dorfman, Shenfeld & Tamar 2021 (arXiv 2008.02598): VariBAD's policy learned off-policy, on (o_t, q(m |
tau_{:t})), with the beliefs of replayed trials made anew by the model as it is now ("state relabelling"); Haarnoja et
al. 2018 (arXiv 1812.05905) for the actor-critic, which is `parts.fast.sac`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from metabench_agents.belief.learning import LearningConfig, Make, model_schedule, tell
from metabench_agents.belief.model import Elbo, Fitting, resolve_reward_loss
from metabench_agents.belief.policy import BeliefAgent, collect
from metabench_agents.parts.compiling import can_compile
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Device
from metabench_agents.parts.device import follow as copy_to
from metabench_agents.parts.device import learner as learning
from metabench_agents.parts.fast.sac import CLIP, SAC, SACBatch, SACConfig
from metabench_agents.parts.layers import watch
from metabench_agents.parts.losses import last_of_session
from metabench_agents.parts.memory import TrialBuffer, Trials, has_sessions, trial_length, trial_steps
from metabench_agents.parts.run import Run, pack, stream, unpack
from metabench_agents.parts.soft import SoftActor, check_space

LEARNER = "sac-optimiser/"  # names what a checkpoint holds for training only: `metabench.runs.without_learner`
LearnerName = Literal["ppo", "sac"]  # how a policy on the belief learns: see `learning`, and here


@dataclass(frozen=True)
class SoftPolicyConfig:
    """How a policy learns from past trials, where SAC teaches it."""

    sac: SACConfig = field(default_factory=lambda: SACConfig(hidden=128, discount=0.97))  # the update
    every: int = 4  # environment steps to an update
    trials: int = 200  # past trials whose beliefs are made anew for an iteration's updates, which draw from them
    compiled: bool = True  # whether the update is compiled on a CPU, where there is a compiler
    hindsight: bool = False  # whether steps are given the last belief about their session; see `hyper_steps`
    settling: int = field(default=0, metadata={"low": 0})  # steps left out where a session begins; see `settled`


class HyperActor(nn.Module):
    """The policy on observation and belief as it plays: SAC's actor and scales, copied."""

    center: Tensor  # [I] of the scaling
    inverse: Tensor  # [I] of the deviation

    def __init__(self, inputs: int, width: int, space: spaces.Box):
        super().__init__()
        self.policy = SoftActor(inputs, width, space)
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("inverse", torch.ones(inputs))

    def forward(self, observation: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the policy `[..., 2 A]`, and zeros in place of a value."""
        state = torch.cat((observation, belief), dim=-1)
        params = self.policy(((state - self.center) * self.inverse).clamp(-CLIP, CLIP))
        return params, params.new_zeros(params.shape[:-1])

    @torch.no_grad()
    def follow(self, sac: SAC) -> None:
        """Becomes what SAC has learned."""
        linear = [layer for layer in self.policy.out if isinstance(layer, nn.Linear)]
        for layer, weight, bias in zip(linear, sac.state.actor[::2], sac.state.actor[1::2], strict=True):
            layer.weight.copy_(weight[0].T)
            layer.bias.copy_(bias[0, 0])
        self.center.copy_(sac.center)
        self.inverse.copy_(sac.inverse)


def make_actor(env: Any, model: Any, width: int) -> HyperActor:
    """The policy on what a `BeliefModel` or `SessionModel` shows of its beliefs."""
    inputs = env.single_observation_space.shape[0] + model.latent.parameters + model.base.reading
    return HyperActor(inputs, width, env.single_action_space)


class HyperSteps(NamedTuple):
    """Steps as hyper-states, one row each."""

    state: Tensor  # [N, I] what is seen, and what the policy is shown of the belief
    action: Tensor  # [N, A] in [-1, 1]
    reward: Tensor  # [N]
    next_state: Tensor  # [N, I]

    def batch(self, rows: Tensor) -> SACBatch:
        """Some of them. None is terminal: trials end by a clock that is not seen."""
        chosen = HyperSteps(*(column[rows] for column in self))
        return SACBatch(*chosen, torch.zeros_like(chosen.reward))


@torch.no_grad()
def hyper_steps(trials: Trials, action: Tensor, model: Any, hindsight: bool = False) -> HyperSteps:
    """State relabelling: the steps of whole trials `[T, B]` with the beliefs at and after them, tick by tick.

    A trial's last step leads to where it led, with the belief that it had.

    Args:
        trials: What was played.
        action: Its actions `[T, B, A]` in the policy's units.
        model: `BeliefModel` or `SessionModel`.
        hindsight: Whether a step and what follows it are given the last belief about the step's session instead: what
            inference comes to. So a session lasts, and its task is known, as far as values are concerned.
    """
    belief = torch.cat([model.beliefs(part) for part in trials.split(256)], dim=1)
    if hindsight:
        belief = belief.gather(0, found_out(trials.session)[..., None].expand_as(belief))
    seen = trials.observation.float()
    after = torch.cat((seen[1:], trials.next_observation[-1:].float()))
    told = model.base.read(belief, seen)
    following = model.base.read(belief, after) if hindsight else torch.cat((told[1:], told[-1:]))
    columns = (torch.cat((seen, told), -1), action, trials.reward, torch.cat((after, following), -1))
    return HyperSteps(*(column.flatten(0, 1) for column in columns))


def found_out(session: Tensor) -> Tensor:
    """`[T, B]` the tick of the last belief about the session of each transition: one after the session's last.

    A trial's last transition is seen by no belief; the belief before it stands in.
    """
    return (last_of_session(session) + 1).clamp_max(len(session) - 1)


def settled(steps: HyperSteps, session: Tensor, count: int) -> HyperSteps:
    """The steps of trials `[T, B]` but the first `count` of every session that begins inside a trial.

    A change of the task is nobody's doing and pays nobody. But what follows it is another task's value, which a step
    before would have to foretell, and as the belief finds out over a few steps, so does the value: most of the critics'
    error is that. Learned without these steps, a value is that of a session which lasts. What it leaves out is where
    one had better be when the next begins.
    """
    keep = torch.ones_like(session, dtype=torch.bool)
    for back in range(1, count + 1):
        keep[back:] &= session[back:] == session[:-back]
        keep[:back] &= session[:back] == session[0]
    return HyperSteps(*(column[keep.flatten()] for column in steps))


class SoftLearningConfig(LearningConfig, Protocol):
    """What `learn` and `restore` read of an algorithm's settings."""

    @property
    def soft(self) -> SoftPolicyConfig:
        """How the policy learns."""
        ...


class SoftPolicy:
    """SAC, the policy that plays, and how the one learns for the other."""

    def __init__(self, config: SoftLearningConfig, env: Any, model: Any, device: Device, draws: torch.Generator):
        self.soft, self.actor = config.soft, make_actor(env, model, config.soft.sac.hidden)
        if device.plain and config.soft.compiled and can_compile():
            device = Device(config.device, config.precision, "compiled")
        inputs, actions = self.actor.center.shape[0], env.single_action_space.shape[0]
        self.sac = SAC(inputs, actions, config.soft.sac, draws, device)
        self.updates = device.updates(lambda batch, drawn: self.sac.step(SACBatch(*batch), drawn))
        self.actor.follow(self.sac)

    def improve(self, steps: HyperSteps, count: int, generator: torch.Generator) -> dict[str, float]:
        """`count` updates on random batches of steps, which lie on the device; the metrics' means."""
        size = self.soft.sac.batch
        for _ in range(count):
            rows = self.sac.device.put(torch.randint(len(steps.reward), (size,), generator=generator))
            drawn = torch.randn((2, size, self.sac.action), generator=generator)
            self.updates.add(tuple(steps.batch(rows)), drawn)
        means = self.updates.means()
        self.actor.follow(self.sac)
        return means


def learn(
    name: str, benchmark: str, config: SoftLearningConfig, make: Make, elbo: Elbo, *, seed: int, run: Run
) -> BeliefAgent | DecidingAgent:
    """As `learning.learn`, with SAC on the steps of past trials in place of PPO on those just played.

    The warm-up's trials are of random actions, each kept for a while: what SAC wants at its start, and no scout has to
    be taught. Then every iteration plays one trial per slot, improves the model, draws past trials, asks the model
    what is to be believed at their steps, and improves policy and critics on these.
    """
    checkpoint = run.begin(name, benchmark, config, seed)
    ticks, played = trial_length(name, benchmark, config.view), trial_steps(benchmark) * config.trials
    drifts, soft, device = has_sessions(benchmark, config.split), config.soft, Device.of(config)
    env = make_viewed(benchmark, config.trials, config.view, split=config.split)
    check_box(name, env.single_action_space)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    plays = make(resolve_reward_loss(config.model, benchmark), env, ticks)
    model, policy = learning(plays, device), SoftPolicy(config, env, plays, device, stream(seed))
    model_adam, done = device.adam(model.parameters(), config.fit.learning_rate), 0
    modules, optimisers = {"model": model, "actor": policy.actor}, {"model_adam": model_adam}
    fitting, buffer = Fitting(model, elbo, model_adam, config.fit, device), TrialBuffer(config.buffer)
    iterations = -(-config.frames // played)
    if checkpoint:
        unpack(checkpoint.tensors, modules, optimisers)
        buffer.restore(checkpoint.tensors)
        own = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(LEARNER)}
        policy.sac.load({name.removeprefix(LEARNER): tensor for name, tensor in own.items()})
        done = checkpoint.iteration
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start, env_seed = time.perf_counter(), (seed * 2**32 + iteration) * 2**20
            copy_to(plays, model)
            warm, drawn = iteration < config.warmup.iterations, stream(seed, iteration, 0)
            rollout = collect(plays.base, policy.actor, env, ticks, drifts, env_seed, drawn, warm)
            buffer.add(rollout.trials)
            policy.sac.observe(torch.cat((rollout.trials.observation, rollout.belief), dim=-1).flatten(0, 1))
            watch((model,), rollout.trials.observation)
            schedule = model_schedule(config.warmup, config.fit, iteration, 1.0 - iteration / iterations)
            metrics = fitting.fit(buffer, *schedule, stream(seed, iteration, 2))
            if iteration + 1 >= config.warmup.iterations:
                draws = stream(seed, iteration, 1)
                past = buffer.sample(soft.trials, draws)
                past, action = device.put((past, policy.actor.policy.from_env(past.action)))
                steps = hyper_steps(past, action, model, soft.hindsight)
                steps = settled(steps, past.session, soft.settling)
                metrics |= policy.improve(steps, max(1, played // soft.every), draws)
            tell(run, advance, iteration, played, rollout.mean_return(), metrics, time.perf_counter() - start)
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                own = {f"{LEARNER}{key}": tensor for key, tensor in policy.sac.tensors().items()}
                run.save(iteration + 1, pack(modules, optimisers) | own | buffer.tensors(), {})
    copy_to(plays, model)
    return deciding(BeliefAgent(name, plays.base, policy.actor), benchmark, config.view)


def check_box(name: str, space: object) -> None:
    """ValueError for actions that are not in a bounded box."""
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{name} with learner sac needs actions in a box, and these are {space}; use learner ppo")
    check_space(name, space)


def restore(
    name: str, record: Mapping[str, Any], config: SoftLearningConfig, make: Make, tensors: Mapping[str, Tensor]
) -> BeliefAgent | DecidingAgent:
    """The agent that `learn` left in a run's folder; as `learning.restore`."""
    benchmark: str = record["benchmark"]
    env = make_viewed(benchmark, 1, config.view)
    model = make(config.model, env, trial_length(name, benchmark, config.view))
    actor = make_actor(env, model, config.soft.sac.hidden)
    unpack(dict(tensors), {"model": model, "actor": actor}, {})
    return deciding(BeliefAgent(name, model.base, actor, record["protocol"]), benchmark, config.view)
