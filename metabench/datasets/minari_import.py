"""A Minari dataset as a split: the reading half of `metabench.datasets.minari`."""

# pyright: reportMissingImports=false

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from metabench.datasets.format import (
    EPISODE,
    EPISODES,
    FINAL,
    MANIFEST,
    STATES,
    STEPS,
    FileRecord,
    Manifest,
    PolicyRecord,
    returns_to_go,
    row_type,
    task_statistics,
    write_column,
)
from metabench.datasets.ids import DatasetId
from metabench.datasets.minari_export import EXTRA, STATES_KEY
from metabench.evaluation.evaluate import versions
from metabench.evaluation.results import write_atomically
from metabench.rng import Array

_COLUMNS = ("observations", "actions", "rewards")
_TASK_INFO = "task_id"  # in the infos of our environments: the row of the task being played
_OWN_METADATA = {  # what Minari writes by itself or takes as arguments
    "total_episodes",
    "total_steps",
    "dataset_size",
    "data_format",
    "minari_version",
}
_ARGUMENTS = {
    "dataset_id",
    "env_spec",
    "eval_env_spec",
    "observation_space",
    "action_space",
    "code_permalink",
    "algorithm_name",
    "description",
    "author",
    "author_email",
    "ref_min_score",
    "ref_max_score",
    "requirements",
    "jpeg_encoding",
}


def restore(source: Any, m: Manifest, part: Path) -> None:
    """The files of a set of ours, back from Minari; the manifest is left to the caller."""
    episodes, blocks, finals = np.zeros(m.episodes, dtype=EPISODE), [], []
    details = source.storage.get_episode_metadata(range(m.episodes))
    for index, (episode, detail) in enumerate(zip(source.iterate_episodes(), details, strict=True)):
        block = np.zeros(len(episode), m.row_type)
        block["observation"], block["action"] = episode.observations[:-1], episode.actions
        block["reward"], block["terminated"] = episode.rewards, episode.terminations
        block["truncated"] = episode.truncations
        for name in ("session_ended", "success"):
            block[name] = episode.infos[name][1:]
        blocks.append(block)
        finals.append(episode.observations[-1:])
        row = episodes[index : index + 1]
        row["task"], row["seed"], row["length"] = int(detail["options"]["task"]), detail["seed"], len(episode)
        row["return"] = episode.rewards.astype(np.float64).sum()
        for name in EXTRA:
            row[name] = int(detail[name])
    states = [Path(source.storage.data_path) / f"{STATES_KEY}.npy"] if m.state_every else []
    files = _write(part, m.row_type, blocks, episodes, finals, m.observation_dtype)
    for path in states:
        column = np.load(path, allow_pickle=False)
        files.append(write_column(part / STATES, column.dtype, column.shape, [column]))
    if {file.name: file.sha256 for file in files} != {file.name: file.sha256 for file in m.files}:
        changed = [f.name for f in m.files if f.sha256 not in {file.sha256 for file in files}]
        raise ValueError(f"the Minari dataset was changed since it was exported: {', '.join(changed)} would differ")


def _write(
    part: Path, rows: np.dtype[Any], blocks: Sequence[Array], episodes: Array, finals: Sequence[Array], kind: str
) -> list[FileRecord]:
    lengths = episodes["length"].astype(np.int64)
    episodes["start"] = np.cumsum(lengths) - lengths
    steps = np.concatenate(blocks)
    steps["return_to_go"] = returns_to_go(steps["reward"], lengths)
    episodes["return"] = np.add.reduceat(steps["reward"].astype(np.float64), episodes["start"])
    final = np.concatenate(finals)
    return [
        write_column(part / STEPS, rows, steps.shape, [steps]),
        write_column(part / EPISODES, EPISODE, episodes.shape, [episodes]),
        write_column(part / FINAL, np.dtype(kind), final.shape, [final]),
    ]


