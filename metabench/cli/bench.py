"""`metabench bench`: environment steps per second on this machine."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import tyro

from metabench.cli.console import plain, say
from metabench.registry import NAMESPACE, make_vec, spec, specs

COUNTS = ((1, False), (64, True), (1024, False), (8192, False))  # slots, and whether SyncVectorEnv is timed as well
QUICK_COUNTS = ((1, False), (64, True))
SECONDS, ROUNDS = 0.2, 5  # of one measurement, and how many make a median
QUICK_SECONDS, QUICK_ROUNDS = 0.05, 1
COLUMNS = (("slots", 6), ("native vector env", 18), ("SyncVectorEnv", 14), ("ratio", 7))


def command(
    benchmarks: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[BENCHMARK ...]")] = (),
    quick: bool = False,
) -> None:
    """Measure environment steps per second on this machine, beside Gymnasium's SyncVectorEnv of the same environment.

    Every line is printed as soon as it is measured.

    Examples:
      metabench bench GridSwitch-v0 PointRobot-v0
      metabench bench --quick

    Args:
        benchmarks: Ids; all by default.
        quick: Only 1 and 64 slots, measured once and for a moment: an impression, no figure to quote.
    """
    chosen = [spec(id).id for id in benchmarks] or [known.id for known in specs()]
    counts, seconds, rounds = (QUICK_COUNTS, QUICK_SECONDS, QUICK_ROUNDS) if quick else (COUNTS, SECONDS, ROUNDS)
    width = max(len("id"), *map(len, chosen))
    say("[bold]environment steps per second, one thread, random actions, auto-reset and infos included[/]")
    say(f"{'id':{width}}" + "".join(f"{name:>{size}}" for name, size in COLUMNS))
    for id in chosen:
        for count, peer in counts:
            try:
                cells = _measure(id, count, peer, seconds, rounds)
            except ImportError as error:
                if benchmarks:
                    raise
                say(f"{plain(f'{id:{width}}')}  left out: {plain(error)}")
                break
            row = "".join(f"{cell:>{size}}" for cell, (_, size) in zip(cells, COLUMNS, strict=True))
            say(f"{plain(f'{id:{width}}')}{row}".rstrip())
            sys.stdout.flush()


def _measure(id: str, count: int, peer: bool, seconds: float, rounds: int) -> list[str]:
    ours = steps_per_second(make_vec(id, count), seconds, rounds)
    if not peer:
        return [f"{count:,}", f"{ours:,.0f}", "", ""]
    rate = steps_per_second(gym.make_vec(NAMESPACE + id, count, vectorization_mode="sync"), seconds, rounds)
    return [f"{count:,}", f"{ours:,.0f}", f"{rate:,.0f}", f"{ours / rate:.0f}x"]


def steps_per_second(env: Any, seconds: float = SECONDS, rounds: int = ROUNDS) -> float:
    """Median over `rounds` of about `seconds` each, actions drawn beforehand."""
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(16)]
    rates = []
    for _ in range(rounds):
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for action in actions:
                env.step(action)
            steps += len(actions)
        rates.append(steps * env.num_envs / (time.perf_counter() - start))
    return float(np.median(rates))
