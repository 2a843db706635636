"""ScratchItch by hand: a controller that scratches where it is told, and a Bayes filter that tells it.

The controller works in the space of the tool's tip (operational space; Khatib 1987, "A unified approach for motion and
force control of robot manipulators"): the wanted displacement of tip and tool becomes turns of the joints by a damped
least-squares inverse of MuJoCo's Jacobian. It goes round the limb at a distance to the side where it itches, touches
down and strokes to and fro along the limb. The itch on the inner side of a limb is reached by a tool that comes from
the front, the back or below, because body and forearm are in the way of others.

The filter weighs candidates on a grid over both limbs by the rewards it gets. Everything but the distance to the itch
and the scratches is known or nearly so from the observations; so is the skin, from shoulder, elbow and wrist.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from metabench.agent import Timestep
from metabench.families.scratch_itch import (
    ACTION_WEIGHT,
    BASE,
    FORCE_WEIGHT,
    HARD_FORCE,
    MAN,
    REACH,
    SCRATCH_REWARD,
    TIP_RADIUS,
    VELOCITY_WEIGHT,
    WOMAN,
    ScratchItch,
)
from metabench.families.scratch_itch import STROKE as FRESH
from metabench.registry import spec
from metabench.rng import Array

ALONG, AROUND = 24, 25  # columns of the exposed itch
TIP_FROM_GRIPPER = 0.095  # m
SLOWING = 0.9  # the tip's speed at the end of a step against its mean: a servo slows down
TURN = 0.0553  # rad that a full action turns a free joint in a step

# The controller, tuned on tasks of the split "fresh" of ScratchItch-v0.
GAIN, MAX_STEP = 0.6, 0.05  # share of the way made in a step, and metres at most
HOVER, NARROW_HOVER = 0.02, 0.006  # m between tip and skin on the way round, and between arm and body
PRESS = 0.012  # m under the skin where the tip is sent
STROKE, TURN_BACK = 0.03, 0.008  # m from the itch: where the tip is sent, and where it turns round
NEAR_ANGLE, NEAR_AXIAL = 0.7, 0.05  # rad and m from the itch within which it touches down
DIRECTION_WEIGHT, DAMPING = 0.02, 1e-3  # of the tool's direction and of the joints' turns against the tip's place
LIMIT_ZONE, LIMIT_WEIGHT = 0.35, 0.01  # rad from the end of a joint where it is pushed back


class Scene(NamedTuple):
    """What an observation says, in the world's frame."""

    tip: Array  # [B, 3] m
    ahead: Array  # [B, 3] unit vector along the tool
    joints: Array  # [B, 7] rad
    shoulder: Array  # [B, 3] m
    elbow: Array  # [B, 3] m
    wrist: Array  # [B, 3] m
    force: Array  # [B] N on the tool


class Limb(NamedTuple):
    """A capsule and the frame in which places on it are told."""

    origin: Array  # [B, 3] m the upper joint
    axis: Array  # [B, 3] unit vector down the limb
    outward: Array  # [B, 3] unit vector away from the body
    front: Array  # [B, 3] unit vector, for a bent forearm upward
    length: Array  # [B] m
    radius: Array  # [B] m


class Sides(NamedTuple):
    """From where a limb can be touched; degrees around it."""

    cut: float  # the angle never passed on the way round
    low: float  # the tool comes from between low ...
    high: float  # ... and high
    slack: float  # how far beside the itch a touch may be


UPPER, ABOVE_ELBOW, FORE = Sides(185, -90, 90, 27), Sides(130, -90, 90, 27), Sides(150, -100, 70, 34)
ELBOW_SHARE = 0.8  # of the upper arm, from where the forearm is in the way of a tool from the front
BEYOND = 70.0  # degrees beyond the sides it comes from, that a tool can touch


def to_world(place: Array) -> Array:
    """`[B, 3]` m seen from the robot's base, in the world."""
    return np.stack([place[:, 1], -place[:, 0], place[:, 2]], axis=1) + BASE


