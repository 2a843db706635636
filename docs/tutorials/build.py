"""Executes the tutorials' notebooks, each in an interpreter and a folder of its own, and writes them as pages.

    python docs/tutorials/build.py               # all; `make docs` does it. A cell that fails stops with its error.

No Jupyter is needed for that: cells run in order in one namespace; what they print and what their last line is worth
stands below them, a picture where that is one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LIMIT = 3000  # characters of what a cell prints
RUNNER = """
import ast, contextlib, io, json, sys
from pathlib import Path
cells, pictures = json.load(sys.stdin), Path(sys.argv[1])
names, told = {"__name__": "__main__"}, []
for number, cell in enumerate(cells):
    shown = []
    out, tree = io.StringIO(), ast.parse(cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(out):
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        if hasattr(value, "_repr_png_"):
            target = pictures / f"{sys.argv[2]}-{number}.png"
            target.write_bytes(value._repr_png_())
            shown.append(target.name)
        elif value is not None:
            print(repr(value))
    told.append({"text": out.getvalue(), "pictures": shown})
json.dump(told, sys.__stdout__)
"""


def execute(path: Path, pictures: Path) -> str:
    """A notebook as Markdown, with what its cells gave."""
    cells = json.loads(path.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    code = [source for cell, source in zip(cells, sources, strict=True) if cell["cell_type"] == "code"]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "METABENCH_DATA": f"{folder}/data",
            "METABENCH_LEADERBOARDS": str(ROOT / "leaderboards"),
        }
        ran = subprocess.run(
            [sys.executable, "-c", RUNNER, str(pictures), path.stem],
            input=json.dumps(code),
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
        )
    if ran.returncode:
        raise SystemExit(f"{path.name} fails:\n{ran.stderr[-3000:]}")
    told = iter(json.loads(ran.stdout))
    parts = []
    for cell, source in zip(cells, sources, strict=True):
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        outcome = next(told)
        parts.append(f"```python\n{source}\n```")
        if outcome["text"]:
            parts.append(f"```text\n{outcome['text'][:LIMIT].rstrip()}\n```")
        parts += [f"```{{image}} {name}\n:alt: what the cell above draws\n```" for name in outcome["pictures"]]
    download = f"[This page as a notebook](https://jupyter.org/): `docs/tutorials/{path.name}`"
    return "\n\n".join([*parts, f"*{download}, executed when these pages were built.*"]) + "\n"


def main() -> None:
    """Executes all."""
    names = []
    for old in HERE.glob("*.png"):
        old.unlink()
    for path in sorted(HERE.glob("*.ipynb")):
        (HERE / f"{path.stem}.md").write_text(execute(path, HERE))
        names.append(path.stem)
        print(f"{path.name}: executed", flush=True)
    order = sorted(names, key=lambda name: ["first_task", "compare", "own_agent"].index(name))
    tree = "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(order) + "\n```\n"
    lead = "Three notebooks, executed whenever these pages are built.\n"
    (HERE / "index.md").write_text(f"# Tutorials\n\n{lead}\n{tree}")


if __name__ == "__main__":
    main()
