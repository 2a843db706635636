"""RL²: a recurrent policy trained over whole trials learns to adapt in its hidden state.

Sources: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning" (arXiv 1611.02779); Wang
et al. 2016, "Learning to reinforcement learn" (arXiv 1611.05763). At every tick the core sees (o_t, a_{t-1}, r_{t-1},
whether an episode begins); its hidden state is kept across the episodes of a trial and starts at zero with each trial.
Where an episode begins, a_{t-1} and r_{t-1} are those that ended the trial's previous one; only at the trial's start
there are none. (Policies that learned under the protocol `slots-1` know none at any episode's start.)
The objective is the discounted return of the trial, maximised with PPO (arXiv 1707.06347) and GAE (arXiv 1506.02438).

Deviations, with reasons:
- PPO instead of TRPO (Duan et al.) or A2C (Wang et al.): what later work compares with (VariBAD's code runs RL² so).
- The heads see the embedded tick beside the hidden state: the core need not carry what is visible now. Helps early
  learning; RL² as run by VariBAD's code sees the hidden state alone (`network.skip=False`).
- Rewards are divided by a running scale of the discounted return, so that one setting serves tasks of any reward size.
- Every update sees whole trials: back-propagation through time is never truncated. Trials must be of one length, so
  benchmarks whose episodes may end early are refused, unless `view.whole` rests such episodes out to their limit.
"""

from __future__ import annotations

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
from metabench_agents.parts.layers import (
    GRU,
    ActionHead,
    action_size,
    encode_action,
    linear,
    make_scaler,
    nothing_before,
    watch,
)
from metabench_agents.parts.losses import (
    PPO,
    gae,
    next_rate,
    next_reward_scale,
    ppo_policy_loss,
    value_loss,
    went_too_far,
)
from metabench_agents.parts.memory import Rollout, trial_length, trial_steps
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, stream, unpack
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "rl2"


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network."""

    hidden: int = 64  # width of the recurrent core
    embed: int = 64  # width of the tick's embedding
    head: int = 64  # width of the hidden layer before policy and value
    skip: bool = True  # whether the heads see the embedded tick beside the hidden state
    normalise: bool = False  # whether observations without bounds are brought to a running unit scale


@dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    frames: int = 3_000_000  # environment steps in all
    trials: int = 128  # trials played together, one per slot
    network: NetworkConfig = field(default_factory=NetworkConfig)  # its sizes
    ppo: PPO = field(default_factory=PPO)  # how policy and value learn; a part of a pass has whole trials
    split: str = "train"  # tasks to learn from; "fresh" for endless ones
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: the defaults, with the view that suits the benchmark."""
    return Config(view=whole_view(benchmark))


