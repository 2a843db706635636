"""A whole update of a world model of windows in compiled code: loss, gradient by hand, clipping, Adam.

At the published sizes (128 rows, h = 4 steps, width 128) torch spends more time between some 200 small operations than
on the products. Here the products are BLAS calls, everything between them is a few fused loops, and parameters and
Adam's moments lie in one piece of memory each. The numbers are those of torch's operations up to rounding (tested:
gradients, and parameters after several updates). Float32 on the CPU, first order only.

The recurrence is not `gru`'s: windows start from zero, which saves two products in eight, and a step's gradients are
taken while its gates are still in the cache. A loop vectorises where it writes to one stretch of one array; hence
several short loops where one would do.

Shapes: B rows, h steps, O, A columns of observations and actions, E of an embedding and of z, W the width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from metabench.physics.compiled import cached_njit
from metabench_agents.parts.fast.gru import exp, one_thread

_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}


class Encoder(NamedTuple):
    """Parameters, or their gradients, of h steps to z; tensors or arrays."""

    weight_in: Any  # [3 W, 3 E]
    weight: Any  # [3 W, W]
    bias_in: Any  # [3 W]
    bias: Any  # [3 W]
    observation: Any  # [E, O]
    observation_bias: Any  # [E]
    action: Any  # [E, A]
    action_bias: Any  # [E]
    reward: Any  # [E, 1]
    reward_bias: Any  # [E]
    out: Any  # [E, W]
    out_bias: Any  # [E]


class Embedding(NamedTuple):
    """Of the step that is asked about."""

    observation: Any  # [E, O]
    observation_bias: Any  # [E]
    action: Any  # [E, A]
    action_bias: Any  # [E]


class Decoder(NamedTuple):
    """Two hidden layers with ReLU."""

    first: Any  # [W, I]
    first_bias: Any  # [W]
    second: Any  # [W, W]
    second_bias: Any  # [W]
    third: Any  # [Y, W]
    third_bias: Any  # [Y]


@cached_njit(**_OPTIONS)
def _linear(x, weight, bias, out, relu):
    """Fills `out` with x W^T + b, through ReLU if asked."""
    np.dot(x, weight.T, out)
    zero = np.float32(0.0)
    for i in range(out.shape[0]):
        row = out[i]
        if relu:
            for j in range(out.shape[1]):
                row[j] = max(row[j] + bias[j], zero)
        else:
            for j in range(out.shape[1]):
                row[j] = row[j] + bias[j]


@cached_njit(**_OPTIONS)
def _linear_back(x, of_out, of_weight, of_bias):
    """The gradients of weight and bias."""
    np.dot(of_out.T, x, of_weight)
    of_bias[:] = 0.0
    for i in range(of_out.shape[0]):
        row = of_out[i]
        for j in range(of_out.shape[1]):
            of_bias[j] += row[j]


@cached_njit(**_OPTIONS)
def _through_relu(of_out, out):
    """The gradient of what went into a ReLU, in place."""
    zero = np.float32(0.0)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            of_out[i, j] = of_out[i, j] if out[i, j] > zero else zero


@njit(inline="always", fastmath=True)
def _add(total, part):
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            total[i, j] += part[i, j]


class Space(NamedTuple):
    """Memory of the GRU's passes, kept from update to update: fresh pages cost as much as the products."""

    embedded: Any  # [h, B, 3 E] the inputs
    of_embedded: Any
    states: Any  # [h + 1, B, W], the first stays zero
    gates: Any  # [h, B, 3 W]
    offers: Any  # [h, B, W] W_n h + b_n
    own: Any  # [B, 3 W] what the GRU makes of its state, then its gradient
    given: Any  # [B, 3 W] of its input
    part: Any  # [3 W, W] a step's share of the gradient
    part_in: Any  # [3 W, 3 E]


