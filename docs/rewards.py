"""The rewards as formulas, from `rewards.toml`; the constants in them are the code's. No Sphinx here."""

from __future__ import annotations

import functools
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

from metabench.registry import Spec

FILE = Path(__file__).parent / "rewards.toml"


@functools.cache
def known() -> dict[str, Any]:
    """Entry point -> formula, what its letters mean, and whose constants it has."""
    return tomllib.loads(FILE.read_text())


def reward(chosen: Spec) -> str:
    """A benchmark's reward as Markdown with a formula; empty for families of other packages."""
    told = known().get(chosen.entry_point)
    if told is None:
        return ""
    module = importlib.import_module(told.get("module", chosen.entry_point.split(":")[0]))
    formula, where = (_filled(told[part], module) for part in ("formula", "where"))
    return f"$$\n{formula}\n$$\n\n{where}\n"


def _filled(text: str, module: Any) -> str:
    """`{NAME}` replaced by the module's constant of that name."""
    return re.sub(r"\{([A-Z][A-Z_]+)\}", lambda found: _written(getattr(module, found[1])), text)


def _written(value: float) -> str:
    """A number as it is written in a formula."""
    mantissa, _, power = f"{value:g}".partition("e")
    return f"{mantissa} \\cdot 10^{{{int(power)}}}" if power else mantissa
