"""VariBAD: infer the hidden task with a variational autoencoder, act on what is seen and on the whole belief.

Source: Zintgraf et al. 2020, "VariBAD: A Very Good Method for Bayes-Adaptive Deep RL via Meta-Learning" (arXiv
1910.08348) and its code release. A recurrent encoder gives q(m | tau_{:t}) at every tick t; a decoder must predict
every reward (and, if asked, next observation) of the whole trial, past and future, from a draw of it:

    ELBO_t = E_q(m | tau_{:t}) [log p(tau_{:H} | m)] - KL(q(m | tau_{:t}) || q(m | tau_{:t-1}))        (eq. 8, 9)

with N(0, 1) before the first tick; the sum over t is maximised on a buffer of past trials, and PPO trains a policy that
sees the observation and (mean, log variance). No gradient of the policy reaches the encoder. The belief is kept across
the episodes of a trial.

Deviations, with reasons:
- At a tick the encoder is fed the trial's last transition, the one that ended an episode with where it led to included,
  and whether an episode begins; at the trial's start the first observation, which the first belief has therefore seen.
  (Policies that learned under the protocol `slots-1` were fed an episode's first observation instead of the transition
  that ended the one before.)
- Log variances are bounded smoothly to +-6, so that a KL to a collapsed belief cannot overflow.
- The sums over terms and steps are divided by the share that was drawn: subsampling changes the noise, not the weights.
- Rewards are divided by a running scale of the discounted return for PPO; learning rates fall linearly to zero.
- A scout plays the warm-up: a policy with a large entropy bonus, which finds what pays before there is a belief. Then
  the model takes many steps on what it saw, and the policy begins anew: what one learns that cannot read the belief
  (find one goal, stay there) is in the way, and a belief that is good from the policy's first step is read. (The
  published code precollects with random actions: `warmup.scout=False`.)
- `learner="sac"`: soft actor-critic on the hyper-states (o_t, q) of past trials in place of PPO, beliefs made anew for
  every iteration's updates (`hyper`): where a step costs much, each is learned from many times. Off-policy VariBAD is
  Dorfman et al.'s (arXiv 2008.02598). No scout then: the warm-up's actions are random, each kept for a while.
- `reading`: beside (mean, log variance) the policy sees the reward decoder's hidden layers at the belief's mean and the
  current observation. The decoder has learned to read the latent's code, which a fresh policy would have to find out.
- `products`: first layers of encoder and decoders have second-order terms; so has the policy's, of observation and
  belief, whose columns are brought to unit scale.
- The tick is embedded by one layer instead of one per part. Trials must be of one length. A transformer may take the
  place of the GRU, and categorical variables that of the Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from metabench_agents.belief import hyper
from metabench_agents.belief.hyper import LearnerName, SoftPolicyConfig
from metabench_agents.belief.learning import LEARNING_RENAMED, WarmupConfig, learn, restore
from metabench_agents.belief.model import MODEL_RENAMED, BeliefModel, Draws, FitConfig, ModelConfig
from metabench_agents.belief.policy import BeliefAgent
from metabench_agents.parts.config import read_config
from metabench_agents.parts.decisions import DecidingAgent
from metabench_agents.parts.device import Computing
from metabench_agents.parts.losses import PPO, chained_prior, reconstruction_loss
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import Run, load_checkpoint, load_config
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "varibad"


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 750_000  # environment steps in all
    trials: int = 64  # trials played together, one per slot
    model: ModelConfig = field(default_factory=ModelConfig)  # encoder, decoders and ELBO
    fit: FitConfig = field(default_factory=FitConfig)  # how it learns: a few gradient steps an iteration
    warmup: WarmupConfig = field(default_factory=WarmupConfig)  # what comes before that
    ppo: PPO = field(default_factory=lambda: PPO(discount=0.9, trace=0.8, epochs=4))  # how policy and value learn
    learner: LearnerName = "ppo"  # how the policy learns: PPO on what was just played, or SAC on past trials
    soft: SoftPolicyConfig = field(default_factory=SoftPolicyConfig)  # how SAC does it
    width: int = 128  # of the policy's and value's two hidden layers
    buffer: int = 8192  # past trials that the model learns from
    split: str = "train"  # tasks to learn from; "fresh" for endless ones
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides


# What settings were called before they were grouped, where they were called otherwise.
RENAMED = MODEL_RENAMED | LEARNING_RENAMED


def elbo(model: BeliefModel, batch: Trials, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus the ELBO, summed over its terms: -sum_t sum_s log p(x_s | m_t) + kl_weight sum_t KL(q_t || q_{t-1})."""
    belief = model.beliefs(batch)
    drawn = model.likelihood(belief, batch, draws)
    reconstruction, metrics = reconstruction_loss(drawn.value, None, drawn.share)
    kl = model.latent.kl(belief, chained_prior(belief)).sum(0).mean()
    metrics |= {"reconstruction": reconstruction.detach(), "belief_kl": kl.detach()}
    return reconstruction + model.config.kl_weight * kl, metrics


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: the defaults, with the view that suits the benchmark."""
    return Config(view=whole_view(benchmark))


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> BeliefAgent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits."""
    teach = hyper.learn if config.learner == "sac" else learn
    return teach(NAME, benchmark, config, BeliefModel, elbo, seed=seed, run=run)


def load(path: Path) -> BeliefAgent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    record, checkpoint = load_config(path), load_checkpoint(path)
    config = read_config(Config, record["config"], RENAMED)
    again = hyper.restore if config.learner == "sac" else restore
    return again(NAME, record, config, BeliefModel, checkpoint.tensors)
