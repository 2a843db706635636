"""The layering of the package, checked on its source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    "rng",
    "npz",
    "tasks",
    "family",
    "drift",
    "simulator",
    "physics",
    "drawing",
    "envs",
    "registry",
    "families",
    "agent",
    "plugins",
    "results",
    "traces",
    "stats",
    "evaluate",
    "summary",
    "datasets",
    "switches",
    "leaderboard",
    "report",
    "checks",
    "commands",
    "quickstart",
    "dataset_transfers",
    "dataset_commands",
    "cli",
]
SHARED = {"inference", "decoders", "transformer", "sac", "parts"}
SHARED |= {"features", "task_model", "dreams", "dreamer", "guessing", "sample_efficiency", "latent_pictures"}
SHARED |= {"replay", "posterior", "latent_sac", "collect", "world", "imagination", "disentanglement"}
SHARED |= {
    "actor",
    "belief_model",
    "session_model",
    "tick_transformer",
}  # of the belief agents
SHARED |= {"sequences", "offline", "world_model", "decision", "acting"}  # of the sequence models
COLLECTIONS = {"yardsticks", "behaviour"}  # offer several agents by name
HEAVY = {"torch", "mujoco", "metaworld", "highway_env", "numba"}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is at the top level of the file) for every import."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node in top))
        elif isinstance(node, ast.Import):
            found += [(alias.name, node in top) for alias in node.names]
    return found


def modules(folder: str) -> list[Path]:
    return [p for p in sorted((ROOT / folder).rglob("*.py")) if p.name != "__init__.py"]


@pytest.mark.parametrize("path", modules("metabench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_layer_imports_only_lower_layers(path):
    layer = path.relative_to(ROOT / "metabench").parts[0].removesuffix(".py")
    for module, _ in imports(path):
        if not module.startswith("metabench."):
            continue
        target = module.split(".")[1]
        inside = layer == target and layer in ("physics", "datasets", "leaderboard")
        assert inside or LAYERS.index(target) < LAYERS.index(layer), f"{layer} imports {target}"


@pytest.mark.parametrize("path", modules("metabench"), ids=lambda p: str(p.relative_to(ROOT)))
def test_simulators_and_torch_stay_out(path):
    kernel = path.name == "kernel.py"  # loaded by name, where it is used
    near_simulator = kernel or path.relative_to(ROOT / "metabench").parts[0] in ("physics", "families")
    for module, top in imports(path):
        package = module.partition(".")[0]
        assert package not in ("torch", "metabench_agents"), f"{path.name} imports {module}"
        if package in HEAVY:
            assert near_simulator, f"{path.name} imports {module}"
            assert not top or kernel or "physics" in path.parts, f"{path.name} imports {module} at its top"


@pytest.mark.parametrize("path", modules("agents/metabench_agents"), ids=lambda p: p.name)
def test_agents_use_public_names_and_shared_parts(path):
    own = path.stem
    for module, _ in imports(path):
        if module.startswith("metabench_agents."):
            target = module.split(".")[1]
            allowed = target in SHARED or own in COLLECTIONS
            assert allowed, f"{own} imports the algorithm {target}"


def test_import_is_light():
    code = (
        "import sys, time; start = time.process_time(); import metabench; "
        "heavy = [m for m in ('torch', 'mujoco', 'numba', 'matplotlib', 'PIL', 'tyro', 'rich') if m in sys.modules]; "
        "assert not heavy, heavy; print(time.process_time() - start)"
    )
    best = min(float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(4))
    assert best < 0.5, f"import metabench took {best:.2f} s"
