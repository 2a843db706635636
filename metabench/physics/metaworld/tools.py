"""The rewards, version V2, of hammers, pegs, nuts, lids and sticks; each gives (reward, success)."""

from __future__ import annotations

import math

from metabench.physics.metaworld.vocabulary import (
    Placed,
    above,
    both,
    clipped,
    compiled,
    densely_caged,
    distance,
    entry,
    funnel,
    inside_box,
    level,
    moment,
    near,
    norm,
    placed,
    plus,
    reached_and_caged,
    scaled,
)

ORDER = (
    "hammer",
    "assembly",
    "disassemble",
    "box-close",
    "peg-insert-side",
    "peg-unplug-side",
    "stick-push",
    "stick-pull",
)
UPRIGHT, LAID = (1.0, 0.0, 0.0, 0.0), (0.707, 0.0, 0.0, 0.707)  # orientations that pay fully


@compiled
def turned(quat, ideal, width):
    """1 in the ideal orientation, 0 from a distance of `width` between the quaternions on."""
    total = 0.0
    for k in range(4):
        total += (quat[k] - ideal[k]) * (quat[k] - ideal[k])
    return max(1.0 - math.sqrt(total) / width, 0.0)


@compiled
def along_the_handle(m, length):
    """The object's place with the hand's x, as long as the hand is over its handle."""
    x = m.hand[0] if abs(m.object[0] - m.hand[0]) < length / 2.0 else m.object[0]
    return (x, m.object[1], m.object[2])


@compiled
def hammer(m, t):
    """The nail is driven in."""
    head = plus(m.object, (0.16, 0.06, 0.0))
    grasped = densely_caged(m, t, along_the_handle(m, 0.14), 0.015, 0.02, 0.01)
    in_place = 0.1 * (1.0 if head[2] > 0.02 else 0.0) + 0.9 * near(distance(t.target, head), 0.02, 0.2)
    reward = (2.0 * grasped + 6.0 * in_place) * turned(m.quat, UPRIGHT, 0.4)
    success = m.joint > 0.09
    return 10.0 if success and reward > 5.0 else reward, success


@compiled
def assembly(m, t):
    """The nut is put over the peg, from above a funnel."""
    nut = m.points[0]
    x, y = t.target[0] - nut[0], t.target[1] - nut[1]
    radius = math.sqrt(x * x + y * y)
    success = radius < 0.02 and t.target[2] - nut[2] > 0.0
    threshold = 0.02 if success else 0.01
    height = funnel(radius, threshold, 0.02, 0.2)
    in_place = 0.1 * (1.0 if nut[2] > 0.02 or radius < threshold else 0.0)
    in_place += 0.9 * near(norm((x, y, (height - nut[2]) * 3.0)), 0.02, 0.4)
    grasped = reached_and_caged(m, t, along_the_handle(m, 0.02), 0.015, 0.02, 0.01, 0.01)
    reward = (2.0 * grasped + 6.0 * in_place) * turned(m.quat, LAID, 0.4)
    return 10.0 if success else reward, success


@compiled
def disassemble(m, t):
    """The nut is lifted off the peg."""
    nut = m.points[0]
    in_place = 0.1 * (1.0 if nut[2] > 0.02 else 0.0)
    in_place += 0.9 * near(distance(plus(t.target, (0.0, 0.0, 0.1)), nut), 0.02, 0.2)
    grasped = densely_caged(m, t, along_the_handle(m, 0.02), 0.015, 0.02, 0.01)
    reward = (2.0 * grasped + 6.0 * in_place) * turned(m.quat, LAID, 0.4)
    success = m.object[2] > t.target[2]
    return 10.0 if success else reward, success


@compiled
def box_close(m, t):
    """The lid is put on the box, upright."""
    lid = plus(m.object, (0.0, 0.0, 0.02))
    floor = funnel(level(m.hand, lid), 0.02, 0.04, 0.4)
    ready = both(above(m.hand[2], floor, floor / 2.0), near(distance(m.hand, lid), 0.02, 0.5))
    lifted = 0.2 * (1.0 if lid[2] > 0.04 else 0.0)
    lifted += 0.8 * near(scaled(t.target, lid, (1.0, 1.0, 3.0)), 0.05, 0.25)
    reward = 2.0 * both((clipped(m.grip, -1.0, 1.0) + 1.0) / 2.0, ready) + 8.0 * lifted
    success = distance(m.object, t.target) < 0.08
    return (10.0 if success else reward) * turned(m.quat, LAID, 0.2), success


