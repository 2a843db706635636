"""Where experience is kept: an on-policy rollout, a ring of single steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Rollout:
    """One on-policy iteration: T ticks of B trials, as columns that are written in place and used again."""

    observation: Tensor  # [T, B, O]
    previous_action: Tensor  # [T, B] or [T, B, A] the action that led to the tick, in the environment's units
    previous_reward: Tensor  # [T, B]
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

    def __init__(self, capacity: int, observation: int, action: int):
        self.rows = torch.empty(capacity, 2 * observation + action + 2)
        self.sizes = (observation, action, 1, observation, 1)
        self.written = 0  # rows ever written

    def __len__(self) -> int:
        return min(self.written, len(self.rows))

    def add(
        self, observation: Tensor, action: Tensor, reward: Tensor, next_observation: Tensor, terminal: Tensor
    ) -> None:
        """Appends B steps: `[B, O]`, `[B, A]`, `[B]`, `[B, O]`, `[B]`."""
        block = torch.cat((observation, action, reward[:, None], next_observation, terminal[:, None]), dim=1)
        where = torch.arange(self.written, self.written + len(block)) % len(self.rows)
        self.rows[where] = block.float()
        self.written += len(block)

    def sample(self, batches: int, size: int, generator: torch.Generator) -> list[tuple[Tensor, ...]]:
        """`batches` times `size` steps with replacement, in the order of `add`'s arguments."""
        drawn = torch.randint(len(self), (batches * size,), generator=generator)
        parts = []
        for rows in self.rows[drawn].chunk(batches):
            o, a, r, following, terminal = rows.split(self.sizes, dim=1)
            parts.append((o, a, r[:, 0], following, terminal[:, 0]))
        return parts
