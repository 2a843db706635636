"""Measures what a trained Meta-DT's z tells of test tasks, whatever the behaviour: Meta-DT's own claim, as a number.

    python -m studies.meta_dt.invariance runs/PointRobot-v0-meta-dt-s0 runs/PointRobot-v0-window-s0 --out invariance.png

A probe reads the tasks' parameters off z; it is fitted on the run's own training data. On test tasks, R^2 by step of
the first episode under uniform actions, the expert, the mixed data and the agent's own behaviour; 1 is all, 0 nothing,
below 0 misleads. Data sets that are missing are generated. One panel per run; the numbers go beside it as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metabench_agents.parts.run import load_config
from metabench_agents.sequence import meta_dt
from metabench_agents.sequence.episodes import Episodes, load_episodes
from metabench_agents.sequence.playing import SequenceAgent
from metabench_agents.sequence.trials.telling import STEPS, Probe, explained, fit_probe, parameters, tells
from torch import Tensor

import metabench
from metabench.datasets import DatasetId, generate
from metabench.evaluation.play import Stream
from metabench.evaluation.results import write_atomically

INK, FAINT = "#282C34", "#C9C6BE"
COLOURS = {"random": "#D55E00", "expert": "#0072B2", "mixed": "#009E73", "own": "#CC79A7"}
WORDS = {"random": "uniform actions", "expert": "the expert", "mixed": "mixed data", "own": "its own"}
TRIALS = 100  # at least so many are played of the agent's own behaviour


def own_z(agent: SequenceAgent, benchmark: str, split: str) -> tuple[Tensor, np.ndarray]:
    """Z `[B, T, Z]` before every step of the agent's own first episodes, and the tasks' rows `[B]`."""
    chosen = metabench.spec(benchmark)
    size = chosen.table().size(split)
    rows = np.repeat(np.arange(size), -(-TRIALS // size))
    env: Any = metabench.make_vec(benchmark, len(rows), split=split, episodes_per_task=1)
    observation, _ = env.reset(seed=0, options={"task": rows})
    stream, belief = Stream(observation, env.single_action_space, agent.protocol), agent.begin(len(rows))
    for _ in range(chosen.horizon):
        action, belief = agent.act(stream.timestep(), belief)
        observation, reward, terminated, truncated, info = env.step(action)
        stream.advance(action, observation, reward, terminated | truncated, info.get("final_obs"))
    return torch.stack([tick.context for tick in belief.ticks], dim=1), rows


def data_of(benchmark: str, quality: str, split: str, agent: SequenceAgent) -> Episodes:
    """A data set's episodes; made first where it is missing."""
    if "/" not in quality:
        generate(DatasetId.of(benchmark, quality), split)
    return load_episodes(benchmark, quality, split, agent.codec)


def measure(folder: Path, split: str = "test") -> Mapping[str, dict[int, float]]:
    """R^2 by behaviour and step of one run."""
    record = load_config(folder)
    benchmark, agent = record["benchmark"], meta_dt.load(folder)
    table = metabench.spec(benchmark).table()
    config = record["config"]
    train = torch.as_tensor(np.asarray(table.rows[config["split"]], np.float32))
    test = torch.as_tensor(np.asarray(table.rows[split], np.float32))
    learned = data_of(benchmark, config["data"], config["split"], agent)
    owner = torch.repeat_interleave(torch.arange(len(learned)), learned.length)
    target = parameters(train, train)[learned.task]
    probe: Probe = fit_probe(meta_dt.z_of(agent, learned)[learned.rows()[0]], target[owner])
    found: dict[str, dict[int, float]] = {}
    for quality in ("random", "expert", "mixed"):
        met = data_of(benchmark, quality, split, agent)
        found[quality] = tells(meta_dt.z_of(agent, met), met, parameters(test, train)[met.task], probe)
    z, rows = own_z(agent, benchmark, split)
    goals = parameters(test, train)[torch.as_tensor(rows)]
    found["own"] = {t: explained(probe, z[:, t], goals) for t in STEPS if t < z.shape[1]}
    return found


def draw(found: Mapping[str, Mapping[str, Mapping[int, float]]], target: Path) -> None:
    """Writes the picture: a panel per run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(found), 3.8), dpi=144, layout="constrained", facecolor="white")
    panels: Any = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axis, (name, by_behaviour) in zip(panels, found.items(), strict=True):
        for behaviour, by_step in by_behaviour.items():
            steps = sorted(by_step)
            values = [max(by_step[t], -1.0) for t in steps]
            axis.plot(steps, values, color=COLOURS[behaviour], lw=2, marker="o", ms=4, label=WORDS[behaviour])
        axis.axhline(1.0, color=FAINT, lw=1.2, ls=(0, (4, 3)), zorder=0)
        axis.axhline(0.0, color=FAINT, lw=1.2, zorder=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(STEPS, [str(t) for t in STEPS])
        axis.set_ylim(-1.05, 1.08)
        axis.set_title(name, color=INK, fontsize=10, loc="left")
        axis.set_xlabel("steps seen of the first episode", color=INK)
        axis.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("R² of the task from z, test tasks\n(below -1 drawn at -1)", color=INK)
    panels[-1].legend(frameon=False, title="behaviour", fontsize=8)
    figure.savefig(target)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="runs of meta-dt")
    parser.add_argument("--names", nargs="+", help="of the panels; the folders' names by default")
    parser.add_argument("--out", type=Path, default=Path("invariance.png"))
    chosen = parser.parse_args(arguments)
    names = chosen.names or [folder.name for folder in chosen.folders]
    found = {name: measure(folder) for name, folder in zip(names, chosen.folders, strict=True)}
    for name, by_behaviour in found.items():
        for behaviour, by_step in by_behaviour.items():
            values = "   ".join(f"{t}: {value:5.2f}" for t, value in by_step.items())
            print(f"{name:24s} {WORDS[behaviour]:16s} {values}", flush=True)
    draw(found, chosen.out)
    write_atomically(chosen.out.with_suffix(".json"), json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
