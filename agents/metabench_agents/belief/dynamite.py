"""DynaMITE-RL: VariBAD for a hidden task that changes inside the episode, session by session (a DLCMDP).

Source: Liang et al. 2024, "DynaMITE-RL: A Dynamic Model for Improved Temporal Meta-Reinforcement Learning" (arXiv
2402.15957). Inference and policy are VariBAD's; the ELBO knows the sessions of its training trials, in three parts:

(a) Session consistency. theta_t = KL(q(m | tau_{:t}) || q at the session's end); sum_t max(theta_{t+1} - theta_t, 0)
    over the ticks of a session is penalised: what is learned within a session may only lead towards its final belief.
(b) Latent-dynamics conditioning. The prior of a session's first belief is not the belief before it but
    p(m^i | m^{i-1}), a learned function of the last belief of the session before; a belief may jump at a border at no
    more cost than the latent's own dynamics say.
(c) Session reconstruction masking. A latent has to explain the transitions of its own session alone.

A head on the belief predicts whether the transition just seen was the first of a new session. Session ends are labels
of the training trials; encoder and policy are never shown them, in training nor in evaluation. With all three parts off
and `termination_weight` 0 this is VariBAD, number for number.

Which session a belief is about: at tick t the last transition seen is t-1, so q(m | tau_{:t}) is about the session of
transition t-1, at a later episode's first tick about the session in which the episode before ended; at the trial's
start, where none is seen, about the session that begins. Where every episode begins with a session of its own, that
border is one like any other: the belief at the episode's first tick is the final one of part (a) for the session that
is over and the input of part (b), and the head is to say "new" one tick later, with the first transition of the new
session. (The encoder sees that an episode begins, and may tell so in the belief.) Rewards are discounted along the
trial, sessions and episodes notwithstanding: what is learned in one may pay in the next.

The paper's appendix could not be read here: the formulas are second-hand, from a third-party replication that cites it
(github.com/sxxgwoo/IITP_AGI_Meta-RL) and names in early code of the first author, and no setting is known. Our choices,
with reasons:
- theta's final belief carries no gradient: otherwise the term can be lowered by making final beliefs vague.
- The last belief of the session before carries no gradient into the learned prior's input, as in the author's code: it
  must not become vague to be predictable. Inside a session the prior is the belief before, as in VariBAD.
- The termination head reads the belief, and its gradient shapes the encoder.
- Encoders: GRU, or a causal transformer. Latents: Gaussian, or categorical with Gumbel-softmax draws.
- With `learner="sac"`, `soft.hindsight` gives every replayed step, and what follows it, the last belief about its
  session. A border brings another task's value, for which no action is to blame, and a belief that settles takes the
  value along: critics err by little else. Acting is on the belief of the moment, as ever. The paper's policy is PPO's.
- Everything that `varibad` lists.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from metabench_agents.belief import hyper
from metabench_agents.belief.hyper import LearnerName, SoftPolicyConfig
from metabench_agents.belief.learning import LEARNING_RENAMED, WarmupConfig, learn, restore
from metabench_agents.belief.model import MODEL_RENAMED, FitConfig, ModelConfig
from metabench_agents.belief.policy import BeliefAgent
from metabench_agents.belief.sessions import SessionConfig, SessionModel, elbo
from metabench_agents.parts.config import for_benchmark, read_config
from metabench_agents.parts.decisions import DecidingAgent
from metabench_agents.parts.device import Computing
from metabench_agents.parts.losses import PPO
from metabench_agents.parts.run import Run, load_checkpoint, load_config
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "dynamite"


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 750_000  # environment steps in all
    trials: int = 64  # trials played together, one per slot
    model: ModelConfig = field(default_factory=ModelConfig)  # encoder, decoders and VariBAD's share of the ELBO
    sessions: SessionConfig = field(default_factory=SessionConfig)  # the three parts and the termination head
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


CONTROL: dict[str, Any] = {  # continuous control, found on CheetahVelSwitch: SAC in hindsight, and a good belief first
    "learner": "sac",
    "soft.hindsight": True,
    "frames": 160_000,
    "trials": 8,
    "model.decoder.sees": "all",
    "model.decoder.hidden": (64, 32),
    "model.encoder.hidden": 128,
    "model.terms": 25,
    "model.steps": 25,
    "model.products": False,
    "model.normalise": True,
    "model.reading": False,
    "warmup.iterations": 10,
    "warmup.updates": 1500,
    "fit.updates": 12,
    "fit.trials": 16,
}
RECOMMENDED: dict[str, dict[str, Any]] = {
    "CheetahDirSwitch-v0": CONTROL,
    "CheetahVelSwitch-v0": CONTROL,
    "CheetahWindVelSwitch-v0": CONTROL,
    "ReacherSwitch-v0": CONTROL,
}


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: those of our studies for a benchmark, the defaults elsewhere."""
    return for_benchmark(Config(view=whole_view(benchmark)), RECOMMENDED, benchmark)


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> BeliefAgent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits."""
    teach = hyper.learn if config.learner == "sac" else learn
    return teach(NAME, benchmark, config, partial(SessionModel, config.sessions), elbo, seed=seed, run=run)


def load(path: Path) -> BeliefAgent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    record, checkpoint = load_config(path), load_checkpoint(path)
    config = read_config(Config, record["config"], RENAMED)
    again = hyper.restore if config.learner == "sac" else restore
    return again(NAME, record, config, partial(SessionModel, config.sessions), checkpoint.tensors)
