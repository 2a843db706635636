"""Benchmarks at the pace of an agent's decisions, and such an agent at the benchmark's own pace.

For agents that learn from decisions: `make_viewed` is a vector environment whose step is one decision, `DecidingAgent`
plays what was trained in it under the benchmark's own protocol. Everything that is shown, summed or left out in the one
is so in the other; a test plays both side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import metabench
from metabench import SlotRng, Timestep
from metabench.envs import MetaVectorEnv
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench.simulator import Outcome, Simulator, Trials
from metabench.tasks import TaskBatch
from metabench_agents.parts.view import Sight, ViewConfig, held_steps

Array = npt.NDArray[Any]
T = TypeVar("T")


def make_viewed(benchmark: str, num_envs: int, view: ViewConfig, **options: Any) -> Any:
    """`metabench.make_vec` as a view shows it; the plain environment for the plain view.

    A step plays one decision for `view.hold` environment steps, fewer where the episode ends; its reward is their sum.
    Where the episode's time is shown, its limit is a true end. `env.played` counts environment steps.
    """
    env = metabench.make_vec(benchmark, num_envs, **options)
    if view.plain:
        return env
    own = env._trials
    sight = Sight(own.family.observation_fields, view, own.horizon)
    return MetaVectorEnv(_ViewedTrials(own, sight), num_envs, expose_task=options.get("expose_task", False))


def played(env: Any, decisions: Array) -> int:
    """Environment steps of the last step of `env` in the slots where `decisions` `[B]` bool is true."""
    simulator = env._trials.simulator
    return int(np.sum(simulator.taken[decisions] if isinstance(simulator, _HeldSimulator) else decisions))


def _viewed(family: Any, sight: Sight) -> Any:
    """A family whose observations and steps are what an agent is shown: same class and functions otherwise."""
    kind, shown = type(family), copy.copy(family)
    shown.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__})
    shown.observation_fields = sight.fields
    shown.horizon, shown.dt = held_steps(sight.horizon, sight.view.hold), family.dt * sight.view.hold
    return shown


class _ViewedTrials(Trials):
    """Trials whose simulator steps by decisions."""

    def __init__(self, own: Trials, sight: Sight):
        shown = _viewed(own.family, sight)
        super().__init__(shown, own.table, own.drift, own.split, own.episodes_per_task, own.horizon, own.backend)
        self.sight = sight

    def start(self, rng: SlotRng, tasks: TaskBatch | None = None) -> None:
        """As the benchmark's own."""
        super().start(rng, tasks)
        self.simulator = _HeldSimulator(self.running, self.sight)


class _HeldSimulator:
    """A simulator whose steps are decisions; see `make_viewed`."""

    def __init__(self, own: Simulator, sight: Sight):
        self.own, self.sight = own, sight
        count = len(own.session)
        self.elapsed, self.taken = np.zeros((2, count), dtype=np.int64)
        self.decisions = np.zeros(count, dtype=np.int64)
        self.paid, self.before = np.zeros((2, count))  # of the episode: in all, and before the last decision's reward
        self.resting = np.zeros(count, dtype=bool)  # whose episode is over, where episodes are of one length
        self.shown = self._see(own.observation)

    def _see(self, observation: Array) -> Array:
        paid = torch.from_numpy(self.before)
        return self.sight(torch.as_tensor(observation), torch.from_numpy(self.elapsed), paid).numpy()

    @property
    def observation(self) -> Array:
        return self.shown.copy()

    @property
    def session(self) -> Array:
        return self.own.session

    @property
    def exposed(self) -> Array:
        return self.own.exposed

    def begin(self, slots: Array | None, tasks: TaskBatch) -> None:
        self.own.begin(slots, tasks)
        rows = slice(None) if slots is None else slots
        self.elapsed[rows], self.decisions[rows], self.resting[rows] = 0, 0, False
        self.paid[rows], self.before[rows] = 0.0, 0.0
        shown = self._see(self.own.observation)
        self.shown = self.shown.copy()
        self.shown[rows] = shown[rows]

    def step(self, action: Array) -> Outcome:
        alive, view = ~self.resting, self.sight.view
        total, self.taken = np.zeros(len(alive)), np.zeros(len(alive), dtype=np.int64)
        terminated, truncated, session, success, diverged = np.zeros((5, len(alive)), dtype=bool)
        knows, last = False, None
        for _ in range(view.hold):
            if not alive.any():
                break
            out = self.own.step(action)
            last = out.observation if last is None else np.where(alive[:, None], out.observation, last)
            total += np.where(alive, out.reward, 0.0)
            self.taken += alive
            for ours, theirs in zip((terminated, truncated, session), out[2:5], strict=True):
                ours |= alive & theirs
            if out.success is not None:
                knows, success = True, success | (alive & out.success)
            if out.diverged is not None:
                diverged |= alive & out.diverged
            alive = alive & ~(out.terminated | out.truncated)
        self.elapsed += self.taken
        self.decisions += 1
        self.before, self.paid = self.paid, self.paid + total
        if last is not None:
            moved = self._see(last)
            self.shown = np.where(self.resting[:, None], self.shown, moved)
        if view.whole:
            self.resting |= terminated | truncated
            over = self.decisions >= held_steps(self.sight.horizon, view.hold)
            terminated, truncated = np.zeros_like(over), over
        if view.time:
            terminated, truncated = terminated | truncated, np.zeros_like(truncated)
        won, failed = (success if knows else None), (diverged if diverged.any() else None)
        return Outcome(self.shown.copy(), total, terminated, truncated, session, won, failed)

    def picture(self, slot: int) -> Array:
        return self.own.picture(slot)

    def text(self, slot: int) -> str:
        return self.own.text(slot)


