"""Oracles of the points: straight to the goal."""

from __future__ import annotations

from typing import Any

import numpy as np

from metabench.agent import Agent
from metabench.families.point_robot import MAX_STEP
from metabench.rng import Array
from metabench.yardsticks.simple import Memoryless


def to_point(observation: Array) -> Array:
    """Straight to the goal in the last two columns, one step at most along each axis."""
    offset = observation[:, 2:4].astype(np.float64) - observation[:, :2]
    return np.clip(offset, -MAX_STEP, MAX_STEP).astype(np.float32)


def to_angle(observation: Array) -> Array:
    """Straight to the goal on the unit circle whose angle is the last column."""
    angle = observation[:, 2].astype(np.float64)
    goal = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.clip(goal - observation[:, :2], -MAX_STEP, MAX_STEP).astype(np.float32)


class _PointRobot:
    """Goes to the goal of PointRobot."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The oracle."""
        return Memoryless(to_point)


class _SparsePointRobot:
    """Goes to the goal of SparsePointRobot."""

    def build(self, benchmark: str, split: str, seed: int) -> Agent[Any]:
        """The oracle."""
        return Memoryless(to_angle)


point_robot, sparse_point_robot = _PointRobot(), _SparsePointRobot()
