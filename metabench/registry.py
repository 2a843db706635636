"""The benchmarks by id: what each is made of, and how an environment is made from it."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium as gym

from metabench.drift import Drift, parse_sessions
from metabench.envs import MetaEnv, MetaVectorEnv
from metabench.extras import load, missing, require
from metabench.family import Family
from metabench.simulator import Trials
from metabench.tasks import TaskTable, suggest

NAMESPACE = "metabench/"
FAMILY_GROUP = "metabench.families"  # entry points: importing the module registers its specs


@dataclass(frozen=True)
class Spec:
    """Everything that defines one benchmark. Any change of dynamics, reward, tables or horizon is a new `-vN`."""

    id: str
    entry_point: str  # "module:FamilyClass"
    summary: str  # one sentence
    sources: tuple[str, ...]  # papers and files it follows
    horizon: int  # steps of an episode
    digests: Mapping[str, str]  # split -> sha256 of its frozen table
    episodes: int = 1  # episodes of a trial
    repeats: int = 1  # evaluation: trials per task
    kwargs: Mapping[str, Any] = field(default_factory=dict)  # of the family's constructor, JSON only
    sessions: Mapping[str, Any] | None = None  # see `drift.parse_sessions`
    split_sessions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # splits with sessions of their own
    shared_tasks: bool = False  # there are so few tasks that the evaluation splits have the training tasks
    group: str = ""  # ids of one group stand together where all are listed
    extra: str = ""  # the optional dependency it needs: pip install "metabench[extra]"
    oracle: str = ""  # "module:name" of the yardstick that sees the task; if empty, a package may offer a trained one

    def to_json(self) -> str:
        """The spec as JSON."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The inverse of `to_json`."""
        record = json.loads(text)
        return cls(**{**record, "sources": tuple(record["sources"])})

    def family(self) -> Family[Any, Any]:
        """The family behind this benchmark; ImportError naming the extra to install if a package is missing."""
        return _family(self.entry_point, json.dumps(self.kwargs), self.id, self.extra)

    @property
    def folder(self) -> Path:
        """Where the family's data lies: `tables/<id>.json` and `references.json`."""
        module = importlib.import_module(self.entry_point.split(":")[0])
        return Path(str(module.__file__)).parent

    def table(self) -> TaskTable:
        """The frozen task tables; ValueError if they are not the ones this spec was written for."""
        return _table(self.id, tuple(sorted(self.digests.items())), self.folder, self.family())

    def sessions_of(self, split: str) -> Mapping[str, Any] | None:
        """The sessions of a split."""
        return self.split_sessions.get(split, self.sessions)

    def drift(self, split: str, sessions: Mapping[str, Any] | None = None) -> Drift:
        """What happens inside an episode of `split`; `sessions` replaces the spec's own."""
        return parse_sessions(sessions or self.sessions_of(split), self.table(), split)

    def references(self, split: str) -> Mapping[str, Any]:
        """Measured returns of the yardsticks on `split`, with how they were measured; empty if there are none."""
        return _references(self.folder).get(self.id, {}).get(split, {})


@functools.lru_cache(maxsize=256)
def _family(entry_point: str, kwargs: str, id: str, extra: str) -> Family[Any, Any]:
    module, name = entry_point.split(":")
    try:
        return getattr(importlib.import_module(module), name)(**json.loads(kwargs))
    except ModuleNotFoundError as error:
        raise missing(id, error.name, extra, module) from error


@functools.lru_cache(maxsize=256)
def _table(id: str, digests: tuple[tuple[str, str], ...], folder: Path, family: Family[Any, Any]) -> TaskTable:
    rows = family.rows()
    if rows is None:
        table = TaskTable.load(id, family.context_type, folder / "tables" / f"{id}.json")
    else:
        table = TaskTable(id, family.context_type, rows)
    if type(family).allowed is not Family.allowed:
        table = replace(table, allowed=family.allowed)
    found = {split: table.digest(split) for split in table.splits}
    if found != dict(digests):
        changed = sorted(split for split in {*found, *dict(digests)} if found.get(split) != dict(digests).get(split))
        raise ValueError(
            f"the task table of {id} differs from the one its spec names, in the splits {', '.join(changed)}"
        )
    return table


@functools.lru_cache(maxsize=64)
def _references(folder: Path) -> dict[str, Any]:
    parts = [json.loads(path.read_text())["benchmarks"] for path in sorted(folder.glob("references*.json"))]
    return {id: levels for part in parts for id, levels in part.items()}


_SPECS: dict[str, Spec] = {}
_DECLARED: dict[str, str] = {}  # id -> the module whose import registers it


_GROUPED: dict[str, str] = {}  # id -> how the ids of its group are spelt, for example "Many-<Task>-v0"


def declare(id: str, module: str, horizon: int, spelt: str = "") -> None:
    """Makes an id known to us and to Gymnasium without importing its module; `spelt` stands for it in long lists."""
    _DECLARED[id] = module
    _GROUPED[id] = spelt or id
    _register_with_gymnasium(id, horizon)


