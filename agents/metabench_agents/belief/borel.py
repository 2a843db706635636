"""BOReL: VariBAD from data alone, with rewards relabelled, and soft actor-critic on observation and belief.

Source: Dorfman, Shenfeld & Tamar 2021, "Offline Meta Reinforcement Learning: Identifiability Challenges and Effective
Data Collection Strategies" (NeurIPS 2021, arXiv 2008.02598) and its code release (BOReL):

1. Reward relabelling (3.3): data of a task is also given the rewards of other tasks. Where the behaviour of a task
   tells the task (the goal lies where the data lies), rewards would otherwise go unread: "MDP ambiguity". It needs the
   true reward function.
2. VariBAD's ELBO (arXiv 1910.08348) on these trials.
3. State relabelling: every trial's steps get the belief at them, (o_t, q(m | tau_{:t})), the hyper-state.
4. SAC on the hyper-states of the data, no step being played.

Deviations, with reasons:
- Where the task changes inside a trial, every session gets another task of its own, by the benchmark's own law: borders
  stay, what lies between is anew. On GridSwitch the candidates are seen, so the one that pays is what changes.
- Rewards are relabelled from the observations (`metabench.yardsticks.rewards`): data sets hold no simulator states at
  every step. So it runs where the reward is a function of what is seen.
- Discrete actions by SAC's discrete form instead of DQN.
- Nothing follows a trial's last step; rewards are divided by the root mean square of the discounted return to go.
- What `varibad` lists of the model: `reading`, `products`, subsampled terms.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench.rng import SlotRng
from metabench.tasks import stack
from metabench.yardsticks.rewards import seen_reward
from metabench_agents.belief.model import MODEL_RENAMED, FitConfig, Fitting, ModelConfig, resolve_reward_loss
from metabench_agents.belief.policy import BeliefAgent
from metabench_agents.belief.sessions import SessionConfig, SessionModel, elbo
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.device import follow as copy_to
from metabench_agents.parts.device import learner as learning
from metabench_agents.parts.layers import RunningScaler, make_scaler, watch
from metabench_agents.parts.losses import next_reward_scale
from metabench_agents.parts.memory import TrialBuffer, Trials, read_trials, trial_length
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, stream, unpack
from metabench_agents.parts.soft import (
    SoftActor,
    SoftConfig,
    SoftCritics,
    check_space,
    critic_loss,
    entropy_target,
    follow,
    soft_value,
    step,
    temperature_loss,
)

NAME, BLOCK = "borel", 100  # gradient steps of SAC to an iteration
VARIBAD = SessionConfig(False, conditioning=False, masking=False, termination_weight=0.0)  # its ELBO is VariBAD's


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    dataset: str = "metabench/grid-switch/replay-v0"  # what it learns from; `metabench dataset generate` makes it
    relabelled: int = 1  # copies of every trial with the rewards of other tasks; 0 for none
    model: ModelConfig = field(default_factory=ModelConfig)  # encoder, decoders and ELBO
    fit: FitConfig = field(default_factory=lambda: FitConfig(5e-3, 1500))  # how the model learns, before SAC begins
    sac: SoftConfig = field(default_factory=lambda: SoftConfig(learning_rate=1e-3, discount=0.95))  # and the policy
    updates: int = 10_000  # gradient steps of SAC
    batch: int = 256  # steps of a batch
    width: int = 128  # of the policy's and critics' two hidden layers


class HyperActor(nn.Module):
    """The policy on observation and belief, and how both are scaled for it and for the critics."""

    def __init__(self, env: Any, belief: int, reading: int, width: int):
        super().__init__()
        self.scaler, self.belief_scaler = make_scaler(env.single_observation_space, True), RunningScaler(belief)
        self.columns, self.inputs = belief, env.single_observation_space.shape[0] + belief + reading
        self.policy = SoftActor(self.inputs, width, env.single_action_space)

    def state(self, observation: Tensor, belief: Tensor) -> Tensor:
        """The hyper-state `[..., O + P]`, scaled."""
        features, rest = belief[..., : self.columns], belief[..., self.columns :]
        return torch.cat((self.scaler(observation), self.belief_scaler(features), rest), dim=-1)

    def forward(self, observation: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the policy `[..., A]`, and zeros in place of a value."""
        params = self.policy(self.state(observation, belief))
        return params, params.new_zeros(params.shape[:-1])


