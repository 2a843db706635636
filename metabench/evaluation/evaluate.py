"""Plays an agent under one protocol and records the raw returns. Knows nothing of how the agent was trained."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Agent
from metabench.envs import MetaVectorEnv
from metabench.evaluation.play import play
from metabench.evaluation.results import PROTOCOL_VERSION, Protocol, Result, check_version, played_as
from metabench.evaluation.traces import Recorder, Trace, TraceHeader, join, spec_digest
from metabench.registry import make_vec, spec
from metabench.rng import Array

MAX_SLOTS = 1024  # trials played together
SEED_STRIDE = 2**32  # trial i of seed s has the stream of s * stride + i, so two seeds never share a stream


class Played(NamedTuple):
    """What B trials of k episodes gave."""

    returns: Array  # [B, k] undiscounted
    successes: Array | None  # [B, k] bool: success at any step; None where the benchmark knows none


class Evaluation(NamedTuple):
    """A result and its evidence."""

    result: Result
    trace: Trace


def standard_protocol(benchmark: str, split: str = "test", seed: int = 0, version: str = PROTOCOL_VERSION) -> Protocol:
    """The benchmark's own protocol on a frozen split.

    Raises:
        ValueError: An unknown id or version, or a split without a table.
    """
    chosen = spec(benchmark)
    chosen.table().size(split)
    return Protocol(
        benchmark=chosen.id,
        split=split,
        episodes=chosen.episodes,
        repeats=chosen.repeats,
        seed=seed,
        version=check_version(version),
    )


def evaluate(
    agent: Agent[Any],
    benchmark: str | Protocol,
    *,
    split: str = "test",
    seed: int = 0,
    train_seed: int | None = None,
    name: str | None = None,
    slots: int = MAX_SLOTS,
    progress: Callable[[int, int], None] | None = None,
    trace: Path | None = None,
) -> Result:
    """Plays every task of a split the same number of times and records every episode's return.

    Args:
        agent: Anything with `begin` and `act` (`metabench.Agent`). One with `privileged = True` sees the hidden task;
            one that says which version of the protocol it was trained under is played under that one.
        benchmark: An id, played under its standard protocol on `split` with `seed`; or a protocol of one's own.
        split: A frozen split, "test" or "ood" for instance.
        seed: Fixes starts, dynamics and session changes of every trial.
        train_seed: Which training run this is; kept in the record.
        name: The agent's name in the record; `agent.name` or its class by default.
        slots: How many trials are played at a time.
        progress: Called with (trials done, trials in all).
        trace: Where to write the evidence, an `.npz` file from which anybody can recompute and replay the result.

    Returns:
        The returns `[task][repeat][episode]` with what it takes to read and repeat them.

    Raises:
        ValueError: One sentence, for an unknown id or split, actions that do not fit the action space, or a simulation
            that diverges: an episode cut short by it would be worth another number of steps.
    """
    version = getattr(agent, "protocol", PROTOCOL_VERSION)
    protocol = benchmark if isinstance(benchmark, Protocol) else standard_protocol(benchmark, split, seed, version)
    result, evidence = _evaluate(agent, protocol, train_seed, name, slots, progress, record=trace is not None)
    if trace is not None and evidence is not None:
        evidence.save(trace)
    return result


def evaluate_traced(
    agent: Agent[Any],
    protocol: Protocol,
    *,
    train_seed: int | None = None,
    name: str | None = None,
    slots: int = MAX_SLOTS,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """`evaluate` with its evidence at hand instead of in a file."""
    result, evidence = _evaluate(agent, protocol, train_seed, name, slots, progress, record=True)
    assert evidence is not None
    return Evaluation(result, evidence)


def _evaluate(
    agent: Agent[Any],
    protocol: Protocol,
    train_seed: int | None,
    name: str | None,
    slots: int,
    progress: Callable[[int, int], None] | None,
    record: bool,
) -> tuple[Result, Trace | None]:
    chosen = spec(protocol.benchmark)
    table, privileged = chosen.table(), bool(getattr(agent, "privileged", False))
    trials = np.repeat(np.arange(table.size(protocol.split)), protocol.repeats)  # the repeats of a task are neighbours
    digest = table.digest(protocol.split)
    parts: list[Played] = []
    traces: list[Trace] = []
    for start in range(0, len(trials), slots):
        rows = trials[start : start + slots]
        env = make_vec(
            chosen.id, len(rows), split=protocol.split, episodes_per_task=protocol.episodes, expose_task=privileged
        )
        recorder = Recorder(protocol.episodes) if record else None
        seeds = protocol.seed * SEED_STRIDE + start
        parts.append(play_trials(agent, env, rows, protocol.episodes, seeds, recorder, protocol.version))
        if recorder:
            header = TraceHeader(
                protocol=protocol, task_digest=digest, spec_digest=spec_digest(chosen), privileged=privileged
            )
            traces.append(recorder.finish(header, parts[-1].successes))
        if progress:
            progress(start + len(rows), len(trials))
    won = [part.successes for part in parts if part.successes is not None]
    result = Result(
        protocol=protocol,
        agent=name or getattr(agent, "name", type(agent).__name__),
        track=played_as(agent),
        task_digest=digest,
        train_seed=train_seed,
        versions=versions(),
        returns=_nested(np.concatenate([part.returns for part in parts]), protocol),
        successes=_nested(np.concatenate(won), protocol) if won else None,
    )
    return result, join(traces) if record else None


def play_trials(
    agent: Agent[Any],
    env: MetaVectorEnv,
    tasks: Array,
    episodes: int,
    seed: int,
    recorder: Recorder | None = None,
    version: str = PROTOCOL_VERSION,
) -> Played:
    """Plays one trial per slot: `episodes` episodes of row `tasks[i]` in slot i.

    A slot that has played its episodes idles until the others have: what it does then is not counted. Counting the
    first episodes to finish instead would favour short ones, which on many benchmarks are the successful ones.
    A recorder writes everything down.
    """
    observation, _ = env.reset(seed=seed, options={"task": tasks})
    returns, successes = np.zeros((env.num_envs, episodes)), None
    episode = np.zeros(env.num_envs, dtype=np.int64)
    before = (lambda step, action: recorder.before(env)) if recorder else None
    for tick in play(agent, env, observation, version=version, before=before):
        live, info = np.flatnonzero(episode < episodes), tick.info
        if "diverged" in info and info["diverged"][live].any():
            task = tasks[live[info["diverged"][live]]][0]
            raise ValueError(f"there is no score: under this agent's actions the simulation of task {task} diverged")
        returns[live, episode[live]] += tick.reward[live]
        if "success" in info:
            successes = np.zeros((env.num_envs, episodes), dtype=bool) if successes is None else successes
            successes[live, episode[live]] |= info["success"][live]
        ended = tick.terminated | tick.truncated
        if recorder:
            recorder.after(tick.action, tick.reward, tick.terminated, ended)
        episode[ended] += 1
        if (episode >= episodes).all():
            break
    return Played(returns, successes)


def _nested(values: Array, protocol: Protocol) -> Any:
    """`[trial, episode]` as `[task][repeat][episode]` tuples."""
    table = values.reshape(-1, protocol.repeats, protocol.episodes).tolist()
    return tuple(tuple(tuple(repeat) for repeat in task) for task in table)


def versions() -> dict[str, str]:
    """The packages that can change a number, and the machine."""
    packages = ("metabench", "numpy", "gymnasium", "mujoco", "torch")
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
