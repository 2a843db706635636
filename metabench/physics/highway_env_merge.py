"""highway-env 1.12.1's merge-v0 as one compiled function of rows of state: 15 substeps of five vehicles per slot.

Written from a description of the simulation, and equal to it step for step: every discrete variable exactly, positions
and speeds within 1e-12 (tests/test_highway.py). Everything that looks odd below is highway-env's: every lane has the
speed limit of 20 m/s, so that traffic brakes from its 30; distances of the driver model run from centre to centre;
neighbours are looked for on one lane segment only; crashed vehicles roll to a stop; an impact moves a vehicle in the
substep after it.

Three shortcuts leave the results alone. The slip angle beta is the angle whose sine the steering law computes, so the
kinematics need no tangent (slow cars are spared this one: highway-env divides by their speed, so that their steering
magnifies rounding without limit). A vehicle with heading 0 on the centre of a straight lane needs no trigonometry at
all. The sine-shaped ramp is only measured where a bound says that it could be the nearest lane.
"""

from __future__ import annotations

import math

import numpy as np

from metabench.physics.compiled import cached_njit

VEHICLES = 5  # the ego first, three cars on the highway, one on the ramp
X, Y, HEADING, SPEED, TARGET_SPEED, TIMER, IMPACT_X, IMPACT_Y = range(8)  # columns of `motion`
LANE, TARGET, CRASHED, IMPACT = range(4)  # columns of `status`
TIME_WANTED, DISTANCE_WANTED, POLITENESS, SPEED_LIMIT = range(4)  # columns of `traffic`

SUBSTEPS, DT = 15, 1 / 15  # a step is one second
LENGTH, WIDTH = 5.0, 2.0  # m of a vehicle
ON_LANE = 3.0  # m from the centre of a lane within which a vehicle counts as on it: half its width, and 1 m
LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
GOAL_X = 370.0  # m where the episode ends well

# The lanes in the order in which highway-env scans them: ab0 ab1 bc0 bc1 bc2 cd0 cd1 jk0 kb0.
AB0, AB1, BC0, BC1, BC2, CD0, CD1, JK0, KB0 = range(9)
LANE_X = np.array([0.0, 0.0, 230.0, 230.0, 230.0, 310.0, 310.0, 0.0, 150.0])  # m where they begin
LANE_Y = np.array([0.0, 4.0, 0.0, 4.0, 8.0, 0.0, 4.0, 14.5, 11.25])  # m; the middle line of the sine-shaped kb0
LANE_LENGTH = np.array([230.0, 230.0, 80.0, 80.0, 80.0, 150.0, 150.0, 150.0, 80.0])
FORBIDDEN = np.array([0, 0, 0, 0, 1, 0, 0, 1, 1])  # no vehicle changes to these by itself
ROAD_FIRST = np.array([0, 0, 2, 2, 2, 5, 5, 7, 8])  # the first lane of the same road
ROAD_LAST = np.array([1, 1, 4, 4, 4, 6, 6, 7, 8])
NEXT_LANE = np.array([BC0, BC1, CD0, CD1, CD1, CD0, CD1, KB0, BC2])
AMPLITUDE, PULSATION, PHASE = 3.25, 2 * np.pi / 160, np.pi / 2  # of kb0
OBSTACLE_X, OBSTACLE_Y, OBSTACLE_SIZE = 310.0, 8.0, 2.0  # the end of bc2

ACCELERATION, DECELERATION = 3.0, 5.0  # m/s^2 comfortable, of the Intelligent Driver Model
MAX_ACCELERATION = 6.0  # m/s^2
MIN_GAIN, MAX_BRAKING, CHANGE_DELAY = 0.2, 2.0, 1.0  # m/s^2, m/s^2, s: of MOBIL
TAU_SPEED, TAU_HEADING, TAU_LATERAL, TAU_PURSUIT = 0.6, 0.2, 0.6, 0.1  # s of the controllers
MAX_SPEED = 40.0  # m/s
SLOW = 4.0  # m/s below which steering is computed angle by angle, as highway-env does
MAX_STEERING = np.pi / 3  # rad
MAX_SINE = math.sin(math.atan(0.5 * math.tan(MAX_STEERING)))  # of the slip angle, at the largest steering angle
TWO_ROOT_AB = 2 * math.sqrt(ACCELERATION * DECELERATION)
DIAGONAL = math.hypot(LENGTH, WIDTH)
OBSTACLE_DIAGONAL = math.hypot(OBSTACLE_SIZE, OBSTACLE_SIZE)
SINE, STEERING, THROTTLE = range(3)  # columns of a command: of the slip angle; rad; m/s^2
NONE, OBSTACLE = -1, VEHICLES  # neither a vehicle, and the obstacle, as neighbours

