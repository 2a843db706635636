"""The drawn figures are those that are written down, and the formulas have the code's numbers."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import metabench

DOCS = Path(__file__).parent.parent / "docs"


def load(name):
    loader = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def figures():
    return load("figures")


def test_the_figures_are_the_ones_that_are_drawn(figures):
    assert {path.name: path.read_text() for path in figures.FOLDER.glob("*.svg")} == figures.figures(), (
        "python docs/figures.py"
    )
    assert all(len(content) < 20_000 for content in figures.figures().values())


def test_every_agent_has_its_idea_and_every_figure_its_words(figures):
    for path in (DOCS / "agents").glob("*.md"):
        if path.stem != "index":
            told = figures.TOLD["idea"][path.stem]["caption"]
            assert f"![{told}](../figures/idea-{path.stem}.svg)" in path.read_text()
    page = (DOCS / "speed.md").read_text()
    for group, told in figures.TOLD["speed"].items():
        assert f"![{told['caption']}](figures/speed-{group}.svg)" in page


def test_texts_fit_their_boxes(figures):
    for name, told in figures.TOLD["idea"].items():
        for box in told["boxes"]:
            _, column, row, kind, text = box.split(" ", 4)
            lines = text.split("/")
            assert kind in figures.KINDS and int(column) < 5 and int(row) < 3, (name, box)
            assert len(lines) <= 2 and all(len(line) <= 23 for line in lines), (name, box)


def test_a_quotient_is_computed(figures):
    assert figures.number_of("36 / 2.4") == pytest.approx(15) and figures.number_of(390) == 390


def test_every_family_has_its_reward_with_the_numbers_of_the_code():
    sys.path.insert(0, str(DOCS))
    try:
        rewards = load("rewards")
    finally:
        sys.path.remove(str(DOCS))
    for spec in metabench.specs():
        if spec.entry_point.startswith("metabench."):
            told = rewards.reward(spec)
            assert told.startswith("$$\nr_t = "), spec.id
            assert not re.search(r"\{[A-Z][A-Z_]+\}", told), spec.id
    told = rewards.reward(metabench.spec("GridSwitch-v0"))
    assert "1 & c_{t+1} = g_{m_t}" in told and "-0.1 &" in told
    assert "5 \\cdot 10^{-7}" in rewards.reward(metabench.spec("HumanoidDir-v0"))
