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
- `core="transformer"` has a causal transformer in the GRU's place, over all ticks of the trial, with rotary positions
  (for on-policy learning: Parisotto et al. 2020, arXiv 1910.06764; here without its memory of segments, for the context
  is the trial). As theirs, the policy begins without memory; by output layers that begin at zero, which cost nothing,
  in place of their gates (`transformer.gate=gru`). While it plays, keys and values are kept. It acts eagerly whatever
  `form` says: its memory grows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from metabench import Timestep
from metabench.evaluation.play import Stream
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.attention.ticks import CausalTransformer, Gate, TickCache
from metabench_agents.parts.config import for_benchmark, read_config
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Ahead, Computing, Device, set_rate
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
)
from metabench_agents.parts.memory import Rollout, trial_length, trial_steps
from metabench_agents.parts.passes import passes
from metabench_agents.parts.run import Checkpoint, Run, load_checkpoint, load_config, pack, stream, unpack
from metabench_agents.parts.seeds import Stack, common_point, save_all
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "rl2"
CoreKind = Literal["gru", "transformer"]
Memory: TypeAlias = Tensor | TickCache  # what a core remembers of B trials: its hidden state [B, H], or keys and values


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network."""

    hidden: int = 64  # width of the recurrent core
    embed: int = 64  # width of the tick's embedding
    head: int = 64  # width of the hidden layer before policy and value
    skip: bool = True  # whether the heads see the embedded tick beside the hidden state
    normalise: bool = False  # whether observations without bounds are brought to a running unit scale


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer; its width is `network.hidden`."""

    layers: int = field(default=2, metadata={"low": 1})  # blocks
    heads: int = field(default=4, metadata={"low": 1})  # of attention; they must divide the width
    gate: Gate = "small"  # how layers enter the stream: small (added, from zero on), gru (GTrXL's gates), none (added)


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 3_000_000  # environment steps in all
    trials: int = 128  # trials played together, one per slot
    core: CoreKind = "gru"  # what remembers the trial: gru or transformer
    transformer: TransformerConfig = field(default_factory=TransformerConfig)  # where that is the core
    network: NetworkConfig = field(default_factory=NetworkConfig)  # its sizes
    ppo: PPO = field(default_factory=PPO)  # how policy and value learn; a part of a pass has whole trials
    split: str = "train"  # tasks to learn from; "fresh" for endless ones
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides


