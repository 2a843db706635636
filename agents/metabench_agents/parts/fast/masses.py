"""Imagined steps of masses on a line, compiled: what `context.vehicles.VehicleDecoder` says, many times faster.

A step of one slot is a few thousand multiplications, too few for a framework's operators: their overhead and their
passes over memory cost ten times the arithmetic. Here a slot's networks run in registers and in the first cache, and
what is zero is skipped: most masses have nothing to do with the first one. Results differ from the decoder's in the
last digits of float32 only.
"""

from __future__ import annotations

import math

import numpy as np

from metabench.physics.compiled import cached_njit

CLOSE_LOW, CLOSE_HIGH, CLOSE_CENTER, CLOSE_UNIT = -2.0, 14.0, 6.0, 4.0  # m: gaps at a car's scale
FREE = 40.0  # m of the gap to a mass that is not there, and of the scale of the road
SPEED, RELATIVE = 3.0, 2.0  # m/s of the units of speeds and relative speeds
FIRST_PLACE, PLACE_STEP, PLACES = -60.0, 5.0, 15  # m: where the first mass is, on a ladder
GAPS = 13  # steps of a metre from 0: gaps on a ladder
BOUND = 3.0  # m/s^2


@cached_njit(inline="always")
def _clip(value, low, high):
    return low if value < low else (high if value > high else value)


@cached_njit(inline="always")
def _close(gap):
    return (_clip(gap, CLOSE_LOW, CLOSE_HIGH) - CLOSE_CENTER) / CLOSE_UNIT


@cached_njit(inline="always")
def _wide(gap):
    return _clip(gap, 0.0, FREE) / (0.5 * FREE) - 1.0


@cached_njit(inline="always", fastmath=True)
def _add(total, value, row):
    if value != 0.0:
        narrow = np.float32(value)
        for j in range(len(total)):
            total[j] += narrow * row[j]


@cached_njit(inline="always", fastmath=True)
def _rest(first, second, b2, w2, w3, b3):
    """The second layer and the output, of sums of the first."""
    for j in range(len(second)):
        second[j] = b2[j]
    for i in range(len(first)):
        h = first[i]
        if h > 0.0:
            row = w2[i]
            for j in range(len(second)):
                second[j] += h * row[j]
    out = b3
    nothing = np.float32(0.0)
    for j in range(len(second)):
        out += max(second[j], nothing) * w3[j]
    return out


