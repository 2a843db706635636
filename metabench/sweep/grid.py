"""The grid of a sweep: agents x benchmarks x settings x seeds, as jobs."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabench.plugins import agent_names
from metabench.registry import NAMESPACE, spec, specs
from metabench.runs import is_run, read_record
from metabench.sweep.jobs import Job
from metabench.sweep.settings import changes_of
from metabench.sweep.work import SPLITS, check, policy_sha256, trainable
from metabench.tasks import suggest


def sort_out(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of the words are agents (names, or folders of runs) and which benchmarks.

    Raises:
        ValueError: In one sentence: a word is neither, or one kind is missing.
    """
    ids = {chosen.id for chosen in specs()}
    agents, benchmarks = [], []
    for name in dict.fromkeys(names):
        if name.removeprefix(NAMESPACE) in ids:
            benchmarks.append(name.removeprefix(NAMESPACE))
        elif name in agent_names() or is_run(Path(name)):
            agents.append(name)
        elif re.search(r"-v\d+$", name):
            spec(name)  # tells what there is
        else:
            raise ValueError(f"{name!r} is no agent, no run's folder and no benchmark; {suggest(name, agent_names())}")
    if not agents or not benchmarks:
        missing, what = ("agent", ", ".join(agent_names())) if not agents else ("benchmark", "`metabench list`")
        raise ValueError(f"a sweep needs at least one {missing}: {what}")
    return agents, benchmarks


def grid(
    agents: Sequence[str],
    benchmarks: Sequence[str],
    seeds: Sequence[int],
    settings: Mapping[str, Sequence[Any]] | None = None,
    splits: Sequence[str] = SPLITS,
    extra: Mapping[str, Any] | None = None,
) -> list[Job]:
    """All jobs, seeds outermost: a sweep that is cut short has whole seeds.

    Args:
        agents: Names of agents that are trained and then evaluated, or that need no training; or runs' folders.
        benchmarks: Ids.
        seeds: Of training; of the evaluation where nothing is trained.
        settings: Values to try of each setting, by its name, of all agents that are trained; every combination.
        splits: To evaluate on.
        extra: Further settings of the jobs that train, see `metabench.sweep.work`.

    Raises:
        ValueError: In one sentence: something of it does not exist.
        ImportError: A package that an agent needs is missing.
    """
    names = list(settings or {})
    combinations = [dict(zip(names, values, strict=True)) for values in itertools.product(*(settings or {}).values())]
    jobs: dict[Job, None] = {}
    for seed, agent, benchmark in itertools.product(seeds, agents, benchmarks):
        jobs |= dict.fromkeys(_jobs(agent, benchmark, seed, combinations, splits, dict(extra or {})))
    if names and not any(job.kind == "train" for job in jobs):
        raise ValueError(f"none of {', '.join(agents)} is trained, so there are no settings to try: {', '.join(names)}")
    for job in {(job.group, json.dumps(job.settings.get("config"))): job for job in jobs}.values():
        check(job)
    return list(jobs)


def _jobs(
    agent: str,
    benchmark: str,
    seed: int,
    combinations: Sequence[Mapping[str, Any]],
    splits: Sequence[str],
    extra: dict[str, Any],
) -> list[Job]:
    chosen = spec(benchmark).id
    folder = Path(agent)
    if is_run(folder):
        trained, learned = str(folder.resolve()), read_record(folder).benchmark
        if learned != chosen:
            raise ValueError(f"{folder} was trained on {learned}, not on {chosen}")
        common = {"agent": trained, "benchmark": chosen, "sha256": policy_sha256(folder)}
        return [Job("evaluate", common | {"split": split}, seed) for split in splits]
    if _needs_no_training(agent):
        return [Job("evaluate", {"agent": agent, "benchmark": chosen, "split": split}, seed) for split in splits]
    common = {"agent": agent, "benchmark": chosen, "splits": list(splits), **extra}
    algorithm = trainable(agent)
    return [Job("train", common | ({"config": changes_of(algorithm, c)} if c else {}), seed) for c in combinations]


def _needs_no_training(agent: str) -> bool:
    from metabench.plugins import load_plugin

    return not hasattr(load_plugin(agent), "Config")


def parse_seeds(text: str) -> list[int]:
    """`0-4`, `0,2,5` or both; ValueError in one sentence for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"seeds are given as 0-4 or 0,2,5, got {text!r}")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(seeds))


def parse_setting(text: str) -> tuple[str, list[Any]]:
    """`name=value,value,...`: the name and the values to try, each JSON or a word.

    Commas inside brackets and quotes belong to a value: `sizes=[64,32],[128]` are two.
    """
    name, equals, rest = text.partition("=")
    if not equals or not name.strip() or not rest:
        raise ValueError(f"settings are given as name=value,value,..., got {text!r}")
    values, depth, quoted, current = [], 0, False, ""
    for character in rest:
        quoted ^= character == '"'
        depth += 0 if quoted else (character in "[{") - (character in "]}")
        if character == "," and not depth and not quoted:
            values.append(current)
            current = ""
        else:
            current += character
    return name.strip(), [_value(part.strip()) for part in (*values, current)]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
