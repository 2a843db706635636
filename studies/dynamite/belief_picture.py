"""Draws what trained agents believe on GridSwitch around a hidden switch: one trial, tick by tick.

    python -m studies.dynamite.belief_picture runs/study/dynamite/results/KEY runs/study/dynamite/results/OTHER-KEY

For each run folder: the predicted probability that each candidate pays (the decoder's, at the belief's mean), where
the agent stands, and the true candidate behind it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metabench_agents.belief import dynamite, varibad
from metabench_agents.belief.model import BeliefModel
from metabench_agents.belief.policy import BeliefAgent
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import load_config

import metabench
from metabench.evaluation.play import Stream

BENCHMARK, SEED, TRIAL = "GridSwitch-v0", 3, 3
TARGET = Path(__file__).parent.parent.parent / "docs" / "images" / "grid-switch-belief.png"
COLORS = ("#0072B2", "#D55E00")  # first and second candidate


def load(folder: Path) -> BeliefAgent:
    """The agent of a run, whose model has the reward decoder."""
    module: Any = {"varibad": varibad, "dynamite": dynamite}[load_config(folder)["agent"]]
    return module.load(folder)


@torch.no_grad()
def play(agent: BeliefAgent) -> dict[str, np.ndarray]:
    """One trial, `[T]`: who pays, where the agent stands (0, 1, or -1 elsewhere), and `[T, 2]` predictions."""
    model: BeliefModel = agent.model
    env = metabench.make_vec(BENCHMARK, 1, split="test", expose_task=True)
    observation, _ = env.reset(seed=SEED, options={"task": [TRIAL]})
    stream, belief = Stream(observation[:, :6], env.single_action_space, agent.protocol), agent.begin(1)
    rows: dict[str, list[Any]] = {"paying": [], "stands": [], "predicted": []}
    for _ in range(metabench.spec(BENCHMARK).horizon):
        step = stream.timestep()
        posterior, _ = agent.infer(step, belief)
        z = posterior.clone()[None, :, : model.latent.size]
        seen, predicted = torch.from_numpy(observation[:, :6]), []
        for column in (2, 4):
            there = torch.cat((seen[:, column : column + 2], seen[:, 2:]), dim=1)[None]
            empty = torch.zeros(1, 1)
            trials = Trials(there, empty.long(), empty, there, empty.bool(), empty.long())
            predicted.append(torch.sigmoid(model.reward(z, trials))[0, 0, 0, 0].item())
        at = [i for i in (0, 1) if (seen[0, :2] == seen[0, 2 + 2 * i : 4 + 2 * i]).all()]
        rows["paying"].append(int(observation[0, 8]))
        rows["stands"].append(at[0] if at else -1)
        rows["predicted"].append(predicted)
        action, belief = agent.act(step, belief)
        observation, reward, terminated, truncated, info = env.step(action)
        final = info.get("final_obs")
        shown = None if final is None else final[:, :6]
        stream.advance(action, observation[:, :6], reward, terminated | truncated, shown)
    return {name: np.array(values) for name, values in rows.items()}


def main() -> None:
    """Draws one row per run folder."""
    from matplotlib.figure import Figure

    folders = [Path(name) for name in sys.argv[1:]]
    if not folders:
        raise SystemExit(__doc__)
    figure = Figure(figsize=(9, 2.5 * len(folders)), dpi=144, layout="constrained", facecolor="white")
    axes = figure.subplots(len(folders), 1, sharex=True, squeeze=False)[:, 0]
    for axis, folder in zip(axes, folders, strict=True):
        agent = load(folder)
        trial = play(agent)
        ticks = np.arange(len(trial["paying"]))
        for i, name in enumerate(("first", "second")):
            pays = trial["paying"] == i
            axis.fill_between(ticks, 0, 1, where=pays, step="mid", color=COLORS[i], alpha=0.12, lw=0)
            axis.plot(ticks, trial["predicted"][:, i], color=COLORS[i], lw=1.8, label=f"the {name} pays, predicted")
            here = ticks[trial["stands"] == i]
            axis.plot(here, np.full(len(here), -0.08), "s", color=COLORS[i], ms=4)
        axis.set(ylim=(-0.15, 1.05), ylabel="probability")
        axis.set_title(f"{agent.name}: shaded, who pays; squares, where it stands", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("step of the episode")
    axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="upper right", bbox_to_anchor=(1.0, 1.25))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TARGET)


if __name__ == "__main__":
    main()
