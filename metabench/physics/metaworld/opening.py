"""The rewards, version V2, of doors, locks, drawers, windows, faucets and levers; each gives (reward, success)."""

from __future__ import annotations

import math

from metabench.physics.metaworld.vocabulary import (
    above,
    both,
    clipped,
    compiled,
    distance,
    entry,
    funnel,
    gaussian,
    level,
    moment,
    near,
    placed,
    plus,
    scaled,
)

ORDER = (
    "door-open",
    "door-close",
    "door-lock",
    "door-unlock",
    "drawer-open",
    "drawer-close",
    "window-open",
    "window-close",
    "faucet-open",
    "faucet-close",
    "lever-pull",
)
SHOULDER = (0.0, 0.055, 0.07)  # of the gripper, from the hand, m


@compiled
def door_open(m, t):
    """The door is pulled open by its handle, the hand coming from above."""
    door = plus(m.object, (-0.05, 0.0, 0.0))
    floor = funnel(level(m.hand, door), 0.12, 0.04, 0.4)
    in_place = near(distance(m.hand, plus(door, (0.05, 0.03, -0.01))), 0.12 / 2.0, 0.5)
    ready = both(above(m.hand[2], floor, floor / 2.0), in_place)
    swung = near(math.pi / 2.0 + math.pi / 6 + m.joint, 0.5, math.pi / 3.0)
    opened = 0.2 * (1.0 if m.joint < -math.pi / 90.0 else 0.0) + 0.8 * swung
    reward = 2.0 * both(ready, (clipped(m.grip, -1.0, 1.0) + 1.0) / 2.0) + 8.0 * opened
    success = abs(m.object[0] - t.target[0]) <= 0.08
    return 10.0 if success else reward, success


@compiled
def door_close(m, t):
    """The door is pushed shut."""
    off = distance(m.object, t.target)
    in_place = gaussian(off, 0.05, distance(t.start, t.target))
    hand = gaussian(distance(m.tcp, t.target), 0.25 * 0.05, distance(t.extra, m.object) + 0.1)
    return 10.0 if off < 0.05 else 3.0 * hand + 6.0 * in_place, off <= 0.08


@compiled
def door_lock(m, t):
    """The lock is turned down by the left pad.

    Meta-World means the margin to be the pad's first distance, but keeps a view of mjData: it is the present one.
    """
    off, scale = abs(t.target[2] - m.object[2]), (0.25, 1.0, 0.5)
    reach = scaled(m.object, m.left, scale)
    return 2.0 * both(max(m.opened, 0.0), near(reach, 0.01, reach)) + 8.0 * near(off, 0.005, 0.1), off <= 0.02


@compiled
def door_unlock(m, t):
    """The lock is turned by the gripper's shoulder."""
    scale, off = (0.25, 1.0, 0.5), abs(t.target[0] - m.object[0])
    reach = scaled(plus(m.hand, SHOULDER), m.object, scale)
    ready = near(reach, 0.02, scaled(plus(t.tcp, SHOULDER), m.points[0], scale))
    return 2.0 * ready + 8.0 * near(off, 0.005, 0.1), off <= 0.02


@compiled
def drawer_open(m, t):
    """The drawer is pulled out by its handle."""
    off, scale = distance(m.object, t.target), (3.0, 3.0, 1.0)
    closed = plus(t.target, (0.0, 0.2, 0.0))
    caging = near(scaled(m.object, m.hand, scale), 0.01, scaled(closed, t.tcp, scale))
    return (caging + near(off, 0.02, 0.2)) * 5.0, off <= 0.03


@compiled
def drawer_close(m, t):
    """The drawer is pushed in by a closed hand."""
    off = distance(m.object, t.target)
    in_place = near(off, 0.05, abs(distance(t.start, t.target) - 0.05))
    reached = gaussian(distance(m.object, m.tcp), 0.005, abs(distance(t.start, t.tcp) - 0.005))
    success = off <= 0.05 + 0.015
    return 10.0 * (1.0 if success else both(both(reached, clipped(m.grip, 0.0, 1.0)), in_place)), success


@compiled
def window(m, t, from_x, opening):
    """The window slides along x to the target; the hand is at its handle."""
    off = abs(m.object[0] - t.target[0])
    in_place = near(off, 0.05, abs(abs(from_x - t.target[0]) - 0.05))
    reach, margin = distance(m.object, m.tcp), abs(distance(t.extra, t.tcp) - 0.02)
    reached = near(reach, 0.02, margin) if opening else gaussian(reach, 0.02, margin)
    return 10.0 * both(reached, in_place), off <= 0.05


@compiled
def faucet(m, t, handle):
    """The faucet is turned by its handle."""
    off = distance(handle, t.target)
    in_place = near(off, 0.07, abs(distance(t.start, t.target) - 0.07))
    reached = gaussian(distance(handle, m.tcp), 0.01, abs(distance(t.start, t.tcp) - 0.01))
    return 10.0 if off <= 0.07 else (2.0 * reached + 3.0 * in_place) * 2.0, off <= 0.07


@compiled
def lever_pull(m, t):
    """The lever is pushed up by the gripper's shoulder."""
    scale = (4.0, 1.0, 4.0)
    reach = scaled(plus(m.hand, SHOULDER), m.object, scale)
    ready = near(reach, 0.02, scaled(plus(t.tcp, SHOULDER), t.extra, scale))
    in_place = near(distance(m.object, t.target), 0.04, distance(t.extra, t.target))
    return 10.0 * both(ready, in_place), abs(-m.joint - math.pi / 2.0) <= math.pi / 24.0


@entry
def evaluate(which, outputs, observation, constants, grip, first, reward, success):
    """Writes reward and success `[B]` of the slots whose class is number `which[i]` of ORDER; -1 is none of it."""
    for i in range(len(which)):
        k = which[i]
        if k < 0:
            continue
        m, t = moment(outputs[i], observation[i], grip[i], first[i]), placed(constants[i])
        if k == 0:
            reward[i], success[i] = door_open(m, t)
        elif k == 1:
            reward[i], success[i] = door_close(m, t)
        elif k == 2:
            reward[i], success[i] = door_lock(m, t)
        elif k == 3:
            reward[i], success[i] = door_unlock(m, t)
        elif k == 4:
            reward[i], success[i] = drawer_open(m, t)
        elif k == 5:
            reward[i], success[i] = drawer_close(m, t)
        elif k == 6:
            reward[i], success[i] = window(m, t, t.start[0], True)
        elif k == 7:
            reward[i], success[i] = window(m, t, t.extra[0], False)
        elif k == 8:
            reward[i], success[i] = faucet(m, t, plus(m.object, (-0.04, 0.0, 0.03)))
        elif k == 9:
            reward[i], success[i] = faucet(m, t, m.object)
        else:
            reward[i], success[i] = lever_pull(m, t)
