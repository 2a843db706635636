"""What stands between CSRO's released code and metabench: its missing imports, data as it reads them, its policy.

The code (github.com/MoreanP/CSRO, commit 7db1efd) runs unchanged: it asks for packages of its time that its training
does not use, and reads trajectories from files, a folder per task.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from metabench_agents.context.actor_critic import ActionScale
from metabench_agents.context.offline.data import find_task
from torch import Tensor

import metabench
from metabench.rng import Array, SlotRng

__all__ = ["Context", "PeerAgent", "Plane", "Shown", "ShownAgent", "shown_contexts", "stand_in", "write_trajectories"]


def stand_in() -> None:
    """Puts gymnasium in gym's place, and what does nothing in that of gin, gtimer and turtle, which are imported."""
    old: Any = types.ModuleType("gym")
    old.Env, old.spaces = gym.Env, gym.spaces
    turtle: Any = types.ModuleType("turtle")
    turtle.position = None
    gin: Any = types.ModuleType("gin")
    gin.configurable = lambda configured: configured
    missing = {"gym": old, "gym.spaces": gym.spaces, "gin": gin, "gtimer": types.ModuleType("gtimer"), "turtle": turtle}
    for name, module in missing.items():
        sys.modules.setdefault(name, module)


class Plane:
    """The spaces that the code reads from its environment; it plays in none. Actions are in half widths of the box."""

    def __init__(self, benchmark: str):
        family: Any = metabench.spec(benchmark).family()
        size = (len(family.observation_fields),)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, size, np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, family.action_space.shape, np.float64)


def write_trajectories(data: Any, folder: Path) -> tuple[int, int]:
    """Writes a split of a data set as the code reads it; how many tasks there are, and trajectories of each.

    A trajectory is a file of its own, `goal_idxI/trj_evalsampleK_step0.npy`: rows of observation, action, reward and
    next observation. All tasks must have as many trajectories.
    """
    columns = data.to_torch()
    actions = ActionScale(metabench.spec(data.manifest.benchmark).family().action_space)
    episodes = np.asarray(data.episodes)
    action = actions.from_env(columns["actions"].numpy()).numpy()
    parts = (columns["observations"].numpy(), action, columns["rewards"].numpy(), columns["next_observations"].numpy())
    known, counts = np.unique(episodes["task"], return_counts=True)
    if len(set(counts.tolist())) > 1:
        raise ValueError(f"every task must have as many episodes, and they have {sorted(set(counts.tolist()))}")
    ends = np.cumsum(episodes["length"].astype(np.int64))
    for number, task in enumerate(known.tolist()):
        place = folder / f"goal_idx{number}"
        place.mkdir(parents=True, exist_ok=True)
        for k, episode in enumerate(np.flatnonzero(episodes["task"] == task)):
            end, length = int(ends[episode]), int(episodes["length"][episode])
            rows = np.empty((length, 4), dtype=object)
            for t in range(length):
                for column, part in enumerate(parts):
                    rows[t, column] = part[end - length + t]
            np.save(place / f"trj_evalsample{k}_step0.npy", rows, allow_pickle=True)
    return len(known), int(counts[0])


class Shown(NamedTuple):
    """Transitions of K tasks, as their encoder sees them."""

    tasks: Array  # [K, C] what is hidden
    rows: Tensor  # [K, n, W] observation, action in half widths, reward, and what followed where that is seen


def shown_contexts(data: Any, number: int = 64, seed: int = 0, *, following: bool = False) -> Shown:
    """`number` transitions of every task of a split of a data set, evenly drawn: what published evaluations show.

    Args:
        data: The split.
        number: Of transitions.
        seed: Of the draws.
        following: Whether the next observation is shown too.
    """
    columns, chosen = data.to_torch(), metabench.spec(data.manifest.benchmark)
    action = ActionScale(chosen.family().action_space).from_env(columns["actions"].numpy())
    parts = [columns["observations"].float(), action, columns["rewards"].float()[:, None]]
    if following:
        parts.append(columns["next_observations"].float())
    every = torch.cat(parts, dim=-1)
    draws, known = torch.Generator().manual_seed(seed), torch.unique(columns["task"])
    rows = []
    for task in known:
        mine = torch.nonzero(columns["task"] == task)[:, 0]
        rows.append(every[mine[torch.randint(len(mine), (number,), generator=draws)]])
    return Shown(chosen.table().rows[data.manifest.split][known.numpy()], torch.stack(rows))


