"""A GPT-2 style transformer, small enough to read in one sitting: blocks, attention, dropout, and a cache for acting.

Radford et al. 2019 as decision transformers use it (Chen et al. 2021, arXiv 2106.01345): pre-norm blocks, ReLU, no
positional embedding (the tokens carry the time themselves). Attention is written out, because at these sizes (one head
of 128, 60 to 75 tokens) it is faster on a CPU than `scaled_dot_product_attention`; `attention="sdpa"` is there to
compare, and gives the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.parts.fast.precision import small_products

AttentionKind = Literal["plain", "sdpa"]
MASKED = -1e9  # added to the scores of what must not be seen; finite, so that a row that sees nothing stays a number
BYTE = 256
FEW = 4  # queries up to which a head asks by a query of the whole width
GOLDEN = -0x61C8864680B583EB  # 2^64 over the golden ratio, as a signed number


@dataclass(frozen=True)
class TransformerSettings:
    """Sizes of a transformer; the released Meta-DT's."""

    layers: int = 3  # blocks
    heads: int = 1  # of attention
    width: int = 128  # of the stream of tokens
    dropout: float = 0.1  # after the embedding, in attention and in every block
    attention: AttentionKind = "plain"  # or "sdpa", which is slower at these sizes on a CPU


def causal(tokens: int, device: torch.device | None = None, begin: int = 0) -> Tensor:
    """`[1, T - begin, T]` what token i (row) may see: 0 for itself and what stands before it, `MASKED` for the rest."""
    return torch.full((tokens - begin, tokens), MASKED, device=device).triu(begin + 1)[None]


class Words:
    """Random words that follow from a number handed in, so that a graph has new ones at every replay.

    Word i of a key is a hash of both (Steele et al. 2014, "Fast splittable pseudorandom number generators", the
    finaliser of SplitMix64), the same on every device. From the second update on all words are made at once.
    """

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.made: Tensor | None = None
        self.place, self.most = 0, 0

    def begin(self, key: Tensor) -> None:
        """An update begins; `key` is an int64 number on the device."""
        self.key, self.place = key, 0
        self.made = self._hash(0, self.most) if self.most else None

    def take(self, count: int) -> Tensor:
        """The next words `[count]` int64."""
        start, self.place = self.place, self.place + count
        if self.made is not None and self.place <= len(self.made):
            return self.made[start : self.place]
        self.most = max(self.most, self.place)
        return self._hash(start, count)

    def _hash(self, start: int, count: int) -> Tensor:
        assert self.key is not None
        z = (torch.arange(start + 1, start + count + 1, device=self.key.device) * GOLDEN).add_(self.key)
        for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
            z ^= (z >> shift) & ((1 << (64 - shift)) - 1)  # the sign is no bit to be copied
            z *= factor
        return z ^ ((z >> 31) & ((1 << 33) - 1))


