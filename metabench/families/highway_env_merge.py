"""highway-env's merge-v0, batched: the same roads, drivers, observations and rewards, step for step.

highway-env 1.12.1 (Leurent 2018, https://github.com/Farama-Foundation/HighwayEnv), `envs/merge_env.py`. A step is one
second of 15 substeps. `make(..., backend="reference")` steps highway-env itself from the same states; the two agree in
every discrete variable, and in positions, speeds and rewards within 1e-12.

What differs from highway-env: starts are drawn from metabench's streams (same distribution); the observation is its
5 x 5 table in one row; an episode without an end is cut after 100 steps (highway-env never cuts); the drivers' time
gap, distance, politeness and speed limit are task parameters, whose only tabled values are highway-env's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from metabench.drawing import RoadCanvas
from metabench.family import Family, Field
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.simulator import FunctionalSimulator
from metabench.tasks import param

VEHICLES = 5
SPEED, TARGET_SPEED = 3, 4  # columns of `motion`; all of them are named in physics/highway_env_merge.py
CRASHED = 2  # columns of `status`
AB1, JK0 = 1, 7  # lanes, in highway-env's order
EGO_X, EGO_SPEED = 30.0, 30.0  # m, m/s
CARS_X, CARS_SPEED = np.array([90.0, 70.0, 5.0]), np.array([29.0, 31.0, 31.5])
X_SPREAD, SPEED_SPREAD = 5.0, 1.0  # m and m/s, either way
RAMP_X, RAMP_SPEED, RAMP_TARGET = 110.0, 20.0, 30.0
GOAL_X = 370.0  # m where an episode ends well
META_ACTIONS = ("lane left", "idle", "lane right", "faster", "slower")
STEERING, THROTTLE = np.float32(np.pi / 4), np.float32(5.0)  # the extremes of the discrete controls
CONTROLS = ("brake", "roll", "accelerate")


@dataclass(frozen=True)
class Drivers:
    """The drivers of the other cars. highway-env's own values: 1.5 s, 10 m, 0, 20 m/s."""

    time_wanted: Array = param(0.5, 3.0, "s", "time gap a driver keeps", train=(1.5, 1.5))
    distance_wanted: Array = param(5.0, 20.0, "m", "distance a driver keeps when standing", train=(10.0, 10.0))
    politeness: Array = param(0.0, 1.0, "", "weight of the others in a lane change", train=(0.0, 0.0))
    speed_limit: Array = param(10.0, 40.0, "m/s", "the lanes' speed limit", train=(20.0, 20.0))


class Scene(NamedTuple):
    """The state of B slots: the ego, three cars of the highway, one of the ramp."""

    motion: Array  # [B, 5, 8] float64: x, y, heading, speed, target speed, timer, pending impact along x and y
    status: Array  # [B, 5, 4] int64: lane, target lane, crashed, impact pending


