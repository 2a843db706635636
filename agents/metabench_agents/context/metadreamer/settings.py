"""MetaDreamer's settings: the paper's runs, their ablations, and those of our studies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import metabench
from metabench_agents.context.actor_critic import LatentSACConfig
from metabench_agents.context.collect import CollectionConfig
from metabench_agents.context.dreaming import DreamConfig
from metabench_agents.context.imagination import ImaginationConfig
from metabench_agents.context.rounds import RoundsConfig
from metabench_agents.context.task_encoder import TaskModelConfig
from metabench_agents.parts.config import for_benchmark
from metabench_agents.parts.device import Computing
from metabench_agents.parts.view import ViewConfig, view_of

NAME = "metadreamer"


def _smaller() -> LatentSACConfig:
    return LatentSACConfig(hidden=128, layers=2, learning_rate=1e-3)


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run; the defaults are the run R8IR8."""

    split: str = "train"  # tasks to learn from
    view: ViewConfig = field(default_factory=ViewConfig)  # what the policy is shown, how often it decides
    learner: str = "sac"  # of the policy: "sac" on real and imagined data, "ppo" in the model alone, in rounds
    tasks: int = field(default=8, metadata={"low": 0})  # how many, spread evenly over the table; 0 for all
    iterations: int = 100  # rounds of collecting and updating
    collection: CollectionConfig = field(default_factory=CollectionConfig)  # what is played
    updates: int = 500  # of policy and values per iteration
    meta_batch: int = 16  # tasks of an update
    batch: int = 64  # transitions of each task in an update
    replay: int = 1_000_000  # the most transitions kept per task
    latent: int = 4  # dimensions of z
    model: TaskModelConfig = field(default_factory=TaskModelConfig)  # encoder and decoder
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)  # what the policy learns from besides
    sac: LatentSACConfig = field(default_factory=_smaller)  # policy and values of the learner "sac"
    rounds: RoundsConfig = field(default_factory=RoundsConfig)  # how the learner "ppo" divides its work
    dream: DreamConfig = field(default_factory=DreamConfig)  # how it learns in the model
    exploration_episodes: int = 1  # of a trial at test time, with z from the prior
    evaluate_every: int = 0  # iterations between evaluations for the learning curve; 0 for none
    evaluate_splits: tuple[str, ...] = ("test", "ood")  # what it is measured on; nothing is chosen by it


RENAMED = {  # flat settings of the first runs that are called otherwise now, or whose names stand in several groups
    "imagined_tasks": "imagination.tasks",
    "imagine_every": "imagination.every",
    "rollouts_per_task": "imagination.episodes",
    "rollout_steps": "imagination.steps",
    "imagined_share": "imagination.share",
    "model_updates": "model.updates",
    "model_rate": "model.learning_rate",
    "core": "model.width",
    "decoder": "model.decoder.kind",
    "decoder_hidden": "model.decoder.hidden",
    "decoder_layers": "model.decoder.layers",
    "hidden": "sac.hidden",
    "layers": "sac.layers",
    "learning_rate": "sac.learning_rate",
    "discount": "sac.discount",
    "deviation": "model.deviation",
    "reward_scale": "sac.reward_scale",
}
RUNS: dict[str, dict[str, Any]] = {  # the paper's names; the reading is ours
    "R8": {"tasks": 8, "imagination.tasks": 0, "imagination.rollouts": "none"},
    "R16": {"tasks": 16, "imagination.tasks": 0, "imagination.rollouts": "none"},
    "R8I8": {"tasks": 8, "imagination.tasks": 8, "imagination.rollouts": "imagined"},
    "R8IR8": {"tasks": 8, "imagination.tasks": 8, "imagination.rollouts": "all"},
    "R16I8": {"tasks": 16, "imagination.tasks": 8, "imagination.rollouts": "imagined"},
}
ABLATIONS: dict[str, dict[str, Any]] = {  # of any run
    "no-meta-imagination": {"imagination.tasks": 0},
    "no-mdp-imagination": {"imagination.rollouts": "none"},
    "no-physics": {"model.decoder.kind": "neural"},
    "beta-1": {"model.beta": 1.0},
}
MERGE: dict[str, Any] = {  # in rounds, on the eight real tasks of the run R8IR8
    "split": "R8",
    "learner": "ppo",
    "iterations": 2,
    "collection.initial_episodes": 6,
    "collection.prior_episodes": 3,
    "collection.posterior_episodes": 2,
    "model.updates": 600,
    "model.targets": 48,
    "model.context": 80,
    "model.separation": 0.3,
    "model.starts": 1.0,
    "model.partial": "foretell",
    "model.decoder.kind": "vehicles",
    "model.decoder.hidden": 32,
    "rounds.tasks": "hull",
    "evaluate_every": 1,
}
RECOMMENDED: dict[str, dict[str, Any]] = {"HighwayMerge-v0": MERGE, "HighwayMergeHidas-v0": MERGE}
ROUNDS: dict[str, dict[str, Any]] = {  # ablations of a run in rounds
    "no-meta-imagination": {"rounds.tasks": "real"},
    "one-factor-at-a-time": {"rounds.tasks": "lines"},
    "box": {"rounds.tasks": "box"},
    "one-start": {"rounds.starts": "one"},
    "no-physics": {"model.decoder.kind": "neural", "model.decoder.hidden": 128},
    "beta-1": {"model.beta": 1.0},
    "supervised": {"model.supervision": 10.0},
    "old-policy": {"dream.fresh": False},
    "few-dreams": {"dream.steps": 550_000},
}


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: those of our studies for a benchmark, the defaults elsewhere."""
    return replace(for_benchmark(Config(), RECOMMENDED, benchmark), view=view_of(benchmark))


def spread(size: int, count: int) -> list[int]:
    """`count` rows of a table of `size`, evenly spaced: few real tasks should not be neighbours."""
    return np.unique(np.linspace(0, size - 1, count).round().astype(int)).tolist()


def real_tasks(benchmark: str, config: Config) -> tuple[list[int], np.ndarray]:
    """The rows of the split that are learned from, and their parameters `[R, K]`."""
    table = metabench.spec(benchmark).table()
    size = table.size(config.split)
    if not 0 <= config.tasks <= size:
        raise ValueError(
            f"tasks must be 1 to {size}, the size of {benchmark}'s split {config.split!r}, or 0 for all of them;"
            f" got {config.tasks}"
        )
    rows = spread(size, config.tasks or size)
    return rows, table.rows[config.split][rows]
