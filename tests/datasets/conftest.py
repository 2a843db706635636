"""Small sets that several tests read."""

import shutil

import pytest

from metabench.datasets import generate


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """A root with PointRobot mixed (train and test) and GridSwitch medium with states (test), few episodes each."""
    root = tmp_path_factory.mktemp("sets")
    generate("point-robot/mixed-v0", "train", episodes=10, root=root)
    generate("point-robot/mixed-v0", "test", episodes=4, root=root)
    generate("grid-switch/medium-v0", "test", episodes=4, root=root, state_every=7)
    return root


@pytest.fixture
def copied(sets, tmp_path):
    """A split of its own, to be damaged."""
    folder = tmp_path / "point-robot" / "mixed-v0" / "test"
    shutil.copytree(sets / "point-robot" / "mixed-v0" / "test", folder)
    return folder
