"""A recurrent beta-VAE of tasks: beliefs about the latent after each transition, learned by reconstruction.

What MetaDreamer calls its task encoder and generative model; it knows nothing of policies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

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
from metabench_agents.parts.features import Features
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
    starts: float = field(default=0.0, metadata={"low": 0})  # weight of first states' likelihood, where z tells of them
    partial: str = "rebuild"  # what beliefs after part of a context learn: "rebuild" the task, "foretell" the whole's
    supervision: float = field(default=0.0, metadata={"low": 0})  # of the distance between z and tasks' parameters
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
        told = decoder.evidence_columns or features.size + features.observation + actions + 1
        self.embed = Linear(told, width)
        self.memory = GRU(width, width)
        self.out = Linear(width, 2 * latent)

    def embedded(self, seen: Transitions) -> Tensor:
        """What the memory is told of each transition, `[..., W]`."""
        if self.decoder.evidence_columns:
            told = self.decoder.evidence(seen)  # [F, V, N]: one embedding reads every mass alike
            each = torch.addmm(self.embed.bias[:, None], self.embed.weight, told.flatten(1))
            return torch.relu(each).view(-1, *told.shape[1:]).sum(1).T.reshape(*seen.reward.shape, -1)
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


def divergence(p: DiagonalGaussian, q: DiagonalGaussian) -> Tensor:
    """KL(p || q) in nats, summed over the latent: `[...]`."""
    ratio = p.variance / q.variance
    return 0.5 * (ratio + (p.mean - q.mean) ** 2 / q.variance - 1.0 - ratio.log()).sum(-1)


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
    starts: Tensor | None = None,
    factors: Tensor | None = None,
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
        starts: `[T, S, O]` first observations of the same tasks, for decoders that generate them.
        factors: `[T, K]` the tasks' parameters in units of about one, for supervision: the first K dimensions of z are
            pulled to them.
    """
    tasks, contexts = lengths.shape
    foretells = config.partial == "foretell"
    every = model.beliefs(Transitions(*(column.flatten(0, 1) for column in context)))  # [T P, N, L]
    rows = torch.arange(tasks * contexts, device=lengths.device)
    ends = torch.stack((lengths.flatten(), draws.part), dim=1) - 1
    belief = DiagonalGaussian(
        *(column[rows[:, None], ends].unflatten(0, (tasks, contexts)) for column in every)
    )  # [T, P, 2, L]
    decoded = DiagonalGaussian(*(column[:, :, :1] for column in belief)) if foretells else belief
    z = decoded.sample(draws.noise[:, :, : decoded.mean.shape[2]])[:, :, :, None]
    count = seen.reward.shape[1]
    shape = (tasks, contexts, z.shape[2], count)
    wide = Transitions(*(c[:, None, None].expand(*shape, *c.shape[2:]) for c in seen))
    predicted = model.decoder.told(wide.observation, wide.action, z.expand(*shape, -1), wide.terminal)
    likelihood = reconstruction(predicted, wide, model.decoder.units, config.deviation)
    vae, metrics = vae_loss(likelihood, decoded, config.beta, config.context)
    within, between = cluster_losses(belief.mean[:, :, 0], config.separation)
    total = vae + config.within * within + config.between * between
    if foretells:
        whole_belief = DiagonalGaussian(*(column[:, :, 0].detach() for column in belief))
        total = total + divergence(whole_belief, DiagonalGaussian(*(column[:, :, 1] for column in belief))).mean()
    if config.starts and starts is not None:
        begun = model.decoder.start_loss(starts[:, None], z[:, :, 0]).mean()
        total, metrics = total + config.starts * begun, metrics | {"starts": begun.detach()}
    if config.supervision and factors is not None:
        known = ((belief.mean[:, :, 0, : factors.shape[1]] - factors[:, None]) ** 2).sum(-1).mean()
        total, metrics = total + config.supervision * known, metrics | {"supervision": known.detach()}
    return total, metrics | {"within": within.detach(), "between": between.detach()}
