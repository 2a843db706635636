"""An agent's settings out of JSON: any nested dataclass, by its fields and their types. Imports no agent."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from metabench.tasks import suggest


def settings_of(algorithm: Any, changes: Mapping[str, Any]) -> Any:
    """`configure` for an agent that is trained: its `RENAMED`, if it has one, says what settings were once called."""
    return configure(algorithm.Config, changes, getattr(algorithm, "RENAMED", {}))


def configure(kind: Any, changes: Mapping[str, Any], renamed: Mapping[str, str] | None = None) -> Any:
    """The settings of an agent that differ from the defaults in `changes`.

    Args:
        kind: The agent's `Config`: a dataclass of values, and of dataclasses of values ("groups").
        changes: JSON by name. A setting in a group is named `group.setting`, or lies in a mapping of its own; its last
            name alone is enough where no other setting ends so. Lists become tuples, whole numbers floats where the
            type says so.
        renamed: Names that settings had once, and what they are called now; "" for what does not exist any more and
            does not matter.

    Raises:
        ValueError: One sentence: no such setting, with near names; or a value that is none of its type.
    """
    standard = kind()
    paths = {".".join(path): hint for path, hint in _leaves(standard)}
    config = standard
    for name, value in _flat(changes, paths):
        if path := _find(name, paths, kind, renamed or {}):
            config = _put(config, path.split("."), convert(path, value, paths[path]))
    return config


def changes_of(algorithm: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The same changes with every name in full and every value of its type, as JSON: one spelling for each setting."""
    config, found = settings_of(algorithm, changes), {}
    paths = {".".join(path): hint for path, hint in _leaves(config)}
    for name, _ in _flat(changes, paths):
        if not (path := _find(name, paths, algorithm.Config, getattr(algorithm, "RENAMED", {}))):
            continue
        value = config
        for part in path.split("."):
            value = getattr(value, part)
        found[path] = list(value) if isinstance(value, tuple) else value
    return found


def _leaves(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Names and types of all settings that are no groups, depth first."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, here = getattr(config, field.name), (*path, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, here)
        else:
            yield here, hints[field.name]


def _flat(changes: Mapping[str, Any], paths: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values, those of groups as `group.name`."""
    for name, value in changes.items():
        full = f"{group}{name}"
        if isinstance(value, Mapping) and full not in paths:
            yield from _flat(value, paths, f"{full}.")
        else:
            yield full, value


def _find(name: str, paths: Mapping[str, Any], kind: Any, renamed: Mapping[str, str]) -> str:
    """The full name of a setting; empty for one that no longer matters."""
    if name in paths:
        return name
    if renamed.get(name) == "" or renamed.get(name) in paths:
        return renamed[name]
    ends = [path for path in paths if "." not in name and path.rpartition(".")[2] == name]
    if len(ends) == 1:
        return ends[0]
    agent = kind.__module__.rpartition(".")[2].replace("_", "-")
    if ends:
        raise ValueError(f"{agent} has several settings {name!r}: {', '.join(ends)}")
    short = {path.rpartition(".")[2]: path for path in reversed(list(paths))}
    near = difflib.get_close_matches(name, [*paths, *short], n=1)
    meant = short.get(near[0], near[0]) if near else name  # "clap" is near to ppo.clip, too
    raise ValueError(f"{agent} has no setting {name!r}; {suggest(meant, list(paths))}")


def _put(config: Any, path: list[str], value: Any) -> Any:
    head, *rest = path
    return dataclasses.replace(config, **{head: _put(getattr(config, head), rest, value) if rest else value})


def convert(name: str, value: Any, hint: Any) -> Any:
    """A value of JSON as one of the type; ValueError in one sentence if it is none."""
    found = _converted(value, hint)
    if found is _NOTHING:
        raise ValueError(f"the setting {name} is {_named(hint)}, got {value!r}")
    return found


_NOTHING = object()


def _converted(value: Any, hint: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = (_converted(value, one) for one in inner)
        return next((found for found in options if found is not _NOTHING), _NOTHING)
    if origin is Literal:
        return value if value in inner else _NOTHING
    if origin in (tuple, list) or hint in (tuple, list):
        return _sequence(value, inner)
    if hint is float:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _NOTHING
    if hint is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(value) if whole and not isinstance(value, bool) else _NOTHING
    if hint in (bool, str, type(None)):
        kind = type(None) if hint is None else hint
        return value if isinstance(value, kind) else _NOTHING
    return value  # a type of the agent's own: it has to know


def _sequence(value: Any, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _NOTHING
    if not inner or inner == ((),):
        return tuple(value)
    every = [inner[0]] * len(value) if inner[-1] is Ellipsis or len(inner) == 1 else list(inner)
    if len(every) != len(value):
        return _NOTHING
    found = [_converted(one, hint) for one, hint in zip(value, every, strict=True)]
    return _NOTHING if any(one is _NOTHING for one in found) else tuple(found)


def _named(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    words = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_named(one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list ({str(hint).replace('typing.', '')})"
    return words.get(hint, f"a {getattr(hint, '__name__', hint)}")
