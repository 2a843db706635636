"""A point on a plane that must find a hidden goal, with a dense or a sparse reward.

Sources: Rakelly et al. 2019 (PEARL, arXiv 1903.08254) and the point environment of its code release
(`rlkit/envs/point_robot.py`); start, action range, reward and goals of the dense form as in Meta-DT (arXiv 2410.11448,
`src/envs.py` of its code release).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from metabench.drawing import BLUE, GREEN, INK, LINE, SHADE, Canvas
from metabench.family import Family, Field
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import param

MAX_STEP = 0.1  # m along each axis in one step
REACH = 20 * MAX_STEP  # m along an axis in a whole episode
GOAL_RADIUS = 0.2  # m within which the sparse form rewards
_VIEW = 1.7  # m from the centre to the edge of the picture


@dataclass(frozen=True)
class Goal:
    """Where the goal is."""

    goal_x: Array = param(-1.5, 1.5, "m", "goal, first coordinate", train=(-1.0, 1.0))
    goal_y: Array = param(-1.5, 1.5, "m", "goal, second coordinate", train=(-1.0, 1.0))


@dataclass(frozen=True)
class GoalAngle:
    """Where on the unit circle the goal is."""

    goal_angle: Array = param(0.0, 2 * np.pi, "rad", "goal on the unit circle", train=(0.0, np.pi))


class State(NamedTuple):
    """The state of B points."""

    position: Array  # [B, 2] float64 m


class PointRobot(Family[State, Goal]):
    """A kinematic point pays its distance to a hidden goal.

    The agent starts at the origin and sees only where it is. It moves at most 0.1 m along each axis in a step; the
    reward is minus the distance to the goal after the move, so one or two steps suffice to find where the goal lies.
    """

    context_type = Goal
    observation_fields = (
        Field("x", -REACH, REACH, "m", "position, first coordinate"),
        Field("y", -REACH, REACH, "m", "position, second coordinate"),
    )
    action_space = spaces.Box(-MAX_STEP, MAX_STEP, (2,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = ("displacement along x, m", "displacement along y, m")
    horizon = 20

    def initial(self, context: Goal, rng: SlotRng) -> State:
        """At the origin."""
        return State(np.zeros((len(rng), 2)))

    def transition(self, state: State, action: Array, context: Goal, rng: SlotRng) -> State:
        """A displacement, clipped along each axis."""
        return State(state.position + np.minimum(np.maximum(action, -MAX_STEP), MAX_STEP))

    def observation(self, state: State) -> Array:
        """The position."""
        return state.position.astype(np.float32)

    def goal(self, context: Goal) -> tuple[Array, Array]:
        """The goal's coordinates, `[B]` m each."""
        return context.goal_x, context.goal_y

    def distance(self, state: State, context: Goal) -> Array:
        """From the point to the goal, `[B]` m."""
        goal_x, goal_y = self.goal(context)
        return np.hypot(state.position[:, 0] - goal_x, state.position[:, 1] - goal_y)

    def reward(self, state: State, action: Array, next_state: State, context: Goal) -> Array:
        """Minus the distance to the goal after the move, m."""
        return -self.distance(next_state, context)

    def picture(self, state: State, context: Goal, slot: int) -> Array:
        """The plane with its metre grid, the goal (green) and the point (blue)."""
        canvas = Canvas(-_VIEW, _VIEW)
        for tick in (-1.0, 0.0, 1.0):
            canvas.line((tick, -_VIEW), (tick, _VIEW), LINE, 0.012)
            canvas.line((-_VIEW, tick), (_VIEW, tick), LINE, 0.012)
        x, y = (float(c[slot]) for c in self.goal(context))
        canvas.disc((x, y), GOAL_RADIUS, SHADE, GREEN, 0.02)
        canvas.disc((x, y), 0.04, GREEN)
        point = (float(state.position[slot, 0]), float(state.position[slot, 1]))
        canvas.line((0.0, 0.0), point, INK, 0.012)
        canvas.disc((0.0, 0.0), 0.03, INK)
        canvas.disc(point, 0.07, BLUE)
        return canvas.pixels()

    def text(self, state: State, context: Goal, slot: int) -> str:
        """A 15 x 15 map: `o` the start, `G` the goal, `P` the point; then the numbers."""
        size, (goal_x, goal_y) = 15, self.goal(context)
        marks = {
            "o": (0.0, 0.0),
            "G": (float(goal_x[slot]), float(goal_y[slot])),
            "P": tuple(state.position[slot].tolist()),
        }
        rows = [["."] * size for _ in range(size)]
        for mark, (x, y) in marks.items():
            column, row = (min(size - 1, max(0, round((c / _VIEW + 1) / 2 * (size - 1)))) for c in (x, -y))
            rows[row][column] = mark
        (px, py), (gx, gy) = marks["P"], marks["G"]
        return (
            "\n".join(" ".join(row) for row in rows)
            + f"\npoint ({px:+.2f}, {py:+.2f}) m, goal ({gx:+.2f}, {gy:+.2f}) m\n"
        )