def _foreign_episodes(source: Any) -> list[Any]:
    """The episodes of a set of another origin; ValueError in one sentence if they have no place in our format."""
    observation, action = source.observation_space, source.action_space
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
        raise ValueError(f"the observations of {source.id} are {observation}; only flat boxes have a place here")
    if not isinstance(action, spaces.Box | spaces.Discrete):
        raise ValueError(f"the actions of {source.id} are {action}; only Box and Discrete have a place here")
    if isinstance(action, spaces.Discrete) and action.start != 0:
        raise ValueError(
            f"the actions of {source.id} begin with {action.start}; only those that begin with 0 have a place"
        )
    read = list(source.iterate_episodes())
    if not read:
        raise ValueError(f"{source.id} has no episodes")
    for index, episode in enumerate(read):
        if fault := _fault(episode, observation.shape[0], tuple(action.shape or ())):
            raise ValueError(f"episode {index} of {source.id} has no place here: {fault}")
    return read


def import_foreign(source: Any, id: DatasetId, split: str, part: Path) -> None:
    """A set of another origin."""
    from minari.dataset.minari_storage import MinariStorage

    raw = MinariStorage.read_raw_metadata(source.storage.data_path)
    read = _foreign_episodes(source)
    details = list(source.storage.get_episode_metadata(range(source.total_episodes)))
    observation, action = source.observation_space, source.action_space
    shape = tuple(action.shape or ())
    kinds = [_kind([np.asarray(getattr(one, name)) for one in read], name) for name in _COLUMNS]
    rows = row_type(observation.shape[0], shape, *kinds)
    episodes, blocks, finals = np.zeros(len(read), dtype=EPISODE), [], []
    for index, (episode, detail) in enumerate(zip(read, details, strict=True)):
        block = np.zeros(len(episode.rewards), rows)
        block["observation"], block["action"] = episode.observations[:-1], episode.actions
        block["reward"], block["terminated"] = episode.rewards, episode.terminations
        block["truncated"] = episode.truncations
        blocks.append(block)
        finals.append(np.asarray(episode.observations[-1:], kinds[0]))
        row = episodes[index : index + 1]
        row["length"], row["task"] = len(block), _task(index, episode, detail)
    files = _write(part, rows, blocks, episodes, finals, kinds[0])
    infos, more = _write_infos(part, read)
    kept = [{name: _plain(d[name]) for name in ("seed", "options") if d.get(name) is not None} for d in details]
    manifest = Manifest(
        id=str(id),
        benchmark="",
        spec={},
        split=split,
        quality=id.quality,
        task_digest="",
        observation=observation.shape[0],
        action=shape,
        actions=int(action.n) if isinstance(action, spaces.Discrete) else None,
        observation_dtype=kinds[0],  # pyright: ignore[reportArgumentType]
        action_dtype=kinds[1],  # pyright: ignore[reportArgumentType]
        reward_dtype=kinds[2],  # pyright: ignore[reportArgumentType]
        steps=int(episodes["length"].sum()),
        episodes=len(episodes),
        seed=0,
        policies=(PolicyRecord(name=str(raw.get("algorithm_name", "not known")), step=0),),
        statistics=task_statistics(episodes),
        infos=infos,
        files=tuple(files + more),
        versions=versions(),
        command=f"metabench dataset from-minari {source.id} {id} --split {split}",
        licence=str(raw.get("license", "not known: see its source")),
        citation=f"the Minari dataset {source.id}",
        extra={"minari": json.dumps(_foreign(raw), sort_keys=True), "minari_episodes": json.dumps(kept)},
    )
    write_atomically(part / MANIFEST, manifest.to_bytes())


