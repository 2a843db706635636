"""What PEARL's policy can learn of HighwayMerge when it is told the task: soft actor-critic with the factors as latent.

    python -m studies.metadreamer.given_task --updates 100 --tasks-per-iteration 16 --iterations 160
    python -m studies.metadreamer.given_task --target-rate 0.01 --discount 0.99
    python -m studies.metadreamer.given_task --layers 3
    python -m studies.metadreamer.given_task --learning-rate 3e-3
    python -m studies.metadreamer.given_task --plain --layers 3        # without layer norms in action and state values

Training tasks alone. Every ten iterations it prints the real steps so far, the training return of the last iteration
and the return of the policy's mean actions in four fresh episodes of every training task.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from metabench_agents.context import pearl
from metabench_agents.context.actor_critic import LatentActorCritic, LatentSAC
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import stream

import metabench

BENCHMARK, EPISODES, INITIAL, TRAIN_SEED = "HighwayMerge-v0", 4, 2, 3


def mean_return(core: LatentActorCritic, z: torch.Tensor, repeats: int = 4) -> float:
    """Of mean actions, `repeats` fresh episodes of each task; `z` is `[T, L]`."""
    tasks = np.repeat(np.arange(len(z)), repeats)
    env = metabench.make_vec(BENCHMARK, len(tasks), split="train", episodes_per_task=10**6)
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


def main() -> None:
    """Parses the command line and learns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("learning-rate", 1e-3), ("discount", 0.97), ("target-rate", 0.02), ("reward-scale", 20.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, default in (("layers", 2), ("updates", 250), ("tasks-per-iteration", 8), ("iterations", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--plain", action="store_true", help="no layer norms")
    options = vars(parser.parse_args())
    iterations, count, plain = options.pop("iterations"), options.pop("tasks_per_iteration"), options.pop("plain")
    updates = options.pop("updates")
    rows = metabench.spec(BENCHMARK).table().rows["train"]
    low, high = rows.min(0), rows.max(0)
    z = torch.as_tensor(3.0 * (rows - low) / (high - low) - 1.5, dtype=torch.float32)
    sac = {f"sac.{name}": value for name, value in {**options, "hidden": 128, "normalised_values": not plain}.items()}
    config = with_settings(pearl.Config(updates=updates, latent=z.shape[1], batch=64), sac)
    state = pearl.build(BENCHMARK, config, TRAIN_SEED)
    network, replay, collector = state.network, state.replay, state.collector
    learner = LatentSAC(network.core, config.sac)  # there is no encoder to learn
    for iteration in range(iterations):
        generator = stream(1, iteration)
        if iteration == 0:
            for task, row in enumerate(
                collector.play(network.core, range(len(z)), lambda _: z, INITIAL, generator).rows
            ):
                replay.add(task, row, context=False)
            network.core.features.fit(replay.sample(range(len(z)), 1000, generator).observation)
        chosen = torch.randperm(len(z), generator=generator)[:count].tolist()
        played = collector.play(network.core, chosen, lambda _, chosen=chosen: z[chosen], EPISODES, generator)
        for task, row in zip(chosen, played.rows, strict=True):
            replay.add(task, row, context=False)
        for _ in range(config.updates):
            tasks = torch.randint(len(z), (config.meta_batch,), generator=generator).tolist()
            batch = replay.sample(tasks, config.batch, generator)
            learner.update(batch, z[tasks], torch.randn(batch.action.shape, generator=generator))
        if (iteration + 1) % 10 == 0:
            returns = f"training {played.returns.mean():6.2f}  mean actions {mean_return(network.core, z):6.2f}"
            print(f"{collector.frames:8,} steps  {returns}", flush=True)


if __name__ == "__main__":
    main()