class HighwayEnvMerge(Family[Scene, Drivers]):
    """highway-env's merge-v0: drive on past a ramp from which a car merges.

    The ego begins at 30 m with 30 m/s on the right of two lanes, among cars that the lanes' speed limit slows to
    20 m/s. The reward, mapped to [0, 1] as highway-env maps it, is for speed, for the right lane, against crashes, lane
    changes, and slow cars on the merging lane. An episode ends with a crash or past 370 m. All slots play one task,
    which is highway-env's, unless another is asked for.
    """

    context_type = Drivers
    observation_fields = tuple(
        Field(f"{name}_{row}", low, 1.0, "", doc, constant=constant)
        for row in range(VEHICLES)
        for name, low, doc, constant in (
            ("presence", 0.0, "1 if there is such an object", row == 0),
            ("x", -1.0, "over 200 m; of row 0 absolute, of the others relative to it", False),
            ("y", -1.0, "over 8 m", False),
            ("vx", -1.0, "over 80 m/s", False),
            ("vy", -1.0, "over 80 m/s", False),
        )
    )
    horizon = 100
    dt = 1.0
    render_fps = 1
    backends = ("batched", "reference")
    least_slots: ClassVar[int] = 64  # per thread
    threads: int | None = None  # of the stepping; METABENCH_THREADS or all cores by default

    def __init__(self, control: str = "meta"):
        if control not in ("meta", "discrete"):
            raise ValueError(f"unknown control {control!r}; available: meta, discrete")
        self.meta = control == "meta"
        self.control = control
        if self.meta:
            self.action_space, meanings = spaces.Discrete(5), META_ACTIONS
        else:
            steering = ("left", "straight", "right")
            self.action_space = spaces.Discrete(9)
            meanings = tuple(f"{throttle}, {steer}" for throttle in CONTROLS for steer in steering)
        self.action_meanings = meanings  # pyright: ignore[reportAttributeAccessIssue]

    def initial(self, context: Drivers, rng: SlotRng) -> Scene:
        """highway-env's start: lanes, positions and speeds of three cars are drawn, the ego and the ramp are fixed."""
        draws = rng.random((3, 3))
        lane = (draws[..., 0] * 2).astype(np.int64)
        x = CARS_X + X_SPREAD * (2 * draws[..., 1] - 1)
        return self.place(lane, x, CARS_SPEED + SPEED_SPREAD * (2 * draws[..., 2] - 1))

    def place(self, lane: Array, x: Array, speed: Array) -> Scene:
        """The start with the three cars in these lanes (0 left, 1 right), x (m) and speeds (m/s), `[B, 3]` each.

        Raises:
            ValueError: If cars overlap, or a number is not finite or out of the range of the first road.
        """
        lane, x, speed = np.asarray(lane), np.asarray(x, dtype=np.float64), np.asarray(speed, dtype=np.float64)
        if lane.ndim != 2 or lane.shape[1] != 3 or x.shape != lane.shape or speed.shape != lane.shape:
            raise ValueError(f"lanes, x and speeds must be [B, 3], got {lane.shape}, {x.shape} and {speed.shape}")
        if not (np.isin(lane, (0, 1)).all() and (abs(x - 110.0) <= 110.0).all() and (abs(speed - 20.0) <= 20.0).all()):
            raise ValueError("lanes must be 0 or 1, x 0 to 220 m and speeds 0 to 40 m/s, all finite")
        count = len(lane)
        motion, status = np.zeros((count, VEHICLES, 8)), np.zeros((count, VEHICLES, 4), dtype=np.int64)
        motion[:, 0, :5] = (EGO_X, 4.0, 0.0, EGO_SPEED, EGO_SPEED if self.meta else 0.0)
        motion[:, 1:4, 0], motion[:, 1:4, 1] = x, 4.0 * lane
        motion[:, 1:4, SPEED] = motion[:, 1:4, TARGET_SPEED] = speed
        motion[:, 4, :5] = (RAMP_X, 14.5, 0.0, RAMP_SPEED, RAMP_TARGET)
        motion[:, 1:, 5] = (motion[:, 1:, 0] + motion[:, 1:, 1]) * np.pi % 1.0
        status[:, 0, :2], status[:, 1:4, :2], status[:, 4, :2] = AB1, lane[..., None], JK0
        for i in range(VEHICLES):
            for j in range(i):
                near = (motion[:, i, 1] == motion[:, j, 1]) & (abs(motion[:, i, 0] - motion[:, j, 0]) <= 5.0)
                if near.any():
                    slot = int(np.flatnonzero(near)[0])
                    raise ValueError(f"impossible traffic in slot {slot}: vehicles {j} and {i} overlap")
        return Scene(motion, status)

    def transition(self, state: Scene, action: Array, context: Drivers, rng: SlotRng) -> Scene:
        """15 substeps of 1/15 s."""
        from metabench.physics.highway_env_merge import step_rows
        from metabench.physics.threads import default_threads, share_out

        motion, status = state.motion.copy(), state.status.copy()
        traffic = np.stack(
            (context.time_wanted, context.distance_wanted, context.politeness, context.speed_limit), axis=1
        )
        controls = NO_CONTROLS if self.meta else discrete_controls()[action]
        arguments = (motion, status, action.astype(np.int64), controls, traffic)
        share_out(step_rows, arguments, len(motion), self.least_slots, self.threads or default_threads())
        return Scene(motion, status)

    def observation(self, state: Scene) -> Array:
        """highway-env's kinematic observation: five rows of presence, x, y, vx, vy, the nearest objects first."""
        from metabench.physics.highway_env_merge import observe_rows

        out = np.empty((len(state.motion), 5 * VEHICLES), dtype=np.float32)
        observe_rows(state.motion, out)
        return out

    def reward(self, state: Scene, action: Array, next_state: Scene, context: Drivers) -> Array:
        """highway-env's: crash -1, lane number 0.1, speed 0.2 (20 to 30 m/s), lane change -0.05, slow mergers -0.5."""
        from metabench.physics.highway_env_merge import reward_rows

        out = np.empty(len(action))
        reward_rows(next_state.motion, next_state.status, action.astype(np.int64), self.meta, out)
        return out

    def terminal(self, state: Scene) -> Array:
        """A crash of the ego, or past 370 m."""
        return (state.status[:, 0, CRASHED] > 0) | (state.motion[:, 0, 0] > GOAL_X)

    def success(self, state: Scene) -> Array:
        """Past 370 m without a crash."""
        return (state.status[:, 0, CRASHED] == 0) & (state.motion[:, 0, 0] > GOAL_X)

    def simulator(self, backend: str, drift: Any, tasks: Any, rng: SlotRng, horizon: int) -> Any:
        """highway-env's own code for "reference"."""
        if backend == "reference":
            return FunctionalSimulator(ReferenceMerge(self.control), drift, tasks, rng, horizon)
        return None

    def picture(self, state: Scene, context: Drivers, slot: int) -> Array:
        """The road from above, following the ego, in highway-env's look."""
        x, y = state.motion[slot, 0, :2].tolist()
        width, height = 600 / 5.5, 150 / 5.5  # m in a picture of highway-env's size and scale
        canvas = RoadCanvas(x - 0.3 * width, x + 0.7 * width, y - 0.5 * height, y + 0.5 * height, down=True)
        draw_road(canvas)
        for i in reversed(range(VEHICLES)):  # the ego last, on top
            x, y, heading = state.motion[slot, i, :3].tolist()
            canvas.vehicle((x, y), heading, ego=i == 0, crashed=bool(state.status[slot, i, CRASHED]))
        return canvas.pixels()

    def text(self, state: Scene, context: Drivers, slot: int) -> str:
        """Lanes from 40 m behind the ego to 110 m ahead, 2 m a character: `E` the ego, `X` a crash, `o` cars."""
        rows = {y: [" "] * 76 for y in (0, 4, 8, 12, 16)}
        start = float(state.motion[slot, 0, 0]) - 40.0
        for y, (low, high) in {0: (0, 460), 4: (0, 460), 8: (230, 310), 12: (150, 230), 16: (0, 150)}.items():
            for column in range(76):
                if low <= start + 2 * column < high:
                    rows[y][column] = "."
        for i in reversed(range(VEHICLES)):
            x, y = state.motion[slot, i, :2].tolist()
            column, row = round((x - start) / 2), min(rows, key=lambda r: abs(r - y))
            if 0 <= column < 76:
                mark = "E" if i == 0 else "o"
                rows[row][column] = "X" if state.status[slot, i, CRASHED] else mark
        speeds = " ".join(f"{v:.1f}" for v in state.motion[slot, :, SPEED].tolist())
        x = float(state.motion[slot, 0, 0])
        return "\n".join(["".join(row).rstrip() for row in rows.values()] + [f"x {x:.1f} m, speeds {speeds} m/s\n"])


