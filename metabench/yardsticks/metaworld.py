"""Meta-World's scripted policies as oracles: hand-written controllers that are shown the hidden goal.

They come with Meta-World (`metaworld.policies`), one for each class, and see its observation with the goal in its last
three columns. Their success is measured and stored with the package; it is what a solved task looks like, not a bound.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Timestep
from metabench.registry import spec
from metabench.rng import Array

OBSERVATION, GOAL = 39, slice(36, 39)  # Meta-World's observation, and where the goal stands in it


class Scripts(NamedTuple):
    """What the expert remembers of its trials."""

    policies: tuple[Any, ...]  # one per slot, of the class that the slot's episode plays
    goals: Array  # [B, 3] m


class ScriptedExpert:
    """The policy of each slot's class, shown the goal.

    Args:
        family: The family of the benchmark, which knows goals and classes of exposed tasks.
    """

    name, privileged = "oracle", True

    def __init__(self, family: Any):
        from metaworld.policies import ENV_POLICY_MAP

        self.family = family
        self._policies = {name.removesuffix("-v3"): policy for name, policy in ENV_POLICY_MAP.items()}

    def begin(self, num_trials: int) -> Scripts:
        """No task is known yet."""
        return Scripts((None,) * num_trials, np.zeros((num_trials, 3)))

    def act(self, step: Timestep, belief: Scripts) -> tuple[Array, Scripts]:
        """Each policy's action, clipped to what the environment takes."""
        if step.first.any():
            belief = self._look(step, belief)
        action = np.zeros((len(step.first), 4), dtype=np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the policies say whenever they want more than [-1, 1]
            for slot, policy in enumerate(belief.policies):
                shown = step.observation[slot, :OBSERVATION].copy()
                shown[GOAL] = belief.goals[slot]
                action[slot] = np.clip(policy.get_action(shown), -1.0, 1.0)
        return action, belief

    def _look(self, step: Timestep, belief: Scripts) -> Scripts:
        """The policies and goals of the episodes that begin."""
        tasks = step.observation[:, OBSERVATION:]
        names = self.family.names_of(tasks)
        policies = tuple(
            self._policies[name]() if first else old
            for name, first, old in zip(names, step.first, belief.policies, strict=True)
        )
        return Scripts(policies, np.where(step.first[:, None], self.family.goals(tasks), belief.goals))


class _Oracle:
    """The scripted expert of a Meta-World benchmark."""

    def build(self, benchmark: str, split: str, seed: int) -> ScriptedExpert:
        """The oracle."""
        return ScriptedExpert(spec(benchmark).family())


oracle = _Oracle()