class Learner:
    """Everything that SAC learns, and its optimisers, on their device; `acts` is the actor that plays, on the CPU."""

    def __init__(self, config: Config, env: Any, model: SessionModel, device: Device | None = None):
        self.space, rate, self.device = env.single_action_space, config.sac.learning_rate, device or Device()
        self.acts = HyperActor(env, model.latent.parameters, model.base.reading, config.width)
        self.actor = learning(self.acts, self.device)
        self.critic = self.device.place(SoftCritics(self.actor.inputs, config.width, self.space))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.alpha = self.device.place(
            nn.ParameterDict({"log": nn.Parameter(torch.tensor(math.log(config.sac.temperature)))})
        )
        self.modules = {"actor": self.actor, "critic": self.critic, "target": self.target, "alpha": self.alpha}
        trained = {"actor": self.actor, "critic": self.critic, "alpha": self.alpha}
        self.optimisers = {f"{n}_adam": self.device.adam(m.parameters(), rate) for n, m in trained.items()}


class HyperSteps(NamedTuple):
    """All steps of the data as hyper-states, one row each."""

    observation: Tensor  # [N, O]
    belief: Tensor  # [N, P]
    action: Tensor  # [N] or [N, A] in the policy's units
    reward: Tensor  # [N] scaled
    next_observation: Tensor  # [N, O]
    next_belief: Tensor  # [N, P]
    last: Tensor  # [N] bool: the trial is over


def columns_of(context: Any) -> list[Any]:
    """A context's fields, `[B]` each, in the order in which they are exposed."""
    return [getattr(context, one.name) for one in fields(context)]


def other_tasks(benchmark: str, trials: Trials, seed: int) -> np.ndarray:
    """`[S, B, K]` a task for each of the S sessions of each trial, by the benchmark's own law, from other tasks."""
    chosen, count = metabench.spec(benchmark), trials.reward.shape[1]
    table, drift, rng = chosen.table(), chosen.drift("train"), SlotRng.counting(seed, count)
    values = table.draw(rng, "train").values
    if type(chosen.family()).__name__ == "GridSwitch":  # the task is seen; only who pays is not
        cells = trials.observation[0, :, 2:6].numpy().reshape(count, 2, 2)
        values = np.array(values)
        values[:, :2] = cells[..., 0] * 5 + cells[..., 1]
    context = drift.begin(stack(table.context_type, values), rng)
    tasks = []
    for _ in range(int(trials.session.max()) + 1):
        tasks.append(np.stack([np.asarray(column, np.float64) for column in columns_of(context)], axis=1))
        context = context if drift.constant else drift.change(context, rng)
    return np.stack(tasks)


def relabel_rewards(benchmark: str, trials: Trials, seed: int) -> Trials:
    """The same trials as other tasks would have rewarded them."""
    tasks = other_tasks(benchmark, trials, seed)
    contexts = tasks[trials.session.numpy(), np.arange(trials.reward.shape[1])]  # [T, B, K]
    before, action, after = trials.observation, trials.action, trials.next_observation
    before, action, after = (x.double().numpy() for x in (before, action, after))
    reward = seen_reward(benchmark)(before, action, after, contexts)
    return Trials(**{**vars(trials), "reward": torch.from_numpy(reward).float()})


def joined(parts: list[Trials]) -> Trials:
    """Trials side by side."""
    return Trials(**{name: torch.cat([vars(part)[name] for part in parts], dim=1) for name in vars(parts[0])})


def hyper_steps(trials: Trials, model: SessionModel, policy: SoftActor, discount: float) -> HyperSteps:
    """State relabelling: the trials' steps with the beliefs at and after them."""
    with torch.no_grad():
        belief = torch.cat([model.beliefs(part) for part in trials.split(256)], dim=1)
    belief = model.base.read(belief, trials.observation.float())
    scale = next_reward_scale(1.0, trials.reward, discount, 0)
    last = torch.zeros_like(trials.reward, dtype=torch.bool)
    last[-1] = True
    following = torch.cat((belief[1:], belief[-1:]))
    after = torch.cat((trials.observation[1:], trials.next_observation[-1:]))
    action = policy.from_env(trials.action)
    columns = (trials.observation, belief, action, trials.reward / scale, after, following, last)
    return HyperSteps(*(column.flatten(0, 1) for column in columns))


