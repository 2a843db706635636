"""Figure 7 of DynaMITE-RL: return against the probability p that the hidden task changes after a step.

    python -m studies.dynamite.figure7 CheetahVelSwitch-v0 --seeds 0 --frames 1000000
    python -m studies.dynamite.figure7 GridSwitch-v0 --p 0 0.02 0.07 0.2 0.5 1 --seeds 0 1 2
    python -m studies.dynamite.figure7 CheetahVelSwitch-v0 --trained runs/a runs/b

From p = 0, a latent MDP without switches, to p = 1, a POMDP whose task changes at every step. VariBAD and DynaMITE-RL
learn and are played at each p (any family whose sessions are geometric); with `--trained` finished runs are played at
each p instead, which learned at the benchmark's own. As in the paper, a point shows 25 trials. A run that was stopped
is continued, one that is finished is not repeated. Results: `results/BENCHMARK/figure7.json`, beside this file, and a
picture `docs/images/BENCHMARK-figure7.png`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from metabench_agents.belief import dynamite, varibad
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run

import metabench
from metabench import registry
from metabench.colors import color_of
from metabench.evaluation.play import play
from metabench.evaluation.results import write_atomically
from metabench.plotting.style import INK
from metabench.plugins import load_run
from studies.dynamite.study import CHEETAH_MODEL, IMAGES, RESULTS

RUNS = Path(__file__).parent.parent.parent / "runs" / "figure7"
AGENTS = {"varibad": varibad, "dynamite": dynamite}
PROBABILITIES, TRIALS, SEED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0), 25, 2**41
CALM = {  # small steps, normalised observations: see NOTES.md
    "trials": 32,
    "ppo.learning_rate": 3e-4,
    "ppo.minibatches": 4,
    "ppo.target_kl": 0.01,
    "ppo.adaptive": True,
    "model.normalise": True,
    "warmup.iterations": 10,
}


def switching(benchmark: str, p: float) -> Any:
    """A context in which the benchmark's sessions end with probability p after every step, in training and in play.

    Raises:
        ValueError: In one sentence, where its sessions are not geometric.
    """
    spec = metabench.spec(benchmark)
    if spec.sessions is None or spec.sessions["kind"] != "geometric":
        raise ValueError(f"the sessions of {benchmark} are not geometric: there is no p to change")
    changed = dataclasses.replace(spec, sessions={**spec.sessions, "p": p}, split_sessions={})
    return mock.patch.dict(registry._SPECS, {spec.id: changed})  # ids never change their meaning: for this study alone


def config_of(name: str, benchmark: str, frames: int) -> Any:
    """An agent's settings: its own on grids, the study's with calm steps elsewhere."""
    config = AGENTS[name].Config()
    if not benchmark.startswith("Grid"):
        config = with_settings(config, CHEETAH_MODEL | CALM)
    return with_settings(config, {"frames": frames})


def returns_of(agent: Any, benchmark: str) -> list[float]:
    """Returns of 25 test trials at the p that is on."""
    env = metabench.make_vec(benchmark, TRIALS, split="test")
    observation, _ = env.reset(seed=SEED)
    ticks = metabench.spec(benchmark).horizon * metabench.spec(benchmark).episodes
    total = sum(tick.reward for tick, _ in zip(play(agent, env, observation), range(ticks), strict=False))
    return [round(float(value), 4) for value in np.asarray(total)]


def measure(benchmark: str, probabilities: list[float], seeds: list[int], frames: int) -> list[dict[str, Any]]:
    """Trains and plays at every p; a record per run."""
    rows = []
    for p in probabilities:
        for name in AGENTS:
            for seed in seeds:
                with switching(benchmark, p):
                    run = Run(RUNS / benchmark / f"{name}-p{p:g}-s{seed}", show=False)
                    agent = AGENTS[name].train(benchmark, config_of(name, benchmark, frames), seed=seed, run=run)
                    returns = returns_of(agent, benchmark)
                rows.append(
                    {"agent": name, "learned_at": p, "p": p, "seed": seed, "frames": frames, "returns": returns}
                )
                print(f"{name} p={p:g} seed {seed}: {np.mean(returns):.2f}", flush=True)
    return rows


def transfer(benchmark: str, probabilities: list[float], folders: list[Path]) -> list[dict[str, Any]]:
    """Plays finished runs at every p; a record per run and p."""
    own = metabench.spec(benchmark).sessions or {}
    rows = []
    for folder in folders:
        trained = load_run(folder)
        if trained.record.benchmark != metabench.spec(benchmark).id:
            raise ValueError(f"{folder} was trained on {trained.record.benchmark}, not on {benchmark}")
        for p in probabilities:
            with switching(benchmark, p):
                returns = returns_of(trained.agent, benchmark)
            row = {"agent": trained.record.agent, "learned_at": own.get("p"), "p": p, "seed": trained.record.seed}
            rows.append(row | {"returns": returns})
            print(f"{folder.name} p={p:g}: {np.mean(returns):.2f}", flush=True)
    return rows


def draw(benchmark: str, rows: list[dict[str, Any]], target: Path) -> None:
    """Boxes of returns at every p, agents side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=144, layout="constrained", facecolor="white")
    axis, names = figure.subplots(), sorted({row["agent"] for row in rows})
    probabilities = sorted({row["p"] for row in rows})
    for shift, name in enumerate(names):
        boxes = [
            [r for row in rows if row["agent"] == name and row["p"] == p for r in row["returns"]] for p in probabilities
        ]
        room = 0.78 / len(names)
        where = np.arange(len(probabilities)) + room * (shift - (len(names) - 1) / 2)
        color = color_of(name)
        drawn = axis.boxplot(
            boxes,
            positions=where,
            widths=0.8 * room,
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": INK},
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": color},
        )
        for box in drawn["boxes"]:
            box.set(facecolor=color, alpha=0.5, edgecolor=color)
        axis.plot([], [], "s", color=color, label=name)
    axis.set_xticks(range(len(probabilities)), [f"{p:g}" for p in probabilities])
    axis.set(xlabel="probability p that the task changes after a step", ylabel="return of a trial")
    axis.set_title(benchmark.removesuffix("-v0"), loc="left", fontsize=10)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def main() -> None:
    """The whole figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark")
    parser.add_argument("--p", nargs="+", type=float, default=list(PROBABILITIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--trained", nargs="+", type=Path, default=[])
    a = parser.parse_args()
    benchmark = metabench.spec(a.benchmark).id
    rows = transfer(benchmark, a.p, a.trained) if a.trained else measure(benchmark, a.p, a.seeds, a.frames)
    (RESULTS / benchmark).mkdir(parents=True, exist_ok=True)
    name = "figure7-trained" if a.trained else "figure7"
    write_atomically(RESULTS / benchmark / f"{name}.json", (json.dumps(rows, indent=1) + "\n").encode())
    draw(benchmark, rows, IMAGES / f"{benchmark.removesuffix('-v0').lower()}-{name}.png")


if __name__ == "__main__":
    main()
