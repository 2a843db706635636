"""The oracles of DarkRoom and DarkKeyToDoor: shortest ways to the goal, and to the key and then the door."""

from __future__ import annotations

from typing import Any

import numpy as np

from metabench.agent import Agent, Timestep
from metabench.families.dark_room import SIZE
from metabench.rng import Array
from metabench.yardsticks.grid_switch import walk
from metabench.yardsticks.simple import Memoryless


def _cell(observation: Array) -> Array:
    here = observation[:, :2].astype(np.int64)
    return here[:, 0] * SIZE + here[:, 1]


def to_goal(observation: Array) -> Array:
    """A shortest way to the cell in the last column, then stay."""
    return walk(_cell(observation), observation[:, 2].astype(np.int64), SIZE)


class KeyThenDoor:
    """A shortest way to the key, then to the door, then stay. Belief: what was paid in this episode, `[B]` int64."""

    name, privileged = "oracle", True

    def begin(self, num_trials: int) -> Array:
        """Nothing was paid."""
        return np.zeros(num_trials, dtype=np.int64)

    def act(self, step: Timestep, belief: Array) -> tuple[Array, Array]:
        """The next move of the way; the key is at hand once something was paid, and all is done after two."""
        paid = np.where(step.first, 0, belief + np.rint(step.reward).astype(np.int64))
        key, door = (step.observation[:, 2 + k].astype(np.int64) for k in (0, 1))
        here = _cell(step.observation)
        return np.where(paid < 2, walk(here, np.where(paid == 0, key, door), SIZE), 0), paid


class _DarkRoom:
    """Walks to the goal of DarkRoom."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The oracle."""
        return Memoryless(to_goal)


class _DarkKeyToDoor:
    """Takes the key of DarkKeyToDoor and opens the door."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The oracle."""
        return KeyThenDoor()


dark_room, dark_key_to_door = _DarkRoom(), _DarkKeyToDoor()
