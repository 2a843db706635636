"""Where experience is kept."""

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
