"""The one way to print. What others wrote (names, paths, titles) goes through `plain`, so that it prints as text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleDimensions
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

UNCUT = 100_000  # columns of whatever is no terminal: a file or a pipe gets whole lines


class _Console(Console):
    """A console that cuts and folds for the width of a terminal only, and leaves a closed pipe to its caller."""

    @property
    def size(self) -> ConsoleDimensions:  # pyright: ignore[reportIncompatibleMethodOverride]
        size = super().size
        return size if self.is_terminal else ConsoleDimensions(UNCUT, size.height)

    def on_broken_pipe(self) -> None:
        raise


# No highlighting and no emoji: ":x:" in a title is text as well.
out = _Console(highlight=False, emoji=False)
err = _Console(stderr=True, highlight=False, emoji=False)


def plain(value: object, lines: bool = False) -> str:
    r"""Text of somebody else for use between our markup: no markup of its own, and no control characters.

    Control and format characters (escape sequences, line ends, marks that turn the direction of writing) show as what
    Python writes for them, `\x1b` for instance.

    Args:
        value: Anything; its `str` is printed.
        lines: Whether it may have several lines.
    """
    text = str(value)
    shown = "".join(c if _printable(c) or (lines and c == "\n") else repr(c)[1:-1] for c in text)
    return escape(shown)


def _printable(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def say(markup: str = "") -> None:
    """One or more lines on standard output; never folded, so that paths and commands can be copied."""
    out.print(markup, soft_wrap=True)


def complain(sentence: object) -> None:
    """One line on standard error: what was wrong."""
    err.print(plain(" ".join(str(sentence).split("\n"))), style="red", soft_wrap=True)


def table(*columns: str, title: str = "", gap: int = 2) -> Table:
    """A table without borders. A name ends with `>` for a column on the right, with `~` for one that may be folded.

    The other columns are never folded; without names there is no head. Print it by `show`.
    """
    made = Table(
        box=None,
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        pad_edge=False,
        padding=(0, gap, 0, 0),
        show_header=bool(columns),
    )
    for column in columns:
        name = column.rstrip(">~")
        made.add_column(
            name,
            justify="right" if ">" in column else "left",
            no_wrap="~" not in column,
            overflow="fold",
        )
    return made


def show(made: Table) -> None:
    """A table on standard output; where a terminal is narrower than its columns, the lines are longer than it."""
    needed = Measurement.get(out, out.options.update_width(UNCUT), made).minimum
    if needed > out.width:
        made.width = needed
    out.print(made, crop=False)


@contextmanager
def bar(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error that goes when it is done; yields `update(done, total)`."""
    columns: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TextColumn(unit))
    if unit == "bytes":
        columns = (DownloadColumn(),)
    with bars(*columns) as shown:
        task = shown.add_task(plain(what), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def bars(*columns: ProgressColumn) -> Progress:
    """Progress bars on standard error, with further columns."""
    head = (TextColumn("[bold]{task.description}"), BarColumn())
    return Progress(*head, *columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal)


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
