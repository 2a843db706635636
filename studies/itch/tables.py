"""The tables of who finds the itch, of what `results/` keeps."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from studies.itch.probe import PATH, PHASES, UNAWARE
from studies.tables import file_source, sources

LABELS = {
    "oracle": "`oracle`: sees the itch",
    "itch-filter": "`itch-filter`: infers it from its rewards, told how often itches move",
    UNAWARE: "the filter that expects no switch",
    "forgetful": "forgetful: the filter, but by the last reward alone",
    "fixed-aim": "fixed aim: the best of 15 places on the training tasks",
}


def _spread(column: dict[str, Any], scale: float, unit: str) -> str:
    mean, low, high = (f"{scale * value:.0f}" for value in (column["mean"], min(column["seeds"]), max(column["seeds"])))
    return f"{mean}{unit}" + (f" ({low} to {high})" if low != high else "")


def probe(benchmark: str) -> str:
    """Mean and range over seeds."""
    record = json.loads(PATH.read_text())
    phases = [f"{low + 1} to {high}" for low, high in PHASES]
    lines = [f"| `{benchmark}` | success | return | {' | '.join(f'steps {phase}' for phase in phases)} |"]
    lines.append("| --- " * (3 + len(phases)) + "|")
    for name, table in record[benchmark].items():
        cells = [_spread(table["success"], 100, " %"), _spread(table["return"], 1, "")]
        cells += [f"{table[f'reward of steps {phase}']['mean']:.2f}" for phase in phases]
        lines.append(f"| {LABELS[name]} | {' | '.join(cells)} |")
    keyed = {name: " ".join(keys) for name, keys in record.get("keys", {}).get(benchmark, {}).items()}
    return "\n".join(lines) + "\n" + sources(keyed or {"all": file_source(PATH)})


TABLES = {
    "itch": partial(probe, "ScratchItch-v0"),
    "itch-switch": partial(probe, "ScratchItchSwitch-v0"),
}
