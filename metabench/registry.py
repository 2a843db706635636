"""The benchmarks by id: what each is made of, and how an environment is made from it."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs import registration
from gymnasium.vector import AutoresetMode

from metabench import packages
from metabench.drift import Drift, parse_sessions
from metabench.envs import MetaEnv, MetaVectorEnv
from metabench.extras import load, missing, require
from metabench.family import Family
from metabench.rng import whole_number
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
        return parse_sessions(self.sessions_of(split) if sessions is None else sessions, self.table(), split)

    def references(self, split: str) -> Mapping[str, Any]:
        """Measured returns of the yardsticks on `split`, with how they were measured; empty if there are none."""
        return _references(self.folder).get(self.id, {}).get(split, {})


@functools.lru_cache(maxsize=256)
def _family(entry_point: str, kwargs: str, id: str, extra: str) -> Family[Any, Any]:
    module, name = entry_point.split(":")
    try:
        return getattr(importlib.import_module(module), name)(**json.loads(kwargs))
    except ModuleNotFoundError as error:
        package = _package_of(module)
        who = id if package == packages.OWN else f"{id} of the package {package}"
        raise missing(who, error.name, extra, module) from error


@functools.lru_cache(maxsize=256)
def _table(id: str, digests: tuple[tuple[str, str], ...], folder: Path, family: Family[Any, Any]) -> TaskTable:
    rows = family.rows()
    if rows is None:
        table = TaskTable.load(id, family.context_type, folder / "tables" / f"{id}.json")
    else:
        table = TaskTable(id, family.context_type, rows)
    if type(family).reject is not Family.reject:
        table = replace(table, reject=family.reject)
    found = {split: table.digest(split) for split in table.splits}
    if found != dict(digests):
        changed = sorted(split for split in {*found, *dict(digests)} if found.get(split) != dict(digests).get(split))
        raise ValueError(
            f"the task table of {id} differs from the one its spec names, in the splits {', '.join(changed)}; "
            f"the table that is there has the digests {json.dumps(found)}"
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


def load_families() -> None:
    """Imports the families of other packages, so that their ids are known; a broken one is named in a warning."""
    for _ in packages.working(FAMILY_GROUP, own=False):
        pass


def _package_of(module: str) -> str:
    """The package that offers a family's module; ours if none does."""
    offered = {point.module: packages.package_of(point) for point in packages.points(FAMILY_GROUP).values()}
    return offered.get(module, packages.OWN)


def spec(id: str) -> Spec:
    """The benchmark with this id, with or without the namespace; ValueError that suggests near ids."""
    name = id.removeprefix("metabench:").removeprefix(NAMESPACE)
    if name not in _SPECS and name in _DECLARED:
        load(_DECLARED[name], name)
    if name not in _SPECS:
        load_families()  # a third party's, installed or mended since we were imported
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
    load_families()
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
    number = whole_number(episodes)
    if number is None or number < 1:
        raise ValueError(f"episodes_per_task must be a whole number of at least 1, got {episodes_per_task!r}")
    horizon, longest = whole_number(max_episode_steps), family.longest or chosen.horizon
    if max_episode_steps is not None and (horizon is None or not 1 <= horizon <= longest):
        raise ValueError(f"max_episode_steps of {chosen.id} must be 1 to {longest}, got {max_episode_steps!r}")
    if backend is not None and backend not in family.backends:
        raise ValueError(f"{chosen.id} has no backend {backend!r}; {suggest(str(backend), family.backends)}")
    return Trials(family, table, chosen.drift(split, sessions), split, number, horizon, backend)


def _asked_of_gymnasium(caller: Any) -> Any:
    """The `max_episode_steps` of the `gymnasium.make` that calls us, whose frame this is; None if it does not.

    Gymnasium keeps that argument to itself: it puts its TimeLimit around whatever we make, which cannot lengthen an
    episode, and then reports a length that nobody plays.
    """
    if caller.f_code is not registration.make.__code__:
        return None
    asked = caller.f_locals.get("max_episode_steps")
    return getattr(caller.f_locals.get("env_spec"), "max_episode_steps", None) if asked is None else asked


def make(
    benchmark: str,
    *,
    split: str = "train",
    episodes_per_task: int | None = None,
    sessions: Mapping[str, Any] | None = None,
    expose_task: bool = False,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
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
        max_episode_steps: Shortens the episodes; more than the benchmark's are refused, unless the family allows it.
        backend: One of the family's `backends`; the first by default. "reference" steps the third party's own code.

    Raises:
        ValueError: One sentence for an unknown id, split, or an argument out of range.
    """
    if max_episode_steps is None:
        max_episode_steps = _asked_of_gymnasium(sys._getframe(1))
    trials = _trials(benchmark, split, episodes_per_task, sessions, max_episode_steps, backend)
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
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
) -> MetaVectorEnv:
    """B slots of a benchmark, stepped as arrays; the same as `gym.make_vec("metabench/<id>", num_envs, ...)`.

    Arguments and errors are those of `make`; `autoreset_mode` is "SameStep" or "NextStep", as Gymnasium has them.
    """
    trials = _trials(benchmark, split, episodes_per_task, sessions, max_episode_steps, backend)
    return MetaVectorEnv(
        trials, num_envs, expose_task=expose_task, render_mode=render_mode, autoreset_mode=autoreset_mode
    )
