"""Shows that ScratchItch's hidden itch can be inferred: told, untold with memory, and untold without.

    python -m studies.itch.probe            # writes studies/itch/results/ScratchItch-v0/probe.json, prints a table
    python -m studies.itch.probe --aims     # first chooses the fixed aim again, on training tasks

Four agents play the test tasks, five seeds each: `oracle` sees the itch; `itch-filter` infers it from its rewards;
`fixed-aim` scratches one place of the arm whatever it feels, the best such place on training tasks, because a policy
that forgets its rewards goes by the average; `forgetful` is the filter that starts anew at every step, so that it
goes by its last reward alone. What counts is when in an episode they scratch: only memory can gain on the way.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

import metabench
from metabench import Timestep
from metabench.evaluation.play import play as play_agent
from metabench.yardsticks.scratch_itch import ItchFilter, Scratcher, itch_filter, oracle

PATH = Path(__file__).parent / "results" / "ScratchItch-v0" / "probe.json"
SEEDS = range(31_000, 31_005)  # no evaluation uses them
PHASES = ((0, 20), (20, 50), (50, 100), (100, 200))  # steps of an episode
AIMS = [(along, around) for along in (0.35, 0.7, 1.0, 1.3, 1.65) for around in (0.0, np.pi / 2, 3 * np.pi / 2)]
BEST_AIM = (1.65, 0.0)  # of those, by the return on training tasks


class Forgetful(ItchFilter):
    """The filter without memory: every reward is judged as if it were the first."""

    name = "forgetful"

    def act(self, step: Timestep, belief: Any) -> tuple[Any, Any]:
        """As the filter, but with even weights before this reward."""
        return super().act(step, belief._replace(weight=self.begin(len(step.reward)).weight))


def play(agent: Any, benchmark: str, split: str, seed: int) -> tuple[Any, Any]:
    """Rewards `[T, B]` of one episode of every task, and whether each succeeded."""
    count = metabench.spec(benchmark).table().size(split)
    env = metabench.make_vec(benchmark, count, split=split, expose_task=agent.privileged)
    observation, _ = env.reset(seed=seed * 2**20, options={"task": np.arange(count)})
    rewards, success = [], np.zeros(count, dtype=bool)
    for tick in itertools.islice(play_agent(agent, env, observation), metabench.spec(benchmark).horizon):
        success |= tick.info["success"]
        rewards.append(tick.reward)
    return np.array(rewards), success


def choose_aim() -> tuple[float, float]:
    """The best fixed aim on training tasks."""
    model = metabench.spec("ScratchItch-v0").family().model  # pyright: ignore[reportAttributeAccessIssue]
    returns = [play(Scratcher(model, aim), "ScratchItch-v0", "train", 30_000)[0].sum(axis=0).mean() for aim in AIMS]
    for aim, value in zip(AIMS, returns, strict=True):
        print(f"aim {aim[0]:.2f} {aim[1]:.2f}: return {value:.1f}")
    return AIMS[int(np.argmax(returns))]


def summary(runs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Means over tasks, each with its lowest and highest seed."""
    table: dict[str, Any] = {}
    columns = {"return": [float(r.sum(axis=0).mean()) for r, _ in runs], "success": [float(s.mean()) for _, s in runs]}
    for low, high in PHASES:
        columns[f"reward of steps {low + 1} to {high}"] = [float(r[low:high].mean()) for r, _ in runs]
    for name, values in columns.items():
        table[name] = {"mean": round(float(np.mean(values)), 3), "seeds": [round(v, 3) for v in values]}
    return table


def main() -> None:
    """Plays all and writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aims", action="store_true", help="choose the fixed aim on training tasks, print, stop")
    if parser.parse_args().aims:
        print("best:", choose_aim())
        return
    record: dict[str, Any] = {"command": "python -m studies.itch.probe", "split": "test", "seeds": list(SEEDS)}
    for benchmark in ("ScratchItch-v0", "ScratchItchSwitch-v0"):
        model = metabench.spec(benchmark).family().model  # pyright: ignore[reportAttributeAccessIssue]
        hazard = itch_filter.build(benchmark, "test", 0).hazard
        agents = [
            oracle.build(benchmark, "test", 0),
            itch_filter.build(benchmark, "test", 0),
            Forgetful(model, hazard),
            Scratcher(model, BEST_AIM),
        ]
        if hazard:
            agents.insert(2, ItchFilter(model, 0.0, name="filter that expects no switch"))
        for agent in agents:
            table = summary([play(agent, benchmark, "test", seed) for seed in SEEDS])
            record.setdefault(benchmark, {})[agent.name] = table
            print(benchmark, agent.name, {name: column["mean"] for name, column in table.items()}, flush=True)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
