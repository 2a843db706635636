"""Every agent's updates, small, to be compared number by number: graphs with eager ones, a GPU with the CPU.

Each work is made from the same start and the same invented data whatever the device and the form; see `works`, which
has those that are timed as well.
"""

from __future__ import annotations

from typing import Any

import torch
from metabench_agents import rl2, rsac
from metabench_agents.belief import borel, contrabar, secbad, sessions, varibad
from metabench_agents.belief.dynamite_iql import Config as IQLConfig
from metabench_agents.belief.dynamite_iql import Improving, IQLSteps, make_learner
from metabench_agents.belief.model import BeliefModel, FitConfig, Fitting
from metabench_agents.belief.policy import BeliefRollout, Improvement, make_actor
from metabench_agents.belief.segments import geometric_hazard
from metabench_agents.context import metadreamer
from metabench_agents.context.offline import corro, csro, focal, unicorn
from metabench_agents.context.offline.actor_critic import ActorCriticConfig
from metabench_agents.context.offline.data import TaskData
from metabench_agents.context.offline.encoder import EncoderConfig
from metabench_agents.context.offline.fitting import FittingConfig, OfflineTrainer
from metabench_agents.context.offline.network import OfflineNetwork
from metabench_agents.context.replay import Transitions
from metabench_agents.gradient import maml
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.device import Device
from metabench_agents.parts.losses import PPO
from metabench_agents.parts.run import stream
from metabench_agents.parts.soft import SoftConfig
from metabench_agents.sequence import gdt
from metabench_agents.sequence.decision_transformer import (
    DecisionTransformerSettings,
    TransformerFitting,
    TransformerTrainer,
)
from metabench_agents.sequence.episodes import draw_windows, window_of
from metabench_agents.sequence.incontext import ad, dpt
from metabench_agents.sequence.incontext.context import ContextFitting, ContextSettings
from metabench_agents.sequence.incontext.histories import Histories, draw_stretches
from metabench_agents.sequence.incontext.training import ContextTrainer
from metabench_agents.sequence.trials.model import TrialModel, TrialTrainer
from metabench_agents.sequence.world_model import TrialModelFitting, WorldModelSettings
from torch import Tensor, nn

import metabench
from studies.gpu import works
from studies.gpu.works import GRID, SMALL, Maker, Making, Sizes, as_settings, invented_trials, of_updates

POINT, ROOM = "PointRobot-v0", "DarkRoom-v0"
TICKS = 12  # of invented trials whose beliefs are found tick by tick


def rl2_update(device: Device, sizes: Sizes, core: Any = "gru") -> Making:
    """PPO's passes of RL2 alone, on trials that the CPU played: the same on every device."""
    env = metabench.make_vec(GRID, 8)
    config = rl2.Config(trials=8, core=core, network=rl2.NetworkConfig(16, 16, 16))
    plays = rl2.fresh(config, env, 0)
    batch = rl2.empty_rollout(plays, env, 60, 8)
    rl2.collect(plays, env, batch, 0, stream(0))
    network, settings = device.place(rl2.fresh(config, env, 0)), PPO(epochs=1, minibatches=2)
    optimiser = device.adam(network.parameters(), 1e-3, eps=1e-5)
    updates = device.updates(lambda *given: rl2.improve(network, optimiser, settings, device, *given), 1)
    return of_updates(updates, lambda n: (batch, rl2.orders(settings, 8, stream(n)), 1.0, 1.0, 1.0), 1, network)


def belief_ppo(device: Device, sizes: Sizes) -> Making:
    """PPO's passes on beliefs."""
    env = metabench.make_vec(GRID, 1)
    torch.manual_seed(0)
    model = BeliefModel(with_settings(varibad.Config(), {"model.reward_loss": "bernoulli"}).model, env, 60)
    actor = device.place(make_actor(env, model, 32))
    improvement = Improvement(actor, device.adam(actor.parameters(), 1e-3, eps=1e-5), PPO(epochs=1), device)
    trials, draws = invented_trials(60, 8), stream(3)
    width = model.latent.parameters + model.reading
    belief, log_prob = torch.randn(60, 8, width, generator=draws), torch.full((60, 8), -1.6)
    rollout = BeliefRollout(trials, belief, trials.action, log_prob, torch.randn(60, 8, generator=draws))
    numbers, told = iter(range(10**6)), {}

    def step() -> None:
        told.update(improvement.improve(rollout, 1.0, 1.0, stream(next(numbers))))

    return Making(step, 1, lambda: told, actor.parameters)


