"""What knowing the hidden task is worth on the merging families: the table of docs/highway.md.

    python -m studies.highway.information HighwayMerge-v0 HighwayMergeHidas-v0

Policies of two kinds are measured on `test`, each kind with and without the context, by the same search:

- planners (`yardsticks.highway_merge`), which differ in their belief alone: the training distribution for ever
  (context-free), the posterior (adaptive), the truth (oracle);
- memoryless networks, 16 tanh units, whose weights a separable CMA-ES (Ros and Hansen 2008) finds on `train`; one sees
  the observation, the other the context too.

The best context-free policy is the best of all that do not know the context and do not remember; a policy is never
selected on `test`: every seed of every kind is in the record, and the kinds are compared by their means over seeds.
Every agent and seed is a job of `metabench sweep` (see `studies.sweeping`; `--engine local`, `ray` or `slurm`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import metabench
from metabench.evaluation.results import Protocol, write_atomically
from metabench.rng import Array
from metabench.sweep import Job
from metabench.yardsticks.highway_merge import MergePlanner, Search
from metabench.yardsticks.simple import RandomAgent, ZeroAgent
from studies.sweeping import add_options, answer, run

FOLDER = Path(__file__).parent / "results"
SEEDS, REPEATS, EPISODES = (0, 1, 2), 2, 3
SEARCH = Search(plans=100, elites=10, rounds=6)
UNITS, POPULATION, PLAYED, GENERATIONS = 16, 64, 64, 150


class Network:
    """A population of memoryless policies; with one member, an agent."""

    def __init__(self, benchmark: str, weights: Array, sees: bool):
        self.family: Any = metabench.spec(benchmark).family()
        self.ranges = list(metabench.spec(benchmark).table().ranges.values())
        self.weights, self.privileged = np.atleast_2d(weights), sees
        self.name = "network that sees the context" if sees else "memoryless network"

    @staticmethod
    def size(sees: bool) -> int:
        """How many weights there are."""
        return UNITS * (19 + 2 * sees) + UNITS

    def level(self, observation: Array) -> Array:
        """`[P, B]` accelerations in [-1, 1] for `[P, B, O]`."""
        ego, cars, speeds = observation[..., :1], observation[..., 1:9], observation[..., 9:18]
        columns = [ego / 50.0, (cars - ego) / 30.0, (speeds - 13.0) / 5.0, np.ones_like(ego)]
        for k in range(2 * self.privileged):
            low, high = self.ranges[k].train
            columns.append((observation[..., 18 + k, None] - (low + high) / 2) / ((high - low) / 2))
        inputs = np.concatenate(columns, axis=-1)
        first = self.weights[:, :-UNITS].reshape(len(self.weights), inputs.shape[-1], UNITS)
        return np.tanh((np.tanh(inputs @ first) @ self.weights[:, -UNITS:, None])[..., 0])

    def begin(self, num_trials: int) -> None:
        """Nothing to remember."""

    def act(self, step: Any, belief: None) -> tuple[Array, None]:
        """The first member's accelerations."""
        return self.level(step.observation[None].astype(np.float64))[0][:, None].astype(np.float32), None

    def returns(self, context: Array, seed: int) -> Array:
        """`[P]` mean returns of the members on the same episodes, one of each context `[B, 2]`."""
        family, members, count = self.family, len(self.weights), len(context)
        rows = np.tile(context, (members, 1))
        task = family.context_type(*rows.T.copy())
        one = family.initial(
            family.context_type(*context.T.copy()), metabench.SlotRng.from_seeds(seed + np.arange(count))
        )
        state = type(one)(*(np.tile(a, (members,) + (1,) * (a.ndim - 1)) for a in one))
        total, none = np.zeros(len(rows)), metabench.SlotRng.from_seeds([])
        for _ in range(family.horizon):
            seen = family.observation(state).astype(np.float64)
            seen = np.concatenate((seen, rows), axis=1) if self.privileged else seen
            action = self.level(seen.reshape(members, count, -1)).reshape(-1, 1)
            after = family.transition(state, action, task, none)
            total += np.where(state.crashed, 0.0, family.reward(state, action, after, task))
            state = after
        return total.reshape(members, count).mean(axis=1)


