"""The bridge to Minari: splits become Minari datasets (HDF5) that `minari.load_dataset` reads, and the other way round.

Nothing is lost either way. What Minari has no place for, the manifest and each episode's row, travels in its
metadata; what a Minari dataset has beside the steps, its metadata, seeds, options and infos, travels in the manifest
and in files of its own. Minari 0.5.4 is an interchange format: it has no checksums and reads single episodes, so sets
are used here, not there.

Refused, with the reason: observations that are no flat Box, actions that are neither Box nor Discrete, infos that are
not numbers of one shape in every step.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

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
    read_manifest,
    returns_to_go,
    row_type,
    sync_folder,
    task_statistics,
    write_column,
)
from metabench.datasets.ids import DatasetId, data_root, split_folder
from metabench.datasets.trials import TrialDataset
from metabench.datasets.verify import verify
from metabench.evaluate import versions
from metabench.registry import NAMESPACE, spec
from metabench.results import write_atomically
from metabench.rng import Array

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
KEY = "metabench_manifest"  # of Minari's dataset metadata: the manifest, whole
STATES_KEY = "metabench_states"  # a file beside Minari's own
CHUNK = 500  # episodes handed over at a time
_EXTRA = ("policy", "place", "policy_step")  # columns of episodes.npy that go into Minari's episode metadata


def minari_id(manifest: Manifest) -> str:
    """`metabench/cheetah-vel/mixed-train-v0`: Minari knows no splits, so the split is part of the name."""
    name = DatasetId.parse(manifest.id)
    return f"{NAMESPACE}{name.family}/{name.quality}-{manifest.split}-v{name.version}"


def to_minari(folder: Path, root: Path | None = None, name: str | None = None) -> str:
    """Writes the split in `folder` as a Minari dataset and returns its Minari id.

    Args:
        folder: The split's folder; verified first.
        root: Minari's folder; `MINARI_DATASETS_PATH` or ~/.minari/datasets by default.
        name: The Minari id; by default that of `minari_id`, or the one that the set came from.

    Raises:
        ValueError: One sentence: the set is not sound, or Minari has another under this id.
    """
    minari = _minari()
    if faults := verify(folder):
        raise ValueError(f"{folder} is not sound: {faults[0]}")
    data = TrialDataset(folder)
    foreign = json.loads(data.manifest.extra.get("minari", "{}"))
    id = name or foreign.get("dataset_id") or minari_id(data.manifest)
    final = _minari_root(root)
    if (final / id).exists():
        raise ValueError(f"Minari has {id} already, in {final}; remove it or choose another name")
    work = final / f".metabench-{os.getpid()}"
    try:
        with _minari_folder(work):
            _export(minari, data, id, foreign)
        _show(work, final, id)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return id


def _export(minari: Any, data: TrialDataset, id: str, foreign: Mapping[str, Any]) -> None:
    m = data.manifest
    infos = _InfoFiles(data.folder, m)
    made: Any = None
    for start in range(0, len(data), CHUNK):
        rows = range(start, min(start + CHUNK, len(data)))
        buffers = [_buffer(data, index, infos, bool(foreign)) for index in rows]
        if made is None:
            made = minari.create_dataset_from_buffers(id, buffers, data_format="hdf5", **_about(m, foreign))
        else:
            made.update_dataset_from_buffer(buffers)
    storage = made.storage
    if not foreign:
        record = [{name: int(row[name]) for name in _EXTRA} for row in data.episodes]
        storage.update_episode_metadata(record)
        storage.update_metadata({KEY: (data.folder / MANIFEST).read_text()})
        if m.state_every:
            shutil.copyfile(data.folder / STATES, Path(storage.data_path) / f"{STATES_KEY}.npy")
    else:
        storage.update_metadata(dict(foreign.get("metadata", {})))


def _about(m: Manifest, foreign: Mapping[str, Any]) -> dict[str, Any]:
    """Spaces, environment and description, as `create_dataset_from_buffers` takes them."""
    if foreign:
        from minari.serialization import deserialize_space

        names = ("code_permalink", "algorithm_name", "description", "ref_min_score", "ref_max_score", "requirements")
        about = {name: foreign.get(name) for name in names}
        about |= {name: set(foreign[name]) for name in ("author", "author_email") if foreign.get(name)}
        specs = ("env_spec", "env"), ("eval_env_spec", "eval_env")
        about |= {to: EnvSpec.from_json(foreign[name]) for name, to in specs if foreign.get(name)}
        for name in ("observation_space", "action_space"):
            about[name] = deserialize_space(json.loads(foreign[name]))
        return about | {"jpeg_encoding": bool(foreign.get("jpeg_encoding", False))}
    chosen = spec(m.benchmark)
    family = chosen.family()
    base = family.observation_space
    environment = copy.deepcopy(gym.spec(f"{NAMESPACE}{chosen.id}"))  # the registered one stays as it is
    environment.kwargs = {**environment.kwargs, "split": m.split, "episodes_per_task": 1}
    levels = chosen.references(m.split)
    scores = {}
    if {"random", "oracle"} <= set(levels):
        scores = {"ref_min_score": levels["random"]["mean"], "ref_max_score": levels["oracle"]["mean"]}
    return {
        "env": environment,
        "eval_env": environment,
        "observation_space": spaces.Box(base.low.astype(np.float32), base.high.astype(np.float32), dtype=np.float32),
        "action_space": family.action_space,
        "algorithm_name": "; ".join(policy.name for policy in m.policies),
        "author": "metabench",
        "author_email": "none",
        "code_permalink": "none",
        "description": f"{m.id}, split {m.split} of {m.benchmark}. Made by: {m.command}. Licence {m.licence}.",
        "jpeg_encoding": False,
        **scores,
    }


def _buffer(data: TrialDataset, index: int, infos: _InfoFiles, foreign: bool) -> Any:
    """One episode as Minari takes it: observations and infos have one row more than there are steps."""
    from minari.data_collector import EpisodeBuffer

    record = data.episodes[index]
    rows = data.steps[record["start"] : record["start"] + record["length"]]
    beside = infos.episode(index, record)
    if not foreign:
        flags = {name: np.append(False, rows[name]) for name in ("session_ended", "success")}
        beside = {**flags, **beside}
    options: Any = {"task": int(record["task"])}
    seed: int | None = int(record["seed"])
    if foreign:
        kept = infos.kept[index]
        seed, options = kept.get("seed"), kept.get("options")
    return EpisodeBuffer(
        id=index,
        seed=seed,
        options=options,
        observations=np.concatenate((rows["observation"], data[index].final_observation[None])),  # pyright: ignore[reportArgumentType]
        actions=np.array(rows["action"]),  # pyright: ignore[reportArgumentType]
        rewards=np.array(rows["reward"]),  # pyright: ignore[reportArgumentType]
        terminations=np.array(rows["terminated"]),  # pyright: ignore[reportArgumentType]
        truncations=np.array(rows["truncated"]),  # pyright: ignore[reportArgumentType]
        infos=beside or None,
    )


class _InfoFiles:
    """The files of a set that came from Minari with infos, cut into episodes; and its episodes' seeds and options."""

    def __init__(self, folder: Path, m: Manifest):
        self.columns = {
            path: np.load(folder / name, mmap_mode="r", allow_pickle=False) for name, path in m.infos.items()
        }
        self.kept: list[dict[str, Any]] = json.loads(m.extra.get("minari_episodes", "[]"))

    def episode(self, index: int, record: Any) -> dict[str, Any]:
        """Nested as Minari has them."""
        start = int(record["start"]) + index  # one row more per episode
        tree: dict[str, Any] = {}
        for path, column in self.columns.items():
            *parents, leaf = path.split("/")
            branch = tree
            for name in parents:
                branch = branch.setdefault(name, {})
            branch[leaf] = np.array(column[start : start + int(record["length"]) + 1])
        return tree


