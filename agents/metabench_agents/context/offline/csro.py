"""CSRO: FOCAL whose z may not tell what the behaviour policy did, and which explores before it trusts its context.

Source: Gao et al. 2023, "Context Shift Reduction for Offline Meta-Reinforcement Learning" (arXiv 2311.03695), and its
released code (MoreanP/CSRO, 7db1efd). Beside FOCAL's loss the encoder minimises CLUB's upper bound of the mutual
information between codes z and pairs (s, a): with q(z | s, a) fitted to the codes, mean log q(z_i | x_i) less mean
log q(z_j | x_i) over all pairs of a context. At play a trial begins with actions drawn evenly, which depend on no
belief ("non-prior" collection); afterwards z is that of the trial's own transitions.

Deviations beside those of `focal.py`, with reasons:
- The mean over all pairs is taken in closed form, from the first two moments of the codes: the same number (a test
  holds it) without the 1024 x 1024 pairs of each of 16 tasks.
- q is fitted in the same update as the encoder, to the same codes, instead of just before.
- The released code draws the tasks of an update without replacement, so that FOCAL's loss never sees two contexts of
  one task; here they are drawn with replacement.
- The number of exploring steps is a setting, and they are the first episode's only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.context.actor_critic import mlp
from metabench_agents.context.offline.actor_critic import ActorCriticConfig
from metabench_agents.context.offline.agents import load_agent, train_agent
from metabench_agents.context.offline.encoder import EncoderConfig, TransitionEncoder
from metabench_agents.context.offline.fitting import Contexts, FittingConfig
from metabench_agents.context.offline.losses import distance_metric_loss
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig
from metabench_agents.parts.device import Computing
from metabench_agents.parts.run import Run

NAME = "csro"


@dataclass(frozen=True)
class CSROPlaying(PlayingConfig):
    """How CSRO acts."""

    explore: int = field(default=4, metadata={"low": 0})  # steps a trial begins with that are drawn evenly


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    metric_weight: float = 10.0  # of FOCAL's loss
    club_weight: float = 25.0  # of the upper bound; published: 25 on PointRobot, 10 on CheetahVel, 50 on AntGoal
    encoder: EncoderConfig = field(default_factory=EncoderConfig)  # transitions to z
    learning: ActorCriticConfig = field(default_factory=ActorCriticConfig)  # policy and critics
    fitting: FittingConfig = field(default_factory=FittingConfig)  # the training
    playing: CSROPlaying = field(default_factory=CSROPlaying)  # how it acts


class Guessed(NamedTuple):
    """q(z | s, a): a Gaussian guess of a transition's code from what was seen and done."""

    mean: Tensor  # [T, C, L]
    variance: Tensor  # [T, C, L]


def club_loss(codes: Tensor, guessed: Guessed) -> Tensor:
    """CLUB's upper bound (Cheng et al. 2020, arXiv 2006.12013) in the released code's units: no half, mean over L.

    mean_i -(z_i - m_i)^2 / v_i + mean_ij (z_j - m_i)^2 / v_i, the pairs being those of one context. Of the second term
    only the first two moments of a context's codes are needed. No gradient goes to q.

    Args:
        codes: `[T, C, L]`.
        guessed: Of the same transitions.
    """
    mean, variance = guessed.mean.detach(), guessed.variance.detach()
    own = ((codes - mean) ** 2 / variance).mean()
    first, second = codes.mean(1, keepdim=True), (codes**2).mean(1, keepdim=True)
    return ((second - 2.0 * mean * first + mean**2) / variance).mean() - own


def guess_loss(codes: Tensor, guessed: Guessed) -> Tensor:
    """The negative log likelihood of codes under q up to a constant, mean over everything. No gradient to the codes."""
    return ((codes.detach() - guessed.mean) ** 2 / (2.0 * guessed.variance) + 0.5 * guessed.variance.log()).mean()


class Club(nn.Module):
    """CSRO's loss of the encoder, with q, which learns beside it."""

    def __init__(self, encoder: TransitionEncoder, metric_weight: float, club_weight: float):
        super().__init__()
        config = encoder.config
        self.body = mlp(encoder.features.size + encoder.actions, config.hidden, config.layers, 2 * config.latent)
        self.metric_weight, self.club_weight = metric_weight, club_weight

    def guess(self, pair: Tensor) -> Guessed:
        """From `[T, C, F + A]`; both outputs are squashed as in the released code, so variances are 0.3 to 1.3."""
        mean, raw = torch.tanh(self.body(pair).float()).chunk(2, dim=-1)
        return Guessed(mean, F.softplus(raw))

    def draws(self, tasks: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def forward(
        self, encoder: TransitionEncoder, contexts: Contexts, draws: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """FOCAL's loss, the bound and q's own loss."""
        guessed = self.guess(encoder.pair(contexts.seen))
        metric, metrics = distance_metric_loss(contexts.z, contexts.tasks)
        club, fit = club_loss(contexts.codes, guessed), guess_loss(contexts.codes, guessed)
        total = self.metric_weight * metric + self.club_weight * club + fit
        return total, metrics | {"club": club.detach(), "guess_loss": fit.detach()}


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> OfflineContextAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""

    def objective(encoder: TransitionEncoder) -> nn.Module:
        return Club(encoder, config.metric_weight, config.club_weight)

    return train_agent(NAME, benchmark, config, objective, seed=seed, run=run)


def load(path: Path) -> OfflineContextAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    return load_agent(NAME, Config, path)
