"""A split as a Minari dataset: the writing half of `metabench.datasets.minari`."""

# pyright: reportMissingImports=false

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from metabench.datasets.format import MANIFEST, STATES, Manifest
from metabench.datasets.trials import TrialDataset
from metabench.registry import NAMESPACE, spec

KEY = "metabench_manifest"  # of Minari's dataset metadata: the manifest, whole
STATES_KEY = "metabench_states"  # a file beside Minari's own
CHUNK = 500  # episodes handed over at a time
EXTRA = ("policy", "place", "policy_step")  # columns of episodes.npy that go into Minari's episode metadata


def export(minari: Any, data: TrialDataset, id: str, foreign: Mapping[str, Any]) -> None:
    """Writes a split under `id` to where Minari looks; `foreign` is its metadata if it came from Minari once."""
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
        record = [{name: int(row[name]) for name in EXTRA} for row in data.episodes]
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
