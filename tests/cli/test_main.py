"""The command line: what it prints, how it fails, what it does not import."""

import json
import shutil
from pathlib import Path

import pytest

from metabench.cli.main import main
from metabench.evaluation.results import Result

ROOT = Path(__file__).parents[2]


def run(capsys, *arguments):
    main(arguments)
    return capsys.readouterr().out


def test_list_names_every_benchmark(capsys):
    import metabench
    from metabench.plugins import agent_names

    text = run(capsys, "list")
    lines = text.splitlines()
    for spec in metabench.specs():
        assert any(line.startswith(f"{spec.id} ") for line in lines), "a line for each, whole: `list | grep`"
    assert f"agents: {', '.join(agent_names())}" in lines


def test_show_tells_all(capsys):
    text = run(capsys, "show", "GridSwitch-v0")
    for word in (
        'gym.make("metabench/GridSwitch-v0"',
        '"p": 0.07',
        "sessions, ood",
        "first candidate goal",
        "cell",
        "paying",
        "column_a",
        "e2c75fadc7e1",
        "45.14",
        "arXiv 2402.15957",
        "0 stay, 1 up",
    ):
        assert word in text
    text = run(capsys, "show", "PointRobot-v0")
    assert "displacement along x, m in [-0.1, 0.1]" in text and "-1.5 .. 1.5" in text


def test_show_as_json(capsys):
    assert json.loads(run(capsys, "show", "PointRobot-v0", "--json"))["horizon"] == 20


def test_evaluate_a_yardstick(capsys, tmp_path):
    text = run(capsys, "evaluate", "oracle", "PointRobot-v0", "--split", "ood", "--out", str(tmp_path / "r.json"))
    assert "oracle" in text and "-7.13" in text
    assert Result.load(tmp_path / "r.json").protocol.split == "ood"


def test_summarise_puts_runs_together(capsys, tmp_path):
    for seed in range(3):
        out = str(tmp_path / f"{seed}.json")
        run(capsys, "evaluate", "random", "GridSwitch-v0", "--out", out, "--seed", str(seed))
    run(capsys, "evaluate", "bayes", "GridSwitch-v0", "--out", str(tmp_path / "bayes.json"))
    text = run(capsys, "summarise", *(str(p) for p in sorted(tmp_path.iterdir())))
    lines = [line.split() for line in text.splitlines()]
    assert ["GridSwitch-v0"] in lines
    assert [line[:3] for line in lines if line[:1] == ["test"]] == [["test", "bayes", "1"], ["test", "random", "3"]]
    with pytest.raises(SystemExit):
        main(("summarise", str(tmp_path / "none.json")))
    assert "there is no result file" in capsys.readouterr().err


def test_train_then_evaluate(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--frames", "9600", "--trials", "16", "--network.hidden", "8", "--progress", "none", "--seed", "2")
    text = run(capsys, "train", "rl2", "GridNavigation-v0", *options)
    folder = tmp_path / "runs" / "GridNavigation-v0-rl2-s2"
    assert "written: runs/GridNavigation-v0-rl2-s2" in text
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "result.json",
        "result-ood.json",
    }
    assert Result.load(folder / "result.json").train_seed == 2
    text = run(capsys, "evaluate", "runs/GridNavigation-v0-rl2-s2", "GridNavigation-v0", "--seed", "9")
    assert "rl2" in text and Result.load(folder / "result.json").protocol.seed == 9