class Network(nn.Module):
    """Tick -> embedding -> GRU -> policy and value."""

    def __init__(self, config: NetworkConfig, env: Any):
        super().__init__()
        self.space = env.single_action_space
        self.scaler = make_scaler(env.single_observation_space, config.normalise)
        ticks = env.single_observation_space.shape[0] + action_size(self.space) + 2
        self.embed = linear(ticks, config.embed)
        self.core = GRU(config.embed, config.hidden)
        self.skip = config.skip
        self.trunk = linear(config.hidden + (config.embed if config.skip else 0), config.head)
        self.policy = ActionHead(config.head, self.space)
        self.value = linear(config.head, 1, gain=1.0)

    def tick(self, observation: Tensor, action: Tensor, reward: Tensor, first: Tensor, absent: Tensor) -> Tensor:
        """The embedding `[..., E]` of what is seen at a tick; nothing came before where `absent`. Leading axes any."""
        code = encode_action(action, self.space, absent)
        last = torch.stack((reward, first.to(reward.dtype)), dim=-1)
        return torch.relu(self.embed(torch.cat((self.scaler(observation), code, last), dim=-1)))

    def heads(self, embedded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the policy `[..., A]` and values `[...]`."""
        x = torch.cat((hidden, embedded), dim=-1) if self.skip else hidden
        x = torch.relu(self.trunk(x))
        return self.policy(x), self.value(x)[..., 0]

    def forward(self, batch: Rollout) -> tuple[Tensor, Tensor]:
        """The same for every tick of whole trials: `[T, B, A]`, `[T, B]`."""
        absent = torch.zeros_like(batch.first)
        absent[0] = True
        embedded = self.tick(batch.observation, batch.previous_action, batch.previous_reward, batch.first, absent)
        start = embedded.new_zeros(embedded.shape[1], self.core.hidden)
        return self.heads(embedded, self.core(embedded, start))


def loss(
    network: Network, batch: Rollout, advantage: Tensor, target: Tensor, settings: PPO, entropy_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's loss over whole trials: policy + value_weight * value - entropy_weight * entropy."""
    params, value = network(batch)
    log_prob = network.policy.log_prob(params, batch.action)
    policy, metrics = ppo_policy_loss(log_prob, batch.log_prob, advantage, settings.clip)
    critic, more = value_loss(value, target)
    entropy = network.policy.entropy(params).mean()
    total = policy + settings.value_weight * critic - entropy_weight * entropy
    parts = {"policy_loss": policy.detach(), "value_loss": critic.detach(), "entropy": entropy.detach()}
    return total, metrics | more | parts


class RL2Memory(NamedTuple):
    """What the agent remembers of its trials."""

    hidden: Tensor  # [B, H]
    begun: bool  # whether a tick has been seen


class Agent:
    """The trained policy. Takes the most probable action.

    Args:
        network: Trained.
        protocol: The version under which it learned. A policy of `slots-1` never reads how an episode ended.
    """

    name = NAME

    def __init__(self, network: Network, protocol: str = PROTOCOL_VERSION):
        self.network, self.protocol = network.eval(), protocol

    def begin(self, num_trials: int) -> RL2Memory:
        """Zeros: nothing has been seen."""
        return RL2Memory(torch.zeros(num_trials, self.network.core.hidden), False)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: RL2Memory) -> tuple[np.ndarray, RL2Memory]:
        """Actions for this tick, and the memory after it."""
        observation, action, reward, first = (
            torch.as_tensor(column) for column in (step.observation, step.action, step.reward, step.first)
        )
        absent = nothing_before(first, belief.begun, self.protocol)
        reward = torch.where(absent, 0.0, reward.float())
        embedded = self.network.tick(observation.float(), action, reward, first, absent)
        hidden = self.network.core.step(embedded, belief.hidden)
        params, _ = self.network.heads(embedded, hidden)
        return self.network.policy.to_env(self.network.policy.sample(params, None)), RL2Memory(hidden, True)


@torch.inference_mode()
def collect(network: Network, env: Any, out: Rollout, seed: int, generator: torch.Generator) -> float:
    """Plays one trial per slot into `out`, which is shown what an agent is; returns the mean return per episode."""
    observation, _ = env.reset(seed=seed)
    shown = Stream(observation, env.single_action_space)
    hidden = torch.zeros(env.num_envs, network.core.hidden)
    for t in range(len(out.reward)):
        step = shown.timestep()
        out.observation[t], out.previous_action[t] = torch.from_numpy(step.observation), torch.from_numpy(step.action)
        out.previous_reward[t], out.first[t] = torch.from_numpy(step.reward), torch.from_numpy(step.first)
        absent = nothing_before(out.first[t], t > 0, PROTOCOL_VERSION)
        embedded = network.tick(
            out.observation[t], out.previous_action[t], out.previous_reward[t], out.first[t], absent
        )
        hidden = network.core.step(embedded, hidden)
        params, out.value[t] = network.heads(embedded, hidden)
        action = network.policy.sample(params, generator)
        out.action[t], out.log_prob[t] = action, network.policy.log_prob(params, action)
        actions = network.policy.to_env(action)
        observation, raw, terminated, truncated, info = env.step(actions)
        out.reward[t] = torch.from_numpy(raw)
        shown.advance(actions, observation, raw, terminated | truncated, info.get("final_obs"))
    return float(out.reward.sum()) / float(out.first.sum())


