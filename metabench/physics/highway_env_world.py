"""highway-env's own merge environment as something a state can be put into, stepped in, and read back from."""

# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np

from metabench.rng import Array

LANES = (
    *(("a", "b", 0), ("a", "b", 1), ("b", "c", 0), ("b", "c", 1), ("b", "c", 2)),
    *(("c", "d", 0), ("c", "d", 1), ("j", "k", 0), ("k", "b", 0)),
)
ACTION_TYPES = {"meta": "DiscreteMetaAction", "discrete": "DiscreteAction"}


class World:
    """One highway-env `MergeEnv`. Rows are those of `metabench.families.highway_env_merge.Scene`."""

    def __init__(self, control: str):
        from highway_env.envs.merge_env import MergeEnv

        with _making, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pygame and pandas announce their own future
            self.env: Any = MergeEnv({"action": {"type": ACTION_TYPES[control]}}, render_mode="rgb_array")
        self.control = control

    def put(self, motion: Array, status: Array, drivers: tuple[float, float, float, float] | None) -> None:
        """Makes every vehicle what the rows `[5, 8]` and `[5, 4]` say; drivers as they are if there are none."""
        env = self.env
        for vehicle, row, marks in zip(env.road.vehicles, motion.tolist(), status.tolist(), strict=True):
            x, y, vehicle.heading, vehicle.speed, target_speed, timer, *impact = row
            lane, target, crashed, pending = marks
            vehicle.position = np.array([x, y])
            vehicle.lane_index, vehicle.lane = LANES[lane], env.road.network.get_lane(LANES[lane])
            vehicle.crashed, vehicle.impact = bool(crashed), np.array(impact) if pending else None
            if hasattr(vehicle, "target_speed"):
                vehicle.target_speed, vehicle.target_lane_index = target_speed, LANES[target]
            if hasattr(vehicle, "timer"):
                vehicle.timer = timer
            if drivers is not None and vehicle is not env.vehicle:
                vehicle.TIME_WANTED, vehicle.DISTANCE_WANTED, vehicle.POLITENESS, _ = drivers
        if drivers is not None:
            for lane in env.road.network.lanes_list():
                lane.speed_limit = drivers[3]

    def step(self, action: int) -> None:
        """One step of 15 substeps."""
        self.env.steps = 0  # the action is taken up where this is divisible by 15
        self.env._simulate(action)

    def get(self) -> tuple[Array, Array]:
        """The rows `[5, 8]` and `[5, 4]`."""
        motion, status = np.zeros((5, 8)), np.zeros((5, 4), dtype=np.int64)
        for row, marks, vehicle in zip(motion, status, self.env.road.vehicles, strict=True):
            pending = vehicle.impact is not None
            lane = LANES.index(self._index(vehicle.lane_index))
            target = LANES.index(self._index(getattr(vehicle, "target_lane_index", vehicle.lane_index)))
            row[:4] = (*vehicle.position, vehicle.heading, vehicle.speed)
            row[4] = getattr(vehicle, "target_speed", 0.0)  # a plain vehicle wants nothing, say the drivers
            row[5] = getattr(vehicle, "timer", 0.0)
            row[6:] = vehicle.impact if pending else 0.0
            marks[:] = (lane, target, vehicle.crashed, pending)
        return motion, status

    @staticmethod
    def _index(lane: Any) -> tuple[str, str, int]:
        return lane[0], lane[1], int(lane[2])

    def observe(self) -> Array:
        """`[25]` float32."""
        return self.env.observation_type.observe().ravel()

    def reward(self, action: int) -> float:
        """Of the state that was put, after this action."""
        return float(self.env._reward(action))

    def picture(self) -> Array:
        """highway-env's viewer, `[150, 600, 3]` uint8."""
        with _drawing:
            return np.ascontiguousarray(self.env.render())


class _Own(threading.local):
    """A thread's worlds, by control: two threads in one world would step each other's vehicles."""

    def __init__(self) -> None:
        self.worlds: dict[str, World] = {}


_own = _Own()
_making = threading.Lock()  # the filters of warnings belong to the process
_drawing = threading.Lock()  # and so does pygame


def world(control: str) -> World:
    """The one world of this thread: it holds no state between calls."""
    if control not in _own.worlds:
        _own.worlds[control] = World(control)
    return _own.worlds[control]
