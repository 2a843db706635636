"""What the rewards of Meta-World are written in: the moment they look at, tolerances, products and caging, compiled.

The formulas are those of `metaworld/utils/reward_utils.py` (from dm_control) and `SawyerXYZEnv._gripper_caging_reward`,
for one slot and in double precision. Points are tuples (x, y, z) in metres.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numba

from metabench.physics.compiled import cached_njit

Point: TypeAlias = tuple[float, float, float]

# Columns of a row of outputs, the same for every class.
HAND, RIGHT_CLAW, LEFT_CLAW, RIGHT_TIP, LEFT_TIP, LEFT_PAD, RIGHT_PAD = range(0, 21, 3)
OBJECT, SECOND, FRAME, SECOND_FRAME, POINTS, JOINT, WIDTH = 21, 24, 27, 36, 40, 55, 56
FRAME_SIZE, SECOND_FRAME_SIZE, MAX_POINTS = 9, 4, 5
# Columns of a row of constants.
TARGET, START, TCP, EXTRA, CONSTANTS = 0, 3, 6, 9, 12

inlined: Any = numba.njit(inline="always", error_model="numpy")
compiled: Any = numba.njit(error_model="numpy")
entry: Any = cached_njit(nogil=True, error_model="numpy")  # remembered on disk; edit its file to forget


class Moment(NamedTuple):
    """What a reward may look at after a step."""

    hand: Point
    opened: float  # how far the gripper is open, 0 to 1
    object: Point  # as observed
    quat: tuple[float, float, float, float]
    second: Point
    tcp: Point  # between the finger tips
    left: Point  # pad of the left finger
    right: Point
    grip: float  # the action's last number: effort of closing
    points: tuple[Point, Point, Point, Point, Point]
    joint: float
    first_distance: float  # of the object from the target after the first step of the episode


class Placed(NamedTuple):
    """What stays the same in an episode."""

    target: Point
    start: Point  # of the object
    tcp: Point  # where the finger tips were at the start
    extra: Point


@compiled
def at(row, column):
    """The point at a column."""
    return (row[column], row[column + 1], row[column + 2])


@compiled
def moment(outputs, observation, grip, first_distance):
    """The moment of one slot from its rows."""
    r, left = at(outputs, RIGHT_TIP), at(outputs, LEFT_TIP)
    tcp = ((r[0] + left[0]) / 2.0, (r[1] + left[1]) / 2.0, (r[2] + left[2]) / 2.0)
    return Moment(
        at(observation, 0),
        observation[3],
        at(observation, 4),
        (observation[7], observation[8], observation[9], observation[10]),
        at(observation, 11),
        tcp,
        at(outputs, LEFT_PAD),
        at(outputs, RIGHT_PAD),
        grip,
        (
            at(outputs, POINTS),
            at(outputs, POINTS + 3),
            at(outputs, POINTS + 6),
            at(outputs, POINTS + 9),
            at(outputs, POINTS + 12),
        ),
        outputs[JOINT],
        first_distance,
    )


@compiled
def placed(constants):
    """The constants of one slot from their row."""
    return Placed(at(constants, TARGET), at(constants, START), at(constants, TCP), at(constants, EXTRA))


@compiled
def plus(a, b):
    """A + b."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


@compiled
def norm(a):
    """Length of a."""
    return math.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


@compiled
def distance(a, b):
    """From a to b, m."""
    return norm((a[0] - b[0], a[1] - b[1], a[2] - b[2]))


@compiled
def scaled(a, b, scale):
    """From a to b with its axes stretched."""
    return norm(((a[0] - b[0]) * scale[0], (a[1] - b[1]) * scale[1], (a[2] - b[2]) * scale[2]))


@compiled
def level(a, b):
    """From a to b on the table's plane."""
    x, y = a[0] - b[0], a[1] - b[1]
    return math.sqrt(x * x + y * y)


@compiled
def within(x, low, high, margin):
    """1 between low and high; beyond, 1 / (1 + 9 d^2), d the distance in margins: 0.1 at one."""
    if low <= x <= high:
        return 1.0
    if margin == 0.0:
        return 0.0
    d = (low - x if x < low else x - high) / margin
    long_tail = d * math.sqrt(1.0 / 0.1 - 1.0)
    return 1.0 / (long_tail * long_tail + 1.0)


@compiled
def near(x, high, margin):
    """1 from 0 to high, with the long tail beyond."""
    return within(x, 0.0, high, margin)


@compiled
def gaussian(x, high, margin):
    """1 from 0 to high; beyond, a Gaussian that is 0.1 at one margin."""
    if 0.0 <= x <= high:
        return 1.0
    if margin == 0.0:
        return 0.0
    d = (0.0 - x if x < 0.0 else x - high) / margin
    z = d * math.sqrt(-2.0 * math.log(0.1))
    return math.exp(-0.5 * (z * z))


