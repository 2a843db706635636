"""The layering of the package, checked on its source: who may import whom follows from where a file lies."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [  # the core's files and rooms; each imports only what stands before it, and its own room
    *(
        "moved",
        "colors",
        "extras",
        "packages",
        "rng",
        "npz",
        "tasks",
        "family",
        "drift",
        "simulator",
        "physics",
        "drawing",
        "envs",
    ),
    *("registry", "families", "agent", "stacks", "evaluation", "runs", "plugins", "learning", "yardsticks"),
    *("datasets", "checks"),
    *("leaderboard", "loading", "settings", "sweep", "plotting", "tracking", "cli"),
]
HEAVY = {"torch", "mujoco", "metaworld", "highway_env", "numba"}
SHARED_ROOM = "parts"  # the one room of the agents that all others may import


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is at the top level of the file) for every import; `from a import b` counts as a and a.b."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node in top))
            found += [(f"{node.module}.{alias.name}", node in top) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, node in top) for alias in node.names]
    return found


def modules(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if p.name != "__init__.py"]


def room(path: Path, package: str) -> str:
    """The first folder below the package, or the file itself where it lies in none."""
    return path.relative_to(ROOT / package).parts[0].removesuffix(".py")


def is_module(dotted: str, folder: Path) -> bool:
    """Whether a dotted name is a module or a package below `folder`, and not a name inside one."""
    path = folder.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", modules("metabench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_layer_imports_only_lower_layers(path):
    own = room(path, "metabench")
    for module, _ in imports(path):
        if not module.startswith("metabench.") or not is_module(module, ROOT):
            continue
        target = module.split(".")[1]
        assert target == own or LAYERS.index(target) < LAYERS.index(own), f"{own} imports {target}"


@pytest.mark.parametrize("path", modules("metabench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_simulators_and_torch_stay_out(path):
    kernel = path.name == "kernel.py"  # loaded by name, where it is used
    near_simulator = kernel or room(path, "metabench") in ("physics", "families", "yardsticks")
    for module, top in imports(path):
        package = module.partition(".")[0]
        assert package not in ("torch", "metabench_agents", "studies", "scripts"), f"{path.name} imports {module}"
        if package in HEAVY:
            assert near_simulator, f"{path.name} imports {module}"
            assert not top or kernel or "physics" in path.parts, f"{path.name} imports {module} at its top"


def algorithms() -> set[str]:
    """The modules that are offered as agents."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["metabench.agents"]
    return {value.partition(":")[0] for value in points.values()}


@pytest.mark.parametrize("path", modules("agents/metabench_agents"), ids=lambda p: str(p.relative_to(ROOT / "agents")))
def test_no_room_of_agents_imports_another_and_no_algorithm_an_algorithm(path):
    own, known = room(path, "agents/metabench_agents"), algorithms()
    for module, _ in imports(path):
        assert module.partition(".")[0] not in ("studies", "scripts"), f"{path.name} imports {module}"
        if not module.startswith("metabench_agents.") or not is_module(module, ROOT / "agents"):
            continue
        target = module.split(".")[1]
        assert target in (own, SHARED_ROOM), f"{path.relative_to(ROOT)} imports the room {target}"
        assert module not in known, f"{path.relative_to(ROOT)} imports the algorithm {module}"


def agent_rooms() -> list[Path]:
    """The agents' rooms, and the rooms within them."""
    return sorted({path.parent for path in modules("agents/metabench_agents")} - {ROOT / "agents" / "metabench_agents"})


@pytest.mark.parametrize("folder", agent_rooms(), ids=lambda p: str(p.relative_to(ROOT / "agents")))
def test_a_room_can_be_taken_in_at_a_glance(folder):
    assert len(list(folder.glob("*.py"))) <= 15, "14 files and __init__"


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


@pytest.mark.parametrize("package", ["metabench", "agents", "studies", "scripts"])
def test_functions_fit_on_a_screen(package):
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in modules(package)
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > 60
    ]
    assert not long, long


def test_import_is_light():
    """No simulator, no torch; and little time beside what Gymnasium and pydantic take themselves."""
    code = (
        "import sys, time; start = time.process_time(); import gymnasium; from pydantic import BaseModel, TypeAdapter; "
        "theirs = time.process_time() - start; import metabench; both = time.process_time() - start; "
        "heavy = [m for m in ('torch', 'mujoco', 'numba', 'matplotlib', 'PIL', 'tyro', 'rich') if m in sys.modules]; "
        "assert not heavy, heavy; print(both / theirs)"
    )
    ratios = sorted(float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(7))
    assert ratios[3] < 2.0, f"import metabench takes {ratios[3]:.1f} times what Gymnasium and pydantic take"
