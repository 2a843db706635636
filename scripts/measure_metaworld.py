"""Measures the yardsticks on every class of Meta-World and writes references-metaworld.json.

    python scripts/measure_metaworld.py                        # half an hour on one core; needs metabench[metaworld]
    python scripts/measure_metaworld.py reach --splits test    # these only, the others are kept

Every task of a split is played for one episode (`--tasks 10`: the first ten): resets and scripted policies are
deterministic, so more would only repeat it; the random agent plays one episode a task too. `success` is the share of
episodes with success at any step. The values of ML10 and ML45 follow from those of their classes, whose rows their
splits consist of.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

import metabench
from metabench.evaluation.evaluate import SEED_STRIDE, play_trials
from metabench.evaluation.results import write_atomically
from metabench.families.metaworld import BENCHMARKS
from metabench.physics.metaworld.classes import ML10_TEST, ML10_TRAIN, ML45_TEST, ML45_TRAIN, NAMES, camel
from metabench.plugins import load_plugin

SEED = 20_000  # no evaluation uses it
PATH = metabench.spec("MetaWorld-Reach-v0").folder / "references-metaworld.json"
YARDSTICKS = ("random", "zero", "oracle")
SPLITS = ("test", "ood", "train", "meta_dt_test", "meta_dt_train")


def measure(name: str, benchmark: str, split: str, tasks: int | None) -> dict[str, Any]:
    """Mean return, standard error over tasks, and success of one yardstick on the first `tasks` of a split, or all."""
    size = metabench.spec(benchmark).table().size(split)
    count = min(tasks or size, size)
    agent: Any = load_plugin(name)
    player = agent.build(benchmark, split, SEED)
    privileged = bool(getattr(player, "privileged", False))
    env = metabench.make_vec(benchmark, count, split=split, episodes_per_task=1, expose_task=privileged)
    played = play_trials(player, env, np.arange(count), 1, SEED * SEED_STRIDE)
    returns, won = played.returns.ravel(), played.successes
    assert won is not None
    error = float(returns.std(ddof=1) / np.sqrt(count))
    numbers = {
        "mean": round(float(returns.mean()), 3),
        "stderr": round(error, 3),
        "success": round(float(won.mean()), 4),
    }
    how = "one episode a task" if count == size else f"one episode on each of the first {count} tasks"
    return {**numbers, "trials": count, "method": f"played, {how}", "curve": [numbers["mean"]]}


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entry of a benchmark whose tasks are those of several classes."""
    trials = [part["trials"] for part in parts]
    mean, success = (float(np.average([part[key] for part in parts], weights=trials)) for key in ("mean", "success"))
    error = float(np.sqrt(np.sum([(part["stderr"] * n) ** 2 for part, n in zip(parts, trials, strict=True)])))
    numbers = {"mean": round(mean, 3), "stderr": round(error / sum(trials), 3), "success": round(success, 4)}
    return {**numbers, "trials": sum(trials), "method": "mean over its classes", "curve": [round(mean, 3)]}


def add_benchmarks(stored: dict[str, Any]) -> None:
    """The entries of ML10 and ML45, for the splits whose classes are all measured."""
    classes = {"ML10": (ML10_TRAIN, ML10_TEST), "ML45": (ML45_TRAIN, ML45_TEST)}
    for label in BENCHMARKS:
        train, test = classes[label]
        for split, names, part in (("train", train, "train"), ("test", test, "test"), ("ood", train, "ood")):
            entries = [stored.get(f"MetaWorld-{camel(name)}-v0", {}).get(part) for name in names]
            own = {
                who: joined([entry[who] for entry in entries if entry])
                for who in YARDSTICKS
                if all(entry and who in entry for entry in entries)
            }
            if own:
                stored.setdefault(f"MetaWorld-{label}-v0", {})[split] = own


def save(stored: dict[str, Any]) -> None:
    """Writes what is known; a run that is stopped has lost one class."""
    content = {"command": "python scripts/measure_metaworld.py", "seed": SEED, "benchmarks": stored}
    write_atomically(PATH, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def main() -> None:
    """Measures what is asked for, the evaluation splits first, and writes after every class."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="classes; all by default")
    parser.add_argument("--splits", nargs="*", help="splits; all by default")
    parser.add_argument("--yardsticks", nargs="*", choices=YARDSTICKS, help="agents; all by default")
    parser.add_argument("--tasks", type=int, help="only so many tasks of a split, from the first")
    parser.add_argument("--missing", action="store_true", help="only what is not stored yet")
    arguments = parser.parse_args()
    stored: dict[str, Any] = json.loads(PATH.read_text())["benchmarks"] if PATH.exists() else {}
    for split in arguments.splits or SPLITS:
        for name in arguments.names or NAMES:
            id = f"MetaWorld-{camel(name)}-v0"
            known = stored.setdefault(id, {})
            if split not in metabench.spec(id).table().splits or (arguments.missing and split in known):
                continue
            chosen = arguments.yardsticks or YARDSTICKS
            known[split] = known.get(split, {}) | {who: measure(who, id, split, arguments.tasks) for who in chosen}
            add_benchmarks(stored)
            save(stored)
            print(id, split, {who: (r["mean"], r["success"]) for who, r in known[split].items()}, flush=True)


if __name__ == "__main__":
    main()
