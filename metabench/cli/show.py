"""`metabench show`: everything about one benchmark."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from rich.table import Table

from metabench.cli.arguments import Benchmark
from metabench.cli.console import out, plain, say, table
from metabench.cli.console import show as print_table
from metabench.registry import NAMESPACE, Spec, spec
from metabench.tasks import latent_ranges, param_ranges


def command(benchmark: Benchmark, json: bool = False) -> None:
    """Show one benchmark: spec, hidden parameters with units, splits and digests, observations, yardsticks, sources.

    Example: metabench show GridSwitch-v0

    Args:
        benchmark: An id; `metabench list` names them all.
        json: Print the spec as JSON instead.
    """
    chosen = spec(benchmark)
    if json:
        out.print_json(chosen.to_json())
        return
    family = chosen.family()
    say(f"[bold]{plain(chosen.id)}[/]  {plain(chosen.summary)}\n")
    about = (type(family).__doc__ or "").split("\n", 1)[-1].strip().replace("\n    ", "\n")
    say(plain(about, lines=True))
    print_table(_facts(chosen, family))
    print_table(_context(family.context_type))
    print_table(_observation(family))
    print_table(_splits(chosen))
    say("[bold]sources[/]\n" + "\n".join(f"  {plain(source)}" for source in chosen.sources))


def _facts(chosen: Spec, family: Any) -> Table:
    sessions = json_text.dumps(chosen.sessions) if chosen.sessions else "none: the task stays for the whole trial"
    facts = {
        "make": f'gym.make("{NAMESPACE}{chosen.id}", split="train")',
        "horizon": f"{chosen.horizon} steps" + (f" of {family.dt:g} s" if family.dt != 1.0 else ""),
        "trial": f"{chosen.episodes} episode{'s' * (chosen.episodes > 1)} of one task",
        "protocol": f"every task of a split {chosen.repeats} times, fixed slots",
        "sessions": sessions,
        **{f"sessions, {split}": json_text.dumps(told) for split, told in chosen.split_sessions.items()},
        "actions": describe_actions(family),
        "backends": ", ".join((f"{family.backends[0]} (default)", *family.backends[1:])),
    }
    shown = table("", "~", gap=1)
    shown.show_header = False
    for name, value in facts.items():
        shown.add_row(plain(name), plain(value))
    return shown


def describe_actions(family: Any) -> str:
    """What a family's actions do, in a line."""
    space = family.action_space
    if isinstance(space, spaces.Discrete):
        return ", ".join(f"{i} {name}" for i, name in enumerate(family.action_meanings))
    ranges = zip(family.action_meanings, space.low, space.high, strict=True)
    return "; ".join(f"{name} in [{low:g}, {high:g}]" for name, low, high in ranges)


def _context(context_type: type) -> Table:
    shown = table("name", "range", "training", "unit", "meaning~", title="\nhidden context", gap=1)
    for name, r in param_ranges(context_type).items():
        kind = " (whole)" if r.integer else ""
        cells = (f"{r.low:g} .. {r.high:g}{kind}", f"{r.train[0]:g} .. {r.train[1]:g}")
        shown.add_row(plain(name), *cells, plain(r.unit), plain(r.doc))
    for name, r in latent_ranges(context_type).items():
        shown.add_row(plain(name), f"{r.low:g} .. {r.high:g} (whole)", "by sessions", plain(r.unit), plain(r.doc))
    return shown


def _observation(family: Any) -> Table:
    shown = table("column", "name", "low", "high", "unit", "meaning~", title="\nobservation", gap=1)
    for index, f in enumerate(family.observation_fields):
        shown.add_row(str(index), plain(f.name), f"{f.low:g}", f"{f.high:g}", plain(f.unit), plain(f.doc))
    return shown


def _splits(chosen: Spec) -> Table:
    frozen = chosen.table()
    names = sorted({name for split in frozen.splits for name in chosen.references(split)})
    title = "\nsplits, and the yardsticks' mean return per episode"
    shown = table("split", "tasks", "sha256", *map(plain, names), title=title, gap=1)
    for split in frozen.splits:
        levels: Mapping[str, Any] = chosen.references(split)
        means = [f"{levels[n]['mean']:.2f}" if n in levels else "" for n in names]
        shown.add_row(plain(split), str(frozen.size(split)), frozen.digest(split)[:12], *means)
    shown.add_row("fresh", "endless", "", *("" for _ in names))
    return shown
