"""Recurrent SAC: off-policy actor-critic whose actor and critics each remember the trial by a GRU of their own.

Source: Ni, Eysenbach & Salakhutdinov 2022, "Recurrent Model-Free RL Can Be a Strong Baseline for Many POMDPs" (arXiv
2110.05038) and its code: separate recurrent encoders for actor and critics (3.1: sharing one hurts), both fed the
observation, the last action and the last reward; soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905) on whole
trials drawn from a replay of trials; the heads see the embedded tick beside the hidden state. What an agent sees at a
tick is RL²'s, and so is the objective: the discounted return of the trial, across its episodes.

    y_t = r_t + gamma E_{a ~ pi}[min_i Q'_i(h'_{t+1}, a) - alpha log pi(a | h_{t+1})]

Deviations, with reasons:
- Whole trials are replayed (the published code: parts of at most 64 ticks): the memory that acts has seen the whole
  trial. `window` draws parts instead, whose hidden state begins at zero.
- Discrete actions by SAC's discrete form instead of a second algorithm.
- The trial's last transition is bootstrapped from where it led to: trials end by the clock, which is not seen.
- Critics are one GRU with two heads. All updates of an iteration are made after its trials.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metabench import Timestep
from metabench.evaluation.play import Stream
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.device import follow as copy_to
from metabench_agents.parts.device import learner as learning
from metabench_agents.parts.fast.gru import gru_sequence
from metabench_agents.parts.layers import (
    GRU,
    action_size,
    encode_action,
    linear,
    make_scaler,
    nothing_before,
    watch,
)
from metabench_agents.parts.memory import TrialBuffer, Trials, trial_length, trial_steps
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, stream, unpack
from metabench_agents.parts.soft import (
    SoftActor,
    SoftConfig,
    SoftCritics,
    check_space,
    critic_loss,
    entropy_target,
    follow,
    scaled_uniform,
    soft_value,
    step,
    temperature_loss,
)
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "rsac"


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the networks."""

    embed: int = 64  # width of the tick's embedding
    hidden: int = 64  # width of each recurrent core
    width: int = 128  # of the two hidden layers of policy and critics
    normalise: bool = True  # whether observations without bounds are brought to a running unit scale


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 300_000  # environment steps in all
    trials: int = 8  # trials played together, one per slot
    uniform: int = 2  # iterations of uniform actions before the policy plays
    network: NetworkConfig = field(default_factory=NetworkConfig)  # sizes
    sac: SoftConfig = field(default_factory=SoftConfig)  # how actor and critics learn
    batch: int = 16  # trials of an update
    window: int = 0  # ticks of a trial that an update sees; 0 for all
    every: int = 20  # environment steps to an update
    reward_scale: float = 1.0  # rewards are multiplied by it
    buffer: int = 2000  # past trials that are replayed
    split: str = "train"  # tasks to learn from; "fresh" for endless ones
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides


class Encoder(nn.Module):
    """Ticks -> embedding -> GRU -> features `[hidden, embedding]`."""

    def __init__(self, config: NetworkConfig, env: Any):
        super().__init__()
        self.space = env.single_action_space
        self.scaler = make_scaler(env.single_observation_space, config.normalise)
        self.embed = linear(env.single_observation_space.shape[0] + action_size(self.space) + 2, config.embed)
        self.core, self.features = GRU(config.embed, config.hidden), config.embed + config.hidden

    def tick(self, observation: Tensor, action: Tensor, reward: Tensor, first: Tensor, absent: Tensor) -> Tensor:
        """The embedding `[..., E]` of what is seen at a tick; nothing came before where `absent`."""
        code = encode_action(action, self.space, absent)
        last = torch.stack((reward, first.to(reward.dtype)), dim=-1)
        return torch.relu(self.embed(torch.cat((self.scaler(observation), code, last), dim=-1)))

    def forward(self, ticks: Ticks) -> Tensor:
        """`[T, B, F]` features of whole trials or parts of them, from a hidden state of zeros."""
        embedded = self.tick(*ticks)
        start = embedded.new_zeros(embedded.shape[1], self.core.hidden)
        return torch.cat((gru_sequence(self.core.core, embedded, start), embedded), dim=-1)


class Ticks(NamedTuple):
    """What is seen at the ticks of trials."""

    observation: Tensor  # [T, B, O]
    action: Tensor  # [T, B] or [T, B, A] the one before, in the environment's units
    reward: Tensor  # [T, B] the one before
    first: Tensor  # [T, B] bool
    absent: Tensor  # [T, B] bool: nothing came before


class Actor(nn.Module):
    """The policy with its memory."""

    def __init__(self, config: NetworkConfig, env: Any):
        super().__init__()
        self.encoder = Encoder(config, env)
        self.policy = SoftActor(self.encoder.features, config.width, env.single_action_space)


