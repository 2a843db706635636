"""A causal transformer over the ticks of a trial, with cached keys and values when it goes tick by tick.

Pre-norm blocks (Radford et al. 2019). A tick's number is told by a learned embedding, or by turning queries and keys by
an angle in proportion to it (rotary positions, Su et al. 2021, arXiv 2104.09864), which has no longest trial. What a
layer finds is added to the stream, or enters it through a gate (Parisotto et al. 2020, "Stabilizing Transformers for
Reinforcement Learning", arXiv 1910.06764).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Place = Literal["learned", "rotary"]
Gate = Literal["none", "small", "gru"]
ROOM = 64  # places of a new cache; doubled whenever they are full
BASE = 10_000.0  # of the rotary angles: the slowest pair of columns turns by about 1 / BASE a tick
SHUT = 2.0  # the gates' bias at the start: nearly everything passes a layer by (GTrXL's b_g)


class TickCache(NamedTuple):
    """What a transformer remembers of the ticks so far. A value: a step never changes what an older one says.

    Older caches share storage with younger ones; `written` says how much of it is taken, and whoever steps from an
    older cache a second time gets a copy. Trials may be of several lengths, where some of them were left out of a step.
    """

    keys: tuple[Tensor, ...]  # per layer [B, heads, capacity, width / heads]
    values: tuple[Tensor, ...]  # likewise
    length: Tensor  # [B] int64 ticks of each trial, on the CPU
    ticks: int  # of the longest
    written: list[int]  # [1] places of the shared storage that are taken

    def room(self) -> TickCache:
        """The cache with one more place that nobody else writes."""
        capacity, ticks = self.keys[0].shape[2], self.ticks + 1
        if self.written[0] == self.ticks and ticks <= capacity:
            self.written[0] = ticks
            return self._replace(ticks=ticks)
        more = max(ROOM, 2 * capacity if ticks > capacity else capacity)
        keys, values = (tuple(self._grown(store, more) for store in kind) for kind in (self.keys, self.values))
        return TickCache(keys, values, self.length, ticks, [ticks])

    def _grown(self, store: Tensor, capacity: int) -> Tensor:
        fresh = store.new_zeros(*store.shape[:2], capacity, store.shape[3])
        fresh[:, :, : self.ticks] = store[:, :, : self.ticks]
        return fresh


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """Rotary positions: columns i and i + d/2 of `[..., d]` are turned as a pair by `angle` `[..., d/2]`."""
    one, other = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((one * cos - other * sin, one * sin + other * cos), dim=-1)


class GRUGate(nn.Module):
    """GTrXL's gate: what a layer found enters the stream as the input of a gated recurrent unit enters its state."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.found, self.stream = nn.Linear(width, 3 * width), nn.Linear(width, 2 * width, bias=False)
        self.candidate = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.found.bias)
        with torch.no_grad():
            self.found.bias[width : 2 * width] = -SHUT

    def forward(self, stream: Tensor, found: Tensor) -> Tensor:
        """`[..., W]` twice to the stream `[..., W]`: (1 - z) x + z tanh(W_g y + U_g (r x)), z near 0 at the start."""
        reset, update, new = self.found(F.relu(found)).chunk(3, dim=-1)
        own_reset, own_update = self.stream(stream).chunk(2, dim=-1)
        new = torch.tanh(new + self.candidate(torch.sigmoid(reset + own_reset) * stream))
        return torch.lerp(stream, new, torch.sigmoid(update + own_update))


class Added(nn.Module):
    """The plain residual."""

    def forward(self, stream: Tensor, found: Tensor) -> Tensor:
        """Their sum."""
        return stream + found


