"""What PEARL's policy can learn of HighwayMerge when it is told the task: soft actor-critic with the factors as latent.

    python -m studies.metadreamer.given_task --updates 100 --tasks-per-iteration 16 --iterations 160
    python -m studies.metadreamer.given_task --target-rate 0.01 --discount 0.99
    python -m studies.metadreamer.given_task --layers 3
    python -m studies.metadreamer.given_task --learning-rate 3e-3
    python -m studies.metadreamer.given_task --plain --layers 3        # without layer norms in action and state values
    python -m studies.metadreamer.given_task --viewed --split R8 --reward-scale 4 \
        --tasks-per-iteration 1 --iterations 160

The last is the limit of `pearl-tuned` of the queue's table highway-merge-rounds: its view, data, networks and learned
temperature, with the task in place of a guess.

Every option takes several values; every combination is a job of `metabench sweep` (see `studies.sweeping`; `--engine
local`, `ray` or `slurm`). Every ten iterations it notes the real steps so far, the training return of the last
iteration and the return of the policy's mean actions in four fresh episodes of every task it learns from, and of every
task of `test`, by which nothing is chosen.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from metabench_agents.context import pearl
from metabench_agents.context.actor_critic import LatentActorCritic, LatentSAC
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.decisions import make_viewed
from metabench_agents.parts.run import stream
from metabench_agents.parts.view import ViewConfig, view_of

import metabench
from metabench.sweep import Job
from studies.sweeping import add_options, answer, run

BENCHMARK, EPISODES, INITIAL, TRAIN_SEED = "HighwayMerge-v0", 4, 2, 3


def told_tasks(split: str) -> torch.Tensor:
    """`[T, L]` the factors of a split's tasks, from -1.5 to 1.5 over the training tasks."""
    rows = metabench.spec(BENCHMARK).table().rows
    low, high = rows["train"].min(0), rows["train"].max(0)
    return torch.as_tensor(3.0 * (rows[split] - low) / (high - low) - 1.5, dtype=torch.float32)


def mean_return(core: LatentActorCritic, split: str, view: ViewConfig, repeats: int = 4) -> float:
    """Of mean actions, `repeats` fresh episodes of each task of a split."""
    z = told_tasks(split)
    tasks = np.repeat(np.arange(len(z)), repeats)
    env = make_viewed(BENCHMARK, len(tasks), view, split=split, episodes_per_task=10**6)
    observation, _ = env.reset(seed=123, options={"task": tasks})
    total, alive = np.zeros(len(tasks)), np.ones(len(tasks), bool)
    while alive.any():
        with torch.inference_mode():
            seen = core.see(torch.as_tensor(observation).float(), z[tasks])
            action = core.act(seen, torch.zeros(len(tasks), core.actions.size)).action
        observation, reward, terminated, truncated, _ = env.step(core.actions.to_env(action))
        total += reward * alive
        alive &= ~(terminated | truncated)
    return float(total.mean())


def learn(
    seed: int,
    folder: Path,
    learning_rate: float,
    discount: float,
    target_rate: float,
    reward_scale: float,
    layers: int,
    updates: int,
    tasks_per_iteration: int,
    iterations: int,
    plain: bool,
    viewed: bool = False,
    split: str = "train",
) -> list[dict[str, float]]:
    """One job: learns, and returns real steps, training return and return of mean actions of every tenth iteration.

    It begins anew where it was killed: what was played is in no checkpoint.
    """
    z, view = told_tasks(split), view_of(BENCHMARK) if viewed else ViewConfig()
    given = {"learning_rate": learning_rate, "discount": discount, "target_rate": target_rate, "layers": layers}
    given |= {"reward_scale": reward_scale, "hidden": 128, "normalised_values": not plain}
    given["learned_temperature"] = viewed
    sac = {f"sac.{name}": value for name, value in given.items()}
    config = with_settings(pearl.Config(updates=updates, latent=z.shape[1], batch=64, split=split, view=view), sac)
    state = pearl.build(BENCHMARK, config, seed)
    network, replay, collector = state.network, state.replay, state.collector
    told: list[dict[str, float]] = []
    learner = LatentSAC(network.core, config.sac)  # there is no encoder to learn
    for iteration in range(iterations):
        generator = stream(1, iteration)
        if iteration == 0:
            for task, row in enumerate(
                collector.play(network.core, range(len(z)), lambda _: z, INITIAL, generator).rows
            ):
                replay.add(task, row, context=False)
            network.core.features.fit(replay.sample(range(len(z)), 1000, generator).observation)
        chosen = torch.randperm(len(z), generator=generator)[:tasks_per_iteration].tolist()
        played = collector.play(network.core, chosen, lambda _, chosen=chosen: z[chosen], EPISODES, generator)
        for task, row in zip(chosen, played.rows, strict=True):
            replay.add(task, row, context=False)
        for _ in range(config.updates):
            tasks = torch.randint(len(z), (config.meta_batch,), generator=generator).tolist()
            batch = replay.sample(tasks, config.batch, generator)
            learner.update(batch, z[tasks], torch.randn(batch.action.shape, generator=generator))
        if (iteration + 1) % 10 == 0:
            row = {"frames": collector.frames, "training": float(played.returns.mean())}
            told.append(row | {name: mean_return(network.core, name, view) for name in (split, "test")})
    return told


def main() -> None:
    """Parses the command line, has everything learned, prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"learning_rate": 1e-3, "discount": 0.97, "target_rate": 0.02, "reward_scale": 20.0}
    numbers |= {"layers": 2, "updates": 250, "tasks_per_iteration": 8, "iterations": 60}
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), nargs="+", default=[default])
    parser.add_argument("--plain", action="store_true", help="no layer norms")
    parser.add_argument("--viewed", action="store_true", help="the benchmark's view, a learned temperature")
    parser.add_argument("--split", default="train", help="tasks to learn from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[TRAIN_SEED])
    parser.add_argument("--out", type=Path, default=Path("runs/study/given-task"), help="the sweep's folder")
    add_options(parser)
    options = parser.parse_args()
    grid = []
    for seed, *values in itertools.product(options.seeds, *(getattr(options, name) for name in numbers)):
        arguments = dict(zip(numbers, values, strict=True)) | {"plain": options.plain}
        if options.viewed or options.split != "train":
            arguments |= {"viewed": options.viewed, "split": options.split}
        grid.append(Job("study", {"function": "studies.metadreamer.given_task:learn", "arguments": arguments}, seed))
    if run(grid, options.out, options):
        for job in grid:
            print(f"\n{job.label}")
            for row in answer(job, options.out):
                returns = "  ".join(f"{name} {value:6.2f}" for name, value in row.items() if name != "frames")
                print(f"{row['frames']:8,} steps  {returns}")


if __name__ == "__main__":
    main()