@compiled
def both(a, b):
    """Hamacher's product of two numbers in [0, 1]: a b / (a + b - a b)."""
    below = a + b - a * b
    return (a * b) / below if below > 0.0 else 0.0


@compiled
def clipped(x, low, high):
    """x, but at least low and at most high."""
    return min(max(x, low), high)


@compiled
def inside_box(x, zero, one):
    """Outside a box 1; inside, the product of how far x is from corner `zero` to corner `one` along each axis."""
    product = 1.0
    for k in range(3):
        low, high = min(zero[k], one[k]), max(zero[k], one[k])
        if not low <= x[k] <= high:
            return 1.0
        product *= (x[k] - zero[k]) / (one[k] - zero[k])
    return product


@compiled
def caged(m, t, object, radius, pads, xz, effort=1.0):
    """How well the fingers are around an object, and how well they hold it (`_gripper_caging_reward`).

    Args:
        m: The moment.
        t: The constants.
        object: Where the object is.
        radius: Its radius, m.
        pads: Distance of a pad from the object that counts as around it.
        xz: Distance of the finger tips from it in the plane of x and z.
        effort: Closing effort that counts as full.

    Returns:
        (caging, caging and gripping).
    """
    left = within(abs(m.left[1] - object[1]), radius, pads, abs(abs(m.left[1] - t.start[1]) - pads))
    right = within(abs(m.right[1] - object[1]), radius, pads, abs(abs(m.right[1] - t.start[1]) - pads))
    x, z = t.start[0] - t.tcp[0], t.start[2] - t.tcp[2]
    margin = math.sqrt(x * x + z * z) - xz
    x, z = m.tcp[0] - object[0], m.tcp[2] - object[2]
    caging = both(both(left, right), near(math.sqrt(x * x + z * z), xz, margin))
    gripping = min(max(0.0, m.grip), effort) / effort if caging > 0.97 else 0.0
    return caging, both(caging, gripping)


@compiled
def densely_caged(m, t, object, radius, pads, xz, effort=1.0):
    """The mean of caging, and of caging and gripping: `high_density`."""
    caging, gripped = caged(m, t, object, radius, pads, xz, effort)
    return (gripped + caging) / 2.0


@compiled
def reached_and_caged(m, t, object, radius, pads, xz, reach, effort=1.0):
    """The mean of reaching, and of caging and gripping: `medium_density`."""
    _, gripped = caged(m, t, object, radius, pads, xz, effort)
    reached = near(distance(object, m.tcp), reach, abs(distance(t.start, t.tcp) - reach))
    return (gripped + reached) / 2.0


@compiled
def enclosed(m, t, object, radius, grip, xz):
    """The caging of the classes that push with closed fingers; its margins follow the pads where they are now.

    Meta-World means the pads' first places, but keeps a view of mjData, which moves with them.

    Args:
        m: The moment.
        t: The constants.
        object: Where the object is.
        radius: Its radius, m.
        grip: How much further than that a pad may be to count as gripping.
        xz: Distance of the finger tips from the object in the plane of x and z.

    Returns:
        (caging, gripping), gripping 0 unless caging is above 0.95.
    """
    left_margin = abs(abs(object[1] - m.left[1]) - 0.05)
    right_margin = abs(abs(object[1] - m.right[1]) - 0.05)
    left, right = m.left[1] - object[1], object[1] - m.right[1]
    around = both(within(right, radius, 0.05, right_margin), within(left, radius, 0.05, left_margin))
    held = both(within(right, radius, radius + grip, right_margin), within(left, radius, radius + grip, left_margin))
    x, z = t.start[0] - t.tcp[0], t.start[2] - t.tcp[2]
    margin = math.sqrt(x * x + z * z) - xz
    x, z = m.tcp[0] - object[0], m.tcp[2] - object[2]
    caging = both(around, near(math.sqrt(x * x + z * z), xz, margin))
    return caging, held if caging > 0.95 else 0.0


@compiled
def mean_enclosed(m, t, object, radius, grip, xz):
    """The mean of both parts of `enclosed`."""
    caging, gripping = enclosed(m, t, object, radius, grip, xz)
    return (caging + gripping) / 2.0


@compiled
def funnel(radius, threshold, steepness, height):
    """The floor of a funnel around something: 0 within the threshold, rising with the logarithm beyond."""
    return steepness * math.log(radius - threshold) + height if radius > threshold else 0.0


@compiled
def above(z, floor, margin):
    """1 above the floor, with a long tail below it."""
    return 1.0 if z >= floor else within(floor - z, 0.0, 0.01, margin)