_kernel = cached_njit(nogil=True, error_model="numpy")
_inline = cached_njit(inline="always", error_model="numpy")


@_inline
def _wrap(angle):
    turned = angle + np.pi  # rounded so, as highway-env does: slow cars magnify what is lost here
    return (turned if 0.0 <= turned < 2 * np.pi else turned % (2 * np.pi)) - np.pi


@_inline
def _clip(x, low, high):
    return low if x < low else (high if x > high else x)


@_inline
def _not_zero(x):
    if abs(x) > 0.01:
        return x
    return 0.01 if x >= 0 else -0.01


@_inline
def _lateral(lane, s, y):
    """The distance from the centre of a lane, m, at `s` along it."""
    r = y - LANE_Y[lane]
    if lane == KB0:
        r -= AMPLITUDE * math.sin(PULSATION * s + PHASE)
    return r


@_inline
def _lane_heading(lane, s):
    if lane == KB0:
        return math.atan(AMPLITUDE * PULSATION * math.cos(PULSATION * s + PHASE))
    return 0.0


@_kernel
def nearest_lane(x, y, heading, lane):
    """The lane of a vehicle that was on `lane`: the first with the least |r| + overshoot + |difference of headings|."""
    turn = abs(_wrap(heading))
    s = x - LANE_X[lane]
    if lane != KB0 and 0.5 < s < LANE_LENGTH[lane] - 0.5 and abs(y - LANE_Y[lane]) + turn < 1.9:
        return lane  # no other lane comes as near: they lie 4 m beside, or begin beyond
    best, nearest = np.inf, 0
    for lane in range(KB0):
        s = x - LANE_X[lane]
        cost = abs(y - LANE_Y[lane]) + max(s - LANE_LENGTH[lane], 0.0) + max(-s, 0.0) + turn
        if cost < best:
            best, nearest = cost, lane
    s = x - LANE_X[KB0]
    beyond = max(s - LANE_LENGTH[KB0], 0.0) + max(-s, 0.0)
    if max(abs(y - LANE_Y[KB0]) - AMPLITUDE, 0.0) + beyond < best:
        r = abs(_lateral(KB0, s, y))
        if r + beyond < best and r + beyond + abs(_wrap(heading - _lane_heading(KB0, s))) < best:
            nearest = KB0
    return nearest


@_inline
def _reachable(lane, x, y):
    s = x - LANE_X[lane]
    if FORBIDDEN[lane] or s < 0 or s >= LANE_LENGTH[lane] + LENGTH:
        return False
    return abs(_lateral(lane, s, y)) <= 8.0


@_kernel
def _neighbours(motion, me, lane):
    """The next object ahead and the next behind on a lane segment, and 5 m around it: numbers, OBSTACLE or NONE."""
    here = motion[me, X]
    front, rear = NONE, NONE
    ahead, behind = np.inf, -np.inf
    low, high, middle = LANE_X[lane] - LENGTH, LANE_LENGTH[lane] + LENGTH, LANE_Y[lane]
    for other in range(VEHICLES):
        x, r = motion[other, X], abs(motion[other, Y] - middle)
        if other == me or x < low or x - LANE_X[lane] >= high:
            continue
        if lane == KB0:
            r = abs(_lateral(KB0, x - LANE_X[KB0], motion[other, Y]))
        if r > ON_LANE:
            continue
        if x >= here:
            if x <= ahead:
                ahead, front = x, other
        elif x > behind:
            behind, rear = x, other
    if lane == BC2:  # the only lane with the obstacle on it
        if here <= OBSTACLE_X:
            if ahead >= OBSTACLE_X:
                front = OBSTACLE
        elif behind < OBSTACLE_X:
            rear = OBSTACLE
    return front, rear


@_inline
def _desired_gap(motion, cosines, sines, rear, front, traffic):
    """d* of the driver behind, m; speeds are projected on the direction of the rear vehicle."""
    v = motion[rear, SPEED]
    if front == OBSTACLE:
        difference = v * (cosines[rear] * cosines[rear] + sines[rear] * sines[rear])
    else:
        w = motion[front, SPEED]
        difference = (v * cosines[rear] - w * cosines[front]) * cosines[rear]
        difference += (v * sines[rear] - w * sines[front]) * sines[rear]
    return traffic[DISTANCE_WANTED] + v * traffic[TIME_WANTED] + v * difference / TWO_ROOT_AB


