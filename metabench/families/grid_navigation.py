"""A 5 x 5 grid with hidden goals: one that stays (GridNavigation), and two that take turns (GridSwitch).

Sources: Zintgraf et al. 2020 (VariBAD, arXiv 1910.08348; `environments/navigation/gridworld.py` of its code release)
for the grid, its actions and rewards. GridSwitch is the alternating-goals gridworld of DynaMITE-RL (arXiv
2402.15957). The paper's numbers could not be read here: p, T_m, the horizon and the random start are second-hand (a
third-party replication that cites the paper's appendix A.4.1); that the idle goal costs as much as an empty cell is
our choice. With these, the oracle's and win-stay/lose-shift's returns lie just above the ones reported.
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from gymnasium import spaces

from metabench.drawing import BLUE, GREEN, GREY, LINE, PAPER, SHADE, Canvas
from metabench.family import Family, Field
from metabench.registry import Spec, register
from metabench.rng import Array, SlotRng
from metabench.tasks import latent, param

SIZE = 5  # cells along a side; cell c lies at column c // SIZE, row c % SIZE
CELLS = SIZE * SIZE
START = 0  # the corner (0, 0), where GridNavigation begins
GOAL_REWARD, STEP_REWARD = 1.0, -0.1
REWARDS = np.array([STEP_REWARD, GOAL_REWARD])  # by whether the agent stands on a goal that pays
MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
MEANINGS = ("stay", "up", "right", "down", "left")

_COLUMN, _ROW = np.divmod(np.arange(CELLS), SIZE)
PLACE = np.stack([_COLUMN, _ROW], axis=1).astype(np.float32)  # [cell, 2] column and row
NEXT = np.stack(  # [cell, action] where a move leads; at the edge, nowhere
    [np.clip(_COLUMN + dx, 0, SIZE - 1) * SIZE + np.clip(_ROW + dy, 0, SIZE - 1) for dx, dy in MOVES], axis=1
)

S = TypeVar("S", bound="tuple[Array, ...]")
C = TypeVar("C")


class _Grid(Family[S, C], Generic[S, C]):
    """What both families share: the moves, the reward of a cell and the drawing."""

    action_space = spaces.Discrete(len(MOVES))
    action_meanings: ClassVar[tuple[str, ...]] = MEANINGS

    @abc.abstractmethod
    def goals(self, context: C, slot: int) -> tuple[list[int], list[int]]:
        """The cells that pay and the candidate cells that do not."""

    def picture(self, state: S, context: C, slot: int) -> Array:
        """The grid: the paying goal green, an idle candidate grey, the agent blue."""
        canvas = Canvas(-0.1, SIZE + 0.1)
        for cell in range(CELLS):
            x, y = divmod(cell, SIZE)
            canvas.box((x + 0.04, y + 0.04), (x + 0.96, y + 0.96), PAPER if (x + y) % 2 else SHADE, LINE, 0.015, 0.08)
        paying, idle = self.goals(context, slot)
        for cell, color in [*((c, GREEN) for c in paying), *((c, GREY) for c in idle)]:
            x, y = divmod(cell, SIZE)
            canvas.box((x + 0.1, y + 0.1), (x + 0.9, y + 0.9), None, color, 0.09, 0.12)
        x, y = divmod(int(state[0][slot]), SIZE)
        canvas.disc((x + 0.5, y + 0.5), 0.24, BLUE)
        return canvas.pixels()

    def text(self, state: S, context: C, slot: int) -> str:
        """The grid, row 4 on top: `A` agent, `G` goal that pays, `g` candidate that does not, `*` agent on `G`."""
        paying, idle = self.goals(context, slot)
        marks = {**dict.fromkeys(idle, "g"), **dict.fromkeys(paying, "G")}
        agent = int(state[0][slot])
        marks[agent] = "*" if agent in paying else "A"
        rows = [" ".join(marks.get(x * SIZE + y, ".") for x in range(SIZE)) for y in reversed(range(SIZE))]
        return "\n".join(rows) + "\n"


@dataclass(frozen=True)
class HiddenGoal:
    """Where the goal is."""

    goal: Array = param(0, CELLS - 1, "cell", "the cell that pays", integer=True)


class Cell(NamedTuple):
    """The state of B agents."""

    cell: Array  # [B] int64


class GridNavigation(_Grid[Cell, HiddenGoal]):
    """A hidden goal on a 5 x 5 grid, four episodes to find and use it.

    Every episode starts in the corner (0, 0). A step ends with +1 on the goal's cell and -0.1 elsewhere, and never
    ends the episode: an agent that knows the goal walks there and stays. Goals are never among the corner and the three
    cells next to it, except in the split `ood`, which has just those three.
    """

    context_type = HiddenGoal
    observation_fields = (
        Field("column", 0, SIZE - 1, "cell", "column of the agent"),
        Field("row", 0, SIZE - 1, "cell", "row of the agent"),
    )
    horizon = 15

    def initial(self, context: HiddenGoal, rng: SlotRng) -> Cell:
        """In the corner."""
        return Cell(np.full(len(rng), START))

    def transition(self, state: Cell, action: Array, context: HiddenGoal, rng: SlotRng) -> Cell:
        """One cell further, or nowhere."""
        return Cell(NEXT[state.cell, action])

    def observation(self, state: Cell) -> Array:
        """Column and row."""
        return PLACE.take(state.cell, axis=0)

    def reward(self, state: Cell, action: Array, next_state: Cell, context: HiddenGoal) -> Array:
        """+1 on the goal, -0.1 elsewhere."""
        return REWARDS.take(next_state.cell == context.goal)

    def goals(self, context: HiddenGoal, slot: int) -> tuple[list[int], list[int]]:
        """The goal."""
        return [int(context.goal[slot])], []


@dataclass(frozen=True)
class Candidates:
    """The two candidate goals (the task), and which of them pays (the latent that sessions change)."""

    goal_a: Array = param(0, CELLS - 1, "cell", "first candidate goal", integer=True)
    goal_b: Array = param(0, CELLS - 1, "cell", "second candidate goal", integer=True)
    paying: Array = latent(2, "which candidate pays: 0 the first, 1 the second")

    @functools.cached_property
    def goal(self) -> Array:
        """`[B]` the cell that pays."""
        return np.where(self.paying, self.goal_b, self.goal_a)


class CellAndCandidates(NamedTuple):
    """The state of B agents; the candidates are in it because they are seen."""

    cell: Array  # [B] int64
    candidates: Array  # [B, 4] float32 columns and rows of both candidates


class GridSwitch(_Grid[CellAndCandidates, Candidates]):
    """Two visible candidate goals on a 5 x 5 grid, of which one pays; which one switches unseen, session by session.

    A step ends with +1 on the paying candidate and -0.1 elsewhere. Then the session ends with probability 0.07, and
    the next session's goal follows T_m = [[.2, .8], [.8, .2]]. Nothing but the reward tells. The first session's goal
    is drawn evenly, and the agent starts on any cell but the candidates. The split `ood` has shorter sessions and
    another T_m.
    """

    context_type = Candidates
    observation_fields = (
        Field("column", 0, SIZE - 1, "cell", "column of the agent"),
        Field("row", 0, SIZE - 1, "cell", "row of the agent"),
        Field("column_a", 0, SIZE - 1, "cell", "column of the first candidate"),
        Field("row_a", 0, SIZE - 1, "cell", "row of the first candidate"),
        Field("column_b", 0, SIZE - 1, "cell", "column of the second candidate"),
        Field("row_b", 0, SIZE - 1, "cell", "row of the second candidate"),
    )
    horizon = 60

    def initial(self, context: Candidates, rng: SlotRng) -> CellAndCandidates:
        """On any cell but the candidates."""
        low, high = np.minimum(context.goal_a, context.goal_b), np.maximum(context.goal_a, context.goal_b)
        cell = rng.integers(CELLS - 2)
        cell += cell >= low  # number the free cells, then skip the two that are taken
        cell += cell >= high
        return CellAndCandidates(
            cell, np.concatenate((PLACE.take(context.goal_a, axis=0), PLACE.take(context.goal_b, axis=0)), axis=1)
        )

    def transition(
        self, state: CellAndCandidates, action: Array, context: Candidates, rng: SlotRng
    ) -> CellAndCandidates:
        """One cell further, or nowhere."""
        return CellAndCandidates(NEXT[state.cell, action], state.candidates)

    def observation(self, state: CellAndCandidates) -> Array:
        """Columns and rows of the agent and of both candidates."""
        return np.concatenate((PLACE.take(state.cell, axis=0), state.candidates), axis=1)

    def reward(
        self, state: CellAndCandidates, action: Array, next_state: CellAndCandidates, context: Candidates
    ) -> Array:
        """+1 on the candidate that pays, -0.1 elsewhere."""
        return REWARDS.take(next_state.cell == context.goal)

    def reject(self, context: Candidates) -> str:
        """Two candidates must be two cells."""
        return "goal_a and goal_b must be different cells" if (context.goal_a == context.goal_b).any() else ""

    def goals(self, context: Candidates, slot: int) -> tuple[list[int], list[int]]:
        """The candidate that pays, and the other."""
        pair = [int(context.goal_a[slot]), int(context.goal_b[slot])]
        paying = int(context.paying[slot])
        return [pair[paying]], [pair[1 - paying]]


register(
    Spec(
        id="GridNavigation-v0",
        entry_point=f"{__name__}:GridNavigation",
        oracle="metabench.yardsticks.grid_navigation:oracle",
        summary="Find a hidden goal on a 5 x 5 grid and return to it in the next episodes.",
        sources=("Zintgraf et al. 2020 (VariBAD), arXiv 1910.08348, environments/navigation/gridworld.py",),
        horizon=GridNavigation.horizon,
        episodes=4,
        repeats=20,
        digests={
            "train": "bcd968fd2233271bcdc1ec139f33827b6d9e15a0e503167a8f7404e3da815aec",
            "test": "2aec57ac1e5501b46c131456a494a1889006a1dcf34af5766fde16c42fc735b9",
            "ood": "5925dd9fbd6d464b585c0bd2d740468ce57aadf99fac8c554f3c1a72534d5d43",
            "published": "d4c55a50497637fa750037aee0269d7a768f8d2e0c12d38ca3c9d8eb590ff934",
        },
    )
)
register(
    Spec(
        id="GridSwitch-v0",
        entry_point=f"{__name__}:GridSwitch",
        oracle="metabench.yardsticks.switching:oracle",
        summary="Two visible candidate goals, one pays; which one switches unseen, session by session (a DLCMDP).",
        sources=(
            "Liang et al. 2024 (DynaMITE-RL), arXiv 2402.15957, gridworld with alternating goals",
            "p, T_m, horizon and start: second-hand, a replication citing the paper's appendix A.4.1",
        ),
        horizon=GridSwitch.horizon,
        episodes=1,
        repeats=20,
        sessions={"kind": "geometric", "p": 0.07, "chain": {"paying": [[0.2, 0.8], [0.8, 0.2]]}},
        split_sessions={"ood": {"kind": "geometric", "p": 0.14, "chain": {"paying": [[0.1, 0.9], [0.5, 0.5]]}}},
        digests={
            "train": "e2c75fadc7e114ce1d1105f87b6cc8ad8f420a3870900237b7dc81cb0da06af4",
            "test": "f6c8a78d0faf4196da24e0b7e6c9424e00b7ca967a72755c2045bd4f986c13c6",
            "ood": "eda33171dca372abcf8856ce6aae6e5117c8fee19567b67591b94b21a503a268",
        },
    )
)