NO_CONTROLS = np.empty((0, 2))


def discrete_controls() -> Array:
    """`[9, 2]` steering (rad) and acceleration (m/s^2) of highway-env's DiscreteAction, in its float32 arithmetic."""
    levels = np.linspace(-1.0, 1.0, 3, dtype=np.float32)
    steering = [_map(level, -STEERING, STEERING) for level in levels]
    throttle = [_map(level, -THROTTLE, THROTTLE) for level in levels]
    return np.array([(s, t) for t in throttle for s in steering])


def _map(level: Any, low: Any, high: Any) -> float:
    return float(low + (level + np.float32(1.0)) * (high - low) / np.float32(2.0))


def draw_road(canvas: RoadCanvas) -> None:
    """highway-env's merge road: two lanes, the ramp, and the obstacle at the end of the merging lane."""
    ramp = [(0.0, 14.5)]
    ramp += [(150.0 + s, 11.25 + 3.25 * float(np.sin(np.pi / 80 * s + np.pi / 2))) for s in np.linspace(0, 80, 41)]
    canvas.marking([(0.0, -2.0), (460.0, -2.0)])
    canvas.marking([(0.0, 2.0), (460.0, 2.0)], dashed=True)
    canvas.marking([(0.0, 6.0), (230.0, 6.0)])
    canvas.marking([(230.0, 6.0), (310.0, 6.0)], dashed=True)
    canvas.marking([(310.0, 6.0), (460.0, 6.0)])
    canvas.marking([(x, y - 2.0) for x, y in ramp])
    canvas.marking([*((x, y + 2.0) for x, y in ramp), (310.0, 10.0)])
    canvas.square((310.0, 8.0), 2.0)


