"""Policies published under an earlier protocol, with flat settings: they load, and reach the returns they once did."""

import json
from pathlib import Path

import numpy as np
import pytest

import metabench
from metabench.evaluation.results import Result
from metabench.plugins import load_plugin

BOARDS = Path(__file__).parent.parent.parent / "leaderboards"
ENTRIES = [  # one of every algorithm that keeps a memory over a trial, and of every board they stand on
    "grid-switch/rl2",
    "grid-navigation/rl2",
    "point-robot/rl2",
    "grid-switch/varibad",
    "grid-switch/dynamite",
    "grid-switch/dynamite-iql",
]


def opened(entry, run, folder):
    """The agent of a run of an entry, and what it once reached."""
    (submission,) = (BOARDS / entry).iterdir()
    for target, source in (("config.json", "config.json"), ("checkpoint.safetensors", "policy.safetensors")):
        (folder / target).write_bytes((submission / "policies" / f"run_{run:03}" / source).read_bytes())
    stored = json.loads((submission / "result.json").read_text())["results"][run]
    return load_plugin(entry.partition("/")[2]).load(folder), Result.model_validate(stored)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_published_policy_reaches_its_published_returns(tmp_path, entry):
    agent, once = opened(entry, 0, tmp_path)
    assert agent.protocol == once.protocol.version == "slots-1"
    again = metabench.evaluate(agent, once.protocol)
    assert np.array_equal(again.array(), once.array())


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_run_of_it_does(tmp_path, entry):
    for run in range(1, 5):
        agent, once = opened(entry, run, tmp_path)
        assert np.array_equal(metabench.evaluate(agent, once.protocol).array(), once.array())


@pytest.mark.parametrize("entry", ["grid-navigation/rl2", "point-robot/rl2"])
def test_a_policy_that_never_learned_from_an_episodes_end_does_not_read_it(tmp_path, entry):
    """Shown more than it was trained on, it acts as it always did; and it is played as it was trained by default."""
    agent, once = opened(entry, 0, tmp_path)
    shown = metabench.evaluate(agent, once.protocol.model_copy(update={"version": "slots-2"}))
    assert np.array_equal(shown.array(), once.array())
    assert metabench.evaluate(agent, once.protocol.benchmark).protocol.version == "slots-1"
