"""Agents by name: whatever the installed packages offer in the entry-point group `metabench.agents`."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from metabench.agent import Algorithm, Yardstick
from metabench.tasks import suggest

AGENT_GROUP = "metabench.agents"


def agent_names() -> tuple[str, ...]:
    """The names of all installed agents; nothing is imported."""
    return tuple(sorted({point.name for point in metadata.entry_points(group=AGENT_GROUP)}))


def load_plugin(name: str) -> Algorithm | Yardstick:
    """The agent plug-in with this name.

    Raises:
        ValueError: An unknown name, with near ones; or a plug-in that offers neither training nor a yardstick.
        ImportError: A package it needs is missing, with the command that installs it.
    """
    points = {point.name: point for point in metadata.entry_points(group=AGENT_GROUP)}
    if name not in points:
        raise ValueError(f"unknown agent {name!r}; {suggest(name, agent_names())}")
    try:
        plugin: Any = points[name].load()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("metabench", "metabench_agents"):
            raise
        raise ImportError(
            f"the agent {name} needs the package {error.name}, which is not installed: pip install 'metabench[agents]'"
        ) from error
    if not isinstance(plugin, Algorithm | Yardstick):
        raise ValueError(f"{points[name].value} offers neither train and load (an algorithm) nor build (a yardstick)")
    return plugin
