"""Decoders: what a latent task predicts of every transition, written so that each latent is decoded once.

The first layer reads a latent z and features f of a transition. W [z; f] = W_z z + W_f f exactly, so the layer is two
small products and one sum over all pairs instead of a product over all pairs: K latents times M transitions cost
K + M rows in it, not K x M.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metabench_agents.parts.fast.pairs import pair_outputs, worth_it
from metabench_agents.parts.layers import Products, Space, action_size, encode_action, linear, make_scaler
from metabench_agents.parts.memory import Trials


@dataclass(frozen=True)
class DecoderConfig:
    """What the decoders read, and their sizes."""

    sees: str = "next"  # what of a transition the reward's reads: next, step, all; cells for grids' multi-head
    hidden: tuple[int, ...] = (32, 32)  # widths of the hidden layers
    states: bool = False  # whether next observations are decoded too


class PairDecoder(nn.Module):
    """Predicts `outputs` numbers for every pair of a latent and a transition.

    Args:
        latent: Columns of a latent sample.
        features: Columns of a transition's features.
        hidden: Widths of the hidden layers, ReLU after each.
        outputs: Columns of a prediction.
    """

    def __init__(self, latent: int, features: int, hidden: tuple[int, ...], outputs: int):
        super().__init__()
        self.latent = latent
        self.first = linear(latent + features, hidden[0])
        middle = (linear(i, o) for i, o in pairwise(hidden))
        self.rest = nn.ModuleList((*middle, linear(hidden[-1], outputs, gain=1.0)))

    def forward(self, z: Tensor, f: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[K, B, Z]` latents and `[M, B, F]` transitions of the same B trials to `[K, M, B, outputs]`.

        Pairs outside `mask` `[K, M, B]` are nobody's: they come out as they may, and have no gradient of use.
        """
        weight, bias = self.first.weight, self.first.bias
        of_latent = nn.functional.linear(z, weight[:, : self.latent])
        of_transition = nn.functional.linear(f, weight[:, self.latent :], bias)
        match list(self.rest):
            case [nn.Linear() as second, nn.Linear(out_features=1) as last] if worth_it(of_latent, of_transition):
                end = (second.weight, second.bias, last.weight[0], last.bias)
                return pair_outputs(of_latent, of_transition, *end, mask)[..., None]
        h = of_latent[:, None] + of_transition[None]
        for layer in self.rest:
            h = layer(torch.relu(h))
        return h

    def hidden(self, z: Tensor, f: Tensor) -> Tensor:
        """All hidden layers, `[..., sum of widths]`, for latents `[..., Z]` with one transition `[..., F]` each."""
        layers = [torch.relu(self.first(torch.cat((z, f), dim=-1)))]
        for layer in list(self.rest)[:-1]:
            layers.append(torch.relu(layer(layers[-1])))
        return torch.cat(layers, dim=-1)


class BeliefHead(nn.Module):
    """A small perceptron: belief to numbers, with one hidden layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(linear(inputs, hidden), nn.ReLU(), linear(hidden, outputs, gain=0.1))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inputs]` to `[..., outputs]`."""
        return self.layers(x)


class TransitionDecoder(nn.Module):
    """p(reward | m, transition) or p(next observation | m, transition): features of a transition into a `PairDecoder`.

    Args:
        observations: The environment's observation space, for the columns' scale.
        actions: Its action space.
        latent: Columns of a latent sample.
        hidden: Widths of the hidden layers.
        sees: What of the transition it reads: "next" (the observation it leads to), "step" (observation and action),
            "all" (all three).
        outputs: Columns of a prediction; 1 for a reward.
        products: Whether a layer with second-order terms reads the transition first.
        normalise: Whether observations without bounds are brought to a running unit scale.
    """

    def __init__(
        self,
        observations: spaces.Box,
        actions: Space,
        latent: int,
        hidden: tuple[int, ...],
        sees: str,
        outputs: int,
        products: bool = False,
        normalise: bool = False,
    ):
        super().__init__()
        if sees not in ("next", "step", "all"):
            raise ValueError(f"a decoder cannot see {sees!r}; there are next, step and all")
        self.space, self.sees = actions, sees
        self.scaler = make_scaler(observations, normalise)
        width, act = observations.shape[0], action_size(actions)
        features = {"next": width, "step": width + act, "all": 2 * width + act}[sees]
        self.enter = Products(features, hidden[0]) if products else nn.Identity()
        self.pairs = PairDecoder(latent, hidden[0] if products else features, hidden, outputs)

    def forward(self, z: Tensor, trials: Trials, mask: Tensor | None = None) -> Tensor:
        """`[K, B, Z]` latents and M ticks of B trials to `[K, M, B, outputs]`; `mask` as `PairDecoder` has it."""
        parts = []
        if self.sees != "next":
            parts += [self.scaler(trials.observation), encode_action(trials.action, self.space)]
        if self.sees != "step":
            parts.append(self.scaler(trials.next_observation))
        return self.pairs(z, self.enter(torch.cat(parts, dim=-1)), mask)

    def hidden(self, z: Tensor, observation: Tensor) -> Tensor:
        """The hidden layers for latents `[..., Z]` where one stands, `[..., O]`, as if just come there."""
        seen = self.scaler(observation)
        still = seen.new_zeros(*seen.shape[:-1], action_size(self.space))
        parts = {"next": (seen,), "step": (seen, still), "all": (seen, still, seen)}[self.sees]
        return self.pairs.hidden(z, self.enter(torch.cat(parts, dim=-1)))


class CellRewardDecoder(nn.Module):
    """p(reward | m, cell) on the grids, every cell at once: VariBAD's multi-head decoder.

    What it says does not depend on the transition, so each latent is decoded once and the cells are picked afterwards.
    It sees nothing beside the latent, so the latent has to say where the goal is.

    Args:
        observations: The grid's observation space; the first two columns are the agent's column and row.
        latent: Columns of a latent sample.
        hidden: Widths of the hidden layers, ReLU after each.
    """

    def __init__(self, observations: spaces.Box, latent: int, hidden: tuple[int, ...]):
        super().__init__()
        self.size = int(observations.high[0]) + 1
        layers: list[nn.Module] = []
        for i, o in pairwise((latent, *hidden)):
            layers += [linear(i, o), nn.ReLU()]
        self.layers = nn.Sequential(*layers, linear(hidden[-1], self.size**2, gain=1.0))

    def forward(self, z: Tensor, trials: Trials, mask: Tensor | None = None) -> Tensor:
        """`[K, B, Z]` latents and M ticks of B trials to `[K, M, B, 1]`; all of them, whatever `mask` says."""
        cell = (trials.next_observation[..., 0] * self.size + trials.next_observation[..., 1]).long()
        index = cell.t()[None].expand(len(z), -1, -1)  # [K, B, M]
        return self.layers(z).gather(-1, index).transpose(1, 2)[..., None]

    def hidden(self, z: Tensor, observation: Tensor) -> Tensor:
        """The hidden layers for latents `[..., Z]`, whatever the observation."""
        layers = [z]
        for layer in list(self.layers)[:-1]:
            layers.append(layer(layers[-1]))
        return torch.cat(layers[2::2], dim=-1)
