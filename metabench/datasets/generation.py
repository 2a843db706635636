"""Makes a dataset split: plays behaviour policies shard by shard, then packs the shards into the final files.

A shard is a group of tasks with all their episodes. What it holds depends on the plan and its own number alone. Shards
are written to the disk once a second, appear there whole, and those are never made twice: a generation that was killed
goes on with the next shard and ends in the same bytes. The split's folder appears by one rename, when everything in it
is on the disk.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metabench.datasets.format import (
    ADVICE,
    EPISODE,
    EPISODES,
    FINAL,
    MANIFEST,
    STATES,
    STEPS,
    FileRecord,
    Manifest,
    as_bytes,
    family_row_type,
    read_manifest,
    sync_folder,
    task_statistics,
    write_column,
)
from metabench.datasets.ids import DatasetId, data_root, split_folder
from metabench.datasets.recipe import Recipe, plan
from metabench.datasets.record import Recording, record
from metabench.datasets.shards import Shards
from metabench.evaluation.evaluate import versions
from metabench.evaluation.results import write_atomically
from metabench.plugins import load_oracle
from metabench.rng import Array, whole_number

PLAN = "plan.json"


def generate(
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
    """Makes one split of a dataset, or goes on making it.

    Args:
        id: For example "metabench/cheetah-vel/mixed-v0".
        split: A frozen split of the benchmark.
        episodes: Episodes of each task; 100 by default, and so many of a `history` that there are 2,000 learners.
        seed: Of starts, dynamics and behaviours, 0 to 2^24 - 1.
        root: Where datasets lie; `METABENCH_DATA` or the platform's cache by default.
        agent: A yardstick by name or a trained agent by folder, as the behaviour; by quality by default. Agents that
            remember play whole trials of the benchmark.
        state_every: Steps between recorded simulator states; none by default.
        progress: Called with episodes played and episodes in all after every shard.

    Returns:
        The split's folder.

    Raises:
        ValueError: One sentence: an unknown id, split or quality; a folder that holds another set or another plan.
    """
    from filelock import FileLock

    episodes = None if episodes is None else _whole("episodes", episodes)
    seed = _whole("the seed of a dataset", seed)
    state_every = None if state_every is None else _whole("state_every", state_every)
    recipe = plan(DatasetId.parse(id) if isinstance(id, str) else id, split, episodes, seed, agent, state_every)
    target = split_folder(recipe.id, split, root or data_root())
    work = target.with_name(f".{split}.generating")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{split}.lock")):
        if target.exists():
            _check_same(recipe, target)
        else:
            _begin(recipe, work)
            with Shards(work, len(recipe.shards)) as shards:
                for number, tasks in enumerate(recipe.shards):
                    if number not in shards:
                        shards.add(number, play_shard(recipe, number))
                    if progress:
                        progress(tasks.stop * recipe.episodes, recipe.tasks * recipe.episodes)
                pack(recipe, shards, target)
        if work.exists():
            shutil.rmtree(work)
    return target


def _whole(name: str, value: Any) -> int:
    number = whole_number(value)
    if number is None:
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return number


def _check_same(recipe: Recipe, target: Path) -> None:
    found = read_manifest(target)
    if found.command != recipe.command or found.policies != recipe.policies():
        raise ValueError(
            f"{target} holds another dataset (made by `{found.command}`); remove it or choose another root"
        )


def _begin(recipe: Recipe, work: Path) -> None:
    path = work / PLAN
    if path.exists() and path.read_text() != recipe.to_json():
        raise ValueError(f"{work} holds an unfinished generation with other settings; finish it or remove the folder")
    if not path.exists():
        write_atomically(path, recipe.to_json().encode())
    for leftover in itertools.chain(work.glob("*.part"), work.glob(".plan*")):  # of a run that was killed
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def play_shard(recipe: Recipe, number: int) -> Recording:
    """All episodes of a shard's tasks, task by task, in the schedule's order."""
    tasks, schedule = np.array(recipe.shards[number]), np.array(recipe.schedule)
    parts: list[Recording] = []
    order: list[Array] = []  # of each recording's episodes: where they belong
    for index, behaviour in enumerate(recipe.behaviours):
        turns = np.flatnonzero(schedule == index)
        if not len(turns):
            continue
        trials = turns.reshape(-1, recipe.place)  # [trials, episodes of a trial]
        slot_task, slot_trial = np.repeat(tasks, len(trials)), np.tile(np.arange(len(trials)), len(tasks))
        seeds = episode_seed(recipe.seed, slot_task, trials[slot_trial, 0])
        for chunk, begin in enumerate(range(0, len(seeds), recipe.chunk)):
            slots = slice(begin, begin + recipe.chunk)
            part = record(
                behaviour.make(agent_seed(recipe.seed, number, index, chunk)),
                recipe.benchmark.id,
                recipe.split,
                slot_task[slots],
                seeds[slots],
                place=recipe.place,
                state_every=recipe.state_every,
                oracle=load_oracle(recipe.benchmark.id, recipe.split, 0) if recipe.advised else None,
            )
            part.episodes["policy"], part.episodes["policy_step"] = index, behaviour.step
            parts.append(part)
            order.append((slot_task[slots, None] * recipe.episodes + trials[slot_trial[slots]]).reshape(-1))
    return _merge(parts, np.concatenate(order), recipe.state_every)


def episode_seed(seed: int, task: Array, turn: Array) -> Array:
    """`[B]` uint64 what the environment is reset with: no two episodes of a generation share one."""
    return (np.uint64(seed) << np.uint64(40)) + (task.astype(np.uint64) << np.uint64(20)) + turn.astype(np.uint64)


def agent_seed(seed: int, shard: int, policy: int, chunk: int = 0) -> int:
    """Of a behaviour's own randomness in one shard, or in one chunk of a shard's slots."""
    entropy = [seed, shard, policy, *([chunk] if chunk else [])]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def _merge(parts: Sequence[Recording], order: Array, state_every: int | None) -> Recording:
    """Recordings as one, the episodes sorted by `order`."""
    offsets = np.cumsum([0] + [len(part.steps) for part in parts])
    steps = _joined([part.steps for part in parts])
    episodes = np.concatenate([part.episodes for part in parts])
    start = np.concatenate([part.episodes["start"] + offset for part, offset in zip(parts, offsets, strict=False)])
    final = np.concatenate([part.final for part in parts])
    episodes["start"] = start
    rank = np.argsort(order, kind="stable")
    length = episodes["length"].astype(np.int64)
    advice = np.concatenate([part.advice for part in parts])
    if (rank[1:] > rank[:-1]).all():  # in order already
        return Recording(steps, episodes, final, np.concatenate([part.states for part in parts]), advice)
    if len(advice):
        advice = advice[_pieces(length, rank, start)]
    states = np.zeros((0, 0))
    if state_every:
        states = np.concatenate([part.states for part in parts])
        states = states[_pieces(-(-length // state_every), rank)]
    if (length == length[0]).all():  # episode by episode
        items = as_bytes(steps, int(length[0]))
        steps = items[rank].view(steps.dtype)
    else:
        steps = as_bytes(steps)[_pieces(length, rank, start)].view(steps.dtype)
    episodes = episodes[rank]
    episodes["start"] = np.cumsum(episodes["length"]) - episodes["length"]
    return Recording(steps, episodes, final[rank], states, advice)


def _joined(parts: Sequence[Array]) -> Array:
    """Rows one after the other; not copied where there is one part."""
    return parts[0] if len(parts) == 1 else np.concatenate([as_bytes(part) for part in parts]).view(parts[0].dtype)


def _pieces(length: Array, rank: Array, start: Array | None = None) -> Array:
    """Indices that put pieces of these lengths into the order `rank`."""
    start = np.cumsum(length) - length if start is None else start
    sorted_length = length[rank]
    ends = np.cumsum(sorted_length)
    shift = np.repeat(start[rank] - (ends - sorted_length), sorted_length)
    return shift + np.arange(int(ends[-1]))


def pack(recipe: Recipe, shards: Shards, target: Path) -> Manifest:
    """Joins the shards into the final files, writes the manifest, and shows the folder under its name."""
    folder = target.with_name(f".{target.name}.packing")
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    episodes = _joined_episodes(list(shards.column(EPISODES)))
    steps, columns = int(episodes["length"].sum()), len(recipe.benchmark.family().observation_fields)
    rows, finals = family_row_type(recipe.benchmark.family()), (len(episodes), columns)
    files = [
        write_column(folder / STEPS, rows, (steps,), shards.column(STEPS)),
        write_column(folder / EPISODES, EPISODE, episodes.shape, [episodes]),
        write_column(folder / FINAL, np.dtype("<f4"), finals, shards.column(FINAL)),
    ]
    if recipe.state_every:
        shapes = [states.shape for states in shards.column(STATES)]
        shape = (sum(shape[0] for shape in shapes), shapes[0][1])
        files.append(write_column(folder / STATES, np.dtype("<f8"), shape, shards.column(STATES)))
    if recipe.advised:
        files.append(_write_advice(folder / ADVICE, episodes, shards))
    manifest = _manifest(recipe, episodes, steps, files)
    write_atomically(folder / MANIFEST, manifest.to_bytes())
    sync_folder(folder)
    folder.rename(target)
    sync_folder(target.parent)
    return manifest


def _write_advice(path: Path, episodes: Array, shards: Shards) -> FileRecord:
    """The oracle's actions, with a row of zeros behind each episode's."""
    advice = np.concatenate([np.asarray(part) for part in shards.column(ADVICE)])
    rows = np.zeros((len(advice) + len(episodes), *advice.shape[1:]), advice.dtype)
    steps = np.ones(len(rows), dtype=bool)
    length = episodes["length"].astype(np.int64)
    steps[np.cumsum(length + 1) - 1] = False
    rows[steps] = advice
    return write_column(path, rows.dtype, rows.shape, [rows])


def _joined_episodes(parts: Sequence[Array]) -> Array:
    episodes = np.concatenate(parts)
    episodes["start"] = np.cumsum(episodes["length"].astype(np.int64)) - episodes["length"]
    return episodes


def _manifest(recipe: Recipe, episodes: Array, steps: int, files: Sequence[FileRecord]) -> Manifest:
    family = recipe.benchmark.family()
    return Manifest(
        id=str(recipe.id),
        benchmark=recipe.benchmark.id,
        spec=json.loads(recipe.benchmark.to_json()),
        split=recipe.split,
        quality=recipe.id.quality,
        task_digest=recipe.benchmark.table().digest(recipe.split),
        observation=len(family.observation_fields),
        action=tuple(family.action_space.shape or ()),
        actions=int(family.action_space.n) if hasattr(family.action_space, "n") else None,  # pyright: ignore[reportAttributeAccessIssue]
        action_dtype="<i4" if hasattr(family.action_space, "n") else "<f4",
        steps=steps,
        episodes=len(episodes),
        state_every=recipe.state_every,
        sessions=not recipe.benchmark.drift(recipe.split).constant,
        has_success=_knows_success(family),
        seed=recipe.seed,
        policies=recipe.policies(),
        infos={ADVICE: "expert_action"} if recipe.advised else {},
        statistics=task_statistics(episodes),
        files=tuple(files),
        versions=versions(),
        command=recipe.command,
    )


def _knows_success(family: Any) -> bool:
    from metabench.family import Family

    return type(family).success is not Family.success
