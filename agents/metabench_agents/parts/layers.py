"""Networks shared by the agents: layers, action heads, observation scaling, a GRU for steps and for sequences."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.parts.compiling import opaque

Space: TypeAlias = "spaces.Box | spaces.Discrete"

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # keeps a Gaussian policy between a rounding error and noise beyond any space


def linear(inputs: int, outputs: int, gain: float = math.sqrt(2.0)) -> nn.Linear:
    """A linear layer with orthogonal weights and zero bias, as PPO implementations start it."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Products(nn.Module):
    """W x + b + (A x + a) * (C x + c): a linear layer with second-order terms, for first layers.

    Whether two columns are equal, or which way one lies from another, is a matter of products; a perceptron on the
    columns themselves needs many more gradient steps to find it.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.own, self.left, self.right = linear(inputs, outputs), linear(inputs, outputs), linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., I]` to `[..., O]`."""
        return self.own(x) + self.left(x) * self.right(x)


class Scaler(nn.Module):
    """Maps columns with finite bounds to [-1, 1]; leaves the others as they are."""

    center: Tensor
    inverse: Tensor

    def __init__(self, space: spaces.Box):
        super().__init__()
        low, high = (torch.as_tensor(np.asarray(x, np.float64)) for x in (space.low, space.high))
        bounded = torch.isfinite(low) & torch.isfinite(high) & (high > low)
        half = torch.where(bounded, (high - low) / 2, 1.0)
        self.register_buffer("center", torch.where(bounded, low + half, 0.0).float())
        self.register_buffer("inverse", (1.0 / half).float())

    def forward(self, x: Tensor) -> Tensor:
        """`[..., O]` to `[..., O]`."""
        return (x - self.center) * self.inverse


