"""A causal transformer over the ticks of a trial, with cached keys and values when it goes tick by tick."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TickCache(NamedTuple):
    """What a transformer remembers of the ticks so far: per layer, `[B, heads, t, width / heads]`."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


class TickBlock(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron, each added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`[B, t, W]`, with the keys and values of earlier ticks or none, to the same shape; and those of all ticks."""
        batch, ticks, width = x.shape
        parts = self.qkv(self.norm_attention(x)).view(batch, ticks, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, ticks, width))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x)))), (key, value)


class CausalTransformer(nn.Module):
    """Features of every tick that depend on it and the ticks before it.

    Args:
        inputs: Width of an embedded tick.
        hidden: Width of the layers.
        layers: How many.
        heads: Attention heads per layer; they must divide `hidden`.
        ticks: The longest trial.
    """

    def __init__(self, inputs: int, hidden: int, *, layers: int, heads: int, ticks: int):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"{heads} attention heads do not divide a width of {hidden}")
        self.hidden, self.ticks, self.heads = hidden, ticks, heads
        self.enter = nn.Linear(inputs, hidden)
        self.place = nn.Parameter(
            torch.empty(ticks, hidden).normal_(std=0.02)
        )  # learned embedding of the tick's number
        self.blocks = nn.ModuleList(TickBlock(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def begin(self, trials: int) -> TickCache:
        """No tick yet."""
        empty = torch.zeros(trials, self.heads, 0, self.hidden // self.heads)
        return TickCache((empty,) * len(self.blocks), (empty,) * len(self.blocks))

    def step(self, x: Tensor, memory: TickCache) -> tuple[Tensor, TickCache]:
        """`[B, I]` and the cache to features `[B, W]` and the cache with this tick; ValueError beyond `ticks`."""
        past = memory.keys[0].shape[2]
        if past >= self.ticks:
            raise ValueError(f"this transformer was made for trials of {self.ticks} ticks, and this one is longer")
        h, keys, values = (self.enter(x) + self.place[past])[:, None], [], []
        for block, key, value in zip(self.blocks, memory.keys, memory.values, strict=True):
            h, (key, value) = block(h, (key, value))
            keys.append(key)
            values.append(value)
        return self.norm(h[:, 0]), TickCache(tuple(keys), tuple(values))

    def sequence(self, x: Tensor) -> Tensor:
        """`[T, B, I]` to features `[T, B, W]`."""
        h = self.enter(x).transpose(0, 1) + self.place[: len(x)]
        for block in self.blocks:
            h, _ = block(h, None)
        return self.norm(h).transpose(0, 1)