class SparsePointRobot(PointRobot):
    """The point robot with its goal on the unit circle and a reward only within 0.2 m of it.

    Training goals lie on the upper half circle. Outside the goal's radius the reward is 0, inside it is 1 minus the
    distance, so that the agent has to search along the circle before it can know the task.
    """

    context_type = GoalAngle  # pyright: ignore[reportAssignmentType]

    def goal(self, context: GoalAngle) -> tuple[Array, Array]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The goal's coordinates on the unit circle, `[B]` m each."""
        return np.cos(context.goal_angle), np.sin(context.goal_angle)

    def reward(self, state: State, action: Array, next_state: State, context: GoalAngle) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        """1 minus the distance within 0.2 m of the goal, else 0."""
        distance = self.distance(next_state, context)  # pyright: ignore[reportArgumentType]
        return np.where(distance <= GOAL_RADIUS, 1.0 - distance, 0.0)


register(
    Spec(
        id="PointRobot-v0",
        entry_point=f"{__name__}:PointRobot",
        summary="A point walks to a hidden goal on the plane; dense reward.",
        sources=(
            "Rakelly et al. 2019, arXiv 1903.08254",
            "Meta-DT, arXiv 2410.11448, src/envs.py: start, reward, tables",
        ),
        horizon=PointRobot.horizon,
        oracle="metabench.yardsticks.points:point_robot",
        episodes=2,
        repeats=1,
        digests={
            "train": "e9674c7d5d41acfb78d19691011453b4315da6161bee70a0ff060fc4b1ff4d3f",
            "test": "8fefb483d00e3a280befad58ba98412a7264c5d5e529a64ed64430a4ac8f3cea",
            "ood": "d3bb0fa260a934970fe8852749a55fa48b0d5eb8d5efb820d80c0c33948861dd",
        },
    )
)
register(
    Spec(
        id="SparsePointRobot-v0",
        entry_point=f"{__name__}:SparsePointRobot",
        summary="A point searches for a hidden goal on the unit circle; reward only near it.",
        sources=("Rakelly et al. 2019, arXiv 1903.08254, sparse 2-d navigation: goals on the semicircle, radius 0.2",),
        horizon=SparsePointRobot.horizon,
        oracle="metabench.yardsticks.points:sparse_point_robot",
        episodes=4,
        repeats=1,
        digests={
            "train": "37d8c093ba88bf95e6919bbbfa755b4f041a9fcdeddddf131553ec44856ccece",
            "test": "9ceffdcfac8946f2c773a0ae79332c01ff2cd7ddf120d4d200cf5f4fa8a34ea2",
            "ood": "fd1b46107bc2f7ccd9b02f3a3859ff36de29f7052d534750ddb2f3db7e4e3872",
        },
    )
)
