"""The updates that are checked and timed: every agent's, at published sizes, or at fake small ones for a rehearsal.

A work is made on a device in a form and with as many seeds, always from the same start and the same data; so two of
them can be compared number by number, and one of them can be timed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from metabench_agents import rl2
from metabench_agents.belief import sessions, varibad
from metabench_agents.belief.model import BeliefModel, Fitting
from metabench_agents.context import pearl
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.device import Device, Updates
from metabench_agents.parts.fast.sac import SAC, SACConfig, SeedSAC
from metabench_agents.parts.memory import Replay, Trials
from metabench_agents.parts.run import stream
from metabench_agents.sequence import bc
from metabench_agents.sequence.decision_transformer import (
    DecisionTransformer,
    DecisionTransformerSettings,
    TransformerFitting,
    TransformerTrainer,
)
from metabench_agents.sequence.episodes import Episodes, Prompt, Window, returns_to_go
from metabench_agents.sequence.world_model import (
    EpisodeSteps,
    WorldModel,
    WorldModelFitting,
    WorldModelSettings,
    WorldModelTrainer,
)
from torch import Tensor, nn

import metabench

GRID = "GridSwitch-v0"
HAS_MUJOCO = importlib.util.find_spec("mujoco") is not None
CHEETAH = "CheetahVel-v0" if HAS_MUJOCO else "PointRobot-v0"  # a machine without MuJoCo has the next best thing


@dataclass(frozen=True)
class Sizes:
    """Of all works."""

    sac_hidden: int = 256
    sac_batch: int = 256
    trials: int = 8192  # of RL2, all seeds together
    elbo_trials: tuple[int, ...] = (25, 512)
    pearl: tuple[int, int, int, int] = (16, 256, 100, 300)  # tasks, transitions, context, width
    transformer: tuple[int, int, int, int] = (3, 128, 20, 128)  # layers, width, K, batch
    world_width: int = 128
    rows: int = 4096  # of invented experience
    block: int = 10  # updates in a replay


PUBLISHED = Sizes()
SMALL = Sizes(16, 16, 16, (4,), (3, 8, 6, 16), (2, 16, 6, 4), 16, 256, 2)


class Making(NamedTuple):
    """One work, ready."""

    step: Callable[[], None]  # makes `units` of its units; may return before the device is done
    units: int
    metrics: Callable[[], dict[str, float]]  # of all steps since the last time; waits for the device
    tensors: Callable[[], Iterator[Tensor]]  # what is learned


def of_updates(updates: Updates, given: Callable[[int], tuple[Any, ...]], block: int, *modules: nn.Module) -> Making:
    """A work that adds updates, a block of them at a step."""
    numbers = iter(range(10**9))
    updates.resize(block)

    def step() -> None:
        for _ in range(block):
            updates.add(*given(next(numbers)))

    return Making(step, block, updates.means, lambda: (p for module in modules for p in module.parameters()))


def sac(device: Device, sizes: Sizes, seeds: int = 1) -> Making:
    """The soft actor-critic's update on a replay, at the sizes of a cheetah."""
    config, columns, actions = SACConfig(hidden=sizes.sac_hidden, batch=sizes.sac_batch), 17, 6
    members = [SAC(columns, actions, config, stream(seed), device) for seed in range(seeds)]
    replays = [Replay(sizes.rows, columns, actions, device.kind) for _ in members]
    for number, replay in enumerate(replays):
        rows = torch.randn(sizes.rows, replay.rows.shape[1], generator=stream(100, number))
        rows[:, -1] = 0.0
        replay.rows.copy_(rows)
        replay.written = sizes.rows
    together = SeedSAC(members) if seeds > 1 else None
    updates = together.updates(replays, sizes.block) if together else members[0].updates(replays[0], sizes.block)

    def given(number: int) -> tuple[Tensor, Tensor]:
        shape = (seeds,) if seeds > 1 else ()
        pick = torch.randint(sizes.rows, (*shape, config.batch), generator=stream(1, number))
        return pick, torch.randn(*shape, 2, config.batch, actions, generator=stream(2, number))

    made = of_updates(updates, given, sizes.block)
    state = together.state if together else members[0].state
    nets = [*state.actor, *state.critic, *state.target]
    means = (lambda: {n: float(v.mean()) for n, v in updates.mean_tensors().items()}) if together else made.metrics
    return made._replace(tensors=lambda: iter(nets), units=made.units * seeds, metrics=means)


