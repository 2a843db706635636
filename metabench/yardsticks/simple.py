"""Agents of every benchmark that need no training: random actions, none at all, and the oracle that sees the task.

What they reach is what learned agents are measured against: random is 0 and the oracle 1 on the normalised scale. Each
is offered as a `Yardstick`: `build(benchmark, split, seed)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from metabench.agent import Agent, Timestep
from metabench.plugins import load_oracle
from metabench.registry import spec
from metabench.rng import Array, SlotRng


class RandomAgent:
    """Uniform actions. Belief: how many ticks have passed; the streams belong to the trials."""

    name, privileged = "random", False

    def __init__(self, space: spaces.Box | spaces.Discrete, seed: int):
        self.space, self.seed = space, seed

    def begin(self, num_trials: int) -> tuple[Array, Array]:
        """Keys and counters of the trials' streams."""
        return SlotRng.counting(self.seed * 2**32, num_trials).state()

    def act(self, step: Timestep, belief: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        """An action from each trial's stream."""
        key, counter = belief
        rng = SlotRng(key, counter.copy())
        if isinstance(self.space, spaces.Discrete):
            return rng.integers(int(self.space.n)), rng.state()
        action = rng.uniform(self.space.low, self.space.high, self.space.shape)
        return action.astype(self.space.dtype), rng.state()


class ZeroAgent:
    """Does nothing: the action 0, whatever it means."""

    name, privileged = "zero", False

    def __init__(self, space: spaces.Box | spaces.Discrete):
        self.space = space

    def begin(self, num_trials: int) -> None:
        """Nothing to remember."""
        return None

    def act(self, step: Timestep, belief: None) -> tuple[Array, None]:
        """Zeros."""
        return np.zeros((len(step.reward), *(self.space.shape or ())), self.space.dtype), None


class Memoryless:
    """An oracle: what it does depends on the observation with the exposed task, and on nothing else."""

    name, privileged = "oracle", True

    def __init__(self, choose: Callable[[Array], Array]):
        self.choose = choose  # observations [B, O + K] to actions

    def begin(self, num_trials: int) -> None:
        """Nothing to remember."""
        return None

    def act(self, step: Timestep, belief: None) -> tuple[Array, None]:
        """The best action for the task it sees."""
        return self.choose(step.observation), None


class _Random:
    """The random agent of any benchmark."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """Uniform over the action space."""
        return RandomAgent(spec(benchmark).family().action_space, seed)


class _Zero:
    """The agent that does nothing, on any benchmark."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The action 0."""
        return ZeroAgent(spec(benchmark).family().action_space)


class _Oracle:
    """The agent that sees the hidden task and acts best for it, wherever its family or a package names one."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The benchmark's oracle; ValueError where there is none."""
        return load_oracle(benchmark, split, seed)


random, zero, oracle = _Random(), _Zero(), _Oracle()
