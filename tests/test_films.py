"""Every benchmark has its film, as it was made, of today's tasks; and no film is large."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

import metabench

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "films"
FILMS = json.loads((FOLDER / "films.json").read_text())


@pytest.fixture(scope="module")
def films():
    loader = importlib.util.spec_from_file_location("films", ROOT / "docs" / "films.py")
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    return module


def test_every_benchmark_has_a_film(films):
    wanted = {spec.id for spec in metabench.specs() if spec.entry_point.startswith("metabench.") and not spec.group}
    assert wanted <= films.SHOTS.keys(), "docs/films.py says how"
    assert films.SHOTS.keys() | {films.HERO, films.GROUP} <= FILMS.keys(), "make films"
    assert {path.stem for path in FOLDER.glob("*.webp")} == FILMS.keys()


@pytest.mark.parametrize("name", sorted(FILMS))
def test_a_film_is_what_was_made(films, name):
    content, told = (FOLDER / f"{name}.webp").read_bytes(), FILMS[name]
    assert hashlib.sha256(content).hexdigest() == told["sha256"]
    assert len(content) <= films.LIMIT
    assert told["digest"] == films.digest_of(name), "the tasks have changed: make films"
    with Image.open(FOLDER / f"{name}.webp") as film:
        assert film.n_frames > 5 and list(film.size) == told["size"]
    if name in films.SHOTS:
        assert told["agent"] == films.SHOTS[name].agent
