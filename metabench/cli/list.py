"""`metabench list`: every benchmark, and the names of the agents."""

from __future__ import annotations

from metabench.cli.console import out, plain, say, show, table
from metabench.plugins import agent_names
from metabench.registry import Spec, specs

WIDE = 120  # columns from which a terminal has room for everything


def command() -> None:
    """List every benchmark: what it is, its episodes, its splits, its yardsticks.

    In a pipe every id has a line of its own; a narrow terminal leaves out some columns.

    Example: metabench list
    """
    grouped = out.is_terminal  # a person wants the fifty alike as one line, `grep` wants them all
    wide = out.width >= WIDE
    sizes = ("steps>", "episodes>", "tasks (train/test/ood)>") if wide else ()
    shown = table("id", "what it is~", *sizes, "random>", "oracle>")
    groups: dict[str, list[Spec]] = {}
    for chosen in specs():
        if grouped and chosen.group:  # one line for all of them, where the first stands
            members = groups.setdefault(chosen.group, [])
            members.append(chosen)
            if len(members) > 1:
                continue
        cells = _sizes(chosen) if wide else []
        if grouped and chosen.group:
            shown.add_row(f"[bold]{plain(chosen.group)}-...[/]", "see below", *cells, "", "")
        else:
            shown.add_row(f"[bold]{plain(chosen.id)}[/]", plain(chosen.summary), *cells, *_levels(chosen))
    show(shown)
    for group, members in groups.items():
        say(f"\n[bold]{plain(group)}-...[/] are {len(members)} ids like {plain(members[0].id)}, one for each of")
        out.print(", ".join(plain(s.id.removeprefix(f"{group}-")) for s in members))
    if not wide:
        out.print(f"\nA window of {WIDE} columns shows steps, episodes and tasks as well; `metabench show ID` all.")
    out.print(f"\nagents: {', '.join(map(plain, agent_names()))}")
    say("`metabench show ID` tells all about one of them.")


def _sizes(chosen: Spec) -> list[str]:
    frozen = chosen.table()
    tasks = "/".join(str(frozen.size(split)) for split in ("train", "test", "ood"))
    return [str(chosen.horizon), str(chosen.episodes), tasks]


def _levels(chosen: Spec) -> list[str]:
    levels = chosen.references("test")
    return [f"{levels[name]['mean']:.1f}" if name in levels else "" for name in ("random", "oracle")]
