"""How HighwayMerge's episodes end, by courtesy."""

import json

import numpy as np
import pytest

import metabench
from studies.highway import regimes


class Always:
    """One acceleration for ever."""

    name, protocol = "always", "slots-2"

    def __init__(self, action):
        self.action = action

    def begin(self, count):
        return None

    def act(self, step, belief):
        return np.full((len(step.reward), 1), self.action, np.float32), belief


def test_who_brakes_waits_and_who_does_not_merges_or_crashes():
    braking, going = (regimes.played(Always(action), "test") for action in (-1.0, 0.0))
    assert braking.waited.all() and not braking.merged.any() and not braking.crashed.any()
    assert not going.waited.any() and (going.merged ^ going.crashed).all() and going.merged.any()


def test_returns_and_successes_are_the_evaluations():
    agent = Always(0.2)
    ours = regimes.played(agent, "ood")
    theirs = metabench.evaluate(agent, "HighwayMerge-v0", split="ood")
    assert np.allclose(ours.returns, theirs.trials())
    assert ours.returns.shape == (100, 3)


def test_the_regimes_divide_all_tasks():
    episodes = regimes.played(Always(-1.0), "test")
    record = regimes.summary(episodes, -1)
    assert set(record) == {"all", *regimes.REGIMES}
    sizes = [((episodes.courtesy >= low) & (episodes.courtesy < high)).mean() for low, high in regimes.REGIMES.values()]
    assert sum(sizes) == pytest.approx(1.0)
    mean = sum(size * record[name]["return"] for size, name in zip(sizes, regimes.REGIMES, strict=True))
    assert record["all"]["return"] == pytest.approx(mean)


def test_the_command_prints_a_table(capsys, tmp_path):
    regimes.main(["random", "--split", "test", "--json", str(tmp_path / "out.json")])
    assert "| random |" in capsys.readouterr().out
    assert 0.0 <= json.loads((tmp_path / "out.json").read_text())["test"]["random"]["all"]["crashed"] <= 1.0
