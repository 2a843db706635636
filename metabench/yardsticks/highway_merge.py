"""Planners for HighwayMerge: one way to act, three beliefs about the drivers. They measure what knowing them is worth.

Each second the agent plans its accelerations for the rest of the episode by the cross-entropy method (Rubinstein 1999;
de Boer et al. 2005) in the family's own model, for the mean return over the contexts it believes in, follows the plan
for a second, and plans again. The **oracle** believes in the true context, the **context-free** planner always in the
training distribution, and the **adaptive** one in the posterior after all it has seen in the trial. They differ in
nothing else, so the distance between them is the value of the information.

The traffic's speed needs no belief: it is the first car's, which all of them see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Timestep
from metabench.registry import spec
from metabench.rng import Array, SlotRng

SEGMENT = 5  # steps of one constant acceleration, and between two plans
NOISE = 0.05  # m/s by which a car's speed may differ from a prediction, as the posterior has it
LEAST_WEIGHT = 1e-3  # contexts below this share of the posterior are not planned for
MOST_CONTEXTS = 12  # planned for at a time: more are thinned out evenly
FAMILIES = ("HighwayMerge", "HighwayMergeHidas")


@dataclass(frozen=True)
class Search:
    """The cross-entropy method's effort."""

    plans: int = 48
    elites: int = 6
    rounds: int = 4
    spread: float = 0.7  # of the first round, in units of the largest acceleration
    least_spread: float = 0.02


class PlannerBelief(NamedTuple):
    """What a planner remembers of B trials."""

    elapsed: Array  # [B] int64 steps of the episode
    plan: Array  # [B, S] accelerations of the segments to come, in units of the largest
    weights: Array  # [B, K] log of the posterior over `MergePlanner.contexts`, up to a constant
    seen: Array  # [B, O] the last observation
    rounds: Array  # [] int64 plans made so far: part of the seed