def _foreign(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A Minari dataset's metadata as it is kept: the arguments by name, all else under `metadata`."""
    known = {name: raw[name] for name in _ARGUMENTS if name in raw}
    rest = {name: value for name, value in raw.items() if name not in _ARGUMENTS | _OWN_METADATA}
    return {**known, "metadata": rest}


def _write_infos(part: Path, episodes: Sequence[Any]) -> tuple[dict[str, str], list[FileRecord]]:
    """One file per info, a row per observation; ValueError where an info is not numbers of one shape in every step."""
    names, files = {}, []
    trees = [dict(_leaves(episode.infos or {})) for episode in episodes]
    for tree, episode in zip(trees, episodes, strict=True):
        if len(tree) != sum(1 for _ in _leaves(episode.infos or {})):
            raise ValueError("two infos have the same name where names of nested ones are joined by '/'")
    for number, path in enumerate(sorted(set().union(*trees))):
        columns = [tree.get(path) for tree in trees]
        sound = all(
            column is not None and column.dtype.kind in "biuf" and len(column) == len(episode) + 1
            for column, episode in zip(columns, episodes, strict=True)
        )
        if not sound or len({(c.dtype, c.shape[1:]) for c in columns if c is not None}) != 1:
            raise ValueError(
                f"the info {path!r} is not made of numbers of one shape in every step: it has no place here"
            )
        joined = np.concatenate([column for column in columns if column is not None])
        name = f"info_{number}.npy"
        names[name] = path
        files.append(write_column(part / name, joined.dtype, joined.shape, [joined]))
    return names, files


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Array]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", np.asarray(value)


def _fault(episode: Any, observation: int, action: tuple[int, ...]) -> str:
    """Why an episode has no place in the format, in words; empty if it has."""
    count = len(np.atleast_1d(episode.rewards))
    shapes = {"observations": (count + 1, observation), "actions": (count, *action), "rewards": (count,)}
    shapes |= {"terminations": (count,), "truncations": (count,)}
    for name, shape in shapes.items():
        found = np.shape(getattr(episode, name))
        if found != shape:
            return f"its {name} have the shape {found}, and {shape} is what the others ask for"
    if not count:
        return "it has no steps"
    over = np.asarray(episode.terminations, bool) | np.asarray(episode.truncations, bool)
    if over[:-1].any() or not over[-1]:
        where = "goes on after it" if over[:-1].any() else "does not"
        return f"an episode ends with a step that is terminated or truncated, and this one {where}"
    for name in _COLUMNS:
        column = np.asarray(getattr(episode, name))
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            return f"its {name} hold numbers that are not finite"
    return ""


def _kind(columns: Sequence[Array], name: str) -> str:
    """The type that holds a column of every episode exactly."""
    for column in columns:
        kind = column.dtype.newbyteorder("<").str
        if kind not in ("<f4", "<f8", "<i4", "<i8") or (name != "actions" and kind[1] != "f"):
            raise ValueError(
                f"{name} of dtype {column.dtype} have no place here: float32 and float64 do, int32 and int64 for "
                "actions"
            )
    found = {column.dtype.newbyteorder("<") for column in columns}
    if len({kind.kind for kind in found}) > 1:
        raise ValueError(f"{name} are whole numbers in one episode and floats in another: they have no place here")
    return max(found, key=lambda kind: kind.itemsize).str


def _task(index: int, episode: Any, detail: Mapping[str, Any]) -> int:
    """The task an episode was played on: what its infos say, else the one its reset asked for, else 0.

    Raises:
        ValueError: If the infos name several, or one that has no row in a table.
    """
    infos = episode.infos if isinstance(episode.infos, Mapping) else {}
    told = np.asarray(infos.get(_TASK_INFO, ()))
    if told.size and told.dtype.kind in "iu":
        named = np.unique(told)
        if len(named) > 1:
            raise ValueError(f"episode {index} is of several tasks: its infos name {', '.join(map(str, named[:4]))}")
        if not 0 <= named[0] < 2**31:
            raise ValueError(f"episode {index} was played on a task off the table ({_TASK_INFO} {named[0]})")
        return int(named[0])
    task = (detail.get("options") or {}).get("task", 0)
    return int(task) if np.issubdtype(type(task), np.integer) and 0 <= task < 2**31 else 0


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
