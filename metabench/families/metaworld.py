"""Meta-World's 50 manipulation tasks and its benchmarks ML1, ML10 and ML45, with frozen splits and seeds that count.

Scenes, rewards (version V2) and success are Meta-World 3.1.1's; the goal is hidden from the observation as ML1 hides
it. What is ours: the task tables, so that training tasks are not test tasks by any door, and the stepping.

| | ours | Meta-World 3.1.1 |
| --- | --- | --- |
| tasks | frozen placements, 50 train, 50 test, 20 ood a class | drawn anew when a benchmark is made; pickles |
| ML1-train | training tasks | `make_vec("Meta-World/ML1-train")` serves the test tasks |
| `reset(seed=...)` | fixes everything | ignored |
| a new benchmark | at once; a scene is loaded when a task first needs it | ML10 26 s, ML45 58 s |
| success | of every slot and episode | of the first episodes to finish, which favours short ones |

Sources: Yu et al. 2019 (arXiv 1910.10897), McLean et al. 2025 (Meta-World+, arXiv 2505.11289).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces

from metabench.family import Family, Field
from metabench.npz import SafeNpz
from metabench.physics.metaworld.classes import (
    CLASSES,
    ML10_TEST,
    ML10_TRAIN,
    ML45_TEST,
    ML45_TRAIN,
    TaskClass,
    camel,
    describe,
    find,
)
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import param, stack

if TYPE_CHECKING:
    from metabench.physics.metaworld.stepping import Prepared, SawyerBatch, SawyerState

HORIZON, EPISODES = 500, 3
WIDER = 0.25  # of a box's width: how far beyond it `ood` placements may be, on the table's plane
# Less below or above, in widths, where Meta-World's scripted policy fails beyond the box: walls of a bin, arm's reach.
# In bin-picking it solves a third of what is left, elsewhere nearly all.
NARROWER = {
    ("bin-picking", "object_x"): (WIDER, 0.0),
    ("bin-picking", "object_y"): (0.0, 0.0),
    ("peg-insert-side", "goal_y"): (0.0, 0.0),
    ("plate-slide-side", "goal_y"): (0.0, 0.0),
    ("stick-pull", "goal_x"): (WIDER, 0.0),
}
AXES = ("object_x", "object_y", "object_z", "goal_x", "goal_y", "goal_z")
META_DT = ("reach", "sweep", "door-lock")  # the classes that Meta-DT trains on, with 15 and 5 tasks
INF = float("inf")
FOLDER = Path(__file__).parent / "tables"


def wide_box(c: TaskClass) -> tuple[tuple[float, float], ...]:
    """The box that legal placements of a class come from: wider than Meta-World's along x and y, where that varies."""
    wide = []
    for k, (low, high) in enumerate(c.box):
        width = high - low if k % 3 < 2 and high - low > 0.01 else 0.0
        below, above = NARROWER.get((c.name, AXES[k]), (WIDER, WIDER))
        wide.append((low - below * width, high + above * width))
    return tuple(wide)


def context_of(name: str) -> type[Any]:
    """The context dataclass of one class: the numbers of its placements."""
    c, fields = find(name), []
    for axis, box, wide in zip(AXES, c.box, wide_box(c), strict=False):
        what = "of the object" if axis.startswith("object") else "of the goal"
        fields.append((axis, Array, param(*wide, "m", f"{axis[-1]} {what}", train=box)))
    return _context(f"{camel(name)}Placement", fields)


def context_of_many(names: tuple[str, ...], label: str) -> type[Any]:
    """The context dataclass of several classes: which one, and a placement; absent numbers are 0."""
    boxes, wide = [find(name).box for name in names], [wide_box(find(name)) for name in names]
    fields: list[Any] = [("task_class", Array, param(0, len(names) - 1, "", "which class it is", integer=True))]
    for k, axis in enumerate(AXES):
        inner, outer = ([box[k] if k < len(box) else (0.0, 0.0) for box in part] for part in (boxes, wide))
        low, high = min(low for low, _ in outer), max(high for _, high in outer)
        train = min(low for low, _ in inner), max(high for _, high in inner)
        doc = f"{axis[-1]} of the {axis.split('_')[0]}; 0 where the class has none"
        fields.append((axis, Array, param(low, high, "m", doc, train=train)))
    return _context(f"{label}Placement", fields)


