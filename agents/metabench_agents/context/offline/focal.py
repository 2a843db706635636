"""FOCAL: contexts of one task are drawn together, those of two tasks apart, and the policy is given where they lie.

Source: Li et al. 2021, "FOCAL: Efficient Fully-Offline Meta-Reinforcement Learning via Distance Metric Learning and
Behavior Regularization" (arXiv 2010.01112), and its released code as CSRO and UNICORN carry it on. Each transition
(s, a, r) is encoded by itself, z is the mean over the context; the encoder learns from the distance metric loss alone
(`losses.distance_metric_loss`). The policy and its critics are given (s, z), and pass no gradient to the encoder.

At play the context is the trial's own transitions, from the first step on (`playing.py`). FOCAL's evaluation takes it
from the *test task's* data, played by that task's own policy: `--playing.context shown`, track `prompt-k`. With its
own context it is known to collapse, for what it does is unlike what it was shown.

Deviations, with reasons:
- The policy is learned by IQL, whose updates cost less than half. `--learning.kind brac` is FOCAL's BRAC.
- z is that of contexts of every size, at times of none: what the policy meets at play. Published: always full ones.
- Learning rates fall to zero; trainings are far shorter than the published ones (`FittingConfig`).
- Observations and rewards are standardised. The loss has no weight: there is nothing to weigh it against.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from metabench_agents.context.offline.actor_critic import ActorCriticConfig
from metabench_agents.context.offline.agents import load_agent, train_agent
from metabench_agents.context.offline.encoder import EncoderConfig, TransitionEncoder
from metabench_agents.context.offline.fitting import Contexts, FittingConfig
from metabench_agents.context.offline.losses import distance_metric_loss
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig
from metabench_agents.parts.device import Computing
from metabench_agents.parts.run import Run

NAME = "focal"


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    encoder: EncoderConfig = field(default_factory=EncoderConfig)  # transitions to z
    learning: ActorCriticConfig = field(default_factory=ActorCriticConfig)  # policy and critics
    fitting: FittingConfig = field(default_factory=FittingConfig)  # the training
    playing: PlayingConfig = field(default_factory=PlayingConfig)  # how it acts


class Metric(nn.Module):
    """FOCAL's loss of the encoder."""

    def draws(self, tasks: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def forward(
        self, encoder: TransitionEncoder, contexts: Contexts, draws: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The distance metric loss of the contexts' z."""
        return distance_metric_loss(contexts.z, contexts.tasks)


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> OfflineContextAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    return train_agent(NAME, benchmark, config, lambda encoder: Metric(), seed=seed, run=run)


def load(path: Path) -> OfflineContextAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    return load_agent(NAME, Config, path)
