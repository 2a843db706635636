"""Soft actor-critic as a mechanism: the whole update is one pure function of tensors, so it compiles into one graph.

Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905): twin critics (eq. 5
with the minimum of two targets), reparameterised actor (eq. 9), learned temperature (eq. 18). What is updated in what
order, the bounds of the log deviation and the learning rates are CleanRL's `sac_continuous_action.py`.

Deviations, with reasons:
- The actor and the temperature are updated once per critic update; CleanRL updates them twice every second time,
  which is the same count. The temperature's loss uses the actor's own sample instead of a second one: one forward
  pass less.
- The twin critics are one stack of matrices, multiplied by `bmm`; gradients come from `torch.func`, Adam is written out
  (equal to `torch.optim.Adam` with eps 1e-8, tested): so nothing interrupts the graph.
- Observations are scaled by running moments and clipped: hidden-task benchmarks mix metres, radians and task
  parameters.

The form `compiled` wraps the update in `torch.compile`: it needs a C++ compiler and 15 to 30 s once, and pays from some
thousand updates on. Float32 products are made the fastest way that keeps their precision (`precision.products`).
The precision `bf16` casts the inputs of matrix products, which is faster only where the CPU has AMX or AVX512-BF16, and
learns as well (docs/datasets.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from metabench_agents.parts.compiling import can_compile as can_compile
from metabench_agents.parts.device import Device, Updates
from metabench_agents.parts.fast.capture import mapped
from metabench_agents.parts.memory import Replay

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # of the policy, CleanRL's
CLIP = 10.0  # scaled observations stay within this
FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8  # Adam's defaults
TANH_MARGIN = 1e-6  # keeps the logarithm of tanh's derivative finite

Net = list[Tensor]  # weight, bias of each layer; weights [E, I, O], biases [E, 1, O] of E networks side by side


@dataclass(frozen=True)
class SACConfig:
    """Settings of the update."""

    hidden: int = 256  # width of both hidden layers, of actor and critics
    batch: int = 256  # steps of an update
    discount: float = 0.99  # gamma
    target_rate: float = 0.005  # how far the target critics follow in an update
    critic_rate: float = 1e-3  # Adam's learning rate of the critics and the temperature
    actor_rate: float = 3e-4  # Adam's learning rate of the actor
    entropy: float = 1.0  # target entropy is minus this per action dimension


class SACBatch(NamedTuple):
    """A batch of steps."""

    observation: Tensor  # [B, O]
    action: Tensor  # [B, A] in [-1, 1]
    reward: Tensor  # [B]
    next_observation: Tensor  # [B, O]
    terminal: Tensor  # [B] 1 where nothing follows by the task's own rule, else 0


class Noise(NamedTuple):
    """The Gaussian numbers of one update, `[B, A]` each."""

    following: Tensor  # for the action at the next observation
    here: Tensor  # for the action at the observation


def initial_net(copies: int, sizes: tuple[int, ...], generator: torch.Generator) -> Net:
    """Uniform within 1 / sqrt(inputs), as `nn.Linear` starts."""
    net: Net = []
    for inputs, outputs in itertools.pairwise(sizes):
        bound = 1.0 / math.sqrt(inputs)
        for shape in ((copies, inputs, outputs), (copies, 1, outputs)):
            net.append((torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound)
    return net


def forward(net: Net, x: Tensor, bfloat16: bool = False) -> Tensor:
    """`[E, B, I]` to `[E, B, O]`: ReLU between the layers."""
    last = len(net) // 2 - 1
    for layer in range(last + 1):
        weight, bias = net[2 * layer], net[2 * layer + 1]
        product = torch.bmm(x.bfloat16(), weight.bfloat16()).float() if bfloat16 else torch.bmm(x, weight)
        x = product + bias
        if layer < last:
            x = torch.relu(x)
    return x


def critics(net: Net, observation: Tensor, action: Tensor, bfloat16: bool = False) -> Tensor:
    """Values `[2, B]` of the twin critics."""
    x = torch.cat((observation, action), dim=-1)
    return forward(net, x.expand(2, *x.shape).contiguous(), bfloat16)[..., 0]  # bmm is slow on a repeated matrix


def gaussian(net: Net, observation: Tensor, bfloat16: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and log deviation `[B, A]` of the action before tanh."""
    mean, raw = forward(net, observation[None], bfloat16)[0].chunk(2, dim=-1)
    return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1.0)


