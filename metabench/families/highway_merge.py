"""A car merges from a ramp into dense traffic whose drivers give way or close up: hidden traffic speed and courtesy.

MetaDreamer (Wen, Zhang, Tseng, Peng; arXiv 2311.06673, RA-L 2024) is evaluated on highway merging with a hidden
proportional parameter p in [-1, 1] and, in a harder form, with two factors of Hidas' lane-merge model, D_v and b_f. Its
environments are not public: roads, traffic, reward, horizon and tables below are our definition. What is taken from the
paper is what its physics decoder says: vehicles are point masses with accelerations within 3 m/s^2 and explicit Euler
steps, `position += speed * dt`, `speed += acceleration * dt`. That describes this traffic exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces

from metabench.drawing import RoadCanvas
from metabench.family import Family, Field
from metabench.physics.compiled import compiled
from metabench.physics.merge_rules import (
    CARS,
    DT,
    EGO_SPEED_LIMIT,
    HEADWAY,
    HURRY,
    JAM_DISTANCE,
    LENGTH,
    MAX_ACCELERATION,
)
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import param

RAMP = 80.0  # m from the start to the merge
AHEAD = 3  # cars in front of the gap that the ego reaches at its first speed
EGO_SPEED = (12.0, 14.0)  # m/s at the start
SHIFT = 3.0  # m, either way, of the gap against the place where the ego will be
GAPS = (0.9, 1.1)  # times the gap at which the driver model neither brakes nor accelerates
FIRST_SPEED = 0.5  # m/s, either way, of the first car against the traffic's speed, which it takes up within seconds
HIDAS_SPEED = 13.0  # m/s of the traffic in the Hidas form

ROAD_REWARD, RAMP_REWARD = 0.1, 0.02  # per m
MERGED_REWARD, CRASH_REWARD = 2.0, -5.0
COMFORT_REWARD = -0.02  # per (m/s^2)^2 s
MERGED_AT = 5.0  # m beyond the merge where it counts as a success
STEP_OF_SPEED, TAU_SPEED = 2.0, 0.6  # m/s that FASTER and SLOWER move the set speed; s of its controller
SPAN = 250.0  # m; no vehicle leaves this in an episode

C = TypeVar("C")


@dataclass(frozen=True)
class Courtesy:
    """The traffic and its manners."""

    traffic_speed: Array = param(9.0, 16.0, "m/s", "speed of the main road", train=(11.0, 15.0))
    courtesy: Array = param(
        -1.0, 1.0, "", "p > 0: the driver behind opens the gap, p < 0: closes it", train=(-0.9, 0.9)
    )


@dataclass(frozen=True)
class Hidas:
    """What a driver on the main road would give up for the merging car."""

    speed_decrease: Array = param(0.0, 5.0, "m/s", "D_v: the most a driver slows down", train=(0.5, 4.0))
    deceleration: Array = param(0.3, 3.0, "m/s^2", "b_f: the braking a driver accepts", train=(0.5, 2.5))


class Traffic(NamedTuple):
    """The state of B slots. Vehicle 0 is the ego, 1 to 8 are the cars of the main road from the first to the last."""

    position: Array  # [B, 1 + CARS] m along the road, 0 at the merge, negative before
    speed: Array  # [B, 1 + CARS] m/s
    crashed: Array  # [B] bool
    set_speed: Array  # [B] m/s of the ego's controller; not used under continuous control


class _Merge(Family[Traffic, C], Generic[C]):
    """What the forms share: everything but the drivers' answer."""

    by_hidas: ClassVar[bool]
    least_slots: ClassVar[int] = 2048  # per thread
    horizon = 55
    dt = DT
    render_fps = 5
    threads: int | None = None  # of the stepping; METABENCH_THREADS or all cores by default

    def __init__(self, control: str = "continuous"):
        if control not in ("continuous", "discrete"):
            raise ValueError(f"unknown control {control!r}; available: continuous, discrete")
        self.discrete = control == "discrete"
        vehicles = ("ego", *(f"car_{i}" for i in range(1, 1 + CARS)))
        whose = ("the ego", *(f"car {i} of the main road, counted from the first" for i in range(1, 1 + CARS)))
        columns = [Field(f"{v}_position", -SPAN, SPAN, "m", f"of {w}") for v, w in zip(vehicles, whose, strict=True)]
        columns += [Field(f"{v}_speed", 0.0, 30.0, "m/s", f"of {w}") for v, w in zip(vehicles, whose, strict=True)]
        if self.discrete:
            columns.append(Field("ego_set_speed", 0.0, EGO_SPEED_LIMIT, "m/s", "of the ego's controller"))
            self.action_space = spaces.Discrete(3)
            self.action_meanings = ("slower", "idle", "faster")  # pyright: ignore[reportAttributeAccessIssue]
        else:
            self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
            self.action_meanings = ("acceleration, in units of 3 m/s^2",)  # pyright: ignore[reportAttributeAccessIssue]
        self.observation_fields = tuple(columns)  # pyright: ignore[reportAttributeAccessIssue]

    def traffic(self, context: C) -> tuple[Array, Array, Array]:
        """`[B]` each: traffic speed (m/s), and the two factors of the drivers' answer."""
        raise NotImplementedError

    def initial(self, context: C, rng: SlotRng) -> Traffic:
        """The ego on the ramp, 80 m before the merge; a dense column of cars on the road.

        At its first speed the ego would reach the merge beside the gap between the third and the fourth car, give or
        take 3 m. Cars drive at the traffic's speed, the first within 0.5 m/s of it, their gaps within 10 % of the
        driver model's own.
        """
        speed, _, _ = self.traffic(context)
        ego = rng.uniform(*EGO_SPEED)
        gaps = natural_gap(speed)[:, None] * rng.uniform(*GAPS, CARS - 1) + LENGTH
        behind = np.concatenate((np.zeros((len(rng), 1)), np.cumsum(gaps, axis=1)), axis=1)
        gap = (behind[:, AHEAD - 1] + behind[:, AHEAD]) / 2  # its middle, behind the first car
        first = gap - speed * RAMP / ego + rng.uniform(-SHIFT, SHIFT)
        position = np.concatenate((np.full((len(rng), 1), -RAMP), first[:, None] - behind), axis=1)
        speeds = np.repeat(speed[:, None], 1 + CARS, axis=1)
        speeds[:, 0] = ego
        speeds[:, 1] += rng.uniform(-FIRST_SPEED, FIRST_SPEED)
        return Traffic(position, speeds, np.zeros(len(rng), dtype=bool), ego)

    def place(self, position: Array, speed: Array, set_speed: Array | None = None) -> Traffic:
        """The state with these positions and speeds `[B, 9]`, for scenes of one's own.

        Raises:
            ValueError: If a number is not finite, cars overlap or are not in order, a speed is negative or beyond
                30 m/s, or an ego beyond the merge overlaps a car: such traffic would begin with a crash.
        """
        position, speed = np.asarray(position, dtype=np.float64), np.asarray(speed, dtype=np.float64)
        if position.ndim != 2 or position.shape[1] != 1 + CARS or speed.shape != position.shape:
            raise ValueError(f"positions and speeds must be [B, {1 + CARS}], got {position.shape} and {speed.shape}")
        if not (np.isfinite(position).all() and np.isfinite(speed).all()):
            raise ValueError("positions and speeds must be finite")
        if (abs(position) > SPAN).any() or (speed < 0).any() or (speed > 30.0).any():
            raise ValueError(f"positions must be within {SPAN:g} m of the merge, and speeds 0 to 30 m/s")
        tight = position[:, 1:-1] - position[:, 2:] < LENGTH
        if tight.any():
            slot, car = (int(i) for i in np.argwhere(tight)[0])
            raise ValueError(
                f"impossible traffic in slot {slot}: cars {car + 1} and {car + 2} overlap or are not in order;"
                f" positions must fall by at least {LENGTH:g} m from car to car"
            )
        hit = (position[:, :1] >= 0) & (abs(position[:, 1:] - position[:, :1]) < LENGTH)
        if hit.any():
            slot, car = (int(i) for i in np.argwhere(hit)[0])
            raise ValueError(f"impossible traffic in slot {slot}: the ego and car {car + 1} overlap on the main road")
        aim = speed[:, 0].copy() if set_speed is None else np.asarray(set_speed, dtype=np.float64)
        return Traffic(position.copy(), speed.copy(), np.zeros(len(position), dtype=bool), aim)

    def state_of(self, observation: Array) -> Traffic:
        """The state that observations `[B, O]` show, all of it and as exact as they are: for models of the task."""
        exact = observation.astype(np.float64)
        position, speed = exact[:, : 1 + CARS], exact[:, 1 + CARS : 2 * (1 + CARS)]
        return Traffic(
            position, speed, np.zeros(len(exact), dtype=bool), exact[:, -1] if self.discrete else speed[:, 0]
        )

    def command(self, state: Traffic, action: Array) -> tuple[Array, Array]:
        """`[B]` each: the acceleration asked for (m/s^2), and the set speed after the action (m/s)."""
        if not self.discrete:
            return MAX_ACCELERATION * action[:, 0].astype(np.float64), state.set_speed
        aim = np.clip(state.set_speed + STEP_OF_SPEED * (action - 1), 0.0, EGO_SPEED_LIMIT)
        return (aim - state.speed[:, 0]) / TAU_SPEED, aim

    def transition(self, state: Traffic, action: Array, context: C, rng: SlotRng) -> Traffic:
        """One Euler step of 0.2 s."""
        from metabench.physics.highway_merge import step_rows
        from metabench.physics.threads import default_threads, share_out

        acceleration, aim = self.command(state, action)
        speed, first, second = self.traffic(context)
        after = Traffic(np.empty_like(state.position), np.empty_like(state.speed), np.empty_like(state.crashed), aim)
        given = (state.position, state.speed, state.crashed, acceleration, speed, first, second, self.by_hidas)
        share_out(
            step_rows,
            (*given, after.position, after.speed, after.crashed),
            len(speed),
            self.least_slots,
            self.threads or default_threads(),
        )
        return after

    def observation(self, state: Traffic) -> Array:
        """The positions, then the speeds; under discrete control the set speed too."""
        columns = [state.position, state.speed]
        if self.discrete:
            columns.append(state.set_speed[:, None])
        return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")

    def reward(self, state: Traffic, action: Array, next_state: Traffic, context: C) -> Array:
        """0.1 per metre on the road, 0.02 on the ramp, 2 for merging, -5 for a crash, -0.02 a^2 per second."""
        return merge_reward(state.position, state.speed, next_state.position, next_state.speed, next_state.crashed)

    def terminal(self, state: Traffic) -> Array:
        """A crash."""
        return state.crashed

    def success(self, state: Traffic) -> Array:
        """Merged, and 5 m further without a crash."""
        return (state.position[:, 0] >= MERGED_AT) & ~state.crashed

    def picture(self, state: Traffic, context: C, slot: int) -> Array:
        """The road from above around the merge, the ego green, red after a crash."""
        canvas = RoadCanvas(-90.0, 60.0, -16.0, 8.0)
        edge = [(x, ramp(x)) for x in np.linspace(-200.0, 12.0, 107).tolist()]
        canvas.marking([(-200.0, 2.0), (200.0, 2.0)])
        canvas.marking([(x, y - 2.0) for x, y in edge])
        canvas.marking([(x, y + 2.0) for x, y in edge if y < -3.9])  # up to where ramp and road are one surface
        canvas.marking([(-200.0, -2.0), (-28.0, -2.0)])
        canvas.marking([(-28.0, -2.0), (12.0, -2.0)], dashed=True)
        canvas.marking([(12.0, -2.0), (200.0, -2.0)])
        for i, x in reversed(list(enumerate(state.position[slot].tolist()))):  # the ego last, on top
            ego = i == 0
            y = ramp(x) if ego else 0.0
            heading = float(np.arctan2(ramp(x + 0.5) - y, 0.5)) if ego else 0.0
            canvas.vehicle((x, y), heading, ego=ego, crashed=ego and bool(state.crashed[slot]))
        canvas.caption(self.caption(context, slot))
        return canvas.pixels()

    def caption(self, context: C, slot: int) -> str:
        """The hidden task in words."""
        speed, first, second = (float(a[slot]) for a in self.traffic(context))
        if self.by_hidas:
            return f"D_v = {first:.1f} m/s   b_f = {second:.1f} m/s²"
        return f"traffic {speed:.1f} m/s   courtesy p = {first:+.2f}"

    def text(self, state: Traffic, context: C, slot: int) -> str:
        """Road and ramp from -90 to 60 m, 2 m a character: `E` the ego, `X` a crash, digits the cars."""
        road, access = [" -" * 38][0][:76], " " * 45 + "^" + " " * 30
        rows = [list(road), list(access)]
        for i, x in enumerate(state.position[slot].tolist()):
            column = round((x + 90.0) / 2)
            if 0 <= column < 76:
                mark = str(i) if i else ("X" if state.crashed[slot] else "E")
                rows[1 if i == 0 and x < 0 else 0][column] = mark
        speeds = " ".join(f"{v:.1f}" for v in state.speed[slot].tolist())
        lines = ["".join(row).rstrip() for row in rows]
        return "\n".join([*lines, f"ego at {state.position[slot, 0]:+.1f} m", f"speeds {speeds} m/s", ""]) + (
            f"{self.caption(context, slot)}\n"
        )


