"""What a job does, kind by kind: it fills its working folder, and goes on with what an earlier attempt left there.

train       `agent` on `benchmark` with the changed settings `config`, in the folder of the run as `metabench train`
            makes it; then evaluated on `splits` (test and ood by default). If given: `episodes` of an evaluation's
            trial and `repeats` of each task; `name` in the results; `datasets`, pairs of id and split that are made
            first where they are missing; `checkpoint_every` iterations; `curve`: a learning curve is played of
            checkpoints `every` so many iterations on `splits` (`metabench.learning.Points`).
evaluate    `agent`, a yardstick's name or a run's folder, on `benchmark` and `split` (test). If given: `episodes`,
            `repeats` and `version` of the protocol; `name`; `sha256` of a run's policy, which is checked; `trace`:
            whether to keep the evidence; `agent_seed` of a yardstick's own randomness, the job's by default.
generate    shard number `shard` of the data set `id`, `split` (train): the shard's files as they lie in an unfinished
            generation. If given: `episodes` of a task, `agent`, `state_every`.
study       `function`, named `module:function`, called with the seed, the folder and its `arguments`; what it returns
            is JSON and goes to result.json. It may keep files in the folder, to go on from.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabench.evaluation.evaluate import evaluate, standard_protocol
from metabench.evaluation.results import PROTOCOL_VERSION, Protocol
from metabench.learning import Points, play_kept
from metabench.plugins import load_agent, load_plugin, open_run
from metabench.registry import spec
from metabench.runs import RESULT, result_path
from metabench.sweep.settings import settings_of
from metabench.sweep.stopping import behind_a_checkpoint
from metabench.tasks import suggest

if TYPE_CHECKING:
    from metabench.sweep.jobs import Job

SPLITS = ("test", "ood")  # what is evaluated after training
TRACE = "trace.npz"

_TRAIN = {"agent", "benchmark", "config", "splits", "episodes", "repeats", "name", "datasets"}
_TRAIN |= {"checkpoint_every", "curve"}
_EVALUATE = {"agent", "benchmark", "split", "episodes", "repeats", "version", "name", "sha256", "trace", "agent_seed"}
_GENERATE = {"id", "split", "shard", "episodes", "agent", "state_every"}
_STUDY = {"function", "arguments"}


def do(job: Job, folder: Path) -> None:
    """Does a job in its working folder.

    Raises:
        ValueError: In one sentence, for settings that the kind does not know or needs; and whatever the job raises.
    """
    known, needed, function = _KINDS[job.kind]
    check_names(job.kind, job.settings, known, needed)
    function(job.settings, job.seed, folder)


def check_names(kind: str, settings: Mapping[str, Any], known: set[str], needed: set[str]) -> None:
    """Refuses a job whose settings have a name too many or too few; ValueError in one sentence."""
    for name in settings:
        if name not in known:
            raise ValueError(f"a job of the kind {kind} has no setting {name!r}; {suggest(name, sorted(known))}")
    if missing := sorted(needed - settings.keys()):
        raise ValueError(f"a job of the kind {kind} needs the setting {missing[0]!r}")


def check(job: Job) -> None:
    """Refuses what could only fail: unknown agents, benchmarks, splits and settings.

    Raises:
        ValueError: In one sentence.
        ImportError: A package that the agent needs is missing, with the command that installs it.
    """
    known, needed, _ = _KINDS[job.kind]
    settings = job.settings
    check_names(job.kind, settings, known, needed)
    if job.kind in ("train", "evaluate"):
        table = spec(settings["benchmark"]).table()
        for split in _splits(job):
            table.size(split)
    if job.kind == "train":
        settings_of(trainable(settings["agent"]), settings.get("config", {}))


def _splits(job: Job) -> tuple[str, ...]:
    if job.kind == "train":
        return tuple(job.settings.get("splits", SPLITS))
    return (job.settings.get("split", "test"),)


def trainable(name: str) -> Any:
    """The agent with this name, if it can be trained; ValueError in one sentence if not."""
    algorithm: Any = load_plugin(name)
    if not hasattr(algorithm, "Config"):
        raise ValueError(f"{name} is a yardstick and is not trained: give it as the agent of an evaluation")
    return algorithm


def _protocol(settings: Mapping[str, Any], split: str, seed: int, version: str) -> Protocol:
    standard = standard_protocol(settings["benchmark"], split, seed, version)
    counts = {name: settings[name] for name in ("episodes", "repeats") if name in settings}
    return Protocol.model_validate(standard.model_dump() | counts)


def _train(settings: Mapping[str, Any], seed: int, folder: Path) -> None:
    algorithm, benchmark = trainable(settings["agent"]), spec(settings["benchmark"]).id
    config = settings_of(algorithm, settings.get("config", {}))
    for id, split in settings.get("datasets", ()):
        from metabench.datasets import generate

        generate(id, split)  # nothing to do where it is; waits for whoever makes it
    every = {"checkpoint_every": settings["checkpoint_every"]} if "checkpoint_every" in settings else {}
    points = Points(**settings["curve"]) if "curve" in settings else None
    if points:
        every["keep_every"] = points.every
    run = open_run(algorithm, folder, show=False, **every)
    with behind_a_checkpoint(run):
        agent = algorithm.train(benchmark, config, seed=seed, run=run)
    version = getattr(agent, "protocol", PROTOCOL_VERSION)
    for split in settings.get("splits", SPLITS):
        path = result_path(folder, split)
        if not path.exists():
            played = _protocol(settings, split, 0, version)
            evaluate(agent, played, train_seed=seed, name=settings.get("name", settings["agent"])).save(path)
    if points:
        play_kept(folder, benchmark, points)


def _evaluate(settings: Mapping[str, Any], seed: int, folder: Path) -> None:
    split, name = settings.get("split", "test"), settings["agent"]
    if "sha256" in settings and policy_sha256(Path(name)) != settings["sha256"]:
        raise ValueError(f"the policy in {name} is no longer the one that was to be evaluated")
    agent, label, train_seed = load_agent(name, settings["benchmark"], split, settings.get("agent_seed", seed))
    version = settings.get("version", getattr(agent, "protocol", PROTOCOL_VERSION))
    played = _protocol(settings, split, seed, version)
    trace = folder / TRACE if settings.get("trace") else None
    result = evaluate(agent, played, train_seed=train_seed, name=settings.get("name", label), trace=trace)
    result.save(result_path(folder, split))


def policy_sha256(folder: Path) -> str:
    """The hash of what a run's agent is made of: of all its files but metrics, results and hidden ones."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        aside = name.endswith(".jsonl") or re.fullmatch(r"result(-.+)?\.json", name) or f"/{name}".count("/.")
        if path.is_file() and not aside:
            total.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _generate(settings: Mapping[str, Any], seed: int, folder: Path) -> None:
    from metabench.datasets.generation import play_shard
    from metabench.datasets.shards import Shards

    recipe, number = recipe_of(settings, seed), settings["shard"]
    if not 0 <= number < len(recipe.shards):
        raise ValueError(f"{settings['id']} has the shards 0 to {len(recipe.shards) - 1}, got {number}")
    if any(folder.glob("shard-*[0-9]")):
        return
    with Shards(folder, len(recipe.shards)) as shards:
        shards.add(number, play_shard(recipe, number))
        shards.flush()


