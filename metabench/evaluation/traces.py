"""The evidence of an evaluation: every action and reward, and the full simulator state every few steps.

Whole episodes cannot be replayed on another machine: another libm moves HalfCheetah's return from -242 to -179. Pieces
of ten steps can: they stay within 4e-12. So a trace holds checkpoints, and each piece between two of them is replayed
by itself.

Time within a trial is counted in steps from its begin, through all of its episodes. There is a checkpoint where an
episode begins and at every multiple of `EVERY`, so the episodes' lengths tell where they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from metabench.evaluation.results import Protocol, Record, parse, write_atomically
from metabench.npz import SafeNpz, pack
from metabench.registry import Spec
from metabench.rng import Array

EVERY = 10  # steps between checkpoints; with 50, nudges of the tolerance's size could be worth 4 of return per episode
TRACE_SCHEMA = 1
_LEVEL = 1  # of the packing: what can be packed are whole columns, and higher ones gain 1 % in twice the time
_DEFINING = ("id", "entry_point", "horizon", "digests", "episodes", "repeats", "kwargs", "sessions", "split_sessions")
_DEFINING += ("shared_tasks", "extra")  # always in a benchmark's digest
_WORDS = ("summary", "sources", "group", "oracle")  # never
_PREFIX = "checkpoint."  # of the checkpoints' names in the file


class TraceHeader(Record):
    """What was played, and by whom."""

    schema_version: Literal[1] = TRACE_SCHEMA
    protocol: Protocol
    task_digest: str  # sha256 of the split's table
    spec_digest: str  # sha256 of the benchmark's spec
    privileged: bool  # whether the agent was shown the hidden task
    every: int = EVERY


class Trace(NamedTuple):
    """All that happened: steps of all trials one after the other, M checkpoints in the same order."""

    header: TraceHeader
    lengths: Array  # [trials, episodes] int64 steps
    terminated: Array  # [trials, episodes] bool: ended by the family's own rule; truncated where the horizon is reached
    successes: Array | None  # [trials, episodes] bool: success at any step
    actions: Array  # [N] or [N, A] as they were given to the environment
    rewards: Array  # [N] float64
    checkpoints: Mapping[str, Array]  # name -> [M, ...], see `simulator.Replayable`

    def returns(self) -> Array:
        """`[trials, episodes]` sums of the rewards, added up in the order they came, as the evaluator does."""
        return episode_sums(self.lengths, self.rewards)

    def save(self, path: Path) -> None:
        """Writes an `.npz` without objects, the same bytes for the same trace."""
        arrays = {
            "header": np.frombuffer(self.header.model_dump_json().encode(), np.uint8),
            "lengths": _narrow(self.lengths),
            "terminated": self.terminated,
            "actions": _narrow(self.actions),
            "rewards": self.rewards,
        }
        if self.successes is not None:
            arrays["successes"] = self.successes
        arrays |= {_PREFIX + name: _narrow(value) for name, value in self.checkpoints.items()}
        write_atomically(path, pack(arrays, _LEVEL))

    @classmethod
    def load(
        cls, path: Path, trials: int | None = None, horizon: int | None = None, episodes: int | None = None
    ) -> Trace:
        """Reads a file that anybody may have written.

        Args:
            path: The file.
            trials: How many it must have; unknown by default.
            horizon: Steps an episode may have at most.
            episodes: How many a trial must have. What is known is compared before anything of that size is read.

        Raises:
            ValueError: One sentence: it is no archive of plain arrays, it lacks one, or their shapes do not fit.
        """
        file, header, lengths = _open(path, trials, horizon, episodes)
        checkpoints = [name for name in file.entries if name.startswith(_PREFIX)]
        _check_rows(file, checkpoints, len(checkpoint_places(lengths, header.every).trial))
        rewards = _rewards(path, file)
        return cls(
            header,
            lengths,
            _flags(file, "terminated", lengths.shape),
            _flags(file, "successes", lengths.shape) if "successes" in file.entries else None,
            _finite(path, "actions", file.read("actions")),
            rewards,
            {name.removeprefix(_PREFIX): _finite(path, name, file.read(name)) for name in checkpoints},
        )


def read_header(path: Path) -> TraceHeader:
    """What a trace says was played; nothing else of it is read. ValueError in one sentence if it is none."""
    return _header(_archive(path))


def read_returns(path: Path, trials: int, horizon: int, episodes: int) -> Array:
    """`[trials, episodes]` sums of a trace's rewards, without reading anything else; ValueError as `Trace.load`."""
    file, _, lengths = _open(path, trials, horizon, episodes)
    return episode_sums(lengths, _rewards(path, file))


