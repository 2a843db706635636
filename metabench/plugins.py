"""Agents by name, oracles, and behaviour policies: what installed packages offer as entry points."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench import packages, runs
from metabench.agent import Agent, Algorithm, Behaviour, Demonstrator, Yardstick
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench.registry import spec
from metabench.tasks import suggest

AGENT_GROUP = "metabench.agents"
BEHAVIOUR_GROUP = "metabench.behaviours"
ORACLE_GROUP = "metabench.oracles"  # oracles for benchmarks whose spec names none: trained ones, for instance


class Trained(NamedTuple):
    """The agent of a run's folder."""

    agent: Agent[Any]
    record: runs.RunRecord


def agent_names() -> tuple[str, ...]:
    """The names of all installed agents; nothing is imported."""
    return tuple(sorted(packages.points(AGENT_GROUP)))


def load_plugin(name: str) -> Algorithm | Yardstick:
    """The agent plug-in with this name.

    Raises:
        ValueError: An unknown name, with near ones; or a plug-in that offers neither training nor a yardstick.
        ImportError: It cannot be loaded, in one sentence that names it and its package: a package it needs is missing,
            with the command that installs it, for instance.
    """
    points = packages.points(AGENT_GROUP)
    if name not in points:
        raise ValueError(f"unknown agent {name!r}; {suggest(name, agent_names())}")
    plugin: Any = packages.load(points[name])
    if not isinstance(plugin, Algorithm | Yardstick):
        raise ValueError(
            f"{points[name].value} of the package {packages.package_of(points[name])} offers neither Config, train and "
            "load (an algorithm) nor build (a yardstick)"
        )
    return plugin


def open_run(algorithm: Any, folder: Path, **options: Any) -> Any:
    """The run that an algorithm trains in: of the class it brings, or else a `metabench.runs.Run`.

    Raises:
        ValueError: In one sentence: its class does not know one of the options.
    """
    kind = getattr(algorithm, "Run", runs.Run)
    parameters = inspect.signature(kind).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if unknown := [name for name in options if name not in parameters and not anything]:
        raise ValueError(f"the agent's own {kind.__module__}.{kind.__name__} has no {unknown[0]}")
    return kind(folder, **options)


def load_run(folder: Path) -> Trained:
    """The trained agent in a run's folder, with the run's record. It is played under the protocol it was trained for.

    Raises:
        ValueError: In one sentence: there is no run, its agent is not installed or is none that trains.
    """
    if not runs.is_run(folder):
        raise ValueError(f"there is no trained agent in {folder}: it has no {runs.CONFIG}")
    record = runs.read_record(folder)
    algorithm: Any = load_plugin(record.agent)
    if not isinstance(algorithm, Algorithm):
        raise ValueError(f"the run in {folder} is of the agent {record.agent}, which does not train")
    agent: Any = algorithm.load(folder)
    if getattr(agent, "protocol", PROTOCOL_VERSION) != record.protocol:
        try:
            agent.protocol = record.protocol
        except AttributeError:
            raise ValueError(
                f"the agent of {folder} was trained under the protocol {record.protocol} and does not say so: give it "
                f"an attribute `protocol`"
            ) from None
    return Trained(agent, record)


def load_agent(name: str, benchmark: str, split: str, seed: int) -> tuple[Agent[Any], str, int | None]:
    """A yardstick by name or a trained agent by folder; with its name and its training seed."""
    folder = Path(name)
    if folder.is_dir():
        if runs.is_run(folder) and (record := runs.read_record(folder)).benchmark != spec(benchmark).id:
            raise ValueError(f"{folder} was trained on {record.benchmark}, not on {spec(benchmark).id}")
        agent, record = load_run(folder)
        return agent, record.agent, record.seed
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
        oracle = getattr(importlib.import_module(module), name, None)
        if oracle is None:
            raise ValueError(f"the spec of {chosen.id} names the oracle {chosen.oracle}, but {module} has no {name!r}")
        return oracle.build(chosen.id, split, seed)
    reasons: list[str] = []
    for _, oracle in packages.working(ORACLE_GROUP, reasons=reasons):
        try:
            return oracle.build(chosen.id, split, seed)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(f"there is no oracle for {benchmark}: {'; '.join(reasons) or 'its spec names none'}")


def behaviours(benchmark: str, split: str, quality: str) -> Sequence[Behaviour]:
    """The policies that play a quality of data on a benchmark, from the first plug-in that knows some.

    Raises:
        ValueError: One sentence, if none does: with each plug-in's reason.
    """
    reasons: list[str] = []
    for point, demonstrator in packages.working(BEHAVIOUR_GROUP, reasons=reasons):
        if not isinstance(demonstrator, Demonstrator):
            reasons.append(f"{point.value} offers no behaviours(benchmark, split, quality)")
            continue
        try:
            return demonstrator.behaviours(benchmark, split, quality)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(
        "; ".join(reasons) or "no installed package offers behaviour policies: pip install 'metabench[agents]'"
    )
