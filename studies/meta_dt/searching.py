"""Where the sequence models of SparsePointRobot's board go, goal or no goal: their place after the last but one step.

    python -m studies.meta_dt.searching

Plays the first published policy of each entry, forty trials of test goals. The goals lie on the unit circle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import metabench
from metabench.evaluation.play import Stream
from metabench.plugins import load_agent
from metabench.rng import Array
from studies.tables import ROOT

BENCHMARK, BOARD = "SparsePointRobot-v0", ROOT / "leaderboards" / "sparse-point-robot"
ENTRIES = {  # by name, so that what others enter changes nothing here
    "cloning": "bc/2026-11-30-79b7fc84c6",
    "DT": "dt/2026-11-30-8f181faf80",
    "Meta-DT": "meta-dt/2026-11-30-04fdea33c0",
}
TRIALS = 40


def places(agent: Any) -> Iterator[Array]:
    """`[TRIALS, 2]` m, episode by episode."""
    horizon, episodes = metabench.spec(BENCHMARK).horizon, metabench.spec(BENCHMARK).episodes
    env = metabench.make_vec(BENCHMARK, num_envs=TRIALS, split="test")
    shown = Stream(env.reset(seed=0)[0], env.single_action_space)
    memory, seen = agent.begin(TRIALS), np.zeros((TRIALS, 2))
    for _ in range(episodes):
        for step in range(horizon):
            action, memory = agent.act(shown.timestep(), memory)
            observation, reward, terminated, truncated, info = env.step(action)
            if step == horizon - 2:
                seen = np.array(observation)
            shown.advance(action, observation, reward, terminated | truncated, info.get("final_obs"))
        yield seen


if __name__ == "__main__":
    for name, entry in ENTRIES.items():
        agent, *_ = load_agent(str(BOARD / entry / "policies" / "run_000"), BENCHMARK, "test", 0)
        for number, place in enumerate(places(agent)):
            where, radius = place.mean(axis=0).round(2), np.hypot(*place.T).mean()
            print(f"{name}, episode {number + 1}: {radius:.2f} m from the middle, on average at {where}")
