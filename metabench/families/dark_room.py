"""A dark 9 x 9 room: a hidden goal (DarkRoom), or a hidden key and the hidden door it opens (DarkKeyToDoor).

Source: Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation" (arXiv 2210.14215), its
Dark Room and Dark Key-to-Door. The paper could not be read here; what follows is second-hand, from code that
quotes or rebuilds it:

- Dark Room: 9 x 9 cells, five actions, episodes of 20 steps from the centre, 1 at every step on the goal and 0
  elsewhere, nothing seen but the own cell. All sources agree.
- Dark Key-to-Door: 9 x 9 cells, 81^2 = 6,561 tasks, episodes of 50 steps, 1 once for the key and 1 once for the door.
  Sources differ in the start (any cell, as here and in AMAGO's main text; or the centre), in whether the door pays once
  (as here) or at every step, and in whether it ends the episode (here it does not).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces

from metabench.drawing import BLUE, GREEN, GREY, LINE, PAPER, SHADE, Canvas
from metabench.family import Family, Field
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import param

SIZE = 9  # cells along a side; cell c lies at column c // SIZE, row c % SIZE
CELLS = SIZE * SIZE
CENTRE = CELLS // 2  # the cell (4, 4), where DarkRoom begins
MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
MEANINGS = ("stay", "up", "right", "down", "left")

_COLUMN, _ROW = np.divmod(np.arange(CELLS), SIZE)
PLACE = np.stack([_COLUMN, _ROW], axis=1).astype(np.float32)  # [cell, 2] column and row
NEXT = np.stack(  # [cell, action] where a move leads; at the wall, nowhere
    [np.clip(_COLUMN + dx, 0, SIZE - 1) * SIZE + np.clip(_ROW + dy, 0, SIZE - 1) for dx, dy in MOVES], axis=1
)

S = TypeVar("S", bound="tuple[Array, ...]")
C = TypeVar("C")


class _Room(Family[S, C], Generic[S, C]):
    """What both families share: what is seen, what moves do, and the drawing."""

    observation_fields = (
        Field("column", 0, SIZE - 1, "cell", "column of the agent"),
        Field("row", 0, SIZE - 1, "cell", "row of the agent"),
    )
    action_space = spaces.Discrete(len(MOVES))
    action_meanings: ClassVar[tuple[str, ...]] = MEANINGS

    def observation(self, state: S) -> Array:
        """Column and row."""
        return PLACE.take(state[0], axis=0)

    @abc.abstractmethod
    def marks(self, state: S, context: C, slot: int) -> list[tuple[int, str, bool]]:
        """Cells of interest: the cell, its letter, and whether it has something to give yet."""

    def picture(self, state: S, context: C, slot: int) -> Array:
        """The room: what still pays green, what has paid grey, the agent blue."""
        canvas = Canvas(-0.1, SIZE + 0.1)
        for cell in range(CELLS):
            x, y = divmod(cell, SIZE)
            canvas.box((x + 0.04, y + 0.04), (x + 0.96, y + 0.96), PAPER if (x + y) % 2 else SHADE, LINE, 0.015, 0.08)
        for cell, letter, open_ in self.marks(state, context, slot):
            x, y = divmod(cell, SIZE)
            color = GREEN if open_ else GREY
            if letter == "K":  # a key is round
                canvas.disc((x + 0.5, y + 0.5), 0.38, color)
            else:
                canvas.box((x + 0.1, y + 0.1), (x + 0.9, y + 0.9), None, color, 0.12, 0.12)
        x, y = divmod(int(state[0][slot]), SIZE)
        canvas.disc((x + 0.5, y + 0.5), 0.24, BLUE)
        return canvas.pixels()

    def text(self, state: S, context: C, slot: int) -> str:
        """The room, row 8 on top: `A` agent, `*` agent on a marked cell, marks in lower case once they have paid."""
        marks = {cell: letter if open_ else letter.lower() for cell, letter, open_ in self.marks(state, context, slot)}
        agent = int(state[0][slot])
        marks[agent] = "*" if agent in marks else "A"
        rows = [" ".join(marks.get(x * SIZE + y, ".") for x in range(SIZE)) for y in reversed(range(SIZE))]
        return "\n".join(rows) + "\n"


@dataclass(frozen=True)
class DarkGoal:
    """Where the goal is."""

    goal: Array = param(0, CELLS - 1, "cell", "the cell that pays", integer=True)


class Place(NamedTuple):
    """The state of B agents."""

    cell: Array  # [B] int64


class DarkRoom(_Room[Place, DarkGoal]):
    """A hidden goal in a dark room of 9 x 9 cells.

    Every episode starts in the centre (4, 4). A step pays 1 if it ends on the goal and 0 otherwise, and never ends the
    episode: an agent that knows the goal walks there and stays. The split `ood` has the goals that are seven or eight
    steps from the centre, all others are in `train` and `test`. With `max_episode_steps=100` an episode is as long as
    in the public code of the Decision-Pretrained Transformer.
    """

    context_type = DarkGoal
    horizon = 20
    longest = 100

    def initial(self, context: DarkGoal, rng: SlotRng) -> Place:
        """In the centre."""
        return Place(np.full(len(rng), CENTRE))

    def transition(self, state: Place, action: Array, context: DarkGoal, rng: SlotRng) -> Place:
        """One cell further, or nowhere."""
        return Place(NEXT[state.cell, action])

    def reward(self, state: Place, action: Array, next_state: Place, context: DarkGoal) -> Array:
        """1 on the goal, 0 elsewhere."""
        return (next_state.cell == context.goal).astype(np.float64)

    def marks(self, state: Place, context: DarkGoal, slot: int) -> list[tuple[int, str, bool]]:
        """The goal, which always pays."""
        return [(int(context.goal[slot]), "G", True)]


@dataclass(frozen=True)
class KeyAndDoor:
    """Where the key and the door are."""

    key: Array = param(0, CELLS - 1, "cell", "the cell with the key", integer=True)
    door: Array = param(0, CELLS - 1, "cell", "the cell with the door", integer=True)


class PlaceAndKey(NamedTuple):
    """The state of B agents."""

    cell: Array  # [B] int64
    has_key: Array  # [B] bool
    opened: Array  # [B] bool


class DarkKeyToDoor(_Room[PlaceAndKey, KeyAndDoor]):
    """A hidden key and a hidden door in a dark room of 9 x 9 cells: 6,561 tasks.

    Every episode starts on any cell, without the key. The first step that ends on the key's cell pays 1, the first
    after that (or the same, where both are one cell) that ends on the door's pays 1 more; all others pay 0, and
    nothing ends the episode. That it has the key an agent knows from the reward alone. The split `ood` has the tasks
    whose key and door are at least twelve steps apart.
    """

    context_type = KeyAndDoor
    horizon = 50

    def initial(self, context: KeyAndDoor, rng: SlotRng) -> PlaceAndKey:
        """On any cell, without the key."""
        nothing = np.zeros(len(rng), dtype=bool)
        return PlaceAndKey(rng.integers(CELLS), nothing, nothing)

    def transition(self, state: PlaceAndKey, action: Array, context: KeyAndDoor, rng: SlotRng) -> PlaceAndKey:
        """One cell further, or nowhere; then the key is taken, then the door is opened."""
        cell = NEXT[state.cell, action]
        has_key = state.has_key | (cell == context.key)
        return PlaceAndKey(cell, has_key, state.opened | (has_key & (cell == context.door)))

    def reward(self, state: PlaceAndKey, action: Array, next_state: PlaceAndKey, context: KeyAndDoor) -> Array:
        """1 where the key was taken and 1 where the door was opened."""
        taken, opened = next_state.has_key & ~state.has_key, next_state.opened & ~state.opened
        return taken.astype(np.float64) + opened

    def success(self, state: PlaceAndKey) -> Array:
        """The door is open."""
        return state.opened.copy()

    def marks(self, state: PlaceAndKey, context: KeyAndDoor, slot: int) -> list[tuple[int, str, bool]]:
        """The door, and the key."""
        return [
            (int(context.door[slot]), "D", not bool(state.opened[slot])),
            (int(context.key[slot]), "K", not bool(state.has_key[slot])),
        ]


SOURCES = (
    "Laskin et al. 2022 (Algorithm Distillation), arXiv 2210.14215",
    "second-hand: public code that quotes or rebuilds the paper's environments",
)
register(
    Spec(
        id="DarkRoom-v0",
        entry_point=f"{__name__}:DarkRoom",
        oracle="metabench.yardsticks.dark_room:dark_room",
        summary="Find a hidden goal in a dark 9 x 9 room and return to it in the next episodes.",
        sources=SOURCES,
        horizon=DarkRoom.horizon,
        episodes=10,
        repeats=20,
        digests={
            "train": "0ded9dc3f18216a5e0f4ad19bd29ab447af8cb8b1840af7b4a882b1a67aa2cb5",
            "test": "5167a99d718876ff39056fd1d7b6af72fa132d919bdcf4c4dc5c56c4506cccda",
            "ood": "b95a947c10fa99bd2e58e0987b95f4ad7705d8581506b09edd5335506ae6aec9",
        },
    )
)
register(
    Spec(
        id="DarkKeyToDoor-v0",
        entry_point=f"{__name__}:DarkKeyToDoor",
        oracle="metabench.yardsticks.dark_room:dark_key_to_door",
        summary="Find a hidden key in a dark 9 x 9 room, then the hidden door it opens: 6,561 tasks.",
        sources=SOURCES,
        horizon=DarkKeyToDoor.horizon,
        episodes=10,
        repeats=4,
        digests={
            "train": "0f886bfbcc5cf90abcb2144e46aabdf5b598b5331b7fdaf3c0eb73ccf09b89ad",
            "test": "f6f7f842aca154ea4fe6f937a3d067f38253a1ad1b56dbf6ba55289f5584ca46",
            "ood": "e48fe3152be57562581ac5cd79f975e8f1d1b905504ab1d76cb40b185bb27a60",
        },
    )
)
