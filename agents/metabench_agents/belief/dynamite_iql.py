"""DynaMITE-RL offline: inference from a fixed dataset, then implicit Q-learning on observation and belief.

Sources: Liang et al. 2024 (arXiv 2402.15957), whose abstract names "online and offline RL settings"; Kostrikov et al.
2022, "Offline Reinforcement Learning with Implicit Q-Learning" (arXiv 2110.06169). What the paper ran offline could not
be read here; that the author's early code rolls out IQL on top of the belief is known (second-hand). So:

1. The model of `dynamite` (three parts, termination head) is trained on the dataset's trials; session ends are labels.
2. Every trial is relabelled with its beliefs; the policy's state is (o_t, q(m | tau_{:t})).
3. IQL: V by expectile regression on min Q (eq. 5), Q by regression on r + gamma V (eq. 6), the policy by
   advantage-weighted regression, exp(beta (Q - V)) log pi (eq. 7), all on batches of single steps.

Two baselines are the same file with a switch: `memory` "none" is IQL on the observation alone, `policy` "bc" is
behaviour cloning. Deviations, with reasons:
- Nothing follows a trial's last step: trials have a known length and the return to maximise is theirs.
- Rewards are divided by the root mean square of the discounted return to go in the dataset.
- Q reads the action as code, one-hot for Discrete, so that one network serves both kinds of spaces.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench import Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.belief.model import MODEL_RENAMED, FitConfig, Fitting, ModelConfig, resolve_reward_loss
from metabench_agents.belief.policy import BeliefActorCritic, BeliefAgent
from metabench_agents.belief.sessions import SessionConfig, SessionModel, elbo
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device, descend, follow, learner
from metabench_agents.parts.layers import ActionHead, action_size, encode_action, linear
from metabench_agents.parts.losses import advantage_weighted_loss, expectile_loss, next_reward_scale
from metabench_agents.parts.memory import TrialBuffer, Trials, read_trials, trial_length
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, stream, unpack

NAME = "dynamite-iql"
MEMORIES, POLICIES = ("belief", "none"), ("iql", "bc")
BLOCK = 100  # gradient steps of IQL to an iteration


@dataclass(frozen=True)
class IQLConfig:
    """Settings of implicit Q-learning; behaviour cloning has no discount, expectile, temperature nor targets."""

    updates: int = 10_000  # gradient steps
    batch: int = 256  # steps of a batch
    learning_rate: float = 1e-3  # Adam's for policy, value and critics
    discount: float = 0.95  # gamma
    expectile: float = 0.8  # of the value's regression; 0.5 is the mean
    temperature: float = 3.0  # beta: how sharply the policy prefers better actions
    max_weight: float = 100.0  # of a step in the policy's regression
    target_rate: float = 0.005  # share of the target critics' way to the critics per step


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    dataset: str = "metabench/grid-switch/replay-v0"  # what it learns from; `metabench dataset generate` makes it
    memory: str = "belief"  # what the policy sees beside the observation: belief, or none
    policy: str = "iql"  # or bc: behaviour cloning
    iql: IQLConfig = field(default_factory=IQLConfig)  # how the policy learns
    width: int = 128  # of the policy's, value's and critics' two hidden layers
    model: ModelConfig = field(default_factory=ModelConfig)  # encoder, decoders and VariBAD's share of the ELBO
    sessions: SessionConfig = field(default_factory=SessionConfig)  # DynaMITE's three parts and the termination head
    fit: FitConfig = field(default_factory=lambda: FitConfig(5e-3, 1500))  # how the model learns, before IQL begins


# What settings were called before they were grouped, where they were called otherwise.
RENAMED = MODEL_RENAMED | {"updates": "iql.updates", "learning_rate": "iql.learning_rate"}


class Critics(nn.Module):
    """Two Q functions of (observation, belief, action) and a V of (observation, belief)."""

    def __init__(self, inputs: int, actions: int, width: int):
        super().__init__()

        def net(columns: int) -> nn.Sequential:
            hidden = (linear(columns, width), nn.ReLU(), linear(width, width), nn.ReLU())
            return nn.Sequential(*hidden, linear(width, 1, gain=1.0))

        self.first, self.second, self.value = net(inputs + actions), net(inputs + actions), net(inputs)

    def q(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, I]` and encoded actions `[B, A]` to both Qs `[B]`."""
        x = torch.cat((state, action), dim=-1)
        return self.first(x)[..., 0], self.second(x)[..., 0]


class IQLSteps(NamedTuple):
    """All steps of the dataset with the policy's inputs, one row each."""

    observation: Tensor  # [N, O]
    belief: Tensor  # [N, P] features; no columns without memory
    action: Tensor  # [N] or [N, A] in the policy's units
    code: Tensor  # [N, A] encoded for the critics
    reward: Tensor  # [N] scaled
    next_observation: Tensor  # [N, O]
    next_belief: Tensor  # [N, P]
    last: Tensor  # [N] bool: the trial is over


