"""The oracle where there is no closed form: one soft actor-critic that sees the task, trained on all tasks at once.

It is the yardstick that stands for 1 on the normalised scale, and the behaviour policy of offline datasets: its
checkpoints along the way, the `stages`, are policies of rising skill. Source of the update: `oracle.sac`
(arXiv 1812.05905). Offline meta-RL papers train one SAC per task instead (Meta-DT's collectors: 45 runs of 500,000
steps); one network that is shown the task generalises to tasks it has not played, so test tasks are never trained on.

Tasks come from the training ranges (`fresh`), or with `tasks="legal"` from the whole legal range of every parameter,
so that the yardstick knows its way on the ranges of `ood` too; rows of evaluation tables are never asked for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

import metabench
from metabench.evaluation.results import Protocol
from metabench_agents.oracle.actor import NAME, PARTS, TrainedOracle, snapshot, to_space
from metabench_agents.oracle.sac import SAC, SACBatch, SACConfig
from metabench_agents.oracle.weights import STAGES, Stages
from metabench_agents.parts.memory import Replay
from metabench_agents.parts.run import Run, load_checkpoint, load_config, stream


@dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    frames: int = 1_000_000  # environment steps in all
    slots: int = 64  # episodes played together
    updates: int = 8  # per step of all slots
    random_episodes: int = field(default=1, metadata={"low": 0})  # per slot, before the policy plays
    capacity: int = 1_000_000  # steps kept
    tasks: Literal["fresh", "train", "legal"] = "fresh"  # where training tasks come from
    stage_every: int = 5  # iterations (episodes of all slots) between stages
    sac: SACConfig = field(default_factory=SACConfig)  # the update


def draw_tasks(benchmark: str, tasks: str, count: int, seed: int) -> Any:
    """`count` training tasks for `reset(options={"task": ...})`; None where the environment draws its own."""
    if tasks != "legal":
        return None
    chosen = metabench.spec(benchmark)
    table, family = chosen.table(), chosen.family()
    ranges = list(table.ranges.values())
    rng, picked = np.random.default_rng(seed), []
    while len(picked) < count:
        values = [
            float(rng.integers(int(r.low), int(r.high) + 1)) if r.integer else rng.uniform(r.low, r.high)
            for r in ranges
        ]
        task = dict(zip(table.ranges, values, strict=True))
        context = family.context_type(**{name: np.array([value]) for name, value in task.items()})
        if not family.reject(context):
            picked.append(task)
    return picked


def collect(sac: SAC, env: Any, replay: Replay, config: Config, iteration: int, tasks: Any, seed: int) -> Any:
    """Plays one episode's length in every slot, learning on the way; yields after every step its mean reward."""
    generator, space = stream(seed, iteration, 0), env.single_action_space
    options = None if tasks is None else {"task": tasks}
    observation = torch.from_numpy(env.reset(seed=(seed * 2**32 + iteration) * 2**20, options=options)[0]).float()
    sac.observe(observation)
    shape = (env.num_envs, space.shape[0])
    while True:
        if iteration < config.random_episodes:
            action = torch.rand(shape, generator=generator) * 2.0 - 1.0
        else:
            action = sac.act(observation, generator)
        played = to_space(action.numpy(), space.low, space.high)
        following, reward, terminated, truncated, info = env.step(played)
        last = info.get("final_obs", following)  # where an episode ends, what it ended in
        done = (terminated | truncated)[:, None]
        target = torch.from_numpy(np.where(done, last, following)).float()
        replay.add(observation, action, torch.from_numpy(reward).float(), target, torch.from_numpy(terminated).float())
        observation = torch.from_numpy(following).float()
        sac.observe(observation)
        metrics: dict[str, Tensor] = {}
        if iteration >= config.random_episodes:
            for part in replay.sample(config.updates, config.sac.batch, generator):
                metrics = sac.update(SACBatch(*part), generator)
        yield float(reward.mean()), metrics


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> TrainedOracle:
    """Trains on the benchmark's training tasks and returns the agent; continues the run in `run.folder`.

    An iteration is one episode's length of all slots. It depends on what is learned, the replay, the seed and its own
    number.

    Raises:
        ValueError: In one sentence, for actions that are no bounded box.
    """
    checkpoint = run.begin(NAME, benchmark, config, seed)
    split = "train" if config.tasks == "train" else "fresh"
    env = metabench.make_vec(benchmark, config.slots, split=split, episodes_per_task=1, expose_task=True)
    space = env.single_action_space
    if not isinstance(space, spaces.Box) or not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"{NAME} needs actions in a bounded box, and those of {benchmark} are {space}")
    horizon, columns = metabench.spec(benchmark).horizon, int(np.prod(env.single_observation_space.shape or ()))
    sac = SAC(columns, space.shape[0], config.sac, stream(seed))
    replay = Replay(min(config.capacity, config.frames + config.slots * horizon), columns, space.shape[0])
    done, stages = 0, Stages([], [])
    if checkpoint:
        done = checkpoint.iteration
        sac.load(checkpoint.tensors)
        replay.written = checkpoint.state["written"]
        replay.rows[: len(replay)] = checkpoint.tensors["replay/rows"]
        stages = Stages.load(run.folder / STAGES).until(done)
    iterations = -(-config.frames // (horizon * config.slots))
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start, total, metrics = time.perf_counter(), 0.0, {}
            tasks = draw_tasks(benchmark, config.tasks, config.slots, seed * 2**32 + iteration)
            played = collect(sac, env, replay, config, iteration, tasks, seed)
            for (reward, latest), _ in zip(played, range(horizon), strict=False):
                total, metrics = total + reward, latest
            row = {"iteration": iteration + 1, "frames": (iteration + 1) * horizon * config.slots, "return": total}
            row |= {name: float(value) for name, value in metrics.items()}
            last = iteration + 1 == iterations
            if (iteration + 1) % config.stage_every == 0 or last:
                agent = TrainedOracle(snapshot(sac), space)
                row["return_train"] = training_return(agent, benchmark)
                stages = stages.add(iteration + 1, row["frames"], row["return_train"], agent.weights)
                stages.save(run.folder / STAGES)
            run.log(row | {"time/seconds": time.perf_counter() - start})
            advance(iteration + 1, f"return {total:8.2f}")
            if (iteration + 1) % run.checkpoint_every == 0 or last:
                kept = {f"policy/{name}": part for name, part in snapshot(sac).items()}
                kept["replay/rows"] = replay.rows[: len(replay)]
                run.save(iteration + 1, sac.tensors() | kept, {"written": replay.written})
    return TrainedOracle(stages.weights[-1], space)


def training_return(agent: metabench.Agent[Any], benchmark: str) -> float:
    """Mean return of one episode per task of the split `train`."""
    protocol = Protocol(benchmark=benchmark, split="train", episodes=1, repeats=1, seed=1)
    return float(metabench.evaluate(agent, protocol).array().mean())


def load(path: Path) -> TrainedOracle:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path).tensors
    space: Any = metabench.spec(settings["benchmark"]).family().action_space
    weights = {name: saved[f"policy/{name}"] for name in PARTS}
    return TrainedOracle(weights, space, protocol=settings["protocol"])
