"""What happens to a context inside an episode: sessions, at whose ends the latent task changes (a DLCMDP).

Source: Liang et al. 2024, "DynaMITE-RL: A Dynamic Model for Improved Temporal Meta-Reinforcement Learning"
(arXiv 2402.15957): an i.i.d. Bernoulli variable ends the session at every step, the next latent task follows
`T_m(m'|m)`, and neither is observed. The Bernoulli run is drawn here as what it is, one geometric number per session.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metabench.rng import Array, SlotRng, whole_number
from metabench.tasks import TaskTable, latent_ranges, param_ranges, real_number, stack, suggest

NEVER = 2**62  # steps until the end of a session that does not end
LONGEST = 10**12  # steps that a normal session is described with at most: nine deviations more are still a number

KINDS = ("constant", "geometric", "fixed", "normal")
_KEYS = {
    "constant": {"kind"},
    "geometric": {"kind", "p", "chain", "count"},
    "fixed": {"kind", "length", "chain", "count"},
    "normal": {"kind", "mean", "deviation", "shortest", "chain", "count"},
}


class Drift(abc.ABC):
    """How long sessions last and what follows them. A law without a state of its own."""

    @abc.abstractmethod
    def lengths(self, rng: SlotRng) -> Array:
        """`[B]` int64 >= 1: steps of the session that begins now."""

    @abc.abstractmethod
    def begin(self, context: Any, rng: SlotRng) -> Any:
        """The context of an episode's first session, given the task's own."""

    @abc.abstractmethod
    def change(self, context: Any, rng: SlotRng) -> Any:
        """The context of the session after one with `context`."""

    @property
    def constant(self) -> bool:
        """Whether there is one session only."""
        return False


@dataclass(frozen=True)
class Constant(Drift):
    """The task does not change inside an episode."""

    def lengths(self, rng: SlotRng) -> Array:
        """Endless."""
        return np.full(len(rng), NEVER)

    def begin(self, context: Any, rng: SlotRng) -> Any:
        """The task's own context."""
        return context

    def change(self, context: Any, rng: SlotRng) -> Any:
        """Never called."""
        return context

    @property
    def constant(self) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class Resample:
    """Every session is another task of the split, but for `fixed` parameters; the first is the episode's own."""

    table: TaskTable
    split: str

    def begin(self, context: Any, rng: SlotRng) -> Any:
        """The episode's own task."""
        return context

    def change(self, context: Any, rng: SlotRng) -> Any:
        """A task drawn from the split."""
        drawn = stack(type(context), self.table.draw(rng, self.split).values)
        return dataclasses.replace(drawn, **{name: getattr(context, name) for name in self._fixed})

    @functools.cached_property
    def _fixed(self) -> tuple[str, ...]:
        return tuple(name for name, legal in param_ranges(self.table.context_type).items() if legal.fixed)


@dataclass(frozen=True)
class LatentLaw:
    """Latent fields follow a transition matrix T_m each, first values uniform; or count the sessions from 0."""

    matrices: tuple[tuple[str, tuple[tuple[float, ...], ...]], ...]  # (field, rows that sum to 1)
    counts: tuple[str, ...] = ()

    def begin(self, context: Any, rng: SlotRng) -> Any:
        """Uniform first values, counts of 0."""
        return dataclasses.replace(context, **{name: rng.integers(len(rows)) for name, rows in self.matrices})

    def change(self, context: Any, rng: SlotRng) -> Any:
        """Each field's next value, by inverting the cumulative sums of its row."""
        fields = {}
        for name, columns in self._cumulative:
            now, u = getattr(context, name), rng.random()
            fields[name] = sum((u >= column.take(now)).astype(np.int64) for column in columns)
        for name in self.counts:
            fields[name] = getattr(context, name) + 1
        return dataclasses.replace(context, **fields)

    @functools.cached_property
    def _cumulative(self) -> list[tuple[str, list[Array]]]:
        """Per field, the columns of the rows' cumulative sums but the last, which is 1."""
        return [(name, list(np.cumsum(rows, axis=1).T[:-1].copy())) for name, rows in self.matrices]


@dataclass(frozen=True)
class GeometricSessions(Drift):
    """A session ends after every step with probability p, whatever came before."""

    p: float
    law: Resample | LatentLaw

    def lengths(self, rng: SlotRng) -> Array:
        """Geometric on 1, 2, ..., by inverting its distribution function."""
        u = rng.random()
        if self.p == 0.0:
            return np.full(len(rng), NEVER)
        if self.p == 1.0:
            return np.ones(len(rng), dtype=np.int64)
        return (np.log1p(-u) * self._scale).astype(np.int64) + 1

    @functools.cached_property
    def _scale(self) -> float:
        return 1.0 / float(np.log1p(-self.p))

    def begin(self, context: Any, rng: SlotRng) -> Any:
        """As the law of change has it."""
        return self.law.begin(context, rng)

    def change(self, context: Any, rng: SlotRng) -> Any:
        """As the law of change has it."""
        return self.law.change(context, rng)


@dataclass(frozen=True)
class FixedSessions(Drift):
    """Every session has the same number of steps."""

    length: int
    law: Resample | LatentLaw

    def lengths(self, rng: SlotRng) -> Array:
        """The same for all."""
        return np.full(len(rng), self.length)

    def begin(self, context: Any, rng: SlotRng) -> Any:
        """As the law of change has it."""
        return self.law.begin(context, rng)

    def change(self, context: Any, rng: SlotRng) -> Any:
        """As the law of change has it."""
        return self.law.change(context, rng)


