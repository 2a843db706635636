"""The rewards, version V2, of the classes that reach, push, sweep and slide; each gives (reward, success)."""

from __future__ import annotations

from metabench.physics.metaworld.vocabulary import (
    both,
    clipped,
    compiled,
    densely_caged,
    distance,
    entry,
    mean_enclosed,
    moment,
    near,
    placed,
    scaled,
)

ORDER = (
    "reach",
    "reach-wall",
    "push",
    "push-wall",
    "push-back",
    "sweep",
    "sweep-into",
    "soccer",
    "plate-slide",
    "plate-slide-side",
    "plate-slide-back",
    "plate-slide-back-side",
)


@compiled
def reach(m, t):
    """The finger tips go to the target; with a wall between, too."""
    off = distance(m.tcp, t.target)
    return 10.0 * near(off, 0.05, distance(t.extra, t.target)), off <= 0.05


@compiled
def push(m, t):
    """The puck goes to the target."""
    off = distance(m.object, t.target)
    in_place = near(off, 0.05, distance(t.start, t.target))
    grasped = densely_caged(m, t, m.object, 0.015, 0.05, 0.005)
    reward = 2.0 * grasped
    if distance(m.object, m.tcp) < 0.02 and m.opened > 0.0:
        reward += 1.0 + reward + 5.0 * in_place
    return 10.0 if off < 0.05 else reward, off <= 0.05


@compiled
def push_wall(m, t):
    """The puck goes round a wall: first beside it, then to the target."""
    beside, scale = (-0.05, 0.77, m.object[2]), (3.0, 1.0, 1.0)
    off = distance(m.object, t.target)
    on_the_way = near(scaled(m.object, beside, scale), 0.05, scaled(t.start, beside, scale))
    in_place = near(off, 0.05, distance(t.start, t.target))
    grasped = densely_caged(m, t, m.object, 0.015, 0.05, 0.005)
    reward = 2.0 * grasped
    if distance(m.object, m.tcp) < 0.02 and m.opened > 0.0:
        reward = 2.0 * grasped + 1.0 + 4.0 * on_the_way
        if m.object[1] > 0.75:
            reward = 2.0 * grasped + 1.0 + 4.0 + 3.0 * in_place
    return 10.0 if off < 0.05 else reward, off <= 0.07


@compiled
def push_back(m, t):
    """The puck comes back to the target."""
    off, off_at_first = distance(m.object, t.target), distance(t.start, t.target)
    in_place = near(off, 0.05, off_at_first)
    reward = both(mean_enclosed(m, t, m.object, 0.007, 0.003, 0.01), in_place)
    if distance(m.object, m.tcp) < 0.01 and 0.0 < m.opened < 0.55 and off_at_first - off > 0.01:
        reward += 1.0 + 5.0 * in_place
    return 10.0 if off < 0.05 else reward, off <= 0.07


@compiled
def swept(m, t, target, grip, xz):
    """What both ways of sweeping share."""
    off = distance(m.object, target)
    grasped = mean_enclosed(m, t, m.object, 0.02, grip, xz)
    reward = 2.0 * grasped + 6.0 * both(grasped, near(off, 0.05, distance(t.start, target)))
    return 10.0 if off < 0.05 else reward, off <= 0.05


@compiled
def sweep(m, t):
    """The puck goes off the table."""
    return swept(m, t, t.target, 0.01, 0.005)


@compiled
def sweep_into(m, t):
    """The puck goes into the hole; how deep does not matter."""
    return swept(m, t, (t.target[0], t.target[1], m.object[2]), 0.005, 0.01)


@compiled
def soccer(m, t):
    """The ball goes into the goal."""
    scale = (3.0, 1.0, 1.0)
    off = scaled(m.object, t.target, scale)
    in_place = near(off, 0.07, scaled(m.object, t.start, scale))
    line = t.target[1] - 0.1
    if m.object[1] > line and abs(m.object[0] - t.target[0]) > 0.1:  # past the goal
        in_place = clipped(in_place - 2.0 * ((m.object[1] - line) / (1.0 - line)), 0.0, 1.0)
    reward = 3.0 * mean_enclosed(m, t, m.object, 0.013, 0.01, 0.005) + 6.5 * in_place
    return 10.0 if off < 0.07 else reward, distance(m.object, t.target) <= 0.07


@compiled
def plate_slide(m, t):
    """The plate goes into the cabinet."""
    off = distance(m.object, t.target)
    in_place = near(off, 0.05, distance(t.start, t.target))
    reward = 8.0 * both(near(distance(m.tcp, m.object), 0.05, distance(t.tcp, t.start)), in_place)
    return 10.0 if off < 0.05 else reward, off <= 0.07


@compiled
def plate_slide_low(m, t):
    """The plate goes sideways or comes out; pays for pressing it down first."""
    off, reach = distance(m.object, t.target), distance(m.tcp, m.object)
    reward = 1.5 * near(reach, 0.05, distance(t.tcp, t.start) - 0.05)
    if m.tcp[2] <= 0.03 and reach < 0.07:
        reward = 2.0 + 7.0 * near(off, 0.05, distance(t.start, t.target) - 0.05)
    return 10.0 if off < 0.05 else reward, off <= 0.07


@entry
def evaluate(which, outputs, observation, constants, grip, first, reward, success):
    """Writes reward and success `[B]` of the slots whose class is number `which[i]` of ORDER; -1 is none of it."""
    for i in range(len(which)):
        k = which[i]
        if k < 0:
            continue
        m, t = moment(outputs[i], observation[i], grip[i], first[i]), placed(constants[i])
        if k <= 1:
            reward[i], success[i] = reach(m, t)
        elif k == 2:
            reward[i], success[i] = push(m, t)
        elif k == 3:
            reward[i], success[i] = push_wall(m, t)
        elif k == 4:
            reward[i], success[i] = push_back(m, t)
        elif k == 5:
            reward[i], success[i] = sweep(m, t)
        elif k == 6:
            reward[i], success[i] = sweep_into(m, t)
        elif k == 7:
            reward[i], success[i] = soccer(m, t)
        elif k == 8:
            reward[i], success[i] = plate_slide(m, t)
        else:
            reward[i], success[i] = plate_slide_low(m, t)
