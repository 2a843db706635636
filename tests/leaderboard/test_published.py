"""Trained agents by the name of their entry: from a checkout, and from a site whose bytes are checked."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import metabench
from metabench.cli.main import main
from metabench.leaderboard import published
from metabench.leaderboard.records import BOARDS, read_boards
from metabench.leaderboard.site.build import build

ROOT = Path(__file__).parent.parent.parent / "leaderboards"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of one entry with policies."""
    root = tmp_path_factory.mktemp("published")
    (entry,) = (ROOT / "grid-switch" / "rl2").iterdir()
    shutil.copytree(entry, root / "boards" / "grid-switch" / "rl2" / entry.name)
    shutil.copy(ROOT / BOARDS, root / "boards")
    build(root / "boards", read_boards(ROOT / BOARDS), root / "site")
    return root / "site"


@pytest.fixture
def elsewhere(monkeypatch, tmp_path, site):
    """A machine without leaderboards, with a copy of the site to ask."""
    shutil.copytree(site, tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "roots", list)
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METABENCH_BOARDS", (tmp_path / "site").as_uri())
    return tmp_path / "site"


def test_names():
    assert published.parse_name("grid-switch/dynamite") == ("grid-switch", "dynamite", "", 0)
    assert published.parse_name("grid-switch/rl2/2026-11-25-d2d8181b5d@3") == (
        *("grid-switch", "rl2", "2026-11-25-d2d8181b5d", 3),
    )
    assert published.parse_name("bayes") is None and published.parse_name("../x/y") is None
    assert not published.is_name("leaderboards/grid-switch") or not Path("leaderboards/grid-switch").exists()


def test_a_published_agent_plays_as_its_entry_says(capsys):
    (entry,) = (ROOT / "grid-switch" / "rl2").iterdir()
    agent = metabench.load_agent("grid-switch/rl2")
    result = metabench.evaluate(agent, "GridSwitch-v0", split="test", seed=0)
    told = np.array([run["returns"] for run in json.loads((entry / "result.json").read_text())["results"]])[0]
    found = result.array()
    error = np.hypot(found.mean(axis=(1, 2)).std() / 50**0.5, told.std() / told.size**0.5)
    assert abs(found.mean() - told.mean()) < 4 * error
    main(["evaluate", f"grid-switch/rl2/{entry.name}@1", "GridSwitch-v0"])
    assert "rl2" in capsys.readouterr().out
    assert not list((entry / "policies" / "run_001").glob("result*")), "nothing is added to an entry"


def test_it_comes_from_a_site_and_stays(elsewhere):
    folder = published.find("grid-switch/rl2")
    (entry,) = (ROOT / "grid-switch" / "rl2").iterdir()
    for name in ("config.json", "policy.safetensors"):
        assert (folder / name).read_bytes() == (entry / "policies" / "run_000" / name).read_bytes()
    assert metabench.load_agent("grid-switch/rl2", "GridSwitch-v0").begin(2) is not None
    shutil.rmtree(elsewhere / "policies" / "grid-switch")
    assert published.find("grid-switch/rl2") == folder, "what is here is not asked for again"


def test_bytes_that_are_not_the_indexs_are_refused(elsewhere):
    (path,) = (elsewhere / "policies" / "grid-switch").rglob("policy.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the one its index names"):
        published.find("grid-switch/rl2")
    path.write_bytes(bytes(content) * 2)
    with pytest.raises(ValueError, match="larger than"):
        published.find("grid-switch/rl2")
    assert not (elsewhere.parent / "data" / "policies").exists()


def test_what_nobody_published_is_told_with_near_names(elsewhere, capsys):
    with pytest.raises(ValueError, match="it has no policy grid-switch/rl3"):
        metabench.load_agent("grid-switch/rl3")
    with pytest.raises(ValueError, match="trained on GridSwitch-v0, not on PointRobot-v0"):
        metabench.load_agent("grid-switch/rl2", "PointRobot-v0")
    with pytest.raises(ValueError, match="say what bayes is to play"):
        metabench.load_agent("bayes")
    assert metabench.load_agent("bayes", "GridSwitch-v0").begin(1) is not None
    with pytest.raises(SystemExit):
        main(["evaluate", "grid-switch/nobody", "GridSwitch-v0"])
    assert "no published policy grid-switch/nobody" in capsys.readouterr().err


def test_near_names_of_a_checkout():
    with pytest.raises(ValueError, match="did you mean 'grid-switch/dynamite'"):
        published.find("grid-switch/dynamit")