class ObservationScaler(Scaler):
    """A `Scaler` that brings the columns without bounds to unit scale, by the moments of all that it was shown.

    `watch` is called between iterations, never within one: the policy that is improved is the one that played.
    """

    free: Tensor
    count: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, space: spaces.Box, bound: float = 10.0):
        super().__init__(space)
        low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
        free = ~(np.isfinite(low) & np.isfinite(high))
        self.bound = bound
        self.register_buffer("free", torch.as_tensor(free))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(free.shape, dtype=torch.float64))
        self.register_buffer("spread", torch.zeros(free.shape, dtype=torch.float64))

    @torch.no_grad()
    def watch(self, observation: Tensor) -> None:
        """Takes in observations `[..., O]`; merges their moments with those of all before (Chan et al. 1979)."""
        rows = observation.detach().flatten(0, -2).to(self.count.device).double()
        total = self.count + len(rows)
        gap = rows.mean(0) - self.mean
        self.spread += rows.var(0, correction=0) * len(rows) + gap**2 * (self.count * len(rows) / total)
        self.mean += gap * (len(rows) / total)
        self.count.copy_(total)
        deviation = (self.spread / total).sqrt().clamp_min(1e-3)  # a column that never changes is only centred
        self.center.copy_(torch.where(self.free, self.mean.float(), self.center))
        self.inverse.copy_(torch.where(self.free, (1.0 / deviation).float(), self.inverse))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., O]` to `[..., O]`, columns without bounds within plus and minus `bound` deviations."""
        return super().forward(x).clamp(-self.bound, self.bound)


def make_scaler(space: spaces.Box, normalise: bool) -> Scaler:
    """What observations are scaled by: their bounds, and where they have none their running moments if so wished."""
    return ObservationScaler(space) if normalise else Scaler(space)


def watch(networks: Iterable[nn.Module], observation: Tensor) -> None:
    """Shows observations `[..., O]` to every scaler of networks that follows them."""
    for part in (part for network in networks for part in network.modules()):
        if isinstance(part, ObservationScaler):
            part.watch(observation)


class RunningScaler(nn.Module):
    """Shifts and scales columns by their running mean and spread; what it has not been shown passes unchanged."""

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, columns: int, memory: int = 20, bound: float = 5.0):
        super().__init__()
        self.memory, self.bound = memory, bound
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("square", torch.ones(columns))
        self.register_buffer("count", torch.zeros(()))

    def update(self, x: Tensor) -> None:
        """Takes in `[..., C]`; averages over about the last `memory` calls."""
        with torch.no_grad():
            rows = x.flatten(0, -2).to(self.count.device)
            self.count += 1
            weight = 1.0 / self.count.clamp_max(self.memory)
            self.mean.lerp_(rows.mean(0), weight)
            self.square.lerp_((rows**2).mean(0), weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` to `[..., C]`, within plus and minus `bound` spreads."""
        spread = (self.square - self.mean**2).clamp_min(1e-6).sqrt()
        return torch.where(self.count > 0, ((x - self.mean) / spread).clamp(-self.bound, self.bound), x)


def action_size(space: Space) -> int:
    """Columns of an encoded action: one-hot for Discrete, itself for Box."""
    return int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape))


def nothing_before(first: Tensor, begun: bool, protocol: str) -> Tensor:
    """Where no action and reward are known that came before a tick, `[B]` bool.

    That is the trial's start. Agents that learned under the protocol `slots-1` know none at any episode's start.

    Args:
        first: `[B]` bool, an episode starts at the tick.
        begun: Whether the trial has: it is not its first tick.
        protocol: The version under which the agent learned.
    """
    return first if protocol == "slots-1" else torch.full_like(first, not begun)


@functools.lru_cache(maxsize=64)
def _classes(count: int, device: torch.device) -> Tensor:
    """0 .. count - 1; kept, because a graph can copy nothing from the host."""
    with torch.inference_mode(False):
        return torch.arange(count, device=device)


_reaches: dict[tuple[bytes, torch.device], Tensor] = {}


def _reach(key: bytes, space: spaces.Box, device: torch.device) -> Tensor:
    """How far each action of a box goes from 0; 1 where it has no bounds. Kept for the same reason."""
    if (key, device) not in _reaches:
        size = np.maximum(abs(space.low), abs(space.high))
        size = np.where(np.isfinite(size) & (size > 0), size, 1.0)
        with torch.inference_mode(False):
            _reaches[key, device] = torch.as_tensor(size, dtype=torch.float32, device=device)
    return _reaches[key, device]


@opaque  # spaces are NumPy's, which the compiler trips over; there is nothing in it to fuse
def encode_action(action: Tensor, space: Space, absent: Tensor | None = None) -> Tensor:
    """`[...]` or `[..., A]` to `[..., action_size]` float; zeros where `absent`: no action came before."""
    if isinstance(space, spaces.Discrete):
        code = (action[..., None] == _classes(int(space.n), action.device)).float()
    else:
        code = action.float() / _reach(np.maximum(abs(space.low), abs(space.high)).tobytes(), space, action.device)
    return code if absent is None else torch.where(absent[..., None], 0.0, code)


class GRU(nn.Module):
    """A gated recurrent unit, one tick at a time or over a whole sequence, with the same weights."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.core = nn.GRU(inputs, hidden)
        for name, weight in self.core.named_parameters():
            nn.init.zeros_(weight) if name.startswith("bias") else nn.init.orthogonal_(weight)
        self.hidden = hidden
        self.written_out = False  # whether torch's own kernels are left aside: many networks at once have none

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        """`[B, I]`, `[B, H]` to the next hidden state `[B, H]`."""
        if self.written_out:
            return self._next(self._given(x), h)
        return torch.gru_cell(x, h, *self.core.all_weights[0])

    def each(self, x: Tensor, h: Tensor) -> Tensor:
        """`[B, I]` and K states of each row, `[B, K, H]`, to their next `[B, K, H]`; the input is read once a row."""
        return self._next(self._given(x)[:, None], h)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """`[T, B, I]`, `[B, H]` to the hidden states `[T, B, H]` after every tick."""
        if not self.written_out:
            return self.core(x, h[None])[0]
        states = []
        for given in self._given(x).unbind():
            h = self._next(given, h)
            states.append(h)
        return torch.stack(states)

    def _given(self, x: Tensor) -> Tensor:
        """What the input weights make of the input."""
        weight, _, bias, _ = self.core.all_weights[0]
        return F.linear(x, weight, bias)

    def _next(self, given: Tensor, h: Tensor) -> Tensor:
        """The next state, from what the input weights make of the input."""
        _, weight, _, bias = self.core.all_weights[0]
        own = F.linear(h, weight, bias)
        reset, update, new = given.chunk(3, dim=-1)
        own_reset, own_update, own_new = own.chunk(3, dim=-1)
        update = torch.sigmoid(update + own_update)
        new = torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)
        return new + update * (h - new)