def unit(vector: Array) -> Array:
    """`[..., 3]` of length 1."""
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


def read(observation: Array) -> Scene:
    """The scene behind observations `[B, >= 24]`."""
    o = observation.astype(np.float64)
    w, x, y, z = o[:, 3:7].T
    ahead = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=1)
    shoulder, elbow, wrist = (to_world(o[:, k : k + 3]) for k in (14, 17, 20))
    return Scene(to_world(o[:, :3]), to_world(ahead) - BASE, o[:, 7:14], shoulder, elbow, wrist, o[:, 23])


def limbs(scene: Scene) -> tuple[Limb, Limb]:
    """Upper arm and forearm. How long the upper arm is tells the body: bodies lie on the line through woman and man."""
    upper, fore = scene.elbow - scene.shoulder, scene.wrist - scene.elbow
    length = np.linalg.norm(upper, axis=1)
    size = (length - WOMAN.upper_length) / (MAN.upper_length - WOMAN.upper_length)

    def of(woman: float, man: float) -> Array:
        return woman + size * (man - woman)

    upper, fore = unit(upper), unit(fore)
    outward = unit(np.cross(upper, fore))  # the elbow bends about it
    radius = of(WOMAN.upper_radius, MAN.upper_radius)
    fore_length, fore_radius = of(WOMAN.fore_length, MAN.fore_length), of(WOMAN.fore_radius, MAN.fore_radius)
    return (
        Limb(scene.shoulder, upper, outward, np.cross(outward, upper), length, radius),
        Limb(scene.elbow, fore, outward, np.cross(outward, fore), fore_length, fore_radius),
    )


def chosen_limb(scene: Scene, along: Array) -> Limb:
    """The limb of each slot's itch."""
    upper = along < 1.0
    pairs = zip(*limbs(scene), strict=True)
    return Limb(*(np.where(upper if a.ndim == 1 else upper[:, None], a, b) for a, b in pairs))


def axial_place(limb: Limb, along: Array) -> Array:
    """`[B]` m from the limb's upper joint to the itch, along the limb."""
    share = along - np.minimum(along.astype(np.int64), 1)
    return limb.radius + share * (limb.length - limb.radius)


class Way(NamedTuple):
    """Where the tip should go now."""

    step: Array  # [B, 3] m
    ahead: Array  # [B, 3] wanted direction of the tool
    stroke: Array  # [B] +1 or -1: down or up the limb, the stroke that goes on


def way(scene: Scene, along: Array, around: Array, stroke: Array) -> Way:
    """The next step to the itch at (along, around), or of the stroke across it.

    Args:
        scene: What is seen.
        along: `[B]` the itch, 0 shoulder, 1 elbow, 2 wrist.
        around: `[B]` rad, its side of the limb.
        stroke: `[B]` the stroke so far.
    """
    limb = chosen_limb(scene, along)
    axial = axial_place(limb, along)
    fore, low_on_arm = along >= 1.0, along > ELBOW_SHARE
    table = np.radians(np.array([UPPER, ABOVE_ELBOW, FORE]))[np.where(fore, 2, low_on_arm.astype(np.int64))]
    cut, low, high, slack = table.T

    def unwound(angle: Array) -> Array:  # so that the cut lies at the ends
        return cut - np.mod(cut - angle, 2 * np.pi)

    offset = scene.tip - limb.origin
    height = np.sum(offset * limb.axis, axis=1)
    angle = unwound(np.arctan2(np.sum(offset * limb.front, axis=1), np.sum(offset * limb.outward, axis=1)))
    itch, beyond = unwound(around), np.radians(BEYOND)
    touch = np.where(itch < low - beyond, np.minimum(itch + slack, low - beyond), itch)
    touch = np.where(itch > high + beyond, np.maximum(itch - slack, high + beyond), touch)
    rest = touch - angle
    short = np.mod(rest + np.pi, 2 * np.pi) - np.pi
    rest = np.where(np.abs(short) < 1.3, short, rest)  # slipped past the cut: back over it

    stroke = np.where(stroke * (height - axial) > TURN_BACK, -stroke, stroke)
    near = (np.abs(rest) < NEAR_ANGLE) & (np.abs(height - axial) < NEAR_AXIAL)
    hover = np.where(np.abs(angle) > 1.9, NARROW_HOVER, HOVER)
    radius = limb.radius + TIP_RADIUS + np.where(near, -PRESS, hover)
    goal = _on(limb, angle + np.clip(rest, -0.6, 0.6), radius, np.where(near, axial + stroke * STROKE, axial))
    step = GAIN * (goal - scene.tip)
    step *= np.minimum(1.0, MAX_STEP / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9))
    side = np.clip(touch, low, high)
    ahead = -(np.cos(side)[:, None] * limb.outward + np.sin(side)[:, None] * limb.front)
    return Way(step, ahead, stroke)


