"""DynaMITE-RL's model of a task that changes session by session, and its ELBO; `dynamite` tells of them.

Source: Liang et al. 2024 (arXiv 2402.15957); see `dynamite` for how far the formulas could be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metabench_agents.belief.decoders import BeliefHead
from metabench_agents.belief.model import BeliefModel, Draws, ModelConfig
from metabench_agents.parts.losses import (
    chained_prior,
    last_of_session,
    reconstruction_loss,
    session_consistency,
    session_of_belief,
    termination_loss,
)
from metabench_agents.parts.memory import Trials


@dataclass(frozen=True)
class SessionConfig:
    """What the model is told of sessions: the three parts (a), (b), (c) and the termination head."""

    consistency: bool = True  # part (a)
    consistency_weight: float = 0.01  # of part (a)
    conditioning: bool = True  # part (b)
    prior_hidden: int = 32  # width of the learned prior's hidden layer
    masking: bool = True  # part (c)
    termination_weight: float = 0.1  # of the termination head's loss; 0 for no head
    termination_hidden: int = 32  # width of its hidden layer


class SessionModel(nn.Module):
    """VariBAD's model, and where they are asked for the learned prior between sessions and the termination head.

    Args:
        config: What it is told of sessions.
        model: Settings of VariBAD's model.
        env: A native vector environment of the benchmark.
        ticks: Length of a trial.
    """

    def __init__(self, config: SessionConfig, model: ModelConfig, env: Any, ticks: int):
        super().__init__()
        self.config, self.base = config, BeliefModel(model, env, ticks)
        self.latent, width = self.base.latent, self.base.latent.parameters
        self.prior = BeliefHead(width, config.prior_hidden, width) if config.conditioning else None
        self.termination = BeliefHead(width, config.termination_hidden, 1) if config.termination_weight else None

    def beliefs(self, batch: Trials) -> Tensor:
        """`[T, B, P]` the belief at every tick of whole trials."""
        return self.base.beliefs(batch)

    def next_session(self, belief: Tensor) -> Tensor:
        """p(m^i | m^{i-1}): the prior of a session from the last belief `[..., P]` of the session before."""
        assert self.prior is not None, "the model was made without latent-dynamics conditioning"
        return self.latent.normalise(self.prior(self.latent.features(belief)))

    def new_session(self, belief: Tensor) -> Tensor:
        """Logit `[...]` that the transition just seen was the first of a new session."""
        assert self.termination is not None, "the model was made without a termination head"
        return self.termination(self.latent.features(belief))[..., 0]


def prior_of(model: SessionModel, belief: Tensor, session: Tensor) -> Tensor:
    """The prior of every belief `[T, B, P]`: the belief before it; with part (b), the learned one at a session's start.

    Args:
        model: Its `prior`, if it has one, predicts the next session's latent.
        belief: `[T, B, P]`.
        session: `[T, B]` which session each belief is about.
    """
    prior = chained_prior(belief)
    if model.prior is None:
        return prior
    border = (session[1:] != session[:-1])[..., None]
    learned = model.next_session(belief[:-1].detach())
    return torch.cat((prior[:1], torch.where(border, learned, prior[1:])))


def consistency_loss(model: SessionModel, belief: Tensor, session: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Part (a): how much the KL from the beliefs `[T, B, P]` to their session's last one rises, summed over ticks."""
    index = last_of_session(session)[..., None].expand_as(belief)
    final = belief.detach().gather(0, index)
    return session_consistency(model.latent.kl(belief, final), session)


def elbo(model: SessionModel, batch: Trials, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the DLCMDP's ELBO: reconstruction + kl_weight KL + consistency_weight (a) + termination_weight BCE."""
    config, belief = model.config, model.beliefs(batch)
    session = session_of_belief(batch.session)
    mask = session[draws.terms][:, None] == batch.session[draws.steps][None] if config.masking else None
    drawn = model.base.likelihood(belief, batch, draws, mask)
    reconstruction, metrics = reconstruction_loss(drawn.value, mask, drawn.share)
    kl = model.latent.kl(belief, prior_of(model, belief, session)).sum(0).mean()
    metrics |= {"reconstruction": reconstruction.detach(), "belief_kl": kl.detach()}
    total = reconstruction + model.base.config.kl_weight * kl
    if config.consistency:
        consistency, more = consistency_loss(model, belief, session)
        total = total + config.consistency_weight * consistency
        metrics |= more | {"consistency": consistency.detach()}
    if model.termination is not None:
        termination, more = termination_loss(model.new_session(belief), session)
        total = total + config.termination_weight * len(belief) * termination
        metrics |= more | {"termination": termination.detach()}
    return total, metrics
