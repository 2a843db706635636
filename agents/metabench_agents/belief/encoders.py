"""Inference of the hidden task: latents with their algebra, and encoders that turn a trial into a belief per tick.

A belief is a row of parameters. All zeros is the belief before anything is known, N(0, 1) or the uniform distribution,
for every latent here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metabench import Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.attention.ticks import CausalTransformer
from metabench_agents.parts.fast.gru import gru_sequence
from metabench_agents.parts.layers import (
    GRU,
    Products,
    Space,
    action_size,
    encode_action,
    linear,
    make_scaler,
    nothing_before,
)

LOGVAR_BOUND = 6.0  # log variances lie within plus and minus this: standard deviations from 0.05 to 20


@dataclass(frozen=True)
class LatentConfig:
    """Which distribution the hidden task has."""

    kind: str = "gaussian"  # or categorical
    size: int = 5  # dimensions, or categorical variables
    classes: int = 4  # values of each categorical variable


@dataclass(frozen=True)
class EncoderConfig:
    """Which network remembers the trial, and its sizes."""

    kind: str = "gru"  # or transformer
    embed: int = 64  # width of a tick's embedding
    hidden: int = 64  # width of the recurrent core, or of the transformer
    layers: int = 2  # of the transformer
    heads: int = 4  # attention heads of each


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


class GaussianLatent:
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


class CategoricalLatent:
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


def make_latent(config: LatentConfig) -> GaussianLatent | CategoricalLatent:
    """The distribution; ValueError for an unknown kind."""
    if config.kind == "gaussian":
        return GaussianLatent(config.size)
    if config.kind == "categorical":
        return CategoricalLatent(config.size, config.classes)
    raise ValueError(f"unknown latent {config.kind!r}; there are gaussian and categorical")


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

    def each(self, x: Tensor, memory: Tensor) -> Tensor:
        """Of K memories of each row, `[B, K, H]`, the next ones."""
        return self.gru.each(x, memory)

    def sequence(self, x: Tensor) -> Tensor:
        """From zeros."""
        return gru_sequence(self.gru.core, x, x.new_zeros(x.shape[1], self.hidden))


def make_core(config: EncoderConfig, ticks: int) -> Core:
    """What remembers a trial of at most `ticks` ticks; ValueError for an unknown kind."""
    if config.kind == "gru":
        return Recurrent(config.embed, config.hidden)
    if config.kind == "transformer":
        return CausalTransformer(config.embed, config.hidden, layers=config.layers, heads=config.heads, ticks=ticks)
    raise ValueError(f"unknown encoder {config.kind!r}; there are gru and transformer")


class TrialMemory(NamedTuple):
    """What an encoder remembers of trials that advance together."""

    begun: bool  # whether a tick has been seen
    core: Any  # the core's memory


class BeliefEncoder(nn.Module):
    """q(m | tau_{:t}): ticks of a trial to a belief per tick.

    At a tick it is fed the trial's last transition (where it led, action, reward), and whether an episode begins. Where
    one does, the last transition is the one that ended the episode before: it led to `Timestep.final`, and the new
    episode's first observation is left to the policy. At the trial's start there is none but the first observation.

    Args:
        config: Kind and sizes.
        observations: The environment's observation space, for the columns' scale.
        actions: Its action space.
        latent: What beliefs are of.
        ticks: The longest trial.
        products: Whether the embedding of a tick has second-order terms.
        normalise: Whether observations without bounds are brought to a running unit scale.
    """

    def __init__(
        self,
        config: EncoderConfig,
        observations: spaces.Box,
        actions: Space,
        latent: Latent,
        ticks: int,
        products: bool = False,
        normalise: bool = False,
    ):
        super().__init__()
        self.space, self.latent = actions, latent
        self.scaler = make_scaler(observations, normalise)
        columns = observations.shape[0] + action_size(actions) + 2
        self.embed = (Products if products else linear)(columns, config.embed)
        self.core = make_core(config, ticks)
        self.out = linear(self.core.hidden, latent.parameters, gain=0.1)  # near the prior at the start

    def tick(self, came: Tensor, action: Tensor, reward: Tensor, first: Tensor, absent: Tensor) -> Tensor:
        """The embedded tick `[..., E]`; leading axes are any.

        Args:
            came: `[..., O]` the observation that the last transition led to.
            action: `[...]` or `[..., A]` its action.
            reward: `[...]` its reward; zero where `absent`.
            first: `[...]` bool, an episode begins.
            absent: `[...]` bool, there was no transition.
        """
        code = encode_action(action, self.space, absent)
        last = torch.stack((reward, first.to(reward.dtype)), dim=-1)
        return torch.relu(self.embed(torch.cat((self.scaler(came), code, last), dim=-1)))

    def begin(self, trials: int) -> TrialMemory:
        """Nothing has been seen."""
        return TrialMemory(False, self.core.begin(trials))

    def step(self, step: Timestep, memory: TrialMemory, protocol: str = PROTOCOL_VERSION) -> tuple[Tensor, TrialMemory]:
        """What an agent is shown at a tick to the belief `[B, parameters]` and the memory after it.

        Args:
            step: The tick.
            memory: Of the trial so far; stays as it is.
            protocol: The version under which the encoder learned. One of `slots-1` never reads how an episode ended:
                where one begins it is fed its first observation, with zeros.
        """
        observation, action, reward, first, final = (torch.as_tensor(column) for column in step)
        absent = nothing_before(first, memory.begun, protocol)
        came = torch.where((first & ~absent)[:, None], final, observation).float()
        tick = self.tick(came, action, torch.where(absent, 0.0, reward.float()), first, absent)
        feature, core = self.core.step(tick, memory.core)
        return self.latent.normalise(self.out(feature)), TrialMemory(True, core)

    def forward(self, came: Tensor, action: Tensor, reward: Tensor, first: Tensor) -> Tensor:
        """Whole trials `[T, B, ...]`, as `Trials.ticks` gives them, to the beliefs `[T, B, parameters]`."""
        absent = torch.zeros_like(first)
        absent[0] = True
        feature = self.core.sequence(self.tick(came, action, reward, first, absent))
        return self.latent.normalise(self.out(feature))