class Deciding(NamedTuple):
    """What an agent that decides now and then remembers of B trials."""

    own: Any  # its own belief, after its last decision
    elapsed: Array  # [B] environment steps of the episode before this tick; -1 before the first
    action: Array  # [B] or [B, A] that stands
    reward: Array  # [B] since the decision
    paid: Array  # [B] of the episode, before the decision


class DecidingAgent:
    """An agent trained in `make_viewed`'s environments, as the benchmark's own protocol plays it.

    Args:
        own: It; its belief's arrays and tensors lead with the trial.
        sight: What it is shown.
        space: The action space.
    """

    def __init__(self, own: Any, sight: Sight, space: Any):
        self.own, self.sight, self.space = own, sight, space
        self.name, self.protocol = own.name, getattr(own, "protocol", PROTOCOL_VERSION)
        self.track, self.privileged = getattr(own, "track", "online"), getattr(own, "privileged", False)
        self.attends = getattr(own, "attends", None)

    def begin(self, num_trials: int) -> Deciding:
        """Nothing seen, nothing decided."""
        action = np.zeros((num_trials, *(self.space.shape or ())), self.space.dtype)
        reward, paid = np.zeros((2, num_trials))
        return Deciding(self.own.begin(num_trials), np.full(num_trials, -1), action, reward, paid)

    def act(self, step: Timestep, belief: Deciding) -> tuple[Array, Deciding]:
        """Sums rewards; asks the agent where an episode begins and where its decision has stood long enough."""
        first, begun = np.asarray(step.first), belief.elapsed >= 0
        reward = belief.reward + np.where(begun, step.reward, 0.0)
        if self.protocol == "slots-1":
            reward = np.where(first, 0.0, reward)
        length = belief.elapsed + 1  # of the episode up to this tick
        final = self._see(step.final, length, belief.paid)
        own, action = belief.own, belief.action
        if self.sight.view.whole and (first & begun).any():
            own, action, reward = self._rest(own, action, reward, final, first & begun, length)
        elapsed = np.where(first, 0, length)
        asked = elapsed % self.sight.view.hold == 0
        paid = np.where(first, 0.0, belief.paid)
        if asked.any():
            shown, last = self._see(step.observation, elapsed, paid), action
            if self.protocol == "slots-1":
                last = np.where(_wide(first, last), np.zeros_like(last), last)
            told = Timestep(
                shown, last.copy(), reward.copy(), first.copy(), np.where((first & begun)[:, None], final, 0.0)
            )
            answer, new = self.own.act(told, own)
            action, own = np.where(_wide(asked, action), answer, action), merged(asked, new, own)
            paid = np.where(asked & ~first, paid + reward, paid)
            reward = np.where(asked, 0.0, reward)
        return action, Deciding(own, elapsed, action.astype(belief.action.dtype), reward, paid)

    def _rest(
        self, own: Any, action: Array, reward: Array, final: Array, ended: Array, length: Array
    ) -> tuple[Any, Array, Array]:
        """The decisions that are left of an episode that ended early, whose last observation stands."""
        every, hold = held_steps(self.sight.horizon, self.sight.view.hold), self.sight.view.hold
        left = np.where(ended, every - -(-length // hold), 0)
        nowhere = np.zeros_like(ended)
        for number in range(int(left.max(initial=0))):
            asked = left > number
            told = Timestep(final, action.copy(), reward.copy(), nowhere, np.zeros_like(final))
            answer, new = self.own.act(told, own)
            action, own = np.where(_wide(asked, action), answer, action), merged(asked, new, own)
            reward = np.where(asked, 0.0, reward)
        return own, action, reward

    def _see(self, observation: Array, elapsed: Array, paid: Array) -> Array:
        steps = torch.from_numpy(np.asarray(elapsed))
        return self.sight(torch.as_tensor(observation), steps, torch.from_numpy(paid)).numpy()


def deciding(own: Any, benchmark: str, view: ViewConfig) -> Any:
    """The agent at the benchmark's own pace; itself for the plain view."""
    if view.plain:
        return own
    family = metabench.spec(benchmark).family()
    return DecidingAgent(own, Sight(family.observation_fields, view, family.horizon), family.action_space)


def _wide(mask: Array, like: Array) -> Array:
    return mask.reshape(-1, *[1] * (like.ndim - 1))


def merged(mask: Array, new: T, old: T) -> T:
    """A belief of B trials that is `new` in the trials of `mask` `[B]` bool and `old` in the others.

    Beliefs are nested tuples, lists, mappings and dataclasses of arrays and tensors that lead with the trial; what
    leads with nothing is of all trials alike and taken from `new`.
    """
    value: Any = new
    if isinstance(new, Tensor):
        same = isinstance(old, Tensor) and new.shape == old.shape and new.ndim and len(new) == len(mask)
        if same:
            return torch.where(torch.from_numpy(mask).reshape(-1, *[1] * (new.ndim - 1)), new, old)  # pyright: ignore
    elif isinstance(new, np.ndarray):
        if isinstance(old, np.ndarray) and new.shape == old.shape and new.ndim and len(new) == len(mask):
            return np.where(_wide(mask, new), new, old)  # pyright: ignore[reportReturnType]
    elif isinstance(new, tuple | list):
        parts = [merged(mask, n, o) for n, o in zip(new, old, strict=True)]  # pyright: ignore
        value = type(new)(*parts) if hasattr(new, "_fields") else type(new)(parts)
    elif isinstance(new, Mapping):
        value = {key: merged(mask, n, old[key]) for key, n in new.items()}  # pyright: ignore
    return value