@compiled
def merge_reward(before: Array, speed: Array, after: Array, faster: Array, crashed: Array) -> Array:
    """`[B]` reward from positions and speeds `[B, V]` before and after a step, and whether it crashed."""
    count = len(before)
    reward = np.empty(count)
    for b in range(count):
        moved, acceleration = after[b, 0] - before[b, 0], (faster[b, 0] - speed[b, 0]) / DT
        total = COMFORT_REWARD * DT * acceleration * acceleration
        total += (ROAD_REWARD if before[b, 0] >= 0.0 else RAMP_REWARD) * moved
        if before[b, 0] < 0.0 and after[b, 0] >= 0.0:
            total += MERGED_REWARD
        if crashed[b]:
            total += CRASH_REWARD
        reward[b] = total
    return reward


def natural_gap(speed: Array) -> Array:
    """`[B]` m from bumper to bumper in a column at this speed, where the driver model's acceleration is 0."""
    return (JAM_DISTANCE + HEADWAY * speed) / np.sqrt(1.0 - HURRY**-4)


def ramp(x: float) -> float:
    """Where the ramp lies beside the road in pictures, m."""
    return -4.5 * (1.0 - float(np.cos(np.pi * min(max(-x / 45.0, 0.0), 1.0))))


class HighwayMerge(_Merge[Courtesy]):
    """Merge into a dense column of cars whose drivers give way or close up.

    The ego drives up a ramp that joins the main road at 0 m and controls its acceleration alone. Within the last 30 m
    of the ramp, the driver it would merge in front of answers: with courtesy p > 0 it follows the ego already, to the
    degree p, and so opens the gap; with p < 0 it closes up to the car in front. The column's own gaps are about as
    long as a car and 1 m: whether there is room to merge depends on p, which shows when it is nearly too late to stop,
    and waiting for the column to pass costs most of the episode. So an agent that knows p acts otherwise from the
    start. A merge crashes if it leaves less than 1 m to a bumper; later, cars crash when they touch; a crash ends the
    episode.
    """

    context_type = Courtesy
    by_hidas = False

    def traffic(self, context: Courtesy) -> tuple[Array, Array, Array]:
        """Traffic speed and courtesy."""
        return context.traffic_speed, context.courtesy, context.courtesy