class TickBlock(nn.Module):
    """Self-attention and a two-layer perceptron; each reads a normalised copy of the stream."""

    def __init__(self, width: int, heads: int, gate: Gate = "none"):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        gated = gate == "gru"
        self.gate_attention, self.gate_mlp = ((GRUGate(width) if gated else Added()) for _ in range(2))
        if gate == "small":  # at the start every layer passes the stream on as it is
            for layer in (self.out, self.down):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def asked(self, x: Tensor, angle: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[B, heads, t, W / heads]` of `[B, t, W]`; `angle` if positions are rotary."""
        batch, ticks, width = x.shape
        parts = self.qkv(self.norm_attention(x)).view(batch, ticks, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        if angle is not None:
            query, key = turned(query, angle), turned(key, angle)
        return query, key, value

    def answered(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The stream `[B, t, W]` after the block, from what attention found `[B, heads, t, W / heads]`."""
        x = self.gate_attention(x, self.out(mixed.transpose(1, 2).reshape(x.shape)))
        return self.gate_mlp(x, self.down(F.gelu(self.up(self.norm_mlp(x)))))

    def forward(self, x: Tensor, angle: Tensor | None = None) -> Tensor:
        """`[B, t, W]` to the same; every tick sees itself and those before it."""
        query, key, value = self.asked(x, angle)
        return self.answered(x, F.scaled_dot_product_attention(query, key, value, is_causal=True))


class CausalTransformer(nn.Module):
    """Features of every tick that depend on it and the ticks before it.

    Args:
        inputs: Width of an embedded tick.
        hidden: Width of the layers.
        layers: How many.
        heads: Attention heads per layer; they must divide `hidden`.
        ticks: The longest trial; where positions are rotary there is none, and it may be 0.
        place: How a tick's number is told.
        gate: How what a layer finds enters the stream: added ("none"), added with output layers that begin at zero
            ("small"), or through GTrXL's gates ("gru").
    """

    frequency: Tensor  # [hidden / heads / 2] rad per tick

    def __init__(
        self,
        inputs: int,
        hidden: int,
        *,
        layers: int,
        heads: int,
        ticks: int = 0,
        place: Place = "learned",
        gate: Gate = "none",
    ):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"{heads} attention heads do not divide a width of {hidden}")
        if place == "rotary" and hidden // heads % 2:
            raise ValueError(f"rotary positions need heads of an even width, and {hidden} over {heads} is odd")
        self.hidden, self.ticks, self.heads = hidden, ticks, heads
        self.enter = nn.Linear(inputs, hidden)
        self.place = nn.Parameter(torch.empty(ticks, hidden).normal_(std=0.02)) if place == "learned" else None
        self.blocks = nn.ModuleList(TickBlock(hidden, heads, gate) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        half = hidden // heads // 2
        self.register_buffer("frequency", BASE ** (-torch.arange(half) / max(1, half)), persistent=False)

    def begin(self, trials: int, device: torch.device | None = None) -> TickCache:
        """No tick yet."""
        empty = torch.zeros(trials, self.heads, 0, self.hidden // self.heads, device=device)
        stores = (empty,) * len(self.blocks)
        return TickCache(stores, stores, torch.zeros(trials, dtype=torch.int64), 0, [0])

    def step(self, x: Tensor, memory: TickCache) -> tuple[Tensor, TickCache]:
        """`[B, I]` and the cache to features `[B, W]` and the cache with this tick; ValueError beyond `ticks`."""
        even = bool((memory.length == memory.ticks).all())
        if self.place is not None and memory.ticks >= self.ticks:
            raise ValueError(f"this transformer was made for trials of {self.ticks} ticks, and this one is longer")
        cache, where = memory.room(), memory.length.to(x.device)
        h = self.enter(x)
        if self.place is not None:
            h = h + (self.place[memory.ticks] if even else self.place[where])
        angle = None if self.place is not None else self._angle(where)[:, None, None]
        rows, places = torch.arange(len(x), device=x.device), torch.arange(cache.ticks, device=x.device)
        seen = None if even else (places <= where[:, None])[:, None, None]
        h = h[:, None]
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            query, key, value = block.asked(h, angle)  # pyright: ignore[reportCallIssue]
            if even:
                keys[:, :, memory.ticks], values[:, :, memory.ticks] = key[:, :, 0], value[:, :, 0]
            else:
                keys[rows, :, where], values[rows, :, where] = key[:, :, 0], value[:, :, 0]
            past = (store[:, :, : cache.ticks] for store in (keys, values))
            h = block.answered(h, F.scaled_dot_product_attention(query, *past, attn_mask=seen))  # pyright: ignore
        return self.norm(h[:, 0]), cache._replace(length=memory.length + 1)

    def sequence(self, x: Tensor) -> Tensor:
        """`[T, B, I]` to features `[T, B, W]`."""
        h, angle = self.enter(x).transpose(0, 1), None
        if self.place is not None:
            h = h + self.place[: len(x)]
        else:
            angle = self._angle(torch.arange(len(x), device=x.device))
        for block in self.blocks:
            h = block(h, angle)
        return self.norm(h).transpose(0, 1)

    def _angle(self, tick: Tensor) -> Tensor:
        """`[...]` numbers of ticks to rotary angles `[..., W / heads / 2]`."""
        return tick[..., None] * self.frequency