CONTROL: dict[str, Any] = {  # continuous control: calm steps of PPO, observations scaled as they come
    "frames": 2_000_000,
    "trials": 32,
    "network.hidden": 128,
    "network.normalise": True,
    "ppo.learning_rate": 1e-3,
    "ppo.adaptive": True,
    "ppo.target_kl": 0.02,
    "ppo.discount": 0.97,
    "ppo.trace": 0.95,
    "ppo.entropy": 0.002,
    "ppo.epochs": 4,
    "ppo.minibatches": 4,
}
MERGE: dict[str, Any] = {
    "frames": 3_000_000,
    "ppo.learning_rate": 1e-3,
    "ppo.discount": 0.99,
    "ppo.epochs": 4,
    "ppo.entropy": 0.01,
}
RECOMMENDED: dict[str, dict[str, Any]] = {
    "CheetahDir-v0": CONTROL,
    "CheetahDirSwitch-v0": CONTROL,
    "CheetahVel-v0": CONTROL,
    "CheetahVelSwitch-v0": CONTROL,
    "CheetahWindVelSwitch-v0": CONTROL,
    "DarkRoom-v0": {"frames": 10_000_000, "ppo.discount": 0.99, "ppo.entropy": 0.02},
    "HighwayMerge-v0": MERGE,
    "HopperParam-v0": CONTROL,
    "ReacherSwitch-v0": CONTROL,
    "ScratchItchSwitch-v0": CONTROL,
    "SparsePointRobot-v0": {"ppo.discount": 0.99},
}


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: those of our studies for a benchmark, the defaults elsewhere."""
    return for_benchmark(Config(view=whole_view(benchmark)), RECOMMENDED, benchmark)


class Network(nn.Module):
    """Tick -> embedding -> memory -> policy and value.

    Args:
        config: Sizes.
        env: Whose observations and actions it has.
        transformer: What remembers in place of a GRU.
    """

    def __init__(self, config: NetworkConfig, env: Any, transformer: TransformerConfig | None = None):
        super().__init__()
        self.space = env.single_action_space
        self.scaler = make_scaler(env.single_observation_space, config.normalise)
        ticks = env.single_observation_space.shape[0] + action_size(self.space) + 2
        self.embed = linear(ticks, config.embed)
        self.core = GRU(config.embed, config.hidden) if transformer is None else attending(config, transformer)
        self.skip = config.skip
        self.trunk = linear(config.hidden + (config.embed if config.skip else 0), config.head)
        self.policy = ActionHead(config.head, self.space)
        self.value = linear(config.head, 1, gain=1.0)

    def tick(self, observation: Tensor, action: Tensor, reward: Tensor, first: Tensor, absent: Tensor) -> Tensor:
        """The embedding `[..., E]` of what is seen at a tick; nothing came before where `absent`. Leading axes any."""
        code = encode_action(action, self.space, absent)
        last = torch.stack((reward, first.to(reward.dtype)), dim=-1)
        return torch.relu(self.embed(torch.cat((self.scaler(observation), code, last), dim=-1)))

    def begin(self, trials: int, device: torch.device | None = None) -> Memory:
        """What is remembered of trials that have not begun."""
        if isinstance(self.core, GRU):
            return torch.zeros(trials, self.core.hidden, device=device)
        return self.core.begin(trials, device)

    def remember(self, embedded: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """A tick `[B, E]` to what is known after it `[B, H]`, and the memory of it; the one before stays as it is."""
        if isinstance(memory, TickCache):
            assert isinstance(self.core, CausalTransformer)
            return self.core.step(embedded, memory)
        assert isinstance(self.core, GRU)
        hidden = self.core.step(embedded, memory)
        return hidden, hidden

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
        if isinstance(self.core, CausalTransformer):
            return self.heads(embedded, self.core.sequence(embedded))
        start = embedded.new_zeros(embedded.shape[1], self.core.hidden)
        return self.heads(embedded, self.core(embedded, start))


def attending(config: NetworkConfig, transformer: TransformerConfig) -> CausalTransformer:
    """A transformer as the core."""
    sizes = {"layers": transformer.layers, "heads": transformer.heads}
    return CausalTransformer(config.embed, config.hidden, **sizes, place="rotary", gate=transformer.gate)


def loss(
    network: Network, batch: Rollout, advantage: Tensor, target: Tensor, settings: PPO, entropy_weight: Tensor | float
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

    hidden: Memory  # of the core: [B, H], or a cache of keys and values
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
        self.attends = None if isinstance(network.core, GRU) else "trial"  # which steps are seen at once

    def begin(self, num_trials: int) -> RL2Memory:
        """Nothing has been seen."""
        return RL2Memory(self.network.begin(num_trials), False)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: RL2Memory) -> tuple[np.ndarray, RL2Memory]:
        """Actions for this tick, and the memory after it."""
        observation, action, reward, first = (
            torch.as_tensor(column) for column in (step.observation, step.action, step.reward, step.first)
        )
        absent = nothing_before(first, belief.begun, self.protocol)
        reward = torch.where(absent, 0.0, reward.float())
        embedded = self.network.tick(observation.float(), action, reward, first, absent)
        known, memory = self.network.remember(embedded, belief.hidden)
        params, _ = self.network.heads(embedded, known)
        return self.network.policy.to_env(self.network.policy.sample(params, None)), RL2Memory(memory, True)


class Reply(NamedTuple):
    """What a network says to a tick."""

    hidden: Memory  # after it
    value: Tensor  # [B]
    action: Tensor  # [B] or [B, A] in the policy's units
    log_prob: Tensor  # [B]


def reply(network: Network, seen: tuple[Tensor, ...], hidden: Memory, noise: Tensor) -> Reply:
    """One tick, as a pure function: `seen` are the arguments of `Network.tick`, `noise` `[B, A]` picks the action."""
    embedded = network.tick(*seen)
    known, hidden = network.remember(embedded, hidden)
    params, value = network.heads(embedded, known)
    action = network.policy.place(params, noise)
    return Reply(hidden, value, action, network.policy.log_prob(params, action))


Act = Callable[[tuple[Tensor, ...], Memory, Tensor], Reply]
Draw = Callable[..., Tensor]


class Table:
    """A vector environment whose slots play together, and what came of its last tick."""

    def __init__(self, env: Any, seeds: Any, where: slice, hidden: Memory):
        observation, _ = env.reset(seed=seeds)
        self.env, self.where, self.hidden = env, where, hidden
        self.shown = Stream(observation, env.single_action_space)
        self.asked: Ahead | None = None

    def ask(self, act: Act, out: Rollout, t: int, noise: Tensor, device: Device) -> tuple[Tensor, Tensor, Tensor]:
        """Writes down what is seen, and asks for actions; values, actions and log probabilities where they are."""
        step, at = self.shown.timestep(), self.where
        out.observation[t, at] = torch.from_numpy(step.observation)
        out.previous_action[t, at] = torch.from_numpy(step.action)
        out.previous_reward[t, at], out.first[t, at] = torch.from_numpy(step.reward), torch.from_numpy(step.first)
        absent = nothing_before(out.first[t, at], t > 0, PROTOCOL_VERSION)
        seen = (out.observation[t, at], out.previous_action[t, at], out.previous_reward[t, at], out.first[t, at])
        answer = act(tuple(device.put([*seen, absent])), self.hidden, noise)
        self.hidden, self.asked = answer.hidden, Ahead(answer.action)
        return answer.value, answer.action, answer.log_prob

    def play(self, network: Network, out: Rollout, t: int) -> None:
        """Takes the actions, once they are here."""
        assert self.asked is not None
        actions = network.policy.to_env(self.asked.wait())
        observation, raw, terminated, truncated, info = self.env.step(actions)
        out.reward[t, self.where] = torch.from_numpy(raw)
        self.shown.advance(actions, observation, raw, terminated | truncated, info.get("final_obs"))


@torch.inference_mode()
def collect(
    network: Network,
    envs: Any,
    out: Rollout,
    seed: int,
    generator: torch.Generator,
    device: Device | None = None,
    act: Act | None = None,
) -> float:
    """Plays one trial per slot into `out`, which is shown what an agent is; returns the mean return per episode.

    Args:
        network: Whose actions are played.
        envs: A vector environment, or several whose slots follow each other: while one is stepped, the device thinks
            about the others. The trials are the same in either case.
        out: Columns on the CPU. Where `device` is another, its values, actions and log probabilities are replaced by
            columns there.
        seed: Of the first slot, the others counting on from it.
        generator: For the actions.
        device: Where the network is.
        act: `reply` of it, in the device's form.
    """
    device = device or Device()
    draws, slots = device.generator(generator), out.reward.shape[1]
    act = act or (lambda *asked: reply(network, *asked))
    play_trials(
        network, envs, out, seed, lambda *ticks: network.policy.noise(*ticks, slots, generator=draws), device, act
    )
    return float(out.reward.sum()) / float(out.first.sum())


def play_trials(
    network: Network, envs: Any, out: Rollout, seed: int | list[int], draw: Draw, device: Device, act: Act
) -> None:
    """What `collect` says, with a seed for every slot or the first one's, and draws of any kind.

    Args:
        network: Tells of the action space.
        envs: See there.
        out: See there.
        seed: Of the first slot, the others counting on from it; or one for every slot.
        draw: Gives the noise of a tick `[B, A]`, or of so many ticks `[T, B, A]`.
        device: See there.
        act: See there.
    """
    tables, start = [], 0
    envs = envs if isinstance(envs, list) else [envs]
    for env in envs:
        where = slice(start, start + env.num_envs)
        begun = network.begin(env.num_envs, device.kind)
        tables.append(Table(env, seed[where] if isinstance(seed, list) else seed + start, where, begun))
        start = where.stop
    ticks, here = len(out.reward), device.kind.type == "cpu"
    ahead = None if here else draw(ticks)
    rows: list[list[tuple[Tensor, ...]]] = [[] for _ in tables]
    for t in range(ticks):
        noise = draw() if ahead is None else ahead[t]
        for table, said in zip(tables, rows, strict=True):
            if t:
                table.play(network, out, t - 1)
            answer = table.ask(act, out, t, noise[table.where], device)
            if here:
                out.value[t, table.where], out.action[t, table.where], out.log_prob[t, table.where] = answer
            else:
                said.append(answer)
    for table in tables:
        table.play(network, out, ticks - 1)
    if not here:
        columns = [[torch.stack(column) for column in zip(*said, strict=True)] for said in rows]
        out.value, out.action, out.log_prob = (torch.cat(parts, dim=1) for parts in zip(*columns, strict=True))


def orders(settings: PPO, trials: int, generator: torch.Generator) -> Tensor:
    """The order of the trials in each of PPO's passes, `[epochs, B]`."""
    return torch.stack([torch.randperm(trials, generator=generator) for _ in range(settings.epochs)])