def sample(net: Net, observation: Tensor, noise: Tensor, bfloat16: bool = False) -> tuple[Tensor, Tensor]:
    """Reparameterised actions `[B, A]` in (-1, 1) and their log densities `[B]`.

    log pi(a|s) = sum_i log N(u_i) - log(1 - tanh(u_i)^2), a = tanh(u), u = mean + std * noise.
    """
    mean, log_std = gaussian(net, observation, bfloat16)
    action = torch.tanh(mean + log_std.exp() * noise)
    density = -0.5 * noise**2 - log_std - 0.5 * math.log(2.0 * math.pi)
    return action, (density - torch.log(1.0 - action**2 + TANH_MARGIN)).sum(-1)


def critic_loss(net: Net, batch: SACBatch, target: Tensor, bfloat16: bool = False) -> tuple[Tensor, Tensor]:
    """Mean squared error of both critics against `[B]` targets, summed over the two; and their mean value."""
    value = critics(net, batch.observation, batch.action, bfloat16)
    return ((value - target) ** 2).mean(-1).sum(), value.mean()


def actor_loss(
    net: Net, critic: Net, observation: Tensor, noise: Tensor, temperature: Tensor, bfloat16: bool = False
) -> tuple[Tensor, Tensor]:
    """mean(alpha log pi(a|s) - min Q(s, a)); and log pi `[B]`."""
    action, log_prob = sample(net, observation, noise, bfloat16)
    value = critics(critic, observation, action, bfloat16).min(0).values
    return (temperature * log_prob - value).mean(), log_prob


def soft_target(
    critic: Net,
    actor: Net,
    batch: SACBatch,
    noise: Tensor,
    temperature: Tensor,
    config: SACConfig,
    bfloat16: bool = False,
) -> Tensor:
    """`[B]` r + gamma (1 - terminal) (min Q'(s', a') - alpha log pi(a'|s')), a' from the policy."""
    action, log_prob = sample(actor, batch.next_observation, noise, bfloat16)
    value = critics(critic, batch.next_observation, action, bfloat16).min(0).values - temperature * log_prob
    return batch.reward + config.discount * (1.0 - batch.terminal) * value


def adam(params: Net, grads: Net, first: Net, second: Net, step: Tensor, rate: float) -> None:
    """One step of Adam, in place; `step` counts from 1."""
    correct_first, correct_second = 1.0 - FIRST_DECAY**step, 1.0 - SECOND_DECAY**step
    for param, grad, m, v in zip(params, grads, first, second, strict=True):
        m.add_(grad - m, alpha=1.0 - FIRST_DECAY)  # lerp_ has no form for many seeds at once
        v.mul_(SECOND_DECAY).add_(grad * grad, alpha=1.0 - SECOND_DECAY)
        param.sub_(rate * (m / correct_first) / ((v / correct_second).sqrt() + EPSILON))


class SACState(NamedTuple):
    """Everything an update reads and changes."""

    actor: Net
    critic: Net
    target: Net  # the critics' slow copy
    temperature: Net  # [log alpha], a tensor [1]
    actor_moments: tuple[Net, Net]  # Adam's first and second
    critic_moments: tuple[Net, Net]
    temperature_moments: tuple[Net, Net]
    step: Tensor  # [] float: updates done


def initial_state(observation: int, action: int, config: SACConfig, generator: torch.Generator) -> SACState:
    """Fresh networks, zero moments, temperature 1."""
    actor = initial_net(1, (observation, config.hidden, config.hidden, 2 * action), generator)
    critic = initial_net(2, (observation + action, config.hidden, config.hidden, 1), generator)
    temperature = [torch.zeros(1)]

    def zeros(net: Net) -> tuple[Net, Net]:
        return [torch.zeros_like(x) for x in net], [torch.zeros_like(x) for x in net]

    target = [x.clone() for x in critic]
    return SACState(
        actor, critic, target, temperature, zeros(actor), zeros(critic), zeros(temperature), torch.zeros(())
    )


