"""UNICORN: z has to foretell what a step brings, and to lie as FOCAL wants it.

Source: Li et al. 2024, "Towards an Information Theoretic Framework of Context-Based Offline Meta-Reinforcement
Learning" (arXiv 2402.02429), and its released code (betray12138/UNICORN, d8853cd), there UNICORN-SS: an encoder of
transitions, z the mean over a context; a decoder foretells s' and r of every transition of the context from (s, a, z);
the loss is the decoder's and `metric_weight` times FOCAL's. Without FOCAL's share (`--metric-weight 0`) it is
UNICORN-0. The policy is learned as in `focal.py`, and so it plays; the released evaluation shows an episode of the test
task's data (`--playing.context shown`).

Deviations beside those of `focal.py`, with reasons:
- One decoder with a squared error instead of an ensemble of Gaussian ones: nothing here asks how sure it is.
- Rewards and steps are foretold in units of their standard deviation. What a step leads to is foretold only where
  dynamics may differ between tasks (`encoder.sees`): elsewhere z has no part in it.
- Contexts are transitions from all of a task's data, not one episode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from metabench_agents.context.actor_critic import mlp
from metabench_agents.context.offline.actor_critic import ActorCriticConfig
from metabench_agents.context.offline.agents import load_agent, train_agent
from metabench_agents.context.offline.encoder import EncoderConfig, TransitionEncoder
from metabench_agents.context.offline.fitting import Contexts, FittingConfig
from metabench_agents.context.offline.losses import distance_metric_loss
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig
from metabench_agents.parts.device import Computing
from metabench_agents.parts.run import Run

NAME = "unicorn"


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    metric_weight: float = 0.15  # of FOCAL's loss beside the decoder's; published: 0.15 to 1.5, by family
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(latent=5))  # transitions to z
    decoder_hidden: int = 128  # width of the decoder's two layers; published: 64 to 256
    learning: ActorCriticConfig = field(default_factory=ActorCriticConfig)  # policy and critics
    fitting: FittingConfig = field(default_factory=FittingConfig)  # the training
    playing: PlayingConfig = field(default_factory=PlayingConfig)  # how it acts


def unicorn_loss(
    foretold: Tensor, brought: Tensor, z: Tensor, task: Tensor, metric_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The decoder's mean squared error plus FOCAL's loss (arXiv 2402.02429, eq. 14, with a Gaussian decoder).

    Args:
        foretold: `[T, C, P]` what the decoder says that steps bring.
        brought: `[T, C, P]` what they brought.
        z: `[T, L]`.
        task: `[T]`.
        metric_weight: Of FOCAL's loss.
    """
    error = ((foretold - brought) ** 2).mean()
    metric, metrics = distance_metric_loss(z, task)
    return error + metric_weight * metric, {"decoder_error": error.detach()} | metrics


class Decoder(nn.Module):
    """UNICORN's loss of the encoder, with the decoder that learns beside it."""

    def __init__(self, encoder: TransitionEncoder, hidden: int, metric_weight: float):
        super().__init__()
        config, actions = encoder.config, encoder.actions
        outputs = 1 + (encoder.features.observation if config.sees == "step" else 0)
        self.body = mlp(encoder.features.size + actions + config.latent, hidden, 2, outputs)
        self.metric_weight = metric_weight

    def draws(self, tasks: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def forward(
        self, encoder: TransitionEncoder, contexts: Contexts, draws: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on contexts: each step is foretold from the z of its whole context."""
        z, seen = contexts.z, contexts.seen
        wide = z[:, None].expand(-1, seen.reward.shape[1], -1)
        foretold = self.body(torch.cat((encoder.pair(seen), wide), dim=-1)).float()
        return unicorn_loss(foretold, encoder.outcome(seen), z, contexts.tasks, self.metric_weight)


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> OfflineContextAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""

    def objective(encoder: TransitionEncoder) -> nn.Module:
        return Decoder(encoder, config.decoder_hidden, config.metric_weight)

    return train_agent(NAME, benchmark, config, objective, seed=seed, run=run)


def load(path: Path) -> OfflineContextAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    return load_agent(NAME, Config, path)
