"""Ranges of settings: one rule for the `Config` of every agent, checked before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

SHARES = frozenset({"discount", "trace", "dropout", "expectile"})  # settings of these names lie between 0 and 1
RATE = "rate"  # a setting whose name ends so is more than zero: nothing is learned with a learning rate of zero


def check_settings(config: Any) -> None:
    """Refuses settings that mean nothing, in groups of settings (dataclasses in dataclasses) too.

    A field says its own range by `field(default=..., metadata={"low": 0, "high": 1})`, either of them alone as well.
    Otherwise the default and the name tell it:

    - a whole number with a positive default is a count or a size: at least 1; with a default of 0, at least 0;
    - a number with a default of at least 0 is at least 0; above 0 if the name ends with `rate`; at most 1 if it is
      one of `SHARES`;
    - every number is finite, unless the default is not.

    Elements of tuples follow the rule of their tuple's first default.

    Raises:
        ValueError: One sentence that names the setting as the command line does, and its range.
    """
    for name, default, value, metadata in _leaves(config):
        low, high, above = _range(name, default, metadata)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            odd = not math.isfinite(number) and not (isinstance(default, float) and not math.isfinite(default))
            if odd or number < low or number > high or (above and number == low):
                raise ValueError(f"--{name.replace('_', '-')} must be {_words(low, high, above, number)}, got {number}")


def _leaves(config: Any, group: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """(dotted name, default, value, metadata) of every setting that is no group of settings."""
    try:
        standard = type(config)()
    except TypeError:  # a setting without a default: only what its field says is known
        standard = config
    for field in fields(config):
        value, default = getattr(config, field.name), getattr(standard, field.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{group}{field.name}.")
            continue
        if isinstance(default, tuple):
            default = default[0] if default else None
        yield f"{group}{field.name}", default, value, field.metadata


def _range(name: str, default: Any, metadata: Any) -> tuple[float, float, bool]:
    """Lowest and highest value, and whether the lowest itself is out."""
    if "low" in metadata or "high" in metadata:
        return metadata.get("low", -math.inf), metadata.get("high", math.inf), False
    if isinstance(default, bool) or not isinstance(default, int | float) or not default >= 0:
        return -math.inf, math.inf, False
    if isinstance(default, int):
        return (1 if default > 0 else 0), math.inf, False
    last = name.rpartition(".")[2]
    return 0, 1 if last in SHARES else math.inf, last.endswith(RATE) and default > 0


def _words(low: float, high: float, above: bool, number: float) -> str:
    if math.isfinite(high):
        return f"from {low:g} to {high:g}" if math.isfinite(low) else f"at most {high:g}"
    if not math.isfinite(low):
        return "a finite number"
    finite = "" if isinstance(number, int) else " and finite"
    return f"{'more than' if above else 'at least'} {low:g}{finite}"