class HighwayMergeHidas(_Merge[Hidas]):
    """The same road with drivers after Hidas: they give way if what they give up is bearable, else they close up.

    While the ego is on the last 18 m of the ramp, the driver it would merge in front of foresees braking at b_f until
    it is D_v slower than the traffic. If that leaves a gap behind the ego (which it takes to keep its speed), it brakes
    so; if not, it closes up to the car in front. D_v, the largest speed decrease, and b_f, the acceptable
    deceleration, are the two factors that MetaDreamer's harder environment takes from Hidas' model of courtesy and
    forced merging (Transportation Research Part C 10, 2002, and 13, 2005). Neither text was at hand: the rule is
    written from that one-sentence description, and its numbers are ours.
    """

    context_type = Hidas
    by_hidas = True

    def traffic(self, context: Hidas) -> tuple[Array, Array, Array]:
        """13 m/s, D_v and b_f."""
        return np.full(len(context.deceleration), HIDAS_SPEED), context.speed_decrease, context.deceleration


def _spec(id: str, family: str, summary: str, digests: dict[str, str], **kwargs: Any) -> None:
    register(
        Spec(
            id=id,
            entry_point=f"{__name__}:{family}",
            summary=summary,
            sources=(
                "Wen et al. 2024 (MetaDreamer), arXiv 2311.06673: the idea and the point-mass kinematics",
                "roads, drivers, reward, horizon and tables: our definition, the paper's are not public",
            ),
            oracle="metabench.yardsticks.highway_merge:oracle",
            horizon=_Merge.horizon,
            episodes=3,
            repeats=5,
            extra="highway",
            kwargs=kwargs,
            digests=digests,
        )
    )