class Dropout(nn.Module):
    """Zeroes each entry with a probability and scales the others up, from one random byte per entry.

    The probability is rounded to the next 1/256 (0.1 becomes 26/256). The streams of `torch.nn.functional.dropout`
    cost four times as much on a CPU, a tenth of a whole update. Draws come from `words` where there are some, else from
    `generator`, torch's own by default.
    """

    def __init__(self, probability: float):
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"the dropout probability must lie in [0, 1), got {probability}")
        self.threshold = round(probability * BYTE)
        self.generator: torch.Generator | None = None
        self.words: Words | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; unchanged while evaluating."""
        if not self.training or self.threshold == 0:
            return x
        count = (x.numel() + 7) // 8
        if self.words is not None:
            words = self.words.take(count)
        else:
            words = torch.empty(count, dtype=torch.int64, device=x.device)
            words.random_(-(2**63), None, generator=self.generator)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.threshold
        return x * kept.to(x.dtype).mul_(BYTE / (BYTE - self.threshold))


class TokenCache(NamedTuple):
    """The keys and values of the tokens so far. A value: extending it never changes what an older one says.

    Older caches share storage with younger ones; `written` says how much of it is taken, and whoever extends an older
    cache a second time gets a copy.
    """

    keys: Tensor  # [layers, B, capacity, D]
    values: Tensor  # [layers, B, capacity, D]
    length: int  # tokens that belong to this cache
    written: list[int]  # [1] how many are taken of the shared storage

    @classmethod
    def empty(cls, layers: int, rows: int, capacity: int, width: int) -> TokenCache:
        """No tokens yet, room for `capacity`."""
        shape = (layers, rows, capacity, width)
        return cls(torch.empty(shape), torch.empty(shape), 0, [0])

    def room(self, tokens: int) -> TokenCache:
        """The cache with `tokens` more places at its end, which nobody else will write."""
        length, capacity = self.length + tokens, self.keys.shape[2]
        if self.length == self.written[0] and length <= capacity:
            self.written[0] = length
            return self._replace(length=length)
        layers, rows, _, width = self.keys.shape
        fresh = TokenCache.empty(layers, rows, max(length, capacity), width)
        fresh.keys[:, :, : self.length] = self.keys[:, :, : self.length]
        fresh.values[:, :, : self.length] = self.values[:, :, : self.length]
        return fresh._replace(length=length, written=[length])


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward layer; each reads a normalised copy of the stream and adds to it."""

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        width, heads = settings.width, settings.heads
        if width % heads:
            raise ValueError(f"the width must be a multiple of the heads, got {width} and {heads}")
        self.heads, self.attention = heads, settings.attention
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop_weights, self.drop_attended, self.drop_forward = (Dropout(settings.dropout) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor, keep: slice | None = None) -> Tensor:
        """`[B, T, D]` to the same, or to the positions `keep` of it; `bias` `[1 or B, T, T]` is added to the scores."""
        h = self.norm1(x)
        if keep is None:
            query, key, value = self.qkv(h).chunk(3, dim=-1)
        else:  # nobody asks for the others: only their keys and values are needed
            x, bias, width = x[:, keep], bias[:, keep], x.shape[-1]
            query = F.linear(h[:, keep], self.qkv.weight[:width], self.qkv.bias[:width])
            key, value = F.linear(h, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, dim=-1)
        return self._add(x, self.attend(query, key, value, bias))

    def extend(self, x: Tensor, bias: Tensor, keys: Tensor, values: Tensor, keep: slice) -> Tensor:
        """The same for new tokens `[B, n, D]` after cached ones.

        Args:
            x: The new tokens.
            bias: `[1 or B, n, T]` over all T tokens, the new ones included.
            keys: `[B, T, D]`; the last n are written.
            values: Likewise.
            keep: The positions, of the n, whose output is wanted.
        """
        new = x.shape[1]
        query, key, value = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        keys[:, -new:], values[:, -new:] = key, value
        query, bias = query[:, keep], bias[:, keep]
        attend = self.attend_few if self.heads > 1 and query.shape[1] <= FEW else self.attend
        with small_products():
            attended = attend(query, keys, values, bias)
        return self._add(x[:, keep], attended)

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop_attended(self.out(attended))
        return x + self.drop_forward(self.down(F.relu(self.up(self.norm2(x)))))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """softmax(q k / sqrt(d) + bias) v per head: `[B, n, D]`, `[B, T, D]` twice, `[1 or B, n, T]` to `[B, n, D]`."""
        rows, asked, width = query.shape
        if self.attention == "sdpa":
            q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
            drop = self.drop_weights.threshold / BYTE if self.training else 0.0
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None].to(q.dtype), dropout_p=drop)
            return out.transpose(1, 2).reshape(rows, asked, width)
        if self.heads > 1:  # heads become rows
            query, key, value = (self._split(x) for x in (query, key, value))
            bias = bias.repeat_interleave(self.heads, dim=0) if len(bias) > 1 else bias
        scale = 1.0 / math.sqrt(width // self.heads)
        scores = torch.baddbmm(bias.to(query.dtype), query, key.transpose(1, 2), alpha=scale)
        out = torch.bmm(self.drop_weights(scores.softmax(dim=-1)), value)
        if self.heads > 1:
            out = out.view(rows, self.heads, asked, -1).transpose(1, 2).reshape(rows, asked, width)
        return out

    def attend_few(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """The same for few queries and many keys: the heads' queries are zero but for their own columns.

        That is H times the products, and nothing of keys and values has to be copied.
        """
        asked, width = query.shape[1:]
        head = torch.arange(self.heads, device=query.device)[:, None]
        own = (torch.arange(width, device=query.device) // (width // self.heads) == head).to(query.dtype)  # [H, D]
        bias = bias.to(query.dtype).repeat_interleave(self.heads, dim=1)
        apart, scale = (query[:, :, None] * own).flatten(1, 2), 1.0 / math.sqrt(width // self.heads)
        scores = torch.baddbmm(bias, apart, key.transpose(1, 2), alpha=scale)
        out = torch.bmm(self.drop_weights(scores.softmax(dim=-1)), value).unflatten(1, (asked, self.heads))
        return (out * own).sum(2)

    def _split(self, x: Tensor) -> Tensor:
        """`[B, T, D]` to `[B * heads, T, D / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1)


class Transformer(nn.Module):
    """Blocks and a final norm, over token embeddings made elsewhere."""

    def __init__(self, settings: TransformerSettings):
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)
        self.drop = Dropout(settings.dropout)
        for name, weight in self.named_parameters():  # GPT-2's start
            if name.endswith("weight") and weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, x: Tensor, bias: Tensor, keep: slice | None = None) -> Tensor:
        """Outputs `[B, T, D]`, or those of the positions `keep`, which saves most of the last block.

        Args:
            x: `[B, T, D]` tokens.
            bias: `[1 or B, T, T]` added to the scores; `causal(T)`, with more of it masked where tokens are padding.
            keep: The positions whose output is wanted.
        """
        x = self.drop(x)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x = block(x, bias, keep if index == last else None)
        return self.norm(x)

    def extend(self, x: Tensor, bias: Tensor, cache: TokenCache, keep: slice) -> tuple[Tensor, TokenCache]:
        """Outputs of the positions `keep` of n new tokens `[B, n, D]`, which see `cache` as well; and the new cache.

        Without dropout (a module in training mode has it here too) the outputs are those of `forward` over all tokens.

        Args:
            x: The new tokens.
            bias: `[1 or B, n, T]` over the cached and the new tokens.
            cache: What has been seen; not changed.
            keep: The positions, of the n, whose output is wanted.
        """
        cache = cache.room(x.shape[1])
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            keys, values = (store[index, :, : cache.length] for store in (cache.keys, cache.values))
            x = block.extend(x, bias, keys, values, keep if index == last else slice(None))  # pyright: ignore[reportCallIssue]
        return self.norm(x), cache
