"""Names that modules once had still work, say where the module is now, and hide nothing."""

import importlib
import subprocess
import sys

import pytest

import metabench
from metabench.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_module_under_its_new_one(old):
    if old == "metabench.evaluate":
        pytest.skip("a function now, tested below")
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"the module {old} is {MOVED[old]} now"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == module.__spec__.name == MOVED[old]


def test_evaluate_stays_a_function():
    with pytest.warns(DeprecationWarning, match=r"metabench\.evaluation\.evaluate now"):
        from metabench.evaluate import evaluate_traced
    assert evaluate_traced is importlib.import_module("metabench.evaluation.evaluate").evaluate_traced
    assert callable(metabench.evaluate) and metabench.evaluate.__name__ == "evaluate"


def test_agents_are_found_by_their_old_names_without_importing_metabench_first():
    code = "import warnings; warnings.simplefilter('ignore'); from metabench_agents.rl2 import NAME; print(NAME);"
    code += "from metabench_agents.varibad import Config; print(Config.__module__)"
    told = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert told == ["rl2", "metabench_agents.belief.varibad"]
