"""Faces for other libraries: a trial as one episode (`RL2`, `RL2Vector`), and Stable-Baselines3 (`stacks.sb3`)."""

from metabench.stacks.rl2 import RL2, RL2Vector

__all__ = ["RL2", "RL2Vector"]
