"""MAML: parameters from which one policy gradient step on a trial's first episodes makes a policy for its task.

Source: Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (arXiv
1703.03400), section 5.3 and its code. With tau the episodes that theta plays in a task, tau' those that theta' plays:

    theta' = theta - alpha grad_theta L(theta, tau),        L(theta, tau) = -mean_t A_t log pi_theta(a_t | s_t)
    theta <- TRPO's step on -mean_t A'_t pi_{theta'}(a_t | s_t) / pi_{theta'_old}(a_t | s_t) over all tasks' tau',

whose gradient goes through the inner step (second order). The KL constraint is on theta', and advantages come from a
linear feature baseline, fitted anew to every batch, and GAE. All trials adapt at once (`torch.func.vmap`).

Settings: `inner.first_order` takes the inner gradient as a constant (section 5.2's approximation); `outer` "ppo" puts
the clipped surrogate and Adam in TRPO's place, as ProMP (Rothfuss et al. 2019, arXiv 1810.06784) does, without its
other changes.

Deviations, with reasons:
- An inner step learns from as many episodes as a trial has before its last (`inner.episodes`), one on most benchmarks,
  instead of 20: that is what the protocol lets an agent see. Training plays several such trials of each task
  (`trials_per_task`), whose last episodes share a baseline; an inner step's baseline is fitted to its own episodes.
- In play the adapted policy takes the most probable action; before its inner steps are done it draws, as in training.
- The policy's last layer begins small and its spread at exp(-0.5) half widths of the action space; observations
  without bounds are brought to unit scale, with moments that change between iterations only; the baseline sees them so.
- Trials must be of one length: benchmarks whose episodes may end early are refused unless `view.whole` rests them out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import metabench
from metabench import SlotRng, Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.gradient.baseline import advantages
from metabench_agents.gradient.inner import (
    Answer,
    Batch,
    InnerConfig,
    NetworkConfig,
    Parameters,
    Policy,
    answers,
    divergence,
    of_trials,
    reply,
    step_of_trials,
)
from metabench_agents.gradient.trust_region import NaturalStep, TrustRegion, line_search, natural_step
from metabench_agents.parts.config import for_benchmark, read_config
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Computing, Device, follow, learner, set_rate
from metabench_agents.parts.layers import watch
from metabench_agents.parts.losses import PPO, ppo_policy_loss
from metabench_agents.parts.memory import trial_length
from metabench_agents.parts.passes import passes
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, stream, unpack
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "maml"

Array = npt.NDArray[Any]


def _ppo() -> PPO:
    return PPO(learning_rate=1e-3, discount=0.99, trace=1.0, epochs=4, minibatches=2, clip=0.3, entropy=0.0)


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 1_000_000  # environment steps in all
    tasks: int = 20  # of an iteration
    trials_per_task: int = 5  # trials of each, that adapt one by one
    after: int = 1  # episodes that each of them plays once it has adapted
    network: NetworkConfig = field(default_factory=NetworkConfig)  # the policy's
    inner: InnerConfig = field(default_factory=InnerConfig)  # the step that adapts
    outer: Literal["trpo", "ppo"] = "trpo"  # how the parameters that it begins with learn
    trpo: TrustRegion = field(default_factory=TrustRegion)  # the step of "trpo"
    ppo: PPO = field(default_factory=_ppo)  # passes of "ppo"; discount and trace of both, which have no value network
    ridge: float = field(default=1e-5, metadata={"low": 0.0})  # of the baseline's regression
    split: str = "train"  # tasks to learn from; "fresh" for endless ones
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides

    @property
    def trials(self) -> int:
        """Trials of an iteration, played side by side."""
        return self.tasks * self.trials_per_task

    @property
    def episodes(self) -> int:
        """Episodes of such a trial."""
        return self.inner.steps * self.inner.episodes + self.after


RECOMMENDED: dict[str, dict[str, Any]] = {"HighwayMerge-v0": {"frames": 3_000_000, "inner.rate": 0.01, "trpo.kl": 0.05}}


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: a trial's last episode is the adapted one, and its view."""
    episodes = max(1, metabench.spec(benchmark).episodes - 1)
    config = Config(inner=InnerConfig(episodes=episodes), view=whole_view(benchmark))
    return for_benchmark(config, RECOMMENDED, benchmark)


