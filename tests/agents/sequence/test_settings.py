"""Settings of the sequence agents: in groups, by dotted names on the command line, and flat as they once were."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import tyro
from metabench_agents.parts.config import read_config
from metabench_agents.parts.run import Run, load_config
from metabench_agents.sequence import bc, dt, meta_dt, prompt_dt
from metabench_agents.sequence.targets import TargetSettings, flat_target

AGENTS = {module.NAME: module for module in (bc, dt, prompt_dt, meta_dt)}
BOARD = Path(__file__).parents[3] / "leaderboards" / "point-robot"
POLICIES = {name: sorted(BOARD.glob(f"{name}/*/policies/*/config.json")) for name in AGENTS}


def read(name, values):
    return read_config(AGENTS[name].Config, flat_target(values), getattr(AGENTS[name], "RENAMED", None))


def leaves(settings, group=""):
    """Dotted names and values."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{group}{name}.")
        else:
            yield group + name, value


@pytest.mark.parametrize("name", AGENTS)
def test_settings_are_written_in_groups_and_read_back(name, tmp_path):
    config = AGENTS[name].Config()
    Run(tmp_path, show=False).begin(name, "PointRobot-v0", config, 0)
    written = load_config(tmp_path)["config"]
    assert isinstance(written["fitting"], dict) and "updates" not in written
    assert read(name, written) == config


@pytest.mark.parametrize("name", AGENTS)
def test_every_setting_of_a_published_policy_finds_its_place(name):
    assert len(POLICIES[name]) == 5
    for path in POLICIES[name]:
        flat = json.loads(path.read_text())["config"]
        found = dict(leaves(asdict(read(name, flat))))
        renamed = getattr(AGENTS[name], "RENAMED", {})
        if name != "bc":  # asked anew at every step, as they were
            assert flat.pop("target") == "learned"
            assert read(name, {"target": "learned"}).target == TargetSettings("expectile", every_step=True)
            assert found["target.kind"] == "expectile" and found["target.every_step"]
        for old, value in flat.items():
            new = renamed.get(old) or next(n for n in found if n.split(".")[-1] == old)
            assert found[new] == (tuple(value) if isinstance(value, list) else value), (old, new)


def test_the_flat_names_that_meant_the_world_model_mean_it_still():
    config = read(
        "meta-dt", {"width": 1, "world_width": 2, "updates": 3, "world_updates": 4, "batch": 5, "world_batch": 6}
    )
    assert (config.transformer.width, config.world_model.width) == (1, 2)
    assert (config.fitting.updates, config.world_model.fitting.updates) == (3, 4)
    assert (config.fitting.batch, config.world_model.fitting.batch) == (5, 6)
    config = read("meta-dt", {"prompt": "random", "prompt_length": 7, "prompted": 0.25, "world_model": False})
    assert (config.prompt.choice, config.prompt.length, config.prompt.share) == ("random", 7, 0.25)
    assert not config.world_model.used
    with pytest.raises(ValueError, match="'worldwidth' is no setting of meta_dt"):
        read("meta-dt", {"worldwidth": 2})


def test_a_target_that_is_one_word_is_what_it_was():
    assert read("dt", {"target": "mean"}).target == TargetSettings("return", of="mean")
    assert read("dt", {"target": "best"}).target == TargetSettings("return", of="best")
    assert read("dt", {"target": {"kind": "rank"}}).target == TargetSettings("rank")
    assert not read("dt", {}).target.every_step
    with pytest.raises(ValueError, match="unknown target 'most'; there are learned, mean, best"):
        read("dt", {"target": "most"})


def test_what_is_left_out_has_the_default_of_its_own_agent():
    assert read("prompt-dt", {"playing": {"sliding": True}}).playing.explore == 0
    assert read("dt", {"playing": {"sliding": True}}).playing.explore == -1


@pytest.mark.parametrize("name", AGENTS)
def test_the_command_line_takes_dotted_names(name):
    config = tyro.cli(AGENTS[name].Config, args=["--fitting.updates", "12", "--data", "expert"])
    assert config.fitting.updates == 12 and config.data == "expert"
    if name == "meta-dt":
        words = (
            "--transformer.width 8 --world-model.width 9 --world-model.no-used --prompt.choice none --released warm-up"
        )
        config = tyro.cli(meta_dt.Config, args=words.split())
        assert (config.transformer.width, config.world_model.width, config.world_model.used) == (8, 9, False)
        assert config.prompt.choice == "none" and config.released == ("warm-up",)


def test_a_belief_of_the_trial_refuses_what_is_of_the_windows():
    assert read("meta-dt", {"world_model": {"sees": "trial"}, "released": ["warm-up"]}).world_model.sees == "trial"
    with pytest.raises(ValueError, match="'late-context' is of a world model of windows"):
        read("meta-dt", {"world_model": {"sees": "trial"}, "released": ["late-context"]})
    with pytest.raises(ValueError, match="average is of the window's z"):
        read("meta-dt", {"world_model": {"sees": "trial", "average": True}})


def test_a_run_that_does_not_say_what_its_world_model_sees_has_windows():
    """Settings of earlier runs, flat or in groups, whatever the default is."""
    for values in ({"world_width": 8}, {"world_model": {"width": 8}}, {}):
        config = read_config(meta_dt.Config, meta_dt.earlier(values), meta_dt.RENAMED)
        assert config.world_model.sees == "window"
    assert meta_dt.earlier({"world_model": {"sees": "trial"}})["world_model"] == {"sees": "trial"}
