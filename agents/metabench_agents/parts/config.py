"""Settings as nested frozen dataclasses: read from JSON, nested as they are written now or flat as they once were.

What settings have to know of families stands here too, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast, get_origin, get_type_hints

import metabench

T = TypeVar("T")

REWARD_FAMILIES = (  # classes of families whose tasks differ in the reward alone
    "AntDir",
    "AntGoal",
    "CheetahDir",
    "CheetahVel",
    "HumanoidDir",
    "PointRobot",
    "ReacherGoal",
    "SparsePointRobot",
)
DYNAMICS_FAMILIES = ("HopperParam", "WalkerParam")  # in the dynamics alone

SWITCHES = {  # settings that were once a group's own, and what they said of `device.Computing`
    "bf16": ("precision", "bf16"),
    "bfloat16": ("precision", "bf16"),
    "compile": ("form", "compiled"),
    "compiled": ("form", "compiled"),
}


@dataclass(frozen=True)
class _Leaf:
    path: tuple[str, ...]
    hint: Any


def _leaves(kind: type[Any], path: tuple[str, ...] = ()) -> list[_Leaf]:
    """All settings that are not groups of settings, depth first."""
    hints, found = get_type_hints(kind), []
    for field in fields(kind):
        hint, here = hints[field.name], (*path, field.name)
        found += _leaves(cast("type[Any]", hint), here) if is_dataclass(hint) else [_Leaf(here, hint)]
    return found


def read_config(kind: type[T], values: Mapping[str, Any], renamed: Mapping[str, str] | None = None) -> T:
    """The settings behind what JSON says, whatever of them is left out having its default.

    Args:
        kind: A frozen dataclass whose fields are values, or frozen dataclasses of values.
        values: As `dataclasses.asdict` makes them; or flat, as they were before settings were grouped: a flat name
            means the one setting of that name in any group. `SWITCHES` are read as what they meant.
        renamed: Names, flat or dotted, that are called otherwise now or stand in several groups: "model_updates" to
            "model.updates", for instance; to "" if a setting no longer exists and its value does not matter.

    Raises:
        ValueError: One sentence, for a name that is no setting, or means several.
    """
    renamed, leaves = renamed or {}, _leaves(kind)
    nested: dict[str, Any] = {}

    def put(leaf: _Leaf, value: Any) -> None:
        target = nested
        for part in leaf.path[:-1]:
            target = target.setdefault(part, {})
        target[leaf.path[-1]] = tuple(value) if get_origin(leaf.hint) is tuple and isinstance(value, list) else value

    def take(name: str, value: Any, group: tuple[str, ...]) -> None:
        inside = [leaf for leaf in leaves if leaf.path[: len(group) + 1] == (*group, name)]
        if isinstance(value, Mapping) and any(len(leaf.path) > len(group) + 1 for leaf in inside):
            for inner, part in value.items():
                take(inner, part, (*group, name))
            return
        if name in SWITCHES and not any(leaf.path[-1] == name for leaf in leaves):
            setting, meant = SWITCHES[name]
            if value:
                put(next(leaf for leaf in leaves if leaf.path == (setting,)), meant)
            return
        path = renamed.get(".".join((*group, name)))
        if path == "":
            return
        exact = [leaf for leaf in leaves if leaf.path == (tuple(path.split(".")) if path else (*group, name))]
        found = exact or ([] if group or path else [leaf for leaf in leaves if leaf.path[-1] == name])
        if len(found) != 1:
            what = "is no setting" if not found else "may mean " + " or ".join(".".join(leaf.path) for leaf in found)
            raise ValueError(f"{'.'.join((*group, name))!r} {what} of {kind.__module__.rpartition('.')[2]}")
        put(found[0], value)

    for name, value in values.items():
        take(name, value, ())
    return _with(kind(), nested)


def _with(config: T, nested: Mapping[str, Any]) -> T:
    """A copy with the settings of some groups changed; what a group leaves out stays as it is in this one."""
    new = {n: _with(getattr(config, n), v) if is_dataclass(getattr(config, n)) else v for n, v in nested.items()}
    return cast("T", replace(cast("Any", config), **new))


def with_settings(config: T, changes: Mapping[str, Any]) -> T:
    """The settings with some of them changed, by their dotted names: {"iterations": 40, "sac.discount": 0.9}.

    Raises:
        ValueError: One sentence, for a name that is no setting.
    """
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        known = {field.name for field in fields(cast("Any", config))}
        if head not in known or (rest and not is_dataclass(getattr(config, head))):
            raise ValueError(f"{name!r} is no setting; available: {', '.join(sorted(known))}")
        inner = with_settings(getattr(config, head), {rest: value}) if rest else value
        config = replace(cast("Any", config), **{head: inner})
    return config


def for_benchmark(config: T, known: Mapping[str, Mapping[str, Any]], benchmark: str) -> T:
    """The settings with those changed that are known of a benchmark, by its id in full; as they are where none are."""
    return with_settings(config, known.get(metabench.spec(benchmark).id, {}))
