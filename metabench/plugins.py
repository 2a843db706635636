"""Agents by name, oracles, and behaviour policies: what installed packages offer as entry points."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from metabench.agent import Agent, Algorithm, Behaviour, Demonstrator, Yardstick
from metabench.registry import spec
from metabench.tasks import suggest

AGENT_GROUP = "metabench.agents"
BEHAVIOUR_GROUP = "metabench.behaviours"
ORACLE_GROUP = "metabench.oracles"  # oracles for benchmarks whose spec names none: trained ones, for instance


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


def load_agent(name: str, benchmark: str, split: str, seed: int) -> tuple[Agent[Any], str, int | None]:
    """A yardstick by name or a trained agent by folder; with its name and its training seed."""
    folder = Path(name)
    if (folder / "config.json").is_file():
        settings = json.loads((folder / "config.json").read_text())
        if settings["benchmark"] != spec(benchmark).id:
            raise ValueError(f"{folder} was trained on {settings['benchmark']}, not on {spec(benchmark).id}")
        algorithm: Any = load_plugin(settings["agent"])
        return algorithm.load(folder), settings["agent"], settings["seed"]
    if folder.is_dir():
        raise ValueError(f"there is no trained agent in {folder}: it has no config.json")
    plugin: Any = load_plugin(name)
    if not hasattr(plugin, "build"):
        raise ValueError(
            f"{name} has to be trained first: metabench train {name} {benchmark}, then give the run's folder"
        )
    return plugin.build(benchmark, split, seed), name, None


def load_oracle(benchmark: str, split: str, seed: int) -> Agent[Any]:
    """The agent that sees the hidden task and acts best for it: the one the spec names, or an installed package's.

    Raises:
        ValueError: One sentence, if there is none: with each plug-in's reason.
    """
    chosen = spec(benchmark)
    if chosen.oracle:
        module, _, name = chosen.oracle.partition(":")
        return getattr(importlib.import_module(module), name).build(chosen.id, split, seed)
    reasons = []
    for point in metadata.entry_points(group=ORACLE_GROUP):
        try:
            return point.load().build(chosen.id, split, seed)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(f"there is no oracle for {benchmark}: {'; '.join(reasons) or 'its spec names none'}")


def behaviours(benchmark: str, split: str, quality: str) -> Sequence[Behaviour]:
    """The policies that play a quality of data on a benchmark, from the first plug-in that knows some.

    Raises:
        ValueError: One sentence, if none does: with each plug-in's reason.
    """
    reasons = []
    for point in metadata.entry_points(group=BEHAVIOUR_GROUP):
        demonstrator = point.load()
        if not isinstance(demonstrator, Demonstrator):
            raise ValueError(f"{point.value} offers no behaviours(benchmark, split, quality)")
        try:
            return demonstrator.behaviours(benchmark, split, quality)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(
        "; ".join(reasons) or "no installed package offers behaviour policies: pip install 'metabench[agents]'"
    )
