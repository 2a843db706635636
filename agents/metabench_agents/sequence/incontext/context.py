"""What agents that learn in context share: how observations become features, settings, and a memory that is a cache.

While it acts, the network's memory is a cache of keys and values of the trial's tokens. When the window is full, the
older half of its tokens is dropped and the others are computed anew, so that the network only ever sees stretches as
long as it has been trained on; that costs one more token per step on average.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

import metabench
from metabench_agents.sequence.transformer import MASKED, TokenCache, Transformer, TransformerSettings, causal

MOST_VALUES = 32  # of a column of cells that is given one place per value


@dataclass(frozen=True)
class ContextSettings:
    """Sizes of the transformer."""

    layers: int = field(default=2, metadata={"low": 1})  # blocks
    heads: int = field(default=2, metadata={"low": 1})  # of attention
    width: int = field(default=64, metadata={"low": 1})  # of the stream of tokens
    window: int = field(default=160, metadata={"low": 2})  # steps of context

    @property
    def transformer(self) -> TransformerSettings:
        """The same for the transformer, which has no dropout here."""
        return TransformerSettings(layers=self.layers, heads=self.heads, width=self.width, dropout=0.0)


@dataclass(frozen=True)
class ContextFitting:
    """How the transformer is trained: AdamW, its rate rising linearly, then falling linearly to zero."""

    updates: int = 4000  # in all
    batch: int = 16  # stretches of an update
    learning_rate: float = 1e-3  # at its highest
    warmup: int = 200  # updates until then
    weight_decay: float = 1e-4  # of AdamW
    max_grad_norm: float = 1.0  # gradients are cut to it
    from_start: float = 0.25  # share of the stretches that begin with their history, as a trial begins

    def rate(self, number: int) -> float:
        """The learning rate of update `number`, counted from 0."""
        left = 1.0 - max(0, number - self.warmup) / max(1, self.updates - self.warmup)
        return self.learning_rate * min((number + 1) / max(1, self.warmup), left)


class SeenFeatures(nn.Module):
    """Observations as features: a column of cells one place per value, any other by its mean and deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, benchmark: str):
        super().__init__()
        fields = metabench.spec(benchmark).family().observation_fields
        counts = [round(f.high - f.low) + 1 if f.unit == "cell" else 0 for f in fields]
        self.values = [count if count <= MOST_VALUES else 0 for count in counts]
        self.lows = [f.low for f in fields]
        self.register_buffer("mean", torch.zeros(len(fields)))
        self.register_buffer("std", torch.ones(len(fields)))
        self.size = sum(max(1, count) for count in self.values)

    def forward(self, observation: Tensor) -> Tensor:
        """`[..., O]` to `[..., F]`."""
        parts = []
        for k, (count, low) in enumerate(zip(self.values, self.lows, strict=True)):
            column = observation[..., k]
            if count:
                place = (column - low).round().long().clamp(0, count - 1)
                parts.append((place[..., None] == torch.arange(count, device=place.device)).float())
            else:
                parts.append(((column - self.mean[k]) / self.std[k])[..., None])
        return torch.cat(parts, dim=-1)

    def learn_scales(self, observation: Tensor) -> None:
        """Means and deviations are those of observations `[N, O]`."""
        self.mean, self.std = observation.mean(0), observation.std(0).clamp(min=1e-6)


class ContextMemory(NamedTuple):
    """The tokens of B trials, as far as the window goes. A value."""

    tokens: tuple[Tensor, ...]  # each [B, D] before the transformer, oldest first
    cache: TokenCache | None  # of these tokens; None before the first


class ContextBody(nn.Module):
    """The transformer, which keeps in mind what it has read."""

    def __init__(self, settings: ContextSettings, *, placed: bool, passing: int = 1):
        super().__init__()
        self.window, self.layers, self.width = settings.window, settings.layers, settings.width
        self.room = settings.window + passing  # tokens: those that are kept, and at most so many that are not
        self.transformer = Transformer(settings.transformer)
        self.place = nn.Embedding(settings.window + 1, settings.width) if placed else None
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=0.02)

    def placed(self, tokens: Tensor, begin: int = 0) -> Tensor:
        """Tokens `[B, T, D]` of the places `begin ..` of a window."""
        return tokens if self.place is None else tokens + self.place.weight[begin : begin + tokens.shape[1]]

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """`[B, T, D]` and `[1, T, T]` to outputs `[B, T, D]`."""
        return self.transformer(self.placed(tokens), bias)

    def read(
        self, memory: ContextMemory, tokens: Tensor, passing: int = 0, alone: Tensor | None = None
    ) -> tuple[Tensor, ContextMemory]:
        """The output `[B, D]` of the last of n new tokens `[B, n, D]`, and the memory after them.

        Args:
            memory: What has been read; not changed.
            tokens: What is new; all but the last `passing` are remembered.
            passing: How many of them are not.
            alone: `[1 or B, passing - 1]` bool, of the passing tokens before the last: they see nobody but themselves,
                and the last one sees those for which this is true. None where they are as all others.
        """
        new = tokens.shape[1]
        known, cache = memory.tokens, memory.cache
        if cache is None:
            cache = TokenCache.empty(self.layers, len(tokens), self.room, self.width)
        if len(known) + new - passing > self.window:
            known = known[len(known) - self.window // 2 :]
            cache = TokenCache.empty(self.layers, len(tokens), self.room, self.width)
            tokens = torch.cat((torch.stack(known, dim=1), tokens), dim=1)
        begin, count = cache.length, tokens.shape[1]
        bias = causal(begin + count, begin=begin)
        if alone is not None and alone.shape[1]:
            bias = _with_alone(bias, alone)
        output, grown = self.transformer.extend(self.placed(tokens, begin), bias, cache, slice(-1, None))
        kept = tokens[:, count - new : count - passing].unbind(1)
        if passing:  # their room is free again
            grown.written[0] -= passing
            grown = grown._replace(length=grown.length - passing)
        return output[:, 0], ContextMemory((*known, *kept), grown)


def _with_alone(bias: Tensor, alone: Tensor) -> Tensor:
    """`[1, n, T]` as `[1 or B, n, T]` where the tokens before the last are alone, and seen by it or not."""
    bias, few = bias.repeat(len(alone), 1, 1), alone.shape[1]
    bias[:, -few - 1 : -1] = MASKED
    bias[:, -few - 1 : -1, -few - 1 : -1].diagonal(dim1=1, dim2=2).zero_()
    bias[:, -1, -few - 1 : -1].masked_fill_(~alone, MASKED)
    return bias