@_kernel
def _driver(motion, cosines, sines, rear, front, traffic):
    """The acceleration of the Intelligent Driver Model for `rear` behind `front`, m/s^2; 0 if `rear` is no vehicle."""
    if rear in (NONE, OBSTACLE):
        return 0.0
    wanted = abs(_not_zero(_clip(motion[rear, TARGET_SPEED], 0.0, traffic[SPEED_LIMIT])))
    ratio = max(motion[rear, SPEED], 0.0) / wanted
    ratio *= ratio
    acceleration = ACCELERATION * (1 - ratio * ratio)
    if front != NONE:
        ahead = OBSTACLE_X if front == OBSTACLE else motion[front, X]
        share = _desired_gap(motion, cosines, sines, rear, front, traffic) / _not_zero(ahead - motion[rear, X])
        acceleration -= ACCELERATION * (share * share)
    return acceleration


@_kernel
def _follow_road(motion, status, me):
    lane = status[me, TARGET]
    if motion[me, X] - LANE_X[lane] > LANE_LENGTH[lane] - LENGTH / 2:
        status[me, TARGET] = NEXT_LANE[lane]


@_kernel
def _mobil(motion, cosines, sines, me, lane, current, traffic):
    """Whether MOBIL wants a change to `lane`: safe for the new follower, and enough gain."""
    new_front, new_rear = _neighbours(motion, me, lane)
    imposed = _driver(motion, cosines, sines, new_rear, me, traffic)
    if imposed < -MAX_BRAKING:
        return False
    old_front, old_rear = _neighbours(motion, me, current)
    gain = _driver(motion, cosines, sines, me, new_front, traffic)
    gain -= _driver(motion, cosines, sines, me, old_front, traffic)
    if traffic[POLITENESS] != 0.0:
        others = imposed - _driver(motion, cosines, sines, new_rear, new_front, traffic)
        others += _driver(motion, cosines, sines, old_rear, old_front, traffic)
        others -= _driver(motion, cosines, sines, old_rear, me, traffic)
        gain += traffic[POLITENESS] * others
    return gain >= MIN_GAIN


@_kernel
def _change_lane(motion, status, cosines, sines, me, traffic, controlled):
    """Aborts a change that somebody ahead has begun too, or begins one at most once a second."""
    lane, target = status[me, LANE], status[me, TARGET]
    if lane != target:
        if ROAD_FIRST[lane] == ROAD_FIRST[target]:
            for other in range(0 if controlled else 1, VEHICLES):
                if other == me or status[other, LANE] == target or status[other, TARGET] != target:
                    continue
                gap = motion[other, X] - motion[me, X]
                if 0 < gap < _desired_gap(motion, cosines, sines, me, other, traffic):
                    status[me, TARGET] = lane
                    return
        return
    if motion[me, TIMER] <= CHANGE_DELAY:
        return
    motion[me, TIMER] = 0.0
    for side in (lane - 1, lane + 1):
        if side < ROAD_FIRST[lane] or side > ROAD_LAST[lane] or not _reachable(side, motion[me, X], motion[me, Y]):
            continue
        if abs(motion[me, SPEED]) >= 1 and _mobil(motion, cosines, sines, me, side, lane, traffic):
            status[me, TARGET] = side


@_kernel
def _steer(motion, me, target, command):
    """The steering controller: the sine of the slip angle it asks for, and for slow cars the steering angle."""
    x, y, heading, v = motion[me, X], motion[me, Y], motion[me, HEADING], _not_zero(motion[me, SPEED])
    s = x - LANE_X[target]
    r = _lateral(target, s, y)
    wanted = _lane_heading(target, s + motion[me, SPEED] * TAU_PURSUIT)
    if r != 0.0:
        quarter = np.pi / 4
        wanted += _clip(math.asin(_clip(-(1 / TAU_LATERAL) * r / v, -1.0, 1.0)), -quarter, quarter)
    rate = (1 / TAU_HEADING) * _wrap(wanted - heading)
    sine = _clip(LENGTH / 2 / v * rate, -1.0, 1.0)
    command[SINE] = _clip(sine, -MAX_SINE, MAX_SINE)
    if abs(motion[me, SPEED]) < SLOW:
        command[STEERING] = _clip(math.atan(2 * math.tan(math.asin(sine))), -MAX_STEERING, MAX_STEERING)