@cached_njit(**_OPTIONS)
def _recur(net, space):
    """A GRU from a zero state over `space.embedded`: fills states, gates and offers."""
    embedded, states, gates, offers = space.embedded, space.states, space.gates, space.offers
    steps, batch, size = offers.shape
    bias, bias_in, own, given = net.bias, net.bias_in, space.own, space.given
    one, two = np.float32(1.0), np.float32(2.0)
    own.fill(0.0)
    for t in range(steps):
        np.dot(embedded[t], net.weight_in.T, given)
        if t > 0:  # what it makes of the zero state is zero
            np.dot(states[t], net.weight.T, own)
        for b in range(batch):
            g, q, v, h, o, c = given[b], own[b], gates[t, b], states[t, b], states[t + 1, b], offers[t, b]
            for j in range(2 * size):
                v[j] = one / (one + exp(-(g[j] + q[j] + bias[j] + bias_in[j])))
            for j in range(size):
                c[j] = q[2 * size + j] + bias[2 * size + j]
            for j in range(size):
                q[j] = two * (g[2 * size + j] + bias_in[2 * size + j] + v[j] * c[j])
            for j in range(size):
                v[2 * size + j] = one - two / (exp(q[j]) + one)
            for j in range(size):
                q[j] = v[2 * size + j]
            for j in range(size):
                o[j] = q[j] + v[size + j] * (h[j] - q[j])


@cached_njit(**_OPTIONS)
def _gates_back(of_state, states, gates, offers, of_given, of_own):
    """The gradients `[B, 3 W]` of W_i x + b_i and W_h h + b_h at one step, from the next state's; leaves z d there."""
    batch, size = offers.shape
    one = np.float32(1.0)
    for b in range(batch):
        d, v, h, c, x, y = of_state[b], gates[b], states[b], offers[b], of_given[b], of_own[b]
        for j in range(size):
            x[2 * size + j] = d[j] * (one - v[size + j]) * (one - v[2 * size + j] * v[2 * size + j])
        for j in range(size):
            x[size + j] = d[j] * (h[j] - v[2 * size + j]) * v[size + j] * (one - v[size + j])
        for j in range(size):
            y[2 * size + j] = x[2 * size + j] * v[j]
        for j in range(size):
            y[j] = y[2 * size + j] * c[j] * (one - v[j])
        for j in range(size):
            x[j] = y[j]
        for j in range(size):
            y[size + j] = x[size + j]
        for j in range(size):
            d[j] = d[j] * v[size + j]


@cached_njit(**_OPTIONS)
def _recur_back(of_state, net, grad, space):
    """Adds to the gradients of the GRU's parameters and fills those of its inputs, step by step while all is near.

    `of_state` `[B, W]` is the last state's; the gradients have to be zero before.
    """
    embedded, states, gates, offers = space.embedded, space.states, space.gates, space.offers
    steps, batch, size = offers.shape
    back = np.empty((batch, size), np.float32)
    of_own, of_given, part, part_in = space.own, space.given, space.part, space.part_in
    for t in range(steps - 1, -1, -1):
        _gates_back(of_state, states[t], gates[t], offers[t], of_given, of_own)
        for b in range(batch):
            for j in range(3 * size):
                grad.bias[j] += of_own[b, j]
                grad.bias_in[j] += of_given[b, j]
        np.dot(of_given, net.weight_in, space.of_embedded[t])
        np.dot(of_given.T, embedded[t], part_in)
        _add(grad.weight_in, part_in)
        if t > 0:
            np.dot(of_own.T, states[t], part)
            _add(grad.weight, part)
            np.dot(of_own, net.weight, back)
            _add(of_state, back)


