"""Settings have ranges, for every agent by one rule."""

import math
from dataclasses import dataclass, field, fields, is_dataclass, replace

import pytest

from metabench.cli.main import main
from metabench.cli.train import command_of
from metabench.plugins import agent_names, load_plugin
from metabench.settings import check_settings


@dataclass(frozen=True)
class PPO:
    clip: float = 0.2
    epochs: int = 4
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Config:
    frames: int = 100
    tasks: int = 0
    discount: float = 0.9
    floor: float = -1.0
    limit: float = math.inf
    hidden: tuple[int, ...] = (32, 32)
    warmup: int = field(default=3, metadata={"low": 0})
    share: float = field(default=0.5, metadata={"low": 0, "high": 1})
    scale: bool = True
    split: str = "train"
    ppo: PPO = PPO()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": -5}, "--frames must be at least 1, got -5"),
        ({"frames": 0}, "--frames must be at least 1, got 0"),
        ({"tasks": -1}, "--tasks must be at least 0, got -1"),
        ({"discount": 1.5}, "--discount must be from 0 to 1, got 1.5"),
        ({"discount": math.nan}, "--discount must be from 0 to 1, got nan"),
        ({"floor": math.inf}, "--floor must be a finite number, got inf"),
        ({"hidden": (32, 0)}, "--hidden must be at least 1, got 0"),
        ({"warmup": -1}, "--warmup must be at least 0, got -1"),
        ({"share": 1.1}, "--share must be from 0 to 1, got 1.1"),
        ({"ppo": PPO(clip=-0.1)}, r"--ppo\.clip must be at least 0 and finite, got -0\.1"),
        ({"ppo": PPO(epochs=0)}, r"--ppo\.epochs must be at least 1, got 0"),
        ({"ppo": PPO(learning_rate=0.0)}, r"--ppo\.learning-rate must be more than 0 and finite, got 0\.0"),
        ({"ppo": PPO(learning_rate=math.inf)}, "more than 0 and finite, got inf"),
    ],
)
def test_what_means_nothing_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        check_settings(replace(Config(), **changes))


@pytest.mark.parametrize("changes", [{}, {"tasks": 3}, {"warmup": 0}, {"floor": 2.0}, {"limit": 5.0}, {"hidden": ()}])
def test_what_means_something_is_not(changes):
    check_settings(replace(Config(), **changes))


def counts(config, group=""):
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from counts(value, f"{group}{f.name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"--{group}{f.name}".replace("_", "-")


LEARNERS = [name for name in agent_names() if hasattr(load_plugin(name), "Config")]


@pytest.mark.parametrize("name", LEARNERS)
def test_the_defaults_of_every_agent_pass(name):
    check_settings(load_plugin(name).Config())


@pytest.mark.parametrize("name", LEARNERS)
def test_a_negative_count_is_refused_for_every_agent_before_anything_is_written(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option in counts(load_plugin(name).Config()):
        with pytest.raises(SystemExit) as stop:
            main(["train", name, "GridSwitch-v0", option, "-5"])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and f"metabench: {option} must be" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_groups_of_settings_on_the_command_line(tmp_path, capsys):
    from metabench.cli.dispatch import parse

    seen = []

    class Toy:
        class Run:
            def __init__(self, folder, show):
                pass

        def train(self, benchmark, config, *, seed, run):
            seen.append((benchmark, config, seed))

    Toy.Config = Config
    words = ["GridSwitch-v0", "--frames", "7", "--ppo.clip", "0.1", "--seed", "3", "--hidden", "8", "9"]
    parse(command_of("toy", Toy(), Config()), "metabench train toy", [*words, "--folder", str(tmp_path), "--evaluate"])
    ((benchmark, config, seed),) = seen
    assert (benchmark, seed) == ("GridSwitch-v0", 3)
    assert config == Config(frames=7, hidden=(8, 9), ppo=PPO(clip=0.1))
    with pytest.raises(ValueError, match=r"--ppo\.clip must be"):
        parse(command_of("toy", Toy(), Config()), "metabench train toy", ["GridSwitch-v0", "--ppo.clip", "-1"])
    assert len(seen) == 1
