"""Measures the yardsticks on every split and writes references.json: what normalised scores are made of.

    python scripts/measure_references.py           # all benchmarks
    python scripts/measure_references.py ID ...     # these, the others as stored
    python scripts/measure_references.py --missing ID ...  # only the yardsticks that are not stored yet
    python scripts/measure_references.py --check    # compares with the stored ones instead, within 4 standard errors

The values are means per episode over all tasks of the split, each played often. For GridSwitch the Bayes filter's and
the oracle's values are exact (dynamic programming); there the standard error is 0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from metabench_agents.oracle.weights import has_weights, weights_path

import metabench
from metabench.evaluation.results import Protocol
from metabench.plugins import load_plugin
from metabench.yardsticks.grid_switch import bayes_plan, oracle_plan
from metabench.yardsticks.switching import grid_switch_model

SEED = 20_000  # no evaluation uses it
TRIALS, SIMULATED_TRIALS = 4000, 200  # at least, over all tasks of a split; where a physics engine runs
PATH = Path(__file__).parent.parent / "metabench" / "families" / "references.json"
YARDSTICKS = ("random", "zero", "win-stay-lose-shift", "bayes", "task-filter", "itch-filter", "oracle")


def measure(name: str, benchmark: str, split: str) -> dict[str, Any] | None:
    """Mean, standard error, trials and means per episode of one yardstick; None where it is not defined."""
    chosen = metabench.spec(benchmark)
    try:
        agent = load_plugin(name).build(benchmark, split, SEED)  # pyright: ignore[reportAttributeAccessIssue]
    except ValueError:
        return None
    size = chosen.table().size(split)
    repeats = -(-(SIMULATED_TRIALS if chosen.extra else TRIALS) // size)
    protocol = Protocol(benchmark=benchmark, split=split, episodes=chosen.episodes, repeats=repeats, seed=SEED)
    trials = metabench.evaluate(agent, protocol).trials()
    record: dict[str, Any] = {
        "mean": float(trials.mean()),
        "stderr": float(trials.mean(axis=1).std(ddof=1) / np.sqrt(len(trials))),
        "trials": len(trials),
        "method": "played",
        "curve": [round(float(r), 4) for r in trials.mean(axis=0)],
    }
    if name == "oracle" and has_weights(benchmark):  # a trained one: which weights reached this
        weights = weights_path(benchmark)
        record |= {"weights": weights.name, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    if name in ("bayes", "oracle") and benchmark.startswith("GridSwitch"):
        exact = exact_grid_switch(name, benchmark, split)
        gap = abs(exact - record["mean"]) / record["stderr"]
        if gap > 4:
            raise SystemExit(f"{name} on {benchmark}/{split}: played {record['mean']:.3f}, computed {exact:.3f}")
        record |= {"mean": exact, "stderr": 0.0, "method": "dynamic programming, exact", "curve": [round(exact, 4)]}
    return record


def exact_grid_switch(name: str, benchmark: str, split: str) -> float:
    """Expected return over the split's pairs and even starts."""
    model, values = grid_switch_model(benchmark, split), []
    for a, b in metabench.spec(benchmark).table().rows[split].astype(int).tolist():
        plan = bayes_plan(model, a, b) if name == "bayes" else oracle_plan(model, a, b)
        start = plan.value[:, 0] if name == "bayes" else plan.value.mean(axis=1)
        values.append(np.delete(start, (a, b)).mean())
    return float(np.mean(values))


def measure_all(ids: list[str], stored: dict[str, Any] | None = None) -> dict[str, Any]:
    """Benchmark -> split -> yardstick -> record, of these benchmarks or of all; records that are `stored` are kept."""
    stored = stored or {}
    table: dict[str, Any] = {}
    for chosen in metabench.specs():
        if not chosen.entry_point.startswith("metabench.") or (ids and chosen.id not in ids):
            continue
        if chosen.extra == "metaworld":  # see measure_metaworld.py
            continue
        for split in chosen.table().splits:
            kept = stored.get(chosen.id, {}).get(split, {})
            records = {name: kept.get(name) or measure(name, chosen.id, split) for name in YARDSTICKS}
            table.setdefault(chosen.id, {})[split] = {name: r for name, r in records.items() if r is not None}
            print(chosen.id, split, {n: round(r["mean"], 3) for n, r in table[chosen.id][split].items()})
    return table


def check(stored: dict[str, Any], fresh: dict[str, Any]) -> list[str]:
    """Where the stored means differ from the fresh ones by more than rounding."""
    faults = []
    for benchmark, splits in fresh.items():
        for split, records in splits.items():
            for name, record in records.items():
                old = stored.get(benchmark, {}).get(split, {}).get(name)
                if old is None or abs(old["mean"] - record["mean"]) > 4 * record["stderr"] + 1e-9:
                    faults.append(
                        f"{benchmark} {split} {name}: stored {old and old['mean']}, measured {record['mean']}"
                    )
    return faults


def main() -> None:
    """Measures, then writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with references.json, write nothing")
    parser.add_argument("--missing", action="store_true", help="keep what is stored, measure the rest")
    parser.add_argument("ids", nargs="*", metavar="ID", help="measure these only; the others stay as they are")
    arguments = parser.parse_args()
    stored = json.loads(PATH.read_text())["benchmarks"]
    fresh = measure_all(arguments.ids, stored if arguments.missing else None)
    if arguments.check:
        faults = check(stored, fresh)
        print("\n".join(faults) or "references.json agrees")
        sys.exit(bool(faults))
    if arguments.ids:
        fresh = {chosen.id: (stored | fresh)[chosen.id] for chosen in metabench.specs() if chosen.id in stored | fresh}
    record = {"command": "python scripts/measure_references.py", "seed": SEED, "benchmarks": fresh}
    PATH.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
