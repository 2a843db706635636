"""Draws what a trained Meta-DT's world model is surprised by, and the segments its prompts are cut from.

    python -m studies.meta_dt.surprise runs/offline/results/KEY --out surprise.png      # KEY: a finished run of meta-dt

Left: the world model's error along the first episode of every trial on the split `test`. Right: how often a step of
that episode is in the prompt of the second. On PointRobot also the walks themselves, with the prompt's steps marked.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from metabench_agents.parts.run import load_config
from metabench_agents.sequence import meta_dt
from metabench_agents.sequence.playing import SequenceAgent, SequenceBelief

import metabench
from metabench.evaluation.play import Stream

INK, FAINT, BLUE, ORANGE, GREEN = "#282C34", "#C9C6BE", "#0072B2", "#D55E00", "#009E73"


def play(agent: SequenceAgent, benchmark: str) -> tuple[SequenceBelief, np.ndarray]:
    """One episode of every test task and the first step of the next; the belief then, and the tasks' parameters."""
    chosen = metabench.spec(benchmark)
    table = chosen.table()
    rows = np.repeat(np.arange(table.size("test")), chosen.repeats)
    env: Any = metabench.make_vec(benchmark, len(rows), split="test", episodes_per_task=2)
    observation, _ = env.reset(seed=0, options={"task": rows})
    stream, belief = Stream(observation, env.single_action_space, agent.protocol), agent.begin(len(rows))
    for _ in range(chosen.horizon + 1):
        action, belief = agent.act(stream.timestep(), belief)
        observation, reward, terminated, truncated, info = env.step(action)
        stream.advance(action, observation, reward, terminated | truncated, info.get("final_obs"))
    return belief, table.rows["test"][rows]


def draw(folder: Path, target: Path) -> None:
    """Writes the picture."""
    import torch
    from matplotlib.figure import Figure

    benchmark = load_config(folder)["benchmark"]
    agent = meta_dt.load(folder)
    surprise: Any = getattr(agent.choose, "__self__", None)
    if surprise is None or surprise.model is None:
        raise SystemExit(f"the run in {folder} has no prompts or no world model")
    belief, tasks = play(agent, benchmark)
    (*ticks, last), prompt = belief.ticks, belief.prompt
    assert prompt is not None
    seen = torch.stack([tick.observation for tick in ticks], 1)
    error = surprise.errors(tuple(ticks), last)[:, : len(ticks) - surprise.blind].detach().numpy()
    steps, length = error.shape[1], prompt.time.shape[1]
    plane = benchmark.startswith("PointRobot")
    figure = Figure(figsize=(13 if plane else 9, 4.2), dpi=144, layout="constrained", facecolor="white")
    axes = figure.subplots(1, 3 if plane else 2)
    figure.suptitle(
        f"What surprises the world model: {benchmark}, test tasks, first episode of a trial", x=0.01, ha="left"
    )
    _errors(axes[0], error)
    used = np.bincount(prompt.time.numpy().ravel(), minlength=steps)[:steps] / len(error)
    axes[1].bar(range(steps), used, color=ORANGE, width=0.9)
    axes[1].axvline(surprise.steps - 0.5, color=FAINT, lw=1.2, ls=(0, (4, 3)))
    _label(axes[1], "step of the episode", f"share of prompts ({length} steps) that hold it")
    if plane:
        _walks(axes[2], seen.numpy(), prompt.time.numpy(), tasks)
    figure.savefig(target)
    print(f"written: {target}")


def _errors(axis: Any, error: np.ndarray) -> None:
    axis.plot(error.T, color=BLUE, lw=0.8, alpha=0.25)
    axis.plot(error.mean(0), color=BLUE, lw=2.2)
    _label(axis, "step of the episode", "|error| of the world model (mean in bold)")


def _walks(axis: Any, seen: np.ndarray, times: np.ndarray, goals: np.ndarray) -> None:
    for walk, time, goal in zip(seen, times, goals, strict=True):
        axis.plot(walk[:, 0], walk[:, 1], color=INK, lw=1.0, alpha=0.6)
        axis.plot(walk[time, 0], walk[time, 1], color=ORANGE, lw=4, alpha=0.8, solid_capstyle="round")
        axis.plot(*goal, marker="o", color=GREEN, ms=7)
    axis.set_aspect("equal")
    axis.set_title("walks (grey), prompts (orange), goals (green)", fontsize=9, color=INK)
    axis.set_xlabel("x, m", color=INK)
    axis.set_ylabel("y, m", color=INK)
    axis.spines[["top", "right"]].set_visible(False)


def _label(axis: Any, x: str, y: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel(x, color=INK)
    axis.set_ylabel(y, color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)


def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a training run")
    parser.add_argument("--out", type=Path, default=Path("surprise.png"))
    arguments = parser.parse_args()
    draw(arguments.folder, arguments.out)


if __name__ == "__main__":
    main()
