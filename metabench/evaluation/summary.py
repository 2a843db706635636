"""What a result means: the adaptation curve, and scores between random (0) and oracle (1) with their intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metabench.evaluation.results import Protocol, Result
from metabench.evaluation.stats import (
    Interval,
    adaptation_curve,
    improvement_interval,
    iqm,
    normalise,
    paired_difference,
    regret,
    stratified_bootstrap,
)
from metabench.registry import spec
from metabench.rng import Array

BOOTSTRAP_SEED = 0  # the same records always give the same interval


class Summary(NamedTuple):
    """One agent on one split, over one or more training runs."""

    agent: str
    track: str
    protocol: Protocol
    runs: int
    curve: Array  # [episodes] mean return of the j-th episode of a trial
    stderr: float  # of the mean return per episode, over trials
    zero_shot: float  # return of the first episode
    few_shot: float  # of the last
    area: float  # mean over the episodes
    score: Interval | None  # IQM of the normalised mean return over runs x tasks; None without references
    regret: float | None  # what a trial loses against the oracle, in units of oracle - random
    success: float | None  # share of episodes with success at any step; None where the benchmark knows none
    share: float | None  # mean return between random (0) and the best that is possible without seeing the task (1)


class Source(NamedTuple):
    """A result, where it comes from, and how its agent was trained."""

    result: Result
    place: str  # for messages: its path
    config: Mapping[str, Any] | None = None  # the settings of its training run, if they are known


class Group(NamedTuple):
    """Results that are runs of one thing: the same agent with the same settings, measured in the same way."""

    label: str  # the agent; with the settings in which groups of the same agent differ
    sources: tuple[Source, ...]

    @property
    def results(self) -> list[Result]:
        """The results, one per run."""
        return [source.result for source in self.sources]


def group(sources: Sequence[Source]) -> list[Group]:
    """Sorts results into groups by agent, settings, track, benchmark, split and protocol, in the order they come.

    Raises:
        ValueError: If one run would be counted twice: two results of a group have the same training seed, or they are
            the same in every number. The sentence names both.
    """
    groups: dict[str, list[Source]] = {}
    for source in sources:
        key = json.dumps([*_kind(source.result), source.config], sort_keys=True, default=str)
        groups.setdefault(key, []).append(source)
    for members in groups.values():
        _refuse_duplicates(members)
    found = [tuple(members) for members in groups.values()]
    return [Group(_label(members, found), members) for members in found]


class Comparison(NamedTuple):
    """Two groups of runs that were measured in the same way."""

    first: Group
    second: Group
    better: Interval  # P(a run of the first beats one of the second on a task), ties counting half
    difference: Interval | None  # of the IQM of returns; None unless both have as many runs, evaluated with equal seeds


def compare(groups: Sequence[Group]) -> list[Comparison]:
    """Each group against the best by mean return of those measured like it; groups of one run say too little."""
    found: list[Comparison] = []
    alike: dict[Any, list[Group]] = {}
    for members in groups:
        _, protocol, digest = _alike(members.results[0])
        if len(members.sources) > 1:
            alike.setdefault((protocol, digest), []).append(members)
    for rivals in alike.values():
        tables = [np.stack([r.array().mean(axis=(1, 2)) for r in members.results]) for members in rivals]
        best = int(np.argmax([table.mean() for table in tables]))
        for index, (members, table) in enumerate(zip(rivals, tables, strict=True)):
            if index == best:
                continue
            rng = np.random.default_rng(BOOTSTRAP_SEED)
            seeds = [[r.protocol.seed for r in m.results] for m in (rivals[best], members)]
            paired = paired_difference(tables[best], table, rng) if seeds[0] == seeds[1] else None
            better = improvement_interval(tables[best], table, np.random.default_rng(BOOTSTRAP_SEED))
            found.append(Comparison(rivals[best], members, better, paired))
    return found


def _kind(result: Result) -> list[Any]:
    """What the results of one agent's runs have in common, as JSON: all but the seeds."""
    agent, protocol, digest = _alike(result)
    return [agent, result.track, protocol.model_dump(), digest]