class Context(NamedTuple):
    """What an agent remembers of B trials."""

    total: Tensor  # [B, L] sum of the codes of what has been seen
    known: int  # how many they are
    observation: Tensor  # [B, O] of the last tick
    ticks: int  # of the trial
    probes: Array  # [B, explore, A] actions the trial begins with


class PeerAgent:
    """Its policy on the mean of its codes of the trial so far, renewed at every step; at first drawn actions.

    Args:
        agent: The code's `PEARLAgent`, trained: an encoder of (observation, action, reward), and a policy.
        space: The environment's box of actions.
        explore: Steps a trial begins with that are drawn evenly, as the paper explores.
    """

    name, track, privileged = "csro-released", "offline", False

    def __init__(self, agent: Any, space: gym.spaces.Box, explore: int = 4):
        self.agent, self.explore = agent.eval(), explore
        self.actions = ActionScale(space)

    def begin(self, num_trials: int) -> Context:
        """Nothing has been seen."""
        size = (self.explore, self.actions.size)
        probes = SlotRng.from_seeds(range(num_trials)).uniform(-1.0, 1.0, size)
        nothing = torch.zeros(num_trials, self.agent.latent_dim)
        return Context(nothing, 0, torch.zeros(num_trials, 0), 0, probes)

    def row(self, before: Tensor, step: metabench.Timestep) -> Tensor:
        """The transition just completed `[B, W]`, as the encoder sees it; `before` `[B, O]` was seen before it."""
        reward = torch.as_tensor(np.asarray(step.reward)).float()[:, None]
        return torch.cat((before, self.actions.from_env(step.action), reward), dim=-1)

    @torch.inference_mode()
    def act(self, step: metabench.Timestep, belief: Context) -> tuple[Array, Context]:
        """Takes in the transition just completed, and acts."""
        seen = torch.as_tensor(np.asarray(step.observation)).float()
        total, count = belief.total, belief.known
        if belief.ticks:
            code = self.agent.context_encoder(self.row(belief.observation, step)[:, None])
            total, count = total + code.view(len(seen), -1), count + 1
        z = total / max(1, count)
        if belief.ticks < self.explore:
            chosen = torch.as_tensor(belief.probes[:, belief.ticks])
        else:
            told = torch.cat((seen, z), dim=-1)
            chosen = self.agent.policy(1, len(seen), told, deterministic=True)[0]
        after = Context(total, count, seen, belief.ticks + 1, belief.probes)
        return self.actions.to_env(chosen), after


class ShownAgent:
    """The same policy on the mean of the codes of transitions that the data of the test task show: a privilege.

    Args:
        agent: As above.
        space: Likewise.
        shown: What is shown of every task.
    """

    name, track, privileged = "csro-released, shown", "prompt-k", True

    def __init__(self, agent: Any, space: gym.spaces.Box, shown: Shown):
        self.agent, self.find, self.columns = agent.eval(), find_task(shown.tasks), shown.tasks.shape[1]
        self.actions = ActionScale(space)
        with torch.inference_mode():
            self.told = agent.context_encoder(shown.rows).view(*shown.rows.shape[:2], -1).mean(1)

    def begin(self, num_trials: int) -> None:
        """Nothing is remembered."""
        return

    @torch.inference_mode()
    def act(self, step: metabench.Timestep, belief: None) -> tuple[Array, None]:
        """Acts on what was seen, and on the task's z; the task stands behind what is seen."""
        seen = torch.as_tensor(np.asarray(step.observation)).float()
        z = self.told[self.find(seen[:, -self.columns :])]
        told = torch.cat((seen[:, : -self.columns], z), dim=-1)
        chosen = self.agent.policy(1, len(seen), told, deterministic=True)[0]
        return self.actions.to_env(chosen), None