def from_minari(
    id: str, name: str | None = None, *, split: str = "train", root: Path | None = None, minari_root: Path | None = None
) -> Path:
    """Reads a Minari dataset that is on this machine into the folder of a split, and returns it.

    One that `to_minari` wrote becomes again what it was, byte for byte.

    Args:
        id: The Minari id.
        name: The id it gets here; needed for datasets of another origin.
        split: The split it becomes, for datasets of another origin.
        root: Where datasets lie; `METABENCH_DATA` or the platform's cache by default.
        minari_root: Minari's folder; `MINARI_DATASETS_PATH` or ~/.minari/datasets by default.

    Raises:
        ValueError: One sentence: Minari has no such dataset, its content has no place here, or the folder is taken.
    """
    minari = _minari()
    with _minari_folder(_minari_root(minari_root)):
        try:
            source = minari.load_dataset(id)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"Minari cannot load {id!r} from {_minari_root(minari_root)}: {error}") from None
        own = source.storage.metadata.get(KEY)
        manifest = Manifest.from_bytes(own.encode()) if own else None
        if manifest is None and name is None:
            raise ValueError(f"{id} was not made here: give it an id, for example {NAMESPACE}my-task/human-v0")
        parsed = DatasetId.parse(manifest.id if manifest else str(name))
        target = split_folder(parsed, manifest.split if manifest else split, root or data_root())
        if target.exists():
            raise ValueError(f"{target} exists already; remove it or choose another id")
        part = target.with_name(f".{target.name}.importing-{os.getpid()}")
        part.mkdir(parents=True)
        try:
            if manifest:
                _restore(source, manifest, part)
            else:
                _import(source, parsed, split, part)
            sync_folder(part)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    sync_folder(target.parent)
    return target


