"""Every algorithm's published policy, the checkpoint without what only training needs, plays as the whole one does."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

import metabench
from metabench import runs
from metabench.datasets import generate
from metabench.plugins import agent_names, load_plugin

ALGORITHMS = [name for name in agent_names() if hasattr(load_plugin(name), "train")]
ON_DATA = dict.fromkeys(("bc", "dt", "meta-dt", "prompt-dt", "gdt", "focal", "unicorn", "csro", "corro"), "medium")
TINY = {
    "trials": 8,
    "iterations": 2,
    "updates": 6,
    "ahead": 4,
    "model_updates": 3,
    "world_updates": 6,
    "warmup": 2,
    "warmup_updates": 2,
    "imagine_every": 3,
    "rollouts_per_task": 2,
    "evaluate_every": 0,
    "every": 400,
    "batch": 16,
    "meta_batch": 4,
}
IN_CONTEXT = ("ad", "dpt")
ON_GRIDS = ("varibad", "dynamite", "secbad", "contrabar", "dynamite-iql", "borel")
FRAMES = {"maml": 800, "rl2": 800, "rsac": 1600, "sac-oracle": 3000} | dict.fromkeys(ON_GRIDS[:4], 3 * 8 * 60)


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """Small datasets in a root of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("METABENCH_DATA", str(tmp_path_factory.mktemp("data")))
    generate("grid-switch/replay-v0", "train", episodes=10)
    generate("dark-room/history-v0", "train", episodes=100)
    for split in ("train", "test"):
        generate("point-robot/medium-v0", split, episodes=5)
    yield
    patch.undo()


def shrunk(config, wanted):
    """The settings with those of the wanted names changed, in whatever group they stand."""
    new = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            new[field.name] = shrunk(value, wanted)
        elif field.name in wanted:
            new[field.name] = wanted[field.name]
    return replace(config, **new)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_published_is_enough_to_play(tmp_path, name):
    plugin = load_plugin(name)
    id = "GridSwitch-v0" if name in ON_GRIDS else "DarkRoom-v0" if name in IN_CONTEXT else "PointRobot-v0"
    wanted = TINY | ({"frames": FRAMES[name]} if name in FRAMES else {})
    wanted |= {"data": ON_DATA[name]} if name in ON_DATA else {}
    config = shrunk(plugin.Config(), wanted)
    run = plugin.Run(tmp_path / "run", show=False)
    plugin.train(id, config, seed=0, run=run)
    (tmp_path / "published").mkdir()
    for file, content in runs.policy(run.folder).files.items():
        (tmp_path / "published" / file).write_bytes(content)
    whole, published = (
        metabench.evaluate(plugin.load(folder), id, split="test").array()
        for folder in (run.folder, tmp_path / "published")
    )
    assert np.isfinite(whole).all() and np.array_equal(whole, published)