def _on(limb: Limb, angle: Array, radius: Array, height: Array) -> Array:
    side = np.cos(angle)[:, None] * limb.outward + np.sin(angle)[:, None] * limb.front
    return limb.origin + height[:, None] * limb.axis + radius[:, None] * side


class Controller:
    """Actions that move the tip and point the tool, by MuJoCo's Jacobians of the robot."""

    def __init__(self, model: Any):
        import mujoco

        self._model, self._data, self._mujoco = model, mujoco.MjData(model), mujoco
        self._tip = model.body("tip").id
        low, high = model.jnt_range[4:].T
        self._middle, self._half = (low + high) / 2, (high - low) / 2

    def jacobians(self, joints: Array) -> Array:
        """`[B, 6, 7]`: m and rad of the tip per rad of each joint."""
        rows = np.zeros((len(joints), 6, 7))
        place, turn = np.zeros((2, 3, self._model.nv))
        for row, angles in zip(rows, joints, strict=True):
            self._data.qpos[4:] = angles
            self._mujoco.mj_kinematics(self._model, self._data)
            self._mujoco.mj_comPos(self._model, self._data)
            self._mujoco.mj_jacBody(self._model, self._data, place, turn, self._tip)
            row[:3], row[3:] = place[:, 4:], turn[:, 4:]
        return rows

    def action(self, scene: Scene, goal: Way) -> Array:
        """`[B, 7]` float32: least squares of tip, direction, joint limits and damping; the largest entry at most 1."""
        jacobian = self.jacobians(scene.joints)
        tip = jacobian[:, :3]
        across = np.eye(3) - scene.ahead[:, :, None] * scene.ahead[:, None, :]  # the turn about the tool is free
        tool = across @ jacobian[:, 3:]
        turn = 0.3 * np.cross(scene.ahead, goal.ahead)
        turn *= np.minimum(1.0, 0.15 / np.maximum(np.linalg.norm(turn, axis=1, keepdims=True), 1e-9))
        matrix = _squared(tip) + DIRECTION_WEIGHT * _squared(tool) + DAMPING * np.eye(7)
        right = _pulled(tip, goal.step) + DIRECTION_WEIGHT * _pulled(tool, turn)
        off = np.mod(scene.joints - self._middle + np.pi, 2 * np.pi) - np.pi  # only the odd joints turn further
        depth = np.maximum(np.abs(off) - (self._half - LIMIT_ZONE), 0.0) / LIMIT_ZONE
        right -= LIMIT_WEIGHT * 0.3 * depth * np.sign(off)
        matrix += LIMIT_WEIGHT * depth[:, :, None] * np.eye(7)
        turns = np.linalg.solve(matrix, right[:, :, None])[:, :, 0] / TURN
        return (turns / np.maximum(np.abs(turns).max(axis=1, keepdims=True), 1.0)).astype(np.float32)


def _squared(jacobian: Array) -> Array:
    return np.swapaxes(jacobian, 1, 2) @ jacobian


def _pulled(jacobian: Array, wanted: Array) -> Array:
    return (np.swapaxes(jacobian, 1, 2) @ wanted[:, :, None])[:, :, 0]


