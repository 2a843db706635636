"""CORRO: a transition's code is told from those of the same (s, a) with another outcome.

Source: Yuan and Lu 2022, "Robust Task Representations for Offline Meta-Reinforcement Learning via Contrastive
Learning" (arXiv 2206.10442), and its released code (PKU-RL/CORRO, 210ad40). InfoNCE on single transitions: a query and
a key of one task, and negatives made from the query by giving its (s, a) another outcome. So what the code tells is the
outcome, and not which states the task's behaviour policy visits. Two ways to make the other outcome: the query's reward
with noise, or a draw from a conditional VAE of outcomes given (s, a), learned on all tasks together. Codes are of
unit length. The encoder is trained first and then left alone; the policy is given the mean code of a context.

Deviations beside those of `focal.py`, with reasons:
- z is the mean over the context, one of the two ways in the released code; its default is self-attention, whose weights
  learn with the policy.
- Other outcomes are draws of the VAE, which learns in the same updates as the encoder. The reward with noise is the
  better way in the paper's own comparison on PointRobot; here it leaves a short cut, rewards that no task pays there,
  and the codes of all true transitions move to one place. Noise is in standard deviations of the reward.
- The policy is given z in standard deviations over the data's contexts: means of codes of length 1 differ little.
- 20,000 updates of the encoder instead of 200,000.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.context.actor_critic import mlp
from metabench_agents.context.offline.actor_critic import ActorCriticConfig
from metabench_agents.context.offline.agents import load_agent, train_agent
from metabench_agents.context.offline.encoder import EncoderConfig, TransitionEncoder
from metabench_agents.context.offline.fitting import Contexts, FittingConfig
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig
from metabench_agents.parts.device import Computing
from metabench_agents.parts.run import Run

NAME = "corro"


@dataclass(frozen=True)
class ContrastConfig:
    """Settings of the contrast."""

    negatives: int = 16  # of a query
    pairs: int = 4  # queries and keys of each task of an update; published: 64 in all
    temperature: float = 0.1  # of InfoNCE
    outcomes: Literal["auto", "noise", "vae"] = "vae"  # noise on rewards, or drawn; auto: noise where rewards differ
    noise: float = 1.5  # standard deviation of the noise, in those of the reward; published: 0.5 in the reward's units
    hidden: int = 64  # width of the VAE's layer
    latent: int = 5  # dimensions of the VAE's latent


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    encoder: EncoderConfig = field(
        default_factory=lambda: EncoderConfig(latent=5, shape="unit", standardised=True)
    )  # transitions to z
    contrast: ContrastConfig = field(default_factory=ContrastConfig)  # what it learns from
    learning: ActorCriticConfig = field(default_factory=ActorCriticConfig)  # policy and critics
    fitting: FittingConfig = field(default_factory=lambda: FittingConfig(ahead=20_000, together=False))  # the training
    playing: PlayingConfig = field(default_factory=PlayingConfig)  # how it acts


def info_nce(query: Tensor, key: Tensor, negative: Tensor, temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
    """InfoNCE (arXiv 2206.10442, eq. 7): the mean of -log of the key's share in the exponentials of q . k / T.

    Args:
        query: `[B, L]` codes.
        key: `[B, L]` codes of the same tasks.
        negative: `[B, N, L]` codes of the queries' (s, a) with other outcomes.
        temperature: T.
    """
    near = (query * key).sum(-1, keepdim=True)
    far = torch.einsum("bl,bnl->bn", query, negative)
    logits = torch.cat((near, far), dim=-1) / temperature
    loss = F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))
    return loss, {"told_apart": (logits.argmax(-1) == 0).float().mean()}


def vae_loss(foretold: Tensor, outcome: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """The squared error plus the divergence of the latent from N(0, 1), each summed over its columns, mean over rows.

    Args:
        foretold: `[B, P]` outcomes decoded from a draw of the latent.
        outcome: `[B, P]` what they are.
        mean: `[B, U]` of the latent.
        log_std: `[B, U]` of the latent.
    """
    error = ((foretold - outcome) ** 2).sum(-1)
    divergence = 0.5 * ((2.0 * log_std).exp() + mean**2 - 1.0 - 2.0 * log_std).sum(-1)
    return (error + divergence).mean()


class OutcomeVAE(nn.Module):
    """What steps bring, given (s, a), over all tasks."""

    def __init__(self, pair: int, outcome: int, config: ContrastConfig):
        super().__init__()
        self.latent = config.latent
        self.encode = mlp(pair + outcome, config.hidden, 1, 2 * config.latent)
        self.decode = mlp(pair + config.latent, config.hidden, 1, outcome)

    def loss(self, pair: Tensor, outcome: Tensor, noise: Tensor) -> Tensor:
        """On `[B, F + A]` and `[B, P]`; `noise` `[B, U]` draws the latent."""
        mean, log_std = self.encode(torch.cat((pair, outcome), dim=-1)).float().chunk(2, dim=-1)
        log_std = log_std.clamp(-6.0, 2.0)
        foretold = self.decode(torch.cat((pair, mean + log_std.exp() * noise), dim=-1)).float()
        return vae_loss(foretold, outcome, mean, log_std)

    def draw(self, pair: Tensor, noise: Tensor) -> Tensor:
        """Outcomes `[..., P]` for `[..., F + A]` and `[..., U]`."""
        return self.decode(torch.cat((pair, noise), dim=-1)).float()


class Contrast(nn.Module):
    """CORRO's loss of the encoder, with the VAE where there is one."""

    def __init__(self, encoder: TransitionEncoder, config: ContrastConfig):
        super().__init__()
        self.config, outcome = config, 1 + (encoder.features.observation if encoder.config.sees == "step" else 0)
        self.drawn = config.outcomes == "vae" or (config.outcomes == "auto" and encoder.config.sees == "step")
        pair = encoder.features.size + encoder.actions
        self.vae = OutcomeVAE(pair, outcome, config) if self.drawn else None

    def draws(self, tasks: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Noise of the negatives `[Q, N, 1 or U]`; with a VAE, that of its own latent `[Q, U]` too."""
        own, queries = self.config, tasks * self.config.pairs
        if self.vae is None:
            return (torch.randn(queries, own.negatives, 1, generator=generator),)
        shapes = ((queries, own.negatives, own.latent), (queries, own.latent))
        return tuple(torch.randn(shape, generator=generator) for shape in shapes)

    def forward(
        self, encoder: TransitionEncoder, contexts: Contexts, draws: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of the first transitions of each context against the next ones, and the VAE's loss on the queries."""
        count = self.config.pairs
        query, key = (contexts.codes[:, k * count : (k + 1) * count].flatten(0, 1) for k in (0, 1))
        if len(key) < len(query):
            size = contexts.codes.shape[1]
            raise ValueError(f"{count} pairs need contexts of {2 * count} transitions, and fitting.context is {size}")
        pair = encoder.pair(contexts.seen)[:, :count].flatten(0, 1)
        outcome = encoder.outcome(contexts.seen)[:, :count].flatten(0, 1)
        wide = pair[:, None].expand(-1, self.config.negatives, -1)
        if self.vae is None:
            other = outcome[:, None].expand(*wide.shape[:2], -1).clone()
            other[..., :1] += self.config.noise * draws[0]
        else:
            other = self.vae.draw(wide, draws[0]).detach()
        negative = encoder(torch.cat((wide, other), dim=-1))
        loss, metrics = info_nce(query, key, negative, self.config.temperature)
        if self.vae is None:
            return loss, metrics
        of_vae = self.vae.loss(pair, outcome, draws[1])
        return loss + of_vae, metrics | {"vae_loss": of_vae.detach()}


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> OfflineContextAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""

    def objective(encoder: TransitionEncoder) -> nn.Module:
        return Contrast(encoder, config.contrast)

    return train_agent(NAME, benchmark, config, objective, seed=seed, run=run)


def load(path: Path) -> OfflineContextAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    return load_agent(NAME, Config, path)
