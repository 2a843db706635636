"""SeCBAD: VariBAD on the current segment of a trial, whose length is inferred together with the hidden task.

Source: Chen et al. 2022, "An Adaptive Deep RL Method for Non-Stationary Environments with Piecewise Stable Context"
(NeurIPS 2022), and its code release (github.com/DDDOH/SeCBAD). The task is constant within a segment and drawn anew at
its end; neither is seen. The belief is joint: over the length G_t of the current segment (the recursion and its symbols
are in `segments`), and for every length over the task, by VariBAD's encoder started anew where that segment would have
begun. L_g is what the reward decoder says of the new transition under the encoder that saw the g transitions before it.
The policy sees the task's belief under the most probable length. The ELBO is VariBAD's, segment by segment:

    sum_t E_q [sum_{s in segment of t} log p(r_s | m)] - KL(q_t || q_{t-1}),    N(0, 1) before a segment's first

where the segments are the inferred ones: the session ends of training trials are not used, unlike DynaMITE-RL.

Deviations, with reasons:
- L_g is the mean likelihood over a few draws from the belief, not that at its mean: a young segment's mean says nothing
  yet, and would lose against an old segment's wrong certainty. The draws are fixed: the agent is a function.
- The `candidates` most probable lengths are followed, all of them where a trial is no longer, in place of every length.
- Segments are inferred anew for every batch the model learns from, not once when they are played.
- The hazard is estimated from 10,000 segments of the benchmark's own process, as published, or geometric. So the agent
  is told how long segments are; DynaMITE-RL learns it from its labels.
- `mixture`: the policy sees the parameters' mean over lengths, which the paper has and the code has not.
- What `varibad` lists: scout, `reading`, `products`. A transformer's memory cannot be started anew tick by tick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metabench import Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.belief.learning import LEARNING_RENAMED, Make, WarmupConfig, learn, restore
from metabench_agents.belief.model import (
    MODEL_RENAMED,
    BeliefModel,
    Draws,
    FitConfig,
    ModelConfig,
    resolve_reward_loss,
)
from metabench_agents.belief.policy import BeliefAgent
from metabench_agents.belief.segments import Lengths, advance, backtrack, geometric_hazard, simulated_hazard
from metabench_agents.parts.config import read_config
from metabench_agents.parts.decisions import DecidingAgent
from metabench_agents.parts.device import Computing
from metabench_agents.parts.layers import nothing_before
from metabench_agents.parts.losses import PPO, reconstruction_loss, reward_log_likelihood, session_of_belief
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import Run, load_checkpoint, load_config
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "secbad"


@dataclass(frozen=True)
class SegmentConfig:
    """How segments are inferred."""

    candidates: int = 16  # lengths that are followed
    draws: int = 8  # latents that a likelihood is the mean over
    hazard: float = 0.0  # probability that a segment ends after a step; 0 to estimate it from the benchmark's process
    noise: float = 1.0  # standard deviation of rewards, and of scaled observations where they are decoded
    mixture: bool = False  # whether the policy sees the mean over lengths in place of the most probable one


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 750_000  # environment steps in all
    trials: int = 64  # trials played together, one per slot
    model: ModelConfig = field(default_factory=ModelConfig)  # encoder, decoders and ELBO
    segments: SegmentConfig = field(default_factory=SegmentConfig)  # how their lengths are inferred
    fit: FitConfig = field(default_factory=FitConfig)  # how it learns: a few gradient steps an iteration
    warmup: WarmupConfig = field(default_factory=WarmupConfig)  # what comes before that
    ppo: PPO = field(default_factory=lambda: PPO(discount=0.9, trace=0.8, epochs=4))  # how policy and value learn
    width: int = 128  # of the policy's and value's two hidden layers
    buffer: int = 8192  # past trials that the model learns from
    split: str = "train"  # tasks to learn from; "fresh" for endless ones
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides


RENAMED = MODEL_RENAMED | LEARNING_RENAMED


class SegmentMemory(NamedTuple):
    """What is remembered of trials that advance together, for K lengths of the current segment."""

    begun: bool  # whether a tick has been seen
    lengths: Lengths  # how probable each is
    hidden: Tensor  # [B, K, H] of the encoder started where that segment would have begun
    seen: Tensor  # [B, O] the observation of the last tick


class SegmentModel(nn.Module):
    """The joint belief over segment and task. Its memory takes the place of VariBAD's.

    Args:
        config: How segments are inferred.
        hazard: `[G]` see `segments`.
        model: Settings of VariBAD's model.
        env: A native vector environment of the benchmark.
        ticks: Length of a trial.
    """

    hazard: Tensor
    noise: Tensor

    def __init__(self, config: SegmentConfig, hazard: Tensor, model: ModelConfig, env: Any, ticks: int):
        super().__init__()
        if model.encoder.kind != "gru":
            raise ValueError(
                f"{NAME} starts its encoder anew at every tick, which only gru can, not {model.encoder.kind}"
            )
        if config.candidates < 2:
            raise ValueError(f"{NAME} weighs lengths against each other: segments.candidates must be at least 2")
        self.segments, self.config, self.task = config, model, BeliefModel(model, env, ticks)
        self.latent, self.reading = self.task.latent, self.task.reading
        self.register_buffer("hazard", hazard)
        chance = torch.Generator().manual_seed(0)
        self.register_buffer("noise", self.latent.noise(config.draws, 1, generator=chance))

    @property
    def base(self) -> SegmentModel:
        """Itself; see `BeliefModel.base`."""
        return self

    @property
    def encoder(self) -> SegmentModel:
        """Itself: what turns ticks into beliefs."""
        return self

    def draw(self, trials: Trials, generator: torch.Generator) -> Draws:
        """As `BeliefModel.draw`."""
        return self.task.draw(trials, generator)

    def read(self, belief: Tensor, observation: Tensor) -> Tensor:
        """As `BeliefModel.read`."""
        return self.task.read(belief, observation)

    def begin(self, trials: int) -> SegmentMemory:
        """Nothing has been seen."""
        count, encoder, here = self.segments.candidates, self.task.encoder, self.hazard.device
        hidden = torch.zeros(trials, count, encoder.core.hidden, device=here)
        seen = torch.zeros(trials, encoder.scaler.center.shape[0], device=here)
        return SegmentMemory(False, Lengths.none(trials, count, here), hidden, seen)

    def step(
        self, step: Timestep, memory: SegmentMemory, protocol: str = PROTOCOL_VERSION
    ) -> tuple[Tensor, SegmentMemory]:
        """What an agent is shown at a tick to the belief `[B, P]` that the policy reads, and the memory after it."""
        observation, action, reward, first, final = (torch.as_tensor(column) for column in step)
        absent = nothing_before(first, memory.begun, protocol)
        came = torch.where((first & ~absent)[:, None], final, observation).float()
        memory = self.take(memory, came, action, torch.where(absent, 0.0, reward.float()), first)
        return self.belief(memory), memory._replace(seen=observation.float())

    def take(self, memory: SegmentMemory, came: Tensor, action: Tensor, reward: Tensor, first: Tensor) -> SegmentMemory:
        """The memory after a tick that shows the transition `action`, `reward`, `came`; or the trial's first."""
        encoder, lengths, hidden = self.task.encoder, memory.lengths, memory.hidden
        absent = torch.full_like(first, not memory.begun)
        if memory.begun:
            old, new = self.explain(memory, came, action, reward)
            lengths, place = advance(lengths, old, new, self.hazard)
            hidden = hidden.scatter(1, place[:, None, None].expand(-1, 1, hidden.shape[2]), 0.0)
        tick = encoder.tick(came, action, reward, first, absent)
        recurrent: Any = encoder.core
        return SegmentMemory(True, lengths, recurrent.each(tick, hidden), memory.seen)

    def explain(self, memory: SegmentMemory, came: Tensor, action: Tensor, reward: Tensor) -> tuple[Tensor, Tensor]:
        """Log likelihood of a transition under every length's belief, `[B, K]`, and under the prior, `[B]`."""
        belief = self.each(memory)
        belief = torch.cat((belief, torch.zeros_like(belief[:, :1])), dim=1).transpose(0, 1)
        z = self.latent.place(belief, self.noise[:, None]).flatten(0, 1)  # [draws (K + 1), B, Z], a transition a trial
        blank = torch.zeros_like(reward)
        columns = (memory.seen, action, reward, came, blank.bool(), blank.long())
        transition = Trials(*(column[None] for column in columns))
        kind, scale = self.config.reward_loss, 2.0 * self.segments.noise**2
        value = reward_log_likelihood(self.task.reward(z, transition)[..., 0], transition.reward, kind)
        value = value / (scale if kind == "mse" else 1.0)
        if self.task.state is not None:
            error = self.task.state(z, transition) - self.task.state.scaler(transition.next_observation)
            value = value - (error**2).sum(-1) / scale
        # Means up to a constant, which is the same for all.
        mean = torch.logsumexp(value.unflatten(0, (-1, len(belief)))[:, :, 0], 0).t()
        return mean[:, :-1], mean[:, -1]

    def each(self, memory: SegmentMemory) -> Tensor:
        """`[B, K, P]` the belief under every length."""
        return self.latent.normalise(self.task.encoder.out(memory.hidden))

    def belief(self, memory: SegmentMemory) -> Tensor:
        """`[B, P]` what the policy reads: under the most probable length, or the mean over lengths."""
        belief = self.each(memory)
        if self.segments.mixture:
            return (memory.lengths.log_p.exp()[..., None] * belief).sum(1)
        return belief[torch.arange(len(belief), device=belief.device), memory.lengths.best()]

    @torch.no_grad()
    def infer(self, batch: Trials) -> Tensor:
        """`[T, B]` the segment of every transition of whole trials, as the model sees it now."""
        came, action, reward, first = batch.ticks()
        memory, best = self.begin(reward.shape[1]), []
        for t in range(len(reward)):
            memory = self.take(memory, came[t].float(), action[t], reward[t], first[t])
            memory = memory._replace(seen=batch.observation[t].float())
            best.append(memory.lengths.length.gather(1, memory.lengths.best()[:, None])[:, 0])
        return backtrack(torch.stack(best))

    def restarted(self, batch: Trials, about: Tensor) -> Tensor:
        """`[T, B, P]` beliefs of an encoder that starts anew where `about`, the belief's segment `[T, B]`, changes."""
        encoder = self.task.encoder
        came, action, reward, first = batch.ticks()
        absent = torch.zeros_like(first)
        absent[0] = True
        ticks, hidden, features = encoder.tick(came.float(), action, reward, first, absent), None, []
        for t, tick in enumerate(ticks):
            if hidden is None:
                hidden = tick.new_zeros(len(tick), encoder.core.hidden)
            else:
                hidden = torch.where((about[t] == about[t - 1])[:, None], hidden, 0.0)
            hidden, _ = encoder.core.step(tick, hidden)
            features.append(hidden)
        return self.latent.normalise(encoder.out(torch.stack(features)))


