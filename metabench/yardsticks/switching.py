"""Agents on GridSwitch: the oracle, the exact Bayes filter, win-stay/lose-shift.

The Bayes filter is the ceiling for every agent that does not see the latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Agent, Timestep
from metabench.registry import spec
from metabench.rng import Array
from metabench.yardsticks.grid_switch import SIZE, Filter, GridSwitchModel, Plan, bayes_plan, oracle_plan, walk


def _cells(observation: Array) -> tuple[Array, Array, Array]:
    """The cells of the agent and of both candidates, `[B]` each, from GridSwitch's observation."""
    xy = observation[:, :6].astype(np.int64).reshape(-1, 3, 2)
    cells = xy[..., 0] * SIZE + xy[..., 1]
    return cells[:, 0], cells[:, 1], cells[:, 2]


class SwitchBelief(NamedTuple):
    """What an agent on GridSwitch remembers."""

    elapsed: Array  # [B] int64 steps of the episode so far
    node: Array  # [B] int64 where in the filter's set of beliefs it is


class WinStayLoseShift:
    """Goes to the nearer candidate, stays while it pays, goes to the other when it does not.

    Belief: the candidate it makes for, -1 before the first tick.
    """

    name, privileged = "win-stay-lose-shift", False

    def begin(self, num_trials: int) -> Array:
        """Undecided."""
        return np.full(num_trials, -1)

    def act(self, step: Timestep, belief: Array) -> tuple[Array, Array]:
        """One step towards the candidate of choice."""
        cell, a, b = _cells(step.observation)
        target = np.where(step.first | (belief < 0), _distance(cell, b) < _distance(cell, a), belief)
        there = ~step.first & (cell == np.where(target == 0, a, b))
        target = np.where(there & (step.reward < 0), 1 - target, target)
        # Passing over the other candidate while it pays is a win there.
        passing = ~step.first & (cell == np.where(target == 0, b, a)) & (step.reward > 0)
        target = np.where(passing, 1 - target, target)
        return walk(cell, np.where(target == 0, a, b)), target


def _distance(a: Array, b: Array) -> Array:
    return abs(a // SIZE - b // SIZE) + abs(a % SIZE - b % SIZE)


@dataclass
class PlannedAgent:
    """Follows a plan made by dynamic programming for each pair of candidates, at the node its filter is in.

    Belief: the time and the node. With `sees` it is the oracle, whose node is the latent itself.
    """

    model: GridSwitchModel
    plan: Callable[[GridSwitchModel, int, int], Plan]
    sees: bool
    name: str

    def __post_init__(self) -> None:
        self._filter = Filter.of(self.model)
        nodes, cells = 2 if self.sees else len(self._filter.probability), self.model.size**2
        self._planned = np.zeros(cells**2, dtype=bool)  # by pair of candidates
        self._actions = np.empty((cells**2, self.model.horizon, cells, nodes), dtype=np.int8)  # paged in when planned

    @property
    def privileged(self) -> bool:
        """Whether it must see the latent."""
        return self.sees

    def begin(self, num_trials: int) -> SwitchBelief:
        """At the start of an episode, knowing nothing."""
        zeros = np.zeros(num_trials, dtype=np.int64)
        return SwitchBelief(zeros, zeros)

    def act(self, step: Timestep, belief: SwitchBelief) -> tuple[Array, SwitchBelief]:
        """The optimal action at (cell, node, time), and the filter's next node."""
        cell, a, b = _cells(step.observation)
        elapsed = np.where(step.first, 0, belief.elapsed)
        if self.sees:
            node = step.observation[:, 8].astype(np.int64)
        else:
            seen = np.where(
                cell == a, np.where(step.reward > 0, 0, 1), np.where(cell == b, np.where(step.reward > 0, 1, 0), -1)
            )
            node = np.where(step.first, 0, self._filter.after(belief.node, seen))
        pair = a * self.model.size**2 + b
        action = self._plans_of(pair)[pair, elapsed, cell, node].astype(np.int64)
        return action, SwitchBelief(elapsed + 1, node)

    def _plans_of(self, pair: Array) -> Array:
        for new in np.unique(pair[~self._planned[pair]]).tolist():
            self._actions[new] = self.plan(self.model, *divmod(new, self.model.size**2)).action
            self._planned[new] = True
        return self._actions


def grid_switch_model(benchmark: str, split: str) -> GridSwitchModel:
    """What the planner has to know of a split; ValueError for benchmarks other than GridSwitch."""
    chosen = spec(benchmark)
    sessions = chosen.sessions_of(split)
    if type(chosen.family()).__name__ != "GridSwitch" or sessions is None or sessions["kind"] != "geometric":
        raise ValueError(f"this agent is defined on GridSwitch with geometric sessions only, not on {benchmark}")
    chain = tuple(tuple(row) for row in sessions["chain"]["paying"])
    return GridSwitchModel(sessions["p"], chain, chosen.horizon)


class _WinStayLoseShift:
    """The rule of thumb for GridSwitch."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The agent; ValueError for benchmarks other than GridSwitch."""
        grid_switch_model(benchmark, split)
        return WinStayLoseShift()


class _Bayes:
    """The exact Bayes filter for GridSwitch."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The agent, told the split's p and T_m; ValueError for benchmarks other than GridSwitch."""
        return PlannedAgent(grid_switch_model(benchmark, split), bayes_plan, sees=False, name="bayes")


class _Oracle:
    """The agent that sees which candidate pays and plans for its switches."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The agent, told the split's p and T_m; ValueError for benchmarks other than GridSwitch."""
        return PlannedAgent(grid_switch_model(benchmark, split), oracle_plan, sees=True, name="oracle")


oracle, bayes, win_stay_lose_shift = _Oracle(), _Bayes(), _WinStayLoseShift()
