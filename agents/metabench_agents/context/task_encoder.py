"""A recurrent beta-VAE of tasks: beliefs about the latent after each transition, learned by reconstruction.

What MetaDreamer calls its task encoder and generative model; it knows nothing of policies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metabench_agents.context.features import Features
from metabench_agents.context.posterior import DiagonalGaussian
from metabench_agents.context.replay import Transitions
from metabench_agents.context.task_decoders import (
    NeuralDecoder,
    TransitionDecoderConfig,
    cluster_losses,
    reconstruction,
    vae_loss,
)
from metabench_agents.parts.fast.linear import Linear
from metabench_agents.parts.layers import GRU


@dataclass(frozen=True)
class TaskModelConfig:
    """Settings of the model of tasks and its updates."""

    updates: int = 200  # of encoder and decoder per iteration
    learning_rate: float = 3e-3  # Adam's
    context: int = 60  # consecutive transitions of each task that the encoder sees, and that z has to speak for
    targets: int = 64  # transitions of each task that beliefs are asked to reconstruct
    width: int = 64  # of the GRU
    beta: float = 5.0  # weight of the divergence from the prior
    within: float = 1.0  # weight of compactness within tasks
    between: float = 1.0  # weight of separation between tasks
    separation: float = 1.0  # sigma: how far apart tasks' centres are pushed
    deviation: float = 0.1  # of reconstructed columns, in their standard deviations over a step
    decoder: TransitionDecoderConfig = field(
        default_factory=TransitionDecoderConfig
    )  # (s, a, z) to the next s, the reward, the end


class TaskModel(nn.Module):
    """GRU encoder and decoder of a task.

    Args:
        features: What is told of an observation.
        decoder: Of transitions given z.
        actions: Columns of an action.
        latent: Dimensions of z.
        config: The GRU's width.
    """

    def __init__(self, features: Features, decoder: NeuralDecoder, actions: int, latent: int, config: TaskModelConfig):
        super().__init__()
        width = config.width
        self.features, self.decoder, self.latent = features, decoder, latent
        self.embed = Linear(features.size + features.observation + actions + 1, width)
        self.memory = GRU(width, width)
        self.out = Linear(width, 2 * latent)

    def embedded(self, seen: Transitions) -> Tensor:
        """What the memory is told of each transition, `[..., W]`."""
        units = self.decoder.units
        change = (seen.next_observation - seen.observation - units.center) / units.step
        reward = (seen.reward - units.reward_center) / units.reward_scale
        facts = (self.features(seen.observation), change, seen.action, reward[..., None])
        return torch.relu(self.embed(torch.cat(facts, dim=-1)))

    def beliefs(self, context: Transitions) -> DiagonalGaussian:
        """After each transition of contexts `[B, N, ...]`: `[B, N, L]`."""
        x = self.embedded(context).transpose(0, 1)
        hidden = self.memory(x, x.new_zeros(x.shape[1], self.memory.hidden))
        return DiagonalGaussian.of(self.out(hidden.transpose(0, 1)))

    def posterior(self, context: Transitions, lengths: Tensor) -> DiagonalGaussian:
        """After the first `lengths` `[B]` transitions: `[B, L]`."""
        every, rows = self.beliefs(context), torch.arange(len(lengths))
        return DiagonalGaussian(*(column[rows, lengths - 1] for column in every))


class ModelDraws(NamedTuple):
    """All that chance decides of one `model_loss`."""

    part: Tensor  # [T P] int64 how many transitions the random part of each context has, 1 .. length
    noise: Tensor  # [T, P, 2, L] of z


def model_draws(lengths: Tensor, latent: int, generator: torch.Generator) -> ModelDraws:
    """For contexts of these lengths `[T, P]`."""
    whole = lengths.flatten()
    part = (torch.rand(len(whole), generator=generator) * whole).long() + 1
    return ModelDraws(part, torch.randn(*lengths.shape, 2, latent, generator=generator))


def model_loss(
    model: TaskModel,
    context: Transitions,
    lengths: Tensor,
    seen: Transitions,
    config: TaskModelConfig,
    draws: ModelDraws,
) -> tuple[Tensor, dict[str, Tensor]]:
    """beta-VAE + within * compactness + between * separation, of P contexts of each of T tasks.

    Args:
        model: Encoder and decoder.
        context: `[T, P, N, ...]` consecutive transitions.
        lengths: `[T, P]` how many of them there are.
        seen: `[T, M, ...]` transitions of the same tasks to reconstruct, from beliefs after the whole context and
            after a random part of it.
        config: The loss's weights.
        draws: The parts and the samples of z.
    """
    tasks, contexts = lengths.shape
    every = model.beliefs(Transitions(*(column.flatten(0, 1) for column in context)))  # [T P, N, L]
    rows = torch.arange(tasks * contexts, device=lengths.device)
    ends = torch.stack((lengths.flatten(), draws.part), dim=1) - 1
    belief = DiagonalGaussian(
        *(column[rows[:, None], ends].unflatten(0, (tasks, contexts)) for column in every)
    )  # [T, P, 2, L]
    z = belief.sample(draws.noise)[:, :, :, None]
    count = seen.reward.shape[1]
    shape = (tasks, contexts, 2, count)
    wide = Transitions(*(c[:, None, None].expand(*shape, *c.shape[2:]) for c in seen))
    predicted = model.decoder(wide.observation, wide.action, z.expand(*shape, -1))
    likelihood = reconstruction(predicted, wide, model.decoder.units, config.deviation)
    vae, metrics = vae_loss(likelihood, belief, config.beta, config.context)
    within, between = cluster_losses(belief.mean[:, :, 0], config.separation)
    total = vae + config.within * within + config.between * between
    return total, metrics | {"within": within.detach(), "between": between.detach()}
