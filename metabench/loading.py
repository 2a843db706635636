"""`load_agent`: an agent by any of its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metabench.agent import Agent
from metabench.plugins import load_agent as _load_agent
from metabench.plugins import load_run


def load_agent(name: str | Path, benchmark: str | None = None, split: str = "test", seed: int = 0) -> Agent[Any]:
    """An agent that is ready to play.

    Args:
        name: A published one, "grid-switch/dynamite" (see `metabench.leaderboard.published`); the folder of a training
            run; or a yardstick, "bayes".
        benchmark: What it is to play; needed for a yardstick. A trained agent is checked to be of it.
        split: A yardstick's tasks.
        seed: A yardstick's randomness.

    Raises:
        ValueError: In one sentence: there is no such agent, it was trained on another benchmark, or a yardstick was
            asked for without a benchmark.
        ImportError: A package that it needs is missing; the sentence says how to install it.
    """
    place = locate(str(name))
    if benchmark is not None:
        return _load_agent(place, benchmark, split, seed)[0]
    if not Path(place).is_dir():
        raise ValueError(f"say what {name} is to play: load_agent({str(name)!r}, benchmark)")
    return load_run(Path(place)).agent


def locate(name: str) -> str:
    """The folder of a published agent; every other name as it is."""
    if "/" not in name or Path(name).exists():
        return name
    from metabench.leaderboard import published  # reads records: nothing that a yardstick needs

    return str(published.find(name)) if published.is_name(name) else name
