"""Tabular Q-learning on the grids: a learner without any prior, one table per trial, and what `history` sets record.

Watkins 1989: Q(s, a) += rate (r + discount max_a' Q(s', a') - Q(s, a)) after every step, over the whole trial. The
table starts at `optimism`, above what a step without reward is worth, so that the learner tries what it has not tried
(Sutton and Barto 2018, section 2.6), and takes a uniform action with a probability that falls linearly to `last` over
the first `annealed` episodes. An episode's end at the horizon is no end of the task: its last step bootstraps.

Its state is the agent's cell and, where rewards alone tell more, what they have told in this episode: in
DarkKeyToDoor how often it was paid, in GridSwitch which candidate has last been found to pay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Agent, Timestep
from metabench.families import dark_room, grid_navigation
from metabench.registry import spec
from metabench.rng import Array, SlotRng
from metabench.tasks import suggest

# (told [B] int64, cell [B] that was entered, reward [B] for it, observation [B, O]) -> told
Tell = Callable[[Array, Array, Array, Array], Array]


@dataclass(frozen=True)
class Learning:
    """How a family is learned."""

    size: int  # cells along a side
    told: int = 1  # values of what rewards have told
    tell: Tell | None = None  # how a reward changes that; None where nothing is told
    episodes: int = 100  # of a learning history
    annealed: int = 50  # episodes until the share of uniform actions has fallen to `last`
    first: float = 0.3  # that share in the first episode
    last: float = 0.02
    rate: float = 0.5
    discount: float = 0.9
    optimism: float = 1.0


def _paid(told: Array, cell: Array, reward: Array, observation: Array) -> Array:
    return np.minimum(told + np.rint(reward).astype(np.int64), 2)


def _candidate(told: Array, cell: Array, reward: Array, observation: Array) -> Array:
    """0: unknown, 1: the first candidate paid last, 2: the second."""
    size = grid_navigation.SIZE
    seen = observation.astype(np.int64)
    a, b = (seen[:, k] * size + seen[:, k + 1] for k in (2, 4))
    pays = reward > 0
    at_a, at_b = cell == a, cell == b
    return np.where(at_a, np.where(pays, 1, 2), np.where(at_b, np.where(pays, 2, 1), told))


LEARNING = {
    "DarkRoom": Learning(dark_room.SIZE, rate=1.0, first=0.1, annealed=20),
    "DarkKeyToDoor": Learning(dark_room.SIZE, 3, _paid, episodes=150, annealed=50, first=0.1, rate=1.0),
    "GridNavigation": Learning(grid_navigation.SIZE, episodes=50, annealed=25),
    "GridSwitch": Learning(grid_navigation.SIZE, 3, _candidate, episodes=50, annealed=25),
}


def learning_of(benchmark: str) -> Learning:
    """How a benchmark is learned; ValueError where there is no table for it."""
    family = type(spec(benchmark).family())
    if family.__name__ not in LEARNING or not family.__module__.startswith("metabench."):
        raise ValueError(f"no tabular learner for {benchmark}; {suggest(family.__name__, sorted(LEARNING))}")
    return LEARNING[family.__name__]


class TableBelief(NamedTuple):
    """All that B learners know."""

    table: Array  # [B, S, A] float64
    state: Array  # [B] int64 row of the table the last action was taken in
    told: Array  # [B] int64 what the episode's rewards have told
    episode: Array  # [B] int64 episodes finished
    streams: tuple[Array, Array]  # of each trial's own random numbers


class QLearner:
    """Tabular Q-learning over a trial.

    Args:
        learning: How.
        actions: How many there are.
        columns: Columns of the observation; any further one is the hidden task, at which it does not look.
        seed: Of its own random numbers.
        shown: Whether it is shown the hidden task (as one who is advised by an oracle must be).
        in_place: Whether `act` changes the table of the belief it is handed instead of a copy: for who keeps no belief.
    """

    name = "q-learning"

    def __init__(self, learning: Learning, actions: int, columns: int, seed: int, shown: bool, in_place: bool):
        self.learning, self.actions, self.columns, self.seed = learning, actions, columns, seed
        self.privileged, self.in_place = shown, in_place
        self.states = learning.size**2 * learning.told

    def begin(self, num_trials: int) -> TableBelief:
        """Everything is promising."""
        table = np.full((num_trials, self.states, self.actions), self.learning.optimism)
        nothing = np.zeros(num_trials, dtype=np.int64)
        streams = SlotRng.counting(self.seed * 2**32, num_trials).state()
        return TableBelief(table, nothing, nothing, nothing - 1, streams)

    def act(self, step: Timestep, belief: TableBelief) -> tuple[Array, TableBelief]:
        """Learns from the last step, then acts."""
        learning, first = self.learning, step.first
        observation = step.observation[:, : self.columns]
        here, told, table = self._cell(observation), belief.told, belief.table
        begun = belief.episode >= 0
        if begun.any():
            came = self._cell(np.where(first[:, None], step.final[:, : self.columns], observation))
            if learning.tell is not None:
                told = learning.tell(told, came, step.reward, observation)
            table = table if self.in_place else table.copy()
            self._learn(table, belief.state, step.action, step.reward, told * learning.size**2 + came, begun)
        told = np.where(first, 0, told)
        state, episode = told * learning.size**2 + here, belief.episode + first
        rng = SlotRng(belief.streams[0], belief.streams[1].copy())
        values = table[np.arange(len(state)), state]
        action = (values + 1e-9 * rng.random(self.actions)).argmax(axis=1)  # ties fall evenly
        fall = np.minimum(episode / learning.annealed, 1.0)
        lost = rng.random() < learning.first + (learning.last - learning.first) * fall
        action = np.where(lost, rng.integers(self.actions), action)
        return action, TableBelief(table, state, told, episode, rng.state())

    def _cell(self, observation: Array) -> Array:
        return (observation[:, 0] * self.learning.size + observation[:, 1]).astype(np.int64)

    def _learn(self, table: Array, state: Array, action: Array, reward: Array, after: Array, rows: Array) -> None:
        slots, learning = np.flatnonzero(rows), self.learning
        s, a = state[slots], action[slots]
        target = reward[slots] + learning.discount * table[slots, after[slots]].max(axis=1)
        table[slots, s, a] += learning.rate * (target - table[slots, s, a])


def q_learner(benchmark: str, seed: int, *, shown: bool = False, in_place: bool = False) -> QLearner:
    """The learner of a benchmark; ValueError where there is none. See `QLearner` for the arguments."""
    family: Any = spec(benchmark).family()
    columns, actions = len(family.observation_fields), int(family.action_space.n) if learning_of(benchmark) else 0
    return QLearner(learning_of(benchmark), actions, columns, seed, shown, in_place)


class _QLearning:
    """Tabular Q-learning on the grids."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """A learner for every trial."""
        return q_learner(benchmark, seed)


q_learning = _QLearning()
