"""Settings in groups: what is written is read back, and what was once flat is still understood."""

import dataclasses
import json
from dataclasses import dataclass, field

import pytest
from metabench_agents.parts.config import read_config, with_settings


@dataclass(frozen=True)
class Rates:
    rate: float = 0.1
    widths: tuple[int, ...] = (3, 4)


@dataclass(frozen=True)
class PPO:
    clip: float = 0.2
    epochs: int = 2


@dataclass(frozen=True)
class Config:
    frames: int = 5
    ppo: PPO = PPO()
    model: Rates = Rates()
    critic: Rates = field(default_factory=lambda: Rates(0.3))


def test_what_is_written_is_read_back():
    config = Config(7, PPO(epochs=9), Rates(0.5, (1,)), Rates(0.2))
    assert read_config(Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert read_config(Config, {}) == Config()
    assert read_config(Config, {"ppo": {"clip": 0.1}}) == Config(ppo=PPO(0.1))
    assert read_config(Config, {"critic": {"widths": [5]}}).critic == Rates(0.3, (5,)), "the group's own default"


def test_settings_are_changed_by_name():
    config = with_settings(Config(), {"frames": 8, "critic.widths": (1,), "critic": Rates(0.4), "ppo.clip": 0.5})
    assert config == Config(8, PPO(0.5), Rates(), Rates(0.4))
    assert with_settings(Config(), {"critic.widths": (1,)}).critic == Rates(0.3, (1,))
    for name in ("clip", "ppo.clap", "frames.more"):
        with pytest.raises(ValueError, match="is no setting"):
            with_settings(Config(), {name: 1})


def test_what_a_group_leaves_out_is_the_algorithms_default():
    """Not that of the group's class: `critic` has a rate of its own."""
    assert read_config(Config, {"critic": {"widths": [1]}}) == Config(critic=Rates(0.3, (1,)))


def test_flat_settings_find_their_group():
    flat = {"frames": 1, "clip": 0.3, "model_rate": 0.9, "widths": [2], "gone": 4}
    renamed = {"model_rate": "model.rate", "widths": "model.widths", "gone": ""}
    assert read_config(Config, flat, renamed) == Config(1, PPO(0.3), Rates(0.9, (2,)))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"rate": 1}, "'rate' may mean model.rate or critic.rate"),
        ({"clap": 1}, "'clap' is no setting"),
        ({"ppo": {"clap": 1}}, "'ppo.clap' is no setting"),
        ({"ppo": 3}, "'ppo' is no setting"),
    ],
)
def test_what_is_no_setting_is_named(values, told):
    with pytest.raises(ValueError, match=told):
        read_config(Config, values)
