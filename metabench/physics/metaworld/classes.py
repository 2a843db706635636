"""The 50 task classes of Meta-World 3.1.1 as a table: where things may stand, and what observation and reward look at.

Read from `metaworld/envs/sawyer_*_v3.py`. Places are in the world's frame, in metres. The names of what is looked at
are fields of mjData and the body, geom, site or joint in them, as `physics.workers.Kind` has them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from metabench.rng import Array

OBJ, PUCK = "xpos:obj", "geom_xpos:puck"
GEOM_FRAME, PUCK_FRAME, HANDLE_FRAME = "geom_xmat:objGeom", "geom_xmat:puck", "geom_xmat:handle"
NOTHING = ""
UNTURNED = "unturned"  # an orientation that is always (1, 0, 0, 0)
START, TARGET, HAND, TCP = "obj_init_pos", "_target_pos", "hand_init_pos", "init_tcp"  # attributes of their env


class TaskClass(NamedTuple):
    """One class: a scene, a reward, and the box its placements come from."""

    name: str  # Meta-World's, without "-v3"
    group: str  # the module of rewards it is in
    box: tuple[tuple[float, float], ...]  # (low, high) of each number of a placement: 3 of an object, then 3 of a goal
    object: str  # whose position is seen
    frame: str  # whose orientation is seen: "xquat:...", "xmat:..." and so on, UNTURNED or NOTHING
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # added to the object's position
    second: str = NOTHING  # the same of a second object
    second_frame: str = NOTHING
    second_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    points: tuple[str, ...] = ()  # further places that the reward looks at
    joint: str = NOTHING  # a joint whose position it looks at
    start: str = START  # attributes of Meta-World's env, constant in an episode, that it looks at
    extra: str = NOTHING
    apart: float = 0.0  # object and goal are at least this far apart on the table, m
    apart_from: tuple[float, float] | None = None  # where the goal is, if the placement does not say it


def _box(low: tuple[float, ...], high: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(low, high, strict=True))


_BUTTON = _box((-0.1, 0.8, 0.115), (0.1, 0.9, 0.115))
_DOOR = _box((0.0, 0.85, 0.15), (0.1, 0.95, 0.15))
_LOCK = _box((-0.1, 0.8, 0.15), (0.1, 0.85, 0.15))
_DRAWER = _box((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0))
_HANDLE = _box((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001))
_SIDE = _box((-0.35, 0.65, -0.001), (-0.25, 0.75, 0.001))
_REACH = _box((-0.1, 0.6, 0.02, -0.1, 0.8, 0.05), (0.1, 0.7, 0.02, 0.1, 0.9, 0.3))
_WALL = _box((-0.05, 0.6, 0.015, -0.05, 0.85, 0.05), (0.05, 0.65, 0.015, 0.05, 0.9, 0.3))
_PEG = tuple(f"site_xpos:{c}_corner_collision_box_{k}" for k in (1, 2) for c in ("bottom_right", "top_left"))


def camel(name: str) -> str:
    """A class as ids spell it: "PickPlace" for "pick-place"."""
    return "".join(word.capitalize() for word in name.split("-"))


# In the order of Meta-World's ALL_V3_ENVIRONMENTS.
CLASSES: tuple[TaskClass, ...] = (
    TaskClass(
        "assembly",
        "tools",
        _box((0.0, 0.6, 0.02, -0.1, 0.75, 0.1), (0.0, 0.6, 0.02, 0.1, 0.85, 0.1)),
        "site_xpos:RoundNut-8",
        "xquat:RoundNut",
        points=("site_xpos:RoundNut",),
        apart=0.1,
    ),
    TaskClass(
        "basketball",
        "grasping",
        _box((-0.1, 0.6, 0.0299, -0.1, 0.85, 0.0), (0.1, 0.7, 0.0301, 0.1, 0.9000001, 0.0)),
        "xpos:bsktball",
        "xquat:bsktball",
        points=("site_xpos:goal",),
        apart=0.15,
    ),
    TaskClass(
        "bin-picking",
        "grasping",
        _box((-0.21, 0.65, 0.02, 0.1199, 0.699, -0.001), (-0.03, 0.75, 0.02, 0.1201, 0.701, 0.001)),
        OBJ,
        "xquat:obj",
    ),
    TaskClass(
        "box-close",
        "tools",
        _box((-0.05, 0.5, 0.02, -0.1, 0.7, 0.133), (0.05, 0.55, 0.02, 0.1, 0.8, 0.133)),
        "xpos:top_link",
        "xquat:top_link",
        apart=0.25,
    ),
    TaskClass(
        "button-press-topdown",
        "pressing",
        _BUTTON,
        "xpos:button",
        "xquat:button",
        (0.0, 0.0, 0.193),
        extra="_obj_to_target_init",
    ),
    TaskClass(
        "button-press-topdown-wall",
        "pressing",
        _BUTTON,
        "xpos:button",
        "xquat:button",
        (0.0, 0.0, 0.193),
        extra="_obj_to_target_init",
    ),
    TaskClass(
        "button-press",
        "pressing",
        _box((-0.1, 0.85, 0.115), (0.1, 0.9, 0.115)),
        "xpos:button",
        "xquat:button",
        (0.0, -0.193, 0.0),
        extra="_obj_to_target_init",
    ),
    TaskClass(
        "button-press-wall",
        "pressing",
        _box((-0.05, 0.85, 0.1149), (0.05, 0.9, 0.1151)),
        "xpos:button",
        "xquat:button",
        (0.0, -0.193, 0.0),
        extra="_obj_to_target_init",
    ),
    TaskClass(
        "coffee-button",
        "pressing",
        _box((-0.1, 0.8, -0.001), (0.1, 0.9, 0.001)),
        "site_xpos:buttonStart",
        UNTURNED,
    ),
    TaskClass(
        "coffee-pull",
        "grasping",
        _box((-0.05, 0.7, -0.001, -0.1, 0.55, -0.001), (0.05, 0.75, 0.001, 0.1, 0.65, 0.001)),
        OBJ,
        "geom_xmat:mug",
        apart=0.15,
    ),
    TaskClass(
        "coffee-push",
        "grasping",
        _box((-0.1, 0.55, -0.001, -0.05, 0.7, -0.001), (0.1, 0.65, 0.001, 0.05, 0.75, 0.001)),
        OBJ,
        "geom_xmat:mug",
        apart=0.15,
    ),
    TaskClass(
        "dial-turn",
        "pressing",
        _box((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
        "xpos:dial",
        "xquat:dial",
        joint="qpos:knob_Joint_1",
        extra="dial_push_position",
    ),
    TaskClass(
        "disassemble",
        "tools",
        _box((0.0, 0.6, 0.025, -0.1, 0.6, 0.1699), (0.1, 0.75, 0.02501, 0.1, 0.75, 0.1701)),
        "site_xpos:RoundNut-8",
        "xquat:RoundNut",
        points=("site_xpos:RoundNut",),
        apart=0.1,
    ),
    TaskClass("door-close", "opening", _DOOR, "geom_xpos:handle", HANDLE_FRAME, extra=HAND),
    TaskClass("door-lock", "opening", _LOCK, "site_xpos:lockStartLock", "xquat:door_link"),
    TaskClass("door-open", "opening", _DOOR, "geom_xpos:handle", HANDLE_FRAME, joint="qpos:doorjoint"),
    TaskClass(
        "door-unlock", "opening", _LOCK, "site_xpos:lockStartUnlock", "xquat:door_link", points=("xpos:lock_link",)
    ),
    TaskClass(
        "hand-insert",
        "grasping",
        _box((-0.1, 0.6, 0.05, -0.04, 0.8, -0.0201), (0.1, 0.7, 0.05, 0.04, 0.88, -0.0199)),
        OBJ,
        "xquat:obj",
        apart=0.15,
    ),
    TaskClass("drawer-close", "opening", _DRAWER, "xpos:drawer_link", NOTHING, (0.0, -0.16, 0.05)),
    TaskClass("drawer-open", "opening", _DRAWER, "xpos:drawer_link", "xquat:drawer_link", (0.0, -0.16, 0.0)),
    TaskClass(
        "faucet-open",
        "opening",
        _box((-0.05, 0.8, 0.0), (0.05, 0.85, 0.0)),
        "site_xpos:handleStartOpen",
        "xquat:faucetBase",
        (0.0, 0.0, -0.01),
    ),
    TaskClass(
        "faucet-close",
        "opening",
        _box((-0.1, 0.8, 0.0), (0.1, 0.85, 0.0)),
        "site_xpos:handleStartClose",
        "xquat:faucetBase",
        (0.0, 0.0, -0.01),
    ),
    TaskClass(
        "hammer",
        "tools",
        _box((-0.1, 0.4, 0.0), (0.1, 0.5, 0.0)),
        "xpos:hammer",
        "xquat:hammer",
        second="xpos:nail_link",
        second_frame="xquat:nail_link",
        joint="qpos:NailSlideJoint",
    ),
    TaskClass("handle-press-side", "pressing", _SIDE, "site_xpos:handleStart", NOTHING, extra="_handle_init_pos"),
    TaskClass("handle-press", "pressing", _HANDLE, "site_xpos:handleStart", NOTHING, extra="_handle_init_pos"),
    TaskClass(
        "handle-pull-side",
        "grasping",
        _box((-0.35, 0.65, 0.0), (-0.25, 0.75, 0.0)),
        "site_xpos:handleCenter",
        NOTHING,
    ),
    TaskClass("handle-pull", "grasping", _HANDLE, "site_xpos:handleRight", NOTHING),
    TaskClass(
        "lever-pull",
        "opening",
        _box((-0.1, 0.7, 0.0), (0.1, 0.8, 0.0)),
        "site_xpos:leverStart",
        GEOM_FRAME,
        joint="qpos:LeverAxis",
        extra="_lever_pos_init",
    ),
    TaskClass("pick-place-wall", "grasping", _WALL, "geom_xpos:objGeom", GEOM_FRAME, apart=0.15),
    TaskClass(
        "pick-out-of-hole",
        "grasping",
        _box((0.0, 0.75, 0.02, -0.1, 0.5, 0.15), (0.0, 0.75, 0.02, 0.1, 0.6, 0.3)),
        OBJ,
        "xquat:obj",
        apart=0.15,
    ),
    TaskClass("pick-place", "grasping", _REACH, OBJ, GEOM_FRAME, apart=0.15),
    TaskClass(
        "plate-slide",
        "pushing",
        _box((0.0, 0.6, 0.0, -0.1, 0.85, 0.0), (0.0, 0.6, 0.0, 0.1, 0.9, 0.0)),
        PUCK,
        PUCK_FRAME,
    ),
    TaskClass(
        "plate-slide-side",
        "pushing",
        _box((0.0, 0.6, 0.0, -0.3, 0.54, 0.0), (0.0, 0.6, 0.0, -0.25, 0.66, 0.0)),
        PUCK,
        PUCK_FRAME,
    ),
    TaskClass(
        "plate-slide-back",
        "pushing",
        _box((0.0, 0.85, 0.0, -0.1, 0.6, 0.015), (0.0, 0.85, 0.0, 0.1, 0.6, 0.015)),
        PUCK,
        PUCK_FRAME,
    ),
    TaskClass(
        "plate-slide-back-side",
        "pushing",
        _box((-0.25, 0.6, 0.0, -0.05, 0.6, 0.015), (-0.25, 0.6, 0.0, 0.15, 0.6, 0.015)),
        PUCK,
        PUCK_FRAME,
    ),
    TaskClass(
        "peg-insert-side",
        "tools",
        _box((0.0, 0.5, 0.02, -0.35, 0.4, -0.001), (0.2, 0.7, 0.02, -0.25, 0.7, 0.001)),
        "site_xpos:pegGrasp",
        "site_xmat:pegGrasp",
        points=("site_xpos:pegHead", *_PEG),
        extra="peg_head_pos_init",
        apart=0.1,
    ),
    TaskClass(
        "peg-unplug-side",
        "tools",
        _box((-0.25, 0.6, -0.001), (-0.15, 0.8, 0.001)),
        "site_xpos:pegEnd",
        "xquat:plug1",
    ),
    TaskClass(
        "soccer",
        "pushing",
        _box((-0.1, 0.6, 0.03, -0.1, 0.8, 0.0), (0.1, 0.7, 0.03, 0.1, 0.9, 0.0)),
        "xpos:soccer_ball",
        "xmat:soccer_ball",
        apart=0.15,
    ),
    TaskClass(
        "stick-push",
        "tools",
        _box((-0.08, 0.58, 0.0, 0.399, 0.55, 0.1319), (-0.03, 0.62, 0.001, 0.401, 0.6, 0.1321)),
        "xpos:stick",
        "xmat:stick",
        second="site_xpos:insertion",
        second_offset=(0.0, 0.09, 0.0),
        start="stick_init_pos",
        extra=START,
        apart=0.1,
    ),
    TaskClass(
        "stick-pull",
        "tools",
        _box((-0.1, 0.55, 0.0, 0.35, 0.45, 0.0199), (0.0, 0.65, 0.001, 0.45, 0.55, 0.0201)),
        "xpos:stick",
        "xmat:stick",
        second="site_xpos:insertion",
        points=("site_xpos:stick_end",),
        start="stick_init_pos",
        extra=START,
        apart=0.1,
    ),
    TaskClass(
        "push",
        "pushing",
        _box((-0.1, 0.6, 0.02, -0.1, 0.8, 0.01), (0.1, 0.7, 0.02, 0.1, 0.9, 0.02)),
        OBJ,
        GEOM_FRAME,
        apart=0.15,
    ),
    TaskClass(
        "push-wall",
        "pushing",
        _box((-0.05, 0.6, 0.015, -0.05, 0.85, 0.01), (0.05, 0.65, 0.015, 0.05, 0.9, 0.02)),
        "geom_xpos:objGeom",
        GEOM_FRAME,
        apart=0.15,
    ),
    TaskClass(
        "push-back",
        "pushing",
        _box((-0.1, 0.8, 0.02, -0.1, 0.6, 0.0199), (0.1, 0.85, 0.02, 0.1, 0.7, 0.0201)),
        "geom_xpos:objGeom",
        GEOM_FRAME,
        apart=0.15,
    ),
    TaskClass("reach", "pushing", _REACH, OBJ, GEOM_FRAME, extra=HAND, apart=0.15),
    TaskClass("reach-wall", "pushing", _WALL, OBJ, GEOM_FRAME, extra=HAND, apart=0.15),
    TaskClass(
        "shelf-place",
        "grasping",
        _box((-0.1, 0.5, 0.019, -0.1, 0.8, 0.299), (0.1, 0.6, 0.021, 0.1, 0.9, 0.301)),
        OBJ,
        GEOM_FRAME,
        apart=0.1,
    ),
    TaskClass(
        "sweep-into",
        "pushing",
        _box((-0.1, 0.6, 0.02, -0.001, 0.8399, 0.0199), (0.1, 0.7, 0.02, 0.001, 0.8401, 0.0201)),
        OBJ,
        GEOM_FRAME,
        apart=0.15,
        apart_from=(0.0, 0.84),
    ),
    TaskClass("sweep", "pushing", _box((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02)), OBJ, "xquat:obj"),
    TaskClass(
        "window-open",
        "opening",
        _box((-0.1, 0.7, 0.16), (0.1, 0.9, 0.16)),
        "site_xpos:handleOpenStart",
        NOTHING,
        extra="window_handle_pos_init",
    ),
    TaskClass(
        "window-close",
        "opening",
        _box((0.0, 0.75, 0.2), (0.0, 0.9, 0.2)),
        "site_xpos:handleCloseStart",
        NOTHING,
        extra="window_handle_pos_init",
    ),
)

NAMES = tuple(c.name for c in CLASSES)
ML10_TEST = ("drawer-open", "door-close", "shelf-place", "sweep-into", "lever-pull")
ML10_TRAIN = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "sweep",
    "basketball",
)
ML45_TEST = ("bin-picking", "box-close", "hand-insert", "door-lock", "door-unlock")
ML45_TRAIN = tuple(name for name in NAMES if name not in ML45_TEST)
IDS = tuple(f"MetaWorld-{name}-v0" for name in (*map(camel, NAMES), "ML10", "ML45"))  # of our benchmarks


def find(name: str) -> TaskClass:
    """The class with this name; KeyError without one."""
    return _by_name()[name]


@functools.cache
def _by_name() -> dict[str, TaskClass]:
    return {c.name: c for c in CLASSES}


def describe(name: str, time: float, observation: Array, goal: Array) -> str:
    """A slot in five lines: class and time, then where hand, object and goal are, in metres."""
    places = {"hand": observation[:3], "object": observation[4:7], "goal": goal}
    lines = [f"{what:7}" + " ".join(f"{x:+.3f}" for x in place) for what, place in places.items()]
    return f"{name}, {time:.2f} s\n" + "\n".join(lines) + f"\ngripper {observation[3]:.2f} open\n"
