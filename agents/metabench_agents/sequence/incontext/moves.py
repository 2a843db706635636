"""What agents that learn in context do: one of a few actions, or a point of a box; as features, losses and draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

import metabench
from metabench import SlotRng
from metabench_agents.sequence.episodes import Actions

__all__ = ["Choices", "Motions", "Moves", "Streams", "fresh_streams", "moves_of"]

Streams = tuple[np.ndarray, np.ndarray]  # of the trials' draws: keys and counters
LOG_DEVIATIONS = (-3.0, 0.5)  # of a motion, in half widths of the box


class Choices:
    """One of n actions: `[...]` int64, -1 where there is none. Networks put out n logits.

    Args:
        count: n.
    """

    def __init__(self, count: int):
        self.size = self.outputs = count

    def stored(self, action: np.ndarray) -> Tensor:
        """Actions of an environment as histories hold them."""
        return torch.from_numpy(action.astype(np.uint8))

    def taken(self, action: Any) -> Tensor:
        """Actions of an environment, `[B]`, as networks see them."""
        return torch.as_tensor(np.asarray(action)).long()

    def nothing(self, action: Tensor) -> Tensor:
        """No action, in the shape of `action`."""
        return torch.full_like(action, -1)

    def where(self, known: Tensor, action: Tensor) -> Tensor:
        """Stored actions where they are known, `[...]` bool."""
        return torch.where(known, action.long(), -1)

    def features(self, action: Tensor) -> Tensor:
        """`[..., n]`, zeros where there is none."""
        return (action[..., None] == torch.arange(self.size, device=action.device)).float()

    def label(self, action: Tensor) -> Tensor:
        """Stored actions as `loss` takes them."""
        return action.long()

    def wild(self, label: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """The labels, some of them replaced by evenly drawn actions."""
        wild = torch.randint(self.size, label.shape, generator=generator)
        return torch.where(torch.rand(label.shape, generator=generator) < share, wild, label)

    def loss(self, outputs: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross entropy, and how often the likeliest is right."""
        total = F.cross_entropy(outputs.flatten(0, -2), label.flatten())
        right = (outputs.argmax(dim=-1) == label).float().mean()
        return total, {"loss": total.detach(), "accuracy": right.detach()}

    def draw(self, outputs: Tensor, streams: Streams, sample: bool) -> tuple[np.ndarray, Streams]:
        """Actions `[B]` int64, drawn as logits `[B, n]` say, or the likeliest; and the trials' streams after it."""
        if not sample:
            return outputs.argmax(dim=-1).numpy(), streams
        rng = SlotRng(streams[0], streams[1].copy())
        share = torch.softmax(outputs.double(), dim=-1).cumsum(-1).numpy()
        action = (rng.random()[:, None] * share[:, -1:] >= share).sum(axis=1)
        return action.astype(np.int64), rng.state()


class Motions:
    """A point of a box: `[..., A]`, in half widths from its centre, NaN where there is none.

    Networks put out a Gaussian's means and logarithms of deviations, `[..., 2 A]`.

    Args:
        space: The bounded box.
    """

    def __init__(self, space: spaces.Box):
        self.codec = Actions(space)
        self.size, self.outputs = self.codec.size, 2 * self.codec.size

    def stored(self, action: np.ndarray) -> Tensor:
        """Actions of an environment as histories hold them."""
        return self.codec.encode(torch.from_numpy(np.ascontiguousarray(action, np.float32)))

    def taken(self, action: Any) -> Tensor:
        """Actions of an environment, `[B, A]`, as networks see them."""
        return self.codec.encode(torch.as_tensor(np.asarray(action)))

    def nothing(self, action: Tensor) -> Tensor:
        """No action, in the shape of `action`."""
        return torch.full_like(action, torch.nan)

    def where(self, known: Tensor, action: Tensor) -> Tensor:
        """Stored actions where they are known, `[...]` bool."""
        return torch.where(known[..., None], action, torch.nan)

    def features(self, action: Tensor) -> Tensor:
        """Themselves, zeros where there is none."""
        return torch.nan_to_num(action, nan=0.0)

    def label(self, action: Tensor) -> Tensor:
        """Stored actions as `loss` takes them."""
        return action

    def wild(self, label: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """The labels, some of them replaced by evenly drawn actions."""
        wild = torch.rand(label.shape, generator=generator) * 2.0 - 1.0
        return torch.where(torch.rand(label.shape[:-1], generator=generator)[..., None] < share, wild, label)

    def loss(self, outputs: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean negative log likelihood of an action, and by how much the mean misses a component of it."""
        mean, deviation = self._gaussian(outputs)
        apart = (label - mean) / deviation
        total = (0.5 * apart.square() + deviation.log() + 0.5 * math.log(2.0 * math.pi)).sum(-1).mean()
        return total, {"loss": total.detach(), "miss": (label - mean).abs().mean().detach()}

    def draw(self, outputs: Tensor, streams: Streams, sample: bool) -> tuple[np.ndarray, Streams]:
        """Actions `[B, A]` of the environment: drawn from the trials' streams, or the means; and the streams."""
        mean, deviation = self._gaussian(outputs)
        if sample:
            rng = SlotRng(streams[0], streams[1].copy())
            mean = mean + deviation * torch.as_tensor(rng.normal(1.0, (self.size,))).float()
            streams = rng.state()
        return self.codec.to_env(mean), streams

    def _gaussian(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log = outputs.chunk(2, dim=-1)
        return torch.tanh(mean), log.clamp(*LOG_DEVIATIONS).exp()


Moves = Choices | Motions


def moves_of(benchmark: str) -> Moves:
    """What can be done in a benchmark; ValueError where it is neither a choice among 255 nor in a bounded box."""
    space = metabench.spec(benchmark).family().action_space
    if isinstance(space, spaces.Discrete) and space.n <= 255:
        return Choices(int(space.n))
    if isinstance(space, spaces.Box) and space.is_bounded() and len(space.shape) == 1:
        return Motions(space)
    raise ValueError(f"agents that learn from histories choose among up to 255 actions or act in a box, not in {space}")


def fresh_streams(count: int) -> Streams:
    """Each trial's own stream, the same at every play."""
    return SlotRng.from_seeds(range(count)).state()