def update(state: SACState, batch: SACBatch, noise: Noise, config: SACConfig, bf16: bool = False) -> dict[str, Tensor]:
    """One update of everything, in place: critics, actor, temperature, target critics. Returns metrics."""
    actor, critic = state.actor, state.critic
    state.step.add_(1.0)
    alpha = state.temperature[0].exp()
    target = soft_target(state.target, actor, batch, noise.following, alpha, config, bf16)
    grads, (loss, value) = grad_and_value(lambda p: critic_loss(p, batch, target, bf16), has_aux=True)(critic)
    adam(critic, grads, *state.critic_moments, state.step, config.critic_rate)
    grads, (policy_loss, log_prob) = grad_and_value(
        lambda p: actor_loss(p, critic, batch.observation, noise.here, alpha, bf16), has_aux=True
    )(actor)
    adam(actor, grads, *state.actor_moments, state.step, config.actor_rate)
    gap = log_prob.mean() - config.entropy * batch.action.shape[-1]  # the loss -alpha (log pi + target) by log alpha
    adam(state.temperature, [-alpha * gap], *state.temperature_moments, state.step, config.critic_rate)
    for slow, fast in zip(state.target, critic, strict=True):
        slow.add_(fast - slow, alpha=config.target_rate)
    return {
        "critic_loss": loss,
        "value": value,
        "actor_loss": policy_loss,
        "entropy": -log_prob.mean(),
        "alpha": alpha[0],
    }


class Moments:
    """Running mean and deviation of observations; scales them to about unit size."""

    def __init__(self, size: int):
        self.count, self.mean, self.square = (
            0.0,
            torch.zeros(size, dtype=torch.float64),
            torch.zeros(size, dtype=torch.float64),
        )

    def add(self, rows: Tensor) -> None:
        """Counts `[B, O]` more observations."""
        rows = rows.double()
        total = self.count + len(rows)
        gap = rows.mean(0) - self.mean
        self.square += ((rows - rows.mean(0)) ** 2).sum(0) + gap**2 * (self.count * len(rows) / total)
        self.mean = self.mean + gap * (len(rows) / total)
        self.count = total

    def scale(self) -> tuple[Tensor, Tensor]:
        """Centre and inverse deviation `[O]`; columns that never change are only centred."""
        deviation = (self.square / max(self.count, 1.0)).sqrt()
        return self.mean.float(), torch.where(deviation > 1e-6, 1.0 / deviation.clamp_min(1e-6), 1.0).float()

    def tensors(self) -> dict[str, Tensor]:
        """Its state."""
        return {"count": torch.tensor([self.count], dtype=torch.float64), "mean": self.mean, "square": self.square}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.count, self.mean, self.square = float(tensors["count"]), tensors["mean"].clone(), tensors["square"].clone()


class Scale(NamedTuple):
    """Of observations."""

    center: Tensor  # [O]
    inverse: Tensor  # [O] of the deviation

    def __call__(self, observation: Tensor) -> Tensor:
        """Observations as the networks see them."""
        return ((observation - self.center) * self.inverse).clamp(-CLIP, CLIP)


