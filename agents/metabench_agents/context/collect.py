"""Plays whole episodes of chosen tasks, all tasks side by side, and counts every step that anything learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench_agents.context.actor_critic import LatentActorCritic
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import TaskReplay, Transitions
from metabench_agents.parts.decisions import make_viewed, played
from metabench_agents.parts.view import Sight, ViewConfig

UNLIMITED = 2**31 - 1  # episodes of a trial: a slot never leaves its task


@dataclass(frozen=True)
class CollectionConfig:
    """How much is played in an iteration; the defaults are oyster's."""

    tasks_per_iteration: int = 5  # tasks that new data are collected for
    initial_episodes: int = 10  # per task, before the first update, with z from the prior
    prior_episodes: int = 2  # of each chosen task with z from the prior: the new context
    context_episodes: int = 0  # of each, further, that enter the context too; the first still with z from the prior
    posterior_episodes: int = field(default=2, metadata={"low": 0})  # of each, further, outside the context; likewise

    def initial(self) -> CollectionConfig:
        """What is played before the first update."""
        return replace(self, prior_episodes=self.initial_episodes, context_episodes=0, posterior_episodes=0)


class PlayedEpisodes(NamedTuple):
    """Whole episodes of B slots."""

    rows: list[Tensor]  # packed transitions [n, W] of each slot in the order they were played
    returns: Tensor  # [B, E] undiscounted
    starts: Tensor  # [B, O] the first observation of each slot's first episode
    every_start: Tensor  # [B E, O] of every episode
    owner: Tensor  # [B E] their slots


class Collector:
    """Real experience of one benchmark's training tasks.

    Args:
        benchmark: An id.
        split: Where the tasks come from.
        seed: Of every episode's start and dynamics.
        view: What is shown, whose decisions are the steps that are kept; the environment's own by default.
    """

    def __init__(self, benchmark: str, split: str, seed: int, view: ViewConfig | None = None):
        self.benchmark, self.split, self.seed = benchmark, split, seed
        self.view = view or ViewConfig()
        self.frames, self.calls = 0, 0  # environment steps played, calls made
        self._envs: dict[int, Any] = {}  # by number of slots

    def play(
        self,
        network: Any,
        tasks: Sequence[int],
        latent: Callable[[int], Tensor],
        episodes: int,
        generator: torch.Generator,
        sight: Sight | None = None,
        blind: bool = False,
    ) -> PlayedEpisodes:
        """Plays `episodes` episodes of each task (a row of the split) with the policy's random actions.

        What is kept are the environment's own steps, also where the policy's decisions stand for several of them.

        Steps that a slot idles through while others finish belong to nobody: they are not kept and not counted.

        Args:
            network: The policy: an actor-critic or a policy given latents, with `see`, `act` and `actions`.
            tasks: One row of the split per slot.
            latent: Given the number of the episode, the latents `[B, L]` that its actions depend on.
            episodes: How many.
            generator: For the actions.
            sight: What the policy is shown, and for how long its decisions stand; the observation alone by default.
            blind: Whether decisions are uniform instead: what a model can learn from before there is a policy.
        """
        env = self._env(len(tasks))
        self.calls += 1
        observation, _ = env.reset(
            seed=(self.seed * 2**32 + self.calls) * 2**20, options={"task": np.asarray(tasks, dtype=np.int64)}
        )
        starts, pace = [torch.as_tensor(observation, dtype=torch.float32).clone()], _Pace(network, sight, len(tasks))
        latents = torch.stack([latent(number) for number in range(episodes)])  # [E, B, L]
        episode, slots = np.zeros(len(tasks), dtype=np.int64), np.arange(len(tasks))
        returns, ticks, lives, owners = np.zeros((len(tasks), episodes)), [], [], [slots]
        while (episode < episodes).any():
            seen = torch.as_tensor(observation, dtype=torch.float32)
            z = latents[np.minimum(episode, episodes - 1), slots]
            action = pace.act(seen, z, generator, blind)
            observation, reward, terminated, truncated, info = env.step(network.actions.to_env(action))
            done, live = terminated | truncated, episode < episodes
            last = torch.as_tensor(info["final_obs"] if done.any() else observation, dtype=torch.float32)
            after = torch.where(torch.from_numpy(done)[:, None], last, torch.as_tensor(observation).float())
            columns = (seen, action, torch.from_numpy(reward), after, torch.from_numpy(terminated))
            ticks.append(Transitions(*columns).pack())
            lives.append(live)
            returns[live, episode[live]] += reward[live]
            self.frames += played(env, live)
            episode = episode + done
            pace.tick(done)
            if done.any():
                begun = done & (episode < episodes)
                starts.append(torch.as_tensor(observation[begun], dtype=torch.float32).clone())
                owners.append(np.flatnonzero(begun))
        table, kept = torch.stack(ticks), torch.from_numpy(np.stack(lives))  # [ticks, B, W], [ticks, B]
        rows = [table[kept[:, slot], slot] for slot in slots]
        return PlayedEpisodes(
            rows, torch.from_numpy(returns), starts[0], torch.cat(starts), torch.from_numpy(np.concatenate(owners))
        )

    def _env(self, slots: int) -> Any:
        if slots not in self._envs:
            self._envs[slots] = make_viewed(
                self.benchmark, slots, self.view, split=self.split, episodes_per_task=UNLIMITED
            )
        return self._envs[slots]

    def state(self) -> dict[str, int]:
        """What it takes to go on."""
        return {"frames": self.frames, "calls": self.calls}

    def restore(self, state: dict[str, int]) -> None:
        """The inverse of `state`."""
        self.frames, self.calls = state["frames"], state["calls"]


