"""Every snippet of README.md and docs/ runs alone, in a fresh interpreter, with what its install line installs.

Python blocks run as they are, each in an interpreter of its own that can import only the extras named by the last
`pip install '...[extra]'` above it on its page; what the page made before it by `metabench dataset generate` is there.
Bash blocks are taken apart into their commands: those of metabench are read by the command line itself, up to the point
where the work would begin (every word has to be an option that exists); scripts and modules have to exist.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WRITTEN = ("docs/*.md", "docs/agents/*.md", "studies/*/NOTES.md")  # docs/families and docs/api are generated
PAGES = ("README.md", *sorted(str(path.relative_to(ROOT)) for where in WRITTEN for path in ROOT.glob(where)))
# what comes with which extra, by the names they are imported under
EXTRAS = {
    "agents": {"torch", "safetensors", "scipy", "numba"},
    "mujoco": {"mujoco", "imageio", "numba"},
    "highway": {"highway_env", "numba"},
    "metaworld": {"metaworld", "mujoco", "imageio", "numba"},
    "plots": {"matplotlib"},
    "films": {"imageio", "imageio_ffmpeg"},
    "tensorboard": {"tensorboard"},
    "wandb": {"wandb"},
    "analysis": {"sklearn"},
    "datasets": {"minari", "h5py", "huggingface_hub"},
    "sb3": {"stable_baselines3", "sb3_contrib"},
    "ray": {"ray"},
}
EXTENDING = "docs/extending.md"  # a package in pieces: tests/test_extending.py puts it together
RECIPE = "docs/other_libraries.md"  # trains: tests/stacks/test_libraries.py runs what needs sb3 there, as one


def snippets(language):
    """(page, number, text, what stands above it) of every block in a language."""
    for page in PAGES:
        text = (ROOT / page).read_text()
        for number, found in enumerate(re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)):
            yield pytest.param(page, found[1], text[: found.start()], id=f"{page}-{number}")


def installed(above):
    """The extras of the last line above that installs some."""
    lines = re.findall(r"pip install [^\n`]*\[([a-z,]+)\]", above)
    extras = lines[-1].split(",") if lines else []
    return set(EXTRAS) if "all" in extras else set(extras)


def made(above):
    """The datasets that the page makes above."""
    return re.findall(r"^metabench dataset generate (\S+)(?: --split (\w+))?", above, re.MULTILINE)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    from metabench.datasets import generate

    root = tmp_path_factory.mktemp("data")
    generate("metabench/point-robot/mixed-v0", root=root)
    return root


@pytest.mark.parametrize(("page", "code", "above"), list(snippets("python")))
def test_a_python_snippet_runs_alone(page, code, above, tmp_path, datasets):
    if page == EXTENDING:
        pytest.skip("a package in pieces: test_extending.py installs it")
    if page == RECIPE and ("sb3" in code or "models" in code):
        pytest.skip("trains for minutes: tests/stacks/test_libraries.py does")
    (tmp_path / "leaderboards").mkdir()
    shutil.copy(ROOT / "leaderboards" / "boards.toml", tmp_path / "leaderboards")
    have = set().union(*(EXTRAS[extra] for extra in installed(above)))
    missing = set().union(*EXTRAS.values()) - have
    refuse = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(missing)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}: no install line above names it", name=name)
sys.meta_path.insert(0, Refuse())
"""
    environment = os.environ | {"METABENCH_DATA": str(datasets if made(above) else tmp_path / "data")}
    command = [sys.executable, "-c", refuse + code]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-1500:]


def commands(block):
    """The simple commands of a bash block."""
    block = re.sub(r"\bfor \w+ in [^;]*; do (.*?); done", r"\1", block.replace("\\\n", " "))
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


@pytest.mark.parametrize(("page", "block", "above"), list(snippets("bash")))
def test_a_bash_snippet_is_understood(page, block, above, monkeypatch):
    if page == EXTENDING:
        pytest.skip("of an agent that test_extending.py installs")
    for words in commands(block):
        program, rest = words[0], words[1:]
        if program == "metabench":
            understood([word.replace("$s", "0").replace("$SEED", "0") for word in rest], monkeypatch)
        elif program == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif program == "python" and rest[0] == "-m":
            assert (ROOT / rest[1].replace(".", "/")).with_suffix(".py").is_file(), words
        elif program == "python":
            assert (ROOT / rest[0]).is_file(), words
        elif program == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            named = re.findall(r"\[([a-z0-9,]+)\]", " ".join(rest))
            assert rest[0] == "install" and all(e in extras for names in named for e in names.split(",")), words
        else:
            assert program in ("export", "cd", "git"), words


class ReadWords(Exception):
    """The words were understood; nothing is done."""


def understood(words, monkeypatch):
    """Reads a command line as metabench does, and stops where the command would begin."""
    import functools
    import inspect

    from metabench.cli import dispatch
    from metabench.cli.main import METABENCH

    real = dispatch.parse

    def parse(function, name, arguments):
        @functools.wraps(function)
        def nothing(*given, **named):
            inspect.signature(function).bind(*given, **named)
            raise ReadWords

        real(nothing, name, arguments)

    monkeypatch.setattr(dispatch, "parse", parse)
    try:
        dispatch.dispatch(METABENCH, words, "metabench")
    except ReadWords:
        return
    except SystemExit as stop:
        raise AssertionError(f"metabench {' '.join(words)} is not understood") from stop
    finally:
        monkeypatch.setattr(dispatch, "parse", real)
    assert not words or words[-1] in ("dataset", "board"), f"metabench {' '.join(words)} did nothing"


def test_the_extras_are_those_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) - {"all", "dev", "docs"} <= set(EXTRAS)