@compiled
def peg_insert_side(m, t):
    """The peg goes into the hole of the box, not through the box."""
    scale, head = (1.0, 2.0, 2.0), m.points[0]
    off = scaled(head, t.target, scale)
    in_place = near(off, 0.07, scaled(t.extra, t.target, scale))
    free = both(inside_box(head, m.points[3], m.points[4]), inside_box(head, m.points[1], m.points[2]))
    in_place = both(in_place, free)
    lifted = distance(m.object, m.tcp) < 0.08 and m.opened > 0.0 and m.object[2] - 0.01 > t.start[2]
    grasped = 1.0 if lifted else densely_caged(m, t, m.object, 0.0075, 0.03, 0.005)
    reward = both(grasped, in_place)
    if lifted:
        reward += 1.0 + 5.0 * in_place
    return 10.0 if off <= 0.07 else reward, off <= 0.07


@compiled
def peg_unplug_side(m, t):
    """The peg is pulled out of the box."""
    off = distance(m.object, t.target)
    grasped = densely_caged(m, t, m.object, 0.025, 0.05, 0.005, 0.8)
    reward = 2.0 * grasped
    if m.opened > 0.5 and m.object[0] - t.start[0] > 0.015 and distance(m.object, m.tcp) < 0.035:
        reward = 1.0 + 2.0 * grasped + 5.0 * near(off, 0.05, distance(t.start, t.target))
    return 10.0 if off <= 0.05 else reward, off <= 0.07


@compiled
def stick_push(m, t):
    """The thermos is pushed to the target with the stick.

    Success here leaves out the fingers' touch of the stick, which `stepping` looks for where this says True.
    """
    stick = plus(m.object, (0.015, 0.0, 0.0))
    off, held = distance(m.second, t.target), distance(stick, m.tcp) < 0.02
    reward = densely_caged(m, t, stick, 0.04, 0.05, 0.01)
    if held and m.opened > 0.0 and stick[2] - 0.01 > t.start[2]:
        stick_in_place = near(distance(stick, t.target), 0.12, distance(t.start, t.target) - 0.12)
        reward = 2.0 + 5.0 * stick_in_place + 3.0 * near(off, 0.12, distance(t.extra, t.target) - 0.12)
        if off <= 0.12:
            reward = 10.0
    return reward, off <= 0.12 and m.opened > 0.0 and m.object[2] - 0.01 > t.start[2]


@compiled
def stick_pull(m, t):
    """The thermos is pulled to the target with the stick through its handle."""
    handle, end = m.second, m.points[0]
    container, first = plus(handle, (0.05, 0.0, 0.0)), plus(t.extra, (0.05, 0.0, 0.0))
    scale = (1.0, 1.0, 2.0)
    through = end[0] >= handle[0] and abs(end[1] - handle[1]) <= 0.04 and abs(end[2] - handle[2]) <= 0.06
    stick_in_place = near(scaled(m.object, container, scale), 0.05, scaled(t.start, first, scale))
    lifted = distance(m.object, m.tcp) < 0.02 and m.opened > 0.0 and m.object[2] - 0.01 > t.start[2]
    thermos = Placed(t.target, t.extra, t.tcp, t.extra)  # the caging's margins are Meta-World's: of the thermos
    grasped = 1.0 if lifted else densely_caged(m, thermos, m.object, 0.014, 0.05, 0.01)
    held = both(grasped, stick_in_place)
    reward, off = held, distance(handle, t.target)
    if lifted:
        reward = 1.0 + held + 5.0 * stick_in_place
        if through:
            stick = near(distance(m.object, t.target), 0.05, distance(t.start, t.target))
            reward = 1.0 + held + 5.0 + 2.0 * stick
            reward += near(distance(container, t.target), 0.05, distance(t.extra, t.target))
            if off <= 0.12:
                reward = 10.0
    return reward, off <= 0.12 and through


@entry
def evaluate(which, outputs, observation, constants, grip, first, reward, success):
    """Writes reward and success `[B]` of the slots whose class is number `which[i]` of ORDER; -1 is none of it."""
    for i in range(len(which)):
        k = which[i]
        if k < 0:
            continue
        m, t = moment(outputs[i], observation[i], grip[i], first[i]), placed(constants[i])
        if k == 0:
            reward[i], success[i] = hammer(m, t)
        elif k == 1:
            reward[i], success[i] = assembly(m, t)
        elif k == 2:
            reward[i], success[i] = disassemble(m, t)
        elif k == 3:
            reward[i], success[i] = box_close(m, t)
        elif k == 4:
            reward[i], success[i] = peg_insert_side(m, t)
        elif k == 5:
            reward[i], success[i] = peg_unplug_side(m, t)
        elif k == 6:
            reward[i], success[i] = stick_push(m, t)
        else:
            reward[i], success[i] = stick_pull(m, t)