class ReferenceMerge(HighwayEnvMerge):
    """The same family stepped by highway-env: each slot's state is put into its objects, stepped, and read back."""

    def transition(self, state: Scene, action: Array, context: Drivers, rng: SlotRng) -> Scene:
        """highway-env's `_simulate`."""
        world, after = self._world, []
        for b in range(len(action)):
            world.put(state.motion[b], state.status[b], _of(context, b))
            world.step(int(action[b]))
            after.append(world.get())
        return Scene(np.stack([m for m, _ in after]), np.stack([s for _, s in after]))

    def observation(self, state: Scene) -> Array:
        """highway-env's `observe`."""
        rows = []
        for motion, status in zip(state.motion, state.status, strict=True):
            self._world.put(motion, status, None)
            rows.append(self._world.observe())
        return np.stack(rows)

    def reward(self, state: Scene, action: Array, next_state: Scene, context: Drivers) -> Array:
        """highway-env's `_reward`."""
        rewards = []
        for b in range(len(action)):
            self._world.put(next_state.motion[b], next_state.status[b], _of(context, b))
            rewards.append(self._world.reward(int(action[b])))
        return np.array(rewards)

    def picture(self, state: Scene, context: Drivers, slot: int) -> Array:
        """highway-env's own viewer."""
        self._world.put(state.motion[slot], state.status[slot], _of(context, slot))
        return self._world.picture()

    @property
    def _world(self) -> Any:
        from metabench.physics.highway_env_world import world

        return world(self.control)


def _of(context: Drivers, slot: int) -> tuple[float, float, float, float]:
    fields = (context.time_wanted, context.distance_wanted, context.politeness, context.speed_limit)
    return tuple(float(f[slot]) for f in fields)  # pyright: ignore[reportReturnType]


_SOURCES = ("highway-env 1.12.1, envs/merge_env.py, merge-v0",)
register(
    Spec(
        id="HighwayEnvMerge-v0",
        entry_point=f"{__name__}:HighwayEnvMerge",
        summary="highway-env's merge-v0, step for step, batched; DiscreteMetaAction.",
        sources=_SOURCES,
        horizon=HighwayEnvMerge.horizon,
        extra="highway",
        shared_tasks=True,
        digests={
            "train": "03dbc8b83938d76382e6c92c98cca02a18b46fc788d93418dfe7fe69aba81612",
            "test": "b0d832bcac121f41470bcb5e27a4a00683c44d23d2f68b0e7aae2dd925136a09",
            "ood": "69c96198b4b7d9d597c3f16b8c0c0ae3d96e7e484a8a7243a4c607bf3fab4015",
        },
    )
)
register(
    Spec(
        id="HighwayEnvMergeDiscrete-v0",
        entry_point=f"{__name__}:HighwayEnvMerge",
        summary="highway-env's merge-v0, step for step, batched; DiscreteAction: three throttles by three steerings.",
        sources=_SOURCES,
        horizon=HighwayEnvMerge.horizon,
        kwargs={"control": "discrete"},
        extra="highway",
        shared_tasks=True,
        digests={
            "train": "af64886e4492b9fba30554394bce2e82098cb6185a88bede1ec46b0fac797986",
            "test": "8bddc56a44d6a9f90fe9d759c76bce919ab5aa018d969c0a7768d4e2219def74",
            "ood": "ee0b7bf1c0a102a8d4e2713b52995e791077317904034941593c1f7141a2f4a9",
        },
    )
)
