"""Compiled code where it cannot be kept: the same numbers, and one sentence about it."""

import importlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from metabench.physics import compiled
from metabench.physics.compiled import CacheWarning, cached_njit, temporary_cache

ROOT = Path(__file__).parents[2]
IDS = ("CheetahVel-v0", "HighwayMerge-v0", "HighwayEnvMerge-v0", "PointRobot-v0")


def double(x):
    return 2.0 * x


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(compiled, "_told", [])


@pytest.fixture
def no_locator(monkeypatch):
    """As numba finds it in a read-only package with an unwritable home: only a folder that is named to it."""
    from numba.core import caching

    named = [one for one in caching.CacheImpl._locator_classes if one.__name__.endswith("UserProvidedCacheLocator")]
    assert named
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", named)
    monkeypatch.setattr("numba.config.CACHE_DIR", "")


def test_without_a_place_of_numbas_a_temporary_folder_keeps_it_and_it_is_said_once(no_locator, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(CacheWarning, match="it is kept in") as said:
        for _ in range(2):
            assert cached_njit()(double)(3.0) == 6.0
    assert len(said) == 1
    folder = temporary_cache()
    assert folder is not None and list(folder.rglob("*.nbc"))
    if hasattr(os, "getuid"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = cached_njit()(double)
    assert again(3.0) == 6.0 and sum(again.stats.cache_hits.values()) == 1  # and is found there


def test_a_temporary_folder_that_others_can_write_to_is_not_trusted(no_locator, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = temporary_cache()
    assert folder is not None
    folder.chmod(0o777)
    assert temporary_cache() is None
    with pytest.warns(CacheWarning, match="NUMBA_CACHE_DIR"):
        assert cached_njit()(double)(3.0) == 6.0
    assert not list(folder.rglob("*.nbc"))
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert temporary_cache() is None


def test_without_any_place_it_is_compiled_anew(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    with pytest.warns(CacheWarning, match="anew in every process") as said:
        assert cached_njit(nogil=True)(double)(3.0) == 6.0
        assert cached_njit(inline="always")(double)(3.0) == 6.0
    assert len(said) == 1


@pytest.mark.parametrize("method", ["_save_index", "_load_index"])
def test_a_full_disk_or_an_unreadable_cache_costs_the_cache_alone(monkeypatch, tmp_path, method):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    message = "No space left on device"

    def fail(*arguments):
        raise OSError(28, message)

    monkeypatch.setattr(f"numba.core.caching.IndexDataCacheFile.{method}", fail)
    with pytest.warns(CacheWarning, match=message):
        assert cached_njit()(double)(3.0) == 6.0


def test_the_warning_is_not_given_where_numba_has_a_place(monkeypatch, tmp_path):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cached_njit()(double)(3.0) == 6.0
    assert list(tmp_path.rglob("*.nbc"))


def test_nothing_of_the_package_asks_numba_for_a_cache_by_itself():
    asking = [
        path.relative_to(ROOT)
        for folder in ("metabench", "agents")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "compiled.py" and "cache=True" in path.read_text()
    ]
    assert not asking, f"{asking} ask for a cache: numba refuses to import them where there is none; use cached_njit"


PLAY = """
import sys, warnings
import numba.core.caching as caching
if "none" in sys.argv: caching.CacheImpl._locator_classes = []
import gymnasium as gym, numpy as np, metabench
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for id in sys.argv[2:]:
        env = gym.make(f"metabench/{id}")
        env.reset(seed=0)
        print(id, repr(float(env.step(np.full(env.action_space.shape, 1, env.action_space.dtype))[1])))
    from metabench.datasets.gather import gather
    rows = np.zeros(9, [("a", "<f4"), ("b", "?", 4)]); rows["a"] = range(9)
    print(gather(rows, 2, 2)(np.array([3, 5]), np.array([0, 1]))["a"].tolist())
print("said", sum(one.category.__name__ == "CacheWarning" for one in said))
"""


def play(*arguments, before=(), **settings):
    command = [*before, sys.executable, "-W", "ignore", "-c", PLAY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def available():
    found = [id for id in IDS if not id.startswith("Cheetah") or importlib.util.find_spec("mujoco")]
    return found


@pytest.mark.slow
def test_every_physics_runs_uncached_to_the_same_numbers():
    kept, uncached = play("kept", *available()), play("none", *available())
    assert kept[-1] == "said 0" and uncached[-1] == "said 1" and kept[:-1] == uncached[:-1]


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no such users")
def test_a_read_only_package_and_home(tmp_path):
    package, temporary = tmp_path / "site", tmp_path / "temporary"
    shutil.copytree(ROOT / "metabench", package / "metabench", ignore=shutil.ignore_patterns("__pycache__"))
    temporary.mkdir()
    before = []
    if os.getuid() == 0:  # who writes anywhere, but for a file system that is read-only
        before = ["unshare", "-m", "sh", "-c", READ_ONLY, str(package)]
        if not shutil.which("unshare") or subprocess.run([*before, "true"], capture_output=True).returncode:
            pytest.skip("nothing can be made read-only here")
    for path in (package, *package.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = {"PATH": os.environ["PATH"], "HOME": "/proc/nonexistent", "PYTHONPATH": str(package)}
    environment |= {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        seen = play("kept", "PointRobot-v0", "HighwayMerge-v0", before=before, cwd=package, env=environment)
    finally:
        for path in (package, *package.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert seen[-1] == "said 1"
    assert list(temporary.glob("metabench-numba-*/**/*.nbc"))


def test_windows_are_the_same_without_a_cache(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    from metabench.datasets.gather import CompiledGather, PlainGather

    rows = np.zeros(50, [("observation", "<f4", 3), ("flags", "?", 4)])
    rows["observation"] = np.arange(150).reshape(50, 3)
    spec = importlib.util.find_spec("metabench.datasets.kernel")
    fresh = importlib.util.module_from_spec(spec)  # not the one this process has used already
    spec.loader.exec_module(fresh)
    last, missing = np.array([4, 9, 30]), np.array([0, 2, 1])
    with pytest.warns(CacheWarning):
        windows = CompiledGather(fresh, rows, 5, 3)(last, missing)
    assert (windows == PlainGather(rows, 5, 3)(last, missing)).all()
