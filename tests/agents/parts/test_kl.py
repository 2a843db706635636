"""PPO that knows how far it went, in the agents that share it: passes end early, rates follow, runs continue."""

import json

import pytest
import torch
from metabench_agents import rl2
from metabench_agents.belief import contrabar, dynamite, secbad
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run, load_checkpoint

import metabench

SMALL_MODEL = {
    "model.encoder.embed": 8,
    "model.encoder.hidden": 8,
    "model.decoder.sees": "all",
    "model.decoder.hidden": (8, 8),
    "model.products": False,
    "model.normalise": True,
    "model.terms": 5,
    "model.steps": 5,
    "fit.updates": 2,
    "fit.trials": 4,
    "width": 16,
    "warmup.iterations": 2,
    "warmup.updates": 2,
    "buffer": 50,
}
SMALL_RL2 = {"network.hidden": 8, "network.embed": 8, "network.head": 8, "network.normalise": True}
SMALL_CONTRAST = {
    "model.encoder.embed": 8,
    "model.encoder.hidden": 8,
    "model.products": False,
    "model.normalise": True,
    "model.ahead": 3,
} | {name: value for name, value in SMALL_MODEL.items() if not name.startswith("model.")}
SMALL_SEGMENTS = SMALL_MODEL | {"segments.candidates": 3, "segments.draws": 2}
AGENTS = {
    "rl2": (rl2, SMALL_RL2),
    "dynamite": (dynamite, SMALL_MODEL),
    "secbad": (secbad, SMALL_SEGMENTS),
    "contrabar": (contrabar, SMALL_CONTRAST),
}
TICKS, TRIALS = 100, 4  # of ReacherSwitch, whose joint velocities have no bounds


class Interrupted(Run):
    """A run that is cut off while an iteration is told of, with nothing said to anybody."""

    rows = 7

    def log(self, row):
        self.rows -= 1
        if self.rows < 0:
            raise KeyboardInterrupt
        super().log(row)


def config_of(name, changes, iterations):
    module, small = AGENTS[name]
    frames = TICKS * TRIALS * iterations
    return module, with_settings(module.Config(), small | {"frames": frames, "trials": TRIALS} | changes)


def rows_of(folder):
    table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in table]


@pytest.mark.parametrize(
    "name", ["rl2", "dynamite", *(pytest.param(n, marks=pytest.mark.slow) for n in ("secbad", "contrabar"))]
)
def test_a_cut_off_run_with_an_adapted_rate_continues_to_the_same_bits(name, tmp_path):
    module, config = config_of(name, {"ppo.target_kl": 1e-3, "ppo.adaptive": True}, 10)
    run = Run(tmp_path / "whole", show=False, checkpoint_every=3)
    trained = module.train("ReacherSwitch-v0", config, seed=1, run=run)
    with pytest.raises(KeyboardInterrupt):
        run = Interrupted(tmp_path / "cut", show=False, checkpoint_every=3)
        module.train("ReacherSwitch-v0", config, seed=1, run=run)
    run.close()
    module.train("ReacherSwitch-v0", config, seed=1, run=Run(tmp_path / "cut", show=False, checkpoint_every=3))
    whole, cut = (load_checkpoint(tmp_path / folder) for folder in ("whole", "cut"))
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "cut")
    assert all(torch.equal(whole.tensors[key], cut.tensors[key]) for key in whole.tensors)
    assert whole.state["rate"] == cut.state["rate"] != 1.0
    loaded = module.load(tmp_path / "cut")
    assert loaded.name == name and loaded.protocol == "slots-2"
    results = [metabench.evaluate(agent, "ReacherSwitch-v0", seed=1).returns for agent in (trained, loaded)]
    assert results[0] == results[1]
    scalers = [key for key in whole.tensors if key.endswith("scaler.count") and "belief_scaler" not in key]
    assert scalers and all(float(whole.tensors[key]) == TICKS * TRIALS * 10 for key in scalers)


@pytest.mark.parametrize("name", ["rl2", "dynamite"])
def test_a_target_ends_the_passes_and_none_never_does(name, tmp_path):
    for target in (0.0, 1e-7):
        module, config = config_of(name, {"ppo.target_kl": target, "ppo.epochs": 3, "ppo.minibatches": 2}, 4)
        folder = tmp_path / str(target)
        module.train("ReacherSwitch-v0", config, seed=1, run=Run(folder, show=False))
        steps = [row["steps"] for row in rows_of(folder)]
        assert steps == [6] * 4 if not target else all(1 <= count < 6 for count in steps)
        assert all({"kl", "kl_end", "clipped", "entropy", "rate"} <= row.keys() for row in rows_of(folder))


@pytest.mark.slow
@pytest.mark.parametrize("module", [secbad, contrabar])
def test_rivals_of_dynamite_learn_on_the_switching_grid(module, tmp_path):
    """300,000 frames: far from random (-3.4) and from standing still (-6)."""
    config = with_settings(module.Config(), {"frames": 300_000, "warmup.updates": 400, "fit.updates": 8})
    agent = module.train("GridSwitch-v0", config, seed=0, run=Run(tmp_path, show=False))
    assert metabench.evaluate(agent, "GridSwitch-v0").array().mean() > 12.0
