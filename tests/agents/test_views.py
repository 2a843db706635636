"""Every agent learns under a view, says how many real steps that took, and plays the same when it is loaded."""

import json

import numpy as np
import pytest
from metabench_agents import rl2, rsac
from metabench_agents.belief import contrabar, dynamite, secbad, varibad
from metabench_agents.context import metadreamer, pearl
from metabench_agents.gradient import maml
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run
from metabench_agents.parts.view import VIEWS

import metabench
from metabench.cli.train import defaults

ID = "HighwayMerge-v0"
VIEW = {"view.near": True, "view.hold": 5, "view.time": True}
WHOLE = {**VIEW, "view.whole": True, "trials": 4, "frames": 4 * 3 * 55}
SMALL = {
    "iterations": 1,
    "tasks": 2,
    "updates": 2,
    "meta_batch": 2,
    "batch": 8,
    "collection.initial_episodes": 2,
    "collection.prior_episodes": 1,
    "collection.posterior_episodes": 1,
    "collection.tasks_per_iteration": 2,
}
DREAM = {
    "learner": "ppo",
    "model.decoder.kind": "vehicles",
    "model.updates": 2,
    "dream.steps": 1000,
    "dream.slots": 8,
    "rounds.least_skill": -100.0,
}
ONE_STEP = {"inner.episodes": 2}
RUNS = {
    "rl2": (rl2, WHOLE),
    "rl2-transformer": (rl2, {**WHOLE, "core": "transformer"}),
    "varibad": (varibad, {**WHOLE, "warmup.iterations": 0, "fit.updates": 1}),
    "dynamite": (dynamite, {**WHOLE, "warmup.iterations": 0, "fit.updates": 1}),
    "secbad": (secbad, {**WHOLE, "warmup.iterations": 0, "fit.updates": 1, "segments.candidates": 4}),
    "contrabar": (contrabar, {**WHOLE, "warmup.iterations": 0, "fit.updates": 1}),
    "rsac": (rsac, {**WHOLE, "every": 300}),
    "maml": (maml, {**VIEW, "view.whole": True, "tasks": 2, "trials_per_task": 1, "frames": 2 * 3 * 55, **ONE_STEP}),
    "pearl": (pearl, {**VIEW, **SMALL, "sac.learned_temperature": True}),
    "metadreamer": (metadreamer, {**VIEW, **SMALL, "model.updates": 2, "imagination.every": 1}),
    "metadreamer-ppo": (metadreamer, {**VIEW, **SMALL, **DREAM, "iterations": 2}),
}


def frames(folder):
    return [json.loads(line)["frames"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_an_agent_learns_and_plays_under_a_view(name, tmp_path):
    algorithm, settings = RUNS[name]
    config = with_settings(algorithm.Config(), settings)
    agent = algorithm.train(ID, config, seed=0, run=Run(tmp_path, show=False))
    again = algorithm.load(tmp_path)
    ours, theirs = (metabench.evaluate(a, ID, split="ood") for a in (agent, again))
    assert ours.returns == theirs.returns
    assert ours.protocol.episodes == 3 and ours.protocol.benchmark == ID
    counted = frames(tmp_path)[-1]
    if "trials" in settings:
        assert counted == 4 * 3 * 55
    elif name == "metadreamer-ppo":
        assert 6 * 2 < counted <= 6 * 2 * 55 / 1.5  # two tasks, two and then two episodes, most to their limit
    else:
        assert 60 < counted <= 2 * 4 * 55


class Steps:
    """Counts the steps between changes of an agent's actions."""

    name, protocol = "steps", "slots-2"

    def __init__(self, own):
        self.own, self.actions = own, []

    def begin(self, num_trials):
        return self.own.begin(num_trials)

    def act(self, step, belief):
        action, belief = self.own.act(step, belief)
        self.actions.append((np.asarray(step.first)[0], float(np.asarray(action)[0, 0])))
        return action, belief


@pytest.mark.parametrize("name", ["pearl", "metadreamer-ppo"])
def test_a_decision_stands_for_its_steps(name, tmp_path):
    algorithm, settings = RUNS[name]
    config = with_settings(algorithm.Config(), {**settings, "iterations": 1})
    agent = Steps(algorithm.train(ID, config, seed=1, run=Run(tmp_path, show=False)))
    metabench.evaluate(agent, ID, split="ood")
    since = 0
    for (first, action), (_, before) in zip(agent.actions[1:], agent.actions[:-1], strict=True):
        since = 0 if first else since + 1
        assert since % 5 == 0 or action == before


def test_settings_for_a_benchmark_have_its_view():
    for algorithm in (rl2, varibad, dynamite):
        assert algorithm.recommended(ID).view == VIEWS[ID].__class__(near=True, hold=5, time=True, whole=True)
        assert algorithm.recommended("GridSwitch-v0") == algorithm.Config()
    assert metadreamer.recommended(ID).view == VIEWS[ID] and metadreamer.recommended(ID).learner == "ppo"
    assert metadreamer.recommended("PointRobot-v0") == metadreamer.Config()


def test_every_ablation_of_a_run_in_rounds_is_a_setting():
    whole = metadreamer.recommended(ID)
    assert all(with_settings(whole, changes) != whole for changes in metadreamer.ROUNDS.values())


def test_training_starts_from_what_is_recommended():
    assert defaults(metadreamer, [ID]) == metadreamer.recommended(ID)
    assert defaults(rl2, ["GridSwitch-v0"]) == rl2.Config() == defaults(rl2, ["--help"])
    assert defaults(pearl, ["CheetahVel-v0"]) == pearl.published("CheetahVel-v0")