class Scratcher:
    """Scratches the itch it is shown, or one place on the arm whatever the task. Belief: the stroke, `[B]` +1 or -1.

    Args:
        model: The robot's.
        aim: (along, around) where to scratch always; None for the oracle, which sees the itch.
    """

    def __init__(self, model: Any, aim: tuple[float, float] | None = None):
        self._controller, self._aim = Controller(model), aim
        self.name, self.privileged = ("oracle", True) if aim is None else ("fixed-aim", False)

    def begin(self, num_trials: int) -> Array:
        """The first stroke goes down the limb."""
        return np.ones(num_trials)

    def act(self, step: Timestep, belief: Array) -> tuple[Array, Array]:
        """A step of the approach or the stroke."""
        scene = read(step.observation)
        if self._aim is None:
            along, around = step.observation[:, ALONG].astype(float), step.observation[:, AROUND].astype(float)
        else:
            along, around = (np.full(len(belief), value) for value in self._aim)
        goal = way(scene, along, around, np.where(step.first, 1.0, belief))
        return self._controller.action(scene, goal), goal.stroke


class ItchBelief(NamedTuple):
    """What the filter remembers."""

    weight: Array  # [B, G] probability of each candidate
    stroke: Array  # [B] as the controller's
    place: Array  # [B, 3] m the gripper's place a step ago
    last: Array  # [B, 3] m where the last scratch was


class ItchFilter:
    """Infers the itch from rewards on a grid of candidates, and scratches at the one nearest to their mean.

    Not the Bayes-optimal agent: it acts as if its estimate were true, and does not move in order to learn.

    Args:
        model: The robot's.
        hazard: Probability that the itch moves after a step.
        name: Of the agent in a record.
    """

    name, privileged = "itch-filter", False
    AXIAL, SIDES = 16, 36  # candidates along each limb and around it
    NOISE = 0.015  # the deviation of a reward from what is expected, mostly that of the speed's estimate
    SURPRISE = 1e-3  # probability of any other reward, per unit
    BLUR = 0.003  # m, of the edge of the region where scratches count

    def __init__(self, model: Any, hazard: float, name: str = ""):
        self._controller, self.hazard, self.name = Controller(model), hazard, name or self.name
        along = (np.arange(2 * self.AXIAL) + 0.5) / self.AXIAL
        around = (np.arange(self.SIDES) + 0.5) * (2 * np.pi / self.SIDES)
        self._along, self._around = (grid.ravel() for grid in np.meshgrid(along, around, indexing="ij"))

    def begin(self, num_trials: int) -> ItchBelief:
        """It may itch anywhere."""
        count = len(self._along)
        weight = np.full((num_trials, count), 1.0 / count)
        return ItchBelief(weight, np.ones(num_trials), np.zeros((num_trials, 3)), np.zeros((num_trials, 3)))

    def act(self, step: Timestep, belief: ItchBelief) -> tuple[Array, ItchBelief]:
        """Learns from the reward, then goes to the most central candidate."""
        scene = read(step.observation)
        gripper, places = scene.tip - TIP_FROM_GRIPPER * scene.ahead, self.candidates(scene)
        weight, scratch, skin = self.learn(step, scene, places, np.linalg.norm(gripper - belief.place, axis=1), belief)
        mean = np.sum(weight[:, :, None] * places, axis=1, keepdims=True)
        best = np.argmin(np.sum((places - mean) ** 2, axis=2), axis=1)
        goal = way(scene, self._along[best], self._around[best], np.where(step.first, 1.0, belief.stroke))
        last = np.where(scratch[:, None], skin, np.where(step.first[:, None], 0.0, belief.last))
        return self._controller.action(scene, goal), ItchBelief(weight, goal.stroke, gripper, last)

    def candidates(self, scene: Scene) -> Array:
        """`[B, G, 3]` m in the world."""
        parts = []
        for index, limb in enumerate(limbs(scene)):
            rows = slice(index * self.AXIAL * self.SIDES, (index + 1) * self.AXIAL * self.SIDES)
            around, share = self._around[rows], self._along[rows] - index
            axial = limb.radius[:, None] + share * (limb.length - limb.radius)[:, None]
            side = np.cos(around)[:, None] * limb.outward[:, None] + np.sin(around)[:, None] * limb.front[:, None]
            place = axial[:, :, None] * limb.axis[:, None] + limb.radius[:, None, None] * side
            parts.append(limb.origin[:, None] + place)
        return np.concatenate(parts, axis=1)

    def learn(
        self, step: Timestep, scene: Scene, places: Array, moved: Array, belief: ItchBelief
    ) -> tuple[Array, Array, Array]:
        """The weights after a reward, whether it was a scratch, and the skin nearest to the tip.

        The expected reward is the family's: for a scratch, less distance, |a|, |v| and force elsewhere.
        """
        skin, gap = nearest_skin(scene)
        effort = np.linalg.norm(np.clip(step.action, -1.0, 1.0), axis=1)
        rest = -ACTION_WEIGHT * effort - VELOCITY_WEIGHT * SLOWING * moved / ScratchItch.dt
        distance = np.linalg.norm(places - scene.tip[:, None], axis=2)
        inside = np.linalg.norm(places - skin[:, None], axis=2) - REACH
        inside = 1.0 / (1.0 + np.exp(np.clip(inside / self.BLUR, -50, 50)))
        touching = (scene.force > 0) & (gap < 0.001)
        fresh = touching & (scene.force < HARD_FORCE) & (np.linalg.norm(skin - belief.last, axis=1) > FRESH)
        inside = inside * touching[:, None]
        here = (rest + SCRATCH_REWARD * fresh)[:, None] - distance
        there = (rest - FORCE_WEIGHT * scene.force)[:, None] - distance
        reward = step.reward[:, None]
        density = inside * self._density(reward - here) + (1 - inside) * self._density(reward - there)
        weight = np.where(step.first[:, None], belief.weight, belief.weight * (density + self.SURPRISE))
        weight /= weight.sum(axis=1, keepdims=True)
        weight = (1 - self.hazard) * weight + self.hazard / len(self._along)
        return weight, ~step.first & (step.reward > SCRATCH_REWARD / 2), skin

    def _density(self, error: Array) -> Array:
        return np.exp(-0.5 * np.square(error / self.NOISE)) / (self.NOISE * np.sqrt(2 * np.pi))