class MergePlanner:
    """Acts by plans. See the module for the three `name`s: "oracle", "context-free", "adaptive"."""

    def __init__(self, benchmark: str, name: str, seed: int, search: Search | None = None):
        self.family: Any = spec(benchmark).family()
        if type(self.family).__name__ not in FAMILIES:
            raise ValueError(f"this agent is defined on {', '.join(FAMILIES)} only, not on {benchmark}")
        self.ranges = spec(benchmark).table().ranges
        self.name, self.privileged = name, name == "oracle"
        self.seed, self.search = seed, search or Search()
        self.segments = -(-self.family.horizon // SEGMENT)
        self.columns = self.family.observation_space.shape[0]
        self.contexts = self._particles()

    def _particles(self) -> Array:
        """`[K, 2]` contexts of the belief; the traffic's speed among them is put in when it has been seen."""
        ranges = list(self.ranges.values())
        wide = self.name == "adaptive"
        ends = [(r.low, r.high) if wide else r.train for r in ranges]
        if type(self.family).__name__ == "HighwayMerge":
            return np.stack([np.zeros(9), np.linspace(*ends[1], 9)], axis=1)
        grid = np.meshgrid(np.linspace(*ends[0], 9), np.linspace(*ends[1], 6), indexing="ij")
        return np.stack([g.ravel() for g in grid], axis=1)

    def begin(self, num_trials: int) -> PlannerBelief:
        """Knowing the training distribution."""
        return PlannerBelief(
            np.zeros(num_trials, dtype=np.int64),
            np.zeros((num_trials, self.segments)),
            np.zeros((num_trials, len(self.contexts))),
            np.zeros((num_trials, self.columns), dtype=np.float32),
            np.zeros((), dtype=np.int64),
        )

    def act(self, step: Timestep, belief: PlannerBelief) -> tuple[Array, PlannerBelief]:
        """The plan's next acceleration, of a new plan where a segment begins."""
        observation = step.observation[:, : self.columns]
        weights = belief.weights
        if self.name == "adaptive":
            weights = weights + np.where(
                step.first[:, None], 0.0, self._likelihood(belief.seen, step.action, observation)
            )
            weights -= weights.max(axis=1, keepdims=True)
        elapsed = np.where(step.first, 0, belief.elapsed)
        plan = np.where(step.first[:, None], 0.0, belief.plan)
        due = np.flatnonzero(elapsed % SEGMENT == 0)
        if len(due):
            rng = np.random.default_rng([self.seed, int(belief.rounds)])
            plan[due] = self._plan(step.observation[due], weights[due], elapsed[due], plan[due], rng)
        action = self._action(plan[:, 0], elapsed)
        elapsed = elapsed + 1
        ended = elapsed % SEGMENT == 0
        plan[ended] = np.append(plan[ended, 1:], plan[ended, -1:], axis=1)
        return action, PlannerBelief(elapsed, plan, weights, observation, belief.rounds + bool(len(due)))

    def _action(self, level: Array, elapsed: Array) -> Array:
        """Actions for accelerations in [-1, 1]; on a set speed, one change at the beginning of a segment."""
        if not self.family.discrete:
            return level[:, None].astype(np.float32)
        return np.where(elapsed % SEGMENT == 0, np.rint(np.clip(level, -1, 1)).astype(np.int64) + 1, 1)

    def _context(self, observation: Array, pairs: Array) -> Any:
        """The context of rows that believe in `pairs` `[B, 2]`."""
        first, second = pairs.T.copy()
        if type(self.family).__name__ == "HighwayMerge" and not self.privileged:
            ranges = self.ranges["traffic_speed"]
            first = np.clip(observation[:, self._first_speed].astype(np.float64), ranges.low, ranges.high)
        return self.family.context_type(first, second)

    @property
    def _first_speed(self) -> int:
        return [f.name for f in self.family.observation_fields].index("car_1_speed")

    def _likelihood(self, before: Array, action: Array, after: Array) -> Array:
        """`[B, K]` log likelihood of the speeds seen, by each context's prediction."""
        count, kinds = len(before), len(self.contexts)
        start = np.repeat(before, kinds, axis=0)
        context = self._context(start, np.tile(self.contexts, (count, 1)))
        state = self.family.state_of(start)
        predicted = self.family.transition(state, np.repeat(action, kinds, axis=0), context, _NO_STREAMS)
        speeds = self.family.state_of(after).speed
        error = predicted.speed.reshape(count, kinds, -1) - speeds[:, None]
        return -0.5 * np.square(error / NOISE).sum(axis=2)

    def _plan(self, observation: Array, weights: Array, elapsed: Array, plan: Array, rng: np.random.Generator) -> Array:
        """`[n, S]` better plans for n slots, from their last ones."""
        search, n = self.search, len(observation)
        pairs, shares = self._believed(observation, weights)
        mean, spread = plan.copy(), np.full(plan.shape, search.spread)
        best, value = plan.copy(), np.full(n, -np.inf)
        for turn in range(search.rounds):
            noise = rng.standard_normal((n, search.plans, self.segments))
            tries = np.clip(mean[:, None] + spread[:, None] * noise, -1.0, 1.0)
            if turn == 0:  # the last plan, and steady ones
                steady = np.linspace(-1.0, 1.0, 7)
                tries[:, 0], tries[:, 1:8] = plan, steady[None, :, None]
            returns = self._returns(observation[:, : self.columns], pairs, shares, elapsed, tries)
            order = np.argsort(-returns, axis=1)[:, : search.elites]
            elite = np.take_along_axis(tries, order[..., None], axis=1)
            mean, spread = elite.mean(axis=1), elite.std(axis=1) + search.least_spread
            top = np.take_along_axis(returns, order[:, :1], axis=1)[:, 0]
            better = top > value
            best[better], value[better] = elite[better, 0], top[better]
        return best

    def _believed(self, observation: Array, weights: Array) -> tuple[Array, Array]:
        """`[n, K, 2]` contexts and `[n, K]` their shares."""
        if self.privileged:
            return observation[:, None, self.columns :].astype(np.float64), np.ones((len(observation), 1))
        shares = np.exp(weights - weights.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[shares < LEAST_WEIGHT] = 0.0
        crowded = np.count_nonzero(shares, axis=1) > MOST_CONTEXTS
        if crowded.any():
            ends = np.cumsum(shares[crowded], axis=1)
            marks = np.floor(ends / ends[:, -1:] * MOST_CONTEXTS - 0.5 + 1e-9)  # of evenly spread samples passed so far
            shares[crowded] = np.diff(marks, axis=1, prepend=-1.0)
        return np.repeat(self.contexts[None], len(shares), axis=0), shares / shares.sum(axis=1, keepdims=True)

    def _returns(self, observation: Array, pairs: Array, shares: Array, elapsed: Array, tries: Array) -> Array:
        """`[n, P]` mean returns of the plans to the end of the episode."""
        family, (n, plans, _) = self.family, tries.shape
        slot, which, kind = (x.ravel() for x in np.indices((n, plans, pairs.shape[1])))
        live = shares[slot, kind] > 0.0
        slot, which, kind = slot[live], which[live], kind[live]
        context = self._context(observation[slot], pairs[slot, kind])
        state, total = family.state_of(observation[slot]), np.zeros(len(slot))
        left = family.horizon - elapsed
        for t in range(int(left.max())):
            action = self._action(tries[slot, which, min(t // SEGMENT, self.segments - 1)], np.full(len(slot), t))
            after = family.transition(state, action, context, _NO_STREAMS)
            reward = family.reward(state, action, after, context)
            total += np.where(state.crashed | (t >= left[slot]), 0.0, reward)
            state = after
        returns = np.zeros((n, plans))
        np.add.at(returns, (slot, which), shares[slot, kind] * total)
        return returns


_NO_STREAMS = SlotRng.from_seeds([])


@dataclass(frozen=True)
class _Planner:
    """A planner as a yardstick."""

    name: str

    def build(self, benchmark: str, split: str, seed: int) -> MergePlanner:
        """The planner; ValueError for other benchmarks than the merging ones."""
        return MergePlanner(spec(benchmark).id, self.name, seed)


context_free, adaptive, oracle = _Planner("context-free"), _Planner("adaptive"), _Planner("oracle")
