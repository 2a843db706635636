"""The rewards, version V2, of buttons, handles to press and dials; each gives (reward, success)."""

from __future__ import annotations

from metabench.physics.metaworld.vocabulary import (
    both,
    clipped,
    compiled,
    distance,
    entry,
    gaussian,
    moment,
    near,
    placed,
    plus,
)

ORDER = (
    "button-press-topdown",
    "button-press-topdown-wall",
    "button-press",
    "button-press-wall",
    "coffee-button",
    "dial-turn",
    "handle-press",
    "handle-press-side",
)


@compiled
def pressed_down(m, t, hand):
    """The button goes down; `hand` is what the fingers are paid for."""
    reach, off = distance(m.object, m.tcp), abs(t.target[2] - m.object[2])
    reward = 5.0 * both(hand, near(reach, 0.01, distance(m.object, t.tcp)))
    if reach <= 0.03:
        reward += 5.0 * near(off, 0.005, t.extra[0])
    return reward, off <= 0.024


@compiled
def pressed_in(m, t, way):
    """The button goes in; `way` is how far it has to."""
    reach, off = distance(m.object, m.tcp), abs(t.target[1] - m.object[1])
    reward = 2.0 * both(max(m.opened, 0.0), near(reach, 0.05, distance(m.object, t.tcp)))
    if reach <= 0.05:
        reward += 8.0 * near(off, 0.005, way)
    return reward, off <= 0.02


@compiled
def button_press_wall(m, t):
    """The button behind a wall goes in; the fingers close on the way and open at the button."""
    reach, off = distance(m.object, m.tcp), abs(t.target[1] - m.object[1])
    if reach > 0.07:
        reward = 2.0 * both((1.0 - m.opened) / 2.0, near(reach, 0.01, distance(m.object, t.tcp)))
    else:
        pressed = near(off, 0.005, t.extra[0])
        reward = 2.0 + 2.0 * (1.0 + m.opened) + 4.0 * (pressed * pressed)
    return reward, off <= 0.03


@compiled
def dial_turn(m, t):
    """The dial is turned by a closed hand at its rim."""
    off, reach = distance(m.object, t.target), distance(plus(m.object, (0.05, 0.02, 0.09)), m.tcp)
    in_place = near(off, 0.07, abs(distance(t.extra, t.target) - 0.07))
    reached = gaussian(reach, 0.005, abs(distance(t.extra, t.tcp) - 0.005))
    return 10.0 * both(both(reached, clipped(m.grip, 0.0, 1.0)), in_place), off <= 0.07


@compiled
def handle_press(m, t):
    """The handle goes down."""
    off = abs(m.object[2] - t.target[2])
    in_place = near(off, 0.02, abs(abs(t.extra[2] - t.target[2]) - 0.02))
    reached = near(distance(m.object, m.tcp), 0.02, abs(distance(t.extra, t.tcp) - 0.02))
    return 10.0 * (1.0 if off <= 0.02 else both(reached, in_place)), off <= 0.02


@entry
def evaluate(which, outputs, observation, constants, grip, first, reward, success):
    """Writes reward and success `[B]` of the slots whose class is number `which[i]` of ORDER; -1 is none of it."""
    for i in range(len(which)):
        k = which[i]
        if k < 0:
            continue
        m, t = moment(outputs[i], observation[i], grip[i], first[i]), placed(constants[i])
        if k == 0:
            reward[i], success[i] = pressed_down(m, t, 1.0 - m.opened)
        elif k == 1:
            reward[i], success[i] = pressed_down(m, t, max(m.opened, 0.0))
        elif k == 2:
            reward[i], success[i] = pressed_in(m, t, t.extra[0])
        elif k == 3:
            reward[i], success[i] = button_press_wall(m, t)
        elif k == 4:
            reward[i], success[i] = pressed_in(m, t, 0.03)
        elif k == 5:
            reward[i], success[i] = dial_turn(m, t)
        else:
            reward[i], success[i] = handle_press(m, t)