@dataclass(frozen=True)
class NormalSessions(Drift):
    """Lengths are normal, rounded down, and no shorter than `shortest`: SeCBAD's max(N(80, 20), 10), for instance."""

    mean: float
    deviation: float
    shortest: int
    law: Resample | LatentLaw

    def lengths(self, rng: SlotRng) -> Array:
        """int(max(N(mean, deviation), shortest))."""
        return np.maximum(self.mean + rng.normal(self.deviation), self.shortest).astype(np.int64)

    def begin(self, context: Any, rng: SlotRng) -> Any:
        """As the law of change has it."""
        return self.law.begin(context, rng)

    def change(self, context: Any, rng: SlotRng) -> Any:
        """As the law of change has it."""
        return self.law.change(context, rng)


def parse_sessions(sessions: Mapping[str, Any] | None, table: TaskTable, split: str) -> Drift:
    """The drift that a JSON description asks for.

    Args:
        sessions: None, or a mapping with `kind`: "constant"; "geometric" with `p`, the probability that a session ends
            after a step; "fixed" with `length` in steps; "normal" with `mean` and `deviation` in steps and the length
            of the `shortest` (1 by default). Optional `chain`: a transition matrix per latent field of the
            context; `count`: latent fields that count the sessions. Families without latent fields draw every
            session's task from the split.
        table: The benchmark's tasks.
        split: The split in use.

    Raises:
        ValueError: One sentence naming what is wrong and what is possible.
    """
    if sessions is None:
        sessions = {"kind": "constant"}
    if not isinstance(sessions, Mapping):
        raise ValueError(
            f'sessions are described by a mapping such as {{"kind": "geometric", "p": 0.05}}, got {sessions!r}'
        )
    kind = sessions.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"unknown kind of sessions {kind!r}; {suggest(str(kind), KINDS)}")
    for key in sessions:
        if key not in _KEYS[kind]:
            raise ValueError(
                f"{kind} sessions take no {key!r}; they take {', '.join(sorted(_KEYS[kind] - {'kind'})) or 'nothing'}"
            )
    latents = latent_ranges(table.context_type)
    if kind == "constant":
        if latents:
            raise ValueError(
                f"{table.family} has session-driven fields ({', '.join(latents)}), so its sessions cannot be constant"
            )
        return Constant()
    special = latents or "chain" in sessions or "count" in sessions
    law = _parse_latents(sessions, table) if special else Resample(table, split)
    if kind == "geometric":
        p = real_number(sessions.get("p"))
        if p is None or not 0.0 <= p <= 1.0:
            raise ValueError(
                f"geometric sessions need p, the probability of an end after each step, in [0, 1]; "
                f"got {sessions.get('p')!r}"
            )
        return GeometricSessions(p, law)
    if kind == "normal":
        return _parse_normal(sessions, law)
    length = whole_number(sessions.get("length"))
    if length is None or not 1 <= length <= NEVER:
        raise ValueError(
            f"fixed sessions need length, a whole number of steps of at least 1; got {sessions.get('length')!r}"
        )
    return FixedSessions(length, law)


def _parse_normal(sessions: Mapping[str, Any], law: Resample | LatentLaw) -> NormalSessions:
    mean, deviation = (real_number(sessions.get(name)) for name in ("mean", "deviation"))
    shortest = whole_number(sessions.get("shortest", 1))
    if mean is None or deviation is None or shortest is None:
        raise ValueError(
            "normal sessions need mean and deviation, numbers of steps, and may have shortest, a whole number of them; "
            f"got {sessions.get('mean')!r}, {sessions.get('deviation')!r} and {sessions.get('shortest', 1)!r}"
        )
    if not (1 <= shortest <= LONGEST and 0 <= deviation <= LONGEST and abs(mean) <= LONGEST):
        raise ValueError(
            f"normal sessions need a shortest length of at least 1, a deviation of at least 0 and a mean, none above "
            f"{LONGEST}; got {shortest}, {deviation} and {mean}"
        )
    return NormalSessions(mean, deviation, shortest, law)


def _parse_latents(sessions: Mapping[str, Any], table: TaskTable) -> LatentLaw:
    latents = latent_ranges(table.context_type)
    chain: Mapping[str, Sequence[Sequence[float]]] = sessions.get("chain", {})
    listed = sessions.get("count", ())
    if not isinstance(chain, Mapping) or isinstance(listed, str) or not isinstance(listed, Sequence):
        raise ValueError("chain is a mapping from latent fields to matrices, and count a list of latent fields")
    counts = tuple(listed)
    if sorted(map(str, (*chain, *counts))) != sorted(latents):
        names = ", ".join(latents) or "none"
        raise ValueError(f"sessions of {table.family} need a chain or a count for exactly its latent fields ({names})")
    for name, rows in chain.items():
        count = int(latents[name].high) + 1
        try:
            matrix = np.asarray(rows, dtype=np.float64)
        except (TypeError, ValueError):
            matrix = np.empty(0)  # no matrix at all
        if matrix.shape != (count, count) or (matrix < 0).any() or not np.allclose(matrix.sum(axis=1), 1.0):
            raise ValueError(
                f"the chain of {name} must be a {count} x {count} matrix whose rows are probabilities that sum to 1"
            )
    frozen = {name: tuple(tuple(float(x) for x in row) for row in rows) for name, rows in chain.items()}
    return LatentLaw(tuple(frozen.items()), counts)
