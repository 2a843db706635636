"""What installed packages offer as entry points. A broken offer is named, and disables nothing else."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from metabench import extras

OWN = "metabench"  # our own package, whose names nobody else can take
_KINDS = {
    "metabench.agents": "agent",
    "metabench.families": "family",
    "metabench.oracles": "oracle",
    "metabench.behaviours": "behaviour policies",
}  # what a group holds, in words


class BrokenPluginWarning(UserWarning):
    """A package offers something that cannot be loaded; everything else works."""


def points(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of a group by name; nothing is imported. Where two packages offer a name, ours has it."""
    return dict(_points(group, tuple((place, _changed(place)) for place in sys.path)))


def _changed(place: str) -> int:
    """When a place of packages was last changed: one that is installed meanwhile is found."""
    try:
        return Path(place).stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=64)
def _points(group: str, places: tuple[tuple[str, int], ...]) -> dict[str, metadata.EntryPoint]:
    """As `points`, for what lies in these places: the metadata of all packages are read for it."""
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=group):
        if point.name not in found or package_of(point) == OWN:
            found[point.name] = point
    return found


def package_of(point: metadata.EntryPoint) -> str:
    """The name of the package that offers it; its module's where that is not known."""
    return point.dist.name if point.dist is not None else point.module.partition(".")[0]


def load(point: metadata.EntryPoint) -> Any:
    """What an entry point names.

    Raises:
        ImportError: In one sentence that names the plug-in and its package: another package is missing, with the
            command that installs it; it names nothing; or its own code fails.
    """
    package = package_of(point)
    who = f"the {_KINDS.get(point.group, 'plug-in')} {point.name}"
    who += "" if package == OWN else f" of the package {package}"
    try:
        return point.load()
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if point.module == missing or point.module.startswith(missing + "."):
            raise ImportError(f"{who} names {point.value}, but there is no module {missing}") from error
        if missing.partition(".")[0] in (OWN, "metabench_agents"):
            raise ImportError(f"{who} imports {missing}, which metabench does not have") from error
        if package == OWN:
            raise extras.missing(who, missing, "agents") from error
        wanted = missing.partition(".")[0]
        raise ImportError(f"{who} needs the package {missing}, which is not installed: pip install {wanted}") from error
    except AttributeError as error:
        if point.attr and point.module in sys.modules and not _has(sys.modules[point.module], point.attr):
            raise ImportError(f"{who} names {point.value}, but {point.module} has no {point.attr}") from error
        raise ImportError(_fails(who, error)) from error
    except (Exception, SystemExit) as error:  # it is a stranger's code, and may raise anything
        raise ImportError(_fails(who, error)) from error


def _has(module: Any, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def _fails(who: str, error: BaseException) -> str:
    first = (str(error).splitlines() or [""])[0][:200]
    return f"{who} cannot be imported: {type(error).__name__}: {first}"


def working(
    group: str, own: bool = True, reasons: list[str] | None = None
) -> Iterator[tuple[metadata.EntryPoint, Any]]:
    """Everything in a group that can be loaded, with what it is; what other packages broke is named in a warning.

    Args:
        group: Of entry points.
        own: Whether those of metabench itself are among them.
        reasons: Where to put why something could not be loaded.
    """
    for point in points(group).values():
        if (not own and package_of(point) == OWN) or being_imported(point.module):
            continue
        try:
            loaded = load(point)
        except ImportError as error:
            if reasons is not None:
                reasons.append(str(error))
            if package_of(point) != OWN:  # ours lack an extra, which is no fault
                warnings.warn(f"{error}; everything else works", BrokenPluginWarning, stacklevel=2)
            continue
        yield point, loaded


def being_imported(module: str) -> bool:
    """Whether a module, or a package it lies in, is at this moment half imported: it imports us, not we it."""
    parts = module.split(".")
    names = (".".join(parts[: count + 1]) for count in range(len(parts)))
    return any(getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False) for name in names)
