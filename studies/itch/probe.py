"""Shows that ScratchItch's hidden itch can be inferred: told, untold with memory, and untold without.

    python -m studies.itch.probe            # writes studies/itch/results/ScratchItch-v0/probe.json, prints a table
    python -m studies.itch.probe --aims     # first chooses the fixed aim again, on training tasks

Four agents play the test tasks, five seeds each: `oracle` sees the itch; `itch-filter` infers it from its rewards;
`fixed-aim` scratches one place of the arm whatever it feels, the best such place on training tasks, because a policy
that forgets its rewards goes by the average; `forgetful` is the filter that starts anew at every step, so that it
goes by its last reward alone. What counts is when in an episode they scratch: only memory can gain on the way. Every
agent and seed is a job of `metabench sweep` (see `studies.sweeping`; `--engine local`, `ray` or `slurm`).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import metabench
from metabench import Timestep
from metabench.evaluation.play import play as play_agent
from metabench.evaluation.results import write_atomically
from metabench.sweep import Job
from metabench.yardsticks.scratch_itch import ItchFilter, Scratcher, itch_filter, oracle
from studies.sweeping import add_options, answer, run

PATH = Path(__file__).parent / "results" / "ScratchItch-v0" / "probe.json"
SEEDS = range(31_000, 31_005)  # no evaluation uses them
PHASES = ((0, 20), (20, 50), (50, 100), (100, 200))  # steps of an episode
AIMS = [(along, around) for along in (0.35, 0.7, 1.0, 1.3, 1.65) for around in (0.0, np.pi / 2, 3 * np.pi / 2)]
BEST_AIM = (1.65, 0.0)  # of those, by the return on training tasks
UNAWARE = "filter that expects no switch"
AGENTS = {
    "ScratchItch-v0": ("oracle", "itch-filter", "forgetful", "fixed-aim"),
    "ScratchItchSwitch-v0": ("oracle", "itch-filter", UNAWARE, "forgetful", "fixed-aim"),
}


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


def aimed(seed: int, folder: Path, along: float, around: float) -> float:
    """One job: the return of a fixed aim on the training tasks."""
    model = metabench.spec("ScratchItch-v0").family().model  # pyright: ignore[reportAttributeAccessIssue]
    return float(play(Scratcher(model, (along, around)), "ScratchItch-v0", "train", seed)[0].sum(axis=0).mean())


def agent_of(benchmark: str, name: str) -> Any:
    """One of the agents that are compared."""
    model = metabench.spec(benchmark).family().model  # pyright: ignore[reportAttributeAccessIssue]
    hazard = itch_filter.build(benchmark, "test", 0).hazard
    makers: dict[str, Callable[[], Any]] = {
        "oracle": lambda: oracle.build(benchmark, "test", 0),
        "itch-filter": lambda: itch_filter.build(benchmark, "test", 0),
        UNAWARE: lambda: ItchFilter(model, 0.0, name=UNAWARE),
        "forgetful": lambda: Forgetful(model, hazard),
        "fixed-aim": lambda: Scratcher(model, BEST_AIM),
    }
    return makers[name]()


def played(seed: int, folder: Path, benchmark: str, agent: str) -> dict[str, float]:
    """One job: what an agent reaches on the test tasks, in means over them."""
    rewards, success = play(agent_of(benchmark, agent), benchmark, "test", seed)
    columns = {"return": float(rewards.sum(axis=0).mean()), "success": float(success.mean())}
    for low, high in PHASES:
        columns[f"reward of steps {low + 1} to {high}"] = float(rewards[low:high].mean())
    return columns


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, and each seed's."""
    table: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        table[name] = {"mean": round(float(np.mean(values)), 3), "seeds": [round(v, 3) for v in values]}
    return table


def step(function: str, seed: int, **arguments: Any) -> Job:
    """A job of this study."""
    return Job("study", {"function": f"studies.itch.probe:{function}", "arguments": arguments}, seed)


def grid() -> dict[tuple[str, str], list[Job]]:
    """The jobs of every benchmark and agent, one per seed."""
    return {
        (benchmark, agent): [step("played", seed, benchmark=benchmark, agent=agent) for seed in SEEDS]
        for benchmark, agents in AGENTS.items()
        for agent in agents
    }


def main() -> None:
    """Plays all and writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aims", action="store_true", help="choose the fixed aim on training tasks, print, stop")
    parser.add_argument("--out", type=Path, default=Path("runs/study/itch"), help="the sweep's folder")
    add_options(parser)
    options = parser.parse_args()
    if options.aims:
        aims = [step("aimed", 30_000, along=along, around=around) for along, around in AIMS]
        if run(aims, options.out, options):
            returns = [answer(job, options.out) for job in aims]
            for aim, value in zip(AIMS, returns, strict=True):
                print(f"aim {aim[0]:.2f} {aim[1]:.2f}: return {value:.1f}")
            print("best:", AIMS[int(np.argmax(returns))])
        return
    jobs = grid()
    if not run([job for some in jobs.values() for job in some], options.out, options):
        return
    record: dict[str, Any] = {"command": "python -m studies.itch.probe", "split": "test", "seeds": list(SEEDS)}
    for (benchmark, agent), some in jobs.items():
        table = summary([answer(job, options.out) for job in some])
        record.setdefault(benchmark, {})[agent] = table
        record.setdefault("keys", {}).setdefault(benchmark, {})[agent] = [job.key() for job in some]
        print(benchmark, agent, {name: column["mean"] for name, column in table.items()}, flush=True)
    write_atomically(PATH, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