class _Pace:
    """A policy's random decisions in B slots, each for as long as it stands."""

    def __init__(self, network: Any, sight: Sight | None, slots: int):
        self.network, self.sight = network, sight
        self.elapsed = np.zeros(slots, dtype=np.int64)  # steps of each slot's episode
        self.action = torch.zeros(slots, network.actions.size)

    @torch.inference_mode()
    def act(self, observation: Tensor, z: Tensor, generator: torch.Generator, blind: bool) -> Tensor:
        """`[B, A]` for this step."""
        network, shown = self.network, observation
        if self.sight:
            shown = self.sight(observation, torch.from_numpy(self.elapsed))
        if blind:
            drawn = 2.0 * torch.rand(self.action.shape, generator=generator) - 1.0
        else:
            noise = torch.randn(self.action.shape, generator=generator)
            drawn = network.act(network.see(shown, z), noise).action.clone()
        if self.sight and self.sight.view.hold > 1:
            decides = torch.from_numpy(self.elapsed % self.sight.view.hold == 0)
            drawn = torch.where(decides[:, None], drawn, self.action)
        self.action = drawn
        return drawn

    def tick(self, done: np.ndarray) -> None:
        """One step further; an episode begins where the last one is `done` `[B]`."""
        self.elapsed = np.where(done, 0, self.elapsed + 1)


def gather(
    network: LatentActorCritic,
    collector: Collector,
    replay: TaskReplay,
    tasks: Sequence[int],
    infer: Callable[[], DiagonalGaussian],
    config: CollectionConfig,
    generator: torch.Generator,
    rows: Sequence[int] | None = None,
) -> tuple[dict[str, float], Tensor]:
    """New data of some tasks as PEARL collects them: prior episodes, which become the context, then further ones.

    Args:
        network: The policy.
        collector: Where the tasks are played.
        replay: Where the transitions go.
        tasks: Numbers of the replay's tasks.
        infer: Beliefs `[T, L]` about the tasks given their contexts.
        config: How many episodes of each kind. Of the further ones the first is still with z from the prior, as in
            PEARL's code.
        generator: For latents and actions.
        rows: The tasks' rows in the split; their numbers by default.

    Returns:
        Mean returns, and the first observation of each task `[T, O]`.
    """

    @torch.inference_mode()
    def guess(number: int) -> Tensor:
        belief = infer()
        noise = torch.randn(belief.mean.shape, generator=generator)
        return noise if number == 0 else belief.sample(noise).clone()

    def prior(number: int) -> Tensor:
        return torch.randn(len(tasks), network.latent, generator=generator)

    def play(latent: Callable[[int], Tensor], episodes: int, context: bool) -> PlayedEpisodes:
        new = collector.play(network, rows or tasks, latent, episodes, generator)
        for task, transitions in zip(tasks, new.rows, strict=True):
            replay.add(task, transitions, context=context)
        return new

    for task in tasks:
        replay.begin_context(task)
    explored = play(prior, config.prior_episodes, True)
    adapted = []
    for number in range(config.context_episodes):  # one by one: each adds to what the next guess is made from
        adapted.append(play(lambda _, number=number: guess(number), 1, True).returns)
    if config.posterior_episodes:
        adapted.append(play(guess, config.posterior_episodes, False).returns)
    metrics = {"return_prior": float(explored.returns.mean())}
    if adapted:
        returns = torch.cat(adapted[-1:] if config.posterior_episodes else adapted, dim=1)
        informed = returns[:, 1:] if returns.shape[1] > 1 else returns
        metrics["return_posterior"] = float(informed.mean())
    return metrics, explored.starts


def adaptation(agent: Any, benchmark: str, splits: Sequence[str], episodes: int, seed: int = 0) -> dict[str, float]:
    """One point of the learning curve: mean returns of the first and the last episode of a trial on each split.

    Args:
        agent: The agent as it would be evaluated.
        benchmark: An id.
        splits: Frozen splits.
        episodes: The least number of episodes of a trial; the benchmark's own if that is more.
        seed: Of the trials: the same at every point.
    """
    chosen, points = metabench.spec(benchmark), {}
    for split in splits:
        count = max(episodes, chosen.episodes)
        protocol = metabench.Protocol(
            benchmark=chosen.id, split=split, episodes=count, repeats=chosen.repeats, seed=seed
        )
        curve = metabench.evaluate(agent, protocol).trials().mean(axis=0)
        points |= {f"{split}/first": float(curve[0]), f"{split}/last": float(curve[-1])}
    return points
