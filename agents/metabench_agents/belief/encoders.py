"""Inference of the hidden task: latents with their algebra, and encoders that turn a trial into a belief per tick.

A belief is a row of parameters. All zeros is the belief before anything is known, N(0, 1) or the uniform distribution,
for every latent here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metabench_agents.belief.tick_transformer import CausalTransformer
from metabench_agents.parts.fast.gru import gru_sequence
from metabench_agents.parts.layers import GRU, Products, Scaler, Space, action_size, encode_action, linear

LOGVAR_BOUND = 6.0  # log variances lie within plus and minus this: standard deviations from 0.05 to 20


class Latent(Protocol):
    """What the losses and the policy need of a distribution over the latent task."""

    size: int  # columns of a sample
    parameters: int  # columns of a belief

    def normalise(self, raw: Tensor) -> Tensor:
        """A network's output `[..., parameters]` as a belief."""
        ...

    def noise(self, *shape: int, generator: torch.Generator | None) -> Tensor:
        """What a draw per row needs of chance, `[*shape, size]`."""
        ...

    def place(self, belief: Tensor, noise: Tensor) -> Tensor:
        """The draws, differentiable in the belief: `[..., parameters]` to `[..., size]`."""
        ...

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(p || q) in nats, `[...]`."""
        ...

    def features(self, belief: Tensor) -> Tensor:
        """What a policy is shown of a belief, `[..., parameters]`."""
        ...

    def mean(self, belief: Tensor) -> Tensor:
        """The mean of a sample, `[..., size]`."""
        ...


class Gaussian:
    """A diagonal Gaussian; a belief is (mean, log variance)."""

    def __init__(self, size: int):
        self.size, self.parameters = size, 2 * size

    def normalise(self, raw: Tensor) -> Tensor:
        """Means as they are; log variances bounded smoothly, about the identity near 0."""
        mean, logvar = raw.chunk(2, dim=-1)
        return torch.cat((mean, LOGVAR_BOUND * torch.tanh(logvar / LOGVAR_BOUND)), dim=-1)

    def noise(self, *shape: int, generator: torch.Generator | None) -> Tensor:
        """Standard normal."""
        return torch.empty(*shape, self.size).normal_(generator=generator)

    def place(self, belief: Tensor, noise: Tensor) -> Tensor:
        """Mean + standard deviation x noise."""
        mean, logvar = belief.chunk(2, dim=-1)
        return mean + (0.5 * logvar).exp() * noise

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """1/2 sum (log v_q - log v_p + (v_p + (m_p - m_q)^2) / v_q - 1)."""
        (mean_p, logvar_p), (mean_q, logvar_q) = p.chunk(2, dim=-1), q.chunk(2, dim=-1)
        ratio = (logvar_p - logvar_q).exp() + (mean_p - mean_q) ** 2 * (-logvar_q).exp()
        return 0.5 * (logvar_q - logvar_p + ratio - 1.0).sum(-1)

    def features(self, belief: Tensor) -> Tensor:
        """Mean and log variance, as VariBAD's policy has them."""
        return belief

    def mean(self, belief: Tensor) -> Tensor:
        """The first half."""
        return belief[..., : self.size]


class Categorical:
    """Independent categorical variables; a belief is their log probabilities up to a constant each.

    Samples are Gumbel-softmax (Jang et al. 2017, arXiv 1611.01144), hard forward and soft backward.
    """

    def __init__(self, groups: int, classes: int, temperature: float = 1.0):
        self.groups, self.classes, self.temperature = groups, classes, temperature
        self.size = self.parameters = groups * classes

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.groups, self.classes))

    def normalise(self, raw: Tensor) -> Tensor:
        """Logits as they are."""
        return raw

    def noise(self, *shape: int, generator: torch.Generator | None) -> Tensor:
        """Gumbel's."""
        return torch.empty(*shape, self.size).exponential_(generator=generator).clamp_min(1e-20).log().neg()

    def place(self, belief: Tensor, noise: Tensor) -> Tensor:
        """One-hot per group; the gradient is the one of the softmax."""
        soft = (self._split(belief + noise) / self.temperature).softmax(-1)
        hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return (hard + soft - soft.detach()).flatten(-2)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """Sum over groups of sum_c p_c (log p_c - log q_c)."""
        log_p, log_q = self._split(p).log_softmax(-1), self._split(q).log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum((-2, -1))

    def features(self, belief: Tensor) -> Tensor:
        """Probabilities."""
        return self._split(belief).softmax(-1).flatten(-2)

    def mean(self, belief: Tensor) -> Tensor:
        """Probabilities."""
        return self.features(belief)


