"""Settings out of JSON, and the grid of jobs made of them."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from metabench.sweep.grid import grid, parse_seeds, parse_setting, sort_out
from metabench.sweep.settings import changes_of, configure, settings_of


@dataclass(frozen=True)
class Clip:
    ratio: float = 0.2
    norm: float | None = 0.5


@dataclass(frozen=True)
class Ppo:
    clip: Clip = field(default_factory=Clip)
    epochs: int = 2
    rate: float = 1e-3


@dataclass(frozen=True)
class Config:
    frames: int = 10
    sizes: tuple[int, ...] = (64,)
    pair: tuple[int, str] = (1, "a")
    kind: Literal["all", "none"] = "all"
    skip: bool = True
    ppo: Ppo = field(default_factory=lambda: Ppo(epochs=7))
    model: Clip = field(default_factory=Clip)


class Agent:
    Config = Config
    RENAMED: ClassVar = {"cut": "ppo.clip.ratio", "epochs_of_old": "ppo.epochs", "speed_of_light": ""}


def test_settings_answer_to_the_names_they_had():
    assert settings_of(Agent, {"cut": 0.3, "speed_of_light": 3}) == configure(Config, {"ppo.clip.ratio": 0.3})
    assert changes_of(Agent, {"cut": 0.3, "speed_of_light": 3, "epochs_of_old": 1}) == {
        "ppo.clip.ratio": 0.3,
        "ppo.epochs": 1,
    }
    with pytest.raises(ValueError, match="no setting 'cut'"):
        configure(Config, {"cut": 0.3})


def test_dotted_nested_and_unique_last_names_mean_the_same():
    wanted = Config(ppo=Ppo(Clip(0.1, None), epochs=7))
    for changes in (
        {"ppo.clip.ratio": 0.1, "ppo.clip.norm": None},
        {"ppo": {"clip": {"ratio": 0.1, "norm": None}}},
        {"ppo": {"clip.ratio": 0.1}, "ppo.clip.norm": None},
    ):
        assert configure(Config, changes) == wanted
        assert changes_of(Agent, changes) == {"ppo.clip.ratio": 0.1, "ppo.clip.norm": None}
    assert configure(Config, {"epochs": 3}).ppo == Ppo(epochs=3)
    assert configure(Config, {}) == Config(), "a group's own defaults stay"


def test_values_get_the_types_of_the_settings():
    changed = configure(Config, {"sizes": [1, 2], "pair": [2, "b"], "rate": 1, "kind": "none", "skip": False})
    assert changed.sizes == (1, 2) and changed.pair == (2, "b") and changed.skip is False
    assert changed.ppo.rate == 1.0 and isinstance(changed.ppo.rate, float)
    assert configure(Config, {"frames": 1e3}).frames == 1000
    assert changes_of(Agent, {"rate": 1, "sizes": (3,)}) == {"ppo.rate": 1.0, "sizes": [3]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"framse": 1}, "did you mean 'frames'"),
        ({"ppo.clip.ration": 1}, "did you mean 'ppo.clip.ratio'"),
        ({"ratio": 1}, "several settings 'ratio': ppo.clip.ratio, model.ratio"),
        ({"ppo": 3}, "no setting 'ppo'"),
        ({"frames": 1.5}, "frames is a whole number, got 1.5"),
        ({"frames": True}, "whole number"),
        ({"skip": 1}, "true or false"),
        ({"kind": "some"}, "one of all, none"),
        ({"sizes": 3}, "a list"),
        ({"sizes": ["x"]}, "a list"),
        ({"pair": [1]}, "a list"),
        ({"ppo.clip.norm": "x"}, "a number or null"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        configure(Config, changes)
    assert "\n" not in str(error.value)


def test_a_sweep_is_a_grid_with_seeds_outermost():
    values = {"clip": [0.1, 0.2], "trials": [8]}
    jobs = grid(["rl2", "random"], ["GridNavigation-v0"], [0, 1], values, ("test",), {"checkpoint_every": 5})
    assert [(job.kind, job.seed) for job in jobs] == [("train", 0)] * 2 + [("evaluate", 0)] + [("train", 1)] * 2 + [
        ("evaluate", 1)
    ]
    assert jobs[0].settings["config"] == {"ppo.clip": 0.1, "trials": 8} and jobs[0].settings["checkpoint_every"] == 5
    assert jobs[2].settings == {"agent": "random", "benchmark": "GridNavigation-v0", "split": "test"}
    assert len({job.key() for job in jobs}) == 6
    assert grid(["rl2"], ["GridNavigation-v0"], [0], {"clip": [1, 1.0]}) == grid(
        ["rl2"], ["GridNavigation-v0"], [0], {"clip": [1.0]}
    ), "one spelling, one job"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["rl2"], ["GridNavigation-v0"], [0], {"clap": [1]}), "did you mean 'ppo.clip'"),
        ((["rl2"], ["GridNavigation-v0"], [0], {}, ("tset",)), "test"),
        ((["random"], ["GridNavigation-v0"], [0], {"clip": [1]}), "none of random is trained"),
    ],
)
def test_a_grid_of_what_does_not_exist_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        grid(*arguments)


def test_words_are_sorted_into_agents_and_benchmarks(tmp_path):
    assert sort_out(["rl2", "GridSwitch-v0", "bayes", "metabench/PointRobot-v0", "rl2"]) == (
        ["rl2", "bayes"],
        ["GridSwitch-v0", "PointRobot-v0"],
    )
    for names, words in (
        (["rl3", "GridSwitch-v0"], "did you mean 'rl2'"),
        (["rl2", "GridSwich-v0"], "did you mean 'GridSwitch-v0'"),
        (["rl2"], "at least one benchmark"),
        (["GridSwitch-v0"], "at least one agent"),
    ):
        with pytest.raises(ValueError, match=words):
            sort_out(names)


def test_runs_are_evaluated_as_they_are_now(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"agent": "rl2", "benchmark": "GridNavigation-v0", "seed": 0, "config": {}}')
    (folder / "checkpoint.safetensors").write_bytes(b"weights")
    first = grid([str(folder)], ["GridNavigation-v0"], [0], splits=("test",))
    assert [job.kind for job in first] == ["evaluate"] and first[0].settings["agent"] == str(folder.resolve())
    (folder / "result.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("{}")
    assert grid([str(folder)], ["GridNavigation-v0"], [0], splits=("test",)) == first
    (folder / "checkpoint.safetensors").write_bytes(b"others")
    assert grid([str(folder)], ["GridNavigation-v0"], [0], splits=("test",)) != first
    with pytest.raises(ValueError, match="was trained on GridNavigation-v0, not on GridSwitch-v0"):
        grid([str(folder)], ["GridSwitch-v0"], [0])


def test_seeds_and_settings_are_read():
    assert parse_seeds("0-2,7, 1") == [0, 1, 2, 7]
    assert parse_setting("ppo.clip=0.1,0.2") == ("ppo.clip", [0.1, 0.2])
    assert parse_setting('sizes=[64,32],[8],none,"a,b",true') == ("sizes", [[64, 32], [8], "none", "a,b", True])
    for text in ("3-1", "a", "", "1-", "-1"):
        with pytest.raises(ValueError, match="seeds are given as"):
            parse_seeds(text)
    for text in ("clip", "=3", "clip="):
        with pytest.raises(ValueError, match="settings are given as"):
            parse_setting(text)
