"""What an agent earns around the moments when the hidden task changes inside an episode."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Agent
from metabench.evaluation.evaluate import SEED_STRIDE
from metabench.evaluation.play import play
from metabench.registry import make_vec, spec
from metabench.rng import Array


class SwitchCurve(NamedTuple):
    """Mean reward per step, aligned at the changes of the hidden task."""

    offset: Array  # [K] steps since the first step of the new task; negative before it
    reward: Array  # [K] mean over switches
    stderr: Array  # [K]
    switches: int  # how many were seen whole


def reward_around_switches(
    agent: Agent[Any],
    benchmark: str,
    *,
    split: str = "test",
    seed: int = 0,
    repeats: int = 4,
    before: int = 5,
    after: int = 15,
) -> SwitchCurve:
    """Plays one episode per task and repeat and averages the reward around every change of the context.

    Only switches whose window lies within the episode and holds no other change count, so that every offset averages
    the same switches.

    Args:
        agent: The agent; sees the hidden task only if it is privileged.
        benchmark: An id whose tasks change inside the episode.
        split: A frozen split.
        seed: Fixes every trial.
        repeats: Episodes per task.
        before: Steps shown before the change.
        after: Steps shown from the change on.

    Raises:
        ValueError: If no switch of the benchmark has a whole window.
    """
    rewards, changed = _play(agent, benchmark, split, seed, repeats)
    windows = [
        rewards[t - before : t + after, slot]
        for t, slot in np.argwhere(changed)
        if t >= before and t + after <= len(rewards) and changed[t - before : t + after, slot].sum() == 1
    ]
    if not windows:
        raise ValueError(f"{benchmark} shows no change of its task with {before} steps before and {after} after it")
    table = np.stack(windows)
    stderr = table.std(axis=0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.zeros(before + after)
    return SwitchCurve(np.arange(-before, after), table.mean(axis=0), stderr, len(table))


def _play(agent: Agent[Any], benchmark: str, split: str, seed: int, repeats: int) -> tuple[Array, Array]:
    """Rewards `[T, B]`, and where `[T, B]` a step is the first one under another context."""
    chosen = spec(benchmark)
    tasks = np.repeat(np.arange(chosen.table().size(split)), repeats)
    env = make_vec(chosen.id, len(tasks), split=split, episodes_per_task=1, expose_task=True)
    base = len(chosen.family().observation_fields)
    seen = None if getattr(agent, "privileged", False) else base  # columns the agent is shown
    observation, _ = env.reset(seed=seed * SEED_STRIDE, options={"task": tasks})
    rewards, changed = [], [np.zeros(len(tasks), dtype=bool)]
    context = observation[:, base:]
    for tick in play(agent, env, observation, columns=seen):
        rewards.append(tick.reward)
        if (tick.terminated | tick.truncated).any():
            break
        changed.append((tick.observation[:, base:] != context).any(axis=1))
        context = tick.observation[:, base:]
    return np.stack(rewards), np.stack(changed)
