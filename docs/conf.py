"""Sphinx settings. The pages under docs/families and docs/api are generated: see generate.py."""

from importlib import metadata

project = "metabench"
author = "The metabench developers"
project_copyright = "2026, the metabench developers"
release = metadata.version("metabench")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
default_role = "code"  # single backquotes in docstrings are code

html_theme = "furo"
html_title = f"metabench {release}"
html_theme_options = {"light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"}}
html_show_sphinx = False