def update(
    network: Network,
    optimiser: torch.optim.Optimizer,
    batch: Rollout,
    settings: PPO,
    scale: float,
    left: float,
    generator: torch.Generator,
    rate: float = 1.0,
) -> dict[str, float]:
    """PPO's passes over one iteration.

    Args:
        network: Changed in place.
        optimiser: Likewise.
        batch: Whole trials.
        settings: PPO's.
        scale: What rewards are divided by.
        left: The share of the training that is left: learning rate and entropy bonus fall with it.
        generator: For the order of the minibatches.
        rate: A factor of the learning rate; see `next_rate`.

    Returns:
        Means over the gradient steps; `kl_end` of the last minibatch alone, and `steps`, how many there were.
    """
    for group in optimiser.param_groups:
        group["lr"] = settings.learning_rate * left * rate
    end = torch.zeros_like(batch.value[0])
    advantage = gae(batch.reward / scale, batch.value, end, settings.discount, settings.trace)
    target = advantage + batch.value
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    sums: dict[str, float] = {}
    count, last = 0, torch.zeros(())
    parts_of_passes = (
        rows
        for _ in range(settings.epochs)
        for rows in torch.randperm(batch.reward.shape[1], generator=generator).chunk(settings.minibatches)
    )
    for rows in parts_of_passes:
        part = Rollout(**{name: column[:, rows] for name, column in vars(batch).items()})
        total, metrics = loss(network, part, advantage[:, rows], target[:, rows], settings, settings.entropy * left)
        last = metrics["kl"]
        if count and went_too_far(last, settings):
            break
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimiser.step()
        count += 1
        for name, value in (metrics | {"grad_norm": norm}).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: value / count for name, value in sums.items()} | {"kl_end": float(last), "steps": count}


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> Agent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits.

    An iteration depends on nothing but parameters, optimiser, reward scale, seed and its own number.
    """
    checkpoint = run.begin(NAME, benchmark, config, seed)
    ticks, steps = trial_length(NAME, benchmark, config.view), trial_steps(benchmark) * config.trials
    env = make_viewed(benchmark, config.trials, config.view, split=config.split)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network = Network(config.network, env)
    optimiser = torch.optim.Adam(network.parameters(), lr=config.ppo.learning_rate, eps=1e-5, fused=True)
    done, scale, rate = 0, 1.0, 1.0
    if checkpoint:
        done, scale, rate = checkpoint.iteration, checkpoint.state["scale"], checkpoint.state.get("rate", 1.0)
        unpack(checkpoint.tensors, {"network": network}, {"adam": optimiser})
    shape = tuple(env.single_action_space.shape or ())
    batch = Rollout.empty(ticks, config.trials, network.scaler.center.shape[0], shape, network.policy.discrete)
    iterations = -(-config.frames // steps)
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start = time.perf_counter()
            env_seed = (seed * 2**32 + iteration) * 2**20  # slots add up to 2^20: no two iterations share a stream
            network.eval()
            mean_return = collect(network, env, batch, env_seed, stream(seed, iteration, 0))
            network.train()
            scale = next_reward_scale(scale, batch.reward, config.ppo.discount, iteration)
            left = 1.0 - iteration / iterations
            metrics = update(network, optimiser, batch, config.ppo, scale, left, stream(seed, iteration, 1), rate)
            watch((network,), batch.observation)
            rate = next_rate(rate, metrics["kl_end"], config.ppo)
            speed, frames = steps / (time.perf_counter() - start), (iteration + 1) * steps
            head = {"iteration": iteration + 1, "frames": frames, "return": mean_return, "scale": scale, "rate": rate}
            run.log(head | metrics | {"time/frames_per_s": speed})
            advance(iteration + 1, f"return {mean_return:7.2f}   {speed / 1000:5.0f}k frames/s")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                state = {"scale": scale, "rate": rate}
                run.save(iteration + 1, pack({"network": network}, {"adam": optimiser}), state)
    return deciding(Agent(network), benchmark, config.view)


def load(path: Path) -> Agent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config = read_config(Config, settings["config"])
    env = make_viewed(settings["benchmark"], 1, config.view)
    network = Network(config.network, env)
    unpack(checkpoint.tensors, {"network": network}, {})
    return deciding(Agent(network, settings["protocol"]), settings["benchmark"], config.view)