def prepared(batch: Rollout, settings: PPO, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Normalised advantages and the values' targets, `[T, B]`; rewards are divided by `scale`."""
    end = torch.zeros_like(batch.value[0])
    advantage = gae(batch.reward / scale, batch.value, end, settings.discount, settings.trace)
    target = advantage + batch.value
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8), target


def chosen(batch: Rollout, advantage: Tensor, target: Tensor, rows: Tensor) -> tuple[Rollout, Tensor, Tensor]:
    """Some of the trials."""
    return Rollout(**{n: c.index_select(1, rows) for n, c in vars(batch).items()}), advantage[:, rows], target[:, rows]


def improve(
    network: Network,
    optimiser: torch.optim.Optimizer,
    settings: PPO,
    device: Device,
    batch: Rollout,
    order: Tensor,
    scale: Tensor | float,
    left: Tensor | float,
    rate: Tensor | float = 1.0,
) -> dict[str, Tensor]:
    """PPO's passes over one iteration, as a pure function: all chance is in `order`.

    Args:
        network: Changed in place.
        optimiser: Likewise.
        settings: PPO's.
        device: Whose precision the losses have.
        batch: Whole trials.
        order: `[epochs, B]` of the trials.
        scale: What rewards are divided by.
        left: The share of the training that is left: learning rate and entropy bonus fall with it.
        rate: A factor of the learning rate; see `next_rate`.

    Returns:
        As `passes`.
    """
    set_rate(optimiser, settings.learning_rate * left * rate)
    advantage, target = prepared(batch, settings, scale)

    def loss_of(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return loss(network, *chosen(batch, advantage, target, rows), settings, settings.entropy * left)

    minibatches = (rows for one in order for rows in one.chunk(settings.minibatches))
    return passes(device, optimiser, settings, minibatches, loss_of)


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
    """`improve` on the CPU, with an order of its own."""
    order = orders(settings, batch.reward.shape[1], generator)
    told = improve(network, optimiser, settings, Device(), batch, order, scale, left, rate)
    return {name: float(value) for name, value in told.items()}


def vector_envs(benchmark: str, slots: int, config: Config, device: Device) -> list[Any]:
    """One environment of all slots on the CPU, two halves where a device can think while one of them is stepped."""
    sizes = [slots] if device.kind.type == "cpu" or slots < 2 else [slots - slots // 2, slots // 2]
    return [make_viewed(benchmark, size, config.view, split=config.split) for size in sizes]


def fresh(config: Config, env: Any, seed: int) -> Network:
    """The network that a seed begins with."""
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    return Network(config.network, env, config.transformer if config.core == "transformer" else None)


def acting(network: Network, device: Device) -> Act:
    """`reply` of a network in the device's form; a memory that grows is in no graph, and has it eager."""

    def said(*asked: Any) -> Reply:
        return reply(network, *asked)

    if isinstance(network.core, GRU):
        return device.function(said)

    def eager(*asked: Any) -> Reply:
        with contextlib.nullcontext() if device.kind.type == "cpu" else device.float32():
            return said(*asked)

    return eager


def env_seed(seed: int, iteration: int) -> int:
    """Of an iteration's first slot; slots add up to 2^20, so no two iterations share a stream."""
    return (seed * 2**32 + iteration) * 2**20


def empty_rollout(network: Network, env: Any, ticks: int, trials: int) -> Rollout:
    """Room for one iteration, on the CPU."""
    shape = tuple(env.single_action_space.shape or ())
    return Rollout.empty(ticks, trials, network.scaler.center.shape[0], shape, network.policy.discrete)


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> Agent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits.

    An iteration depends on nothing but parameters, optimiser, reward scale, seed and its own number.
    """
    device = Device.of(config)
    checkpoint = run.begin(NAME, benchmark, config, seed)
    ticks, steps = trial_length(NAME, benchmark, config.view), trial_steps(benchmark) * config.trials
    envs = vector_envs(benchmark, config.trials, config, device)
    network = device.place(fresh(config, envs[0], seed))
    optimiser = device.adam(network.parameters(), config.ppo.learning_rate, eps=1e-5)
    done, scale, rate = 0, 1.0, 1.0
    if checkpoint:
        done, scale, rate = checkpoint.iteration, checkpoint.state["scale"], checkpoint.state.get("rate", 1.0)
        unpack(checkpoint.tensors, {"network": network}, {"adam": optimiser})
    act = acting(network, device)
    passes = device.function(lambda *given: improve(network, optimiser, config.ppo, device, *given))
    batch = empty_rollout(network, envs[0], ticks, config.trials)
    iterations = -(-config.frames // steps)
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start = time.perf_counter()
            draws = stream(seed, iteration, 0)
            mean_return = collect(network, envs, batch, env_seed(seed, iteration), draws, device, act)
            scale = next_reward_scale(scale, batch.reward, config.ppo.discount, iteration)
            order = orders(config.ppo, config.trials, stream(seed, iteration, 1))
            told = passes(batch, order, scale, 1.0 - iteration / iterations, rate)
            metrics = {name: float(value) for name, value in told.items()}
            watch((network,), batch.observation)
            rate = next_rate(rate, metrics["kl_end"], config.ppo)
            speed = steps / (time.perf_counter() - start)
            state = {"scale": scale, "rate": rate}
            run.log(row_of(iteration, steps, mean_return, state | metrics, speed))
            advance(iteration + 1, f"return {mean_return:7.2f}   {speed / 1000:5.0f}k frames/s")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(iteration + 1, pack({"network": network}, {"adam": optimiser}), state)
    return deciding(Agent(network.to("cpu")), benchmark, config.view)


def row_of(
    iteration: int, frames: int, mean_return: float, metrics: dict[str, float], speed: float
) -> dict[str, float]:
    """An iteration's row of the log."""
    head = {"iteration": iteration + 1, "frames": (iteration + 1) * frames, "return": mean_return}
    return head | metrics | {"time/frames_per_s": speed}


class Seeds:
    """Runs of several seeds that learn together: one environment for all slots, one network of stacked parameters.

    Args:
        benchmark: Of all of them.
        config: Likewise.
        seeds: One per run.
        device: Where they learn.
        saved: The checkpoints they continue from, all of one iteration; none where they begin.
    """

    def __init__(
        self, benchmark: str, config: Config, seeds: Sequence[int], device: Device, saved: Sequence[Checkpoint] = ()
    ):
        if config.core != "gru":
            raise ValueError("seeds that learn together remember in a GRU: train the transformer's one by one")
        if config.ppo.target_kl:
            raise ValueError("seeds that learn together all go through every pass: leave out --ppo.target-kl")
        self.config, self.seeds, self.device = config, seeds, device
        self.ticks, trials = trial_length(NAME, benchmark, config.view), config.trials
        parts = 1 if device.kind.type == "cpu" or trials % 2 else 2  # of every seed's slots, each an environment
        slots = len(seeds) * trials
        self.envs = [make_viewed(benchmark, slots // parts, config.view, split=config.split) for _ in range(parts)]
        self.layout = torch.arange(slots).view(len(seeds), parts, -1).transpose(0, 1).flatten()  # seed by seed, in them
        self.networks = [fresh(config, self.envs[0], seed) for seed in seeds]
        self.scales = [point.state["scale"] for point in saved] or [1.0] * len(seeds)
        for network, point in zip(self.networks, saved, strict=False):
            unpack(point.tensors, {"network": network}, {})
        self.stack = Stack(self.networks, device)
        self.optimiser = device.adam(self.stack.parameters.values(), config.ppo.learning_rate, eps=1e-5)
        if saved:
            self.stack.restore(self.optimiser, [point.tensors for point in saved])
        self.batch = empty_rollout(self.networks[0], self.envs[0], self.ticks, slots)
        self.act, self.passes = device.function(self._reply), device.function(self._improve)

    def _split(self, column: Tensor, axis: int, parts: int = 1) -> Tensor:
        """Slots as `[seeds, slots of a seed]`, in front; they lie in `parts`, each with some of every seed."""
        own = column.unflatten(axis, (parts, len(self.seeds), -1)).movedim(axis + 1, 0)
        return own.flatten(axis + 1, axis + 2)

    def _reply(self, seen: tuple[Tensor, ...], hidden: Tensor, noise: Tensor) -> Reply:
        parts = tuple(self._split(column, 0) for column in seen), self._split(hidden, 0), self._split(noise, 0)
        return Reply(*(column.flatten(0, 1) for column in self.stack.call(reply, *parts)))

    def _improve(self, batch: Rollout, order: Tensor, scale: Tensor, left: Tensor | float) -> dict[str, Tensor]:
        """`improve` of every seed; `order` `[epochs, S, B]`, `scale` `[S]`."""
        settings, sums = self.config.ppo, {}
        last = torch.zeros(len(self.seeds), device=self.device.kind)
        set_rate(self.optimiser, settings.learning_rate * left)
        columns = tuple(self._split(column, 1, len(self.envs)) for column in vars(batch).values())
        ready = torch.func.vmap(lambda own, by: prepared(Rollout(*own), settings, by))(columns, scale)

        def of_seed(network: Network, own: Any, advantage: Tensor, target: Tensor, at: Tensor) -> Any:
            return loss(network, *chosen(Rollout(*own), advantage, target, at), settings, settings.entropy * left)

        for rows in (rows for one in order for rows in one.chunk(settings.minibatches, dim=1)):
            with self.device.products():
                total, metrics = self.stack.call(of_seed, columns, *ready, rows)
            norm = self.stack.descend(total, self.optimiser, settings.max_grad_norm)
            last = metrics["kl"].detach()
            for name, value in (metrics | {"grad_norm": norm}).items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        count = settings.epochs * min(settings.minibatches, order.shape[2])
        ends = {"kl_end": last, "steps": torch.full_like(last, count)}
        return {name: value / count for name, value in sums.items()} | ends

    def iterate(self, iteration: int, left: float) -> list[dict[str, float]]:
        """One iteration of every seed; each one's return, scale and metrics."""
        trials, ppo = self.config.trials, self.config.ppo
        slots = [env_seed(seed, iteration) + slot for seed in self.seeds for slot in range(trials)]
        draws, policy = (
            [self.device.generator(stream(seed, iteration, 0)) for seed in self.seeds],
            self.networks[0].policy,
        )

        def draw(*ticks: int) -> Tensor:
            return torch.cat([policy.noise(*ticks, trials, generator=g) for g in draws], dim=-2)[..., self.layout, :]

        with torch.inference_mode():
            seeds = [slots[at] for at in self.layout.tolist()]
            play_trials(self.networks[0], self.envs, self.batch, seeds, draw, self.device, self.act)
        reward, first = (self._split(column, 1, len(self.envs)) for column in (self.batch.reward, self.batch.first))
        self.scales = [
            next_reward_scale(scale, own, ppo.discount, iteration)
            for scale, own in zip(self.scales, reward, strict=True)
        ]
        order = torch.stack([orders(ppo, trials, stream(seed, iteration, 1)) for seed in self.seeds], dim=1)
        told = self.passes(self.batch, order, torch.tensor(self.scales), left)
        columns = {name: value.tolist() for name, value in told.items()}
        self._watch()
        columns |= {"return": (reward.sum((1, 2)) / first.sum((1, 2))).tolist(), "scale": self.scales}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(self.seeds))]

    def _watch(self) -> None:
        """Every seed's scale follows its own observations."""
        if not self.config.network.normalise:
            return
        for index, own in enumerate(self._split(self.batch.observation, 1, len(self.envs))):
            watch((self.networks[index],), own)
            for name, buffer in self.networks[index].named_buffers():
                self.stack.buffers[name][index].copy_(buffer)

    def tensors(self, index: int) -> dict[str, Tensor]:
        """One seed's checkpoint, as its single run would write it."""
        return pack({"network": self.networks[index]}, {}) | self.stack.moments(self.optimiser, index)


def train_seeds(
    benchmark: str, config: Config, *, seeds: Sequence[int], runs: Sequence[Run]
) -> list[Agent | DecidingAgent]:
    """Trains several seeds in one process, each into its own run, as `train` would each of them.

    A seed's numbers are those of its single run up to rounding: the products of all seeds are made together.

    Raises:
        ValueError: In one sentence, if the runs were interrupted at different iterations.
    """
    device = Device.of(config)
    points = [run.begin(NAME, benchmark, config, seed) for run, seed in zip(runs, seeds, strict=True)]
    done, saved = common_point(points)
    learners = Seeds(benchmark, config, seeds, device, saved)
    frames = trial_steps(benchmark) * config.trials
    iterations = -(-config.frames // frames)
    with runs[0].progress(iterations, done, f"iterations of {len(seeds)} seeds") as advance:
        for iteration in range(done, iterations):
            start = time.perf_counter()
            rows = learners.iterate(iteration, 1.0 - iteration / iterations)
            rate = frames * len(seeds) / (time.perf_counter() - start)
            for run, row in zip(runs, rows, strict=True):
                run.log(row_of(iteration, frames, row.pop("return"), row | {"rate": 1.0}, rate / len(seeds)))
            advance(iteration + 1, f"{rate / 1000:5.0f}k frames/s of all seeds")
            if (iteration + 1) % runs[0].checkpoint_every == 0 or iteration + 1 == iterations:
                learners.stack.write_back()
                states = [{"scale": scale, "rate": 1.0} for scale in learners.scales]
                save_all(runs, iteration + 1, [learners.tensors(i) for i in range(len(seeds))], states)
    learners.stack.write_back()
    return [deciding(Agent(network.to("cpu")), benchmark, config.view) for network in learners.networks]


def load(path: Path) -> Agent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config = read_config(Config, settings["config"])
    env = make_viewed(settings["benchmark"], 1, config.view)
    network = Network(config.network, env, config.transformer if config.core == "transformer" else None)
    unpack(checkpoint.tensors, {"network": network}, {})
    return deciding(Agent(network, settings["protocol"]), settings["benchmark"], config.view)