def evolve(benchmark: str, sees: bool, seed: int) -> Network:
    """The mean of a separable CMA-ES after GENERATIONS, each on PLAYED fresh episodes of training contexts."""
    rng, size = np.random.default_rng(seed), Network.size(sees)
    ranges = list(metabench.spec(benchmark).table().ranges.values())
    low, high = np.array([r.train for r in ranges]).T
    parents = POPULATION // 2
    share = np.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    share /= share.sum()
    mass = 1.0 / np.square(share).sum()
    rate_path, rate_mean = (mass + 2) / (size + mass + 5), (4 + mass / size) / (size + 4 + 2 * mass / size)
    scale = (size + 2) / 3  # separable: diagonals are learnt this much faster
    rank_one = min(0.3, scale * 2 / ((size + 1.3) ** 2 + mass))
    rank_many = min(0.6, scale * 2 * (mass - 2 + 1 / mass) / ((size + 2) ** 2 + mass))
    damping = 1 + rate_path + 2 * max(0.0, np.sqrt((mass - 1) / (size + 1)) - 1)
    mean, variance, step = rng.normal(0, 0.3, size), np.ones(size), 0.5
    path, drift, expected = np.zeros(size), np.zeros(size), np.sqrt(size) * (1 - 1 / (4 * size))
    for generation in range(GENERATIONS):
        noise = rng.standard_normal((POPULATION, size))
        moves = noise * np.sqrt(variance)
        context = rng.uniform(low, high, (PLAYED, 2))
        scores = Network(benchmark, mean + step * moves, sees).returns(
            context, seed=10**6 * (seed + 1) + 100 * generation
        )
        best = np.argsort(-scores)[:parents]
        move = share @ moves[best]
        mean = mean + step * move
        path = (1 - rate_path) * path + np.sqrt(rate_path * (2 - rate_path) * mass) * (share @ noise[best])
        drift = (1 - rate_mean) * drift + np.sqrt(rate_mean * (2 - rate_mean) * mass) * move
        variance = (1 - rank_one - rank_many) * variance + rank_one * drift**2 + rank_many * (share @ moves[best] ** 2)
        step = min(2.0, step * float(np.exp(rate_path / damping * (np.linalg.norm(path) / expected - 1))))
    return Network(benchmark, mean, sees)


PLANNERS = ("random", "constant speed", *(f"planner, {belief}" for belief in ("context-free", "adaptive", "oracle")))
NETWORKS = {"memoryless network": False, "network that sees the context": True}


def agent_of(benchmark: str, name: str, seed: int) -> Any:
    """One of the agents that are measured; a network is searched for."""
    space = metabench.spec(benchmark).family().action_space
    if name in NETWORKS:
        return evolve(benchmark, NETWORKS[name], seed)
    if name == "random":
        return RandomAgent(space, seed)
    if name == "constant speed":
        return ZeroAgent(space)
    return MergePlanner(benchmark, name.removeprefix("planner, "), seed, SEARCH)


def measured(seed: int, folder: Path, benchmark: str, agent: str) -> dict[str, list[float]]:
    """One job: mean return and success of each episode of the trial."""
    protocol = Protocol(benchmark=benchmark, split="test", episodes=EPISODES, repeats=REPEATS, seed=30_000 + seed)
    result = metabench.evaluate(agent_of(benchmark, agent, seed), protocol)
    return {
        "returns": result.array().mean(axis=(0, 1)).round(4).tolist(),
        "successes": np.array(result.successes).mean(axis=(0, 1)).round(4).tolist(),
    }


def grid(benchmark: str, networks: bool) -> dict[tuple[str, int], Job]:
    """All jobs by agent and seed, seeds outermost."""
    names = (*PLANNERS, *(NETWORKS if networks else ()))
    settings = {"function": "studies.highway.information:measured"}
    return {
        (name, seed): Job("study", settings | {"arguments": {"benchmark": benchmark, "agent": name}}, seed)
        for seed in SEEDS
        for name in names
    }


def collected(jobs: Mapping[tuple[str, int], Job], out: Path) -> dict[str, Any]:
    """Agent -> mean return per seed and episode of the trial, `[seed][episode]`, successes, and the jobs' keys."""
    table: dict[str, Any] = {}
    for (name, _), job in jobs.items():
        record = table.setdefault(name, {"returns": [], "successes": [], "keys": []})
        for column, values in answer(job, out).items():
            record[column].append(values)
        record["keys"].append(job.key())
    return table


def show(table: dict[str, Any]) -> str:
    """The Markdown table: means over seeds and their spread, and shares between random (0) and the oracle (1)."""
    means = {name: np.array(record["returns"]) for name, record in table.items()}
    low, high = means["random"].mean(), means["planner, oracle"].mean()
    lines = [
        "| policy | episode 1 | episode 2 | episode 3 | share | share by seed | success |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in means.items():
        shares = (values.mean(axis=1) - low) / (high - low)
        cells = [f"{v:.2f}" for v in values.mean(axis=0)]
        cells += [f"{shares.mean():.2f}", " ".join(f"{s:.2f}" for s in shares)]
        cells.append(f"{np.mean(table[name]['successes']):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes studies/highway/results/<id>/information.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="+")
    parser.add_argument("--show", action="store_true", help="print the stored tables, measure nothing")
    parser.add_argument("--planners", action="store_true", help="leave the networks out, which take the most time")
    parser.add_argument("--out", type=Path, default=Path("runs/study/highway"), help="the sweep's folder")
    add_options(parser)
    arguments = parser.parse_args()
    for benchmark in arguments.benchmarks:
        path = FOLDER / benchmark / "information.json"
        if not arguments.show:
            jobs = grid(benchmark, not arguments.planners)
            if not run(list(jobs.values()), arguments.out, arguments):
                continue
            table = collected(jobs, arguments.out)
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {
                "command": f"python -m studies.highway.information {benchmark}{' --planners' * arguments.planners}",
                "split": "test",
                "agents": table,
            }
            write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
        print(f"\n{benchmark}\n\n{show(json.loads(path.read_text())['agents'])}")


if __name__ == "__main__":
    main()