class IQLNetworks(nn.Module):
    """Policy, critics and their targets."""

    def __init__(self, env: Any, belief: int, reading: int, width: int):
        super().__init__()
        self.actor = BeliefActorCritic(env, belief, width, reading)
        inputs = env.single_observation_space.shape[0] + belief + reading
        self.critics = Critics(inputs, action_size(env.single_action_space), width)
        self.targets = Critics(inputs, action_size(env.single_action_space), width)
        self.targets.load_state_dict(self.critics.state_dict())
        self.targets.requires_grad_(False)

    def state(self, observation: Tensor, belief: Tensor) -> Tensor:
        """What the critics read: scaled observation and belief."""
        return torch.cat(self.actor.scaled(observation, belief), dim=-1)

    def follow(self, rate: float) -> None:
        """Moves the target critics a little towards the critics."""
        with torch.no_grad():
            for target, own in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.lerp_(own, rate)


def make_learner(config: Config, env: Any, model: SessionModel | None) -> IQLNetworks:
    """For what the model's beliefs show, or for no memory."""
    if model is None:
        return IQLNetworks(env, 0, 0, config.width)
    return IQLNetworks(env, model.latent.parameters, model.base.reading, config.width)


def loss(learner: IQLNetworks, kind: str, config: IQLConfig, batch: IQLSteps) -> tuple[Tensor, dict[str, Tensor]]:
    """IQL: expectile loss of V + squared errors of both Qs + weighted regression of the policy (or plain cloning)."""
    params, _ = learner.actor(batch.observation, batch.belief)
    log_prob = learner.actor.policy.log_prob(params, batch.action)
    if kind == "bc":
        cloning = -log_prob.mean()
        return cloning, {"policy_loss": cloning.detach()}
    state = learner.state(batch.observation, batch.belief)
    value = learner.critics.value(state)[..., 0]
    with torch.no_grad():
        best = torch.minimum(*learner.targets.q(state, batch.code))
        following = learner.critics.value(learner.state(batch.next_observation, batch.next_belief))[..., 0]
        target = batch.reward + config.discount * torch.where(batch.last, 0.0, following)
    value_loss, metrics = expectile_loss(best - value, config.expectile)
    first, second = learner.critics.q(state, batch.code)
    critic_loss = ((first - target) ** 2 + (second - target) ** 2).mean()
    advantage = (best - value).detach()
    policy_loss, more = advantage_weighted_loss(log_prob, advantage, config.temperature, config.max_weight)
    parts = {"value_loss": value_loss, "critic_loss": critic_loss, "policy_loss": policy_loss}
    metrics |= more | {name: part.detach() for name, part in parts.items()}
    return value_loss + critic_loss + policy_loss, metrics


class MemorylessAgent:
    """The trained policy without memory: sees the observation alone. Takes the most probable action."""

    name, track = NAME, "offline"

    def __init__(self, actor: BeliefActorCritic, protocol: str = PROTOCOL_VERSION):
        self.actor, self.protocol = actor.eval(), protocol

    def begin(self, num_trials: int) -> None:
        """Nothing to remember."""
        return None

    @torch.inference_mode()
    def act(self, step: Timestep, belief: None) -> tuple[np.ndarray, None]:
        """Actions for this tick."""
        observation = torch.as_tensor(step.observation).float()
        params, _ = self.actor(observation, observation.new_zeros(len(observation), 0))
        return self.actor.policy.to_env(self.actor.policy.sample(params, None)), None