class Memory(NamedTuple):
    """What the agent remembers of B trials."""

    parameters: Parameters  # [B, ...] what each acts by
    observation: Tensor  # [B, K T, O] of the episodes since its last inner step; K of them make the next
    action: Tensor  # [B, K T] or [B, K T, A] in the policy's units
    reward: Tensor  # [B, K T]
    episode: Array  # [B] number of the episode; -1 before the first
    tick: Array  # [B] of the episode
    key: Array  # [B] of the trials' streams
    counter: Array  # [B]


class Agent:
    """The trained parameters, and the inner steps that they are trained for, taken where an episode of a trial ends.

    Args:
        policy: Trained.
        config: Its settings.
        ticks: Of an episode.
        protocol: The version under which it learned.
        seed: Of what it draws until it has adapted.
    """

    name = NAME

    def __init__(self, policy: Policy, config: Config, ticks: int, protocol: str = PROTOCOL_VERSION, seed: int = 0):
        self.policy, self.config, self.ticks = policy.eval(), config, ticks
        self.protocol, self.seed = protocol, seed
        self.explores = config.inner.steps * config.inner.episodes  # episodes until it has adapted

    def begin(self, num_trials: int) -> Memory:
        """Every trial at the trained parameters, nothing seen."""
        theta = {name: p.detach() for name, p in self.policy.named_parameters()}
        own = {name: p.expand(num_trials, *p.shape).clone() for name, p in theta.items()}
        rows = (num_trials, self.config.inner.episodes * self.ticks)
        head = self.policy.head
        action = torch.zeros(rows, dtype=torch.int64) if head.discrete else torch.zeros(*rows, head.out.out_features)
        streams = SlotRng.counting(self.seed * 2**32, num_trials).state()
        observation = torch.zeros(*rows, self.policy.scaler.center.shape[0])
        before = np.full(num_trials, -1), np.zeros(num_trials, dtype=np.int64)
        return Memory(own, observation, action, torch.zeros(rows), *before, *streams)

    @torch.no_grad()
    def act(self, step: Timestep, belief: Memory) -> tuple[np.ndarray, Memory]:
        """Takes in what the last action earned, adapts where that ended what a step learns from, and acts."""
        first, memory = np.asarray(step.first), self._earned(step, belief)
        episode, tick = memory.episode + first, np.where(first, 0, memory.tick + 1)
        due = first & (episode > 0) & (episode <= self.explores) & (episode % self.config.inner.episodes == 0)
        parameters = self._adapt(memory, due) if due.any() else memory.parameters
        rng = SlotRng(memory.key, memory.counter.copy())
        observation, noise = torch.as_tensor(step.observation).float(), self._noise(rng)
        drawn, best = of_trials(self.policy, parameters, _choices, observation, noise)
        exploring = torch.from_numpy(episode < self.explores)
        head = self.policy.head
        action = torch.where(exploring if head.discrete else exploring[:, None], drawn, best)
        rows, places = self._places(episode, tick)
        seen, taken = memory.observation.clone(), memory.action.clone()
        seen[rows, places], taken[rows, places] = observation[rows], action[rows]
        return head.to_env(action), Memory(parameters, seen, taken, memory.reward, episode, tick, *rng.state())

    def _places(self, episode: Array, tick: Array) -> tuple[Tensor, Tensor]:
        """The trials that still explore, and where in their columns this tick stands."""
        rows = np.flatnonzero((episode >= 0) & (episode < self.explores) & (tick < self.ticks))
        place = (episode % self.config.inner.episodes) * self.ticks + tick
        return torch.from_numpy(rows), torch.from_numpy(place[rows])

    def _earned(self, step: Timestep, belief: Memory) -> Memory:
        rows, places = self._places(belief.episode, belief.tick)
        reward = belief.reward.clone()
        reward[rows, places] = torch.as_tensor(step.reward).float()[rows]
        return belief._replace(reward=reward)

    def _adapt(self, memory: Memory, due: Array) -> Parameters:
        """The parameters with one inner step in the trials of `due` `[B]` bool."""
        rows = torch.from_numpy(np.flatnonzero(due))
        columns = (memory.observation, memory.action, memory.reward)
        observation, action, reward = (
            column[rows].unflatten(1, (self.config.inner.episodes, self.ticks)) for column in columns
        )
        batch = told(self.policy, self.config, observation, action, torch.zeros_like(reward), reward, 1)
        own = {name: p[rows] for name, p in memory.parameters.items()}
        moved = step_of_trials(self.policy, own, batch, self.config.inner)
        return {name: p.index_copy(0, rows, moved[name]) for name, p in memory.parameters.items()}

    def _noise(self, rng: SlotRng) -> Tensor:
        """What an action needs of chance, `[B, A]`, from every trial's own stream."""
        head, size = self.policy.head, (self.policy.head.out.out_features,)
        drawn = -np.log1p(-rng.random(size)) if head.discrete else rng.normal(1.0, size)
        return torch.from_numpy(drawn).float()


