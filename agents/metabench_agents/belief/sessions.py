"""DynaMITE-RL's model of a task that changes session by session, and its ELBO; `dynamite` tells of them.

Source: Liang et al. 2024 (arXiv 2402.15957); see `dynamite` for how far the formulas could be read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metabench_agents.belief.decoders import Head
from metabench_agents.belief.model import BeliefModel, Draws, Pure
from metabench_agents.parts.losses import (
    chained_prior,
    last_of_session,
    reconstruction_loss,
    session_consistency,
    session_of_belief,
    termination_loss,
)
from metabench_agents.parts.memory import Trials


class SessionModel(nn.Module):
    """VariBAD's model, and where they are asked for the learned prior between sessions and the termination head.

    Args:
        config: `dynamite.Config`, or one with the same fields for the model.
        env: A native vector environment of the benchmark.
        ticks: Length of a trial.
    """

    def __init__(self, config: Any, env: Any, ticks: int):
        super().__init__()
        core = {"kind": config.encoder, "hidden": config.encoder_hidden, "ticks": ticks}
        core |= {"layers": config.encoder_layers, "heads": config.encoder_heads}
        self.base = BeliefModel(config, env, ticks, latent=config.latent_kind, core=core, classes=config.classes)
        self.latent, width = self.base.latent, self.base.latent.parameters
        self.prior = Head(width, config.prior_hidden, width) if config.conditioning else None
        self.termination = Head(width, config.termination_hidden, 1) if config.termination_weight else None

    def beliefs(self, batch: Trials) -> Tensor:
        """`[T, B, P]` the belief at every tick of whole trials, from what an agent is shown."""
        return self.base.encoder(*batch.ticks())

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


def elbo(model: SessionModel, config: Any, batch: Trials, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the DLCMDP's ELBO: reconstruction + kl_weight KL + consistency_weight (a) + termination_weight BCE."""
    belief = model.beliefs(batch)
    session = session_of_belief(batch.session, batch.first)
    drawn = model.base.likelihood(belief, batch, draws)
    mask = None
    if config.masking:
        mask = session[drawn.terms][:, None] == batch.session[drawn.steps][None]
    reconstruction, metrics = reconstruction_loss(drawn.value, mask, drawn.share)
    kl = model.latent.kl(belief, prior_of(model, belief, session)).sum(0).mean()
    metrics |= {"reconstruction": reconstruction.detach(), "belief_kl": kl.detach()}
    total = reconstruction + config.kl_weight * kl
    if config.consistency:
        consistency, more = consistency_loss(model, belief, session)
        total = total + config.consistency_weight * consistency
        metrics |= more | {"consistency": consistency.detach()}
    if model.termination is not None:
        termination, more = termination_loss(model.new_session(belief), session)
        total = total + config.termination_weight * len(belief) * termination
        metrics |= more | {"termination": termination.detach()}
    return total, metrics


def loss(
    model: SessionModel, config: Any, batch: Trials, generator: torch.Generator, pure: Pure = elbo
) -> tuple[Tensor, dict[str, Tensor]]:
    """`elbo` of fresh draws; `pure` may be its compiled form."""
    return pure(model, config, batch, model.base.draw(batch, generator))
