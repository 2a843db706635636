"""What else is made of jobs: a data set's shards, and the evaluations of several runs side by side."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench.datasets import DatasetId, generate
from metabench.datasets.generation import PLAN
from metabench.datasets.ids import data_root, split_folder
from metabench.datasets.recipe import Recipe, standard_episodes
from metabench.evaluation.evaluate import Evaluation
from metabench.evaluation.results import Protocol, Result, write_atomically
from metabench.evaluation.traces import Trace
from metabench.runs import result_path
from metabench.sweep.engine import Engine
from metabench.sweep.folder import Place
from metabench.sweep.jobs import Job, add_to_plan
from metabench.sweep.work import TRACE, policy_sha256, recipe_of


def generate_with(
    engine: Engine,
    id: str | DatasetId,
    split: str = "train",
    *,
    episodes: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    agent: str | None = None,
    state_every: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Makes one split of a data set shard by shard on an engine: the same bytes as `metabench.datasets.generate`.

    Goes on with what was made before, by this or by `generate`. Several may be at it at the same time, and share the
    work. The arguments are those of `generate`; where the engine has several machines, all of them see `root`.

    Returns:
        The split's folder.

    Raises:
        ValueError: One sentence: what `generate` refuses, or a shard that failed, with its log.
    """
    from filelock import FileLock

    name = DatasetId.parse(id) if isinstance(id, str) else id
    episodes = standard_episodes(name, split, agent) if episodes is None else episodes
    settings: dict[str, Any] = {"id": str(name), "split": split, "episodes": episodes}
    settings |= {"agent": agent} if agent is not None else {}
    settings |= {"state_every": state_every} if state_every is not None else {}
    recipe: Recipe = recipe_of(settings, seed)
    target = split_folder(recipe.id, split, root or data_root())
    out, work = target.with_name(f".{split}.sweep"), target.with_name(f".{split}.generating")
    if not target.exists():
        _check_plan(recipe, work)
        _play(engine, recipe, settings, out, work, progress)
    with FileLock(target.with_name(f".{split}.sweep.lock")):
        if not target.exists():
            _gather(recipe, out, work)
        made = {"episodes": episodes, "seed": seed, "root": root, "agent": agent, "state_every": state_every}
        generate(recipe.id, split, **made)
        shutil.rmtree(out, ignore_errors=True)
    return target


def _check_plan(recipe: Recipe, work: Path) -> None:
    path = work / PLAN
    if path.exists() and path.read_text() != recipe.to_json():
        raise ValueError(f"{work} holds an unfinished generation with other settings; finish it or remove the folder")


def _play(
    engine: Engine,
    recipe: Recipe,
    settings: dict[str, object],
    out: Path,
    work: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Has every shard played that is not there yet."""
    engine.check()
    if recipe.agent is not None and Path(recipe.agent).is_dir():  # another process may stand in another folder
        settings = settings | {"agent": str(Path(recipe.agent).resolve())}
    out.parent.mkdir(parents=True, exist_ok=True)
    missing = [k for k in range(len(recipe.shards)) if not (work / _shard(k)).exists()]
    jobs = [Job("generate", settings | {"shard": number}, recipe.seed) for number in missing]
    total = recipe.tasks * recipe.episodes
    done = total - sum(len(recipe.shards[number]) for number in missing) * recipe.episodes
    place = Place(out)
    add_to_plan(place.plan, jobs)
    for job in jobs:
        place.forgive(job)
    for event in engine.events(jobs, out):
        if event.state == "failed":
            log = place.failures / f"{event.job.key()}.log"
            raise ValueError(f"shard {event.job.settings['shard']} of {recipe.id}: {event.reason} (log: {log})")
        if event.state == "done":
            done += len(recipe.shards[event.job.settings["shard"]]) * recipe.episodes
            if progress:
                progress(done, total)


def _gather(recipe: Recipe, out: Path, work: Path) -> None:
    """Moves the shards to where `generate` looks for them."""
    _check_plan(recipe, work)
    write_atomically(work / PLAN, recipe.to_json().encode())
    for path in sorted(Place(out).results.glob("*/shard-*")):
        if not (work / path.name).exists():
            path.rename(work / path.name)


def _shard(number: int) -> str:
    return f"shard-{number:05d}"


class Entry(NamedTuple):
    """One evaluation that is asked for."""

    agent: str  # a yardstick's name, or the folder of a run
    protocol: Protocol
    name: str  # in the result
    agent_seed: int = 0  # of a yardstick's own randomness


def evaluate_with(
    engine: Engine, entries: Sequence[Entry], out: Path, progress: Callable[[int], None] | None = None
) -> list[Evaluation]:
    """Evaluates several agents side by side, with evidence: what `evaluate_traced` gives for each, in their order.

    Args:
        engine: Who plays.
        entries: What.
        out: A folder for the work; evaluations that lie there already are not played again.
        progress: Called with the number of each entry that is done.

    Raises:
        ValueError: One sentence, for the first evaluation that failed.
    """
    engine.check()
    jobs, place = [_job(entry) for entry in entries], Place(out)
    add_to_plan(place.plan, jobs)
    for job in jobs:
        place.forgive(job)
    for event in engine.events(dict.fromkeys(jobs), out):
        if event.state == "failed":
            raise ValueError(f"the evaluation of {event.job.settings['agent']} failed: {event.reason}")
        if event.state == "done" and progress:
            progress(jobs.index(event.job))
    found = []
    for job in jobs:
        folder = place.result(job.key())
        result = Result.load(result_path(folder, job.settings["split"]))
        found.append(Evaluation(result, Trace.load(folder / TRACE)))
    return found


def _job(entry: Entry) -> Job:
    protocol, folder = entry.protocol, Path(entry.agent)
    settings = protocol.model_dump(exclude={"seed"}) | {"name": entry.name, "trace": True}
    if folder.is_dir():
        settings |= {"agent": str(folder.resolve()), "sha256": policy_sha256(folder)}
    else:
        settings |= {"agent": entry.agent, "agent_seed": entry.agent_seed}
    return Job("evaluate", settings, protocol.seed)