class Critic(nn.Module):
    """The twin critics with theirs."""

    def __init__(self, config: NetworkConfig, env: Any):
        super().__init__()
        self.encoder = Encoder(config, env)
        self.critics = SoftCritics(self.encoder.features, config.width, env.single_action_space)


class Learner:
    """Everything that is learned, and its optimisers, on their device; `acts` is the actor that plays, on the CPU."""

    def __init__(self, config: Config, env: Any, device: Device | None = None):
        self.space, rate, device = env.single_action_space, config.sac.learning_rate, device or Device()
        self.acts = Actor(config.network, env)
        self.actor, self.critic = learning(self.acts, device), device.place(Critic(config.network, env))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.alpha = device.place(
            nn.ParameterDict({"log": nn.Parameter(torch.tensor(math.log(config.sac.temperature)))})
        )
        self.modules = {"actor": self.actor, "critic": self.critic, "target": self.target, "alpha": self.alpha}
        trained = {"actor": self.actor, "critic": self.critic, "alpha": self.alpha}
        self.optimisers = {f"{n}_adam": device.adam(m.parameters(), rate) for n, m in trained.items()}
        self.device, self.updates = device, device.updates(lambda *given: pure_update(self, config, *given))


class Memory(NamedTuple):
    """What the agent remembers of its trials."""

    hidden: Tensor  # [B, H] of the actor's core
    begun: bool  # whether a tick has been seen


class Agent:
    """The trained policy. Takes the most probable action.

    Args:
        actor: Trained.
        protocol: The version under which it learned.
    """

    name = NAME

    def __init__(self, actor: Actor, protocol: str = PROTOCOL_VERSION):
        self.actor, self.protocol = actor.eval(), protocol

    def begin(self, num_trials: int) -> Memory:
        """Zeros: nothing has been seen."""
        return Memory(torch.zeros(num_trials, self.actor.encoder.core.hidden), False)

    @torch.inference_mode()
    def act(
        self, step: Timestep, belief: Memory, generator: torch.Generator | None = None
    ) -> tuple[np.ndarray, Memory]:
        """Actions for this tick, drawn where there is a generator, and the memory after it."""
        parts = (step.observation, step.action, step.reward, step.first)
        observation, action, reward, first = (torch.as_tensor(column) for column in parts)
        absent = nothing_before(first, belief.begun, self.protocol)
        reward = torch.where(absent, 0.0, reward.float())
        encoder = self.actor.encoder
        embedded = encoder.tick(observation.float(), action, reward, first, absent)
        hidden = encoder.core.step(embedded, belief.hidden)
        params = self.actor.policy(torch.cat((hidden, embedded), dim=-1))
        return self.actor.policy.to_env(self.actor.policy.sample(params, generator)), Memory(hidden, True)


def collect(agent: Agent, env: Any, ticks: int, seed: int, generator: torch.Generator, uniform: bool) -> Trials:
    """Plays one trial per slot, with actions drawn from the policy or even over the space."""
    observation, _ = env.reset(seed=seed)
    shown, memory, rows = Stream(observation, env.single_action_space), agent.begin(env.num_envs), []
    for _ in range(ticks):
        now = shown.timestep()
        action, memory = agent.act(now, memory, generator)
        if uniform:
            action = agent.actor.policy.to_env(scaled_uniform(env.single_action_space, (env.num_envs,), generator))
        observation, reward, terminated, truncated, info = env.step(action)
        done, final = terminated | truncated, info.get("final_obs")
        shown.advance(action, observation, reward, done, final)
        led = observation if final is None else np.where(done[:, None], final, observation)
        session = np.zeros(env.num_envs, np.int64)
        columns = (now.observation, action, np.float32(reward), led, now.first, session)
        rows.append([torch.from_numpy(np.array(column)) for column in columns])
    seen, action, reward, led, first, session = (torch.stack(column) for column in zip(*rows, strict=True))
    return Trials(seen.float(), action, reward, led.float(), first, session)


def ticks_of(trials: Trials) -> Ticks:
    """What was seen at every tick and at the one after the last, `[T + 1, B, ...]`."""
    observation = torch.cat((trials.observation, trials.next_observation[-1:]))
    action = torch.cat((torch.zeros_like(trials.action[:1]), trials.action))
    reward = torch.cat((torch.zeros_like(trials.reward[:1]), trials.reward))
    first = torch.cat((trials.first, torch.zeros_like(trials.first[:1])))
    absent = torch.zeros_like(first)
    absent[0] = True
    return Ticks(observation, action, reward, first, absent)


