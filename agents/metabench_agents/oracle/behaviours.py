"""Behaviour policies of offline datasets: random, medium, expert and a learning history, wherever there is an oracle.

Where the oracle was trained (`oracle.sac_oracle`), the qualities are checkpoints of that one training run,
played with the policy's own noise, as Meta-DT's collectors do: `expert` is the last one, `medium` the one nearest to
0.42 of the way from random to expert, `replay` all that are kept, in order.

`sac-history` is `replay` where the oracle was trained; where it was not, the checkpoints of a soft actor-critic that
was trained for this alone (`weights/histories`). The released recipe trains one such per task, which is out of reach
here; ours is shown the task. The data keep what the oracle would have done at every step.

Where the oracle is a closed form or a script, it is diluted: with probability `random` a step's action is uniform,
otherwise it is the oracle's plus Gaussian noise. `expert` keeps a little of both, so that episodes of one task
differ; `medium` has the share of random actions that was measured to lead a third to a half of the way; `replay`
anneals from random to expert in ten stages: noise distillation (Zisman et al. 2024, arXiv 2312.12275), no learner's
history.

`history` is one, on the grids: a tabular Q-learner for every trial (`metabench.yardsticks.q_learning`), each of its
episodes in order, beside what the oracle would have done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

import metabench
from metabench import Agent, Behaviour, SlotRng, Timestep
from metabench.plugins import load_oracle
from metabench.yardsticks.q_learning import learning_of, q_learner
from metabench.yardsticks.simple import RandomAgent
from metabench_agents.oracle.weights import has_weights, history_path, stage_behaviours, weights_path

Array = npt.NDArray[Any]

QUALITIES = ("random", "medium", "expert", "replay", "sac-history", "history")
EXPERT_RANDOM = 0.02  # share of random actions
NOISE = 0.1  # deviation of the noise, in half widths of the action space
NOISE_OF = {  # where that noise is not small: the slightest costs the merging planner a quarter of the way
    "HighwayMerge-v0": 0.0,
    "HighwayMergeHidas-v0": 0.0,
}
STAGES = 10  # of an annealed history
# Share of random actions of `medium`, found on the training tasks by scripts/calibrate_behaviours.py.
MEDIUM_RANDOM = {
    "GridNavigation-v0": 0.47,  # 0.422 of the way
    "GridSwitch-v0": 0.56,  # 0.414 of the way
    "HighwayMerge-v0": 0.38,  # 0.417 of the way
    "HighwayMergeDiscrete-v0": 0.17,  # 0.408 of the way
    "MetaWorld-Reach-v0": 0.92,  # 0.415 of the way
    "PointRobot-v0": 0.75,  # 0.423 of the way
    "ScratchItch-v0": 0.45,  # 0.421 of the way
    "SparsePointRobot-v0": 0.46,  # 0.430 of the way
}
DEFAULT_MEDIUM_RANDOM = 0.5


def noise_of(benchmark: str) -> float:
    """The deviation of the noise on a benchmark's actions, in half widths of its action space."""
    box = isinstance(metabench.spec(benchmark).family().action_space, spaces.Box)
    return NOISE_OF.get(benchmark, NOISE) if box else 0.0


class Diluted:
    """An agent whose actions are random now and then, and noisy otherwise.

    Belief: the agent's own, and keys and counters of the trials' streams.
    """

    def __init__(self, agent: Agent[Any], space: spaces.Box | spaces.Discrete, random: float, noise: float, seed: int):
        self.agent, self.space, self.random, self.noise, self.seed = agent, space, random, noise, seed
        self.name, self.privileged = "diluted oracle", bool(getattr(agent, "privileged", False))

    def begin(self, num_trials: int) -> Any:
        """The agent's belief and fresh streams."""
        rng = SlotRng.counting(self.seed * 2**32, num_trials)
        return self.agent.begin(num_trials), rng.state()

    def act(self, step: Timestep, belief: Any) -> tuple[Array, Any]:
        """The agent's actions, diluted."""
        own, (key, counter) = belief
        action, own = self.agent.act(step, own)
        rng = SlotRng(key, counter.copy())
        lost = rng.random() < self.random
        if isinstance(self.space, spaces.Discrete):
            return np.where(lost, rng.integers(int(self.space.n)), action), (own, rng.state())
        low, high, shape = self.space.low, self.space.high, self.space.shape
        wild = rng.uniform(low, high, shape)
        noisy = action + rng.normal(self.noise, shape) * (high - low) / 2
        mixed = np.where(lost.reshape(-1, *(1 for _ in shape)), wild, noisy)
        return np.clip(mixed, low, high).astype(self.space.dtype), (own, rng.state())


class _Behaviours:
    """The plug-in."""

    def behaviours(self, benchmark: str, split: str, quality: str) -> Sequence[Behaviour]:
        """The policies of one quality; ValueError where the benchmark has no oracle."""
        if quality not in QUALITIES:
            raise ValueError(
                f"no behaviour policy plays {quality!r} data; available: {', '.join((*QUALITIES, 'mixed'))}"
            )
        space = metabench.spec(benchmark).family().action_space
        if quality == "random":
            return (Behaviour("uniform actions", 0, "", {}, lambda seed: RandomAgent(space, seed)),)
        if quality == "sac-history":
            return stage_behaviours(benchmark, history_path(benchmark), "replay")
        if quality == "history":
            return (self._learner(benchmark),)
        if has_weights(benchmark):
            return stage_behaviours(benchmark, weights_path(benchmark), quality)
        load_oracle(benchmark, split, 0)  # the ValueError where there is none
        if quality == "expert":
            return (self._diluted(benchmark, split, EXPERT_RANDOM),)
        medium = MEDIUM_RANDOM.get(benchmark, DEFAULT_MEDIUM_RANDOM)
        if quality == "medium":
            return (self._diluted(benchmark, split, medium),)
        shares = np.linspace(1.0, EXPERT_RANDOM, STAGES)
        return tuple(self._diluted(benchmark, split, float(share), stage) for stage, share in enumerate(shares))

    def _learner(self, benchmark: str) -> Behaviour:
        learning = learning_of(benchmark)

        def make(seed: int) -> Agent[Any]:
            return q_learner(benchmark, seed, shown=True, in_place=True)

        settings = {name: value for name, value in asdict(learning).items() if isinstance(value, int | float)}
        return Behaviour("tabular Q-learning", 0, "", settings, make)

    def _diluted(self, benchmark: str, split: str, random: float, stage: int = 0) -> Behaviour:
        space: Any = metabench.spec(benchmark).family().action_space
        noise = noise_of(benchmark)

        def make(seed: int) -> Agent[Any]:
            return Diluted(load_oracle(benchmark, split, seed), space, random, noise, seed)

        settings = {"random": round(random, 6), "noise": noise}
        return Behaviour(f"oracle with {random:.0%} random actions", stage, "", settings, make)


behaviour = _Behaviours()
