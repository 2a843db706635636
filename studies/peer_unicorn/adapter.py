"""What stands between UNICORN's released code and metabench: its missing imports, data as it reads them, its policy.

The code (github.com/betray12138/UNICORN, commit d8853cd) runs unchanged: it asks for packages that its training does
not use, for an environment that it plays in now and then, and for the decoder of the package mbrl, which it is given.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from metabench_agents.context.actor_critic import ActionScale
from torch import Tensor

import metabench
from metabench.rng import Array
from studies.peer_csro import adapter as csro

__all__ = ["Course", "PeerAgent", "Released", "ShownAgent", "Trajectories", "stand_in", "trajectories"]

Trajectories = list[Array]  # observation, action, reward, next observation, end of a task: each [T, n, width]

# What is imported and not used: for drawings, logs, command lines and mbrl's configurations.
UNUSED = ("distutils", "distutils.util", "hydra", "omegaconf", "seaborn", "tensorboardX", "termcolor", "tqdm")


class Nothing:
    """Takes whatever it is given."""

    def __init__(self, *given: Any, **named: Any):
        """Keeps none of it."""


class Unused(types.ModuleType):
    """A module of which everything can be had, and nothing is of use."""

    def __getattr__(self, name: str) -> type[Nothing]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


class Course(csro.Plane):
    """What the code reads from its environment; it plays in none."""

    def __init__(self, benchmark: str):
        super().__init__(benchmark)
        family: Any = metabench.spec(benchmark).family()
        self._max_episode_steps = family.horizon
        self.unwrapped = self

    def set_all_goals(self, goals: Any) -> None:
        """Nobody is to reach them."""


def stand_in() -> None:
    """Puts gymnasium in gym's place, `Course` in that of its environments, and what does nothing where that is used."""
    csro.stand_in()
    for name in UNUSED:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = Unused(name)
    made: Any = types.ModuleType("environments.make_env")
    made.make_env = lambda benchmark, episodes, **others: Course(benchmark)
    box: Any = types.ModuleType("environments.mujoco.rand_param_envs.gym.spaces.box")
    box.Box = gym.spaces.Box
    sys.modules |= {module.__name__: module for module in (made, box)}


def trajectories(data: Any) -> list[Trajectories]:
    """A split of a data set as the code has it when it has read its files: tasks' episodes `[T, n, ...]`.

    Actions are in half widths of their box. No episode ends where it would not go on: its end is that of the time.

    Raises:
        ValueError: Episodes are not of one length.
    """
    columns, episodes = data.to_torch(), np.asarray(data.episodes)
    lengths = sorted(set(episodes["length"].tolist()))
    if len(lengths) > 1:
        raise ValueError(f"every episode must have as many steps, and they have {lengths}")
    action = ActionScale(metabench.spec(data.manifest.benchmark).family().action_space).from_env(columns["actions"])
    reward, end = (columns[name].float()[:, None] for name in ("rewards", "terminated"))
    parts = (columns["observations"], action, reward, columns["next_observations"], end)
    told = []
    for task in torch.unique(columns["task"]):
        mine = columns["task"] == task
        shaped = (part[mine].float().reshape(-1, lengths[0], part.shape[1]) for part in parts)
        told.append([part.transpose(0, 1).contiguous().numpy() for part in shaped])
    return told


class Released:
    """The code's encoder and policy, called as `studies.peer_csro.adapter` calls CSRO's.

    Args:
        learner: The code's `FOCAL`, trained.
    """

    def __init__(self, learner: Any):
        self.learner, own = learner, learner.args
        self.latent_dim, self.widths = own.task_embedding_size, (own.obs_dim, own.action_dim, 1, own.obs_dim)

    def eval(self) -> Released:
        """For playing."""
        self.learner.training_mode(False)
        return self

    def context_encoder(self, rows: Tensor) -> Tensor:
        """Codes `[..., L]` of transitions `[..., O + A + 1 + O]`, with the noise that the code has at play too."""
        flat = rows.reshape(-1, rows.shape[-1])
        parts = [part[None] for part in flat.split(self.widths, dim=-1)]  # contexts of one transition
        codes, _ = self.learner.encoder.context_encoding(*parts, torch.zeros(1, len(flat), 1))
        return codes.view(*rows.shape[:-1], -1)

    def policy(self, tasks: int, count: int, told: Tensor, deterministic: bool) -> tuple[Tensor, ...]:
        """Actions `[B, A]` first, at observations with z `[B, O + L]`."""
        return self.learner.agent.act(told, deterministic=deterministic)


class PeerAgent(csro.PeerAgent):
    """CSRO's way of playing for an encoder that sees what a step led to, too."""

    name = "unicorn-released"

    def row(self, before: Tensor, step: metabench.Timestep) -> Tensor:
        """The transition just completed `[B, O + A + 1 + O]`."""
        led_to = np.where(np.asarray(step.first)[:, None], step.final, step.observation)
        return torch.cat((super().row(before, step), torch.as_tensor(led_to).float()), dim=-1)


class ShownAgent(csro.ShownAgent):
    """The same policy on the mean of the codes of transitions that the data of the test task show: a privilege."""

    name = "unicorn-released, shown"
