"""Help: it lists everything, teaches, and starts without torch or any simulator."""

import subprocess
import sys

import pytest

from metabench.cli.dispatch import Group
from metabench.cli.main import METABENCH, main
from metabench.cli.trainable import trainable_agents
from metabench.plugins import agent_names, load_plugin

HEAVY = (
    "torch",
    "numba",
    "mujoco",
    "matplotlib",
    "scipy",
    "safetensors",
    "imageio",
    "minari",
    "h5py",
)


def commands(group=METABENCH, words=()):
    for name, chosen in group.commands.items():
        if isinstance(chosen, Group):
            yield (*words, name)
            yield from commands(chosen, (*words, name))
        else:
            yield (*words, name)


def test_every_help_starts_without_anything_heavy():
    """Counted in modules, not in seconds: each of these takes longer to import than all the rest together."""
    code = f"""
import sys
from importlib.abc import MetaPathFinder
class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {HEAVY!r}:
            raise ImportError(f"{{name}} is imported for a help page")
sys.meta_path.insert(0, Refuse())
from metabench.cli.main import main
for words in {[(), *commands()]!r}:
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, words
assert not set({HEAVY!r}) & set(sys.modules)
assert not [name for name in sys.modules if name.startswith(("metabench_agents", "gymnasium.envs.mujoco"))]
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    for words in commands():
        assert f"metabench {' '.join(words)}" in ran.stdout


@pytest.mark.parametrize("words", [(), *(words for words in commands() if words in (("dataset",), ("board",)))])
def test_a_group_lists_its_commands(capsys, words):
    main([*words, "--help"])
    text = capsys.readouterr().out
    main(list(words))
    assert capsys.readouterr().out == text
    group = METABENCH
    for word in words:
        group = group.commands[word]
    for name, chosen in group.commands.items():
        assert f"  {' '.join(('metabench', *words))} {name}" in text and chosen.does in text


def test_no_argument_is_called_by_its_type(capsys):
    for words in commands():
        with pytest.raises(SystemExit) if words not in (("train",), ("dataset",), ("board",)) else _nothing():
            main([*words, "--help"])
        text = capsys.readouterr().out
        for line in text.partition("positional arguments")[2].partition("options")[0].splitlines():
            assert not line.startswith(("│ STR", "│ PATH", "│ [STR", "│ [PATH")), (words, line)


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_it_runs_as_a_module():
    ran = subprocess.run([sys.executable, "-m", "metabench.cli", "--version"], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.startswith("metabench ")


def test_the_trainable_agents_are_those_that_train():
    assert list(trainable_agents()) == [name for name in agent_names() if hasattr(load_plugin(name), "Config")]


@pytest.mark.parametrize(
    ("source", "value", "trains"),
    [
        ("raise ImportError('heavy')\nfrom x import Config\ndef train(): ...", "other", True),
        ("import y as Config\ntrain: object = 1", "other", True),
        ("def train(): ...", "other", False),
        ("class A:\n    class Config: ...\n    def train(self): ...\nagent, spare = A(), 1", "other:agent", True),
        ("class A:\n    def build(self): ...\nagent = A()", "other:agent", False),
        ("from .inner import agent", "other_package:agent", True),
        ("agent = make()", "other:agent", True),  # the source does not say, so it is offered
    ],
)
def test_a_third_partys_agent_is_found_without_importing_it(tmp_path, monkeypatch, source, value, trains):
    from metabench.cli import trainable

    package = tmp_path / "other_package"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    (package / "inner.py").write_text("class B:\n    Config = 1\n    def train(self): ...\nagent = B()")
    (tmp_path / "other.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert trainable._trains(value) is trains
    assert not {"other", "other_package"} & set(sys.modules)