@cached_njit(nogil=True, fastmath=True)
def hold(x, v, z, action, alive, steps, dt, limits, pace, drive, end, pay, reward, total):
    """Up to `steps` steps of every living slot under one action each; a slot that has ended stands still.

    Args:
        x: `[B, V]` m, changed in place.
        v: `[B, V]` m/s, likewise.
        z: `[B, L]`.
        action: `[B, A]`.
        alive: `[B]` bool, likewise.
        steps: How many.
        dt: Seconds of a step.
        limits: The fastest speed in m/s.
        pace: The usual speed in m/s.
        drive: The acceleration network's (w1 `[F, H]`, b1, w2 `[H, H]`, b2, w3 `[H]`, b3).
        end: Likewise the network of the end's logit.
        pay: And of the reward.
        reward: Its centre, scale, least and largest.
        total: `[B]` is given the sum of the rewards.

    Returns:
        Steps that were taken by living slots.
    """
    w1, b1, w2, b2, w3, b3 = drive
    e1, c1, e2, c2, e3, c3 = end
    p1, d1, p2, d2, p3, d3 = pay
    count, masses, width = 0, x.shape[1], len(b1)
    acts, latent = action.shape[1], z.shape[1]
    at_task = 12 + PLACES + acts
    base, first, second = b1.copy(), b1.copy(), b1.copy()
    accelerations = v[0].copy()
    for slot in range(len(x)):
        total[slot] = 0.0
        if not alive[slot]:
            continue
        for j in range(width):
            base[j] = b1[j]
        for k in range(latent):
            _add(base, z[slot, k], w1[at_task + k])
        for _ in range(steps):
            ego, speed = x[slot, 0], v[slot, 0]
            mean = 0.0
            for i in range(1, masses):
                mean += v[slot, i]
            mean /= masses - 1
            for i in range(masses):
                own, fast = x[slot, i], v[slot, i]
                ahead, front = ego, speed
                if i == 1:
                    ahead, front = own + FREE, fast
                elif i > 1:
                    ahead, front = x[slot, i - 1], v[slot, i - 1]
                for j in range(width):
                    first[j] = base[j]
                gap = ahead - own
                _add(first, (fast - pace) / SPEED, w1[0])
                _add(first, _close(gap), w1[1])
                _add(first, _wide(gap), w1[2])
                _add(first, (front - fast) / RELATIVE, w1[3])
                _add(first, (mean - fast) / RELATIVE, w1[4])
                if i == 0:
                    _add(first, 1.0, w1[5])
                    for k in range(acts):
                        _add(first, action[slot, k], w1[12 + PLACES + k])
                if own < ego and ego <= ahead:
                    _add(first, 1.0, w1[6])
                    _add(first, _close(ego - own), w1[7])
                    _add(first, _wide(ego - own), w1[8])
                    _add(first, (speed - fast) / RELATIVE, w1[9])
                    if ego >= 0.0:
                        _add(first, 1.0, w1[10])
                    _add(first, _clip(ego, -FREE, 0.0) / (0.5 * FREE) + 1.0, w1[11])
                    for k in range(PLACES):
                        _add(first, _clip(ego - FIRST_PLACE - PLACE_STEP * k, -1.0, 1.0), w1[12 + k])
                    for k in range(latent):
                        _add(first, z[slot, k], w1[at_task + latent + k])
                accelerations[i] = BOUND * math.tanh(_rest(first, second, b2, w2, w3, b3))
            there, near, rear = ego + speed * dt, FREE, FREE
            for i in range(masses):
                x[slot, i] += v[slot, i] * dt
                v[slot, i] = _clip(v[slot, i] + accelerations[i] * dt, 0.0, limits)
                if i > 0:
                    distance = x[slot, i] - there
                    if distance >= 0:
                        near = min(near, distance)
                    else:
                        rear = min(rear, -distance)
            for j in range(width):
                first[j] = c1[j]
            _add(first, _clip(3.0 * ego, -1.0, 1.0), e1[0])
            _add(first, _clip(3.0 * there, -1.0, 1.0), e1[1])
            _add(first, _close(near), e1[2])
            _add(first, _close(rear), e1[3])
            _add(first, 1.0 if ego >= 0 else 0.0, e1[4])
            _add(first, _clip(there, -FREE, FREE) / FREE, e1[5])
            _add(first, 1.0 if there >= 0 else 0.0, e1[6])
            for k in range(GAPS):
                _add(first, _clip(2.0 * (near - k), -1.0, 1.0), e1[7 + k])
                _add(first, _clip(2.0 * (rear - k), -1.0, 1.0), e1[7 + GAPS + k])
            over = _rest(first, second, c2, e2, e3, c3) > 0.0
            for j in range(width):
                first[j] = d1[j]
            road, moved, change = (1.0 if ego >= 0 else 0.0), there - ego - pace * dt, 2.0 * (v[slot, 0] - speed)
            _add(first, road, p1[0])
            _add(first, 1.0 if ego < 0 and there >= 0 else 0.0, p1[1])
            _add(first, moved, p1[2])
            _add(first, road * moved, p1[3])
            _add(first, change, p1[4])
            _add(first, change * change, p1[5])
            _add(first, _clip(there, -FREE, FREE) / FREE, p1[6])
            _add(first, 1.0 if over else 0.0, p1[7])
            paid = reward[0] + reward[1] * _rest(first, second, d2, p2, p3, d3)
            total[slot] += _clip(paid, reward[2], reward[3])
            count += 1
            if over:
                alive[slot] = False
                break
    return count