class SAC:
    """What is learned, the scaling of its observations, and the update in the device's form.

    Args:
        observation: Columns of the observation, the exposed task included where there is one.
        action: Columns of the action; actions live in [-1, 1].
        config: Settings of the update.
        generator: For the initial networks.
        device: Where it learns.
    """

    def __init__(
        self,
        observation: int,
        action: int,
        config: SACConfig,
        generator: torch.Generator,
        device: Device | None = None,
    ):
        self.config, self.action, self.device = config, action, device or Device()
        self.state: SACState = self.device.put(initial_state(observation, action, config, generator))
        self.moments = Moments(observation)
        self.scaled = Scale(*self.device.put((torch.zeros(observation), torch.ones(observation))))
        self._pure = self.device.compiled(update, fullgraph=True)
        self._one = self.device.function(lambda batch, drawn: self.step(SACBatch(*batch), drawn))
        self._acts = self.device.function(lambda seen, *noise: acts(self.state.actor, self.scaled(seen), *noise))

    @property
    def center(self) -> Tensor:
        """`[O]` of the scaling."""
        return self.scaled.center

    @property
    def inverse(self) -> Tensor:
        """`[O]` of the deviation."""
        return self.scaled.inverse

    def observe(self, observation: Tensor) -> None:
        """Lets the scaling follow `[B, O]` more observations."""
        self.moments.add(observation)
        self._rescale()

    def _rescale(self) -> None:
        for place, value in zip(self.scaled, self.moments.scale(), strict=True):
            place.copy_(value)

    @torch.no_grad()
    def step(self, batch: SACBatch, drawn: Tensor) -> dict[str, Tensor]:
        """One update on a batch of raw observations, as a pure function of it and of Gaussian numbers `[2, B, A]`."""
        bf16, own = self.device.precision == "bf16", self.scaled
        batch = batch._replace(observation=own(batch.observation), next_observation=own(batch.next_observation))
        with self.device.float32():
            return self._pure(self.state, batch, Noise(drawn[0], drawn[1]), self.config, bf16)

    def update(self, batch: SACBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """One update on a batch; returns metrics as tensors."""
        drawn = torch.randn((2, *batch.action.shape), generator=generator)
        return self._one(tuple(batch), drawn)

    def updates(self, replay: Replay, block: int) -> Updates:
        """Updates on rows `[B]` of a replay on the device, with draws `[2, B, A]`; so many are replayed at once."""
        return self.device.updates(lambda pick, drawn: self.step(SACBatch(*replay.take(pick)), drawn), block)

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions `[B, A]` in [-1, 1], on the device; the mean's without a generator."""
        noise = () if generator is None else (torch.randn(len(observation), self.action, generator=generator),)
        return self._acts(observation, *noise)

    def tensors(self) -> dict[str, Tensor]:
        """Everything from which training continues to the same bits."""
        named = {f"moments/{name}": tensor for name, tensor in self.moments.tensors().items()}
        return named | {f"learner/{index}": tensor for index, tensor in enumerate(_leaves(self.state))}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.moments.load({n.removeprefix("moments/"): t for n, t in tensors.items() if n.startswith("moments/")})
        if self.moments.count:
            self._rescale()
        for index, tensor in enumerate(_leaves(self.state)):
            tensor.copy_(tensors[f"learner/{index}"])


def acts(actor: Net, scaled: Tensor, noise: Tensor | None = None) -> Tensor:
    """Actions `[B, A]` in [-1, 1] at scaled observations, picked by Gaussian numbers `[B, A]`; the mean's without."""
    mean, log_std = gaussian(actor, scaled)
    return torch.tanh(mean if noise is None else mean + log_std.exp() * noise)


class SeedSAC:
    """Several seeds that learn together: every tensor of what is learned has their axis in front.

    Args:
        members: One per seed, each with its own start; `write_back` gives them what was learned.
    """

    def __init__(self, members: Sequence[SAC]):
        self.members, self.device, first = members, members[0].device, members[0]
        self.state: SACState = mapped(lambda *own: torch.stack(own), *(one.state for one in members))
        self.scales = Scale(*(torch.stack(own) for own in zip(*(one.scaled for one in members), strict=True)))
        self.config, self.action = first.config, first.action
        self._acts = self.device.function(self._act)

    def observe(self, observation: Tensor) -> None:
        """Lets every seed's scaling follow its observations, `[S, B, O]`."""
        for one, own in zip(self.members, observation, strict=True):
            one.observe(own)
        for place, own in zip(self.scales, zip(*(one.scaled for one in self.members), strict=True), strict=True):
            place.copy_(torch.stack(own))

    @torch.no_grad()
    def step(self, batch: SACBatch, drawn: Tensor) -> dict[str, Tensor]:
        """`SAC.step` of every seed: all leaves of the batch are `[S, B, ...]`, the draws `[S, 2, B, A]`."""
        config, bf16 = self.config, self.device.precision == "bf16"

        def one(state: SACState, scale: Scale, own: SACBatch, noise: Tensor) -> dict[str, Tensor]:
            seen, following = scale(own.observation), scale(own.next_observation)
            own = own._replace(observation=seen, next_observation=following)
            return update(state, own, Noise(noise[0], noise[1]), config, bf16)

        with self.device.float32():
            return torch.func.vmap(one)(self.state, self.scales, batch, drawn)

    def updates(self, replays: Sequence[Replay], block: int) -> Updates:
        """As `SAC.updates`, with rows `[S, B]` of each seed's own replay."""

        def pure(pick: Tensor, drawn: Tensor) -> dict[str, Tensor]:
            parts = [replay.take(own) for replay, own in zip(replays, pick, strict=True)]
            return self.step(SACBatch(*(torch.stack(column) for column in zip(*parts, strict=True))), drawn)

        return self.device.updates(pure, block)

    def _act(self, observation: Tensor, noise: Tensor) -> Tensor:
        def one(actor: Net, scale: Scale, seen: Tensor, own: Tensor) -> Tensor:
            return acts(actor, scale(seen), own)

        return torch.func.vmap(one)(self.state.actor, self.scales, observation, noise)

    @torch.no_grad()
    def act(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Actions `[S, B, A]` at `[S, B, O]`, each seed with its own stream."""
        shape = (observation.shape[1], self.action)
        return self._acts(observation, torch.stack([torch.randn(shape, generator=g) for g in generators]))

    def write_back(self) -> None:
        """Every member becomes what its seed has learned."""
        for index, one in enumerate(self.members):
            for place, own in zip(_leaves(one.state), _leaves(self.state), strict=True):
                place.copy_(own[index])


def _leaves(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [leaf for branch in tree for leaf in _leaves(branch)]
