"""Sphinx settings. Much is generated before: see generate.py."""

import html
import os
import re
from importlib import metadata
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "metabench"
author = "The metabench developers"
project_copyright = "2026, the metabench developers"
release = metadata.version("metabench")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "_parts"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "code"  # single backquotes in docstrings are code

# Two classes may have one name (the Agent of an evaluation, and that of an algorithm): Sphinx takes the first and says so.
suppress_warnings = ["ref.python"]
html_theme = "furo"
html_title = f"metabench {release}"
html_theme_options = {"light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"}}
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_math_renderer = "mathml"  # drawn by the browser: no page loads anything from elsewhere

# Pages that have moved: their old addresses lead on.
MOVED = {"agents": "agents/index", "metadreamer": "agents/metadreamer", "offline": "agents/meta-dt"}
_FORWARD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Moved</title><meta http-equiv="refresh" content="0; url={0}.html">
<link rel="canonical" href="{0}.html"></head><body><p>This page is now <a href="{0}.html">{0}</a>.</p></body></html>
"""


def link_notes(_app, docname, source):
    """In the sources the studies' notes are linked where they lie; on the site they are pages of their own."""
    up = "../" * docname.count("/")
    where = rf"\]\({re.escape(up)}\.\./studies/(\w+)/NOTES\.md(#[\w-]+)?\)"
    source[0] = re.sub(where, rf"]({up}notes/\1.md\2)", source[0])


def link_repository(_app, docname, source):
    """The landing page leads to the repository that the site is built of: by METABENCH_REPOSITORY, or by GitHub's own."""
    if docname == "index":
        given = os.environ
        hosted = f"{given['GITHUB_SERVER_URL']}/{given['GITHUB_REPOSITORY']}" if "GITHUB_REPOSITORY" in given else ""
        address = given.get("METABENCH_REPOSITORY", hosted)
        source[0] = source[0].replace(REPOSITORY, f"[Source code, issues, releases]({address})" if address else "")


REPOSITORY = "<!-- repository -->"


def set_lists_apart(_app, what, _name, _object, _options, lines):
    """Module docstrings are written for people: a list may follow its sentence, and a sentence the list, at once."""
    if what != "module":
        return
    told, inside = [], False
    for line in lines:
        item = bool(re.match(r"(- |\d\. |\([a-z]\) )", line))
        if told and told[-1].strip() and ((item and not inside) or (inside and line and not item and line[0] != " ")):
            told.append("")
        inside = item or (inside and (not line.strip() or line[0] == " "))
        told.append(line)
    lines[:] = told


def forward(app, error):
    """Writes what stands at the old addresses."""
    if error is None and app.builder.name == "html":
        for old, new in MOVED.items():
            (Path(app.outdir) / f"{old}.html").write_text(_FORWARD.format(new))


def open_to_all(app, error):
    """What scrolls can be reached by keyboard; headings and landmarks say which they are: the theme leaves these out."""
    if error is not None or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        if "boards" in path.relative_to(app.outdir).parts:
            continue
        text = path.read_text()
        told = text.replace('role="heading">', 'role="heading" aria-level="2">').replace("<pre>", '<pre tabindex="0">')
        told = re.sub(r'<div class="table-wrapper([^"]*)">', r'<div class="table-wrapper\1" tabindex="0">', told)
        for bare, named in _NAMED.items():
            told = told.replace(bare, named)
        told = re.sub(r'<p>(<img alt="([^"]*)"[^>]*/(?:idea|speed)-[^>]*>)</p>', _DRAWN, told)
        told = re.sub(r'<div class="stack .*?</table>', label_cells, told, flags=re.DOTALL)
        if told != text:
            path.write_text(told)


_NAMED = {
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="pages">',
    '<aside class="toc-drawer': '<aside aria-label="this page" class="toc-drawer',
    '<th class="head"><p></p></th>': '<td class="head"></td>',  # no heading: it is the corner of a table
    '<div class="content-icon-container">': '<div class="content-icon-container" role="region" aria-label="tools">',
}


def label_cells(match):
    """A table whose cells say which column they are of: on a phone its rows are cards."""
    text = match[0]
    heads = [re.sub(r"<[^>]+>", "", head).strip() for head in re.findall(r"<th\b.*?</th>", text, re.DOTALL)]

    def label(row):
        cells = iter(heads)
        return re.sub(r"<td\b", lambda cell: f'{cell[0]} data-label="{next(cells)}"', row[0])

    return re.sub(r"<tr\b.*?</tr>", label, text, flags=re.DOTALL)


_DRAWN = r'<p class="drawn" tabindex="0" role="region" aria-label="figure: \2">\1</p>'


def inline_math(writer, node):
    """A formula in a sentence, as MathML."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def display_math(writer, node):
    """A formula on a line of its own; a wide one scrolls."""
    told = html.escape(node.astext(), quote=True)
    writer.body.append(f'<div class="math-block" role="region" aria-label="{told}" tabindex="0">')
    writer.body.append(tex2mathml(node.astext(), as_block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    """Sphinx's hook."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("source-read", link_notes)
    app.connect("source-read", link_repository)
    app.connect("autodoc-process-docstring", set_lists_apart)
    app.connect("build-finished", forward)
    app.connect("build-finished", open_to_all)