@cached_njit(**_OPTIONS)
def _decode(x, target, net, grad, of_x):
    """The mean squared error of a decoder; fills the gradients of its parameters and of `x` `[B, I]`."""
    batch, wanted = target.shape
    size = net.second.shape[0]
    first, second = np.empty((batch, size), np.float32), np.empty((batch, size), np.float32)
    told = np.empty((batch, wanted), np.float32)
    _linear(x, net.first, net.first_bias, first, True)
    _linear(first, net.second, net.second_bias, second, True)
    _linear(second, net.third, net.third_bias, told, False)
    error, scale = 0.0, np.float32(2.0 / (batch * wanted))
    for i in range(batch):
        for j in range(wanted):
            gap = told[i, j] - target[i, j]
            error += gap * gap
            told[i, j] = scale * gap
    _linear_back(second, told, grad.third, grad.third_bias)
    back = np.empty((batch, size), np.float32)
    np.dot(told, net.third, back)
    _through_relu(back, second)
    _linear_back(first, back, grad.second, grad.second_bias)
    further = np.empty((batch, size), np.float32)
    np.dot(back, net.second, further)
    _through_relu(further, first)
    _linear_back(x, further, grad.first, grad.first_bias)
    np.dot(further, net.first, of_x)
    return error / (batch * wanted)


class Joined:
    """Embeddings of neighbouring columns as one layer, block by block, with ReLU.

    Args:
        parts: Weight and bias of each, in the columns' order.
        grads: Where their gradients go.
    """

    def __init__(self, parts: list[tuple[Any, Any]], grads: list[tuple[Any, Any]]):
        count, columns = sum(len(bias) for _, bias in parts), sum(weight.shape[1] for weight, _ in parts)
        self.weight, self.bias = np.zeros((count, columns), np.float32), np.empty(count, np.float32)
        self.of_weight, self.of_bias = np.empty_like(self.weight), np.empty_like(self.bias)
        self.blocks: list[tuple[Any, Any, Any, Any, slice, slice]] = []
        row = column = 0
        for (weight, bias), (of_weight, of_bias) in zip(parts, grads, strict=True):
            rows, wide = slice(row, row + len(bias)), slice(column, column + weight.shape[1])
            self.blocks.append((weight, bias, of_weight, of_bias, rows, wide))
            row, column = rows.stop, wide.stop

    def forward(self, x: Any, out: Any) -> None:
        """Fills `out` `[N, outputs of all]` from `x` `[N, columns of all]`."""
        for weight, bias, _, _, rows, wide in self.blocks:
            self.weight[rows, wide], self.bias[rows] = weight, bias
        _linear(x, self.weight, self.bias, out, True)

    def backward(self, x: Any, out: Any, of_out: Any) -> None:
        """Adds to the gradients of the parts, from that of `out`, which it changes."""
        _through_relu(of_out, out)
        _linear_back(x, of_out, self.of_weight, self.of_bias)
        for _, _, of_weight, of_bias, rows, wide in self.blocks:
            of_weight += self.of_weight[rows, wide]
            of_bias += self.of_bias[rows]


@cached_njit(**_OPTIONS)
def _descend(values, gradient, first, second, rates, clip, steps):
    """Clips the gradient's norm and takes one step of Adam, the `steps`th; all arrays are flat."""
    total = 0.0
    for i in range(len(gradient)):
        total += np.float64(gradient[i]) * gradient[i]
    rate, decay, decay_of_squares, epsilon = rates
    scale = np.float32(min(1.0, clip / (np.sqrt(total) + 1e-6)))
    step = np.float32(rate / (1.0 - decay**steps))
    correct = np.float32(1.0 / np.sqrt(1.0 - decay_of_squares**steps))
    keep, keep_squares, small = np.float32(1.0 - decay), np.float32(decay_of_squares), np.float32(epsilon)
    one = np.float32(1.0)
    for i in range(len(gradient)):
        g = scale * gradient[i]
        m = first[i] + keep * (g - first[i])
        v = keep_squares * second[i] + (one - keep_squares) * g * g
        first[i] = m
        second[i] = v
        values[i] -= step * m / (np.sqrt(v) * correct + small)


