"""What the optional dependencies are needed for, and the command that installs what is missing."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib import metadata
from typing import Any

# The modules without which no benchmark of an extra can be stepped. What an extra installs besides is asked for where
# it is used: `imageio` by pictures, `highway_env` by the backend "reference".
NEEDS = {"mujoco": ("mujoco", "numba"), "highway": ("numba",), "metaworld": ("metaworld", "mujoco", "numba")}
REFERENCE_NEEDS = {"highway": ("highway_env",)}
_PACKAGES = {
    "PIL": "pillow",
    "highway_env": "highway-env",
    "sklearn": "scikit-learn",
}  # by their own names
_PLUGINS = ("metabench.families", "metabench.agents")  # entry points of packages that may miss something


def installed(module: str) -> bool:
    """Whether a module can be imported; nothing is."""
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def command(extra: str, distribution: str = "metabench") -> str:
    """How an extra is installed, from an index and in a checkout."""
    wanted = f"[{extra}]" if extra else ""
    return f"pip install '{distribution}{wanted}' (in a checkout of it: pip install -e '.{wanted}')"


def missing(what: str, module: str | None, extra: str, needing: str = "metabench") -> ImportError:
    """The error that names what is missing and how to get it.

    Args:
        what: Who needs it, for example an id.
        module: What could not be imported.
        extra: The extra that brings it; "" if none does.
        needing: The module that needs it: the command is that of the package it belongs to.
    """
    package = _PACKAGES.get(str(module), str(module))
    own = "metabench" if extra in NEEDS else _distribution(needing)  # a plug-in may name an extra of ours
    hint = command(extra, own) if extra or own != "metabench" else f"pip install {package}"
    return ImportError(f"{what} needs the package {package}, which is not installed: {hint}", name=module)


def require(id: str, extra: str, entry_point: str, reference: bool = False) -> None:
    """ImportError in one sentence if a benchmark cannot be stepped for want of a package."""
    if entry_point.partition(".")[0] != "metabench":  # what the extras of other packages bring, they know
        return
    for module in (*NEEDS.get(extra, ()), *(REFERENCE_NEEDS.get(extra, ()) if reference else ())):
        if not installed(module):
            raise missing(id, module, extra)


def load(module: str, what: str, extra: str = "") -> Any:
    """Imports a module; ImportError that names the package and the command where another one is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            raise
        raise missing(what, error.name, extra, module) from error


def _distribution(module: str) -> str:
    """The package that offers a plug-in's module."""
    top = module.partition(".")[0]
    if top in ("metabench", "metabench_agents"):
        return "metabench"
    for group in _PLUGINS:
        for point in metadata.entry_points(group=group):
            if point.value.partition(":")[0].partition(".")[0] == top and point.dist is not None:
                return point.dist.name
    return top