def nearest_skin(scene: Scene) -> tuple[Array, Array]:
    """The point of the arm's skin nearest to the tip `[B, 3]` m, and the gap between them `[B]` m."""
    places, gaps = [], []
    for limb in limbs(scene):
        offset = scene.tip - limb.origin
        foot = np.clip(np.sum(offset * limb.axis, axis=1), 0.0, limb.length)[:, None] * limb.axis
        distance = np.maximum(np.linalg.norm(offset - foot, axis=1), 1e-9)
        places.append(limb.origin + foot + (offset - foot) * (limb.radius / distance)[:, None])
        gaps.append(distance - limb.radius - TIP_RADIUS)
    upper = gaps[0] <= gaps[1]
    return np.where(upper[:, None], *places), np.where(upper, *gaps)


class _Oracle:
    """The controller, shown the itch."""

    def build(self, benchmark: str, split: str, seed: int) -> Scratcher:
        """The oracle of ScratchItch."""
        return Scratcher(spec(benchmark).family().model)


class _ItchFilter:
    """A filter that infers the itch from rewards."""

    def build(self, benchmark: str, split: str, seed: int) -> ItchFilter:
        """The agent, told how often the split's itches move; ValueError for other benchmarks than ScratchItch."""
        chosen = spec(benchmark)
        sessions = chosen.sessions_of(split)
        if type(chosen.family()).__name__ != "ScratchItch" or (sessions and sessions["kind"] != "geometric"):
            raise ValueError(f"this agent is defined on ScratchItch only, not on {benchmark}")
        return ItchFilter(chosen.family().model, sessions["p"] if sessions else 0.0)


oracle, itch_filter = _Oracle(), _ItchFilter()