def _embeddings(part: Encoder | Embedding) -> list[tuple[Any, Any]]:
    """Weight and bias of each, in the order of the columns."""
    found = [(part.observation, part.observation_bias), (part.action, part.action_bias)]
    return found + ([(part.reward, part.reward_bias)] if isinstance(part, Encoder) else [])


class WindowEncoder:
    """h steps to z, and back.

    Args:
        net: Parameters, as arrays.
        grad: Where their gradients are added.
    """

    def __init__(self, net: Encoder, grad: Encoder):
        self.net, self.grad = net, grad
        embeddings = [
            [
                (part.observation, part.observation_bias),
                (part.action, part.action_bias),
                (part.reward, part.reward_bias),
            ]
            for part in (net, grad)
        ]
        self.embed, self.space, self.past = Joined(*embeddings), None, np.empty(0)

    def _space(self, steps: int, batch: int) -> Space:
        """Memory for so many rows."""
        if self.space is None or self.space.gates.shape[:2] != (steps, batch):
            size, embedded = self.net.weight.shape[1], self.net.weight_in.shape[1]
            shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("embedded", "of_embedded"), (steps, batch, embedded))
            shapes |= {"states": (steps + 1, batch, size), "offers": (steps, batch, size)}
            shapes |= {"gates": (steps, batch, 3 * size), "own": (batch, 3 * size), "given": (batch, 3 * size)}
            shapes |= {"part": self.net.weight.shape, "part_in": self.net.weight_in.shape}
            self.space = Space(**{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
        return self.space

    def forward(self, past: Any) -> Any:
        """The context z `[B, E]` of steps `[h, B, O + A + 1]`."""
        steps, batch, columns = past.shape
        space, self.past = self._space(steps, batch), past.reshape(steps * batch, columns)
        self.embed.forward(self.past, space.embedded.reshape(steps * batch, -1))
        _recur(self.net, space)
        z = np.empty((batch, len(self.net.out_bias)), np.float32)
        _linear(space.states[steps], self.net.out, self.net.out_bias, z, False)
        return z

    def backward(self, of_z: Any) -> None:
        """Adds to the gradients, from that of z; of the last `forward`."""
        space = self.space
        assert space is not None, "a gradient is of a forward pass"
        _linear_back(space.states[-1], of_z, self.grad.out, self.grad.out_bias)
        _recur_back(of_z @ self.net.out, self.net, self.grad, space)
        rows = len(self.past)
        self.embed.backward(self.past, space.embedded.reshape(rows, -1), space.of_embedded.reshape(rows, -1))


class WindowUpdates:
    """Updates of a model's parameters, which come to lie in one piece of memory, as Adam's moments do.

    The optimiser stays what holds the state: `settle` before it is read, `bind` after it was changed.

    Args:
        encoder: Parameters of the encoder.
        embedding: Of the step that is asked about.
        reward: Of the decoder of rewards, from (o, a, o', z); None if there is none.
        state: Of the decoder of next observations, from (o, a, z); None if there is none.
        optimiser: `torch.optim.Adam` of all of them.
        clip: Of the gradient's norm.

    Raises:
        ValueError: If the optimiser is of other parameters.
    """

    def __init__(
        self,
        encoder: Encoder,
        embedding: Embedding,
        reward: Decoder | None,
        state: Decoder | None,
        optimiser: torch.optim.Optimizer,
        clip: float,
    ):
        self.parts, self.optimiser, self.clip = (encoder, embedding, reward, state), optimiser, clip
        self.parameters: list[Tensor] = [p for group in optimiser.param_groups for p in group["params"]]
        if {id(p) for p in self.parameters} != {id(p) for part in self.parts if part for p in part}:
            raise ValueError("the optimiser has other parameters than the model; make it of all of them")
        self.bind()

    def bind(self) -> None:
        """Brings parameters and moments, whatever they are now, into one piece of memory each."""
        total = sum(parameter.numel() for parameter in self.parameters)
        self.flat = values, gradient, first, second = tuple(torch.zeros(total) for _ in range(4))
        self.steps, begin, gradients = 0, 0, {}
        for parameter in self.parameters:
            piece = slice(begin, begin + parameter.numel())
            begin, own = piece.stop, self.optimiser.state[parameter]
            parameter.data = _moved(parameter.data, values[piece])
            self.steps = int(own.setdefault("step", torch.zeros(())))
            for name, place in (("exp_avg", first), ("exp_avg_sq", second)):
                own[name] = _moved(own.get(name, torch.zeros_like(parameter)), place[piece])
            gradients[id(parameter)] = gradient[piece].view_as(parameter)
        nets = [_arrays(part, lambda parameter: parameter.detach()) for part in self.parts]
        grads = [_arrays(part, lambda parameter: gradients[id(parameter)]) for part in self.parts]
        self.encoder = WindowEncoder(nets[0], grads[0])
        own, theirs = _embeddings(nets[1]), _embeddings(grads[1])
        self.here, self.there = Joined(own, theirs), Joined(own[:1], theirs[:1])
        self.reward, self.state = ((net, grad) if net else None for net, grad in zip(nets[2:], grads[2:], strict=True))

    def __call__(
        self,
        past: Tensor,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        next_observation: Tensor,
    ) -> tuple[float | None, float | None]:
        """One update; the mean squared errors of reward and next observation, None for what is not foretold.

        Args:
            past: `[h, B, O + A + 1]` observation, action and reward of the last steps.
            observation: `[B, O]`.
            action: `[B, A]`.
            reward: `[B]`.
            next_observation: `[B, O]`.
        """
        group, self.steps = self.optimiser.param_groups[0], self.steps + 1
        now = torch.cat((observation, action), dim=1).numpy()
        arrays = (past.contiguous(), reward[:, None].contiguous(), next_observation.contiguous())
        self.flat[1].zero_()
        with one_thread():
            errors = self._loss(now, *(tensor.numpy() for tensor in arrays))
            rates = (float(group["lr"]), *group["betas"], group["eps"])
            _descend(*(piece.numpy() for piece in self.flat), rates, self.clip, self.steps)
        return errors

    def _loss(self, now: Any, past: Any, reward: Any, following: Any) -> tuple[float | None, float | None]:
        """The errors; adds to the gradients. Not compiled: what compiled code calls is compiled again with it."""
        z = self.encoder.forward(past)
        batch, size = z.shape
        here, after = np.empty((batch, 2 * size), np.float32), np.empty((batch, size), np.float32)
        self.here.forward(now, here)
        of_here, of_z = np.zeros_like(here), np.zeros_like(z)
        reward_error = state_error = None
        if self.reward:
            self.there.forward(following, after)
            x = np.concatenate((here, after, z), axis=1)
            of_x = np.empty_like(x)
            reward_error = _decode(x, reward, *self.reward, of_x)
            self.there.backward(following, after, np.ascontiguousarray(of_x[:, 2 * size : 3 * size]))
            of_here, of_z = of_here + of_x[:, : 2 * size], of_z + of_x[:, 3 * size :]
        if self.state:
            x = np.concatenate((here, z), axis=1)
            of_x = np.empty_like(x)
            state_error = _decode(x, following, *self.state, of_x)
            of_here, of_z = of_here + of_x[:, : 2 * size], of_z + of_x[:, 2 * size :]
        self.here.backward(now, here, of_here)
        self.encoder.backward(of_z)
        return reward_error, state_error

    def settle(self) -> None:
        """Tells the optimiser how many updates there were."""
        for parameter in self.parameters:
            self.optimiser.state[parameter]["step"].fill_(self.steps)


def _moved(value: Tensor, place: Tensor) -> Tensor:
    """The value, there."""
    place = place.view_as(value)
    place.copy_(value)
    return place


def _arrays(part: Any, of: Callable[[Tensor], Tensor]) -> Any:
    """The part with arrays in place of its tensors."""
    return None if part is None else type(part)(*(of(tensor).numpy() for tensor in part))
