"""The sweep of the offline agents: presets, ablations and changes reach the settings they name."""

from dataclasses import asdict

import pytest

from metabench.plugins import load_plugin
from studies.meta_dt.study import ABLATIONS, AGENTS, RELEASED, Item, check_names, config_of, group_of, setting


def config(agent, variant="", preset="small", **changes):
    item = Item("CheetahVel-v0", "expert", agent, variant, 0)
    return config_of(item, load_plugin(agent), preset, {name.replace("__", "."): v for name, v in changes.items()})


@pytest.mark.parametrize("agent", AGENTS)
def test_small_and_released_settings(agent):
    small, released = config(agent), config(agent, preset="released")
    assert small.data == released.data == "expert"
    if agent == "bc":
        assert small == released and small.fitting == load_plugin("bc").Config().fitting
        return
    assert (small.transformer.width, small.transformer.layers) == (64, 2)
    assert (small.fitting.updates, small.fitting.batch, small.fitting.learning_rate) == (1_500, 32, 3e-3)
    assert (released.fitting.updates, released.fitting.learning_rate) == RELEASED["CheetahVel-v0"][:2]
    assert (released.fitting.batch, released.fitting.warmup, released.fitting.decay) == (128, 10_000, False)
    assert released.transformer == load_plugin(agent).Config().transformer
    if agent == "meta-dt":
        assert small.world_model.fitting.updates == 6_000 and released.world_model.fitting.updates == 4_200_000


@pytest.mark.parametrize("variant", ABLATIONS)
def test_an_ablation_changes_what_it_names_and_nothing_else(variant):
    plain, changed = asdict(config("meta-dt")), asdict(config("meta-dt", variant))
    assert changed != plain
    for name, value in ABLATIONS[variant].items():
        (place, key), (before, _) = group_of(changed, name), group_of(plain, name)
        assert place[key] == value
        place[key] = before[key]
    assert changed == plain


def test_released_ways_are_settings_too():
    assert config("meta-dt", "warm-up").released == ("warm-up",)
    assert len(config("meta-dt", "released").released) == 10


def test_changes_reach_every_agent_that_has_the_setting():
    assert [config(agent, fitting__updates=7).fitting.updates for agent in AGENTS] == [7] * 4
    assert config("meta-dt", world_model__history=2).world_model.history == 2
    assert config("bc", world_model__history=2) == config("bc")
    check_names(["fitting.updates", "world_model.history", "target.kind"], AGENTS)
    for name in ("updates", "target", "fitting", "fitting.update", "world.history"):
        with pytest.raises(SystemExit, match="no agent has a setting"):
            check_names([name], AGENTS)
    assert setting("fitting.decay=false") == ("fitting.decay", False)
    assert setting("fitting.device=cuda") == ("fitting.device", "cuda")
