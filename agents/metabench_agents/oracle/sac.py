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

`compiled=True` wraps the update in `torch.compile`: it needs a C++ compiler and 15 to 30 s once, and pays from some
thousand updates on. Float32 products are made the fastest way that keeps their precision (`precision.products`).
`bfloat16=True` casts the inputs of matrix products, which is faster only where the CPU has AMX or AVX512-BF16, and
learns as well (docs/datasets.md).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from metabench_agents.parts.compiling import can_compile as can_compile
from metabench_agents.parts.compiling import compiled
from metabench_agents.parts.fast.precision import products

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
    bfloat16: bool = False  # matrix products with bfloat16 inputs: faster where the CPU has them in hardware
    compiled: bool = False  # the update as one compiled graph: faster after some thousand updates


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
    critic: Net, actor: Net, batch: SACBatch, noise: Tensor, temperature: Tensor, config: SACConfig
) -> Tensor:
    """`[B]` r + gamma (1 - terminal) (min Q'(s', a') - alpha log pi(a'|s')), a' from the policy."""
    action, log_prob = sample(actor, batch.next_observation, noise, config.bfloat16)
    value = critics(critic, batch.next_observation, action, config.bfloat16).min(0).values - temperature * log_prob
    return batch.reward + config.discount * (1.0 - batch.terminal) * value


def adam(params: Net, grads: Net, first: Net, second: Net, step: Tensor, rate: float) -> None:
    """One step of Adam, in place; `step` counts from 1."""
    correct_first, correct_second = 1.0 - FIRST_DECAY**step, 1.0 - SECOND_DECAY**step
    for param, grad, m, v in zip(params, grads, first, second, strict=True):
        m.lerp_(grad, 1.0 - FIRST_DECAY)
        v.mul_(SECOND_DECAY).addcmul_(grad, grad, value=1.0 - SECOND_DECAY)
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


def update(state: SACState, batch: SACBatch, noise: Noise, config: SACConfig) -> dict[str, Tensor]:
    """One update of everything, in place: critics, actor, temperature, target critics. Returns metrics."""
    actor, critic, bf16 = state.actor, state.critic, config.bfloat16
    state.step.add_(1.0)
    alpha = state.temperature[0].exp()
    target = soft_target(state.target, actor, batch, noise.following, alpha, config)
    grads, (loss, value) = grad_and_value(lambda p: critic_loss(p, batch, target, bf16), has_aux=True)(critic)
    adam(critic, grads, *state.critic_moments, state.step, config.critic_rate)
    grads, (policy_loss, log_prob) = grad_and_value(
        lambda p: actor_loss(p, critic, batch.observation, noise.here, alpha, bf16), has_aux=True
    )(actor)
    adam(actor, grads, *state.actor_moments, state.step, config.actor_rate)
    gap = log_prob.mean() - config.entropy * batch.action.shape[-1]  # the loss -alpha (log pi + target) by log alpha
    adam(state.temperature, [-alpha * gap], *state.temperature_moments, state.step, config.critic_rate)
    for slow, fast in zip(state.target, critic, strict=True):
        slow.lerp_(fast, config.target_rate)
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


class SAC:
    """What is learned, the scaling of its observations, and the update, compiled or not.

    Args:
        observation: Columns of the observation, the exposed task included where there is one.
        action: Columns of the action; actions live in [-1, 1].
        config: Settings of the update.
        generator: For the initial networks.
    """

    def __init__(self, observation: int, action: int, config: SACConfig, generator: torch.Generator):
        self.config, self.action = config, action
        self.state = initial_state(observation, action, config, generator)
        self.moments = Moments(observation)
        self.center, self.inverse = torch.zeros(observation), torch.ones(observation)
        self._update = compiled(update, config.compiled, fullgraph=True)

    def observe(self, observation: Tensor) -> None:
        """Lets the scaling follow `[B, O]` more observations."""
        self.moments.add(observation)
        self.center, self.inverse = self.moments.scale()

    def scaled(self, observation: Tensor) -> Tensor:
        """Observations as the networks see them."""
        return ((observation - self.center) * self.inverse).clamp(-CLIP, CLIP)

    @torch.no_grad()
    def update(self, batch: SACBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """One update on a batch of raw observations; returns metrics as tensors."""
        batch = batch._replace(
            observation=self.scaled(batch.observation), next_observation=self.scaled(batch.next_observation)
        )
        drawn = torch.randn((2, *batch.action.shape), generator=generator)
        with products("fp32"):
            return self._update(self.state, batch, Noise(drawn[0], drawn[1]), self.config)

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions `[B, A]` in [-1, 1]; the mean's without a generator."""
        return act(self.state.actor, self.scaled(observation), generator)

    def tensors(self) -> dict[str, Tensor]:
        """Everything from which training continues to the same bits."""
        named = {f"moments/{name}": tensor for name, tensor in self.moments.tensors().items()}
        return named | {f"learner/{index}": tensor for index, tensor in enumerate(_leaves(self.state))}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.moments.load({n.removeprefix("moments/"): t for n, t in tensors.items() if n.startswith("moments/")})
        if self.moments.count:
            self.center, self.inverse = self.moments.scale()
        for index, tensor in enumerate(_leaves(self.state)):
            tensor.copy_(tensors[f"learner/{index}"])


def act(actor: Net, scaled: Tensor, generator: torch.Generator | None) -> Tensor:
    """Actions `[B, A]` in [-1, 1] at scaled observations; the mean's without a generator."""
    mean, log_std = gaussian(actor, scaled)
    if generator is None:
        return torch.tanh(mean)
    return torch.tanh(mean + log_std.exp() * torch.randn(mean.shape, generator=generator))


def _leaves(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [leaf for branch in tree for leaf in _leaves(branch)]
