"""The traffic of HighwayMerge as one compiled function of rows of state: point masses on a main road, one on its ramp.

A row holds the ego and then the cars of the main road from the first to the last. Positions are along the road, 0 where
the ramp joins it. Every vehicle moves by explicit Euler steps,

    position += speed * DT,    speed += acceleration * DT,    |acceleration| <= 3 m/s^2,

with one acceleration for the step, and nothing else: no clipping of positions or speeds, no lateral motion, no memory.
The accelerations come from the Intelligent Driver Model (Treiber, Hennecke, Helbing 2000) towards the car in front and,
while the ego is on the last metres of the ramp, from the answer to it of the one driver it would merge in front of.
"""

from __future__ import annotations

import math

from metabench.physics.compiled import cached_njit
from metabench.physics.merge_rules import (
    ACCELERATION,
    CARS,
    CLEARANCE,
    CLOSING_DISTANCE,
    CLOSING_HEADWAY,
    CLOSING_HURRY,
    DECELERATION,
    DT,
    EGO_SPEED_LIMIT,
    FREE,
    HEADWAY,
    HIDAS_GAP,
    HIDAS_TIME,
    HIDAS_ZONE,
    HURRY,
    JAM_DISTANCE,
    LEAST_GAP,
    LENGTH,
    MAX_ACCELERATION,
    ZONE,
)


@cached_njit(inline="always")
def clip(x, low, high):
    """`x` within [low, high]."""
    return low if x < low else (high if x > high else x)


@cached_njit(inline="always")
def driver(speed, gap, front_speed, wanted, acceleration, headway, jam_distance):
    """The Intelligent Driver Model, m/s^2: towards the wanted speed, and off the car in front, bumper to bumper."""
    ratio = speed / wanted
    ratio *= ratio
    result = acceleration * (1.0 - ratio * ratio)
    if gap < FREE:
        approach = speed * (speed - front_speed) / (2.0 * math.sqrt(acceleration * DECELERATION))
        share = (jam_distance + max(0.0, speed * headway + approach)) / max(gap, LEAST_GAP)
        result -= acceleration * share * share
    return result


@cached_njit(inline="always")
def courteous(own, speed, gap, front_speed, to_ego, ego_speed, wanted, courtesy):
    """The answer of a driver with courtesy p: between its own driving and giving way (p > 0) or closing up (p < 0).

    Giving way is to follow the ego already, as in the cooperative driver model of Bouton et al. 2019 (arXiv
    1906.11021); closing up is our counterpart of it.
    """
    own = clip(own, -MAX_ACCELERATION, MAX_ACCELERATION)
    if courtesy >= 0.0:
        yielding = driver(speed, to_ego, ego_speed, HURRY * wanted, ACCELERATION, HEADWAY, JAM_DISTANCE)
        yielding = clip(yielding, -MAX_ACCELERATION, MAX_ACCELERATION)
        return min(own, (1.0 - courtesy) * own + courtesy * yielding)
    closing = driver(
        speed, gap, front_speed, CLOSING_HURRY * wanted, MAX_ACCELERATION, CLOSING_HEADWAY, CLOSING_DISTANCE
    )
    closing = clip(closing, -MAX_ACCELERATION, MAX_ACCELERATION)
    return max(own, (1.0 + courtesy) * own - courtesy * closing)


@cached_njit(inline="always")
def hidas(own, speed, gap, front_speed, to_ego, ego_speed, traffic_speed, speed_decrease, deceleration):
    """The answer after Hidas: give way if braking at b_f until D_v slower makes the gap, else close up.

    The follower foresees the end of that braking with the ego at constant speed. See `HighwayMergeHidas` for what is
    taken from Hidas and what is ours.
    """
    fall = speed - (traffic_speed - speed_decrease)  # m/s still to give away
    if fall <= 0.0:
        return min(own, 0.0) if to_ego < HIDAS_GAP else own
    time = fall / deceleration
    slowed = speed - fall
    left = to_ego + ego_speed * time - (speed * time - 0.5 * deceleration * time * time)
    if left < HIDAS_GAP + HIDAS_TIME * max(slowed - ego_speed, 0.0):
        return courteous(own, speed, gap, front_speed, to_ego, ego_speed, traffic_speed, -1.0)
    return min(own, -min(deceleration, fall / DT))


@cached_njit(nogil=True)
def step_rows(
    position, speed, crashed, command, traffic_speed, first, second, by_hidas, after, faster, fallen, low, high
):
    """One step of the slots low .. high-1.

    Args:
        position: `[B, 1 + CARS]` m.
        speed: `[B, 1 + CARS]` m/s.
        crashed: `[B]` bool; a crashed slot stands still.
        command: `[B]` m/s^2 of the ego; clipped to what it can do.
        traffic_speed: `[B]` m/s.
        first: `[B]` courtesy, or Hidas' D_v (m/s).
        second: `[B]` Hidas' b_f (m/s^2); not read otherwise.
        by_hidas: Which of the two answers the drivers give.
        after: `[B, 1 + CARS]` is given the positions after the step.
        faster: `[B, 1 + CARS]` is given the speeds after the step.
        fallen: `[B]` is given whether the slot has crashed.
        low: First slot.
        high: One past the last.
    """
    for b in range(low, high):
        if crashed[b]:
            for i in range(1 + CARS):
                after[b, i], faster[b, i] = position[b, i], speed[b, i]
            fallen[b] = True
            continue
        ego, ego_speed, wanted = position[b, 0], speed[b, 0], traffic_speed[b]
        merged, seen = ego >= 0.0, ego > (-HIDAS_ZONE if by_hidas else -ZONE)
        crash = False
        acceleration = clip(command[b], -MAX_ACCELERATION, MAX_ACCELERATION)
        acceleration = clip(acceleration, -ego_speed / DT, max((EGO_SPEED_LIMIT - ego_speed) / DT, -MAX_ACCELERATION))
        there = ego + ego_speed * DT
        after[b, 0], faster[b, 0] = there, max(ego_speed + acceleration * DT, 0.0)  # 0 but for rounding
        needed = LENGTH if merged else LENGTH + CLEARANCE
        front, front_speed = FREE, 0.0
        for i in range(1, 1 + CARS):
            x, v = position[b, i], speed[b, i]
            gap = front - LENGTH - x if front < FREE else FREE
            to_ego = ego - LENGTH - x
            own = 0.0
            if merged and x < ego <= front:
                own = driver(v, to_ego, ego_speed, HURRY * wanted, ACCELERATION, HEADWAY, JAM_DISTANCE)
            elif i == 1:
                own = wanted - v
            else:
                own = driver(v, gap, front_speed, HURRY * wanted, ACCELERATION, HEADWAY, JAM_DISTANCE)
            if seen and not merged and x < ego <= front:
                if by_hidas:
                    own = hidas(own, v, gap, front_speed, to_ego, ego_speed, wanted, first[b], second[b])
                else:
                    own = courteous(own, v, gap, front_speed, to_ego, ego_speed, wanted, first[b])
            own = max(clip(own, -MAX_ACCELERATION, MAX_ACCELERATION), -v / DT)
            after[b, i], faster[b, i] = x + v * DT, max(v + own * DT, 0.0)
            if there >= 0.0 and abs(after[b, i] - there) < needed:
                crash = True
            front, front_speed = x, v
        fallen[b] = crash
