"""`metabench plot`, `film` and `train --track`: what is drawn is what the runs say."""

import io
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image, ImageSequence

import metabench
from metabench import colors
from metabench.cli.main import main
from metabench.evaluation.results import Protocol, Result
from metabench.evaluation.stats import probability_of_improvement
from metabench.evaluation.summary import group
from metabench.plotting import curves
from metabench.plotting.film import GAP, HEAD, compose, encode, label_of, play_scene
from metabench.plotting.panels import draw_benchmark


def run(folder, seed, shift=0.0, agent="rl2", frames=1000, returns=True, split="test", episodes=1):
    folder.mkdir(parents=True)
    config = {"frames": frames, "ppo": {"clip": 0.1}}
    (folder / "config.json").write_text(
        json.dumps({"agent": agent, "benchmark": "GridSwitch-v0", "seed": seed, "config": config})
    )
    rows = [{"frames": 100 * k, "time/seconds": 0.5, "return": shift + k} for k in range(1, 11)]
    if returns:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = np.random.default_rng(seed).normal(size=(50, 20, episodes)) + shift
    Result(
        protocol=Protocol(benchmark="GridSwitch-v0", split=split, episodes=episodes, repeats=20, seed=0),
        agent=agent,
        track="online",
        task_digest="0" * 64,
        train_seed=seed,
        versions={},
        returns=values.tolist(),
    ).save(folder / "result.json")
    return folder


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_learning_curve_is_the_mean_of_its_runs(tmp_path):
    found = [curves.read_run(run(tmp_path / str(seed), seed, shift=10.0 * seed)) for seed in range(3)]
    (members,) = curves.label_runs(found).values()
    band = curves.band([member.learning for member in members])
    assert band.x[0] == 100 and band.x[-1] == 1000
    assert band.middle[-1] == pytest.approx(10 + 10.0)  # the runs end at 10, 20 and 30
    assert 10 <= band.low[-1] < band.middle[-1] < band.high[-1] <= 30
    seconds = curves.read_run(found[0].folder, "seconds").learning
    assert seconds.x[0] == 0.5 and seconds.x[-1] == 5.0


def test_runs_of_other_settings_are_apart_and_none_counts_twice(tmp_path):
    one, other = run(tmp_path / "a", 0), run(tmp_path / "b", 0, frames=5)
    labels = curves.label_runs([curves.read_run(one), curves.read_run(other)])
    assert list(labels) == ["rl2 (frames 1000)", "rl2 (frames 5)"]
    with pytest.raises(ValueError, match="are one run"):
        curves.label_runs([curves.read_run(one), curves.read_run(run(tmp_path / "c", 0))])


def test_panels_hold_the_numbers_of_the_results(tmp_path):
    found = [
        curves.read_run(run(tmp_path / f"{a}{s}", s, shift, a))
        for a, shift in (("rl2", 0.0), ("pearl", 3.0))
        for s in (0, 1)
    ]
    figure = draw_benchmark("GridSwitch-v0", found)
    learning, profile, better = (axes for axes in figure.axes if axes.get_visible())
    drawn = {line.get_label(): line for line in learning.lines}
    assert drawn["rl2, 2 runs"].get_color() == colors.color_of("rl2")
    assert drawn["pearl, 2 runs"].get_ydata()[-1] == pytest.approx(13)
    assert {line.get_label() for line in profile.lines} == {"rl2, 2 runs", "pearl, 2 runs"}
    groups = group(curves.sources(found))
    tables = {g.label: curves.scores(g)[0] for g in groups}
    assert [text.get_text() for text in better.get_yticklabels()] == ["pearl > rl2"]
    expected = probability_of_improvement(tables["pearl"], tables["rl2"])
    assert better.lines[1].get_xdata()[0] == pytest.approx(float(expected))


def test_a_trial_of_several_episodes_has_its_adaptation(tmp_path):
    found = [curves.read_run(run(tmp_path / str(s), s, episodes=3, returns=False)) for s in range(2)]
    points = curves.adaptation(group(curves.sources(found))[0])
    returns = np.stack([r.results["test"].array() for r in found])
    assert [p.estimate for p in points] == pytest.approx(returns.mean(axis=(0, 1, 2)).tolist())
    assert all(p.low <= p.estimate <= p.high for p in points)
    assert len(draw_benchmark("GridSwitch-v0", found).axes) == 2  # no curve of learning


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_plot_writes_what_it_is_asked_for(tmp_path, suffix, capsys):
    folder, out = run(tmp_path / "r", 0), tmp_path / f"out{suffix}"
    main(["plot", str(folder), "--out", str(out)])
    assert "out" in capsys.readouterr().out
    content = out.read_bytes()
    assert content[:4] == b"\x89PNG" if suffix == ".png" else b"<svg" in content
    if suffix == ".html":
        assert b"http" not in content.replace(b"http://www.w3.org", b"").replace(b"http://purl.org", b"").replace(
            b"http://creativecommons.org", b""
        ).replace(b"https://matplotlib.org", b""), "the page loads nothing from elsewhere"


def test_plot_refuses_in_one_sentence(tmp_path, capsys):
    assert "wants folders" in refused(capsys, "plot")
    assert "no folder of a training run" in refused(capsys, "plot", str(tmp_path))
    (tmp_path / "run").mkdir()
    assert "there is no folder of a training run" in refused(capsys, "plot", str(tmp_path / "rum"))
    assert ".png, .svg, .pdf, .html" in refused(capsys, "plot", str(tmp_path), "--out", "x.bmp")