def _restore(source: Any, m: Manifest, part: Path) -> None:
    """A set of ours, back from Minari."""
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
        for name in _EXTRA:
            row[name] = int(detail[name])
    states = [Path(source.storage.data_path) / f"{STATES_KEY}.npy"] if m.state_every else []
    files = _write(part, m.row_type, blocks, episodes, finals, m.observation_dtype)
    for path in states:
        column = np.load(path, allow_pickle=False)
        files.append(write_column(part / STATES, column.dtype, column.shape, [column]))
    if {file.name: file.sha256 for file in files} != {file.name: file.sha256 for file in m.files}:
        changed = [f.name for f in m.files if f.sha256 not in {file.sha256 for file in files}]
        raise ValueError(f"the Minari dataset was changed since it was exported: {', '.join(changed)} would differ")
    write_atomically(part / MANIFEST, m.to_bytes())


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


def _import(source: Any, id: DatasetId, split: str, part: Path) -> None:
    """A set of another origin."""
    from minari.dataset.minari_storage import MinariStorage

    raw = MinariStorage.read_raw_metadata(source.storage.data_path)
    observation, action = source.observation_space, source.action_space
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
        raise ValueError(f"the observations of {source.id} are {observation}; only flat boxes have a place here")
    if not isinstance(action, spaces.Box | spaces.Discrete):
        raise ValueError(f"the actions of {source.id} are {action}; only Box and Discrete have a place here")
    details = list(source.storage.get_episode_metadata(range(source.total_episodes)))
    read = list(source.iterate_episodes())
    kinds = [_kind(np.asarray(getattr(read[0], name)), name) for name in ("observations", "actions", "rewards")]
    shape = tuple(np.asarray(read[0].actions).shape[1:])
    rows = row_type(observation.shape[0], shape, *kinds)
    episodes, blocks, finals = np.zeros(len(read), dtype=EPISODE), [], []
    for index, (episode, detail) in enumerate(zip(read, details, strict=True)):
        block = np.zeros(len(episode), rows)
        block["observation"], block["action"] = episode.observations[:-1], episode.actions
        block["reward"], block["terminated"] = episode.rewards, episode.terminations
        block["truncated"] = episode.truncations
        blocks.append(block)
        finals.append(np.asarray(episode.observations[-1:], kinds[0]))
        task = (detail.get("options") or {}).get("task", 0)
        row = episodes[index : index + 1]
        row["length"] = len(episode)
        row["task"] = int(task) if np.issubdtype(type(task), np.integer) and task >= 0 else 0
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


def _foreign(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A Minari dataset's metadata as it is kept: the arguments by name, all else under `metadata`."""
    known = {name: raw[name] for name in _ARGUMENTS if name in raw}
    rest = {name: value for name, value in raw.items() if name not in _ARGUMENTS | _OWN_METADATA}
    return {**known, "metadata": rest}


def _write_infos(part: Path, episodes: Sequence[Any]) -> tuple[dict[str, str], list[FileRecord]]:
    """One file per info, a row per observation; ValueError where an info is not numbers of one shape in every step."""
    names, files = {}, []
    trees = [dict(_leaves(episode.infos or {})) for episode in episodes]
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


def _kind(column: Array, name: str) -> str:
    kind = column.dtype.newbyteorder("<").str
    if kind not in ("<f4", "<f8", "<i4", "<i8") or (name != "actions" and kind[1] != "f"):
        raise ValueError(
            f"{name} of dtype {column.dtype} have no place here: float32 and float64 do, int32 and int64 for actions"
        )
    return kind


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _minari() -> Any:
    try:
        import h5py  # noqa: F401  Minari imports without it and fails later
        import minari
    except ModuleNotFoundError as error:
        raise ImportError(f"the bridge needs {error.name}: pip install 'metabench[datasets]'") from error
    return minari


def _minari_root(root: Path | None) -> Path:
    if root is not None:
        return root
    return Path(os.environ.get(ROOT_VARIABLE) or Path.home() / ".minari" / "datasets")


@contextmanager
def _minari_folder(root: Path) -> Iterator[None]:
    """Minari takes its folder from the environment, and only from there."""
    before = os.environ.get(ROOT_VARIABLE)
    root.mkdir(parents=True, exist_ok=True)
    os.environ[ROOT_VARIABLE] = str(root)
    try:
        yield
    finally:
        if before is None:
            del os.environ[ROOT_VARIABLE]
        else:
            os.environ[ROOT_VARIABLE] = before


def _show(work: Path, final: Path, id: str) -> None:
    """Moves a whole dataset and the namespaces it lies in to where Minari looks."""
    *parents, _ = id.split("/")
    for depth in range(1, len(parents) + 1):
        namespace = final.joinpath(*parents[:depth])
        namespace.mkdir(parents=True, exist_ok=True)
        for metadata in work.joinpath(*parents[:depth]).glob("*.json"):
            if not (namespace / metadata.name).exists():
                shutil.copyfile(metadata, namespace / metadata.name)
    (work / id).rename(final / id)
    sync_folder((final / id).parent)


__all__ = ["from_minari", "minari_id", "read_manifest", "to_minari"]
