"""The public names are the ones promised, and all of them say what they are."""

import importlib
import inspect
import json
import types
from importlib import metadata
from pathlib import Path

import pytest

import metabench

ROOT = Path(__file__).parent.parent


def test_all_equals_the_public_names():
    public = {
        name
        for name, value in vars(metabench).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(metabench.__all__)
    assert metabench.__all__ == sorted(metabench.__all__)


@pytest.mark.parametrize("name", metabench.__all__)
def test_public_objects_are_documented(name):
    value = getattr(metabench, name)
    assert inspect.getdoc(value), f"{name} has no docstring"
    if inspect.isclass(value) and value.__module__.startswith("metabench"):
        for member, function in inspect.getmembers(value, inspect.isfunction):
            if not member.startswith("_") and function.__module__.startswith("metabench"):
                assert inspect.getdoc(function), f"{name}.{member} has no docstring"


def test_declared_ids_are_the_registered_ones():
    """`metabench/__init__.py` names ids and horizons by hand, so that importing it stays light."""
    from metabench import registry

    ours = [spec for spec in metabench.specs() if spec.entry_point.startswith("metabench.")]
    assert {s.id: s.entry_point.split(":")[0] for s in ours} == registry._DECLARED


def test_entry_points_name_what_exists():
    families = {p.value for p in metadata.entry_points(group="metabench.families")}
    from metabench import registry

    assert set(registry._DECLARED.values()) <= families
    for point in metadata.entry_points(group="metabench.agents"):
        assert point.load() is not None


def test_tables_and_marker_files_are_packaged():
    folder = Path(importlib.import_module("metabench.families").__file__).parent
    for spec in metabench.specs():
        if spec.entry_point.startswith("metabench.") and spec.family().rows() is None:
            assert json.loads((folder / "tables" / f"{spec.id}.json").read_text())["family"] == spec.id
    assert (folder / "tables" / "metaworld.npz").exists()
    assert (ROOT / "metabench" / "py.typed").exists()
    assert (ROOT / "agents" / "metabench_agents" / "py.typed").exists()


def test_changelog_names_the_version():
    assert f"## {metadata.version('metabench')}" in (ROOT / "CHANGELOG.md").read_text().replace("[", "").replace(
        "]", ""
    )
