"""`metabench dataset ...` on the command line."""

import pytest

from metabench.cli.main import main
from metabench.datasets.format import MANIFEST, STEPS


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.delenv("METABENCH_MIRRORS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(capsys, *arguments):
    main(["dataset", *map(str, arguments)])
    return " ".join(capsys.readouterr().out.split())


def fail(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["dataset", *map(str, arguments)])
    assert caught.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_set_from_end_to_end(capsys, places):
    """Made, shown, checked, published, downloaded elsewhere, exported and imported."""
    assert "No datasets" in run(capsys, "list")
    text = run(capsys, "generate", "point-robot/mixed-v0", "--split", "test", "--episodes", "10")
    assert "50 episodes, mean return" in text and "of the way from random to the oracle" in text
    listed = run(capsys, "list")
    assert "metabench/point-robot/mixed-v0 test 5 50 1,000" in listed and "here" in listed
    info = run(capsys, "info", "point-robot/mixed-v0", "--split", "test")
    for words in ("oracle with 75% random actions: 35 episodes", "made by", "CC0-1.0", STEPS, "returns task episodes"):
        assert words in info
    assert '"schema_version": 1' in run(capsys, "info", "point-robot/mixed-v0", "--split", "test", "--json")
    sound = run(capsys, "verify", "point-robot/mixed-v0", "--split", "test", "--replay", "5")
    assert "is sound" in sound and "5 episodes replayed" in sound
    tree, elsewhere = places / "mirror", places / "elsewhere"
    assert "1 splits" in run(capsys, "publish", tree)
    assert tree.as_uri() in run(capsys, "list", "--root", elsewhere, "--mirror", tree.as_uri())
    downloaded = ("point-robot/mixed-v0", "--split", "test", "--mirror", tree.as_uri(), "--root", elsewhere)
    assert "every byte checked" in run(capsys, "download", *downloaded)
    pytest.importorskip("minari")
    assert "metabench/point-robot/mixed-test-v0" in run(capsys, "to-minari", "point-robot/mixed-v0", "--split", "test")
    back = places / "back"
    text = run(capsys, "from-minari", "metabench/point-robot/mixed-test-v0", "--root", back)
    assert "50 episodes" in text
    path = f"point-robot/mixed-v0/test/{MANIFEST}"
    assert (back / path).read_bytes() == (elsewhere / path).read_bytes() == (places / "data" / path).read_bytes()


def test_shards_played_side_by_side_are_the_same_bytes(capsys, places):
    words = ("generate", "grid-navigation/random-v0", "--split", "test", "--episodes", "512", "--root")
    run(capsys, *words, places / "one")
    text = run(capsys, *words, places / "many", "--engine", "local", "--workers", "2")
    assert "2,560 episodes, mean return" in text
    sets = [places / name / "grid-navigation" / "random-v0" / "test" for name in ("one", "many")]
    one, many = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in sets)
    assert one == many and MANIFEST in one
    assert "add --engine ray" in fail(capsys, *words, places / "x", "--address", "auto")
    assert not (places / "x").exists()


def test_damage_is_told(capsys, places):
    run(capsys, "generate", "point-robot/random-v0", "--split", "test", "--episodes", "2")
    folder = places / "data" / "point-robot" / "random-v0" / "test"
    content = bytearray((folder / STEPS).read_bytes())
    content[-9] ^= 1
    (folder / STEPS).write_bytes(content)
    assert "is not sound: 1 fault" in fail(capsys, "verify", folder)
    (folder / MANIFEST).write_text("{}")
    assert "damaged" in run(capsys, "list")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generat"], "did you mean 'generate'"),
        (["generate", "point-robot"], "is no dataset id"),
        (["info", "mixd"], "did you mean 'metabench/point-robot/mixed-v0'?"),
        (["info", "point-robot/mixd-v0"], "did you mean 'metabench/point-robot/mixed-v0'?"),
        (["info", "point-robot/mixed-v0", "--split", "tets"], "did you mean 'test'"),
        (["generate", "point-robot/mixed-v0", "--episodes", "0"], "--episodes must be at least 1, got 0"),
        (["info", "point-robot/expert-v0"], "metabench dataset generate metabench/point-robot/expert-v0 --split train"),
        (["download", "point-robot/expert-v0"], "no mirror is known"),
        (["publish", "x", "point-robot/mixed-v0"], "metabench dataset list shows what is"),
        (["publish", "x"], "nothing to publish"),
        (["verify", "point-robot/mixed-v0"], "is not sound"),
        (["from-minari", "a/b-v0", "c/d-v0"], "Minari cannot load"),
    ],
)
def test_bad_input_is_one_sentence(capsys, arguments, words):
    assert words in fail(capsys, *arguments)


def test_help_teaches(capsys):
    assert "metabench dataset generate" in run(capsys)
    for name in ("generate", "download"):
        with pytest.raises(SystemExit):
            main(["dataset", name, "--help"])
        assert "Example" in capsys.readouterr().out
