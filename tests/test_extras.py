"""A base install without the extras: one hint, when an environment is made, for every family."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from metabench import extras
from metabench.registry import specs

ROOT = Path(__file__).parent.parent
HIDE = """
import importlib.abc, sys
hidden, ids = sys.argv[1].split(","), sys.argv[2].split(",")
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import gymnasium as gym, metabench
for id in ids:
    settings = {"backend": "reference"} if id.endswith("@reference") else {}
    for make in (gym.make, gym.make_vec):
        try:
            made = make("metabench/" + id.partition("@")[0], **settings)
        except ImportError as error:
            print(id, type(error).__name__, error)
            continue
        made.reset(seed=0)
        made.step(made.action_space.sample())
        print(id, "played")
"""


def tried(hidden, *ids):
    command = [sys.executable, "-W", "ignore", "-c", HIDE, ",".join(hidden), ",".join(ids)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.partition(" ")[2] for line in done.stdout.splitlines()]


def test_every_family_with_an_extra_says_so_when_it_is_made():
    chosen = [s for s in specs() if s.extra]
    said = tried(["mujoco", "numba", "metaworld", "highway_env"], *(s.id for s in chosen))
    assert len(said) == 2 * len(chosen)
    for k, spec in enumerate(chosen):
        for line in said[2 * k : 2 * k + 2]:
            wanted = rf"ImportError {spec.id} needs the package \w+, which is not installed: "
            assert re.match(wanted, line) and extras.command(spec.extra) in line
    assert "pip install 'metabench[mujoco]'" in extras.command("mujoco")
    assert "pip install -e '.[mujoco]'" in extras.command("mujoco")


def test_every_module_that_is_needed_is_asked_for():
    ids = {"mujoco": "CheetahVel-v0", "highway": "HighwayMerge-v0", "metaworld": "MetaWorld-Reach-v0"}
    assert ids.keys() == extras.NEEDS.keys() == {s.extra for s in specs() if s.extra}
    for extra, modules in extras.NEEDS.items():
        for module in modules:
            for line in tried([module], ids[extra]):
                assert f"needs the package {module}," in line and extras.command(extra) in line
    for line in tried(["highway_env"], "HighwayEnvMerge-v0@reference"):
        assert "needs the package highway-env," in line and extras.command("highway") in line


def test_the_base_install_plays_what_needs_no_extra():
    base = [s.id for s in specs() if not s.extra]
    assert tried(["mujoco", "numba", "metaworld", "highway_env"], *base) == ["played"] * (2 * len(base))


def test_a_missing_base_package_is_named_as_it_is_installed():
    for line in tried(["PIL"], "PointRobot-v0", "GridSwitch-v0"):
        assert line == "played" or line.endswith("needs the package pillow, which is not installed: pip install pillow")


def test_the_extras_bring_what_they_are_said_to_bring():
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def brings(extra):
        names = set()
        for requirement in optional[extra]:
            nested = re.fullmatch(r"metabench\[(\w+)\]", requirement)
            names |= brings(nested[1]) if nested else {re.match(r"[\w-]+", requirement)[0].replace("-", "_")}
        return names

    for needs in (extras.NEEDS, extras.REFERENCE_NEEDS):
        for extra, modules in needs.items():
            assert {*modules} <= brings(extra), extra


def test_a_plug_ins_missing_package_names_the_plug_in():
    error = extras.missing("Kite-v0", "gusts", "", "kite.family")
    assert "Kite-v0 needs the package gusts" in str(error) and "pip install 'kite'" in str(error)
    assert "metabench" not in str(error)
    with pytest.raises(ModuleNotFoundError):
        extras.load("no_such_module", "it")