@_kernel
def _act(motion, status, cosines, sines, commands, traffic, controlled):
    """Every driver decides, in order, so that later ones see the target lanes of earlier ones."""
    if controlled:
        _follow_road(motion, status, 0)
        _steer(motion, 0, status[0, TARGET], commands[0])
        commands[0, THROTTLE] = (1 / TAU_SPEED) * (motion[0, TARGET_SPEED] - motion[0, SPEED])
    for me in range(1, VEHICLES):
        if status[me, CRASHED]:
            continue
        _follow_road(motion, status, me)
        _change_lane(motion, status, cosines, sines, me, traffic, controlled)
        lane, target = status[me, LANE], status[me, TARGET]
        _steer(motion, me, target, commands[me])
        front, _ = _neighbours(motion, me, lane)
        acceleration = _driver(motion, cosines, sines, me, front, traffic)
        if lane != target:
            front, _ = _neighbours(motion, me, target)
            acceleration = min(acceleration, _driver(motion, cosines, sines, me, front, traffic))
        commands[me, THROTTLE] = _clip(acceleration, -MAX_ACCELERATION, MAX_ACCELERATION)


@_kernel
def _move(motion, status, cosines, sines, commands):
    """The modified bicycle model: everything by the old speed, an impact of the last substep in between."""
    for me in range(VEHICLES):
        v = motion[me, SPEED]
        if me > 0:
            motion[me, TIMER] += DT
        command = commands[me]
        if status[me, CRASHED]:
            command[SINE], command[STEERING], command[THROTTLE] = 0.0, 0.0, -1.0 * v
        sine, acceleration = command[SINE], command[THROTTLE]
        if v > MAX_SPEED:
            acceleration = min(acceleration, MAX_SPEED - v)
        elif v < -MAX_SPEED:
            acceleration = max(acceleration, -MAX_SPEED - v)
        command[THROTTLE] = acceleration
        c, s = cosines[me], sines[me]
        if sine != 0.0:
            if abs(v) < SLOW:
                beta = math.atan(0.5 * math.tan(command[STEERING]))
                sine = math.sin(beta)
                c, s = math.cos(motion[me, HEADING] + beta), math.sin(motion[me, HEADING] + beta)
            else:
                cosine = math.sqrt(1 - sine * sine)
                c, s = c * cosine - s * sine, s * cosine + c * sine
        motion[me, X] += v * c * DT
        motion[me, Y] += v * s * DT
        if status[me, IMPACT]:
            motion[me, X] += motion[me, IMPACT_X]
            motion[me, Y] += motion[me, IMPACT_Y]
            motion[me, IMPACT_X] = motion[me, IMPACT_Y] = 0.0
            status[me, CRASHED], status[me, IMPACT] = 1, 0
        if sine != 0.0:
            motion[me, HEADING] += v * sine / (LENGTH / 2) * DT
            cosines[me], sines[me] = math.cos(motion[me, HEADING]), math.sin(motion[me, HEADING])
        motion[me, SPEED] += acceleration * DT
        status[me, LANE] = nearest_lane(motion[me, X], motion[me, Y], motion[me, HEADING], status[me, LANE])


@_kernel
def _corners(out, x, y, c, s, length, width):
    for k in range(4):
        a = -length / 2 if k < 2 else length / 2
        b = -width / 2 if k in (0, 3) else width / 2
        out[k, 0] = c * a - s * b + x
        out[k, 1] = s * a + c * b + y


@_inline
def _distance(low_a, high_a, low_b, high_b):
    return low_b - high_a if low_a < low_b else low_a - high_b


