"""What is shipped: the wheel has everything the package reads, the source archive has no half of the tests."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = """
import sys
import setuptools.build_meta as build
out = sys.argv[1]  # a build changes sys.argv
build.build_sdist(out)
build.build_wheel(out)
"""


@pytest.mark.slow
def test_wheel_and_source_archive_are_whole(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("metabench", "agents", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    out.mkdir()
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        shipped = set(wheel.namelist())
    wanted = {
        path.relative_to(ROOT / folder).as_posix()
        for folder, package in ((".", "metabench"), ("agents", "metabench_agents"))
        for path in (ROOT / folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= shipped, sorted(wanted - shipped)
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in names if name.startswith("tests/")], "all of the tests, or none"
    assert "metabench/leaderboard/boards.toml" in names