def rl2_iteration(device: Device, sizes: Sizes, seeds: int = 1) -> Making:
    """RL2 on GridSwitch: playing and PPO, environments on the CPU; the unit is a frame."""
    trials = max(4, sizes.trials // seeds // 4 * 4)
    config = rl2.Config(trials=trials, network=rl2.NetworkConfig() if trials > 64 else rl2.NetworkConfig(16, 16, 16))
    numbers, told = iter(range(10**6)), {}
    if seeds > 1:
        learners = rl2.Seeds(GRID, config, list(range(seeds)), device)

        def step() -> None:
            told.update(learners.iterate(next(numbers), 1.0)[0])

        return Making(step, trials * seeds * 60, lambda: told, lambda: iter(learners.stack.parameters.values()))
    envs = rl2.vector_envs(GRID, trials, config, device)
    network = device.place(rl2.fresh(config, envs[0], 0))
    optimiser = device.adam(network.parameters(), config.ppo.learning_rate, eps=1e-5)
    act = device.function(lambda *asked: rl2.reply(network, *asked))
    passes = device.function(lambda *given: rl2.improve(network, optimiser, config.ppo, device, *given))
    batch = rl2.empty_rollout(network, envs[0], 60, trials)

    def alone() -> None:
        number = next(numbers)
        rl2.collect(network, envs, batch, rl2.env_seed(0, number), stream(0, number), device, act)
        order = rl2.orders(config.ppo, trials, stream(0, number, 1))
        told.update({name: float(value) for name, value in passes(batch, order, 1.0, 1.0, 1.0).items()})

    return Making(alone, trials * 60, lambda: told, network.parameters)


def invented_trials(ticks: int, count: int) -> Trials:
    """Random ticks of a grid, sessions included."""
    draws = stream(7)
    seen = torch.randint(5, (2, ticks, count, 6), generator=draws).float()
    first = torch.zeros(ticks, count, dtype=torch.bool)
    first[0] = True
    session = (torch.rand(ticks, count, generator=draws) < 0.07).long().cumsum(0)
    reward = (torch.rand(ticks, count, generator=draws) < 0.5).float()
    return Trials(seen[0], torch.randint(5, (ticks, count), generator=draws), reward, seen[1], first, session)


def elbo(device: Device, sizes: Sizes, agent: str, trials: int) -> Making:
    """A gradient step on VariBAD's or DynaMITE-RL's ELBO, all pairs of 60 beliefs and 60 transitions."""
    changes = {"model.terms": 0, "model.steps": 0, "model.reward_loss": "bernoulli"}
    env, config = metabench.make_vec(GRID, 1), with_settings(varibad.Config(), changes)
    torch.manual_seed(0)
    if agent == "varibad":
        model: Any = BeliefModel(config.model, env, 60)
        pure: Any = varibad.elbo
    else:
        model, pure = sessions.SessionModel(sessions.SessionConfig(), config.model, env, 60), sessions.elbo
    model = device.place(model)
    fitting = Fitting(model, pure, device.adam(model.parameters(), 1e-3), config.fit, device)
    batch, base = invented_trials(60, trials), model.base
    return of_updates(fitting.updates, lambda n: (batch, base.draw(batch, stream(n)), 1e-3), sizes.block, model)


def filled(state: Any, steps: int = 40) -> None:
    """Random experience for every task."""
    for task in range(len(state.replay)):
        state.replay.begin_context(task)
        rows = torch.randn(steps, state.replay.width, generator=stream(task))
        rows[:, -1] = 0.0
        state.replay.add(task, rows, context=True)


def pearl_update(device: Device, sizes: Sizes) -> Making:
    """PEARL's update at oyster's cheetah-vel sizes."""
    tasks, batch, context, width = sizes.pearl
    changes = {"meta_batch": tasks, "batch": batch, "encoder.context": context, "sac.hidden": width}
    config = with_settings(pearl.Config(**as_settings(device)), changes)
    state = pearl.build(CHEETAH, config, 0)
    filled(state, max(40, 2 * context))
    return of_updates(state.updates, lambda n: pearl.given(state, config, stream(n)), sizes.block, state.learner)


def as_settings(device: Device) -> dict[str, Any]:
    """What a `Config` says for a device."""
    return {"device": device.kind.type, "precision": device.precision, "form": device.form}


def transformer(device: Device, sizes: Sizes, prompted: bool = False) -> Making:
    """A decision transformer's update, dropout included."""
    layers, width, window, batch = sizes.transformer
    torch.manual_seed(0)
    network = DecisionTransformer(20, 6, 200, 0, DecisionTransformerSettings(layers, 1, width, window=window))
    trainer, draws = TransformerTrainer(network, TransformerFitting(), device), stream(4)

    def drawn(steps: int, *shape: int) -> Tensor:
        return torch.randn(batch, steps, *shape, generator=draws)

    time = torch.arange(window).expand(batch, window)
    columns = (drawn(window, 20), drawn(window, 0), torch.tanh(drawn(window, 6)), drawn(window), time)
    seen = Window(*columns, torch.ones(batch, window, dtype=torch.bool), drawn(window), drawn(window))
    shown = Prompt(drawn(5, 20), torch.tanh(drawn(5, 6)), drawn(5), time[:, :5]) if prompted else None

    def given(number: int) -> tuple[Any, ...]:
        key = torch.randint(2**62, (), generator=stream(number))
        return seen, shown, 1e-4, key

    return of_updates(trainer.updates, given, sizes.block, network)


def invented_episodes() -> Episodes:
    """Twenty episodes of twenty steps."""
    draws, length = stream(6), torch.full((20,), 20)
    first, rows = torch.arange(20) * 21, 20 * 21
    reward = torch.randn(rows, generator=draws)
    columns = torch.randn(rows, 20, generator=draws), torch.tanh(torch.randn(rows, 6, generator=draws)), reward
    return Episodes(*columns, returns_to_go(reward, first, length), first, length, torch.arange(20) % 4, 20)


def world_model(device: Device, sizes: Sizes) -> Making:
    """A step of Meta-DT's world model."""
    torch.manual_seed(0)
    model, episodes = (
        WorldModel(20, 6, WorldModelSettings(decoders="both", width=sizes.world_width)),
        invented_episodes(),
    )
    steps = EpisodeSteps(episodes, model)
    trainer = WorldModelTrainer(model, steps, steps, WorldModelFitting(), device)
    return of_updates(trainer.updates, lambda n: trainer.given(stream(n)), sizes.block, trainer.model)


def cloning(device: Device, sizes: Sizes) -> Making:
    """A step of behaviour cloning."""
    torch.manual_seed(0)
    network = device.place(bc.CloningPerceptron(20, 6, 20, bc.PerceptronSettings(width=sizes.world_width)))
    update = bc.update_of(network, device.adam(network.parameters(), 1e-3), invented_episodes(), device)
    given = lambda n: (torch.randint(400, (64,), generator=stream(n)), 1e-3)  # noqa: E731
    return of_updates(device.updates(update), given, sizes.block, network)


Maker = Callable[[Device, Sizes], Making]