def relabel(trials: Trials, model: SessionModel | None, policy: ActionHead, discount: float) -> tuple[IQLSteps, float]:
    """The trials' steps with the beliefs at and after them; and what rewards were divided by."""
    ticks, count = trials.reward.shape
    belief = torch.zeros(ticks, count, 0)
    if model is not None:
        with torch.no_grad():
            parts = [model.beliefs(part) for part in trials.split(256)]
        belief = model.base.read(torch.cat(parts, dim=1), trials.observation.float())
    scale = next_reward_scale(1.0, trials.reward, discount, 0)
    last = torch.zeros(ticks, count, dtype=torch.bool)
    last[-1] = True
    action = policy.from_env(trials.action)
    code = encode_action(trials.action, policy.space)
    following = torch.cat((belief[1:], belief[-1:]))
    after = torch.cat((trials.observation[1:], trials.next_observation[-1:]))
    columns = (trials.observation, belief, action, code, trials.reward / scale, after, following, last)
    return IQLSteps(*(column.flatten(0, 1) for column in columns)), scale


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> BeliefAgent | MemorylessAgent:
    """Trains on the dataset and returns the agent; continues the run in `run.folder` to the same bits.

    The model is trained first and kept in the first checkpoint; then IQL, `BLOCK` updates to an iteration.
    """
    checkpoint = run.begin(NAME, benchmark, config, seed)
    for name, value, known in (("memory", config.memory, MEMORIES), ("policy", config.policy, POLICIES)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; there are {' and '.join(known)}")
    env = metabench.make_vec(benchmark, 1)
    trials = read_trials(NAME, config.dataset, benchmark, env.single_action_space)
    model_config = resolve_reward_loss(config.model, benchmark)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    model = None
    if config.memory == "belief":
        model = SessionModel(config.sessions, model_config, env, len(trials.reward))
    device, plays = Device.of(config), make_learner(config, env, model)
    networks = learner(plays, device)
    modules: dict[str, nn.Module] = {"learner": networks}
    if model:
        modules["model"] = model
    trained = [p for p in networks.parameters() if p.requires_grad]
    optimiser, done = device.adam(trained, config.iql.learning_rate), 0
    if checkpoint:
        done = checkpoint.iteration
        unpack(checkpoint.tensors, modules, {"adam": optimiser})
    elif model:
        run.log(fit_model(model, config.fit, trials, stream(seed, 0), device))
    steps, _ = relabel(trials, model, plays.actor.policy, config.iql.discount)
    if model and not checkpoint:
        networks.actor.watch(steps.belief)
    if not checkpoint:
        run.save(0, pack(modules, {"adam": optimiser}), {})
    improving = Improving(networks, optimiser, config, steps, device)
    iterations = -(-config.iql.updates // BLOCK)
    with run.progress(iterations, done, f"x {BLOCK} updates") as advance:
        for iteration in range(done, iterations):
            start, generator = time.perf_counter(), stream(seed, 1, iteration)
            metrics = improving.improve(generator)
            rate = BLOCK / (time.perf_counter() - start)
            run.log(
                {"iteration": iteration + 1, "updates": (iteration + 1) * BLOCK}
                | metrics
                | {"time/updates_per_s": rate}
            )
            advance(iteration + 1, f"policy loss {metrics['policy_loss']:6.3f}   {rate:5.0f} updates/s")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(iteration + 1, pack(modules, {"adam": optimiser}), {})
    follow(plays, networks)
    return make_agent(plays, model)


def make_agent(
    learner: IQLNetworks, model: SessionModel | None, protocol: str = PROTOCOL_VERSION
) -> BeliefAgent | MemorylessAgent:
    """The policy on its memory, if it has one."""
    if model is None:
        return MemorylessAgent(learner.actor, protocol)
    return BeliefAgent(NAME, model.base, learner.actor, protocol, track="offline")


def fit_model(
    model: SessionModel, config: FitConfig, trials: Trials, generator: torch.Generator, device: Device | None = None
) -> dict[str, float]:
    """Trains inference on the dataset's trials; the last metrics' means."""
    device, buffer = device or Device(), TrialBuffer(trials.reward.shape[1])
    learns = learner(model, device)
    buffer.add(trials)
    adam = device.adam(learns.parameters(), config.learning_rate)
    fitting = Fitting(learns, elbo, adam, config, device)
    metrics = fitting.fit(buffer, config.updates, (config.learning_rate, 0.0), generator)
    follow(model, learns)
    return metrics


class Improving:
    """Gradient steps of IQL on a dataset's steps, in the form of a device.

    Args:
        networks: On the device; changed in place.
        optimiser: Of those that learn by gradients.
        config: The settings.
        steps: The dataset, on the CPU.
        device: Where it learns.
    """

    def __init__(
        self, networks: IQLNetworks, optimiser: torch.optim.Optimizer, config: Config, steps: IQLSteps, device: Device
    ):
        self.networks, self.optimiser, self.config, self.device = networks, optimiser, config, device
        self.steps: IQLSteps = device.put(steps)
        self.loss, self.updates = device.compiled(loss), device.updates(self.step)

    def step(self, rows: Tensor) -> dict[str, Tensor]:
        """One on some steps `[B]`, as a pure function."""
        config, batch = self.config, IQLSteps(*(column[rows] for column in self.steps))
        with self.device.products():
            total, metrics = self.loss(self.networks, config.policy, config.iql, batch)
        descend(total, self.optimiser)
        self.networks.follow(config.iql.target_rate)
        return metrics

    def improve(self, generator: torch.Generator) -> dict[str, float]:
        """`BLOCK` of them on random batches; returns the metrics' means."""
        for _ in range(BLOCK):
            self.updates.add(torch.randint(len(self.steps.reward), (self.config.iql.batch,), generator=generator))
        return self.updates.means()


def improve(
    networks: IQLNetworks, config: Config, steps: IQLSteps, optimiser: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, float]:
    """`Improving.improve` on the CPU."""
    return Improving(networks, optimiser, config, steps, Device()).improve(generator)


def load(path: Path) -> BeliefAgent | MemorylessAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    record, checkpoint = load_config(path), load_checkpoint(path)
    config, benchmark = read_config(Config, record["config"], RENAMED), record["benchmark"]
    env, model = metabench.make_vec(benchmark, 1), None
    if config.memory == "belief":
        model = SessionModel(config.sessions, config.model, env, trial_length(NAME, benchmark))
    learner = make_learner(config, env, model)
    unpack(checkpoint.tensors, {"learner": learner} | ({"model": model} if model else {}), {})
    return make_agent(learner, model, record["protocol"])
