"""The arithmetic of ScratchItch, slot by slot and compiled: NumPy's calls would cost six times the physics of one slot.

Places are metres in the world, rotation matrices are read row by row. `outputs` are the family's outputs, `columns` the
places in them, in the order of the constants below.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from metabench.physics.compiled import compiled
from metabench.rng import Array

# Where in `outputs` it begins: places of bodies, rotations of limbs, the tool's quaternion, the sensors.
TIP, SHOULDER, ELBOW, WRIST, UPPER, FORE, TOOL, SENSORS = range(8)
SENSED = ("tip", "tool", "trunk", "legs", "upper_arm", "forearm", "wrist", "gripper")  # order of the sensors

# Columns of what is felt.
ITCH, SKIN, TOTAL, AT_ITCH, DISTANCE, SPEED, FELT = 0, 3, 6, 7, 8, 9, 10


@compiled
def feel(
    outputs: Array, columns: Array, along: Array, around: Array, size: Array, sizes: Array, tip: float, reach: float
) -> Array:
    """`[B, 10]`: where it itches, the skin nearest to the tip, forces in all and at the itch, distance, speed.

    Args:
        outputs: `[B, K]`.
        columns: `[8]`.
        along: `[B]` place along the arm, 0 shoulder, 1 elbow, 2 wrist.
        around: `[B]` rad, side of the limb.
        size: `[B]` 0 a woman, 1 a man.
        sizes: `[2, 4]` m of both: lengths of upper arm and forearm, then their radii.
        tip: m, radius of the tool's tip.
        reach: m around the itch where a contact is at the itch.
    """
    felt = np.empty((len(outputs), 10))
    away, axis, skin = np.empty(3), np.empty(3), np.empty(3)
    for b in range(len(outputs)):
        row, out = outputs[b], felt[b]
        chosen = 0 if along[b] < 1.0 else 1
        least = np.inf
        for limb in range(2):
            origin, frame = columns[SHOULDER + limb], columns[UPPER + limb]
            length = sizes[0, limb] + size[b] * (sizes[1, limb] - sizes[0, limb])
            radius = sizes[0, 2 + limb] + size[b] * (sizes[1, 2 + limb] - sizes[0, 2 + limb])
            if limb == chosen:
                x, y = -radius * np.cos(around[b]), -radius * np.sin(around[b])
                z = -(radius + (along[b] - limb) * (length - radius))
                for k in range(3):
                    turned = row[frame + 3 * k] * x + row[frame + 3 * k + 1] * y + row[frame + 3 * k + 2] * z
                    out[ITCH + k] = row[origin + k] + turned
            height = 0.0
            for k in range(3):
                away[k], axis[k] = row[columns[TIP] + k] - row[origin + k], -row[frame + 3 * k + 2]
                height += away[k] * axis[k]
            height = min(max(height, 0.0), length)
            square = 0.0
            for k in range(3):
                away[k] -= height * axis[k]
                square += away[k] * away[k]
            distance = max(np.sqrt(square), 1e-9)
            if distance - radius - tip < least:
                least = distance - radius - tip
                for k in range(3):
                    skin[k] = row[origin + k] + height * axis[k] + away[k] * (radius / distance)
        total, beside, off, speed = 0.0, 0.0, 0.0, 0.0
        for k in range(5):
            total += row[columns[SENSORS] + 2 + k]
        for k in range(3):
            out[SKIN + k] = skin[k]
            beside += (skin[k] - out[ITCH + k]) ** 2
            off += (row[columns[TIP] + k] - out[ITCH + k]) ** 2
            speed += row[columns[SENSORS] + 7 + k] ** 2
        out[TOTAL] = total
        out[AT_ITCH] = row[columns[SENSORS]] if least < 0.0 and np.sqrt(beside) < reach else 0.0
        out[DISTANCE], out[SPEED] = np.sqrt(off), np.sqrt(speed)
    return felt


@compiled
def aim(joints: Array, action: Array, low: Array, high: Array, increment: float) -> Array:
    """`[B, 7]` rad: the targets of the servos, `increment` times the action beyond the joints, inside their limits."""
    target = np.empty(joints.shape)
    for b in range(len(joints)):
        for j in range(joints.shape[1]):
            wanted = joints[b, j] + increment * min(max(action[b, j], -1.0), 1.0)
            target[b, j] = min(max(wanted, low[j]), high[j])
    return target


@compiled
def remember(before: Array, after: Array, felt: Array, hard: float, stroke: float) -> None:
    """Writes the last scratch's place and their number into the last four columns of the state rows `after` `[B, S]`.

    Args:
        before: `[B, S]` state rows before the step.
        after: Likewise after it; changed in place.
        felt: What is felt after it.
        hard: N at the itch from which a touch is no scratch.
        stroke: m from the last scratch to the next, at least.
    """
    memory = after.shape[1] - 4
    for b in range(len(after)):
        square = 0.0
        for k in range(3):
            square += (felt[b, SKIN + k] - before[b, memory + k]) ** 2
        if 0.0 < felt[b, AT_ITCH] < hard and np.sqrt(square) > stroke:
            for k in range(3):
                after[b, memory + k] = felt[b, SKIN + k]
            after[b, memory + 3] = before[b, memory + 3] + 1.0


@compiled
def norm(action: Array) -> Array:
    """`[B]` lengths of the actions `[B, A]`, each entry clipped to [-1, 1]."""
    lengths = np.empty(len(action))
    for b in range(len(action)):
        square = 0.0
        for k in range(action.shape[1]):
            entry = min(max(action[b, k], -1.0), 1.0)
            square += entry * entry
        lengths[b] = np.sqrt(square)
    return lengths


@compiled
def observe(outputs: Array, joints: Array, columns: Array, base: Any) -> Array:
    """`[B, 24]` what is seen from the robot's base at `base`, whose x axis is the world's -y, and y axis its x.

    The tip, the tool's quaternion, the wrapped joint angles `joints` `[B, 7]`, shoulder, elbow and wrist, and the force
    on the tool.
    """
    seen, half = np.empty((len(outputs), 24)), np.sqrt(0.5)
    for b in range(len(outputs)):
        row, out = outputs[b], seen[b]
        for k in range(4):
            place, start = columns[TIP + k], 0 if k == 0 else 11 + 3 * k
            out[start], out[start + 1] = base[1] - row[place + 1], row[place] - base[0]
            out[start + 2] = row[place + 2] - base[2]
        q = columns[TOOL]
        w, x, y, z = row[q] * half, row[q + 1] * half, row[q + 2] * half, row[q + 3] * half
        out[3], out[4], out[5], out[6] = w - z, x - y, y + x, z + w  # turned by 90 degrees about z
        for j in range(7):
            out[7 + j] = (joints[b, j] + np.pi) % (2 * np.pi) - np.pi
        out[23] = row[columns[SENSORS]] + row[columns[SENSORS] + 1]
    return seen
