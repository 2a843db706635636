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


@cached_njit(inline="always", fastmath=True)
def _accelerations(x, v, z, action, base, pace, drive, first, second, out):
    """m/s^2 of every mass of a slot `[V]`; `base` is the first layer's sum of what z says to all of them."""
    w1, _, w2, b2, w3, b3 = drive
    masses, acts, latent = len(x), len(action), len(z)
    ego, speed, mean, at_task = x[0], v[0], 0.0, 12 + PLACES + acts
    for i in range(1, masses):
        mean += v[i]
    mean /= masses - 1
    for i in range(masses):
        own, fast = x[i], v[i]
        ahead, front = ego, speed
        if i == 1:
            ahead, front = own + FREE, fast
        elif i > 1:
            ahead, front = x[i - 1], v[i - 1]
        for j in range(len(first)):
            first[j] = base[j]
        _add(first, (fast - pace) / SPEED, w1[0])
        _add(first, _close(ahead - own), w1[1])
        _add(first, _wide(ahead - own), w1[2])
        _add(first, (front - fast) / RELATIVE, w1[3])
        _add(first, (mean - fast) / RELATIVE, w1[4])
        if i == 0:
            _add(first, 1.0, w1[5])
            for k in range(acts):
                _add(first, action[k], w1[12 + PLACES + k])
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
                _add(first, z[k], w1[at_task + latent + k])
        out[i] = BOUND * math.tanh(_rest(first, second, b2, w2, w3, b3))


@cached_njit(inline="always", fastmath=True)
def _ends(here, there, near, rear, end, first, second):
    """Whether a step of the first mass from `here` to `there`, with these gaps then, ends the episode."""
    w1, b1, w2, b2, w3, b3 = end
    for j in range(len(first)):
        first[j] = b1[j]
    _add(first, _clip(3.0 * here, -1.0, 1.0), w1[0])
    _add(first, _clip(3.0 * there, -1.0, 1.0), w1[1])
    _add(first, _close(near), w1[2])
    _add(first, _close(rear), w1[3])
    _add(first, 1.0 if here >= 0 else 0.0, w1[4])
    _add(first, _clip(there, -FREE, FREE) / FREE, w1[5])
    _add(first, 1.0 if there >= 0 else 0.0, w1[6])
    for k in range(GAPS):
        _add(first, _clip(2.0 * (near - k), -1.0, 1.0), w1[7 + k])
        _add(first, _clip(2.0 * (rear - k), -1.0, 1.0), w1[7 + GAPS + k])
    return _rest(first, second, b2, w2, w3, b3) > 0.0


@cached_njit(inline="always", fastmath=True)
def _pays(here, there, usual, change, over, pay, first, second):
    """The reward of such a step, in units of rewards; `change` is twice the first mass's change of speed."""
    w1, b1, w2, b2, w3, b3 = pay
    for j in range(len(first)):
        first[j] = b1[j]
    road, moved = (1.0 if here >= 0 else 0.0), there - here - usual
    _add(first, road, w1[0])
    _add(first, 1.0 if here < 0 and there >= 0 else 0.0, w1[1])
    _add(first, moved, w1[2])
    _add(first, road * moved, w1[3])
    _add(first, change, w1[4])
    _add(first, change * change, w1[5])
    _add(first, _clip(there, -FREE, FREE) / FREE, w1[6])
    _add(first, 1.0 if over else 0.0, w1[7])
    return _rest(first, second, b2, w2, w3, b3)


@cached_njit(nogil=True, fastmath=True)
def hold(x, v, z, action, alive, steps, dt, fastest, pace, drive, end, pay, reward, total):
    """Up to `steps` steps of every living slot under one action each; a slot that has ended stands still.

    Args:
        x: `[B, V]` m, changed in place.
        v: `[B, V]` m/s, likewise.
        z: `[B, L]`.
        action: `[B, A]`.
        alive: `[B]` bool, likewise.
        steps: How many.
        dt: Seconds of a step.
        fastest: The largest speed in m/s.
        pace: The usual speed in m/s.
        drive: The acceleration network's (w1 `[F, H]`, b1, w2 `[H, H]`, b2, w3 `[H]`, b3).
        end: Likewise the network of the end's logit.
        pay: And of the reward.
        reward: Its centre, scale, least and largest.
        total: `[B]` is given the sum of the rewards.

    Returns:
        Steps that were taken by living slots.
    """
    count, at_task = 0, 12 + PLACES + action.shape[1]
    base, first, second, pull = drive[1].copy(), drive[1].copy(), drive[1].copy(), v[0].copy()
    for slot in range(len(x)):
        total[slot] = 0.0
        if not alive[slot]:
            continue
        base[:] = drive[1]
        for k in range(z.shape[1]):
            _add(base, z[slot, k], drive[0][at_task + k])
        for _ in range(steps):
            here, speed = x[slot, 0], v[slot, 0]
            _accelerations(x[slot], v[slot], z[slot], action[slot], base, pace, drive, first, second, pull)
            there, near, rear = here + speed * dt, FREE, FREE
            for i in range(x.shape[1]):
                x[slot, i] += v[slot, i] * dt
                v[slot, i] = _clip(v[slot, i] + pull[i] * dt, 0.0, fastest)
                if i > 0:
                    distance = x[slot, i] - there
                    near = min(near, distance) if distance >= 0 else near
                    rear = min(rear, -distance) if distance < 0 else rear
            over = _ends(here, there, near, rear, end, first, second)
            change = 2.0 * (v[slot, 0] - speed)
            paid = reward[0] + reward[1] * _pays(here, there, pace * dt, change, over, pay, first, second)
            total[slot] += _clip(paid, reward[2], reward[3])
            count += 1
            if over:
                alive[slot] = False
                break
    return count
