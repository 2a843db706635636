"""FOCAL, UNICORN and CSRO learn where their context is shown; with its own, FOCAL is known to fall far below."""

import pytest
from metabench_agents.context.offline import csro, focal, unicorn
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig, shown_contexts
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run

import metabench
from metabench.evaluation.results import Protocol

ID = "PointRobot-v0"
SETTINGS = {
    "encoder.hidden": 64,
    "learning.hidden": 64,
    "learning.discount": 0.9,
    "learning.learning_rate": 3e-3,
    "fitting.updates": 1500,
    "fitting.batch": 16,
}
WAYS = {
    "shown": PlayingConfig(context="shown"),
    "episode": PlayingConfig(renew="episode"),
    "step": PlayingConfig(),
    "drawn": PlayingConfig(explore=4),
}
BEHAVIOUR = -9.48  # mean return of the data's own policies on the test tasks, which know the goal


@pytest.mark.slow
@pytest.mark.parametrize("module", [focal, unicorn, csro], ids=lambda m: m.NAME)
def test_whose_context_it_is(module, monkeypatch, tmp_path):
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    for split in ("train", "test"):
        metabench.datasets.generate("point-robot/mixed-v0", split)
    config = with_settings(module.Config(), SETTINGS)
    agent = module.train(ID, config, seed=0, run=Run(tmp_path / "run", show=False))
    found = {}
    for name, way in WAYS.items():
        shown = None
        if way.context == "shown":
            shown = shown_contexts(ID, "mixed", "train", agent.network, way.shown, seed=0)
        own = OfflineContextAgent(module.NAME, agent.network, way, shown)
        result = metabench.evaluate(own, Protocol(benchmark=ID, split="test", episodes=3, repeats=1, seed=0))
        found[name] = result.array().mean((0, 1)).round(2).tolist()
    print(module.NAME, found)
    assert found["shown"][-1] > BEHAVIOUR, found
    if module is focal:
        assert found["episode"][-1] < found["shown"][-1] - 4.0, found
