"""Modules by the names they once had: importing one gives the module it is now, with a warning that says where."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

_CORE = {
    "metabench.evaluate": "metabench.evaluation.evaluate",
    "metabench.results": "metabench.evaluation.results",
    "metabench.traces": "metabench.evaluation.traces",
    "metabench.stats": "metabench.evaluation.stats",
    "metabench.summary": "metabench.evaluation.summary",
    "metabench.switches": "metabench.evaluation.switches",
    "metabench.physics.kernel": "metabench.physics.mujoco.kernel",
    "metabench.physics.workers": "metabench.physics.mujoco.workers",
    "metabench.physics.screen": "metabench.physics.mujoco.screen",
    "metabench.physics.itching": "metabench.physics.scratch_itch",
    "metabench.physics.traffic": "metabench.physics.highway_merge",
    "metabench_agents.yardsticks": "metabench.yardsticks.simple",
    "metabench_agents.grid_switch": "metabench.yardsticks.grid_switch",
    "metabench_agents.highway_merge": "metabench.yardsticks.highway_merge",
    "metabench_agents.scratching": "metabench.yardsticks.scratch_itch",
    "metabench_agents.scripted": "metabench.yardsticks.metaworld",
}
_AGENTS = {
    "belief": {
        **{name: name for name in ("varibad", "dynamite", "dynamite_iql", "decoders")},
        **{"inference": "encoders", "belief_model": "model", "session_model": "sessions", "actor": "policy"},
    },
    "context": {
        **{name: name for name in ("pearl", "metadreamer", "posterior", "collect", "replay", "imagination")},
        **{"guessing": "acting", "latent_sac": "actor_critic", "task_model": "task_encoder", "world": "task_decoders"},
    },
    "sequence": {
        **{name: name for name in ("bc", "dt", "prompt_dt", "meta_dt", "transformer", "world_model")},
        **{"sequences": "episodes", "decision": "decision_transformer", "acting": "playing", "offline": "fitting"},
    },
    "oracle": {"behaviour": "behaviours"},
    "parts": {
        **{"nn": "layers", "features": "features", "disentanglement": "disentanglement"},
        **{"losses": "losses", "memory": "memory", "run": "run"},
    },
    "parts.attention": {"tick_transformer": "ticks"},
    "parts.fast": {
        "sac": "sac",
        "fast_gru": "gru",
        "fast_pairs": "pairs",
        "linear": "linear",
        "precision": "precision",
    },
}
MOVED: Mapping[str, str] = (
    _CORE
    | {"metabench_agents.oracle.sac": "metabench_agents.parts.fast.sac"}
    | {
        f"metabench_agents.{old}": f"metabench_agents.{room}.{new}"
        for room, names in _AGENTS.items()
        for old, new in names.items()
    }
)


def _warn(old: str) -> None:
    told = f"the module {old} is {MOVED[old]} now; its old name goes with version 1.0"
    warnings.warn(told, DeprecationWarning, stacklevel=2)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of `MOVED`; last in line, so that a module which exists is never hidden."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec whose loader is this object, for the old names only."""
        return importlib.util.spec_from_loader(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """The module under its new name, not a copy of it."""
        _warn(spec.name)
        module = importlib.import_module(MOVED[spec.name])
        self._own = (module, module.__spec__)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """It has been executed under its new name; the import system's own notes in it are put back."""
        module.__spec__ = self._own[1]


class _Callable(types.ModuleType):
    """`metabench.evaluate`, which was a module and is a function: importing from it must not hide the function."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _warn(self.__name__)
        return getattr(importlib.import_module(MOVED[self.__name__]), name)


def install() -> None:
    """Makes the old names importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    sys.modules.setdefault("metabench.evaluate", _Callable("metabench.evaluate"))