def _refuse_duplicates(members: Sequence[Source]) -> None:
    seen: dict[Any, Source] = {}
    for source in members:
        r = source.result
        key = ("seed", r.train_seed) if r.train_seed is not None else ("numbers", r.protocol.seed, r.returns)
        first = seen.setdefault(key, source)
        if first is not source:
            what = "the same numbers" if r.train_seed is None else f"the same settings and the seed {r.train_seed}"
            raise ValueError(
                f"{first.place} and {source.place} are one run of {r.agent} on {r.protocol.benchmark} "
                f"({r.protocol.split}): {what}; leave one of them out, or it would count twice"
            )


def _label(members: tuple[Source, ...], groups: Sequence[tuple[Source, ...]]) -> str:
    """The agent's name, and whatever tells this group from others of that name on the same benchmark."""
    first = members[0]
    name, benchmark = first.result.agent, first.result.protocol.benchmark
    rivals = [m[0] for m in groups if (m[0].result.agent, m[0].result.protocol.benchmark) == (name, benchmark)]
    own, others = _told(first), [_told(rival) for rival in rivals]
    differing = [key for key in own if any(other.get(key) != own[key] for other in others)]
    if differing:
        return f"{name} ({', '.join(f'{key} {own[key]}' for key in differing)})"
    if first.config is None and any(rival.config is not None for rival in rivals):
        return f"{name} (settings unknown)"
    return name


def _told(source: Source) -> dict[str, Any]:
    """Settings by dotted name, and the version of the protocol."""
    told: dict[str, Any] = {"protocol": source.result.protocol.version, "track": source.result.track}

    def take(values: Mapping[str, Any], before: str) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                take(value, f"{before}{name}.")
            else:
                told[before + name] = value

    take(source.config or {}, "")
    return told


def summarise(results: Sequence[Result]) -> Summary:
    """Summarises the results of one agent's training runs.

    With two or more results the runs are the training runs, and the interval says how far other training runs may
    fall. With one, the repeats of each task stand for the runs: the interval then tells evaluation noise only.

    Raises:
        ValueError: If there is no result, or they are not of one agent under one protocol.
    """
    if not results:
        raise ValueError("there is no result to summarise")
    first = results[0]
    for other in results[1:]:
        if _alike(other) != _alike(first):
            raise ValueError(
                f"results of one agent under one protocol are needed; {other.agent} on {other.protocol.split} "
                f"does not go with {first.agent} on {first.protocol.split}"
            )
    returns = np.stack([result.array() for result in results])  # [run, task, repeat, episode]
    trials = returns.reshape(-1, returns.shape[-1])
    won = None if first.successes is None else np.array([result.successes for result in results])
    curve = adaptation_curve(trials)
    stderr = float(trials.mean(axis=1).std(ddof=1) / np.sqrt(len(trials))) if len(trials) > 1 else 0.0
    levels = reference_levels(first.protocol.benchmark, first.protocol.split)
    score = lost = share = None
    if {"random", "oracle"} <= levels.keys():
        low, high = levels["random"], levels["oracle"]
        score = _score(normalise(returns.mean(axis=-1), low, high))
        lost = regret(trials, low, high)
        if "bayes" in levels:
            share = float(normalise(trials.mean(), low, levels["bayes"]))
    return Summary(
        agent=first.agent,
        track=first.track,
        protocol=first.protocol,
        runs=len(results),
        curve=curve.curve,
        stderr=stderr,
        zero_shot=curve.zero_shot,
        few_shot=curve.few_shot,
        area=curve.area,
        score=score,
        regret=lost,
        success=None if won is None else float(won.mean()),
        share=share,
    )


def _alike(result: Result) -> tuple[str, Protocol, str]:
    """What the results of one agent's runs have in common: all but the seeds."""
    return result.agent, result.protocol.model_copy(update={"seed": 0}), result.task_digest


def _score(trials: Array) -> Interval:
    """IQM over runs x tasks, a task's score being the mean of its repeats; `trials` are `[run, task, repeat]`."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    if len(trials) > 1:
        return stratified_bootstrap(trials.mean(axis=2), rng, iqm)
    return stratified_bootstrap(trials[0].T, rng, lambda m: iqm(m.mean(axis=-2, keepdims=True)))


def reference_levels(benchmark: str, split: str) -> dict[str, float]:
    """Mean return per episode of the yardsticks stored for a split, by name."""
    return {name: record["mean"] for name, record in spec(benchmark).references(split).items()}
