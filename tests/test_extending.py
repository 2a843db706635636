"""docs/extending.md, tried literally: its package is installed, trained, evaluated, submitted and verified by name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
NAMED = re.compile(r"`(kite-world/[^`]+|boards/[^`]+)`[^\n]*\n\n```\w+\n(.*?)```", re.DOTALL)


def write_files(folder):
    """The page's files, as it names them."""
    files = NAMED.findall(PAGE)
    assert len(files) == 5
    for name, content in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "kite-world" / "kite_world" / "__init__.py").touch()


def commands():
    """The page's commands, one line each."""
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    return block.strip().splitlines()


def install_by_hand(package, target):
    """What pip would leave behind, without pip: the modules, and a dist-info with the entry points."""
    import shutil
    import tomllib

    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    shutil.copytree(package / "kite_world", target / "kite_world")
    info = target / "kite_world-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def world(tmp_path):
    """A folder with the page's files and, below `site`, its package installed by hand."""
    write_files(tmp_path)
    (tmp_path / "site").mkdir()
    install_by_hand(tmp_path / "kite-world", tmp_path / "site")
    return tmp_path


def run(world, code, warns=False, **changes):
    """Runs Python in an interpreter that has the package; a broken plug-in is warned of where one is meant to be."""
    path = os.pathsep.join([str(world / "site"), str(ROOT), str(ROOT / "agents")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True, timeout=300)
    assert ("BrokenPluginWarning" in ran.stderr) == warns, ran.stderr
    return ran


MAIN = """
import re, sys, glob, metabench
from metabench.cli.main import main
def metabench_(*words):
    words = [found for word in words for found in (sorted(glob.glob(word)) if "*" in word else [word])]
    try:
        main(words)
    except SystemExit as stop:
        assert not stop.code, (words, stop.code)
"""


def in_one_process(lines):
    """The page's commands as calls of `main`: the loop of the shell written out, pip left out."""
    import shlex

    calls = []
    for line in lines[1:]:
        loop = re.match(r"for s in ([\d ]+); do (.*); done", line)
        each = [loop[2].replace("$s", s) for s in loop[1].split()] if loop else [line]
        calls += [f"metabench_(*{shlex.split(command)[1:]!r})" for command in each]
    return MAIN + "\n".join(calls)


def check_what_was_made(world, text):
    """The runs learned something, the entry is accepted, and what was said before it was played is true."""
    (entry,) = (world / "boards" / "kite" / "kite-flyer").iterdir()
    record = json.loads((entry / "submission.json").read_text())
    assert record["training"]["env_steps"] == 30 * 2 * 8 * 3 * 30 and not (entry / "policies").exists()
    assert json.loads((entry / "verification.json").read_text())["tier"] == "replayed"
    assert "cannot be published" in text and text.index("cannot be published") < text.index("written: boards")
    folder = world / "runs" / "Kite-v0-kite-flyer-s0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "flyer.json", "metrics.jsonl", "result-ood.json", "result.json", "saved.json",
    ]  # fmt: skip
    returns = [row["return"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]
    assert len(returns) == 30 and returns[-1] > returns[0] and returns[-1] > -6
    assert text.count("verdict") == 2


def test_the_package_of_the_page_trains_and_enters_a_leaderboard(world):
    ran = run(world, in_one_process(commands()), COLUMNS="200")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    check_what_was_made(world, ran.stdout)


def test_the_family_of_the_page_is_known_to_gymnasium_and_passes_the_checks(world):
    code = (
        "import gymnasium as gym, metabench\n"
        "assert gym.make('metabench/Kite-v0').reset(seed=0)[0].shape == (1,)\n"
        "metabench.check_family('Kite-v0')\n"
        "from metabench.plugins import load_oracle\n"
        "oracle = metabench.evaluate(load_oracle('Kite-v0', 'test', 0), 'Kite-v0')\n"
        "assert oracle.track == 'oracle' and oracle.array().mean() > -1e-5\n"
        "import sys; assert 'torch' not in sys.modules\n"
    )
    ran = run(world, code)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("first", ["import kite_world.kite", "import metabench", "import kite_world.flyer"])
def test_whoever_is_imported_first_the_id_is_known_and_nothing_warns(world, first):
    ran = run(world, f"{first}\nimport gymnasium as gym\ngym.make('metabench/Kite-v0')\nimport metabench")
    assert ran.returncode == 0, ran.stderr


def break_with(world, points, **files):
    """Installs another package with these entry points and modules."""
    for name, content in files.items():
        (world / "site" / f"{name}.py").write_text(content)
    info = world / "site" / "broken_world-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-world\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(points)


WELL = (
    "import gymnasium as gym, metabench\n"
    "gym.make('metabench/Kite-v0'), gym.make('metabench/PointRobot-v0')\n"
    "from metabench.plugins import load_plugin, load_oracle, agent_names\n"
    "load_plugin('kite-flyer'), load_plugin('random'), load_oracle('Kite-v0', 'test', 0)\n"
    "load_oracle('PointRobot-v0', 'test', 0)\n"
    "assert 'Kite-v0' in {spec.id for spec in metabench.specs()}\n"
    "try: metabench.spec('Kit-v0')\n"
    "except ValueError as error: assert 'did you mean' in str(error), error\n"
    "else: raise AssertionError\n"
)
BROKEN = {
    "raises": ("torn", "1 / 0\n", r"the family torn of the package broken-world cannot be imported: ZeroDivisionError"),
    "exits": ("torn", "import sys; sys.exit(3)\n", r"broken-world cannot be imported: SystemExit: 3"),
    "no syntax": ("torn", "def\n", r"broken-world cannot be imported: SyntaxError"),
    "no module": ("nowhere.at_all", "", r"names nowhere\.at_all, but there is no module nowhere"),
    "nothing": ("torn:Missing", "", r"names torn:Missing, but torn has no Missing"),
    "missing package": ("torn", "import nobody_has\n", r"needs the package nobody_has, .*: pip install nobody_has"),
    "old name": ("torn", "import metabench.gone\n", r"imports metabench\.gone, which metabench does not have"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_one_broken_family_is_named_and_disables_nothing_else(world, kind):
    value, module, words = BROKEN[kind]
    break_with(world, f"[metabench.families]\ntorn = {value}\n", torn=module)
    ran = run(world, WELL, warns=True)
    assert ran.returncode == 0, ran.stderr
    assert re.search(words, ran.stderr), ran.stderr
    assert "metabench[agents]" not in ran.stderr


def test_broken_agents_oracles_and_behaviours_disable_nothing_else(world):
    points = (
        "[metabench.agents]\ntorn = torn\nrandom = torn\nhollow = hollow\n"
        "[metabench.oracles]\ntorn = torn\n[metabench.behaviours]\ntorn = torn:Nobody\n"
    )
    break_with(world, points, torn="import a_package_nobody_has\n", hollow="")
    code = WELL + (
        "for name in ('torn', 'hollow'):\n"
        "    try: load_plugin(name)\n"
        "    except (ImportError, ValueError) as error: print(error)\n"
        "from metabench.plugins import behaviours\n"
        "print(len(behaviours('PointRobot-v0', 'train', 'random')))\n"
        "print(load_plugin('random').__class__.__module__)\n"
        "from metabench.cli.main import main\n"
        "main(['train'])\n"
    )
    ran = run(world, code, warns=True, COLUMNS="200")
    assert ran.returncode == 0, ran.stderr
    torn, hollow, count, random, *usage = ran.stdout.splitlines()
    assert torn == (
        "the agent torn of the package broken-world needs the package a_package_nobody_has, which is not installed: "
        "pip install a_package_nobody_has"
    )
    assert hollow.startswith("hollow of the package broken-world offers neither Config, train and load")
    assert int(count) == 1 and random == "metabench.yardsticks.simple"  # nobody takes a name of ours
    assert "kite-flyer" in " ".join(usage)
    assert "behaviour policies torn of the package broken-world" in ran.stderr


def test_wrong_digests_are_answered_with_the_right_ones(world):
    file = world / "site" / "kite_world" / "kite.py"
    right = re.findall(r'"(?:train|test|ood)": "([0-9a-f]{64})"', file.read_text())
    file.write_text(re.sub(r'": "[0-9a-f]{64}"', '": "..."', file.read_text()))
    ran = run(world, "import metabench\nmetabench.make('Kite-v0')")
    assert ran.returncode == 1 and len(right) == 3 and all(digest in ran.stderr for digest in right), ran.stderr


def test_a_package_missing_for_a_family_of_another_package_is_asked_of_that_package(world):
    file = world / "site" / "kite_world" / "kite.py"
    needy = "    horizon = 30\n\n    def __init__(self):\n        import nothing_such\n"
    text = file.read_text().replace("    horizon = 30\n", needy)
    file.write_text(text.replace('oracle=f"', 'extra="sim", oracle=f"'))
    ran = run(world, "import metabench\nmetabench.make('Kite-v0')")
    assert "Kite-v0 of the package kite-world needs the package nothing_such" in ran.stderr, ran.stderr
    assert "pip install 'kite-world[sim]'" in ran.stderr


@pytest.mark.slow
def test_the_page_word_for_word_with_pip(tmp_path):
    write_files(tmp_path)
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "metabench"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m metabench.cli "$@"\n')
    pip = tmp_path / "bin" / "pip"  # the same command, into a folder of its own and without a network
    pip.write_text(
        f'#!/bin/sh\ncommand=$1; shift\nexec "{sys.executable}" -m pip "$command" --no-deps --no-build-isolation '
        f'--target "{tmp_path / "site"}" "$@"\n'
    )
    for script in (shim, pip):
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(ROOT), str(ROOT / "agents")]),
        "COLUMNS": "200",
    }
    ran = subprocess.run(
        ["bash", "-ec", "\n".join(commands())], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    check_what_was_made(tmp_path, ran.stdout)