def test_a_film_shows_the_tasks_side_by_side(tmp_path, capsys):
    out = tmp_path / "film.gif"
    main(["film", "bayes", "GridSwitch-v0", "--rows", "0", "7", "--out", str(out), "--width", "100", "--every", "20"])
    assert "of the tasks 0, 7" in capsys.readouterr().out
    with Image.open(out) as film:
        pictures = [frame.convert("RGB").copy() for frame in ImageSequence.Iterator(film)]
    assert len(pictures) == 4, "the start, steps 20 and 40, the end"
    assert pictures[0].width == 2 * 100 + 3 * 10
    left, right = (np.asarray(pictures[0])[40:140, x : x + 100].astype(int) for x in (10, 120))
    assert np.abs(left - right).max() > 50, "two tasks look different"


def test_a_scene_is_what_was_played():
    class Stay:
        def begin(self, num_trials):
            return 0

        def act(self, step, belief):
            seen.append(step)
            return np.zeros(len(step.reward), dtype=int), belief + 1

    seen = []
    scene = play_scene(Stay(), "GridNavigation-v0", "test", 1, episodes=2, seed=5, every=4)
    assert len(seen) == 30 and [bool(s.first[0]) for s in seen].count(True) == 2
    assert seen[15].final.any() or seen[15].reward[0] != 0, "the second episode begins with what ended the first"
    assert np.isnan([scene.rewards[0], scene.rewards[16]]).all() and len(scene.rewards) == 32
    assert sorted(scene.frames) == [0, 4, 8, 12, 15, 16, 20, 24, 28, 31]
    task = metabench.spec("GridNavigation-v0").table().fixed("test")[1]
    assert label_of("GridNavigation-v0", "test", 1) == f"task 1: goal {task.context[0]:.3g}"
    env = metabench.make("GridNavigation-v0", split="test", episodes_per_task=2)
    env.reset(seed=5, options={"task": 1})
    assert [env.step(0)[1] for _ in range(15)] == scene.rewards[1:16]


def test_the_strip_has_the_agents_colour():
    scene = play_scene(metabench_random(), "PointRobot-v0", "test", 0, 1, 0)
    picture = np.asarray(compose([scene], "t", "random", 100)[-1])
    wanted = np.array([int(colors.color_of("random")[k : k + 2], 16) for k in (1, 3, 5)])
    assert (np.abs(picture[-70:].astype(int) - wanted).max(axis=-1) == 0).sum() > 50


def test_scenes_stand_in_columns():
    scene = play_scene(metabench_random(), "PointRobot-v0", "test", 0, 1, 0, steps=1)
    apart, above = (compose([scene] * 3, "t", "random", 100, columns=count)[0] for count in (3, 2))
    one = compose([scene], "t", "random", 100)[0]
    assert compose([scene] * 3, "t", "random", 100)[0].size == apart.size, "all side by side by default"
    assert apart.height == one.height and above.width - one.width == (apart.width - one.width) / 2
    assert above.height - one.height == one.height - HEAD - GAP, "the third begins a row"


def metabench_random():
    from metabench.plugins import load_agent

    return load_agent("random", "PointRobot-v0", "test", 0)[0]


def test_films_come_in_formats():
    pictures = [Image.new("RGB", (20, 20), color) for color in ("red", "blue", "green")]
    for suffix in (".gif", ".webp"):
        with Image.open(io.BytesIO(encode(pictures, 5, suffix))) as film:
            assert film.n_frames == 3
    with pytest.raises(ValueError, match=r"gif, \.webp, \.mp4"):
        encode(pictures, 5, ".avi")


def test_film_refuses_in_one_sentence(tmp_path, capsys, monkeypatch):
    assert "tasks 0 to 49" in refused(capsys, "film", "bayes", "GridSwitch-v0", "--rows", "50")
    assert "none of these" in refused(capsys, "film", "bayes", "GridSwitch-v0", "--out", "x.avi")
    assert "--speed must be more than 0" in refused(capsys, "film", "bayes", "GridSwitch-v0", "--speed", "0")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    told = refused(
        capsys, "film", "bayes", "GridSwitch-v0", "--out", str(tmp_path / "x.mp4"), "--steps", "1", "--width", "32"
    )
    assert "metabench[films]" in told and not (tmp_path / "x.mp4").exists()


def test_an_agents_colour_is_its_own_and_stays():
    known = list(colors.AGENTS)
    assert len({colors.color_of(name) for name in known}) == len(known)
    assert colors.color_of("rl2 (frames 5)") == colors.color_of("rl2")
    assert colors.color_of("kite-flyer") == colors.color_of("kite-flyer")
    assert colors.color_of("kite-flyer") not in {colors.color_of(name) for name in known}


def test_metrics_go_to_weights_and_biases_too(tmp_path, monkeypatch):
    logged, given = [], {}

    class Fake:
        def log(self, row, step):
            logged.append((step, row))

        def finish(self):
            logged.append("finished")

    def init(**settings):
        given.update(settings)
        return Fake()

    fake = types.ModuleType("wandb")
    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    folder = tmp_path / "r"
    words = ["train", "rl2", "GridNavigation-v0", "--frames", "2000", "--trials", "8", "--folder", str(folder)]
    main([*words, "--evaluate", "--progress", "none", "--track", "wandb"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1] == "finished"
    assert [step for step, _ in logged[:-1]] == [row["frames"] for row in rows]
    assert logged[0][1]["return"] == rows[0]["return"]
    assert given["project"] == "metabench" and given["config"]["benchmark"] == "GridNavigation-v0"


def test_a_tracker_that_is_missing_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = ["train", "rl2", "GridNavigation-v0", "--folder", str(tmp_path / "r"), "--track", "tensorboard"]
    assert "metabench[tensorboard]" in refused(capsys, *words)