def make_latent(kind: str, size: int, classes: int) -> Gaussian | Categorical:
    """A "gaussian" of `size` dimensions, or "categorical": `size` variables of `classes` values."""
    if kind == "gaussian":
        return Gaussian(size)
    if kind == "categorical":
        return Categorical(size, classes)
    raise ValueError(f"unknown latent {kind!r}; there are gaussian and categorical")


class Core(Protocol):
    """Memory along a trial, tick by tick or over all ticks at once, with the same numbers."""

    hidden: int

    def begin(self, trials: int) -> Any:
        """The memory before the first tick."""
        ...

    def step(self, x: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """`[B, I]` and the memory to features `[B, H]` and the memory after it, as new tensors."""
        ...

    def sequence(self, x: Tensor) -> Tensor:
        """`[T, B, I]` to features `[T, B, H]`."""
        ...


class Recurrent(nn.Module):
    """A GRU as a core; its memory is its hidden state `[B, H]`."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.gru, self.hidden = GRU(inputs, hidden), hidden

    def begin(self, trials: int) -> Tensor:
        """Zeros."""
        return torch.zeros(trials, self.hidden)

    def step(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden state is the feature."""
        hidden = self.gru.step(x, memory)
        return hidden, hidden

    def sequence(self, x: Tensor) -> Tensor:
        """From zeros."""
        return gru_sequence(self.gru.core, x, x.new_zeros(x.shape[1], self.hidden))


def make_core(
    kind: str, inputs: int, hidden: int, layers: int, heads: int, ticks: int
) -> Recurrent | CausalTransformer:
    """A "gru", or a "transformer" of so many layers and heads over at most `ticks` ticks."""
    if kind == "gru":
        return Recurrent(inputs, hidden)
    if kind == "transformer":
        return CausalTransformer(inputs, hidden, layers=layers, heads=heads, ticks=ticks)
    raise ValueError(f"unknown encoder {kind!r}; there are gru and transformer")


class Encoder(nn.Module):
    """q(m | tau_{:t}): ticks of a trial to a belief per tick.

    A tick is what an agent is shown: observation, the action and reward that led to it, whether an episode begins.
    With `products` its embedding has second-order terms.
    """

    def __init__(
        self,
        observations: spaces.Box,
        actions: Space,
        latent: Latent,
        embed: int,
        core: Mapping[str, Any],
        products: bool = False,
    ):
        super().__init__()
        self.space, self.latent = actions, latent
        self.scaler = Scaler(observations)
        self.embed = (Products if products else linear)(observations.shape[0] + action_size(actions) + 2, embed)
        self.core = make_core(inputs=embed, **core)
        self.out = linear(self.core.hidden, latent.parameters, gain=0.1)  # near the prior at the start

    def tick(self, observation: Tensor, action: Tensor, reward: Tensor, first: Tensor) -> Tensor:
        """The embedded tick `[..., E]`; leading axes are any."""
        code = encode_action(action, first, self.space)
        last = torch.stack((reward, first.to(reward.dtype)), dim=-1)
        return torch.relu(self.embed(torch.cat((self.scaler(observation), code, last), dim=-1)))

    def begin(self, trials: int) -> Any:
        """The core's memory before the first tick."""
        return self.core.begin(trials)

    def step(self, tick: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """An embedded tick `[B, E]` to the belief `[B, parameters]` and the memory after it."""
        feature, memory = self.core.step(tick, memory)
        return self.latent.normalise(self.out(feature)), memory

    def forward(self, observation: Tensor, action: Tensor, reward: Tensor, first: Tensor) -> Tensor:
        """Whole trials `[T, B, ...]` to the beliefs `[T, B, parameters]` after every tick."""
        feature = self.core.sequence(self.tick(observation, action, reward, first))
        return self.latent.normalise(self.out(feature))
