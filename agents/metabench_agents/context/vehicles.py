"""A generative model of masses along a line: one acceleration network that all of them share, Euler, contact, reward.

As MetaDreamer's physics-informed decoder is described: the network only gives accelerations, bounded by 3 tanh(.), and
p' = p + v dt, v' = v + a dt. Our additions, with reasons:
- One network for all masses: what one driver shows of the task counts for every one of them.
- Its inputs are a mass's own speed, its gap and relative speed to the mass before it and to the first (the one that
  acts), and where the first is on ladders of soft steps: contact is a matter of decimetres, and to what a driver
  reacts is a matter of metres, which a perceptron on positions over hundreds of metres does not find in few data.
- The latent task enters accelerations alone. What a step pays and whether it ends the episode are learned from the
  geometry of the step; tasks whose rewards differ need the neural decoder.
- An episode's first state is generated too, so that an imagined task's traffic has a speed of its own.

Arrays of masses lead with the mass, `[V, N]`, and inputs with the column, `[F, N]`: work on them is then
contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import NeuralDecoder, Prediction, TransitionDecoderConfig, Units
from metabench_agents.parts.fast import masses as fast
from metabench_agents.parts.features import Features, Pair

MAX_ACCELERATION = fast.BOUND  # m/s^2, the bound of the paper's decoder
FREE, SPEED, RELATIVE = fast.FREE, fast.SPEED, fast.RELATIVE
PLACES = tuple(fast.FIRST_PLACE + fast.PLACE_STEP * k for k in range(fast.PLACES))
GAPS = tuple(range(fast.GAPS))
RIDGE = 1e-3  # of the regression of first states on z, in squares of z


class ColumnNetwork(nn.Module):
    """A perceptron on columns `[F, N]`, two hidden layers, linear outputs `[O, N]`."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        sizes = (inputs, hidden, hidden, outputs)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(b, a).uniform_(-1, 1) / math.sqrt(a)) for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(b, 1)) for b in sizes[1:])

    def arrays(self) -> tuple[Any, ...]:
        """Its weights as the compiled steps want them: inputs first, one output."""
        (a, b, c), (d, e, f) = ([p.detach() for p in group] for group in (self.weights, self.biases))
        rows = (a.T.contiguous(), d[:, 0], b.T.contiguous(), e[:, 0], c[0])
        return (*(row.contiguous().numpy() for row in rows), np.float32(f[0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        """`[F, N]` to `[O, N]`."""
        x = torch.relu(torch.addmm(self.biases[0], self.weights[0], x))
        x = torch.relu(torch.addmm(self.biases[1], self.weights[1], x))
        return torch.addmm(self.biases[2], self.weights[2], x)


def close(gap: Tensor) -> Tensor:
    """A gap in m at a car's scale: within 1, flat beyond 14 m."""
    return (gap.clamp(fast.CLOSE_LOW, fast.CLOSE_HIGH) - fast.CLOSE_CENTER) / fast.CLOSE_UNIT


def wide(gap: Tensor) -> Tensor:
    """A gap in m over the whole road: within 1."""
    return gap.clamp(0.0, FREE) / (0.5 * FREE) - 1.0


class Masses(nn.Module):
    """What every mass is told: `[F, V, N]` of positions and velocities `[V, N]`, the first mass's action and z."""

    places: Tensor
    pace: Tensor

    def __init__(self, latent: int, actions: int):
        super().__init__()
        self.register_buffer("places", torch.tensor(PLACES, dtype=torch.float32), persistent=False)
        self.register_buffer("pace", torch.tensor(10.0))  # m/s, the mean of all speeds
        self.plain = 12 + len(PLACES) + actions  # columns that say nothing of z
        self.size = self.plain + 2 * latent

    def forward(self, x: Tensor, v: Tensor, action: Tensor, z: Tensor) -> Tensor:
        """`action` `[A, N]`, `z` `[L, N]`; L may be 0."""
        first, speed, masses = x[:1], v[:1], len(x)
        ahead = torch.cat((first, x[1:2] + FREE, x[1:-1]))  # the mass before each; none before the first two
        pace = torch.cat((speed, v[1:2], v[1:-1]))
        between = ((x < first) & (first <= ahead)).float()
        gap, to_first, closing = ahead - x, first - x, (speed - v) / RELATIVE
        own = torch.zeros_like(x)
        own[0] = 1.0
        told = [
            (v - self.pace) / SPEED,
            close(gap),
            wide(gap),
            (pace - v) / RELATIVE,
            (v[1:].mean(0) - v) / RELATIVE,
            own,
            between,
            between * close(to_first),
            between * wide(to_first),
            between * closing,
            between * (first >= 0.0),
            between * (first.clamp(-FREE, 0.0) / (0.5 * FREE) + 1.0),
        ]
        ladder = (first - self.places[:, None]).clamp(-1.0, 1.0)[:, None] * between  # [K, V, N]
        task = z[:, None].expand(-1, masses, -1)
        acts = action[:, None] * own
        return torch.cat((torch.stack(told), ladder, acts, task, task * between))


class Contact(nn.Module):
    """What a step looks like from the first mass: `[F, N]` of positions and velocities before and after."""

    gaps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gaps", torch.tensor(GAPS, dtype=torch.float32), persistent=False)
        self.size = 7 + 2 * len(GAPS)

    def forward(self, x: Tensor, after: Tensor) -> Tensor:
        """Whether the step ends the episode is learned from these."""
        distance = after[1:] - after[:1]
        front = torch.where(distance >= 0, distance, FREE).amin(0)
        rear = torch.where(distance < 0, -distance, FREE).amin(0)
        here, there = x[0], after[0]
        told = (
            (3.0 * here).clamp(-1.0, 1.0),
            (3.0 * there).clamp(-1.0, 1.0),
            close(front),
            close(rear),
            (here >= 0).float(),
        )
        ladders = [(2.0 * (gap - self.gaps[:, None])).clamp(-1.0, 1.0) for gap in (front, rear)]
        more = (there.clamp(-FREE, FREE) / FREE, (there >= 0).float())
        return torch.cat((torch.stack((*told, *more)), *ladders))


def move_columns(x: Tensor, v: Tensor, after: Tensor, faster: Tensor, usual: Tensor) -> Tensor:
    """What a step pays is learned from these `[7, N]`, and from whether it ended the episode; `usual` m of a step."""
    here, there = x[0], after[0]
    moved, change = there - here - usual, 2.0 * (faster[0] - v[0])
    road = (here >= 0).float()
    merged = ((here < 0) & (there >= 0)).float()
    return torch.stack((road, merged, moved, road * moved, change, change**2, there.clamp(-FREE, FREE) / FREE))


class VehicleDecoder(NeuralDecoder):
    """(s, a, z) to the next state of point masses on a line, the reward and the end.

    Args:
        features: Of observations; not used, but part of every decoder.
        space: Of observations.
        action: Columns of an action.
        latent: Columns of z.
        config: The networks' width.
        pairs: Which columns are positions and velocities; the first mass acts, the others follow one another in order.
        dt: Seconds of a step.
    """

    first_center: Tensor
    first_scale: Tensor

    def __init__(
        self,
        features: Features,
        space: spaces.Box,
        action: int,
        latent: int,
        config: TransitionDecoderConfig,
        pairs: Sequence[Pair],
        dt: float,
    ):
        nn.Module.__init__(self)
        if len(pairs) < 3 or 2 * len(pairs) != space.shape[0]:
            raise ValueError(
                "the decoder of vehicles needs three observed point masses or more, and nothing else in the observation"
            )
        self.features, self.units, self.dt = features, Units(space.shape[0]), dt
        self.position, self.velocity = ([pair[side] for pair in pairs] for side in (0, 1))
        self.fastest = float(space.high[self.velocity].max())
        self.masses, self.contact = Masses(latent, action), Contact()
        self.evidence_columns = self.masses.plain + 1
        self.drive = ColumnNetwork(self.masses.size, config.hidden, 1)
        self.end = ColumnNetwork(self.contact.size, config.hidden, 1)
        self.pay = ColumnNetwork(8, config.hidden, 1)
        self.first_state = nn.Linear(latent, space.shape[0])
        self.first_spread = nn.Parameter(torch.zeros(space.shape[0]))  # log deviations of first states, in units
        self.register_buffer("first_center", torch.zeros(space.shape[0]))
        self.register_buffer("first_scale", torch.ones(space.shape[0]))

    def accelerations(self, x: Tensor, v: Tensor, action: Tensor, z: Tensor) -> Tensor:
        """`[V, N]` m/s^2."""
        told = self.masses(x, v, action, z)
        out = self.drive(told.flatten(1)).view_as(x)
        return MAX_ACCELERATION * torch.tanh(out)

    def advance(self, x: Tensor, v: Tensor, action: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A step of masses `[V, N]`: positions, velocities, logits of the end `[N]`, what it pays for `[7, N]`."""
        after = x + v * self.dt
        faster = (v + self.accelerations(x, v, action, z) * self.dt).clamp(0.0, self.fastest)
        ends = self.end(self.contact(x, after))[0]
        return after, faster, ends, move_columns(x, v, after, faster, self.masses.pace * self.dt)

    def reward(self, moved: Tensor, ended: Tensor) -> Tensor:
        """`[N]` from the geometry and whether the step ended the episode, in the reward's own unit."""
        out = self.pay(torch.cat((moved, ended[None].to(moved.dtype))))[0]
        return self.units.reward_center + self.units.reward_scale * out

    def lines(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Observations `[N, O]` as masses `[V, N]`."""
        return observation[:, self.position].T.contiguous(), observation[:, self.velocity].T.contiguous()

    def rows(self, x: Tensor, v: Tensor) -> Tensor:
        """The inverse of `lines`."""
        out = torch.empty(x.shape[1], 2 * len(x))
        out[:, self.position], out[:, self.velocity] = x.T, v.T
        return out

    def told(self, observation: Tensor, action: Tensor, z: Tensor, ended: Tensor | None) -> Prediction:
        """A step of which it is known whether it ended the episode, as in training; None: that is foretold too."""
        shape = observation.shape[:-1]
        x, v = self.lines(observation.reshape(-1, observation.shape[-1]))
        flat = (column.reshape(-1, column.shape[-1]).T for column in (action, z))
        after, faster, ends, moved = self.advance(x, v, *flat)
        over = ends > 0.0 if ended is None else ended.flatten()
        reward = self.reward(moved, over)
        out = torch.zeros(x.shape[1], observation.shape[-1], device=x.device)
        out = out.index_copy(1, torch.as_tensor(self.position), after.T)
        out = out.index_copy(1, torch.as_tensor(self.velocity), faster.T)
        return Prediction(out.view(*shape, -1), reward.view(shape), ends.view(shape))

    def forward(self, observation: Tensor, action: Tensor, z: Tensor) -> Prediction:
        """The expected step; leading axes are any and equal."""
        return self.told(observation, action, z, None)

    def imagine(self, observation: Tensor, action: Tensor, z: Tensor) -> Prediction:
        """A step to go on from, the reward inside what has been seen."""
        step = self(observation, action, z)
        reward = step.reward.clamp(self.units.reward_low, self.units.reward_high)
        return Prediction(step.next_observation, reward, step.ends)

    def evidence(self, seen: Transitions) -> Tensor:
        """What each mass shows of the task in transitions `[...]`: `[F, V, N]` with N all of them."""
        rows = [column.reshape(-1, column.shape[-1]) for column in (seen.observation, seen.next_observation)]
        (x, v), (_, faster) = self.lines(rows[0]), self.lines(rows[1])
        action = seen.action.reshape(-1, seen.action.shape[-1]).T
        told = self.masses(x, v, action, x[:0])
        return torch.cat((told, ((faster - v) / (self.dt * MAX_ACCELERATION))[None]))

    def fit_starts(self, starts: Tensor) -> None:
        """Takes the units of first states `[M, O]`."""
        self.masses.pace.copy_(starts[:, self.velocity].mean())
        spread = starts.std(0)
        self.first_center.copy_(starts.mean(0))
        self.first_scale.copy_(torch.where(spread > 1e-3, spread, 1.0))

    def enter(self, observation: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions `[B, V]`, velocities and z."""
        return observation[:, self.position].clone(), observation[:, self.velocity].clone(), z

    def hold(self, state: Any, action: Tensor, alive: Tensor, steps: int) -> tuple[Any, Tensor, Tensor, int]:
        """Imagined steps of living episodes under one action, compiled; rewards stay inside what has been seen."""
        x, v, z = state
        x, v, alive, total = x.clone(), v.clone(), alive.clone(), torch.zeros(len(alive))
        units = self.units
        bounds = (units.reward_center, units.reward_scale, units.reward_low, units.reward_high)
        networks = [network.arrays() for network in (self.drive, self.end, self.pay)]
        columns = [column.numpy() for column in (x, v, z.contiguous(), action.contiguous(), alive)]
        usual = np.float32(self.masses.pace)
        given = (steps, np.float32(self.dt), np.float32(self.fastest), usual, *networks, torch.stack(bounds).numpy())
        count = fast.hold(*columns, *given, total.numpy())
        return (x, v, z), total, alive, count

    def observe(self, state: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """`[B, O]`."""
        return self.rows(state[0].T, state[1].T)

    def fresh_starts(self, z: Tensor, known: Sequence[Tensor], centers: Tensor, generator: torch.Generator) -> Tensor:
        """What real tasks' first states on average say of this task's, and by chance two of their deviations.

        The averages are a linear function of z, by ridge regression over the real tasks. Of deviations r and s from a
        task's own average the sum cos(a) r + sin(a) s has their mean square whatever the angle: no two starts are the
        same, however few were seen.
        """
        average = torch.stack([own.mean(0) for own in known])
        rest = torch.cat([own - mean for own, mean in zip(known, average, strict=True)])
        middle, usual = centers.mean(0), average.mean(0)
        inputs = (centers - middle).double()
        gram = inputs.T @ inputs + RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64)
        slope = torch.linalg.solve(gram, inputs.T @ (average - usual).double()).float()
        mean = usual + (z - middle) @ slope
        one, two = (rest[torch.randint(len(rest), (len(z),), generator=generator)] for _ in range(2))
        angle = 0.5 * math.pi * torch.rand(len(z), 1, generator=generator)
        return mean + angle.cos() * one + angle.sin() * two

    def start_mean(self, z: Tensor) -> Tensor:
        """The expected first state `[..., O]` of tasks `[..., L]`."""
        return self.first_center + self.first_scale * self.first_state(z)

    def start_loss(self, starts: Tensor, z: Tensor) -> Tensor:
        """Minus the log likelihood of first states `[..., O]`, `[...]`; deviations are no less than a tenth."""
        log_deviation = self.first_spread.clamp(math.log(0.1), 1.0)
        error = (starts - self.start_mean(z)) / self.first_scale
        return (0.5 * (error / log_deviation.exp()) ** 2 + log_deviation).sum(-1)
