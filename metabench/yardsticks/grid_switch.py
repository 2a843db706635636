"""GridSwitch solved: the Bayes filter over its latent and exact finite-horizon plans over position x belief.

The latent (which of two candidates pays) is a two-state Markov chain that moves after every step's reward:
P = (1 - p) I + p T_m. A reward on a candidate's cell tells the latent of that step exactly; anywhere else it tells
nothing. So the reachable beliefs are few: the prior pushed forward k steps, or "it was m, k steps ago". On these nodes
dynamic programming is exact. Its value is the ceiling for every agent that does not see the latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from metabench.families.grid_navigation import GOAL_REWARD, MEANINGS, MOVES, SIZE, STEP_REWARD
from metabench.rng import Array

STAY = MEANINGS.index("stay")


@dataclass(frozen=True)
class GridSwitchModel:
    """What the planner knows of a GridSwitch: everything but the latent."""

    p: float  # probability that a session ends after a step
    chain: tuple[tuple[float, ...], ...]  # T_m[old][new]
    horizon: int = 60
    size: int = SIZE

    @property
    def step_chain(self) -> Array:
        """`[2, 2]` probability of each latent in the next step, given this step's."""
        return (1.0 - self.p) * np.eye(2) + self.p * np.asarray(self.chain)

    def moves(self) -> Array:
        """`[cells, actions]` where each move leads; at the edge, nowhere."""
        x, y = np.divmod(np.arange(self.size**2), self.size)
        clip = self.size - 1
        return np.stack([np.clip(x + dx, 0, clip) * self.size + np.clip(y + dy, 0, clip) for dx, dy in MOVES], axis=1)


class Filter(NamedTuple):
    """The reachable beliefs as nodes: 0 .. H-1 the prior, k steps old; then "was 0", then "was 1", k+1 steps ago."""

    probability: Array  # [3 H] that the first candidate pays in the step to come
    horizon: int

    @classmethod
    def of(cls, model: GridSwitchModel) -> Filter:
        """The nodes of a model: prior (1/2, 1/2), and each latent known."""
        chain, rows = model.step_chain, []
        for start in (np.array([0.5, 0.5]), chain[0], chain[1]):
            belief = start
            for _ in range(model.horizon):
                rows.append(belief[0])
                belief = belief @ chain
        return cls(np.array(rows), model.horizon)

    def after(self, node: Array, seen: Array) -> Array:
        """The next nodes `[B]`, given what a step showed: latent 0, latent 1, or nothing (-1)."""
        older = node + (node % self.horizon < self.horizon - 1)  # the oldest node is never reached with time left
        return np.where(seen < 0, older, (1 + seen) * self.horizon)


class Plan(NamedTuple):
    """The optimal actions and values for one pair of candidates."""

    action: Array  # [H, cells, nodes] int8
    value: Array  # [cells, nodes] expected return of a whole episode from here


def bayes_plan(model: GridSwitchModel, a: int, b: int) -> Plan:
    """Backward induction over (cell, node of the filter): the best that can be done without seeing the latent.

    V_t(c, n) = max over moves of E[r + V_{t+1}(c', n')], c' the cell moved to; the expectation is over the latent,
    which shows itself where c' is a candidate.
    """
    nodes, moves = Filter.of(model), model.moves()
    index = np.arange(len(nodes.probability))
    older, known = nodes.after(index, np.full(len(index), -1)), (model.horizon, 2 * model.horizon)
    pays = np.zeros((moves.shape[0], len(index)))
    pays[a], pays[b] = nodes.probability, 1.0 - nodes.probability  # probability that cell c pays, by node
    reward = STEP_REWARD + (GOAL_REWARD - STEP_REWARD) * pays
    value = np.zeros_like(pays)
    actions = np.empty((model.horizon, *pays.shape), dtype=np.int8)
    for t in range(model.horizon - 1, -1, -1):
        arrive = reward + value[:, older]  # [cell moved to, node]
        for cell, hit, miss in ((a, known[0], known[1]), (b, known[1], known[0])):
            arrive[cell] = reward[cell] + pays[cell] * value[cell, hit] + (1.0 - pays[cell]) * value[cell, miss]
        choices = arrive[moves]  # [cell, action, node]
        actions[t] = choices.argmax(axis=1)
        value = choices.max(axis=1)
    return Plan(actions, value)


def oracle_plan(model: GridSwitchModel, a: int, b: int) -> Plan:
    """Backward induction over (cell, latent): the best that can be done seeing the latent of the step to come."""
    moves, chain = model.moves(), model.step_chain
    reward = np.full((moves.shape[0], 2), STEP_REWARD)
    reward[a, 0] = reward[b, 1] = GOAL_REWARD
    value = np.zeros_like(reward)
    actions = np.empty((model.horizon, *reward.shape), dtype=np.int8)
    for t in range(model.horizon - 1, -1, -1):
        choices = (reward + value @ chain.T)[moves]
        actions[t] = choices.argmax(axis=1)
        value = choices.max(axis=1)
    return Plan(actions, value)


def bayes_value(model: GridSwitchModel) -> float:
    """Expected return of the Bayes-optimal agent, over even pairs of candidates and even free starts."""
    return _average(model, lambda a, b: bayes_plan(model, a, b).value[:, 0])


def oracle_value(model: GridSwitchModel) -> float:
    """The same for the agent that sees the latent."""
    return _average(model, lambda a, b: oracle_plan(model, a, b).value.mean(axis=1))


def _average(model: GridSwitchModel, value: Any) -> float:
    cells = model.size**2
    pairs = list(permutations(range(cells), 2))
    return float(np.mean([np.delete(value(a, b), (a, b)).mean() for a, b in pairs]))


def walk(cell: Array, target: Array, size: int = SIZE) -> Array:
    """The first move of a shortest way, along the columns first; stay on arrival. `[B]` cells to `[B]` actions."""
    dx, dy = target // size - cell // size, target % size - cell % size
    return np.select([dx > 0, dx < 0, dy > 0, dy < 0], [2, 4, 1, 3], STAY)