_DISCRETE = {"control": "discrete"}
_spec(
    "HighwayMerge-v0",
    "HighwayMerge",
    "Merge into dense traffic whose drivers give way or close up.",
    {
        "train": "67691e907992ee133ed2926e0fdd5d63a188925f44190b6f08abf386629aab8a",
        "test": "06376bc1cc7a3b432a5a4c7fe3f1b6b8cf02be77b8bcf6d99a19b0d2fb3b92b4",
        "ood": "507c46e100967973f28124fb2684f1dc5d782be1e2c0faddf1f624d6563aaded",
        "R8": "8bb44f2ab68240048736fe4a13dac4d2ca57cd4c0f350917852e19668e4af89f",
        "R16": "43e376996c5823cd7a6dc600915b774ca3a939a47369c13904e453d56997be7c",
    },
)
_spec(
    "HighwayMergeDiscrete-v0",
    "HighwayMerge",
    "The same with the actions slower, idle and faster on a set speed.",
    {
        "train": "d39cc7355aed51dfc8f387e050a465b0030dd558d24a4d5ef2c49a6150ce397e",
        "test": "5d9b8a384060cd5d7acbd6b8569e95a51309814e718548a358e2fdcc33386901",
        "ood": "5b9eee74e6ed4367e3fed0cff1efbc18185c62bfa712fcfe8201a8d1c5137e9e",
        "R8": "4d32bb7f312c200b780505a8311d281676ae7a76e592cf832dba9cbf753be879",
        "R16": "82892e5883b9e067ed1cf51492122240c82ed3d6d62068937e2a21dd14ee2207",
    },
    **_DISCRETE,
)
_spec(
    "HighwayMergeHidas-v0",
    "HighwayMergeHidas",
    "Merge into dense traffic whose drivers brake for the merging car as far as Hidas' D_v and b_f let them.",
    {
        "train": "028b84737f19d3abd72f48f73b87eb8ac041477c3b30b54459f055701bdca417",
        "test": "6bf4ea4267715ccbd710ae9a7ea96900330c311fdbd31794c1bd84b113731642",
        "ood": "85673a5c50e5df1d20d84615ce5d92dddcba97aeb2a63b01464b7050e5c10e66",
        "R8": "66622c2d24bf4724212020f970fdc258af46334d7be6d18fcee2d80e69d3d4d7",
        "R16": "ec8cc487c791886f1526fd2940263d91a02f3f175fc3e5d762eac0f75938e144",
    },
)
