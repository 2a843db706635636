"""From words to a command: tables of commands, groups of them, and the one dispatcher for both."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from metabench.cli.console import plain, say
from metabench.tasks import suggest


class Command(NamedTuple):
    """A command: a module whose function `command` does it; the function's parameters are the arguments.

    Where the arguments follow from the first one, the module has `choose` as well: it is given all words and returns
    the name of the command, the function, and the words that are left; or None if it has answered itself.
    """

    module: str  # imported when the command is called, not before
    example: str  # the words after the group's name
    does: str


class Group(NamedTuple):
    """Commands under one name, with the page that lists them."""

    about: str
    commands: Mapping[str, Command | Group]
    more: str = ""
    example: str = ""  # the words after the name of the group it is in
    does: str = ""


def overview(group: Group, name: str) -> str:
    """The page of a group: every command with an example."""
    rows = [(f"{name} {c.example or key}", c.does) for key, c in group.commands.items()]
    width = max(len(example) for example, _ in rows) + 2
    lines = [f"  {example:{width}}{does}" for example, does in rows]
    end = f"`{name} COMMAND --help` explains a command."
    return "\n".join((group.about, "", *lines, "", *((group.more,) if group.more else ()), end))


def dispatch(group: Group, given: Sequence[str], name: str) -> None:
    """Calls the command that `given` names; without one, prints what there is."""
    if not given or given[0] in ("-h", "--help"):
        say(plain(overview(group, name), lines=True))
        return
    word, rest = given[0], list(given[1:])
    if word not in group.commands:
        inside = name.partition(" ")[2]
        raise ValueError(f"unknown command {f'{inside} {word}'.strip()!r}; {suggest(word, list(group.commands))}")
    chosen = group.commands[word]
    if isinstance(chosen, Group):
        dispatch(chosen, rest, f"{name} {word}")
        return
    module: Any = importlib.import_module(chosen.module)
    if not hasattr(module, "choose"):
        parse(module.command, f"{name} {word}", rest)
    elif (found := module.choose(rest)) is not None:
        further, function, rest = found
        parse(function, f"{name} {word} {further}".strip(), rest)


def parse(function: Callable[..., Any], name: str, arguments: Sequence[str]) -> None:
    """Calls `function` with its parameters read from `arguments`; its docstring is the help."""
    import tyro

    about = (inspect.getdoc(function) or "").partition("\nArgs:")[0].strip()
    tyro.cli(function, prog=name, description=about, args=list(arguments))
