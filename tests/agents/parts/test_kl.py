"""PPO that knows how far it went, in the agents that share it: passes end early, rates follow, runs continue."""

import json

import pytest
import torch
from metabench_agents import rl2
from metabench_agents.belief import dynamite
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run, load_checkpoint

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
AGENTS = {"rl2": (rl2, SMALL_RL2), "dynamite": (dynamite, SMALL_MODEL)}
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


@pytest.mark.parametrize("name", AGENTS)
def test_a_cut_off_run_with_an_adapted_rate_continues_to_the_same_bits(name, tmp_path):
    module, config = config_of(name, {"ppo.target_kl": 1e-3, "ppo.adaptive": True}, 10)
    module.train("ReacherSwitch-v0", config, seed=1, run=Run(tmp_path / "whole", show=False, checkpoint_every=3))
    with pytest.raises(KeyboardInterrupt):
        run = Interrupted(tmp_path / "cut", show=False, checkpoint_every=3)
        module.train("ReacherSwitch-v0", config, seed=1, run=run)
    run.close()
    module.train("ReacherSwitch-v0", config, seed=1, run=Run(tmp_path / "cut", show=False, checkpoint_every=3))
    whole, cut = (load_checkpoint(tmp_path / folder) for folder in ("whole", "cut"))
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "cut")
    assert all(torch.equal(whole.tensors[key], cut.tensors[key]) for key in whole.tensors)
    assert whole.state["rate"] == cut.state["rate"] != 1.0
    scalers = [key for key in whole.tensors if key.endswith("scaler.count") and "belief_scaler" not in key]
    assert scalers and all(float(whole.tensors[key]) == TICKS * TRIALS * 10 for key in scalers)


@pytest.mark.parametrize("name", AGENTS)
def test_a_target_ends_the_passes_and_none_never_does(name, tmp_path):
    for target in (0.0, 1e-7):
        module, config = config_of(name, {"ppo.target_kl": target, "ppo.epochs": 3, "ppo.minibatches": 2}, 4)
        folder = tmp_path / str(target)
        module.train("ReacherSwitch-v0", config, seed=1, run=Run(folder, show=False))
        steps = [row["steps"] for row in rows_of(folder)]
        assert steps == [6] * 4 if not target else all(1 <= count < 6 for count in steps)
        assert all({"kl", "kl_end", "clipped", "entropy", "rate"} <= row.keys() for row in rows_of(folder))