class Places(NamedTuple):
    """Where the M checkpoints of a trace are, in the trace's order."""

    trial: Array  # [M] int64
    episode: Array  # [M] int64 which of the trial's
    elapsed: Array  # [M] int64 steps into the episode
    step: Array  # [M] int64 row of the trace's steps that follows
    length: Array  # [M] int64 steps until the next checkpoint or the episode's end
    last: Array  # [M] bool: the episode ends after these steps


def checkpoint_places(lengths: Array, every: int) -> Places:
    """Where checkpoints are if the episodes of each trial have these lengths, `[trials, episodes]`."""
    trials, episodes = lengths.shape
    ends = np.cumsum(lengths, axis=1)  # on the trial's clock
    begins = ends - lengths
    offset = np.concatenate(([0], np.cumsum(ends[:, -1])[:-1])) if trials else np.zeros(0, dtype=np.int64)
    # The marks of an episode on the trial's clock: its begin, then the multiples of `every` strictly inside.
    inside = (ends - 1) // every - begins // every
    count = (1 + inside).ravel()
    owner = np.repeat(np.arange(trials * episodes), count)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    begin, end = begins.ravel()[owner], ends.ravel()[owner]
    clock = np.where(nth == 0, begin, (begin // every + nth) * every)
    follows = np.append(owner[1:] == owner[:-1], False) if len(owner) else np.zeros(0, dtype=bool)
    until = np.where(follows, np.append(clock[1:], 0)[: len(clock)], end)
    trial, episode = np.divmod(owner, episodes)
    return Places(trial, episode, clock - begin, offset[trial] + clock, until - clock, ~follows)


def episode_sums(lengths: Array, values: Array) -> Array:
    """Sums over each episode's steps, added in order of time: `[trials, episodes]` from `[N]`."""
    flat = lengths.ravel()
    begins, sums = np.cumsum(flat) - flat, np.zeros(len(flat))
    for t in range(int(flat.max(initial=0))):
        going = np.flatnonzero(flat > t)
        sums[going] += values[begins[going] + t]
    return sums.reshape(lengths.shape)


class Recorder:
    """Writes down what one batch of trials does; made by the evaluator, one per batch."""

    def __init__(self, episodes: int):
        self._episodes = episodes
        self._actions: list[Array] = []
        self._rewards: list[Array] = []
        self._terminated: list[Array] = []
        self._ended: list[Array] = []
        self._marks: list[tuple[int, Array | None, dict[str, Array]]] = []  # tick, slots (None: all), checkpoint

    def before(self, env: Any) -> None:
        """To be called before every step: takes a checkpoint where one is due."""
        tick = len(self._actions)
        if tick % EVERY == 0:
            self._marks.append((tick, None, env.checkpoint()))
        elif self._ended[-1].any():
            slots = np.flatnonzero(self._ended[-1])
            self._marks.append((tick, slots, env.checkpoint(slots)))

    def after(self, action: Array, reward: Array, terminated: Array, ended: Array) -> None:
        """To be called after every step, `[B]` each; agents may reuse their arrays, environments do not."""
        self._actions.append(np.array(action))
        self._rewards.append(reward)
        self._terminated.append(terminated)
        self._ended.append(ended)

    def finish(self, header: TraceHeader, successes: Array | None) -> Trace:
        """The trace of the batch."""
        ended = np.stack(self._ended, axis=1)
        passed = np.cumsum(ended, axis=1)
        ends = np.stack(
            [(passed > e).argmax(axis=1) + 1 for e in range(self._episodes)], axis=1
        )  # on the trial's clock
        lengths = np.diff(ends, axis=1, prepend=0)
        live = np.arange(ended.shape[1]) < ends[:, -1:]  # [B, T]: after its last episode a slot idles
        terminated = np.stack(self._terminated, axis=1)
        return Trace(
            header,
            lengths,
            np.take_along_axis(terminated, ends - 1, axis=1),
            successes,
            np.stack(self._actions, axis=1)[live],
            np.stack(self._rewards, axis=1)[live],
            self._checkpoints(ends[:, -1]),
        )

    def _checkpoints(self, end: Array) -> dict[str, Array]:
        everyone = np.arange(len(end))
        slots = [everyone if chosen is None else chosen for _, chosen, _ in self._marks]
        trial = np.concatenate(slots)
        tick = np.concatenate([np.full(len(s), t) for s, (t, _, _) in zip(slots, self._marks, strict=True)])
        order = np.lexsort((tick, trial))
        order = order[tick[order] < end[trial[order]]]
        names = self._marks[0][2]
        return {name: np.concatenate([saved[name] for *_, saved in self._marks])[order] for name in names}


def join(parts: Sequence[Trace]) -> Trace:
    """The trace of batches played one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    won = [part.successes for part in parts if part.successes is not None]
    return Trace(
        header=first.header,
        lengths=np.concatenate([part.lengths for part in parts]),
        terminated=np.concatenate([part.terminated for part in parts]),
        successes=np.concatenate(won) if won else None,
        actions=np.concatenate([part.actions for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts]),
        checkpoints={name: np.concatenate([part.checkpoints[name] for part in parts]) for name in first.checkpoints},
    )


def spec_digest(spec: Spec) -> str:
    """sha256 of what defines a benchmark: the fields that say how it is played, and whatever else is not its default.

    Words for readers are left out, and so are fields that a later version of the package adds and this benchmark does
    not use: the digest of a benchmark is for ever.
    """
    told = json.loads(spec.to_json())
    for field in dataclasses.fields(spec):
        plain = field.name in _DEFINING or (field.name not in _WORDS and told[field.name] != field.default)
        if not plain:
            del told[field.name]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _narrow(array: Array) -> Array:
    """Integers in the smallest type that holds them: they pack better and faster."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4"):
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return array.astype(kind)
    return array


def _archive(path: Path) -> SafeNpz:
    """A trace's arrays, none of them read yet."""
    if not path.is_file():
        raise ValueError(f"there is no trace {path.name}")
    file = SafeNpz(path)
    wanted = ["header", "lengths", "terminated", "actions", "rewards"]
    for name in wanted:
        if name not in file.entries:
            raise ValueError(f"{path.name} is no trace: it has no array {name!r}")
    for name in file.entries:
        if name not in (*wanted, "successes") and not name.startswith(_PREFIX):
            raise ValueError(f"{path.name} has an array {name!r}, which no trace has")
    return file


def _open(
    path: Path, trials: int | None, horizon: int | None, episodes: int | None
) -> tuple[SafeNpz, TraceHeader, Array]:
    file = _archive(path)
    header = _header(file)
    if episodes is not None and header.protocol.episodes != episodes:
        raise ValueError(f"{path.name}: a trial has {header.protocol.episodes} episodes, the protocol has {episodes}")
    lengths = _lengths(file, header.protocol, trials, horizon)
    _check_rows(file, ("actions", "rewards"), int(lengths.sum()))
    return file, header, lengths


def _rewards(path: Path, file: SafeNpz) -> Array:
    rewards = _finite(path, "rewards", file.read("rewards"))
    if rewards.dtype != np.float64 or rewards.ndim != 1:
        raise ValueError(f"{path.name}: rewards are not a column of float64 numbers")
    return rewards


def _header(file: SafeNpz) -> TraceHeader:
    entry = file.entries["header"]
    if entry.dtype != np.uint8 or len(entry.shape) != 1 or entry.nbytes > 2**16:
        raise ValueError(f"{file.name}: the header is no text")
    try:
        text = file.read("header").tobytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{file.name}: the header is no text") from None
    header = parse(TraceHeader, text, f"trace header ({file.name})")
    if header.every != EVERY:
        raise ValueError(f"{file.name} has a checkpoint every {header.every} steps instead of every {EVERY}")
    return header


def _check_rows(file: SafeNpz, names: Sequence[str], rows: int) -> None:
    for name in names:
        shape = file.entries[name].shape
        if shape[:1] != (rows,):
            raise ValueError(
                f"{file.name}: {name} has the shape {shape}, but the episodes' lengths ask for {rows} rows"
            )


def _lengths(file: SafeNpz, protocol: Protocol, trials: int | None, horizon: int | None) -> Array:
    entry = file.entries["lengths"]
    if entry.dtype.kind not in "iu" or len(entry.shape) != 2 or entry.shape[1] != protocol.episodes:
        raise ValueError(f"{file.name}: lengths are not whole numbers [trials, {protocol.episodes} episodes]")
    if entry.shape[0] > 2**20 or entry.shape[0] != (trials or entry.shape[0]):
        raise ValueError(f"{file.name}: there are {entry.shape[0]} trials, the protocol has {trials or 'at most 2^20'}")
    lengths = file.read("lengths").astype(np.int64)
    most = horizon or 2**20
    if not lengths.size or lengths.min() < 1 or lengths.max() > most:
        raise ValueError(f"{file.name}: an episode has fewer than 1 or more than {most} steps")
    return lengths


def _flags(file: SafeNpz, name: str, shape: tuple[int, ...]) -> Array:
    if file.entries[name].dtype != bool or file.entries[name].shape != shape:
        raise ValueError(f"{file.name}: {name} are not booleans {list(shape)}")
    return file.read(name)


def _finite(path: Path, name: str, values: Array) -> Array:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{path.name}: {name} has a value that is not finite")
    return values