def iql(device: Device, sizes: Sizes) -> Making:
    """DynaMITE-IQL's update, without memory."""
    env, config = metabench.make_vec(GRID, 1), IQLConfig(width=32)
    torch.manual_seed(0)
    networks = device.place(make_learner(config, env, None))
    draws, rows = stream(5), sizes.rows
    action = torch.randint(5, (rows,), generator=draws)
    seen, following = torch.randn(2, rows, 6, generator=draws)
    code, nothing = nn.functional.one_hot(action, 5).float(), torch.zeros(rows, 0)
    reward, last = torch.randn(rows, generator=draws), torch.rand(rows, generator=draws) < 0.1
    steps = IQLSteps(seen, nothing, action, code, reward, following, nothing, last)
    learned = [p for p in networks.parameters() if p.requires_grad]
    improving = Improving(networks, device.adam(learned, 1e-3), config, steps, device)
    return of_updates(
        improving.updates, lambda n: (torch.randint(rows, (64,), generator=stream(n)),), sizes.block, networks
    )


def metadreamer_model(device: Device, sizes: Sizes) -> Making:
    """MetaDreamer's step of encoder and decoder."""
    config = metadreamer.Config(tasks=4, meta_batch=4, **as_settings(device))
    if sizes is SMALL:
        config = with_settings(config, {"model.context": 8, "model.targets": 6, "model.width": 16})
    state = metadreamer.build("PointRobot-v0", config, 0)
    works.filled(state)
    given = lambda n: metadreamer.given_model(state, config, stream(n))  # noqa: E731
    return of_updates(state.model_updates, given, sizes.block, state.learner)


def transformer_rl2(device: Device, sizes: Sizes) -> Making:
    """RL2's passes with a transformer in the GRU's place."""
    return rl2_update(device, sizes, "transformer")


def rsac_update(device: Device, sizes: Sizes) -> Making:
    """The recurrent soft actor-critic's update on whole trials."""
    env, config = metabench.make_vec(POINT, 1), rsac.Config(network=rsac.NetworkConfig(16, 16, 16))
    torch.manual_seed(0)
    learner, draws = rsac.Learner(config, env, device), stream(8)
    seen = torch.randn(13, 4, 2, generator=draws)
    first = torch.zeros(13, 4, dtype=torch.bool)
    first[0] = True
    action = torch.rand(13, 4, 2, generator=draws) * 0.2 - 0.1
    ticks = rsac.Ticks(seen, action, torch.randn(13, 4, generator=draws), first, first)
    chance = learner.acts.policy.chance
    learned = [module for name, module in learner.modules.items() if name != "target"]
    return of_updates(learner.updates, lambda n: (ticks, chance(13, 4, generator=stream(n))), sizes.block, *learned)


def segment_elbo(device: Device, sizes: Sizes) -> Making:
    """SeCBAD's step of the model, its segments inferred anew."""
    env, config = metabench.make_vec(GRID, 1), secbad.Config()
    settings = with_settings(config, {"model.reward_loss": "bernoulli"}).model
    torch.manual_seed(0)
    segments, hazard = secbad.SegmentConfig(candidates=4, draws=2), geometric_hazard(0.1, TICKS)
    model = device.place(secbad.SegmentModel(segments, hazard, settings, env, TICKS))
    return fitted(device, sizes, model, secbad.elbo, config.fit)


def contrast(device: Device, sizes: Sizes) -> Making:
    """ContraBAR's step of the belief."""
    env, config = metabench.make_vec(GRID, 1), contrabar.Config()
    torch.manual_seed(0)
    model = device.place(
        contrabar.ContrastModel(contrabar.ContrastConfig(ahead=3, terms=4, negatives=3, wrong_rewards=2), env, TICKS)
    )
    return fitted(device, sizes, model, contrabar.contrast, config.fit)


def fitted(device: Device, sizes: Sizes, model: Any, loss: Any, config: FitConfig) -> Making:
    """The steps of a belief's model on invented trials of a grid."""
    adam = device.adam(model.parameters(), 1e-3, eps=1e-5)  # no bias whose gradient is 0 but for rounding moves
    fitting = Fitting(model, loss, adam, config, device)
    batch, base = invented_trials(TICKS, 4), model.base
    return of_updates(fitting.updates, lambda n: (batch, base.draw(batch, stream(n)), 1e-3), sizes.block, model)


