"""Filters for hidden tasks that switch: exact Bayes on the rewards over a grid of tasks, acting through the oracle.

What an agent could get that infers perfectly and then acts as the oracle does for the task it finds most probable: it
is told the sessions' p and the range of the tasks, and knows the reward function; it is not told the task. Beside it,
the oracle of CheetahWindVelSwitch, which is made of CheetahVel's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Agent, Timestep
from metabench.plugins import load_oracle
from metabench.registry import spec
from metabench.rng import Array
from metabench.tasks import param_ranges
from metabench.yardsticks.rewards import SeenReward, season, seen_reward

LEAST = 1e-6  # likelihood of a reward that a task cannot explain: no task is ever ruled out for good
LEAN = 0.005  # m/s per N of wind by which the commanded speed leans against it; tuned on training tasks


class HiddenTasks(NamedTuple):
    """The tasks that a filter weighs, and how they follow each other."""

    contexts: Array  # [G, K] as they are exposed
    prior: Array  # [G] sums to 1
    noise: float  # reward: how far a task of the grid may be from the one it stands for
    change: Callable[[Array], Array]  # [B, G] a posterior to what a session's end makes of it


def _even(values: tuple[Array, ...], noise: float) -> HiddenTasks:
    """All combinations of values, equally probable, drawn anew at a session's end."""
    contexts = np.stack([axis.ravel() for axis in np.meshgrid(*values, indexing="ij")], axis=1)
    prior = np.full(len(contexts), 1.0 / len(contexts))
    return HiddenTasks(contexts, prior, noise, lambda posterior: np.broadcast_to(prior, posterior.shape))


def _speeds(benchmark: str, split: str) -> HiddenTasks:
    low, high = _range(benchmark, "speed", split)
    values = np.linspace(low, high, 121)
    return _even((values,), (high - low) / 120)


def _directions(benchmark: str, split: str) -> HiddenTasks:
    return _even((np.array([-1.0, 1.0]),), 0.01)


def _goals(benchmark: str, split: str) -> HiddenTasks:
    share, bearing = (np.arange(12) + 0.5) / 12, (np.arange(36) + 0.5) * 2 * np.pi / 36
    return _even((share, bearing), 0.01)


def _seasons(benchmark: str, split: str) -> HiddenTasks:
    """Numbers of sessions: any of the split's range may be the first, and the next one follows at a session's end."""
    starts = spec(benchmark).table().rows[split][:, 0]
    low, high = int(starts.min()), int(starts.max())
    numbers = np.arange(low, high + 1 + spec(benchmark).horizon, dtype=np.float64)
    prior = (numbers <= high) / (high - low + 1)
    contexts = np.stack((numbers, np.zeros_like(numbers)), axis=1)
    return HiddenTasks(contexts, prior, 0.01, lambda posterior: np.roll(posterior, 1, axis=1))


def _range(benchmark: str, name: str, split: str) -> tuple[float, float]:
    legal = param_ranges(spec(benchmark).table().context_type)[name]
    column = spec(benchmark).table().rows[split]
    low, high = legal.train if split != "ood" and legal.train else (legal.low, legal.high)
    return float(min(low, column.min())), float(max(high, column.max()))


_GRIDS: Mapping[str, Callable[[str, str], HiddenTasks]] = {
    "CheetahVel": _speeds,
    "CheetahDir": _directions,
    "CheetahWindVel": _seasons,
    "ReacherGoal": _goals,
}


class Filtered(NamedTuple):
    """What the filter remembers of its trials."""

    posterior: Array  # [B, G] of the session that is on
    seen: Array | None  # [B, O] the observation before; None at the start
    oracle: Any  # the oracle's belief


def renew(posterior: Array, likelihood: Array, tasks: HiddenTasks, p: float) -> Array:
    """One step of the filter: `[B, G]` the probability of each task for the step to come.

    What the reward says, then the chance that the session ended with it: (1 - p) posterior + p change(posterior).

    Args:
        posterior: Before the reward.
        likelihood: `[B, G]` of the reward under each task.
        tasks: How they follow each other.
        p: Of a session's end.
    """
    known = posterior * likelihood
    known = known / known.sum(axis=1, keepdims=True)
    return (1.0 - p) * known + p * tasks.change(known)


