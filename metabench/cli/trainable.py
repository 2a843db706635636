"""Which agents can be trained, told by their source: nothing is imported, so it takes no time and needs no torch."""

from __future__ import annotations

import ast
import importlib.util
from importlib import metadata
from pathlib import Path

from metabench.plugins import AGENT_GROUP

_WANTED = {"Config", "train"}  # what an algorithm has and a yardstick has not
_DEPTH = 4  # how many imports of imports are followed


def trainable_agents() -> tuple[str, ...]:
    """The names of the installed agents that can be trained, third parties' included.

    An entry point is a module, or a class or object in one. What its source does not tell (there is none, or the object
    is made by a call of something else) is taken to be trainable: `metabench train NAME` will say.
    """
    return tuple(sorted({p.name for p in metadata.entry_points(group=AGENT_GROUP) if _trains(p.value)}))


def _trains(value: str) -> bool:
    module, _, attribute = value.partition(":")
    names = _names(module, attribute.strip(), _DEPTH)
    return names is None or names >= _WANTED


def _names(module: str, attribute: str, depth: int) -> set[str] | None:
    """What a module, or a class or object in it, offers; None if its source does not say."""
    path = source(module)
    if path is None or depth == 0:
        return None
    tree = ast.parse(path.read_bytes())
    if not attribute:
        return {name for node in tree.body for name in _bound(node)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return {name for inner in node.body for name in _bound(inner)}
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == attribute:
                    return _names(_absolute(node, module, path), alias.name, depth - 1)
        if isinstance(node, ast.Assign | ast.AnnAssign) and (value := _assigned(node).get(attribute)) is not None:
            made = value.func if isinstance(value, ast.Call) else value
            return _names(module, made.id, depth - 1) if isinstance(made, ast.Name) else None
    return None


def _assigned(node: ast.Assign | ast.AnnAssign) -> dict[str, ast.expr | None]:
    """Names and the expressions that an assignment gives them; None where it unpacks something."""
    found: dict[str, ast.expr | None] = {}
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Name):
            found[target.id] = node.value
        elif isinstance(target, ast.Tuple):
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [None] * len(target.elts)
            found |= {t.id: v for t, v in zip(target.elts, values, strict=False) if isinstance(t, ast.Name)}
    return found


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return set(_assigned(node))
    if isinstance(node, ast.If | ast.Try):
        return {name for inner in [*node.body, *node.orelse] for name in _bound(inner)}
    return set()


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join((*base, *((node.module,) if node.module else ())))


def source(module: str) -> Path | None:
    """The file of a module, found without importing any package; None if it has no source."""
    top, *rest = module.split(".")
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if found is None:
        return None
    if not rest and found.origin and found.origin.endswith(".py"):
        return Path(found.origin)
    for folder in found.submodule_search_locations or ():
        base = Path(folder).joinpath(*rest)
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if rest and path.is_file():
                return path
    return None
