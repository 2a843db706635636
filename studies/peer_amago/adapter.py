"""What stands between AMAGO and metabench: trials for AMAGO to train on, and its policy as an agent of metabench.

AMAGO 3.3.0 (commit 2d85600) asks for gymnasium <= 0.29.1. Its code runs unchanged on 1.4 once `restore_handing_down`
was called: its wrappers read attributes of what they wrap, as a wrapper of 0.29 let them.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

import metabench
from metabench.rng import Array
from metabench.stacks import RL2Vector


def restore_handing_down() -> None:
    """Lets `gymnasium.Wrapper` hand unknown attributes down to what it wraps, as before 1.0."""

    def hand_down(self: gym.Wrapper, name: str) -> Any:
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    gym.Wrapper.__getattr__ = hand_down  # pyright: ignore[reportAttributeAccessIssue]


class Trials(gym.Env):
    """Many training trials at once, as AMAGO's mode `already_vectorized` wants them: an `Env` of batched arrays.

    AMAGO appends the last action and reward to what it is shown itself, so of RL2Vector's rows it is shown the
    observation and `first` alone. A trial's end is `terminated`, as in AMAGO's own meta-RL examples: nothing is
    bootstrapped from the next trial.
    """

    def __init__(self, benchmark: str, count: int, seed: int):
        self._trials, self._seed = RL2Vector(metabench.make_vec(benchmark, count, split="train")), seed
        seen: Any = self._trials.env.single_observation_space
        row: Any = self._trials.single_observation_space
        self._columns = [*range(seen.shape[0]), -1]  # the observation, and whether an episode begins
        self.observation_space = gym.spaces.Box(row.low[self._columns], row.high[self._columns], dtype=np.float32)
        self.action_space = self._trials.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """`[B, O + 1]` of fresh trials, by the seed of the run."""
        return self._trials.reset(seed=self._seed)[0][:, self._columns], {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Rows `[B, O + 1]`, rewards, ends of trials as ends of episodes, no truncation."""
        rows, reward, terminated, truncated, _ = self._trials.step(action)
        return rows[:, self._columns], reward, terminated | truncated, np.zeros_like(truncated), {}


class AmagoAgent:
    """An AMAGO policy with a recurrent memory as metabench's agent: it remembers through all episodes of a trial.

    Args:
        policy: Of AMAGO, for discrete actions.
        sample: Draw actions, AMAGO's default; the likeliest otherwise.
    """

    def __init__(self, policy: Any, sample: bool = True):
        self._policy, self._sample = policy.eval(), sample
        self.name = "amago" if sample else "amago-argmax"

    def begin(self, num_trials: int) -> tuple[Any, int]:
        """The memory of trials that begin, and how many steps of them have been seen."""
        return self._policy.init_hidden_state(num_trials, torch.device("cpu")), 0

    @torch.no_grad()
    def act(self, step: metabench.Timestep, belief: tuple[Any, int]) -> tuple[Array, tuple[Any, int]]:
        """Actions `[B]`, and the memory after them."""
        memory, steps = belief
        last = np.column_stack((step.reward, np.eye(self._policy.action_dim)[step.action])).astype(np.float32)
        last *= steps > 0  # at the trial's start there is no last action
        shown = np.column_stack((step.observation, step.first)).astype(np.float32)
        action, memory = self._policy.get_actions(
            {"observation": torch.from_numpy(shown)[:, None]},
            torch.from_numpy(last)[:, None],
            torch.full((len(shown), 1, 1), steps),
            memory,
            self._sample,
        )
        return action[:, 0, 0].numpy().astype(np.int64), (memory, steps + 1)
