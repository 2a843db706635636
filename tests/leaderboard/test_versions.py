"""Evidence and versions: the package installs what the boards are pinned to; the verifier refuses the rest by name."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from forging import board

from metabench.leaderboard.records import read_boards
from metabench.registry import spec

BOARDS = Path(__file__).parents[2] / "leaderboards"
SAME = ["3.3.0", "3.3.1", "3.3.2", "3.3.3", "3.3.4", "3.3.5"]  # of MuJoCo: the same numbers to the last bit


def test_a_pin_names_one_beginning_of_a_version_or_several():
    one = board("reach", "ReacherGoal-v0", pins={"mujoco": "3.3.0 | 3.3.1", "numpy": "2"})
    for version in ("3.3.0", "3.3.1", "3.3.1.post1"):
        assert not one.broken_pin({"mujoco": version, "numpy": "2.4.6"})
    for version in ("3.3.10", "3.3.7", "3.3", "3.4.0", "none"):
        words = f"mujoco {version}, but the board reach is pinned to 3.3.0 or 3.3.1"
        assert one.broken_pin({"mujoco": version, "numpy": "2.4.6"}) == words
    assert one.broken_pin({"mujoco": "3.3.0", "numpy": "21.0"})


def test_the_package_installs_what_the_boards_are_pinned_to():
    optional = tomllib.loads((BOARDS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"mujoco>={SAME[0]},<3.3.6" in optional["mujoco"]
    boards = read_boards(BOARDS / "boards.toml").values()
    pinned = [one for one in boards if "mujoco" in one.pins]
    assert pinned == [one for one in boards if spec(one.benchmark).extra in ("mujoco", "metaworld")]
    for one in pinned:
        numpy = {"numpy": "2.4.6"}
        assert not [version for version in SAME if one.broken_pin({"mujoco": version, **numpy})]
        assert one.broken_pin({"mujoco": "3.3.6", **numpy}) and one.broken_pin({"mujoco": "3.3.7", **numpy})


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.3.0", "3.3.5", "3.3.7"])
def test_entries_verify_with_every_mujoco_that_the_package_installs(tmp_path, version):
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(tmp_path),
        f"mujoco=={version}",
    ]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"mujoco {version} cannot be had here")
    command = [sys.executable, "-m", "metabench.cli", "verify", str(BOARDS / "cheetah-vel" / "random")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = " ".join(ran.stdout.split())
    if version in SAME:
        assert ran.returncode == 0 and "verdict replayed" in said, said + ran.stderr
    else:
        assert ran.returncode != 0 and f"this machine has mujoco {version}" in said, said + ran.stderr
