"""What the study of PEARL and MetaDreamer runs on each benchmark: settings, and the variants of a table's rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from metabench_agents.context import metadreamer, pearl

import metabench

LONG, LEAN = "-long", "-lean"  # the same run, further; with an eighth of the real steps per update
COMMON = [
    "iterations",
    "initial_episodes",
    "tasks_per_iteration",
    "prior_episodes",
    "posterior_episodes",
    "updates",
    "meta_batch",
    "batch",
    "context",
    "latent",
    "hidden",
    "layers",
    "normalised_values",
    "learning_rate",
    "discount",
    "reward_scale",
    "target_rate",
    "exploration_episodes",
    "evaluate_every",
    "evaluate_splits",
]


@dataclass(frozen=True)
class Study:
    """What is run on a benchmark."""

    settings: dict[str, Any]  # of metadreamer.Config; COMMON ones go to PEARL too
    splits: dict[int, str]  # number of real tasks -> the split they are
    test: str = "test"  # interpolation
    ood: str = "ood"  # extrapolation
    columns: tuple[int, ...] = (0, 1)  # of the observation, drawn in traversals
    pearl: dict[str, Any] = field(default_factory=lambda: {"kl_weight": 1.0})
    all_tasks: str = ""  # a split that there are runs on as a whole: pearl-all, all, allIR8


STUDIES = {
    "HighwayMerge-v0": Study(
        {
            "iterations": 40,
            "initial_episodes": 4,
            "tasks_per_iteration": 8,
            "prior_episodes": 3,
            "posterior_episodes": 3,
            "model_updates": 100,
            "updates": 250,
            "imagine_every": 125,
            "batch": 64,
            "context": 60,
            "normalised_values": True,
            "separation": 0.3,
            "learning_rate": 1e-3,
            "discount": 0.97,
            "reward_scale": 20.0,
            "target_rate": 0.02,
            "rollouts_per_task": 8,
            "exploration_episodes": 2,
            "evaluate_every": 4,
        },
        {8: "R8", 16: "R16"},
        columns=(0, 9, 13),
        pearl={"kl_weight": 1e-2, "encoder_hidden": 128},
    ),
    "CheetahVel-v0": Study(  # as on HighwayMerge, where these were found; untuned here
        {
            "iterations": 40,
            "initial_episodes": 2,
            "tasks_per_iteration": 8,
            "prior_episodes": 2,
            "posterior_episodes": 2,
            "model_updates": 100,
            "updates": 250,
            "imagine_every": 125,
            "batch": 64,
            "context": 100,
            "normalised_values": True,
            "separation": 0.3,
            "learning_rate": 1e-3,
            "discount": 0.97,
            "target_rate": 0.02,
            "rollouts_per_task": 8,
            "rollout_steps": 20,
            "exploration_episodes": 2,
            "evaluate_every": 4,
        },
        {8: "interpolation_train", 16: "interpolation_train"},
        test="interpolation_test",
        columns=(8, 17),
        all_tasks="interpolation_train",
        pearl={"kl_weight": 1e-2, "encoder_hidden": 128},
    ),
    "PointRobot-v0": Study(
        {
            "iterations": 40,
            "initial_episodes": 10,
            "tasks_per_iteration": 45,
            "prior_episodes": 10,
            "posterior_episodes": 4,
            "model_updates": 100,
            "updates": 600,
            "imagine_every": 200,
            "rollouts_per_task": 8,
            "batch": 64,
            "targets": 32,
            "context": 60,
            "hidden": 64,
            "separation": 0.3,
            "learning_rate": 3e-3,
            "discount": 0.9,
            "reward_scale": 10.0,
            "target_rate": 0.02,
            "exploration_episodes": 8,
            "evaluate_every": 4,
        },
        {},
        pearl={"kl_weight": 1e-2, "latent": 5, "encoder_hidden": 128, "encoder_layers": 3},
        all_tasks="train",
    ),
}


def variants(benchmark: str) -> dict[str, tuple[Any, Any]]:
    """Algorithm and settings of every variant, in the order they are run."""
    study, found = STUDIES[benchmark], {}
    splits = {"evaluate_splits": (study.test, study.ood)}
    base = replace(metadreamer.Config(), **study.settings, **splits)

    def real(count: int) -> dict[str, Any]:
        split = study.splits.get(count, "train")
        size = metabench.spec(benchmark).table().size(split)
        return {"split": split, "tasks": min(count, size)}

    shared = {name: getattr(base, name) for name in COMMON}
    for count in (8, 16):
        found[f"pearl-R{count}"] = (pearl, replace(pearl.Config(), **{**shared, **real(count), **study.pearl}))
    runs = {name: replace(base, **{**changes, **real(changes["tasks"])}) for name, changes in metadreamer.RUNS.items()}
    found |= {name: (metadreamer, config) for name, config in runs.items()}
    if study.all_tasks:
        every = {"split": study.all_tasks, "tasks": 0}
        found["pearl-all"] = (pearl, replace(pearl.Config(), **{**shared, **every, **study.pearl}))
        found["all"] = (metadreamer, replace(base, **{**metadreamer.RUNS["R8"], **every}))
        found["allIR8"] = (metadreamer, replace(base, **{**metadreamer.RUNS["R8IR8"], **every}))
    for name in ("pearl-R8", "R8IR8"):
        algorithm, config = found[name]
        longer = replace(config, iterations=2 * config.iterations)
        found[name + LONG] = (algorithm, longer)
        found[name + LEAN] = (
            algorithm,
            replace(longer, tasks_per_iteration=max(1, config.tasks_per_iteration // 8)),
        )
    for name, changes in metadreamer.ABLATIONS.items():
        found[f"R8IR8-{name}"] = (metadreamer, replace(runs["R8IR8"], **changes))
    return found