def recipe_of(settings: Mapping[str, Any], seed: int) -> Any:
    """Who plays what in the data set that a job makes a shard of."""
    from metabench.datasets import DatasetId
    from metabench.datasets.recipe import plan

    return plan(
        DatasetId.parse(settings["id"]),
        settings.get("split", "train"),
        settings.get("episodes"),
        seed,
        settings.get("agent"),
        settings.get("state_every"),
    )


def _study(settings: Mapping[str, Any], seed: int, folder: Path) -> None:
    result = function_of(settings["function"])(seed=seed, folder=folder, **settings.get("arguments", {}))
    (folder / RESULT).write_text(json.dumps(result, sort_keys=True, indent=1, allow_nan=False))


def function_of(name: str) -> Callable[..., Any]:
    """The function named `module:function`; ValueError in one sentence if there is none."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no function {name!r} (a study names one as module:function): {error}") from None


_KINDS: dict[str, tuple[set[str], set[str], Callable[[Mapping[str, Any], int, Path], None]]] = {
    "train": (_TRAIN, {"agent", "benchmark"}, _train),
    "evaluate": (_EVALUATE, {"agent", "benchmark"}, _evaluate),
    "generate": (_GENERATE, {"id", "shard"}, _generate),
    "study": (_STUDY, {"function"}, _study),
}
