"""Templates to pages: everything is escaped where it is printed, whoever wrote it; the one exception is `card`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def card(text: str) -> Markup:
    """A submission's Markdown as HTML: no markup of its own, no pictures, headings below the page's."""
    tokens = _MARKDOWN.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))  # the renderer has escaped the text


def environment(
    folder: Path, filters: Mapping[str, Callable[..., Any]] | None = None, known: Mapping[str, Any] | None = None
) -> Environment:
    """The templates of a folder, with autoescape; a name that is not given is an error.

    Args:
        folder: Where the templates lie.
        filters: By name; what they return is escaped like everything else.
        known: What every template can read.
    """
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= filters or {}
    made.globals |= known or {}
    return made
