"""Offline episodes as flat tensors: windows, histories and prompts are gathered by index, and nothing is copied K-fold.

Row `first[e] + t` holds what episode e saw before its step t and what it then did and got; after its last step follows
one row with the final observation alone. So the next observation is the next row, and nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

Array = npt.NDArray[np.generic]


class Actions:
    """A Box of actions seen from its centre in units of its half width: what networks put out is in [-1, 1].

    Args:
        space: A bounded Box; ValueError for any other.
        raw: The environment's own units instead (as released Meta-DT does, so that its tanh covers far more).
    """

    def __init__(self, space: spaces.Space, raw: bool = False):
        if not isinstance(space, spaces.Box) or not space.is_bounded():
            raise ValueError(f"sequence models act in a bounded Box of continuous actions, not in {space}")
        low, high = (torch.as_tensor(np.asarray(x, np.float32)) for x in (space.low, space.high))
        self.low, self.high, self.size = low, high, int(np.prod(space.shape))
        self.center = torch.zeros_like(low) if raw else (low + high) / 2
        self.half = torch.ones_like(low) if raw else (high - low) / 2
        self.reach = (high - low) / 2 / self.half  # how far encoded actions go: 1 unless raw

    def encode(self, action: Tensor) -> Tensor:
        """`[..., A]` from the environment's units."""
        return (action.float() - self.center) / self.half

    def to_env(self, action: Tensor) -> np.ndarray:
        """`[..., A]` float32 in the environment's units, clipped into the box."""
        return torch.clamp(self.center + self.half * action.float(), self.low, self.high).numpy()


class Window(NamedTuple):
    """K consecutive steps of B episodes."""

    observation: Tensor  # [B, K, O]
    context: Tensor  # [B, K, Z] what the world model makes of the steps before; Z is 0 where there is none
    action: Tensor  # [B, K, A]
    togo: Tensor  # [B, K] return from the step on to the end of the episode
    time: Tensor  # [B, K] int64 step of the episode
    valid: Tensor  # [B, K] bool: false behind the end of the episode
    last_reward: Tensor  # [B, K] of the step before; zeros at the episode's first
    rank: Tensor  # [B, K] of the episode among its task's, by its return: 1 the best, 0 the worst


class Prompt(NamedTuple):
    """L consecutive steps of another episode of the same task."""

    observation: Tensor  # [B, L, O]
    action: Tensor  # [B, L, A]
    togo: Tensor  # [B, L]
    time: Tensor  # [B, L] int64