def segment_prior(belief: Tensor, about: Tensor) -> Tensor:
    """The prior of every belief `[T, B, P]`: the one before it, or zeros where a segment begins."""
    same = torch.zeros_like(about, dtype=torch.bool)
    same[1:] = about[1:] == about[:-1]
    before = torch.cat((torch.zeros_like(belief[:1]), belief[:-1]))
    return torch.where(same[..., None], before, 0.0)


def elbo(model: SegmentModel, batch: Trials, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
    """Minus VariBAD's ELBO of every inferred segment, summed: reconstruction within it, and kl_weight KL."""
    segment = model.infer(batch)
    about = session_of_belief(segment)
    belief = model.restarted(batch, about)
    drawn = model.task.likelihood(belief, batch, draws)
    mask = about[drawn.terms][:, None] == segment[drawn.steps][None]
    reconstruction, metrics = reconstruction_loss(drawn.value, mask, drawn.share)
    kl = model.latent.kl(belief, segment_prior(belief, about)).sum(0).mean()
    metrics |= {"reconstruction": reconstruction.detach(), "belief_kl": kl.detach()}
    metrics["segments"] = segment[-1].float().mean() + 1.0
    return reconstruction + model.config.kl_weight * kl, metrics


def maker(benchmark: str, config: Config) -> Make:
    """Makes the model for the benchmark's segments, from (settings, env, ticks)."""

    def make(model: ModelConfig, env: Any, ticks: int) -> SegmentModel:
        known, hold = config.segments.hazard, config.view.hold
        if known:
            hazard = geometric_hazard(1.0 - (1.0 - known) ** hold, ticks)
        else:
            hazard = simulated_hazard(benchmark, config.split, ticks, hold)
        return SegmentModel(config.segments, hazard, resolve_reward_loss(model, benchmark), env, ticks)

    return make


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: the defaults, with the view that suits the benchmark."""
    return Config(view=whole_view(benchmark))


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> BeliefAgent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits."""
    if config.form in ("compiled", "both"):
        raise ValueError(f"{NAME} infers segments tick by tick, which is not compiled; train it with --form eager")
    return learn(NAME, benchmark, config, maker(benchmark, config), elbo, seed=seed, run=run)


def load(path: Path) -> BeliefAgent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    record, checkpoint = load_config(path), load_checkpoint(path)
    config = read_config(Config, record["config"], RENAMED)
    return restore(NAME, record, config, maker(record["benchmark"], config), checkpoint.tensors)
