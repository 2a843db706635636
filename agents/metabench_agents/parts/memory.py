"""Where experience is kept: an on-policy rollout, a ring of single steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

import metabench
from metabench_agents.parts.view import ViewConfig, held_steps


def trial_length(name: str, benchmark: str, view: ViewConfig | None = None) -> int:
    """Decisions of a trial; ValueError for benchmarks whose episodes may end early, naming the agent `name`."""
    spec, view = metabench.spec(benchmark), view or ViewConfig()
    if type(spec.family()).terminal is not metabench.Family.terminal and not view.whole:
        raise ValueError(
            f"{name} trains on trials of one length, and episodes of {benchmark} may end early; with --view.whole they"
            " are rested out"
        )
    return held_steps(spec.horizon, view.hold) * spec.episodes


def trial_steps(benchmark: str) -> int:
    """Environment steps of a trial whose episodes last to their limit: what it counts, however often is decided."""
    spec = metabench.spec(benchmark)
    return spec.horizon * spec.episodes


def has_sessions(benchmark: str, split: str) -> bool:
    """Whether the hidden task changes inside an episode."""
    spec = metabench.spec(benchmark)
    sessions = spec.split_sessions.get(split, spec.sessions)
    return sessions is not None and sessions["kind"] != "constant"


@dataclass
class Rollout:
    """One on-policy iteration: T ticks of B trials, as columns that are written in place and used again."""

    observation: Tensor  # [T, B, O]
    previous_action: Tensor  # [T, B] or [T, B, A] the trial's action before the tick, in the environment's units
    previous_reward: Tensor  # [T, B] the reward that came with it
    first: Tensor  # [T, B] bool: an episode starts at the tick
    action: Tensor  # [T, B] or [T, B, A] the action taken, in the policy's units
    log_prob: Tensor  # [T, B]
    value: Tensor  # [T, B]
    reward: Tensor  # [T, B] the reward that came next

    @classmethod
    def empty(cls, ticks: int, trials: int, observation: int, action: tuple[int, ...], discrete: bool) -> Rollout:
        """Uninitialised columns."""
        kind = torch.int64 if discrete else torch.float32

        def column(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty((ticks, trials, *shape), dtype=dtype)

        return cls(
            observation=column(observation),
            previous_action=column(*action, dtype=kind),
            previous_reward=column(),
            first=column(dtype=torch.bool),
            action=column(*action, dtype=kind),
            log_prob=column(),
            value=column(),
            reward=column(),
        )


class Replay:
    """A ring of single steps, one contiguous row each, drawn uniformly; the oldest are overwritten."""

    def __init__(self, capacity: int, observation: int, action: int, device: torch.device | None = None):
        self.rows = torch.empty(capacity, 2 * observation + action + 2, device=device)
        self.sizes = (observation, action, 1, observation, 1)
        self.written = 0  # rows ever written

    def __len__(self) -> int:
        return min(self.written, len(self.rows))

    def add(
        self, observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminal: Tensor
    ) -> None:
        """Appends B steps: `[B, O]`, `[B, A]`, `[B]`, `[B, O]`, `[B]`."""
        block = torch.cat((observation, action, reward[:, None], next_observation, terminal[:, None]), dim=1)
        block, device = block.float().to(self.rows.device), self.rows.device
        where = torch.arange(self.written, self.written + len(block), device=device) % len(self.rows)
        self.rows[where] = block
        self.written += len(block)

    def sample(self, batches: int, size: int, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
        """`batches` times `size` steps with replacement, in the order of `add`'s arguments."""
        return [self.take(pick) for pick in self.picks(batches, size, generator)]

    def picks(self, batches: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Numbers of steps `[size]` for so many batches, on the CPU."""
        return torch.randint(len(self), (batches * size,), generator=generator).chunk(batches)

    def take(self, pick: Tensor) -> tuple[Tensor, ...]:
        """These steps, in the order of `add`'s arguments."""
        o, a, r, following, terminal = self.rows[pick].split(self.sizes, dim=1)
        return o, a, r[:, 0], following, terminal[:, 0]


@dataclass
class Trials:
    """Whole trials as they were played: T ticks of B trials. What inference learns from."""

    observation: Tensor  # [T, B, O] what was seen at the tick
    action: Tensor  # [T, B] or [T, B, A] the action taken there, in the environment's units
    reward: Tensor  # [T, B] the reward that came with it
    next_observation: Tensor  # [T, B, O] where it led, within the same episode
    first: Tensor  # [T, B] bool: an episode starts at the tick
    session: Tensor  # [T, B] int64 sessions of the trial that were over at the tick; training labels, never shown

    def ticks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What inference is fed at every tick: the trial's last transition (where it led, action, reward), and `first`.

        Where an episode begins that is the transition which ended the one before, and where it led is the observation
        in which that one ended. At the trial's start it is the first observation, with zeros.
        """
        came = torch.cat((self.observation[:1], self.next_observation[:-1]))
        action = torch.cat((torch.zeros_like(self.action[:1]), self.action[:-1]))
        reward = torch.cat((torch.zeros_like(self.reward[:1]), self.reward[:-1]))
        return came, action, reward, self.first

    def split(self, trials: int) -> list[Trials]:
        """Parts of so many trials each."""
        parts = [column.split(trials, dim=1) for column in vars(self).values()]
        return [Trials(*columns) for columns in zip(*parts, strict=True)]

    def at(self, steps: Tensor) -> Trials:
        """Some of the ticks, `[M]` indices."""
        return Trials(**{name: column[steps] for name, column in vars(self).items()})


class TrialBuffer:
    """The most recent trials, as columns that are written in a ring."""

    def __init__(self, capacity: int):
        self.capacity, self.count, self.place = capacity, 0, 0
        self.columns: dict[str, Tensor] = {}

    def add(self, trials: Trials) -> None:
        """Takes in B trials, over the oldest ones when it is full."""
        new = trials.reward.shape[1]
        if not self.columns:
            self.columns = {
                name: column.new_zeros((len(column), self.capacity, *column.shape[2:]))
                for name, column in vars(trials).items()
            }
        rows = (self.place + torch.arange(new)) % self.capacity
        for name, column in vars(trials).items():
            self.columns[name][:, rows] = column
        self.place, self.count = (self.place + new) % self.capacity, min(self.count + new, self.capacity)

    def sample(self, trials: int, generator: torch.Generator) -> Trials:
        """Distinct trials at random, all there are if they are fewer."""
        rows = torch.randperm(self.count, generator=generator)[:trials]
        return Trials(**{name: column[:, rows] for name, column in self.columns.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        place = {"buffer/place": torch.tensor([self.place, self.count])}
        return place | {f"buffer/{name}": column[:, : self.count] for name, column in self.columns.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes in what `tensors` gave."""
        names = [name for name in tensors if name.startswith("buffer/") and name != "buffer/place"]
        if names:
            self.add(Trials(**{name.removeprefix("buffer/"): tensors[name] for name in names}))
        self.place, self.count = tensors["buffer/place"].tolist()


def read_trials(name: str, id: str, benchmark: str, space: Any) -> Trials:
    """The dataset's whole trials, for the agent `name`; ValueError if it is of another benchmark or holds none."""
    data = metabench.load_dataset(id)
    if data.manifest.benchmark != benchmark:
        raise ValueError(f"{id} was played on {data.manifest.benchmark}, not on {benchmark}")
    ticks, drifts = trial_length(name, benchmark), has_sessions(benchmark, "train")
    after, start = data.next_observations(), 0  # in the order of the trials: both go task by task
    columns: list[tuple[np.ndarray, ...]] = []
    for trial in data.trials():
        following = after[start : start + len(trial.rewards)]
        start += len(trial.rewards)
        if len(trial.rewards) < ticks:
            continue  # episodes left over at the end of a task
        ended = trial.session_ended | (np.append(trial.first[1:], False) if drifts else False)
        session = np.concatenate(([0], np.cumsum(ended)[:-1]))
        columns.append((trial.observations, trial.actions, trial.rewards, following, trial.first, session))
    if not columns:
        raise ValueError(f"{id} holds no whole trial of {ticks} steps")
    observation, action, reward, following, first, session = (
        torch.from_numpy(np.stack(column, axis=1)) for column in zip(*columns, strict=True)
    )
    action = action.long() if isinstance(space, spaces.Discrete) else action
    return Trials(observation, action, reward, following, first, session)