class ActionHead(nn.Module):
    """A distribution over actions: categorical for Discrete, a Gaussian with its own spread for Box.

    Gaussian actions live in units of the space's half width around its centre; `to_env` maps them there.
    """

    center: Tensor  # [A] of a box; and half its width
    half_width: Tensor

    def __init__(self, inputs: int, space: Space, log_std: float = -0.5):
        super().__init__()
        self.space, self.discrete = space, isinstance(space, spaces.Discrete)
        self.out = linear(inputs, action_size(space), gain=0.01)  # near-uniform at the start
        if isinstance(space, spaces.Box):
            self.log_std = nn.Parameter(torch.full((action_size(space),), log_std))
            self.low, self.high = np.asarray(space.low), np.asarray(space.high)
            for name, unit in zip(("center", "half_width"), self._units(), strict=True):
                self.register_buffer(name, torch.as_tensor(unit), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits or means, `[..., A]`."""
        return self.out(x)

    def noise(self, *rows: int, generator: torch.Generator) -> Tensor:
        """What a sample needs of chance, `[*rows, A]`, on the generator's device."""
        empty = torch.empty(*rows, self.out.out_features, device=generator.device)
        return empty.exponential_(generator=generator) if self.discrete else empty.normal_(generator=generator)

    def place(self, params: Tensor, noise: Tensor) -> Tensor:
        """The sample that the noise picks: actions `[...]` int64 or `[..., A]`."""
        if self.discrete:  # the smallest of independent exponentials with these rates is a sample (Gumbel-max)
            return (params - noise.log()).argmax(-1)
        return params + self._std() * noise

    def sample(self, params: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions `[...]` int64 or `[..., A]`; the most probable ones without a generator."""
        if generator is None:
            return params.argmax(-1) if self.discrete else params
        empty = torch.empty_like(params)
        drawn = empty.exponential_(generator=generator) if self.discrete else empty.normal_(generator=generator)
        return ActionHead.place(self, params, drawn)

    def uniform(self, params: Tensor, generator: torch.Generator) -> Tensor:
        """Actions even over the space, in the policy's units, as many as `params` has rows."""
        if self.discrete:
            return torch.randint(params.shape[-1], params.shape[:-1], generator=generator)
        return 2.0 * torch.rand(params.shape, generator=generator) - 1.0

    def clamped_log_std(self) -> Tensor:
        """Of a Gaussian, `[A]`."""
        return self.log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def _std(self) -> Tensor:
        return self.clamped_log_std().exp()

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log probability (density) `[...]` of the actions."""
        if self.discrete:
            return params.log_softmax(-1).gather(-1, action[..., None])[..., 0]
        std = self._std()
        return (-0.5 * ((action - params) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy `[...]` in nats."""
        if self.discrete:
            log_p = params.log_softmax(-1)
            return -(log_p.exp() * log_p).sum(-1)
        return (self._std().log() + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(params.shape[:-1])

    def to_env(self, action: Tensor) -> np.ndarray:
        """Actions as the environment takes them: int64, or clipped into the box."""
        raw = action.cpu().numpy()
        if self.discrete:
            return raw
        center, half = self._units()
        return np.clip(center + half * raw, self.low, self.high).astype(self.low.dtype)

    def from_env(self, action: Tensor) -> Tensor:
        """Actions in the policy's units: the inverse of `to_env`, clipping aside."""
        if self.discrete:
            return action.long()
        return ((action - self.center) / self.half_width).float()

    def _units(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre and half width of the space; 0 and 1 where it has no bounds."""
        bounded = np.isfinite(self.low) & np.isfinite(self.high)
        low, high = np.where(bounded, self.low, -1.0), np.where(bounded, self.high, 1.0)
        return (high + low) / 2, (high - low) / 2