def register(spec: Spec) -> Spec:
    """Adds a benchmark; ValueError if the id is taken by another one."""
    if _SPECS.get(spec.id, spec) != spec:
        raise ValueError(
            f"{spec.id} is already registered by {_SPECS[spec.id].entry_point}; choose another id or version"
        )
    _SPECS[spec.id] = spec
    _register_with_gymnasium(spec.id, spec.horizon)
    return spec


def _register_with_gymnasium(id: str, horizon: int) -> None:
    name = NAMESPACE + id
    if name not in gym.registry:
        gym.register(
            name,
            entry_point="metabench.registry:make",
            vector_entry_point="metabench.registry:make_vec",
            max_episode_steps=horizon,
            kwargs={"benchmark": id},  # not `id`: that is an argument of gym.make itself
        )


def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=FAMILY_GROUP)}


def spec(id: str) -> Spec:
    """The benchmark with this id, with or without the namespace; ValueError that suggests near ids."""
    name = id.removeprefix("metabench:").removeprefix(NAMESPACE)
    if name not in _SPECS and name in _DECLARED:
        load(_DECLARED[name], name)
    if name not in _SPECS:
        for point in _entry_points().values():  # a third party's; asked only for ids nobody here knows
            if point.value not in _DECLARED.values():
                point.load()
    if name not in _SPECS:
        known = sorted({*_SPECS, *_DECLARED})
        shown = sorted({_GROUPED.get(one, one) for one in known})
        raise ValueError(f"unknown id {id!r}; {suggest(name, known, shown)}")
    return _SPECS[name]


def ids() -> tuple[str, ...]:
    """The ids known without importing a family: ours, and those registered so far."""
    return tuple(sorted({*_SPECS, *_DECLARED}))


def specs() -> tuple[Spec, ...]:
    """Every benchmark, by id, third parties' included."""
    for module in set(_DECLARED.values()):
        importlib.import_module(module)
    for point in _entry_points().values():
        point.load()
    return tuple(_SPECS[id] for id in sorted(_SPECS))


def _trials(
    benchmark: str,
    split: str,
    episodes_per_task: int | None,
    sessions: Mapping[str, Any] | None,
    max_episode_steps: int | None,
    backend: str | None,
) -> Trials:
    chosen = spec(benchmark)
    require(chosen.id, chosen.extra, chosen.entry_point, backend == "reference")
    family, table = chosen.family(), chosen.table()
    table.check_split(split)
    episodes = chosen.episodes if episodes_per_task is None else episodes_per_task
    if not isinstance(episodes, int) or episodes < 1:
        raise ValueError(f"episodes_per_task must be a whole number of at least 1, got {episodes_per_task!r}")
    if max_episode_steps is not None and not 1 <= max_episode_steps <= chosen.horizon:
        raise ValueError(f"max_episode_steps of {chosen.id} must be 1 to {chosen.horizon}, got {max_episode_steps}")
    if backend is not None and backend not in family.backends:
        raise ValueError(f"{chosen.id} has no backend {backend!r}; {suggest(str(backend), family.backends)}")
    return Trials(family, table, chosen.drift(split, sessions), split, episodes, max_episode_steps, backend)


def make(
    benchmark: str,
    *,
    split: str = "train",
    episodes_per_task: int | None = None,
    sessions: Mapping[str, Any] | None = None,
    expose_task: bool = False,
    render_mode: str | None = None,
    backend: str | None = None,
) -> MetaEnv:
    """One slot of a benchmark; the same as `gym.make("metabench/<id>", ...)` without its wrappers.

    Args:
        benchmark: An id, for example "GridSwitch-v0".
        split: A frozen split ("train", "test", "ood", ...) or "fresh".
        episodes_per_task: Length of a trial; the benchmark's own by default.
        sessions: Makes the task change inside the episode, for example {"kind": "geometric", "p": 0.05}.
        expose_task: Appends the hidden context to the observation, for oracles.
        render_mode: "rgb_array" or "ansi"; "human", a window, for the MuJoCo families.
        backend: One of the family's `backends`; the first by default. "reference" steps the third party's own code.

    Raises:
        ValueError: One sentence for an unknown id, split, or an argument out of range.
    """
    trials = _trials(benchmark, split, episodes_per_task, sessions, None, backend)
    return MetaEnv(trials, expose_task=expose_task, render_mode=render_mode)


def make_vec(
    benchmark: str,
    num_envs: int = 1,
    *,
    split: str = "train",
    episodes_per_task: int | None = None,
    sessions: Mapping[str, Any] | None = None,
    expose_task: bool = False,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    backend: str | None = None,
) -> MetaVectorEnv:
    """B slots of a benchmark, stepped as arrays; the same as `gym.make_vec("metabench/<id>", num_envs, ...)`.

    Arguments and errors are those of `make`; `max_episode_steps` shortens the episodes.
    """
    trials = _trials(benchmark, split, episodes_per_task, sessions, max_episode_steps, backend)
    return MetaVectorEnv(trials, num_envs, expose_task=expose_task, render_mode=render_mode)