def hyper_states(device: Device, sizes: Sizes) -> Making:
    """BOReL's update of the soft actor-critic on hyper-states."""
    env, config = metabench.make_vec(GRID, 1), borel.Config(width=16, sac=SoftConfig(learning_rate=1e-3))
    model_config = with_settings(varibad.Config(), {"model.reward_loss": "bernoulli"}).model
    torch.manual_seed(0)
    model = sessions.SessionModel(borel.VARIBAD, model_config, env, 60)
    learner = borel.Learner(config, env, model, device)
    steps = borel.hyper_steps(invented_trials(60, 4), model, learner.acts.policy, 0.95)
    improving, policy = borel.Improving(learner, steps, config), learner.acts.policy

    def given(number: int) -> tuple[Any, ...]:
        draws = stream(number)
        rows = torch.randint(improving.count, (16,), generator=draws)
        return rows, (policy.chance(16, generator=draws), policy.chance(16, generator=draws))

    learned = [module for name, module in learner.modules.items() if name != "target"]
    return of_updates(improving.updates, given, sizes.block, *learned)


def invented_transitions(rows: int, sizes: tuple[int, int]) -> Transitions:
    """Random transitions of a plane."""
    draws, (observation, action) = stream(9), sizes
    seen, following = torch.randn(2, rows, observation, generator=draws)
    done = torch.tanh(torch.randn(rows, action, generator=draws))
    return Transitions(seen, done, torch.randn(rows, generator=draws), following, torch.zeros(rows))


def offline_context(objective: Any, kind: str = "iql", **encoder: Any) -> Maker:
    """The update of an agent that learns a context from data, encoder and policy together."""

    def make(device: Device, sizes: Sizes) -> Making:
        torch.manual_seed(0)
        learning = ActorCriticConfig(kind=kind, hidden=16)  # pyright: ignore[reportArgumentType]
        network = OfflineNetwork(POINT, EncoderConfig(hidden=16, latent=5, **encoder), learning)
        data = TaskData.of(invented_transitions(200, (2, 2)), torch.arange(200) % 4)
        network.fit_scales(data)
        fitting = FittingConfig(tasks=4, batch=4, context=8)
        trainer = OfflineTrainer(network, objective(network.encoder), data, fitting, device)
        learned = (trainer.learns.encoder, trainer.learns.core, trainer.objective)
        return of_updates(trainer.updates, lambda n: trainer.given(n, stream(n)), sizes.block, *learned)

    return make


def generalised(device: Device, sizes: Sizes) -> Making:
    """GDT's update with a learned statistic of the future."""
    torch.manual_seed(0)
    episodes, settings = works.invented_episodes(), DecisionTransformerSettings(2, 1, 16, window=6)
    network = gdt.GeneralizedDT(20, 6, 20, gdt.StatisticSettings("bidirectional", size=4), settings)
    network.learn_scales(episodes, torch.zeros(0))
    told = gdt.statistics_of(network, episodes)
    trainer = TransformerTrainer(network, TransformerFitting(), device, ranked=True)

    def given(number: int) -> tuple[Any, ...]:
        which, start = draw_windows(episodes, 4, 6, stream(number))
        seen = window_of(episodes, which, start, 6, told)
        key = torch.randint(2**62, (), generator=stream(1, number))
        return seen._replace(rank=torch.ones_like(seen.rank)), None, 1e-4, key

    return of_updates(trainer.updates, given, sizes.block, network)


def invented_histories(count: int = 4, steps: int = 40) -> Histories:
    """Histories of a learner that never learns, in a dark room."""
    draws, rows = stream(10), count * steps
    seen = torch.randint(9, (2, rows, 2), generator=draws).float()
    action, expert = torch.randint(5, (2, rows), generator=draws).to(torch.uint8)
    time, start = (torch.arange(rows) % 20).to(torch.int16), torch.arange(count) * steps
    reward, length = (torch.rand(rows, generator=draws) < 0.2).float(), torch.full((count,), steps)
    return Histories(seen[0], action, reward, seen[1], time == 0, time, expert, start, length)


CONTRAST = corro.ContrastConfig(pairs=4, negatives=3, latent=2, hidden=16, outcomes="vae")
SMALL_CONTEXT, SMALL_FITTING = ContextSettings(width=16, window=12), ContextFitting(batch=4, warmup=2)


def distillation(device: Device, sizes: Sizes) -> Making:
    """AD's update."""
    torch.manual_seed(0)
    histories, network = invented_histories(), ad.HistoryNetwork(ROOM, SMALL_CONTEXT)

    def draw(draws: torch.Generator) -> ad.Stretch:
        return ad.stretch_of(histories, *draw_stretches(histories, 4, 12, 0.25, draws), network.moves)

    trainer = ContextTrainer(network, ad.loss, draw, SMALL_FITTING, device)
    return of_updates(trainer.updates, lambda n: trainer.given(stream(n)), sizes.block, network)


