"""The rewards, version V2, of the classes that pick, pull and place; each gives (reward, success)."""

from __future__ import annotations

import math

from metabench.physics.metaworld.vocabulary import (
    above,
    both,
    caged,
    clipped,
    compiled,
    densely_caged,
    distance,
    entry,
    funnel,
    level,
    moment,
    near,
    placed,
    reached_and_caged,
    scaled,
    within,
)

ORDER = (
    "pick-place",
    "pick-place-wall",
    "pick-out-of-hole",
    "basketball",
    "bin-picking",
    "shelf-place",
    "hand-insert",
    "coffee-pull",
    "coffee-push",
    "handle-pull",
    "handle-pull-side",
)


@compiled
def pick_place_grasp(m, t):
    """The caging of pick-place, whose margins follow the pads where they are now (see `vocabulary.enclosed`)."""
    left = within(m.left[1] - m.object[1], 0.015, 0.05, abs(abs(m.object[1] - m.left[1]) - 0.05))
    right = within(m.object[1] - m.right[1], 0.015, 0.05, abs(abs(m.object[1] - m.right[1]) - 0.05))
    x, z = t.start[0] - t.tcp[0], t.start[2] - t.tcp[2]
    margin = math.sqrt(x * x + z * z) - 0.005
    x, z = m.tcp[0] - m.object[0], m.tcp[2] - m.object[2]
    caging = both(both(left, right), near(math.sqrt(x * x + z * z), 0.005, margin))
    gripping = clipped(m.grip, 0.0, 1.0) if caging > 0.97 else 0.0
    return (both(caging, gripping) + caging) / 2.0


@compiled
def pick_place(m, t):
    """The puck is lifted to the target."""
    off = distance(m.object, t.target)
    in_place = near(off, 0.05, distance(t.start, t.target))
    reward = both(pick_place_grasp(m, t), in_place)
    if distance(m.object, m.tcp) < 0.02 and m.opened > 0.0 and m.object[2] - 0.01 > t.start[2]:
        reward += 1.0 + 5.0 * in_place
    return 10.0 if off < 0.05 else reward, off <= 0.07


@compiled
def pick_place_wall(m, t):
    """The puck is lifted over a wall: first above it, then to the target."""
    over, scale = (t.target[0], 0.77, 0.25), (1.0, 1.0, 3.0)
    off = distance(m.object, t.target)
    on_the_way = near(scaled(m.object, over, scale), 0.05, scaled(t.start, over, scale))
    in_place = near(off, 0.05, distance(t.start, t.target))
    _, grasped = caged(m, t, m.object, 0.015, 0.05, 0.005)
    held = both(grasped, on_the_way)
    reward = held
    if distance(m.object, m.tcp) < 0.02 and m.opened > 0.0 and m.object[2] - 0.015 > t.start[2]:
        reward = held + 1.0 + 4.0 * on_the_way
        if m.object[1] > 0.75:
            reward = held + 1.0 + 4.0 + 3.0 * in_place
    return 10.0 if off < 0.05 else reward, off <= 0.07


@compiled
def pick_out_of_hole(m, t):
    """The puck comes out of its hole, the hand staying above the edge."""
    off = distance(m.object, t.target)
    clear = above(m.tcp[2], funnel(level(m.tcp, t.start), 0.03, 0.015, 0.15), 0.02)
    grasped = densely_caged(m, t, m.object, 0.015, 0.02, 0.03, 0.1)
    in_place = near(off, 0.02, distance(t.start, t.target))
    reward = both(grasped, in_place)
    if distance(m.object, m.tcp) < 0.04 and m.object[2] - 0.02 > t.start[2] and not m.opened < 0.33:
        reward += 1.0 + 5.0 * both(in_place, clear)
    return 10.0 if off < 0.05 else reward, off <= 0.07


@compiled
def basketball(m, t):
    """The ball goes into the basket; the target is where the model's site is now, at a height of 0.3 m."""
    target, scale = (m.points[0][0], m.points[0][1], 0.3), (1.0, 1.0, 2.0)
    off = scaled(m.object, target, scale)
    in_place = near(off, 0.08, scaled(t.start, target, scale))
    lifted = distance(m.object, m.tcp) < 0.035 and m.opened > 0.0 and m.object[2] - 0.01 > t.start[2]
    grasped = 1.0 if lifted else densely_caged(m, t, m.object, 0.025, 0.06, 0.005)
    reward = both(grasped, in_place)
    if lifted:
        reward += 1.0 + 5.0 * in_place
    return 10.0 if off < 0.08 else reward, off <= 0.08