@_kernel
def _overlap(a, b, move_x, move_y, push):
    """Separating axes of two rectangles: whether they overlap, whether they will, and the push on the first.

    The axes are each rectangle's four edge normals. A loop over one rectangle's axes ends once neither can hold.
    """
    now, soon = True, True
    least = np.inf
    for polygon in (a, b):
        for k in range(4):
            nx, ny = polygon[k, 1] - polygon[(k + 1) % 4, 1], polygon[(k + 1) % 4, 0] - polygon[k, 0]
            norm = math.sqrt(nx * nx + ny * ny)
            nx, ny = nx / norm, ny / norm
            low_a, high_a, low_b, high_b = np.inf, -np.inf, np.inf, -np.inf
            for j in range(4):
                p, q = a[j, 0] * nx + a[j, 1] * ny, b[j, 0] * nx + b[j, 1] * ny
                low_a, high_a, low_b, high_b = min(low_a, p), max(high_a, p), min(low_b, q), max(high_b, q)
            if _distance(low_a, high_a, low_b, high_b) > 0:
                now = False
            along = nx * move_x + ny * move_y
            if along < 0:
                low_a += along
            else:
                high_a += along
            distance = _distance(low_a, high_a, low_b, high_b)
            if distance > 0:
                soon = False
            if not now and not soon:
                break
            if abs(distance) < least:
                least = abs(distance)
                dx = (a[0, 0] + a[1, 0] + a[2, 0] + a[3, 0]) / 4 - (b[0, 0] + b[1, 0] + b[2, 0] + b[3, 0]) / 4
                dy = (a[0, 1] + a[1, 1] + a[2, 1] + a[3, 1]) / 4 - (b[0, 1] + b[1, 1] + b[2, 1] + b[3, 1]) / 4
                side = 1.0 if dx * nx + dy * ny > 0 else -1.0
                push[0], push[1] = side * nx, side * ny
    push[0] *= least
    push[1] *= least
    return now, soon


@_kernel
def _collide(motion, status, cosines, sines, scratch):
    """Pairs in order, then the obstacle: overlaps crash at once, coming ones push in the next substep."""
    a, b, push = scratch[0:4], scratch[4:8], scratch[8]
    for i in range(VEHICLES):
        x, y, v = motion[i, X], motion[i, Y], motion[i, SPEED]
        for j in range(i + 1, VEHICLES + 1):
            obstacle = j == OBSTACLE
            dx = (OBSTACLE_X if obstacle else motion[j, X]) - x
            dy = (OBSTACLE_Y if obstacle else motion[j, Y]) - y
            reach = (DIAGONAL + (OBSTACLE_DIAGONAL if obstacle else DIAGONAL)) / 2 + v * DT
            if abs(dx) > reach or abs(dy) > reach or math.sqrt(dx * dx + dy * dy) > reach:
                continue
            _corners(a, x, y, cosines[i], sines[i], LENGTH, WIDTH)
            move_x, move_y = v * cosines[i] * DT, v * sines[i] * DT
            if obstacle:
                _corners(b, OBSTACLE_X, OBSTACLE_Y, 1.0, 0.0, OBSTACLE_SIZE, OBSTACLE_SIZE)
            else:
                w = motion[j, SPEED]
                _corners(b, motion[j, X], motion[j, Y], cosines[j], sines[j], LENGTH, WIDTH)
                move_x -= w * cosines[j] * DT
                move_y -= w * sines[j] * DT
            now, soon = _overlap(a, b, move_x, move_y, push)
            if soon:
                share = 1.0 if obstacle else 0.5
                motion[i, IMPACT_X], motion[i, IMPACT_Y], status[i, IMPACT] = push[0] * share, push[1] * share, 1
                if not obstacle:
                    motion[j, IMPACT_X], motion[j, IMPACT_Y], status[j, IMPACT] = -push[0] / 2, -push[1] / 2, 1
            if now:
                status[i, CRASHED] = 1
                if not obstacle:
                    status[j, CRASHED] = 1


@_kernel
def _meta_action(motion, status, action):
    """LANE_LEFT, IDLE, LANE_RIGHT, FASTER, SLOWER, once, before the first substep."""
    if action >= FASTER:
        index = np.rint((motion[0, SPEED] - 20.0) / 10.0 * 2)
        index = _clip(_clip(index, 0.0, 2.0) + (1.0 if action == FASTER else -1.0), 0.0, 2.0)
        motion[0, TARGET_SPEED] = 20.0 + 5.0 * index
    _follow_road(motion, status, 0)
    if action in (LEFT, RIGHT):
        lane = status[0, TARGET]
        wanted = lane + (1 if action == RIGHT else -1)
        wanted = min(max(wanted, ROAD_FIRST[lane]), ROAD_LAST[lane])
        if _reachable(wanted, motion[0, X], motion[0, Y]):
            status[0, TARGET] = wanted


