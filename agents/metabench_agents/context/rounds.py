"""MetaDreamer's learning in rounds: collect real episodes, fit the model of tasks, learn a policy in it alone.

A round's first part plays real tasks: with random held actions before there is a policy, then with guesses from the
prior and from the posterior, as PEARL does. The second fits encoder and decoder, and stops where episodes that are held
out are no longer foretold better; the third learns a policy by PPO in imagined tasks. A model that foretells held-out
steps hardly better than no model at all is not dreamt in: the policy stays as it was, and the log says so.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metabench_agents.context.collect import CollectionConfig, Collector
from metabench_agents.context.dreaming import DreamConfig, LatentGaussianPolicy, learn_in
from metabench_agents.context.imagination import factor_map
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.context.task_decoders import NeuralDecoder
from metabench_agents.context.task_encoder import TaskModel, TaskModelConfig, model_draws, model_loss
from metabench_agents.parts.disentanglement import mig, monotone_information
from metabench_agents.parts.fast.adam import Adam
from metabench_agents.parts.view import Sight

Array = npt.NDArray[Any]
CONTEXTS = 16  # windows of a task's data that beliefs about it are asked from


@dataclass(frozen=True)
class RoundsConfig:
    """How real data are divided, which tasks are imagined, and when a model is not to be trusted."""

    held_out: int = 1  # episodes of every task and round that only judge the model
    check: int = 100  # updates of the model between two judgements
    patience: int = 5  # judgements without a better one before the fit stops; the best model is kept
    least_skill: float = 0.3  # share of the variance of held-out steps that a model must explain to be dreamt in
    tasks: str = "box"  # imagined: "box" between the real ones, "lines" along one factor, "hull" of three, "real"
    real_share: float = field(default=0.0, metadata={"low": 0, "high": 1})  # of dreams that are of real tasks
    starts: str = "fresh"  # of imagined episodes: "fresh" ones of the task, or "one" that was seen in each real task
    doubt: float = 1.0  # times a belief's deviation that the policy's guess lies off the imagined task
    prior: float = field(default=0.0, metadata={"low": 0, "high": 1})  # share of dreams whose guess is of the prior


class Known(NamedTuple):
    """Of the R real tasks."""

    replay: TaskReplay  # transitions that are learned from
    held: TaskReplay  # that only judge
    starts: list[Tensor]  # [E, O] first observations of each task's episodes
    factors: Array  # [R, K] the tasks' parameters


def collect_round(
    policy: LatentGaussianPolicy,
    model: TaskModel,
    collector: Collector,
    known: Known,
    rows: Sequence[int],
    sight: Sight,
    config: CollectionConfig,
    model_context: int,
    held_out: int,
    generator: torch.Generator,
    first: bool,
) -> dict[str, float]:
    """One round's real episodes of every task; the last `held_out` of each are kept apart.

    Args:
        policy: Acts, but for the first round, whose decisions are uniform.
        model: Tells beliefs.
        collector: Plays.
        known: Is given the data.
        rows: The tasks' rows in the split.
        sight: What the policy is shown.
        config: How many episodes of which kind.
        model_context: Transitions that a belief is made from.
        held_out: Episodes of each task.
        generator: For latents and actions.
        first: Whether nothing has been learned yet.
    """
    count = len(rows)

    def prior(number: int) -> Tensor:
        return torch.randn(count, policy.latent, generator=generator)

    @torch.no_grad()
    def posterior(number: int) -> Tensor:
        belief = model.posterior(*known.replay.windows(range(count), model_context, generator))
        return belief.sample(torch.randn(belief.mean.shape, generator=generator))

    plan = [(prior, config.initial_episodes if first else config.prior_episodes)]
    if not first and config.posterior_episodes:
        plan.append((posterior, config.posterior_episodes))
    metrics: dict[str, float] = {}
    for number, (latent, episodes) in enumerate(plan):
        apart = min(held_out, episodes - 1) if number == 0 else 0
        for amount, replay in ((episodes - apart, known.replay), (apart, known.held)):
            if not amount:
                continue
            played = collector.play(policy, rows, latent, amount, generator, sight, blind=first)
            for task, new in enumerate(played.rows):
                replay.add(task, new, context=True)
                mine = played.every_start[played.owner == task]
                known.starts[task] = torch.cat((known.starts[task], mine))
            if replay is known.replay:
                metrics["return_posterior" if number else "return_prior"] = float(played.returns.mean())
    return metrics


@torch.no_grad()
def beliefs(model: TaskModel, replay: TaskReplay, context: int, generator: torch.Generator) -> DiagonalGaussian:
    """`[R, C, L]` about every task after windows of its data."""
    tasks = [task for task in range(len(replay)) for _ in range(CONTEXTS)]
    belief = model.posterior(*replay.windows(tasks, context, generator))
    return DiagonalGaussian(*(column.unflatten(0, (-1, CONTEXTS)).clone() for column in belief))


def everything(replay: TaskReplay) -> tuple[Transitions, Tensor]:
    """All transitions of a replay, and whose they are."""
    kept = [rows[: min(count, replay.capacity)] for rows, count in zip(replay.rows, replay.count, strict=True)]
    owner = torch.cat([torch.full((len(rows),), task) for task, rows in enumerate(kept)])
    return Transitions.unpack(torch.cat(kept), *replay.sizes), owner


@torch.no_grad()
def judge(model: TaskModel, known: Known, context: int, generator: torch.Generator) -> dict[str, float]:
    """How a model foretells steps that it has not learned from, given beliefs about their tasks from such steps.

    `skill` is the share of the variance of next observations (beyond the columns' mean change) and rewards that is
    explained, the least of both; `acceleration` is in m/s^2 (the root mean square over velocities) where there are any.
    """
    decoder, (seen, owner) = model.decoder, everything(known.held)
    z = beliefs(model, known.held, context, generator).mean.mean(1)[owner]
    told = decoder.told(seen.observation, seen.action, z, seen.terminal)
    error = (told.next_observation - seen.next_observation) / decoder.units.step
    change = (seen.next_observation - seen.observation - decoder.units.center) / decoder.units.step
    moving = change.std(0) > 1e-4
    state = 1.0 - float((error[:, moving] ** 2).mean() / (change[:, moving] ** 2).mean().clamp_min(1e-8))
    off = told.reward - seen.reward
    reward = 1.0 - float((off**2).mean() / seen.reward.var().clamp_min(1e-8))
    metrics = {
        "state_skill": state,
        "reward_skill": reward,
        "skill": min(state, reward),
        "reward": float((off**2).mean().sqrt()),
        "ends_wrong": float(((told.ends > 0) != (seen.terminal > 0)).float().mean()),
        "ends": float(seen.terminal.mean()),
    }
    if hasattr(decoder, "velocity"):
        velocity: Any = decoder.velocity
        wrong = (told.next_observation - seen.next_observation)[:, velocity] / decoder.dt  # pyright: ignore
        metrics["acceleration"] = float((wrong**2).mean().sqrt())
    return metrics


def fit_round(
    model: TaskModel, known: Known, config: TaskModelConfig, rounds: RoundsConfig, seed: Sequence[int]
) -> dict[str, float]:
    """Fits encoder and decoder until held-out steps are no longer foretold better; the best model is kept."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    optimiser = Adam(model.parameters(), lr=config.learning_rate, fused=True)
    tasks = list(range(len(known.replay)))
    twice = [task for task in tasks for _ in range(2)]
    factors = _scaled(known.factors) if config.supervision else None
    best, kept, since, done, metrics = float("inf"), copy.deepcopy(model.state_dict()), 0, 0, {}
    while done < config.updates and since < rounds.patience:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (1.0 - done / config.updates)
        context, lengths = known.replay.windows(twice, config.context, generator)
        context = Transitions(*(column.unflatten(0, (len(tasks), 2)) for column in context))
        seen = known.replay.sample(tasks, config.targets, generator)
        starts = _some_starts(known.starts, generator) if config.starts else None
        lengths = lengths.view(-1, 2)
        draws = model_draws(lengths, model.latent, generator)
        loss, metrics = model_loss(model, context, lengths, seen, config, draws, starts=starts, factors=factors)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        done += 1
        if done % rounds.check == 0 or done == config.updates:
            held = judge(model, known, config.context, generator)
            score = -held["state_skill"] - held["reward_skill"] + held["ends_wrong"]
            since += 1
            if score < best:
                best, kept, since = score, copy.deepcopy(model.state_dict()), 0
    model.load_state_dict(kept)
    held = judge(model, known, config.context, generator)
    return {f"model_{name}": float(value) for name, value in (metrics | {"updates": done}).items()} | {
        f"held_{name}": value for name, value in held.items()
    }


def _scaled(factors: Array) -> Tensor:
    spread = factors.std(0)
    return torch.as_tensor((factors - factors.mean(0)) / np.where(spread > 0, spread, 1.0), dtype=torch.float32)


def _some_starts(starts: Sequence[Tensor], generator: torch.Generator, count: int = 8) -> Tensor:
    """`[T, count, O]` of every task's first observations."""
    return torch.stack([own[torch.randint(len(own), (count,), generator=generator)] for own in starts])


class ImaginedTasks:
    """The world that a policy dreams in: latent tasks about the real ones, their first states, the decoder's steps.

    Args:
        decoder: The generative model.
        belief: `[R, C, L]` about the real tasks.
        known: Of the real tasks.
        config: Which tasks are imagined.
    """

    def __init__(self, decoder: NeuralDecoder, belief: DiagonalGaussian, known: Known, config: RoundsConfig):
        if config.tasks not in ("box", "lines", "hull", "real"):
            raise ValueError(f"unknown imagined tasks {config.tasks!r}; available: box, lines, hull, real")
        if config.starts not in ("fresh", "one"):
            raise ValueError(f"unknown imagined starts {config.starts!r}; available: fresh, one")
        self.decoder, self.config = decoder, config
        self.centers, self.deviation = belief.mean.mean(1), belief.variance.mean((0, 1)).sqrt()
        self.starts = known.starts
        self.first = torch.stack([own[0] for own in known.starts])
        self.dimensions = list(factor_map(belief, known.factors)) if config.tasks in ("box", "lines") else []
        along = self.centers[:, self.dimensions]
        self.low, self.high = (along.amin(0), along.amax(0)) if self.dimensions else (along, along)

    def latents(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Imagined tasks `[B, L]`, and the real one `[B]` that each has most of."""
        base = torch.randint(len(self.centers), (count,), generator=generator)
        z = self.centers[base].clone()
        if self.config.tasks == "real":
            return z, base
        if self.config.tasks == "hull":
            others = torch.randint(len(self.centers), (count, 2), generator=generator)
            weight = torch.rand(count, 3, generator=generator).log().neg() ** 2  # of squared exponentials: near corners
            weight = weight / weight.sum(1, keepdim=True)
            mixed = (weight[:, 1:, None] * self.centers[others]).sum(1) + weight[:, :1] * z
        else:
            share = torch.rand(count, len(self.dimensions), generator=generator)
            inside, mixed = self.low + share * (self.high - self.low), z.clone()
            if self.config.tasks == "lines":  # one dimension at a time, as the paper has it
                one = torch.randint(len(self.dimensions), (count,), generator=generator)
                moved = torch.nn.functional.one_hot(one, len(self.dimensions)).bool()
                mixed[:, self.dimensions] = torch.where(moved, inside, z[:, self.dimensions])
            else:
                mixed[:, self.dimensions] = inside
        real = torch.rand(count, 1, generator=generator) < self.config.real_share
        return torch.where(real, z, mixed), base

    def begin(self, count: int, generator: torch.Generator) -> tuple[Any, Tensor, Tensor]:
        """Fresh episodes of imagined tasks; see `dreaming.World`."""
        z, base = self.latents(count, generator)
        if self.config.starts == "one":
            start = self.first[base]
        else:
            start = self.decoder.fresh_starts(z, self.starts, self.centers, generator)
        noise = torch.randn(z.shape, generator=generator)
        guess = z + self.config.doubt * self.deviation * noise
        unknowing = torch.rand(count, 1, generator=generator) < self.config.prior
        return self.decoder.enter(start, z), torch.where(unknowing, noise, guess), start

    def hold(self, state: Any, action: Tensor, alive: Tensor, steps: int) -> tuple[Any, Tensor, Tensor, int]:
        """Steps of the decoder."""
        return self.decoder.hold(state, action, alive, steps)

    def observe(self, state: Any) -> Tensor:
        """`[B, O]`."""
        return self.decoder.observe(state)


@torch.no_grad()
def dream_round(
    policy: LatentGaussianPolicy,
    model: TaskModel,
    known: Known,
    sight: Sight,
    context: int,
    rounds: RoundsConfig,
    config: DreamConfig,
    generator: torch.Generator,
) -> dict[str, float]:
    """Learns the policy in imagined tasks, in place."""
    belief = beliefs(model, known.replay, context, generator)
    world = ImaginedTasks(model.decoder, belief, known, rounds)
    _, _, imagined = world.begin(2000, generator)
    seen, _ = everything(known.replay)
    elapsed = torch.rand(len(imagined) + len(seen.reward), generator=generator) * sight.horizon
    policy.features.fit(sight(torch.cat((imagined, seen.observation)), elapsed))
    with torch.enable_grad():
        metrics = learn_in(policy, world, sight, config, generator)
    means, factors = belief.mean.flatten(0, 1).numpy(), np.repeat(known.factors, belief.mean.shape[1], axis=0)
    told = monotone_information(means, factors).max(axis=1)  # by each factor's best dimension, in nats
    return metrics | {"mig": mig(means, factors), "factor_information": float(told.min())}