@dataclass
class FilterAgent:
    """Weighs the tasks by the rewards it gets, and lets the oracle act for the most probable one."""

    tasks: HiddenTasks
    reward: SeenReward
    p: float
    oracle: Agent[Any]

    name, privileged = "task-filter", False

    def begin(self, num_trials: int) -> Filtered:
        """The prior."""
        prior = np.broadcast_to(self.tasks.prior, (num_trials, len(self.tasks.prior)))
        return Filtered(np.array(prior), None, self.oracle.begin(num_trials))

    def act(self, step: Timestep, belief: Filtered) -> tuple[Array, Filtered]:
        """The oracle's action for the task that is most probable now."""
        posterior = belief.posterior
        if belief.seen is not None:
            expected = self.reward(
                belief.seen[:, None].astype(np.float64),
                step.action[:, None],
                step.observation[:, None].astype(np.float64),
                self.tasks.contexts[None],
            )
            error = (step.reward[:, None] - expected) / self.tasks.noise
            posterior = renew(posterior, np.exp(-0.5 * error**2) + LEAST, self.tasks, self.p)
        posterior = np.where(step.first[:, None], self.tasks.prior, posterior)  # an episode begins with a new session
        context = self.tasks.contexts[posterior.argmax(axis=1)].astype(step.observation.dtype)
        blank = np.zeros_like(context)
        told = step._replace(
            observation=np.concatenate((step.observation, context), axis=1),
            final=np.concatenate((step.final, blank), axis=1),
        )
        action, inner = self.oracle.act(told, belief.oracle)
        return action, Filtered(posterior, step.observation.copy(), inner)


class _TaskFilter:
    """The filter of the benchmarks whose tasks it can weigh."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The agent, told the split's p; ValueError where there is no grid of tasks, no p, or no oracle."""
        chosen = spec(benchmark)
        name, sessions = type(chosen.family()).__name__, chosen.sessions_of(split) or {"kind": "constant"}
        if name not in _GRIDS:
            raise ValueError(f"this filter is defined for {', '.join(sorted(_GRIDS))} only, not for {benchmark}")
        if sessions["kind"] not in ("constant", "geometric"):
            raise ValueError(
                f"this filter needs sessions that end with one probability after every step, and those of {benchmark} "
                f"({split}) are {sessions['kind']}"
            )
        oracle = load_oracle(chosen.id, split, seed)
        return FilterAgent(_GRIDS[name](chosen.id, split), seen_reward(chosen.id), sessions.get("p", 0.0), oracle)


class WindVelOracle:
    """Sees the season of CheetahWindVel, and commands CheetahVel's oracle a speed that makes up for the wind.

    Belief: the inner oracle's.
    """

    name, privileged = "oracle", True

    def __init__(self, runner: Agent[Any], lean: float = LEAN):
        self.runner, self.lean = runner, lean

    def begin(self, num_trials: int) -> Any:
        """As the runner begins."""
        return self.runner.begin(num_trials)

    def act(self, step: Timestep, belief: Any) -> tuple[Array, Any]:
        """The runner's action for the commanded speed."""
        seen = step.observation[:, :-2]
        wind, speed = season(step.observation[:, -2:].sum(axis=1))
        command = (speed - self.lean * wind)[:, None].astype(seen.dtype)
        final = np.concatenate((step.final[:, :-2], np.zeros_like(command)), axis=1)
        return self.runner.act(step._replace(observation=np.concatenate((seen, command), axis=1), final=final), belief)


class _WindVel:
    """The oracle of CheetahWindVelSwitch."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The agent; ValueError where CheetahVel's oracle is not there."""
        return WindVelOracle(load_oracle("CheetahVel-v0", split, seed))


task_filter, wind_vel = _TaskFilter(), _WindVel()
