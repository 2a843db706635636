"""The film of what MetaDreamer imagines, with a policy of the board."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metabench.plugins import load_agent
from studies.metadreamer import film

BOARD = Path(__file__).parents[2] / "leaderboards/highway-merge-2/metadreamer"
GIVES_WAY, CLOSES_UP = 3, 12  # rows of the split: courtesy 0.61 and -0.79


@pytest.fixture(scope="module")
def agent():
    folder = BOARD / "2026-11-29-a65464d443/policies/run_000"
    return load_agent(str(folder), film.BENCHMARK, film.SPLIT, 0)[0]


@pytest.mark.parametrize("task", [GIVES_WAY, CLOSES_UP])
def test_the_model_drives_as_the_simulator_does(agent, task):
    simulated, start, guess = film.last_episode(agent, task, 0)
    imagined = film.imagined_episode(agent, start, guess)
    np.testing.assert_allclose(imagined.states[0].position, simulated.states[0].position)
    assert sum(imagined.rewards) == pytest.approx(sum(simulated.rewards), abs=1.0)


def test_another_guess_is_another_episode(agent):
    _, start, guess = film.last_episode(agent, GIVES_WAY, 0)
    own, other = (film.imagined_episode(agent, start, z) for z in (guess, -2.0 * guess))
    assert abs(sum(own.rewards) - sum(other.rewards)) > 0.5