@compiled
def bin_picking(m, t):
    """The puck goes from one bin to the other, the hand staying above their edges."""
    off = distance(m.object, t.target)
    in_place = near(off, 0.05, m.first_distance)
    floor = min(
        funnel(level(m.hand, t.start), 0.03, 0.02, 0.2),
        funnel(level(m.hand, t.target), 0.03, 0.02, 0.2),
    )
    clear = above(m.hand[2], floor, 0.05)
    reward = both(densely_caged(m, t, m.object, 0.015, 0.05, 0.01, 0.7), in_place)
    if distance(m.object, m.hand) < 0.04 and m.object[2] - 0.02 > t.start[2] and not m.opened < 0.43:
        reward += 1.0 + 5.0 * both(clear, in_place)
    return 10.0 if off < 0.05 else reward, off <= 0.05


@compiled
def shelf_place(m, t):
    """The puck goes onto the shelf; nothing is paid for being below or behind it."""
    off, x, y, z = distance(m.object, t.target), m.object[0], m.object[1], m.object[2]
    in_place = near(off, 0.05, distance(t.start, t.target))
    _, grasped = caged(m, t, m.object, 0.02, 0.05, 0.01)
    reward = both(grasped, in_place)
    edge = t.target[1] - 3.0 * 0.05
    below = 0.0 < z < 0.24 and t.target[0] - 0.15 < x < t.target[0] + 0.15
    if below and edge < y < t.target[1]:
        in_place = clipped(in_place - both((y - edge) / (3.0 * 0.05), (0.24 - z) / 0.24), 0.0, 1.0)
    if below and y > t.target[1]:
        in_place = 0.0
    if distance(m.object, m.tcp) < 0.025 and m.opened > 0.0 and z - 0.01 > t.start[2]:
        reward += 1.0 + 5.0 * in_place
    return 10.0 if off < 0.05 else reward, off <= 0.07


@compiled
def hand_insert(m, t):
    """The puck goes into the hole, in the hand."""
    off = distance(m.object, t.target)
    in_place = near(off, 0.05, distance(t.start, t.target))
    reward = both(densely_caged(m, t, m.object, 0.015, 0.05, 0.005), in_place)
    if distance(m.object, m.tcp) < 0.02 and m.opened > 0.0:
        reward += 1.0 + 7.0 * in_place
    return 10.0 if off < 0.05 else reward, off <= 0.05


@compiled
def coffee(m, t):
    """The mug goes to the target: pulled from under the machine, or pushed there."""
    scale = (2.0, 2.0, 1.0)
    off = scaled(m.object, t.target, scale)
    in_place = near(off, 0.05, scaled(t.start, t.target, scale))
    reward = both(reached_and_caged(m, t, m.object, 0.02, 0.05, 0.05, 0.04, 0.7), in_place)
    if distance(m.object, m.tcp) < 0.04 and m.opened > 0.0:
        reward += 1.0 + 5.0 * in_place
    return 10.0 if off < 0.05 else reward, distance(m.object, t.target) <= 0.07


@compiled
def pulled(m, off, in_place, grasped, lifted):
    """What both handles share."""
    reward = both(grasped, in_place)
    if distance(m.object, m.tcp) < 0.035 and m.opened > 0.0 and lifted:
        reward += 1.0 + 5.0 * in_place
    return 10.0 if off < 0.05 else reward


@compiled
def handle_pull(m, t):
    """The handle goes up. That it counts as lifted by its y against a height is Meta-World's."""
    off = abs(t.target[2] - m.object[2])
    in_place = near(off, 0.05, abs(t.target[2] - t.start[2]))
    grasped = densely_caged(m, t, m.object, 0.022, 0.05, 0.01)
    return pulled(m, off, in_place, grasped, m.object[1] - 0.01 > t.start[2]), off <= 0.05


@compiled
def handle_pull_side(m, t):
    """The handle goes up, from its side."""
    off = distance(m.object, t.target)
    in_place = near(off, 0.05, distance(t.start, t.target))
    grasped = densely_caged(m, t, m.object, 0.032, 0.06, 0.01)
    return pulled(m, off, in_place, grasped, m.object[2] - 0.01 > t.start[2]), off <= 0.08


@entry
def evaluate(which, outputs, observation, constants, grip, first, reward, success):
    """Writes reward and success `[B]` of the slots whose class is number `which[i]` of ORDER; -1 is none of it."""
    for i in range(len(which)):
        k = which[i]
        if k < 0:
            continue
        m, t = moment(outputs[i], observation[i], grip[i], first[i]), placed(constants[i])
        if k == 0:
            reward[i], success[i] = pick_place(m, t)
        elif k == 1:
            reward[i], success[i] = pick_place_wall(m, t)
        elif k == 2:
            reward[i], success[i] = pick_out_of_hole(m, t)
        elif k == 3:
            reward[i], success[i] = basketball(m, t)
        elif k == 4:
            reward[i], success[i] = bin_picking(m, t)
        elif k == 5:
            reward[i], success[i] = shelf_place(m, t)
        elif k == 6:
            reward[i], success[i] = hand_insert(m, t)
        elif k <= 8:
            reward[i], success[i] = coffee(m, t)
        elif k == 9:
            reward[i], success[i] = handle_pull(m, t)
        else:
            reward[i], success[i] = handle_pull_side(m, t)