def update(learner: Learner, batch: HyperSteps, sac: SoftConfig, drawn: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """One step of critics, policy and temperature, as a pure function; `drawn` for the actions after, and here."""
    actor, policy, alpha = learner.actor, learner.actor.policy, learner.alpha["log"].detach().exp()
    state, after = actor.state(batch.observation, batch.belief), actor.state(batch.next_observation, batch.next_belief)
    with torch.no_grad():
        following, _ = soft_value(policy, learner.target, policy(after), after, alpha, drawn[0])
        target = batch.reward + sac.discount * torch.where(batch.last, 0.0, following)
    value = learner.critic.taken(state, batch.action)
    loss = critic_loss(value, target)
    step(learner.optimisers["critic_adam"], loss, sac.max_grad_norm)
    soft, entropy = soft_value(policy, learner.critic, policy(state), state, alpha, drawn[1])
    step(learner.optimisers["actor_adam"], -soft.mean(), sac.max_grad_norm)
    gap = temperature_loss(learner.alpha["log"], entropy, entropy_target(learner.space, sac))
    step(learner.optimisers["alpha_adam"], gap, 0.0)
    follow(learner.target, learner.critic, sac.target_rate)
    means = {"value": value.mean(), "critic_loss": loss, "entropy": entropy.mean(), "alpha": alpha}
    return {name: mean.detach() for name, mean in means.items()}


class Improving:
    """Updates on the data's steps, in the form of the learner's device."""

    def __init__(self, learner: Learner, steps: HyperSteps, config: Config):
        self.learner, self.config, self.count = learner, config, len(steps.reward)
        self.steps: HyperSteps = learner.device.put(steps)
        self.updates = learner.device.updates(self.step)

    def step(self, rows: Tensor, drawn: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One on some steps `[B]`, as a pure function."""
        return update(self.learner, HyperSteps(*(column[rows] for column in self.steps)), self.config.sac, drawn)

    def improve(self, generator: torch.Generator) -> dict[str, float]:
        """`BLOCK` updates on random batches; the metrics' means."""
        size, policy = self.config.batch, self.learner.acts.policy
        for _ in range(BLOCK):
            rows = torch.randint(self.count, (size,), generator=generator)
            drawn = policy.chance(size, generator=generator), policy.chance(size, generator=generator)
            self.updates.add(rows, drawn)
        means = self.updates.means()
        copy_to(self.learner.acts, self.learner.actor)
        return means


def fit_model(
    model: SessionModel, config: FitConfig, trials: Trials, generator: torch.Generator, device: Device | None = None
) -> dict[str, float]:
    """Trains inference on all trials; the metrics' means."""
    device, buffer = device or Device(), TrialBuffer(trials.reward.shape[1])
    learns = learning(model, device)
    buffer.add(trials)
    fitting = Fitting(learns, elbo, device.adam(learns.parameters(), config.learning_rate), config, device)
    means = fitting.fit(buffer, config.updates, (config.learning_rate, 0.0), generator)
    copy_to(model, learns)
    return means


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> BeliefAgent:
    """Trains on the dataset and returns the agent; continues the run in `run.folder` to the same bits.

    The model is trained first and kept in the first checkpoint; then SAC, `BLOCK` updates to an iteration.
    """
    checkpoint, env = run.begin(NAME, benchmark, config, seed), metabench.make_vec(benchmark, 1)
    check_space(NAME, env.single_action_space)
    trials = read_trials(NAME, config.dataset, benchmark, env.single_action_space)
    first, start = (int(word) for word in np.random.SeedSequence([seed]).generate_state(2))
    copies = [relabel_rewards(benchmark, trials, start * 2**20 + k * 2**16) for k in range(config.relabelled)]
    trials = joined([trials, *copies])
    torch.manual_seed(first)
    model = SessionModel(VARIBAD, resolve_reward_loss(config.model, benchmark), env, len(trials.reward))
    learner, done = Learner(config, env, model, Device.of(config)), 0
    modules = learner.modules | {"model": model}
    if checkpoint:
        done = checkpoint.iteration
        unpack(checkpoint.tensors, modules, learner.optimisers)
    else:
        watch((model, learner.actor), trials.observation)
        run.log(fit_model(model, config.fit, trials, stream(seed, 0), learner.device))
    steps = hyper_steps(trials, model, learner.acts.policy, config.sac.discount)
    if not checkpoint:
        learner.actor.belief_scaler.update(steps.belief[:, : learner.actor.columns])
        run.save(0, pack(modules, learner.optimisers), {})
    copy_to(learner.acts, learner.actor)
    improving = Improving(learner, steps, config)
    iterations = -(-config.updates // BLOCK)
    with run.progress(iterations, done, f"x {BLOCK} updates") as advance:
        for iteration in range(done, iterations):
            began = time.perf_counter()
            metrics = improving.improve(stream(seed, 1, iteration))
            rate = BLOCK / (time.perf_counter() - began)
            head = {"iteration": iteration + 1, "updates": (iteration + 1) * BLOCK}
            run.log(head | metrics | {"time/updates_per_s": rate})
            advance(iteration + 1, f"value {metrics['value']:6.3f}   {rate:5.0f} updates/s")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(iteration + 1, pack(modules, learner.optimisers), {})
    return BeliefAgent(NAME, model.base, learner.acts, track="offline")


def load(path: Path) -> BeliefAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    record, checkpoint = load_config(path), load_checkpoint(path)
    config, benchmark = read_config(Config, record["config"], MODEL_RENAMED), record["benchmark"]
    env = metabench.make_vec(benchmark, 1)
    model = SessionModel(VARIBAD, config.model, env, trial_length(NAME, benchmark))
    learner = Learner(config, env, model)
    unpack(checkpoint.tensors, {"actor": learner.actor, "model": model}, {})
    return BeliefAgent(NAME, model.base, learner.actor, record["protocol"], track="offline")
