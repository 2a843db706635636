"""What the study of PEARL and MetaDreamer runs on each benchmark: settings, and the variants of a table's rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from metabench_agents.context import metadreamer, pearl
from metabench_agents.parts.config import with_settings

import metabench

LONG, LEAN = "-long", "-lean"  # the same run, further; with an eighth of the real steps per update
COMMON = (  # the settings that PEARL's runs share with MetaDreamer's
    *("iterations", "collection", "updates", "meta_batch", "batch", "latent", "sac"),
    *("exploration_episodes", "evaluate_every", "evaluate_splits"),
)


@dataclass(frozen=True)
class Study:
    """What is run on a benchmark."""

    settings: dict[str, Any]  # of metadreamer.Config, by dotted names; COMMON ones go to PEARL too
    splits: dict[int, str]  # number of real tasks -> the split they are
    test: str = "test"  # interpolation
    ood: str = "ood"  # extrapolation
    columns: tuple[int, ...] = (0, 1)  # of the observation, drawn in traversals
    pearl: dict[str, Any] = field(default_factory=lambda: {"encoder.kl_weight": 1.0})
    all_tasks: str = ""  # a split that there are runs on as a whole: pearl-all, all, allIR8


STUDIES = {
    "HighwayMerge-v0": Study(
        {
            "iterations": 40,
            "collection.initial_episodes": 4,
            "collection.tasks_per_iteration": 8,
            "collection.prior_episodes": 3,
            "collection.posterior_episodes": 3,
            "model.updates": 100,
            "updates": 250,
            "imagination.every": 125,
            "batch": 64,
            "model.context": 60,
            "sac.normalised_values": True,
            "model.separation": 0.3,
            "sac.learning_rate": 1e-3,
            "sac.discount": 0.97,
            "sac.reward_scale": 20.0,
            "sac.target_rate": 0.02,
            "imagination.episodes": 8,
            "exploration_episodes": 2,
            "evaluate_every": 4,
        },
        {8: "R8", 16: "R16"},
        columns=(0, 9, 13),
        pearl={"encoder.kl_weight": 1e-2, "encoder.hidden": 128},
    ),
    "CheetahVel-v0": Study(  # as on HighwayMerge, where these were found; untuned here
        {
            "iterations": 40,
            "collection.initial_episodes": 2,
            "collection.tasks_per_iteration": 8,
            "collection.prior_episodes": 2,
            "collection.posterior_episodes": 2,
            "model.updates": 100,
            "updates": 250,
            "imagination.every": 125,
            "batch": 64,
            "model.context": 100,
            "sac.normalised_values": True,
            "model.separation": 0.3,
            "sac.learning_rate": 1e-3,
            "sac.discount": 0.97,
            "sac.target_rate": 0.02,
            "imagination.episodes": 8,
            "imagination.steps": 20,
            "exploration_episodes": 2,
            "evaluate_every": 4,
        },
        {8: "interpolation_train", 16: "interpolation_train"},
        test="interpolation_test",
        columns=(8, 17),
        all_tasks="interpolation_train",
        pearl={"encoder.kl_weight": 1e-2, "encoder.hidden": 128},
    ),
    "PointRobot-v0": Study(
        {
            "iterations": 40,
            "collection.initial_episodes": 10,
            "collection.tasks_per_iteration": 45,
            "collection.prior_episodes": 10,
            "collection.posterior_episodes": 4,
            "model.updates": 100,
            "updates": 600,
            "imagination.every": 200,
            "imagination.episodes": 8,
            "batch": 64,
            "model.targets": 32,
            "model.context": 60,
            "sac.hidden": 64,
            "model.separation": 0.3,
            "sac.learning_rate": 3e-3,
            "sac.discount": 0.9,
            "sac.reward_scale": 10.0,
            "sac.target_rate": 0.02,
            "exploration_episodes": 8,
            "evaluate_every": 4,
        },
        {},
        pearl={"encoder.kl_weight": 1e-2, "latent": 5, "encoder.hidden": 128, "encoder.layers": 3},
        all_tasks="train",
    ),
}


def variants(benchmark: str) -> dict[str, tuple[Any, Any]]:
    """Algorithm and settings of every variant, in the order they are run."""
    study, found = STUDIES[benchmark], {}
    splits = {"evaluate_splits": (study.test, study.ood)}
    base = replace(with_settings(metadreamer.Config(), study.settings), **splits)

    def real(count: int) -> dict[str, Any]:
        split = study.splits.get(count, "train")
        size = metabench.spec(benchmark).table().size(split)
        return {"split": split, "tasks": min(count, size)}

    shared = {**{name: getattr(base, name) for name in COMMON}, "encoder.context": base.model.context, **study.pearl}
    for count in (8, 16):
        found[f"pearl-R{count}"] = (pearl, with_settings(pearl.Config(), {**shared, **real(count)}))
    runs = {name: with_settings(base, {**new, **real(new["tasks"])}) for name, new in metadreamer.RUNS.items()}
    found |= {name: (metadreamer, config) for name, config in runs.items()}
    if study.all_tasks:
        every = {"split": study.all_tasks, "tasks": 0}
        found["pearl-all"] = (pearl, with_settings(pearl.Config(), {**shared, **every}))
        found["all"] = (metadreamer, with_settings(base, {**metadreamer.RUNS["R8"], **every}))
        found["allIR8"] = (metadreamer, with_settings(base, {**metadreamer.RUNS["R8IR8"], **every}))
    for name in ("pearl-R8", "R8IR8"):
        algorithm, config = found[name]
        longer = replace(config, iterations=2 * config.iterations)
        found[name + LONG] = (algorithm, longer)
        few = max(1, config.collection.tasks_per_iteration // 8)
        found[name + LEAN] = (algorithm, with_settings(longer, {"collection.tasks_per_iteration": few}))
    for name, changes in metadreamer.ABLATIONS.items():
        found[f"R8IR8-{name}"] = (metadreamer, with_settings(runs["R8IR8"], changes))
    return found
