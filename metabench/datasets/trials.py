"""A dataset split in use: episodes, trials, training windows and transitions, straight from the memory-mapped file.

Nothing is copied but what a batch needs: a window is one contiguous piece of `steps.npy`, so a batch is one gather.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metabench.datasets.format import (
    ADVICE,
    EPISODE,
    EPISODES,
    FINAL,
    STATES,
    STEPS,
    Manifest,
    open_column,
    read_manifest,
)
from metabench.datasets.gather import Draw, gather
from metabench.registry import spec
from metabench.rng import Array
from metabench.tasks import Task

AHEAD = 64  # batches whose indices are drawn together


class Episode(NamedTuple):
    """One episode; the arrays are read-only views of the file."""

    task: int  # row in the split's task table
    observations: Array  # [T, O] float32 before each action
    actions: Array  # [T, A] float32, or [T] int32
    rewards: Array  # [T] float32
    returns_to_go: Array  # [T] float32
    terminated: Array  # [T] bool
    session_ended: Array  # [T] bool: the latent task changed after this step; for training only
    final_observation: Array  # [O] float32 after the last action
    record: Any  # its row of episodes.npy: seed, policy, policy_step, ...


class Trial(NamedTuple):
    """Consecutive episodes of one task, joined along time; views where they lie side by side in the file."""

    task: int
    observations: Array  # [T, O]
    actions: Array  # [T, A] or [T]
    rewards: Array  # [T]
    returns_to_go: Array  # [T] within each episode
    first: Array  # [T] bool: an episode starts here
    session_ended: Array  # [T] bool
    episodes: Array  # [E] rows of episodes.npy


class Windows(NamedTuple):
    """A batch of pieces of episodes that end at random steps, padded on the left with zeros.

    The arrays are the caller's own; they are not overwritten by later batches.
    """

    observations: Array  # [B, K, O] float32
    actions: Array  # [B, K, A] float32, or [B, K] int32
    rewards: Array  # [B, K] float32, that followed the actions
    returns_to_go: Array  # [B, K] float32: this reward and all later ones of the episode, undiscounted
    terminated: Array  # [B, K] bool
    session_ended: Array  # [B, K] bool
    timesteps: Array  # [B, K] int32 step within the episode; 0 where padded
    mask: Array  # [B, K] bool: a step, not padding
    task: Array  # [B] int32 row in the split's task table
    step: Array  # [B] int64 row of steps.npy that the window ends with

    def to_torch(self) -> Windows:
        """The same as torch tensors, without copies."""
        return Windows(*map(_torch().from_numpy, self))


class Transitions(NamedTuple):
    """A batch of single steps, with the steps before each."""

    observations: Array  # [B, O]
    actions: Array  # [B, A] or [B]
    rewards: Array  # [B]
    next_observations: Array  # [B, O] the last observation of the episode after its last step
    terminated: Array  # [B] bool
    session_ended: Array  # [B] bool
    task: Array  # [B] int32
    history: Windows | None  # the `history` steps before this one; none of another episode

    def to_torch(self) -> Transitions:
        """The same as torch tensors, without copies."""
        columns = [_torch().from_numpy(np.ascontiguousarray(column)) for column in self[:-1]]
        return Transitions(*columns, history=self.history and self.history.to_torch())


class TrialDataset:
    """The episodes of one split, or a selection of them.

    Args:
        folder: The split's folder; its manifest, shapes and sizes are checked, and that the episodes follow each other
            through the steps.
        check: Whether to check all contents as well, as `metabench dataset verify` does: every byte against its hash,
            numbers that are not finite, flags, sums. That reads the whole set.

    Raises:
        ValueError: One sentence, where a file is missing or is not what the manifest says.
    """

    def __init__(self, folder: Path, *, check: bool = False):
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        m = self.manifest
        for record in m.files:
            path = folder / record.name
            size = path.stat().st_size if path.is_file() else None
            if size != record.bytes:
                found = "is missing" if size is None else f"has {size} bytes instead of {record.bytes}"
                raise ValueError(f"{path} {found}: metabench dataset verify {folder} tells more")
        # Plain arrays on the maps: every slice of a np.memmap costs ten times that of an array.
        self.steps: Array = np.asarray(open_column(folder, STEPS, m.row_type, (m.steps,)))
        self.episodes: Array = np.array(open_column(folder, EPISODES, EPISODE, (m.episodes,)))
        final = open_column(folder, FINAL, np.dtype(m.observation_dtype), (m.episodes, m.observation))
        self._final = np.asarray(final)
        self._rows = np.arange(m.episodes)  # of episodes.npy, those selected
        self._check_episodes()
        self._prepare()
        if check:
            from metabench.datasets.verify import verify  # which reads sets by this class

            if faults := verify(folder):
                raise ValueError(f"{folder} is not sound: {faults[0]}")

    def _check_episodes(self) -> None:
        """ValueError unless the episodes follow each other through all steps: whoever reads them trusts that."""
        lengths, starts = self.episodes["length"].astype(np.int64), self.episodes["start"]
        follow = (lengths >= 1).all() and lengths.sum() == len(self.steps)
        if not follow or (starts != np.cumsum(lengths) - lengths).any():
            raise ValueError(f"{self.folder / EPISODES}: the episodes do not follow each other through {STEPS}")
        if (self.episodes["task"] < 0).any():
            raise ValueError(f"{self.folder / EPISODES}: an episode is of a task with a number below 0")

    def _prepare(self) -> None:
        self.episodes.setflags(write=False)
        self._start, self._length = self.episodes["start"].copy(), self.episodes["length"].astype(np.int64)
        self._task = self.episodes["task"].copy()

    def select(self, tasks: Sequence[int] | None = None, episodes: slice | None = None) -> TrialDataset:
        """A view of some tasks, and of each task's episodes of the slice: `select(episodes=slice(0, 10))`.

        Raises:
            ValueError: If nothing is left, or a task is not in the set.
        """
        available = np.unique(self._task)
        wanted = available if tasks is None else np.asarray(tasks)
        if missing := sorted(set(wanted.tolist()) - set(available.tolist())):
            raise ValueError(
                f"{self.manifest.id}/{self.manifest.split} has no task {missing[0]}; it has {_span(available)}"
            )
        rows = [np.flatnonzero(self._task == task)[episodes or slice(None)] for task in wanted.tolist()]
        kept = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
        if not len(kept):
            raise ValueError("the selection holds no episode")
        chosen = object.__new__(TrialDataset)
        chosen.folder, chosen.manifest, chosen.steps, chosen._final = (
            self.folder,
            self.manifest,
            self.steps,
            self._final,
        )
        chosen.episodes, chosen._rows = self.episodes[kept], self._rows[kept]
        chosen._prepare()
        return chosen

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def num_steps(self) -> int:
        """Steps of all its episodes."""
        return int(self._length.sum())

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks it holds, with their hidden parameters: for analysis and for oracles, not for agents.

        Raises:
            ValueError: For data of another origin, whose tasks are numbers without parameters.
        """
        if not self.manifest.benchmark:
            raise ValueError(f"{self.manifest.id} is of no benchmark here: its tasks are numbers without parameters")
        table = spec(self.manifest.benchmark).table().fixed(self.manifest.split)
        return tuple(table[task] for task in np.unique(self._task))

    def __getitem__(self, index: int) -> Episode:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no episode {index}: there are {len(self)}")
        start = int(self._start[index])
        rows = self.steps[start : start + int(self._length[index])]
        return Episode(
            task=int(self._task[index]),
            observations=rows["observation"],
            actions=rows["action"],
            rewards=rows["reward"],
            returns_to_go=rows["return_to_go"],
            terminated=rows["terminated"],
            session_ended=rows["session_ended"],
            final_observation=self._final[self._rows[index]],
            record=self.episodes[index],
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def trials(self, episodes: int | None = None) -> Iterator[Trial]:
        """Task by task, `episodes` consecutive episodes at a time; the benchmark's own number by default.

        Episodes that are left over at the end of a task make a shorter trial.
        """
        count = episodes
        if count is None:
            count = spec(self.manifest.benchmark).episodes if self.manifest.benchmark else 1
        if count < 1:
            raise ValueError(f"a trial has at least one episode, got {count}")
        for task in np.unique(self._task):
            rows = np.flatnonzero(self._task == task)
            for begin in range(0, len(rows), count):
                yield self._trial(rows[begin : begin + count])

    def _trial(self, rows: Array) -> Trial:
        steps = self._joined(rows)
        first = np.zeros(len(steps), dtype=bool)
        first[np.cumsum(self._length[rows]) - self._length[rows]] = True
        return Trial(
            task=int(self._task[rows[0]]),
            observations=steps["observation"],
            actions=steps["action"],
            rewards=steps["reward"],
            returns_to_go=steps["return_to_go"],
            first=first,
            session_ended=steps["session_ended"],
            episodes=self.episodes[rows],
        )

    def _joined(self, rows: Array) -> Array:
        """The steps of some episodes: a slice of the file if they lie side by side."""
        start, stop = self._start[rows], self._start[rows] + self._length[rows]
        if (start[1:] == stop[:-1]).all():
            return self.steps[start[0] : stop[-1]]
        return np.concatenate([self.steps[a:b] for a, b in zip(start, stop, strict=True)])

    def column(self, name: str) -> Array:
        """One field of all its steps, `[N, ...]`: a view of the file, or a copy for a scattered selection.

        Args:
            name: observation, action, reward, return_to_go, terminated, truncated, session_ended or success.
        """
        names = self.manifest.row_type.names or ()
        if name not in names:
            raise ValueError(f"there is no column {name!r}; available: {', '.join(names)}")
        return self._joined(np.arange(len(self)))[name]

    def next_observations(self) -> Array:
        """`[N, O]` float32 what followed each step, in memory."""
        following = np.empty((self.num_steps, self.manifest.observation), dtype=self.manifest.observation_dtype)
        here = self.column("observation")
        following[:-1] = here[1:]
        following[np.cumsum(self._length) - 1] = self._final[self._rows]
        return following

    def observation_moments(self) -> tuple[Array, Array]:
        """Mean and deviation `[O]` float64 of all observations, for scaling; deviations are at least 1e-6."""
        columns = self.column("observation")
        blocks = [columns[i : i + (1 << 16)].astype(np.float64) for i in range(0, len(columns), 1 << 16)]
        mean = sum(block.sum(0) for block in blocks) / len(columns)
        square = sum(((block - mean) ** 2).sum(0) for block in blocks) / len(columns)
        return np.asarray(mean), np.maximum(np.sqrt(square), 1e-6)

    def states(self) -> Array:
        """`[K, S]` float64 simulator states, every `manifest.state_every` steps of each episode; ValueError if none."""
        if self.manifest.state_every is None:
            raise ValueError(f"{self.manifest.id}/{self.manifest.split} was made without simulator states")
        return np.load(self.folder / STATES, mmap_mode="r", allow_pickle=False)

    def expert_actions(self) -> Array:
        """`[N, ...]` what the oracle would have done at every step, in memory; ValueError where that is not known."""
        if ADVICE not in self.manifest.infos:
            raise ValueError(f"{self.manifest.id}/{self.manifest.split} does not know what the expert would have done")
        rows = np.load(self.folder / ADVICE, mmap_mode="r", allow_pickle=False)
        first = self._start + self._rows  # a row more behind every episode
        return np.concatenate([rows[a : a + n] for a, n in zip(first, self._length, strict=True)])

    def windows(
        self, length: int, batch_size: int, rng: np.random.Generator, *, whole: bool = False
    ) -> Iterator[Windows]:
        """Endless random batches of windows of `length` steps; every step is equally likely to be a window's last.

        A window never crosses the border of an episode. One that ends before step `length` of its episode is padded on
        the left; `whole=True` leaves those out, so that `length` equal to the horizon gives whole episodes.

        Args:
            length: Steps K of a window.
            batch_size: Windows B of a batch.
            rng: Where all randomness comes from. Indices of 64 batches are drawn at a time.
            whole: Whether to draw only windows without padding.

        Raises:
            ValueError: If a size is below 1 or no episode is long enough.
        """
        draw = Draw(self._start, self._length, length if whole else 1)
        copy, task = gather(self.steps, length, batch_size), self._task
        while True:  # all that needs no step itself is done for many batches at once
            episodes, steps, within = draw(rng, (AHEAD, batch_size))
            timesteps, mask = copy.mark(within)
            missing, tasks = np.maximum(length - 1 - within, 0), task[episodes]
            for i in range(AHEAD):
                yield _windows(copy(steps[i], missing[i]), timesteps[i], mask[i], tasks[i], steps[i])

    def transitions(self, batch_size: int, rng: np.random.Generator, *, history: int = 0) -> Iterator[Transitions]:
        """Endless random batches of single steps, every step equally likely.

        Args:
            batch_size: Steps B of a batch.
            rng: Where all randomness comes from.
            history: How many earlier steps of the same episode come with each, padded on the left.
        """
        draw = Draw(self._start, self._length, 1)
        before = gather(self.steps, history, batch_size) if history else None
        while True:
            episodes, steps, within = (x[0] for x in draw(rng, (1, batch_size)))
            rows = self.steps[steps]
            last = within + 1 == self._length[episodes]
            following = self.steps["observation"][np.where(last, steps, steps + 1)]
            following[last] = self._final[self._rows[episodes[last]]]
            past = None
            if before is not None:
                earlier = before(steps - 1, np.maximum(history - within, 0))
                timesteps, mask = (x[0] for x in before.mark(within[None] - 1))
                past = _windows(earlier, timesteps, mask, self._task[episodes], steps - 1)
            yield Transitions(
                rows["observation"],
                rows["action"],
                rows["reward"],
                following,
                rows["terminated"],
                rows["session_ended"],
                self._task[episodes],
                past,
            )

    def to_torch(self) -> dict[str, Any]:
        """All steps as torch tensors in memory, without another library's help.

        Keys: observations `[N, O]`, actions, rewards, returns_to_go, next_observations, terminated, truncated,
        session_ended, success, timesteps `[N]` int64, task `[N]` int64, episode `[N]` int64; and expert_actions where
        the set knows them.
        """
        torch, rows = _torch(), self._joined(np.arange(len(self)))
        names = {
            "observation": "observations",
            "action": "actions",
            "reward": "rewards",
            "return_to_go": "returns_to_go",
        }
        tensors = {
            names.get(name, name): torch.from_numpy(
                np.array(rows[name])
            )  # a copy: tensors of read-only memory are a trap
            for name in rows.dtype.names or ()
        }
        episode = np.repeat(np.arange(len(self)), self._length)
        begin = np.repeat(np.cumsum(self._length) - self._length, self._length)
        tensors["next_observations"] = torch.from_numpy(self.next_observations())
        tensors["timesteps"] = torch.from_numpy(np.arange(len(rows)) - begin)
        tensors["task"] = torch.from_numpy(self._task[episode].astype(np.int64))
        tensors["episode"] = torch.from_numpy(episode)
        if ADVICE in self.manifest.infos:
            tensors["expert_actions"] = torch.from_numpy(self.expert_actions())
        return tensors

    def __repr__(self) -> str:
        m = self.manifest
        size = f"{len(np.unique(self._task))} tasks, {len(self)} episodes, {self.num_steps} steps"
        return f"TrialDataset({m.id}, {m.split}: {size})"


def _windows(rows: Array, timesteps: Array, mask: Array, task: Array, step: Array) -> Windows:
    return Windows(
        rows["observation"],
        rows["action"],
        rows["reward"],
        rows["return_to_go"],
        rows["terminated"],
        rows["session_ended"],
        timesteps,
        mask,
        task,
        step,
    )


def _span(tasks: Array) -> str:
    return f"the tasks {int(tasks[0])} to {int(tasks[-1])}" if len(tasks) > 1 else f"the task {int(tasks[0])}"


def _torch() -> Any:
    """Torch, only where somebody asks for tensors; the package itself never imports it."""
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ImportError("tensors need PyTorch, which is not installed: pip install 'metabench[agents]'") from error