@_kernel
def step_rows(motion, status, action, control, traffic, low, high):
    """One step of the slots low .. high-1, in place.

    Args:
        motion: `[B, 5, 8]` float64 positions, speeds, timers, pending impacts.
        status: `[B, 5, 4]` int64 lane, target lane, crashed, impact pending.
        action: `[B]` int64 meta-actions; not read where there is `control`.
        control: `[B, 2]` float64 steering (rad) and acceleration (m/s^2) of the ego for the whole step, or `[0, 2]`.
        traffic: `[B, 4]` float64 time wanted (s), distance wanted (m), politeness, speed limit (m/s).
        low: First slot.
        high: One past the last.
    """
    controlled = len(control) == 0
    cosines, sines, commands, scratch = (
        np.empty(VEHICLES),
        np.empty(VEHICLES),
        np.empty((VEHICLES, 3)),
        np.empty((9, 2)),
    )
    for b in range(low, high):
        m, s, t = motion[b], status[b], traffic[b]
        for i in range(VEHICLES):
            cosines[i], sines[i] = math.cos(m[i, HEADING]), math.sin(m[i, HEADING])
            commands[i] = 0.0
        if controlled:
            _meta_action(m, s, action[b])
        else:
            commands[0, SINE] = math.sin(math.atan(0.5 * math.tan(control[b, 0])))
            commands[0, STEERING], commands[0, THROTTLE] = control[b, 0], control[b, 1]
        for _ in range(SUBSTEPS):
            _act(m, s, cosines, sines, commands, t, controlled)
            _move(m, s, cosines, sines, commands)
            _collide(m, s, cosines, sines, scratch)
        if not controlled:
            s[0, TARGET] = s[0, LANE]  # a plain vehicle follows no lane


@_kernel
def reward_rows(motion, status, action, controlled, out):
    """highway-env's reward `[B]` of states reached by these actions, summed in its order."""
    for b in range(len(action)):
        m, s = motion[b], status[b]
        slow = 0.0
        for i in range(0 if controlled else 1, VEHICLES):
            if s[i, LANE] == BC2:
                slow += (m[i, TARGET_SPEED] - m[i, SPEED]) / m[i, TARGET_SPEED]
        total = -1.0 * s[0, CRASHED] + 0.1 * (s[0, LANE] - ROAD_FIRST[s[0, LANE]])
        total += 0.2 * ((m[0, SPEED] - 20.0) / 10.0)
        total += -0.05 * (action[b] in (LEFT, RIGHT)) + -0.5 * slow
        out[b] = (total + 1.5) / (0.2 + 0.1 + 1.5)


@_kernel
def observe_rows(motion, out):
    """highway-env's kinematic observation `[B, 25]` float32."""
    distance, order = np.empty(VEHICLES), np.empty(VEHICLES, np.int64)
    for b in range(len(motion)):
        m = motion[b]
        x, y = m[0, X], m[0, Y]
        vx, vy = m[0, SPEED] * math.cos(m[0, HEADING]), m[0, SPEED] * math.sin(m[0, HEADING])
        _write(out[b], 0, x, y, vx, vy)
        count = 0
        for j in range(1, VEHICLES + 1):  # by distance along the lane; of equals the earlier first
            dx = (OBSTACLE_X if j == OBSTACLE else m[j, X]) - x
            dy = (OBSTACLE_Y if j == OBSTACLE else m[j, Y]) - y
            if not (dx > -2 * LENGTH and math.sqrt(dx * dx + dy * dy) < 5 * MAX_SPEED):
                continue
            place = count
            while place > 0 and distance[place - 1] > abs(dx):
                distance[place], order[place] = distance[place - 1], order[place - 1]
                place -= 1
            distance[place], order[place] = abs(dx), j
            count += 1
        for row in range(1, VEHICLES):
            if row > count:
                for k in range(5):
                    out[b, 5 * row + k] = 0.0
                continue
            j = order[row - 1]
            if j == OBSTACLE:
                _write(out[b], row, OBSTACLE_X - x, OBSTACLE_Y - y, 0.0 - vx, 0.0 - vy)
            else:
                c, s = math.cos(m[j, HEADING]), math.sin(m[j, HEADING])
                _write(out[b], row, m[j, X] - x, m[j, Y] - y, m[j, SPEED] * c - vx, m[j, SPEED] * s - vy)


@_inline
def _write(out, row, x, y, vx, vy):
    out[5 * row] = 1.0
    out[5 * row + 1] = _clip(-1.0 + (x + 200.0) * 2.0 / 400.0, -1.0, 1.0)
    out[5 * row + 2] = _clip(-1.0 + (y + 8.0) * 2.0 / 16.0, -1.0, 1.0)
    out[5 * row + 3] = _clip(-1.0 + (vx + 80.0) * 2.0 / 160.0, -1.0, 1.0)
    out[5 * row + 4] = _clip(-1.0 + (vy + 80.0) * 2.0 / 160.0, -1.0, 1.0)