def _choices(policy: Policy, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The action that the noise picks, and the most probable one."""
    params = policy.params(observation)
    return policy.head.place(params, noise), policy.head.sample(params, None)


def told(
    policy: Policy,
    config: Config,
    observation: Tensor,
    action: Tensor,
    log_prob: Tensor,
    reward: Tensor,
    group: int,
) -> Batch:
    """Episodes `[B, N, T, ...]` as a step learns from them; `group` neighbouring trials share a baseline."""
    ppo, shape = config.ppo, (-1, group * reward.shape[1], reward.shape[2])
    seen = policy.scaler(observation).reshape(*shape, observation.shape[-1])
    own = advantages(seen, reward.reshape(shape), ppo.discount, ppo.trace, config.ridge)
    return Batch(observation, action, log_prob, own.reshape(reward.shape))


class Collected(NamedTuple):
    """One iteration's episodes."""

    before: tuple[Batch, ...]  # what each inner step learns from
    after: Batch  # what the adapted policies played
    returns: tuple[float, float]  # mean return of an episode: of the first step's, and of those after adaptation


def begin_trials(env: Any, config: Config, seed: int) -> Array:
    """Begins a trial in every slot, neighbours in the same task; the first observations."""
    env.reset(seed=seed)
    tasks = [env.tasks[slot] for slot in range(0, config.trials, config.trials_per_task)]
    chosen = [task for task in tasks for _ in range(config.trials_per_task)]
    observation, _ = env.reset(seed=seed, options={"task": chosen})
    return observation


@torch.no_grad()
def play_episodes(
    policy: Policy, parameters: Parameters, env: Any, observation: Array, shape: tuple[int, int], draws: torch.Generator
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Array]:
    """`shape`: so many episodes of so many ticks in every slot, by its own parameters.

    Returns:
        Observations, actions, log probabilities, rewards `[B, N, T, ...]`, and what is seen next.
    """
    episodes, ticks = shape
    noise = policy.head.noise(episodes * ticks, env.num_envs, generator=draws)
    rows = []
    for now in noise:
        seen = torch.from_numpy(np.array(observation)).float()
        action, log_prob = of_trials(policy, parameters, reply, seen, now)
        observation, reward, *_ = env.step(policy.head.to_env(action))
        rows.append((seen, action, log_prob, torch.from_numpy(np.float32(reward))))
    seen, action, log_prob, reward = (
        torch.stack(column, dim=1).unflatten(1, (episodes, ticks)) for column in zip(*rows, strict=True)
    )
    return (seen, action, log_prob, reward), observation


def collect(policy: Policy, env: Any, config: Config, ticks: int, seed: int, draws: torch.Generator) -> Collected:
    """Plays and adapts one trial per slot."""
    observation, inner = begin_trials(env, config, seed), config.inner
    parameters = {n: p.detach().expand(config.trials, *p.shape) for n, p in policy.named_parameters()}
    before, returns = [], []
    for _ in range(inner.steps):
        columns, observation = play_episodes(policy, parameters, env, observation, (inner.episodes, ticks), draws)
        before.append(told(policy, config, *columns, 1))
        returns.append(float(columns[-1].sum(-1).mean()))
        with torch.no_grad():
            parameters = step_of_trials(policy, parameters, before[-1], inner)
    columns, _ = play_episodes(policy, parameters, env, observation, (config.after, ticks), draws)
    after = told(policy, config, *columns, config.trials_per_task)
    return Collected(tuple(before), after, (returns[0], float(columns[-1].sum(-1).mean())))


def unflattened(vector: Tensor, policy: Policy) -> Parameters:
    """A vector `[P]` as the policy's parameters, in its order."""
    own = dict(policy.named_parameters())
    parts = vector.split([p.numel() for p in own.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(own.items(), parts, strict=True)}


def flattened(policy: Policy) -> Tensor:
    """The policy's parameters as a vector `[P]`."""
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def surrogate(new: Answer, after: Batch) -> Tensor:
    """-mean_t A_t pi_{theta'}(a_t | s_t) / pi_{theta'_old}(a_t | s_t)."""
    return -((new.log_prob - after.log_prob).exp() * after.advantage).mean()


class TRPO:
    """The outer step as published: one natural gradient step and its line search.

    Args:
        policy: That learns, on its device.
        config: Settings.
        device: Whose form the functions have.
    """

    def __init__(self, policy: Policy, config: Config, device: Device):
        self.policy, self.config, self.device = policy, config, device
        self.find, self.judge = device.function(self._find), device.function(self._judge)

    def _answers(self, theta: Tensor, before: tuple[Batch, ...], after: Batch) -> Answer:
        with self.device.products():
            return answers(self.policy, unflattened(theta, self.policy), before, after, self.config.inner)

    def _find(self, theta: Tensor, before: tuple[Batch, ...], after: Batch) -> tuple[NaturalStep, Answer]:
        kept: list[Answer] = []

        def measured(at: Tensor) -> tuple[Tensor, Tensor]:
            new = self._answers(at, before, after)
            kept.append(Answer(*(column.detach() for column in new)))
            return surrogate(new, after), divergence(kept[0], new, self.policy.head.discrete)

        return natural_step(measured, theta, self.config.trpo), kept[0]

    @torch.no_grad()
    def _judge(self, theta: Tensor, old: Answer, before: tuple[Batch, ...], after: Batch) -> tuple[Tensor, Tensor]:
        new = self._answers(theta, before, after)
        return surrogate(new, after), divergence(old, new, self.policy.head.discrete)

    def improve(self, collected: Collected) -> dict[str, float]:
        """One step on an iteration's episodes; what is told of it."""
        before, after = self.device.put((collected.before, collected.after))
        theta = flattened(self.policy)
        found, old = self.find(theta, before, after)
        theta, metrics = line_search(lambda at: self.judge(at, old, before, after), theta, found, self.config.trpo)
        for name, part in unflattened(theta, self.policy).items():
            self.policy.get_parameter(name).data.copy_(part)
        return metrics | {"entropy": float(old.entropy.mean())}


class Proximal:
    """The outer step of ProMP's kind: passes of the clipped surrogate with Adam.

    Args:
        policy: That learns, on its device.
        config: Settings.
        device: Whose form the functions have.
    """

    def __init__(self, policy: Policy, config: Config, device: Device):
        self.policy, self.config, self.device = policy, config, device
        self.theta: Parameters = {name: parameter for name, parameter in policy.named_parameters()}  # noqa: C416
        self.optimiser = device.adam(self.theta.values(), config.ppo.learning_rate, eps=1e-5)
        self.run = device.function(self._passes)

    def _passes(
        self, before: tuple[Batch, ...], after: Batch, order: Tensor, left: Tensor | float
    ) -> dict[str, Tensor]:
        ppo, theta = self.config.ppo, self.theta
        set_rate(self.optimiser, ppo.learning_rate * left)

        def loss_of(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            learned = tuple(Batch(*(column[rows] for column in batch)) for batch in before)
            last = Batch(*(column[rows] for column in after))
            new = answers(self.policy, theta, learned, last, self.config.inner)
            loss, metrics = ppo_policy_loss(new.log_prob, last.log_prob, last.advantage, ppo.clip)
            entropy = new.entropy.mean()
            told = {"loss": loss.detach(), "entropy": entropy.detach()}
            return loss - ppo.entropy * left * entropy, metrics | told

        rows = (rows for one in order for rows in one.chunk(ppo.minibatches))
        return passes(self.device, self.optimiser, ppo, rows, loss_of)

    def improve(self, collected: Collected, left: float, draws: torch.Generator) -> dict[str, float]:
        """The passes over an iteration's trials; `left` is the share of the training that is left."""
        trials = len(collected.after.advantage)
        order = torch.stack([torch.randperm(trials, generator=draws) for _ in range(self.config.ppo.epochs)])
        metrics = self.run(*self.device.put((collected.before, collected.after, order)), left)
        return {name: float(value) for name, value in metrics.items()}


def check(config: Config) -> None:
    """ValueError in one sentence for what is not offered."""
    if config.form in ("compiled", "both"):
        raise ValueError(f"{NAME} differentiates through its inner step, which is not compiled; use --form eager")
    if config.outer not in ("trpo", "ppo"):
        raise ValueError(f"unknown outer step {config.outer!r} of {NAME}; available: trpo, ppo")


def fresh(config: Config, benchmark: str, seed: int) -> tuple[Policy, Any]:
    """The policy that a seed begins with, and the environment it plays in."""
    options = {"split": config.split, "episodes_per_task": config.episodes}
    env = make_viewed(benchmark, config.trials, config.view, **options)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    return Policy(config.network, env), env


def ticks_of(benchmark: str, view: ViewConfig) -> int:
    """Decisions of an episode."""
    return trial_length(NAME, benchmark, view) // metabench.spec(benchmark).episodes


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> Agent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits.

    An iteration depends on nothing but parameters, moments, seed and its own number.
    """
    check(config)
    device, ticks = Device.of(config), ticks_of(benchmark, config.view)
    checkpoint = run.begin(NAME, benchmark, config, seed)
    policy, env = fresh(config, benchmark, seed)
    if checkpoint:
        unpack(checkpoint.tensors, {"policy": policy}, {})
    learns = learner(policy, device)
    outer = (TRPO if config.outer == "trpo" else Proximal)(learns, config, device)
    optimisers = {} if isinstance(outer, TRPO) else {"adam": outer.optimiser}
    done = checkpoint.iteration if checkpoint else 0
    if checkpoint:
        unpack(checkpoint.tensors, {}, optimisers)
    steps = config.trials * config.episodes * metabench.spec(benchmark).horizon
    iterations = -(-config.frames // steps)
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start, env_seed = time.perf_counter(), (seed * 2**32 + iteration) * 2**20
            collected = collect(policy, env, config, ticks, env_seed, stream(seed, iteration, 0))
            played = time.perf_counter() - start
            if isinstance(outer, TRPO):
                metrics = outer.improve(collected)
            else:
                metrics = outer.improve(collected, 1.0 - iteration / iterations, stream(seed, iteration, 1))
            watch((learns,), torch.cat([batch.observation for batch in (*collected.before, collected.after)], dim=1))
            follow(policy, learns)
            before, after = collected.returns
            head = {"iteration": iteration + 1, "frames": (iteration + 1) * steps, "return": after, "before": before}
            speed = steps / (time.perf_counter() - start)
            run.log(head | metrics | {"time/frames_per_s": speed, "time/played_s": played})
            advance(iteration + 1, f"return {before:7.2f}, adapted {after:7.2f}   {speed / 1000:5.0f}k frames/s")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(iteration + 1, pack({"policy": policy}, optimisers), {})
    return deciding(Agent(policy, config, ticks), benchmark, config.view)


def load(path: Path) -> Agent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config, benchmark = read_config(Config, settings["config"]), settings["benchmark"]
    policy = Policy(config.network, make_viewed(benchmark, 1, config.view))
    unpack(checkpoint.tensors, {"policy": policy}, {})
    agent = Agent(policy, config, ticks_of(benchmark, config.view), settings["protocol"])
    return deciding(agent, benchmark, config.view)