@dataclass(frozen=True)
class Episodes:
    """E episodes, laid end to end."""

    observation: Tensor  # [N, O] as the environment gives it
    action: Tensor  # [N, A] encoded; zeros in the row behind an episode's last step
    reward: Tensor  # [N] zeros there too
    togo: Tensor  # [N] undiscounted return from the step on
    first: Tensor  # [E] int64 row of step 0
    length: Tensor  # [E] int64 steps
    task: Tensor  # [E] int64 row of the episode's task in its split
    horizon: int  # steps of the longest
    behaviours: tuple[str, ...] = ("behaviour",)  # the policies that played, in words
    behaviour: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))  # [E] int64 which of them did

    def __post_init__(self) -> None:
        if len(self.behaviour) != len(self.first):  # all by the only one
            object.__setattr__(self, "behaviour", torch.zeros(len(self.first), dtype=torch.int64))

    @classmethod
    def of(
        cls,
        observations: Sequence[Array] | Array,
        actions: Sequence[Array] | Array,
        rewards: Sequence[Array] | Array,
        tasks: Sequence[int] | Array,
        codec: Actions,
    ) -> Episodes:
        """From one array per episode.

        Args:
            observations: `[T + 1, O]` each, the final one included.
            actions: `[T, A]` each, in the environment's units.
            rewards: `[T]` each.
            tasks: Which task each episode is of.
            codec: The encoding of actions.

        Raises:
            ValueError: If there is no episode, or one's arrays do not fit together.
        """
        if not len(observations):
            raise ValueError("there is no episode to learn from")
        for index, (seen, done, got) in enumerate(zip(observations, actions, rewards, strict=True)):
            if not len(seen) - 1 == len(done) == len(got) >= 1:
                raise ValueError(
                    f"episode {index} has {len(done)} actions, {len(got)} rewards and {len(seen)} observations; "
                    "T, T and T + 1 are needed"
                )
        length = torch.tensor([len(got) for got in rewards])
        first = torch.cumsum(length + 1, 0) - length - 1
        count = int(length.sum()) + len(length)
        steps = torch.ones(count, dtype=torch.bool)
        steps[first + length] = False
        action, reward = torch.zeros(count, codec.size), torch.zeros(count)
        action[steps] = codec.encode(torch.as_tensor(np.concatenate(actions)))
        reward[steps] = torch.as_tensor(np.concatenate(rewards)).float()
        observation = torch.as_tensor(np.concatenate(observations)).float()
        return cls(
            observation=observation,
            action=action,
            reward=reward,
            togo=returns_to_go(reward, first, length),
            first=first,
            length=length,
            task=torch.as_tensor(np.asarray(tasks), dtype=torch.int64),
            horizon=int(length.max()),
        )

    def __len__(self) -> int:
        return len(self.first)

    @property
    def returns(self) -> Tensor:
        """`[E]` undiscounted return of each episode."""
        return self.togo[self.first]

    def rows(self) -> tuple[Tensor, Tensor]:
        """Every step: its row, and the row of its episode's step 0; `[M]` int64 each."""
        first = torch.repeat_interleave(self.first, self.length)
        within = torch.arange(len(first)) - torch.repeat_interleave(
            torch.cumsum(self.length, 0) - self.length, self.length
        )
        return first + within, first

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `[O]` of the observations before a step; 1 where a column never changes."""
        seen = self.observation[self.rows()[0]]
        std = seen.std(dim=0, correction=0)
        return seen.mean(dim=0), torch.where(std > 1e-6, std, 1.0)

    def best(self) -> Tensor:
        """`[tasks]` the highest return of each task that occurs, in the order of their rows."""
        known, where = torch.unique(self.task, return_inverse=True)
        return torch.full((len(known),), -torch.inf).scatter_reduce(0, where, self.returns, "amax")

    @cached_property
    def ranks(self) -> Tensor:
        """`[E]` the share of its task's other episodes whose return is lower, equal ones counting half; 1 if alone."""
        ranks = torch.ones(len(self))
        for task in torch.unique(self.task):
            mine = torch.nonzero(self.task == task)[:, 0]
            ordered, got = torch.sort(self.returns[mine])[0], self.returns[mine]
            below, upto = torch.searchsorted(ordered, got), torch.searchsorted(ordered, got, right=True)
            if len(mine) > 1:
                ranks[mine] = (below + upto - 1).float() / 2 / (len(mine) - 1)
        return ranks

    def take(self, episodes: Tensor) -> Episodes:
        """These episodes only, sharing the columns."""
        columns = {name: getattr(self, name)[episodes] for name in ("first", "length", "task", "behaviour")}
        return replace(self, **columns)


def returns_to_go(reward: Tensor, first: Tensor, length: Tensor) -> Tensor:
    """`[N]` the sum of the rewards from each row to the last step of its episode, in float64 on the way."""
    total = torch.cumsum(reward.double(), 0)
    ends = torch.repeat_interleave(total[first + length], length + 1)  # the row behind the last step holds no reward
    return (ends - total + reward).float()


