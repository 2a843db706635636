"""The observation of Meta-World from a row of outputs, compiled: hand, gripper, two objects, and the frame before."""

from __future__ import annotations

import math

from metabench.physics.metaworld import vocabulary as words
from metabench.physics.metaworld.vocabulary import compiled, distance, entry

# Columns of a class's look: what its outputs mean.
OFFSET, SECOND_OFFSET, HOW, SECOND_HOW, DIAL, MAX_LOOK = 0, 3, 6, 7, 8, 9
NO_FRAME, QUATERNION, MATRIX, FIXED = range(4)  # how an orientation stands in the outputs
DIAL_RADIUS = 0.05  # m
LOW = (-0.525, 0.348, -0.0525, -1.0)  # of hand and gripper in the observation
HIGH = (0.525, 1.025, 0.7, 1.0)


@compiled
def quaternion(m, q):
    """Writes the quaternion (x, y, z, w) of a rotation matrix, as SciPy's Rotation chooses it."""
    trace = m[0] + m[4] + m[8]
    best, choice = m[0], 0
    for k, value in ((1, m[4]), (2, m[8]), (3, trace)):
        if value > best:
            best, choice = value, k
    if choice == 3:
        q[0], q[1], q[2], q[3] = m[7] - m[5], m[2] - m[6], m[3] - m[1], 1.0 + trace
    else:
        i, j, k = choice, (choice + 1) % 3, (choice + 2) % 3
        q[i] = 1.0 - trace + 2.0 * m[4 * i]
        q[j] = m[3 * j + i] + m[3 * i + j]
        q[k] = m[3 * k + i] + m[3 * i + k]
        q[3] = m[3 * k + j] - m[3 * j + k]
    length = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    for k in range(4):
        q[k] /= length


@entry
def observe(outputs, look, before, observation):
    """Writes `[B, 39]`: this frame, the frame of `before`, and zeros where Meta-World has the goal; clipped as theirs.

    Args:
        outputs: `[B, 56]` what the kernel copied out of mjData.
        look: `[B, 9]` what they mean.
        before: `[B, 39]` the observation before the step.
        observation: `[B, 39]` written.
    """
    for i in range(len(outputs)):
        o, see, row = outputs[i], look[i], observation[i]
        for k in range(3):
            row[k] = o[words.HAND + k]
            row[4 + k] = o[words.OBJECT + k] + see[OFFSET + k]
        right, left = words.RIGHT_CLAW, words.LEFT_CLAW
        width = distance((o[right], o[right + 1], o[right + 2]), (o[left], o[left + 1], o[left + 2]))
        row[3] = min(max(width / 0.1, 0.0), 1.0)
        if see[DIAL] != 0.0:  # the mark on its rim
            row[4] = o[words.OBJECT] + math.sin(o[words.JOINT]) * DIAL_RADIUS
            row[5] = o[words.OBJECT + 1] + -math.cos(o[words.JOINT]) * DIAL_RADIUS
        row[7:18] = 0.0
        if see[HOW] == QUATERNION:
            row[7:11] = o[words.FRAME : words.FRAME + 4]
        elif see[HOW] == MATRIX:
            quaternion(o[words.FRAME : words.FRAME + 9], row[7:11])
        elif see[HOW] == FIXED:
            row[7] = 1.0
        if see[SECOND_HOW] != NO_FRAME:
            for k in range(3):
                row[11 + k] = o[words.SECOND + k] + see[SECOND_OFFSET + k]
            if see[SECOND_HOW] == QUATERNION:
                row[14:18] = o[words.SECOND_FRAME : words.SECOND_FRAME + 4]
        row[18:36] = before[i, :18]
        row[36:39] = 0.0
        for k in range(4):
            row[k] = min(max(row[k], LOW[k]), HIGH[k])
            row[18 + k] = min(max(row[18 + k], LOW[k]), HIGH[k])


@entry
def steer(states, column, low, high, delta):
    """Moves every slot's mocap body by `delta` `[B, 3]` m inside its box; its position begins at `column` `[B]`."""
    for i in range(len(states)):
        row, c = states[i], column[i]
        for k in range(3):
            row[c + k] = min(max(row[c + k] + delta[i, k], low[i, k]), high[i, k])
        row[c + 3], row[c + 4], row[c + 5], row[c + 6] = 1.0, 0.0, 1.0, 0.0


@entry
def remember(observation, constants, first):
    """Writes the object's distance from the target `[B]` where it is not known yet: negative."""
    for i in range(len(first)):
        if first[i] < 0.0:
            o, t = observation[i], constants[i]
            first[i] = distance((o[4], o[5], o[6]), (t[0], t[1], t[2]))