@pytest.mark.parametrize("arguments", [(), ("--help",), ("train",), ("train", "--help")])
def test_overviews(capsys, arguments):
    text = run(capsys, *arguments)
    assert "metabench train" in text or "usage: metabench train" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "--help"), "An id; `metabench list` names them all."),
        (("evaluate", "--help"), "the published policy of a board"),
        (("train", "rl2", "--help"), "trials played together, one per slot"),
        (("bench", "--help"), "SyncVectorEnv"),
        (("quickstart", "--help"), "a minute or two"),
    ],
)
def test_help_teaches(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("shwo",), "unknown command 'shwo'; did you mean 'show'"),
        (("show", "GridSwich"), "unknown id 'GridSwich'; did you mean 'GridSwitch-v0'"),
        (("train", "rl3", "GridSwitch-v0"), "unknown agent 'rl3'; did you mean 'rl2'"),
        (("train", "bayes", "GridSwitch-v0"), "bayes is a yardstick and needs no training"),
        (("train", "--seed", "1"), "needs the name of an agent before its options; available: "),
        (("train", "rl2", "GridSwitch-v0", "--evaluate", "tset"), "unknown split 'tset'"),
        (("evaluate", "rl2", "GridSwitch-v0"), "rl2 has to be trained first: metabench train rl2 GridSwitch-v0"),
        (("evaluate", "bayes", "PointRobot-v0"), "defined on GridSwitch with geometric sessions only"),
        (("evaluate", "random", "GridSwitch-v0", "--split", "fresh"), "has no table"),
        (
            ("evaluate", "runs/nope", "GridSwitch-v0"),
            "runs/nope is no folder of a training run: there is no folder runs",
        ),
        (("evaluate", "random", "PointRobot-v0", "--seed", "-1"), "--seed must be at least 0, got -1"),
        (("verify",), "verify wants submissions"),
        (("summarise",), "summarise wants result files"),
        (("board", "biuld"), "unknown command 'board biuld'; did you mean 'build'"),
        (("quickstart", "--frames", "0"), "--frames must be at least 1, got 0"),
    ],
)
def test_errors_are_one_sentence_and_exit_2(capsys, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("metabench: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir()), "something was left half-done"


def test_folders_without_an_agent(capsys, tmp_path):
    for folder, words in ((tmp_path, "no trained agent in"),):
        with pytest.raises(SystemExit):
            main(("evaluate", str(folder), "GridSwitch-v0"))
        assert words in capsys.readouterr().err


def test_bench_prints_rates(capsys, monkeypatch):
    from metabench.cli import bench

    monkeypatch.setattr(bench, "SECONDS", 0.005)
    text = run(capsys, "bench", "PointRobot-v0")
    assert "8,192" in text and "x" in text


def test_quickstart_leaves_everything(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = run(capsys, "quickstart", "--frames", "200000", "--name", "q")
    folder = tmp_path / "runs" / "q"
    for name in ("result.json", "result-ood.json", "metrics.jsonl", "report.png", "report.html", "config.json"):
        assert (folder / name).stat().st_size > 0
    assert "is clearly above random" in text and "training frames/s" in text
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64," in page and page.count("<tr") == 12
    assert "http" not in page.replace("http-equiv", ""), "the page must need no network"


def test_a_published_policy_is_played_and_nothing_is_added_to_it(capsys, tmp_path):
    (entry,) = (ROOT / "leaderboards" / "point-robot" / "bc").iterdir()
    shutil.copytree(entry / "policies" / "run_000", tmp_path / "run_000")
    before = sorted(path.name for path in (tmp_path / "run_000").iterdir())
    run(capsys, "evaluate", str(tmp_path / "run_000"), "PointRobot-v0")
    assert sorted(path.name for path in (tmp_path / "run_000").iterdir()) == before


def test_a_quick_bench_prints_every_line_when_it_is_measured(monkeypatch):
    from metabench.cli import bench

    events = []
    monkeypatch.setattr(bench, "say", lambda line="": events.append(line.split()[:2]))
    monkeypatch.setattr(bench, "steps_per_second", lambda env, *_: events.append("measured") or 10.0)
    bench.command(("PointRobot-v0",), quick=True)
    lines = [event for event in events if event == "measured" or event[0] == "PointRobot-v0"]
    assert lines == ["measured", ["PointRobot-v0", "1"], "measured", "measured", ["PointRobot-v0", "64"]]


def test_near_names_of_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "GridSwitch-v0-rl2-s0").mkdir(parents=True)
    (tmp_path / "runs" / "GridSwitch-v0-rl2-s0" / "config.json").write_text("{}")
    for name in ("runs/GridSwitch-v0-rl2-s1", "GridSwitch-v0-rl2-s0"):
        with pytest.raises(SystemExit):
            main(("evaluate", name, "GridSwitch-v0"))
        assert "'runs/GridSwitch-v0-rl2-s0'" in capsys.readouterr().err