def history(rows: Tensor, first: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The rows of the `steps` steps before each row: `[B, steps]`, and whether they are of the same episode."""
    before = rows[:, None] + torch.arange(-steps, 0, device=rows.device)
    inside = before >= first[:, None]
    return before.clamp(min=0), inside


def draw_windows(
    episodes: Episodes, batch: int, window: int, generator: torch.Generator, *, short: bool = False
) -> tuple[Tensor, Tensor]:
    """Episodes and start steps `[B]` of windows, every window of the set being as likely as any other.

    Args:
        episodes: The set.
        batch: How many.
        window: Steps K. Only whole windows are drawn: what an agent sees while acting are the steps since the start of
            its episode, or the last K, never the last few of an episode alone. Shorter episodes are taken whole.
        generator: The stream.
        short: Windows may start anywhere but at the last step and are cut at the end (as released Meta-DT does).
    """
    starts = (episodes.length - (2 if short else window) + 1).clamp(min=1)  # how many there are per episode
    ends = torch.cumsum(starts, 0)
    pick = torch.randint(int(ends[-1]), (batch,), generator=generator)
    which = torch.searchsorted(ends, pick, right=True)
    return which, pick - (ends[which] - starts[which])


def rows_of_windows(episodes: Episodes, which: Tensor, start: Tensor, steps: int) -> Tensor:
    """`[B, steps]` the rows of the windows, behind an episode's end the one there."""
    time = start[:, None] + torch.arange(steps)
    return episodes.first[which, None] + torch.minimum(time, episodes.length[which, None])


def window_of(episodes: Episodes, which: Tensor, start: Tensor, steps: int, context: Tensor) -> Window:
    """The windows; `context` `[N, Z]` belongs to the rows."""
    time = start[:, None] + torch.arange(steps)
    valid = time < episodes.length[which, None]
    rows = rows_of_windows(episodes, which, start, steps)
    before, known = (rows - 1).clamp(min=0), (time > 0).float()
    return Window(
        observation=episodes.observation[rows],
        context=context[rows],
        action=episodes.action[rows],
        togo=episodes.togo[rows],
        time=time.clamp(max=episodes.horizon - 1),
        valid=valid,
        last_reward=episodes.reward[before] * known,
        rank=episodes.ranks[which, None].expand(-1, steps),
    )


def prompt_of(episodes: Episodes, which: Tensor, start: Tensor, steps: int) -> Prompt:
    """Segments `start .. start + steps` of these episodes, which must be that long."""
    time = start[:, None] + torch.arange(steps)
    rows = episodes.first[which, None] + time
    return Prompt(episodes.observation[rows], episodes.action[rows], episodes.togo[rows], time)


class Siblings:
    """Draws another episode of the same task."""

    def __init__(self, episodes: Episodes):
        order = torch.argsort(episodes.task, stable=True)
        _, self._task, count = torch.unique(episodes.task, return_inverse=True, return_counts=True)
        self._order, self._count, self._begin = order, count, torch.cumsum(count, 0) - count
        self._place = torch.empty_like(order)
        self._place[order] = torch.arange(len(order))

    def draw(self, which: Tensor, generator: torch.Generator) -> Tensor:
        """`[B]` to `[B]`: uniform over the other episodes of each one's task; itself where it has no sibling."""
        task = self._task[which]
        others = (self._count[task] - 1).clamp(min=1)
        step = 1 + (torch.rand(len(which), generator=generator, dtype=torch.float64) * others).long()
        place = self._place[which] - self._begin[task]
        return self._order[self._begin[task] + (place + step) % self._count[task]]


def segment_sums(value: Tensor, steps: int) -> Tensor:
    """`[..., T]` to `[..., T - steps + 1]`: the sum of each stretch of `steps` values."""
    total = torch.cumsum(value.double(), dim=-1)
    total = torch.cat((torch.zeros_like(total[..., :1]), total), dim=-1)
    return (total[..., steps:] - total[..., :-steps]).float()


def load_episodes(benchmark: str, data: str, split: str, codec: Actions) -> Episodes:
    """The episodes of one split of a data set, in memory once.

    Args:
        benchmark: Whose.
        data: A quality ("mixed"), the id of a data set ("metabench/point-robot/mixed-v0"), or the folder of a split.
        split: Of the benchmark.
        codec: The encoding of actions.

    Raises:
        ValueError: One sentence: there is no such set, or it is of another benchmark.
    """
    import metabench

    id = data if "/" in data else str(metabench.DatasetId.of(benchmark, data))
    found = metabench.load_dataset(id, split)
    if found.manifest.benchmark != metabench.spec(benchmark).id:
        raise ValueError(f"{id} was played on {found.manifest.benchmark}, not on {metabench.spec(benchmark).id}")
    columns = found.to_torch()
    which = columns["episode"]
    length = torch.bincount(which)
    first = torch.cumsum(length + 1, 0) - length - 1
    rows = torch.arange(len(which)) + which
    count = len(rows) + len(length)
    observation = torch.zeros(count, columns["observations"].shape[1])
    observation[rows] = columns["observations"]
    observation[first + length] = columns["next_observations"][torch.cumsum(length, 0) - 1]
    action, reward = torch.zeros(count, codec.size), torch.zeros(count)
    action[rows], reward[rows] = codec.encode(columns["actions"]), columns["rewards"]
    togo = returns_to_go(reward, first, length)
    task = columns["task"][torch.cumsum(length, 0) - 1]
    names = tuple(dict.fromkeys(policy.name for policy in found.manifest.policies))
    number = torch.tensor([names.index(policy.name) for policy in found.manifest.policies])
    behaviour = number[torch.as_tensor(np.asarray(found.episodes["policy"], np.int64))]
    length_max = int(length.max())
    return Episodes(observation, action, reward, togo, first, length, task, length_max, names, behaviour)


def hold_out(episodes: Episodes, every: int = 10) -> tuple[Tensor, Tensor]:
    """Numbers of the episodes to learn from, and of every tenth of each task, to select by."""
    order = torch.argsort(episodes.task, stable=True)
    _, count = torch.unique(episodes.task[order], return_counts=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - torch.repeat_interleave(torch.cumsum(count, 0) - count, count)
    held = place % every == every - 1
    return torch.nonzero(~held)[:, 0], torch.nonzero(held)[:, 0]