def _context(name: str, fields: list[Any]) -> type[Any]:
    made = dataclasses.make_dataclass(name, fields, frozen=True)
    made.__module__ = __name__  # where pickle looks for it; see __getattr__
    return made


@functools.cache
def _context_named(name: str) -> type[Any]:
    for label, names in BENCHMARKS.items():
        if name == f"{label}Placement":
            return context_of_many(names, label)
    for c in CLASSES:
        if name == f"{camel(c.name)}Placement":
            return context_of(c.name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


BENCHMARKS = {"ML10": (*ML10_TRAIN, *ML10_TEST), "ML45": (*ML45_TRAIN, *ML45_TEST)}


def __getattr__(name: str) -> type[Any]:
    """The contexts, made when they are asked for."""
    return _context_named(name)


def _fields() -> tuple[Field, ...]:
    """The observation's columns: a frame, the frame before, and where Meta-World has the goal that is hidden."""
    frame: list[Field] = []
    for axis, low, high in zip("xyz", (-0.525, 0.348, -0.0525), (0.525, 1.025, 0.7), strict=True):
        frame.append(Field(f"hand_{axis}", low, high, "m", "place of the hand"))
    frame.append(Field("gripper", -1.0, 1.0, "", "how far it is open, 0 to 1"))
    for what, words in (("object", "object"), ("second", "second object")):  # an unskilled arm may never touch them
        frame += [Field(f"{what}_{a}", -INF, INF, "m", f"place of the {words}", constant=True) for a in "xyz"]
        frame += [Field(f"{what}_q{k}", -INF, INF, "", "its orientation", constant=True) for k in range(4)]
    before = [f._replace(name=f"last_{f.name}", doc=f"{f.doc}, a step ago") for f in frame]
    goal = [Field(f"goal_{a}", -1.0, 1.0, "m", "hidden: always 0", constant=True) for a in "xyz"]
    return (*frame, *before, *goal)


class MetaWorld(Family[Any, Any]):
    """A Sawyer arm solves a manipulation task whose goal it does not see.

    Every reset puts hand, object and goal where the task says; nothing else is random. The action moves the hand by up
    to 1 cm along each axis and closes or opens the gripper. Rewards are between 0 and 10 (version V2), episodes have
    500 steps and do not end with success. `train` and `test` have 50 placements of each class, as Meta-World draws
    them for one seed; in `ood`, placements lie outside the box of training along x or y, by at most a quarter of its
    width.
    """

    action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_meanings: ClassVar[tuple[str, ...]] = (
        "hand along x, in cm",
        "hand along y, in cm",
        "hand along z, in cm",
        "closing the gripper",
    )
    observation_dtype = np.float64
    horizon = HORIZON
    dt = 0.0125
    render_fps = 80
    render_modes = ("rgb_array", "ansi", "human")
    diverges = True
    backends = ("batched", "reference")

    def __init__(self, task: str = "", benchmark: str = ""):
        self._arguments = {"benchmark": benchmark} if benchmark else {"task": task}
        self.names: tuple[str, ...] = BENCHMARKS[benchmark] if benchmark else (task,)
        self.label = benchmark or camel(task)
        self.context_type = _context_named(f"{self.label}Placement")
        self.observation_fields = _fields()
        self._lock = threading.Lock()
        self._known: dict[int, tuple[weakref.ref[Any], Prepared]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied by its arguments: models, data and threads belong to this object and are made anew."""
        return _remake, (type(self), self._arguments)

    @functools.cached_property
    def batch(self) -> SawyerBatch:
        """The stepping."""
        self._require_metaworld()
        from metabench.physics.metaworld.stepping import SawyerBatch

        return SawyerBatch(self.names)

    def _require_metaworld(self) -> None:
        """ImportError naming the extra; tables, spaces and pages do without the package."""
        from metabench.physics.mujoco.family import import_mujoco

        try:
            import_mujoco()
            import metaworld  # noqa: F401
        except ModuleNotFoundError as error:
            raise ImportError(
                f"MetaWorld-{self.label}-v0 needs the package {error.name}, which is not installed: "
                "pip install 'metabench[metaworld]'"
            ) from error

    @property
    def threads(self) -> int | None:
        """How many threads step; METABENCH_THREADS or all cores by default."""
        return self.batch.threads

    @threads.setter
    def threads(self, count: int | None) -> None:
        self.batch.threads = count

    def tasks_of(self, context: Any) -> list[tuple[int, tuple[float, ...]]]:
        """(number of the class, placement) of each slot."""
        columns = [getattr(context, f.name).tolist() for f in dataclasses.fields(context)]
        if len(self.names) == 1:
            return [(0, row) for row in zip(*columns, strict=True)]
        sizes = [len(find(name).box) for name in self.names]
        return [(int(row[0]), row[1 : 1 + sizes[int(row[0])]]) for row in zip(*columns, strict=True)]

    def prepared(self, context: Any) -> Prepared:
        """What the stepping needs of a context; remembered per object, because contexts are values."""
        key = id(context)
        known = self._known.get(key)
        if known is not None and known[0]() is context:
            return known[1]
        made = self.batch.prepare(self.tasks_of(context))
        self._known[key] = weakref.ref(context, lambda _: self._known.pop(key, None)), made
        return made

    def initial(self, context: Any, rng: SlotRng) -> SawyerState:
        """What Meta-World's reset leaves behind for the task."""
        return self.batch.start(self.prepared(context))

    def transition(self, state: SawyerState, action: Array, context: Any, rng: SlotRng) -> SawyerState:
        """One of their steps.

        Raises:
            ValueError: If a session has put another class in the slot: there is no way from one scene to the other.
            Diverged: If the simulation of a slot has left the finite numbers; the others are sound.
        """
        prepared = self.prepared(context)
        if not np.array_equal(prepared.kind, state.kind):
            raise ValueError(
                f"tasks of MetaWorld-{self.label} differ in their scene, so they cannot change in an episode"
            )
        return self.batch.step(state, action, prepared)

    def observation(self, state: SawyerState) -> Array:
        """Hand, gripper and objects, the same a step ago, and zeros for the goal."""
        return state.observation.copy()

    def reward(self, state: SawyerState, action: Array, next_state: SawyerState, context: Any) -> Array:
        """Their V2, between 0 and 10."""
        return next_state.reward.copy()

    def success(self, state: SawyerState) -> Array:
        """Their success after the last step."""
        return state.success.copy()

    def goals(self, tasks: Array) -> Array:
        """The hidden goals `[B, 3]` m of tasks `[B, K]`: what a scripted policy is shown."""
        return self.prepared(stack(self.context_type, tasks)).constants[:, :3].copy()

    def names_of(self, tasks: Array) -> list[str]:
        """The classes of tasks `[B, K]`."""
        if len(self.names) == 1:
            return [self.names[0]] * len(tasks)
        return [self.names[int(kind)] for kind in tasks[:, 0]]

    def pack(self, state: SawyerState) -> dict[str, Array]:
        """State row, class, last observation and the distance that bin-picking remembers."""
        return {name: getattr(state, name) for name in ("physics", "kind", "observation", "first")}

    def unpack(self, saved: Mapping[str, Array], like: SawyerState) -> SawyerState:
        """The inverse; the reward and success of the step before are not known."""
        count = len(saved["kind"])
        return type(like)(**saved, reward=np.zeros(count), success=np.zeros(count, dtype=bool))

    def reject(self, context: Any) -> str:
        """Off the box of the class, or object and goal too near."""
        return next(filter(None, (self._fault(*task) for task in self.tasks_of(context))), "")

    def _fault(self, kind: int, placement: tuple[float, ...]) -> str:
        c = find(self.names[kind])
        for axis, value, (low, high) in zip(AXES, placement, wide_box(c), strict=False):
            if not low <= value <= high:
                return f"{axis}={value:g} is outside what {c.name} allows: {low:g} to {high:g} m"
        if c.apart:
            goal = placement[3:5] if c.apart_from is None else c.apart_from
            apart = float(np.hypot(placement[0] - goal[0], placement[1] - goal[1]))
            if apart < c.apart:
                return f"object and goal of {c.name} are {apart:.3f} m apart on the table; it takes {c.apart:g} m"
        return ""

    def rows(self) -> Mapping[str, Array]:
        """The splits, from `tables/metaworld.npz`."""
        if len(self.names) == 1:
            return _class_rows(self.names[0])
        train = ML10_TRAIN if self.label == "ML10" else ML45_TRAIN
        test = ML10_TEST if self.label == "ML10" else ML45_TEST
        parts = {"train": (train, "train"), "test": (test, "test"), "ood": (train, "ood")}
        return {split: self._joined(names, part) for split, (names, part) in parts.items()}

    def _joined(self, names: tuple[str, ...], part: str) -> Array:
        rows = []
        for name in names:
            own = _class_rows(name)[part]
            full = np.zeros((len(own), 1 + len(AXES)))
            full[:, 0], full[:, 1 : 1 + own.shape[1]] = self.names.index(name), own
            rows.append(full)
        joined = np.concatenate(rows)
        joined.setflags(write=False)
        return joined

    def simulator(self, backend: str, drift: Any, tasks: Any, rng: SlotRng, horizon: int) -> Any:
        """For "reference", Meta-World's own environments."""
        if backend == "batched":
            return None
        self._require_metaworld()
        from metabench.physics.foreign import ForeignSimulator
        from metabench.physics.metaworld.reference import Reference

        return ForeignSimulator(lambda: Reference(self.names), drift, tasks, rng, horizon)

    def picture(self, state: SawyerState, context: Any, slot: int) -> Array:
        """MuJoCo's own picture `[480, 480, 3]`, the goal marked; ValueError where there is nothing to draw with."""
        picture = self._screens.draw_start("rgb_array", self.prepared(context).starts[slot], state.physics[slot])
        assert picture is not None
        return picture

    def show(self, state: SawyerState, context: Any, slot: int) -> None:
        """Draws one slot in Gymnasium's window; ValueError where there is no display."""
        self._screens.draw_start("human", self.prepared(context).starts[slot], state.physics[slot])

    def close(self) -> None:
        """Closes the window and frees what draws."""
        if "_screens" in self.__dict__:
            self._screens.close()

    @functools.cached_property
    def _screens(self) -> Any:
        from metabench.physics.metaworld.reference import Screens

        return Screens()

    def text(self, state: SawyerState, context: Any, slot: int) -> str:
        """Time, hand, object and goal."""
        kind, goal = int(state.kind[slot]), self.prepared(context).constants[slot, :3]
        return describe(self.names[kind], state.physics[slot, 0], state.observation[slot], goal)


def _remake(kind: type[MetaWorld], arguments: dict[str, str]) -> MetaWorld:
    return kind(**arguments)


@functools.cache
def _class_rows(name: str) -> dict[str, Array]:
    rows = {}
    for entry in _tables().entries:
        own, _, split = entry.rpartition(".")
        if own == name:
            rows[split] = _tables().read(entry)
            rows[split].setflags(write=False)
    return rows


@functools.cache
def _tables() -> SafeNpz:
    return SafeNpz(FOLDER / "metaworld.npz")


_SOURCES = (
    "Meta-World 3.1.1 (Farama Foundation): scenes, rewards V2, success, hidden goals",
    "Yu et al. 2019, arXiv 1910.10897; McLean et al. 2025 (Meta-World+), arXiv 2505.11289",
)
_META_DT = "Meta-DT, arXiv 2410.11448: meta_dt_train and meta_dt_test, its 15 and 5 tasks as Meta-World draws them"


def _register() -> None:
    digests = json.loads((FOLDER / "metaworld_digests.json").read_text())
    shared = {
        "entry_point": f"{__name__}:MetaWorld",
        "oracle": "metabench.yardsticks.metaworld:oracle",
        "horizon": HORIZON,
        "episodes": EPISODES,
        "extra": "metaworld",
    }
    for c in CLASSES:
        id = f"MetaWorld-{camel(c.name)}-v0"
        summary = f"Meta-World's {c.name}: hidden placements of one task (ML1)."
        sources = (*_SOURCES, _META_DT) if c.name in META_DT else _SOURCES
        register(
            Spec(
                id=id,
                summary=summary,
                sources=sources,
                kwargs={"task": c.name},
                digests=digests[id],
                group="MetaWorld",
                **shared,
            )
        )
    for label in BENCHMARKS:
        id, train, test = f"MetaWorld-{label}-v0", label[2:], 5
        summary = f"Meta-World's {label}: {train} classes of tasks to train on, {test} others to test on."
        register(
            Spec(id=id, summary=summary, sources=_SOURCES, kwargs={"benchmark": label}, digests=digests[id], **shared)
        )


_register()