def window_of(ticks: Ticks, length: int, generator: torch.Generator) -> Ticks:
    """A part of `length` transitions, the same for all trials; all of them where `length` is 0 or no less."""
    transitions = len(ticks.reward) - 1
    if not 0 < length < transitions:
        return ticks
    start = int(torch.randint(transitions - length + 1, (), generator=generator))
    return Ticks(*(column[start : start + length + 1] for column in ticks))


def update(learner: Learner, ticks: Ticks, config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """One step of critics, actor and temperature on `[T + 1, B]` ticks; returns metrics."""
    noise = learner.acts.policy.chance(*ticks.reward.shape, generator=generator)
    return pure_update(learner, config, *learner.device.put((ticks, noise)))


def pure_update(learner: Learner, config: Config, ticks: Ticks, noise: Tensor) -> dict[str, Tensor]:
    """The same as a pure function of ticks and noise."""
    sac, policy, alpha = config.sac, learner.actor.policy, learner.alpha["log"].detach().exp()
    action, reward = policy.from_env(ticks.action[1:]), ticks.reward[1:] * config.reward_scale
    params = policy(learner.actor.encoder(ticks))
    with torch.no_grad():
        slow = learner.target.encoder(ticks)[1:]
        following, _ = soft_value(policy, learner.target.critics, params.detach()[1:], slow, alpha, noise[1:])
        target = reward + sac.discount * following
    features = learner.critic.encoder(ticks)
    value = learner.critic.critics.taken(features[:-1], action)
    loss = critic_loss(value, target)
    step(learner.optimisers["critic_adam"], loss, sac.max_grad_norm)
    soft, entropy = soft_value(policy, learner.critic.critics, params, features.detach(), alpha, noise)
    step(learner.optimisers["actor_adam"], -soft.mean(), sac.max_grad_norm)
    gap = temperature_loss(learner.alpha["log"], entropy, entropy_target(learner.space, sac))
    step(learner.optimisers["alpha_adam"], gap, 0.0)
    follow(learner.target, learner.critic, sac.target_rate)
    means = {"value": value.mean(), "entropy": entropy.mean(), "critic_loss": loss, "alpha": alpha}
    return {name: mean.detach() for name, mean in means.items()}


def improve(learner: Learner, buffer: TrialBuffer, config: Config, count: int, generator: Any) -> dict[str, float]:
    """`count` updates on trials from the buffer; the metrics' means."""
    for _ in range(count):
        ticks = window_of(ticks_of(buffer.sample(config.batch, generator)), config.window, generator)
        learner.updates.add(ticks, learner.acts.policy.chance(*ticks.reward.shape, generator=generator))
    means = learner.updates.means()
    copy_to(learner.acts, learner.actor)
    return means


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: the defaults, with the view that suits the benchmark."""
    return Config(view=whole_view(benchmark))


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> Agent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits."""
    checkpoint = run.begin(NAME, benchmark, config, seed)
    ticks = trial_length(NAME, benchmark, config.view)
    env = make_viewed(benchmark, config.trials, config.view, split=config.split)
    check_space(NAME, env.single_action_space)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    learner, buffer, done = Learner(config, env, Device.of(config)), TrialBuffer(config.buffer), 0
    if checkpoint:
        done = checkpoint.iteration
        unpack(checkpoint.tensors, learner.modules, learner.optimisers)
        buffer.restore(checkpoint.tensors)
        copy_to(learner.acts, learner.actor)
    frames, agent = trial_steps(benchmark) * config.trials, Agent(learner.acts)
    iterations, count = -(-config.frames // frames), max(1, frames // config.every)
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start, env_seed = time.perf_counter(), (seed * 2**32 + iteration) * 2**20
            uniform = iteration < config.uniform
            trials = collect(agent, env, ticks, env_seed, stream(seed, iteration, 0), uniform)
            buffer.add(trials)
            watch((learner.actor, learner.critic, learner.target), trials.observation)
            metrics = improve(learner, buffer, config, count, stream(seed, iteration, 1))
            mean_return = float(trials.reward.sum()) / float(trials.first.sum())
            speed = frames / (time.perf_counter() - start)
            head = {"iteration": iteration + 1, "frames": (iteration + 1) * frames, "return": mean_return}
            run.log(head | metrics | {"time/frames_per_s": speed})
            advance(iteration + 1, f"return {mean_return:7.2f}   {speed:5.0f} frames/s")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(iteration + 1, pack(learner.modules, learner.optimisers) | buffer.tensors(), {})
    return deciding(agent, benchmark, config.view)


def load(path: Path) -> Agent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config, benchmark = read_config(Config, settings["config"]), settings["benchmark"]
    actor = Actor(config.network, make_viewed(benchmark, 1, config.view))
    unpack(checkpoint.tensors, {"actor": actor}, {})
    return deciding(Agent(actor, settings["protocol"]), benchmark, config.view)
