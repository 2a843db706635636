"""What z tells of the task, and whether it tells the same whoever played: R^2 of the task's parameters, by behaviour.

    python -m studies.offline_context.telling runs/offline-context/PointRobot-v0/mixed/focal/s0 ...

A linear reading of the task's parameters is fitted on z of contexts of the data that a run has learned from; it is then
asked about *test* tasks, from contexts of 64 transitions that other behaviours have played: the data's own mixture,
experts, uniform actions, and the agent itself. 1 is all of the parameters' variance, 0 none; below 0 z misleads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from metabench_agents.context.offline.data import TaskData, load_task_data
from metabench_agents.context.offline.playing import OfflineContextAgent
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.run import load_config, stream
from torch import Tensor

import metabench
from metabench.evaluation.play import play
from metabench.evaluation.results import write_atomically
from metabench.plugins import load_run

DRAWS = 20  # contexts of each task
CONTEXT = 64  # transitions of a context
RIDGE = 1e-3
BEHAVIOURS = {"mixed": "mixed", "expert": "expert", "uniform": "random"}  # qualities of data


class Reading(NamedTuple):
    """Task parameters as a linear function of z."""

    solution: Tensor  # [L + 1, P] float64
    center: Tensor  # [P] mean of the parameters of the training tasks

    def explained(self, z: Tensor, task: Tensor) -> float:
        """R^2 over `[M, L]` and `[M, P]`, against guessing the training tasks' mean."""
        error = (_with_one(z) @ self.solution - task.double()).square().sum()
        return float(1.0 - error / (task.double() - self.center).square().sum())


def _with_one(z: Tensor) -> Tensor:
    return torch.cat((z, torch.ones(len(z), 1)), dim=1).double()


def fit_reading(z: Tensor, task: Tensor) -> Reading:
    """By ridge regression of `[M, P]` on `[M, L]`."""
    x, y = _with_one(z), task.double()
    gram = x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    return Reading(torch.linalg.solve(gram, x.T @ y), y.mean(0))


def contexts(data: TaskData, seed: int) -> tuple[Transitions, Tensor]:
    """`DRAWS` contexts of each task of the data, `[K * DRAWS, CONTEXT, ...]`, and the row of each one's task."""
    numbers = torch.arange(len(data)).repeat_interleave(DRAWS)
    return data.draw(numbers, CONTEXT, stream(seed, 3)), data.task[numbers]


def own_contexts(agent: Any, benchmark: str, split: str, episodes: int, seed: int) -> tuple[Transitions, Tensor]:
    """What the agent itself meets in trials of so many episodes, one trial of each task: `[K, episodes * T, ...]`."""
    count = metabench.spec(benchmark).table().size(split)
    shown = bool(getattr(agent, "privileged", False))
    env = metabench.make_vec(benchmark, count, split=split, episodes_per_task=episodes + 1, expose_task=shown)
    observation, _ = env.reset(seed=seed, options={"task": np.arange(count)})
    rows, columns = [], agent.network.observation
    steps = episodes * metabench.spec(benchmark).horizon
    for tick in play(agent, env, observation):
        ended = (tick.terminated | tick.truncated)[:, None]
        led_to = np.where(ended, tick.info["final_obs"], tick.observation) if ended.any() else tick.observation
        action = agent.network.actions.from_env(tick.action)
        parts = (tick.step.observation[:, :columns], action, tick.reward, led_to[:, :columns], tick.terminated)
        rows.append(Transitions(*(torch.as_tensor(np.asarray(part)).float() for part in parts)).pack())
        if len(rows) == steps:
            break
    packed = torch.stack(rows, dim=1)
    return Transitions.unpack(packed, columns, agent.network.actions.size), torch.arange(count)


def tells(
    encode: Callable[[Transitions], Tensor],
    learned: tuple[Transitions, Tensor],
    asked: Mapping[str, tuple[Transitions, Tensor]],
) -> dict[str, float]:
    """R^2 by behaviour.

    Args:
        encode: Contexts `[M, C, ...]` to z `[M, L]`: any encoder.
        learned: Contexts, and the parameters `[M, P]` of each one's task, that the reading is fitted on.
        asked: By behaviour, the same of other tasks.
    """
    reading = fit_reading(encode(learned[0]), learned[1])
    return {name: reading.explained(encode(seen), task) for name, (seen, task) in asked.items()}


def measure(agent: OfflineContextAgent, benchmark: str, quality: str, seed: int = 0) -> dict[str, float]:
    """R^2 on the test tasks of a trained agent, by behaviour; qualities whose data are not there are left out."""
    table, actions = metabench.spec(benchmark).table(), agent.network.actions
    rows = {split: torch.tensor(table.rows[split]).float() for split in ("train", "test")}
    seen, whose = contexts(load_task_data(benchmark, quality, "train", actions), seed)
    asked = {}
    for name, data in BEHAVIOURS.items():
        try:
            mine, task = contexts(load_task_data(benchmark, data, "test", actions), seed)
        except ValueError:
            continue
        asked[name] = (mine, rows["test"][task])
    mine, task = own_contexts(agent, benchmark, "test", 3, seed)
    asked["own"] = (mine, rows["test"][task])
    return tells(agent.network.z, (seen, rows["train"][whose]), asked)


def main() -> None:
    """Measures runs, and writes telling.json beside each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    for folder in parser.parse_args().runs:
        agent: Any = load_run(folder).agent
        settings = load_config(folder)
        found = measure(agent, settings["benchmark"], settings["config"]["data"])
        write_atomically(folder / "telling.json", json.dumps(found).encode())
        print(folder, {name: round(value, 3) for name, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