def decisions(device: Device, sizes: Sizes) -> Making:
    """DPT's update, with answers."""
    torch.manual_seed(0)
    config = dpt.Config(queries=4, answers=2, network=SMALL_CONTEXT, fitting=SMALL_FITTING)
    histories, network = invented_histories(), dpt.DecisionNetwork(ROOM, SMALL_CONTEXT, 2)

    def draw(draws: torch.Generator) -> dpt.Questions:
        return dpt.draw_questions(histories, config, network.moves, draws)

    trainer = ContextTrainer(network, dpt.loss, draw, SMALL_FITTING, device)
    return of_updates(trainer.updates, lambda n: trainer.given(stream(n)), sizes.block, network)


def trial_model(device: Device, sizes: Sizes) -> Making:
    """A step of Meta-DT's model of whole trials."""
    torch.manual_seed(0)
    trial = TrialModelFitting(trials=4, stretch=6, asked=3)
    settings = WorldModelSettings(sees="trial", decoders="both", width=16, trial=trial)
    model, episodes = TrialModel(20, 6, settings), works.invented_episodes()
    trainer = TrialTrainer(model, episodes, episodes, settings, device)
    return of_updates(trainer.updates, lambda n: trainer.given(stream(n)), sizes.block, trainer.model)


def outer_step(outer: Any) -> Maker:
    """MAML's outer step on trials that the CPU played."""

    def make(device: Device, sizes: Sizes) -> Making:
        region = maml.TrustRegion(damping=1.0)  # eighty steps tell too little of the curvature: rounding would grow
        inner = maml.InnerConfig(episodes=1)
        config = maml.Config(tasks=2, trials_per_task=2, inner=inner, outer=outer, trpo=region)
        policy, env = maml.fresh(config, POINT, 0)
        collected = maml.collect(policy, env, config, 20, 0, stream(0))
        learns, told, numbers = device.place(maml.fresh(config, POINT, 0)[0]), {}, iter(range(10**6))
        step = (maml.TRPO if outer == "trpo" else maml.Proximal)(learns, config, device)

        def improve() -> None:
            more = () if isinstance(step, maml.TRPO) else (1.0, stream(next(numbers)))
            told.update(step.improve(collected, *more))  # pyright: ignore[reportArgumentType]

        return Making(improve, 1, lambda: told, learns.parameters)

    return make


CHECKED: dict[str, Maker] = {
    "rl2": rl2_update,
    "rl2's transformer": transformer_rl2,
    "rsac": rsac_update,
    "sac-oracle": works.sac,
    "sac-oracle of 3 seeds": lambda device, sizes: works.sac(device, sizes, 3),
    "varibad": lambda device, sizes: works.elbo(device, sizes, "varibad", sizes.elbo_trials[0]),
    "dynamite": lambda device, sizes: works.elbo(device, sizes, "dynamite", sizes.elbo_trials[0]),
    "secbad": segment_elbo,
    "contrabar": contrast,
    "PPO on beliefs": belief_ppo,
    "dynamite-iql": iql,
    "borel": hyper_states,
    "pearl": works.pearl_update,
    "metadreamer": metadreamer_model,
    "focal": offline_context(lambda encoder: focal.Metric()),
    "focal with brac": offline_context(lambda encoder: focal.Metric(), "brac"),
    "unicorn": offline_context(lambda encoder: unicorn.Decoder(encoder, 16, 1.0)),
    "csro": offline_context(lambda encoder: csro.Club(encoder, 1.0, 1.0)),
    "corro": offline_context(lambda encoder: corro.Contrast(encoder, CONTRAST), shape="unit"),
    "dt": works.transformer,
    "prompt-dt and meta-dt": lambda device, sizes: works.transformer(device, sizes, True),
    "meta-dt's world model": works.world_model,
    "meta-dt's model of trials": trial_model,
    "gdt": generalised,
    "bc": works.cloning,
    "ad": distillation,
    "dpt": decisions,
    "maml": outer_step("trpo"),
    "maml with ppo": outer_step("ppo"),
}


def learned(maker: Maker, device: Device, sizes: Sizes, updates: int = 10) -> tuple[dict[str, float], Tensor]:
    """Metrics of so many updates from the start, and all parameters after them, on the CPU."""
    made = maker(device, sizes)
    for _ in range(max(1, updates // max(1, made.units))):
        made.step()
    metrics = dict(made.metrics())
    return metrics, torch.cat([tensor.detach().float().cpu().flatten() for tensor in made.tensors()])
