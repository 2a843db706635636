"""Agents that need no training: random, oracles that see the hidden task, win-stay/lose-shift, the exact Bayes filter.

What they reach is what learned agents are measured against: random is 0 and the oracle 1 on the normalised scale, and
the Bayes filter is the ceiling for every agent that does not see the latent. Each is offered as a `Yardstick`:
`build(benchmark, split, seed)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

import metabench
from metabench import Agent, SlotRng, Timestep
from metabench_agents.grid_switch import SIZE, STAY, Filter, GridSwitchModel, Plan, bayes_plan, oracle_plan, walk
from metabench_agents.highway_merge import FAMILIES as MERGE_FAMILIES
from metabench_agents.highway_merge import MergePlanner

Array = npt.NDArray[Any]


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


def to_point(observation: Array) -> Array:
    """Straight to the goal in the last two columns, at most 0.1 m along each axis."""
    offset = observation[:, 2:4].astype(np.float64) - observation[:, :2]
    return np.clip(offset, -0.1, 0.1).astype(np.float32)


def to_angle(observation: Array) -> Array:
    """Straight to the goal on the unit circle whose angle is the last column."""
    angle = observation[:, 2].astype(np.float64)
    goal = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.clip(goal - observation[:, :2], -0.1, 0.1).astype(np.float32)


def to_cell(observation: Array) -> Array:
    """A shortest way to the cell in the last column, then stay."""
    here = observation[:, :2].astype(np.int64)
    return walk(here[:, 0] * SIZE + here[:, 1], observation[:, 2].astype(np.int64))


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
        self._plans: dict[tuple[int, int], Plan] = {}
        self._filter = Filter.of(self.model)

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
        action = np.empty(len(cell), dtype=np.int64)
        pairs, which = np.unique(np.stack([a, b], axis=1), axis=0, return_inverse=True)
        for index, (first, second) in enumerate(pairs.tolist()):
            rows = np.flatnonzero(which.ravel() == index)
            action[rows] = self._plan_of(first, second).action[elapsed[rows], cell[rows], node[rows]]
        return action, SwitchBelief(elapsed + 1, node)

    def _plan_of(self, a: int, b: int) -> Plan:
        if (a, b) not in self._plans:
            self._plans[a, b] = self.plan(self.model, a, b)
        return self._plans[a, b]


WEIGHTS = Path(__file__).parent / "oracle" / "weights"  # of trained oracles, by benchmark
SHARED_WEIGHTS = {  # benchmarks whose body, task and reward are another's, but for the sessions
    "CheetahDirSwitch-v0": "CheetahDir-v0",
    "CheetahVelSwitch-v0": "CheetahVel-v0",
    "ReacherSwitch-v0": "ReacherGoal-v0",
}


def weights_path(benchmark: str) -> Path:
    """Where the trained oracle of a benchmark is kept, whether there is one or not."""
    return WEIGHTS / f"{SHARED_WEIGHTS.get(benchmark, benchmark)}.safetensors"


def has_weights(benchmark: str) -> bool:
    """Whether a trained oracle comes with the package."""
    return weights_path(metabench.spec(benchmark).id).is_file()


class _Random:
    """The random agent of any benchmark."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """Uniform over the action space."""
        return RandomAgent(metabench.spec(benchmark).family().action_space, seed)


class _Zero:
    """The agent that does nothing, on any benchmark."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The action 0."""
        return ZeroAgent(metabench.spec(benchmark).family().action_space)


class _Oracle:
    """The agent that sees the hidden task and acts best for it."""

    _CHOICES = {"PointRobot": to_point, "SparsePointRobot": to_angle, "GridNavigation": to_cell}  # noqa: RUF012

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The benchmark's oracle; ValueError where none is written."""
        chosen = metabench.spec(benchmark)
        benchmark, family = chosen.id, type(chosen.family()).__name__
        if family == "GridSwitch":
            return PlannedAgent(grid_switch_model(benchmark, split), oracle_plan, sees=True, name="oracle")
        if family == "ScratchItch":
            return _scratching().oracle(benchmark)
        if family == "MetaWorld":
            from metabench_agents.scripted import ScriptedExpert

            return ScriptedExpert(chosen.family())
        if has_weights(benchmark):
            from metabench_agents.oracle.sac_oracle import shipped_agent

            return shipped_agent(benchmark, weights_path(benchmark))
        if family in MERGE_FAMILIES:
            return MergePlanner(benchmark, "oracle", seed)
        if family not in self._CHOICES:
            trained = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))
            known = ", ".join([*self._CHOICES, "GridSwitch", "MetaWorld", "ScratchItch", *MERGE_FAMILIES, *trained])
            raise ValueError(f"there is no oracle for {benchmark}; it exists for {known}")
        return Memoryless(self._CHOICES[family])


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


class _ItchFilter:
    """A filter that infers the itch of ScratchItch from rewards."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The agent, told how often the split's itches move; ValueError for other benchmarks."""
        chosen = metabench.spec(benchmark)
        sessions = chosen.sessions_of(split)
        if type(chosen.family()).__name__ != "ScratchItch" or (sessions and sessions["kind"] != "geometric"):
            raise ValueError(f"this agent is defined on ScratchItch only, not on {benchmark}")
        return _scratching().itch_filter(benchmark, split)


def _scratching() -> Any:
    from metabench_agents import scratching  # needs MuJoCo, which the other yardsticks do not

    return scratching


def grid_switch_model(benchmark: str, split: str) -> GridSwitchModel:
    """What the planner has to know of a split; ValueError for benchmarks other than GridSwitch."""
    chosen = metabench.spec(benchmark)
    sessions = chosen.sessions_of(split)
    if type(chosen.family()).__name__ != "GridSwitch" or sessions is None or sessions["kind"] != "geometric":
        raise ValueError(f"this agent is defined on GridSwitch with geometric sessions only, not on {benchmark}")
    chain = tuple(tuple(row) for row in sessions["chain"]["paying"])
    return GridSwitchModel(sessions["p"], chain, chosen.horizon)


random, zero, oracle, win_stay_lose_shift, bayes = _Random(), _Zero(), _Oracle(), _WinStayLoseShift(), _Bayes()
itch_filter = _ItchFilter()
__all__ = ["STAY", "bayes", "grid_switch_model", "itch_filter", "oracle", "random", "win_stay_lose_shift", "zero"]
