"""ContraBAR: a belief learned by telling the trial's real future from others', and a policy on it.

Source: Choshen & Tamar 2023, "ContraBAR: Contrastive Bayes-Adaptive Deep RL" (arXiv 2306.02418), and its code release
(github.com/ec2604/ContraBAR). A GRU reads the trial; its state c_t is the belief. Contrastive predictive coding (van
den Oord et al. 2018, arXiv 1807.03748) makes it sufficient for the future: for look-aheads k = 1 .. K, given the
actions that were taken, which observation and reward came?

    q_{t,k} = action-GRU(c_t; a_t, ..., a_{t+k-1}),   e_j = key(o_j, r_j)
    L = -mean_{t,k} log exp(q_{t,k} . e_{t+k}) / sum_{j in {t+k} and negatives} exp(q_{t,k} . e_j)       (InfoNCE)

PPO trains the policy on the observation and c_t, as in VariBAD. No gradient of the policy reaches the GRU.

Deviations, with reasons:
- Negatives are (o, r) of other trials of the batch at random ticks. (So has the published code.) One set serves all
  look-aheads of a term.
- `wrong_rewards` more negatives have the *real* observation and the reward of another trial's transition, where it is
  another one. Where tasks differ in rewards alone, transitions of other trials are told from the real one by where
  they lie: on GridSwitch without these 98 % are recognised and nothing of the task is (the policy stays where one
  without memory is). Off by default, as published for states; the code release has negatives of this kind for its
  images, in which the reward is drawn.
- `terms` ticks a trial are drawn per update instead of all; look-aheads beyond the trial's end do not count.
- Scores are dot products over the square root of their size: of one size whatever the width.
- Warm-up with a scout, running scales and falling rates are those of `varibad`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metabench_agents.belief.encoders import BeliefEncoder, EncoderConfig
from metabench_agents.belief.learning import LEARNING_RENAMED, WarmupConfig, learn, restore
from metabench_agents.belief.model import FitConfig
from metabench_agents.belief.policy import BeliefAgent
from metabench_agents.parts.config import read_config
from metabench_agents.parts.decisions import DecidingAgent
from metabench_agents.parts.device import Computing
from metabench_agents.parts.fast.gru import gru_sequence
from metabench_agents.parts.layers import GRU, Products, action_size, encode_action, linear, make_scaler
from metabench_agents.parts.losses import PPO
from metabench_agents.parts.memory import Trials
from metabench_agents.parts.run import Run, load_checkpoint, load_config
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "contrabar"
SAME = 1e-3  # rewards that differ by less, in parts of themselves, are one


@dataclass(frozen=True)
class ContrastConfig:
    """Settings of the belief and of its contrastive loss."""

    size: int = 32  # columns of the belief
    encoder: EncoderConfig = field(default_factory=EncoderConfig)  # trial to belief
    ahead: int = 10  # K, the furthest look-ahead
    negatives: int = 15  # others that the real future is told from
    wrong_rewards: int = field(default=0, metadata={"low": 0})  # besides, the real observation with another's reward
    terms: int = 16  # ticks drawn per trial; 0 for all
    keys: int = 32  # columns of what is compared
    products: bool = True  # whether encoder and keys read second-order terms
    normalise: bool = False  # whether they and the policy see observations without bounds at a running unit scale


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 750_000  # environment steps in all
    trials: int = 64  # trials played together, one per slot
    model: ContrastConfig = field(default_factory=ContrastConfig)  # the belief and its loss
    fit: FitConfig = field(default_factory=FitConfig)  # how it learns: a few gradient steps an iteration
    warmup: WarmupConfig = field(default_factory=WarmupConfig)  # what comes before that
    ppo: PPO = field(default_factory=lambda: PPO(discount=0.9, trace=0.8, epochs=4))  # how policy and value learn
    width: int = 128  # of the policy's and value's two hidden layers
    buffer: int = 8192  # past trials that the belief learns from
    split: str = "train"  # tasks to learn from; "fresh" for endless ones
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides


class StateLatent:
    """A belief that is no distribution: what the encoder says, as it is."""

    def __init__(self, size: int):
        self.size = self.parameters = size

    def normalise(self, raw: Tensor) -> Tensor:
        """Within -1 and 1, as a GRU's state is."""
        return torch.tanh(raw)

    def noise(self, *shape: int, generator: torch.Generator | None) -> Tensor:
        """There is no chance in it."""
        return torch.zeros(*shape, self.size)

    def place(self, belief: Tensor, noise: Tensor) -> Tensor:
        """Itself."""
        return belief

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """Half the squared distance: that of unit Gaussians."""
        return 0.5 * ((p - q) ** 2).sum(-1)

    def features(self, belief: Tensor) -> Tensor:
        """Itself."""
        return belief

    def mean(self, belief: Tensor) -> Tensor:
        """Itself."""
        return belief


class ContrastDraws(NamedTuple):
    """All that chance decides of one loss."""

    terms: Tensor  # [M] int64 the ticks whose beliefs look ahead
    other: Tensor  # [M, B, N] int64 how many trials further on each negative is, at least 1
    tick: Tensor  # [M, B, N] int64 its tick
    wrong: Tensor  # [2, M, B, W] int64 the same of the transitions whose rewards are wrong ones


class ContrastModel(nn.Module):
    """The encoder, the action-GRU that asks, and the keys that answer.

    Args:
        config: Sizes.
        env: A native vector environment of the benchmark.
        ticks: Length of a trial.
    """

    def __init__(self, config: ContrastConfig, env: Any, ticks: int):
        super().__init__()
        observations, actions = env.single_observation_space, env.single_action_space
        self.config, self.ticks, self.space, self.reading = config, ticks, actions, 0
        self.latent = StateLatent(config.size)
        shaped = (config.products, config.normalise)
        self.encoder = BeliefEncoder(config.encoder, observations, actions, self.latent, ticks, *shaped)
        self.begin_query, self.query = (
            linear(config.size, config.encoder.hidden),
            linear(config.encoder.hidden, config.keys),
        )
        self.action_gru = GRU(action_size(actions), config.encoder.hidden)
        self.scaler, columns = make_scaler(observations, config.normalise), observations.shape[0] + 1
        enter = (Products if config.products else linear)(columns, config.encoder.embed)
        self.key = nn.Sequential(enter, nn.ReLU(), linear(config.encoder.embed, config.keys, gain=1.0))

    @property
    def base(self) -> ContrastModel:
        """Itself; see `BeliefModel.base`."""
        return self

    def read(self, belief: Tensor, observation: Tensor) -> Tensor:
        """What the policy is shown: the belief."""
        return belief

    def draw(self, trials: Trials, generator: torch.Generator) -> ContrastDraws:
        """Ticks and negatives for one pass over a batch of at least two trials."""
        last = self.ticks - 1
        wanted = min(self.config.terms or last, last)
        terms = torch.randperm(last, generator=generator)[:wanted] if wanted < last else torch.arange(last)
        shape = (len(terms), trials.reward.shape[1], self.config.negatives)

        def elsewhere(*shape: int) -> tuple[Tensor, Tensor]:
            further = 1 + torch.randint(max(trials.reward.shape[1] - 1, 1), shape, generator=generator)
            return further, torch.randint(self.ticks, shape, generator=generator)

        other, tick = elsewhere(*shape)
        wrong = elsewhere(*shape[:2], self.config.wrong_rewards)
        return ContrastDraws(terms, other, tick, torch.stack(wrong))

    def asked(self, belief: Tensor, action: Tensor) -> Tensor:
        """`[K, N, Q]` queries from beliefs `[N, P]` and the K actions from there on, `[K, N]` or `[K, N, A]`."""
        code = encode_action(action, self.space)
        return self.query(gru_sequence(self.action_gru.core, code, torch.tanh(self.begin_query(belief))))

    def answers(self, led: Tensor, reward: Tensor) -> Tensor:
        """`[..., Q]` keys of what transitions led to: observations `[..., O]` and rewards `[...]`."""
        return self.key(torch.cat((self.scaler(led), reward[..., None]), dim=-1))


def info_nce(positive: Tensor, negative: Tensor, counts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """InfoNCE: -mean log(e^{s+} / (e^{s+} + sum_j e^{s_j})) over the scores that count.

    Args:
        positive: `[...]` scores of the real ones.
        negative: `[..., N]` of the others.
        counts: `[...]` bool.
    """
    scores = torch.cat((positive[..., None], negative), dim=-1)
    loss = torch.where(counts, torch.logsumexp(scores, -1) - positive, 0.0)
    total = counts.sum().clamp_min(1)
    with torch.no_grad():
        right = (counts & (positive[..., None] > negative).all(-1)).sum() / total
    return loss.sum() / total, {"recognised": right}


def contrast(model: ContrastModel, batch: Trials, draws: ContrastDraws) -> tuple[Tensor, dict[str, Tensor]]:
    """The contrastive loss of whole trials: real futures of drawn beliefs against other trials' transitions.

    The belief at tick t has seen transitions up to t - 1: after k actions from a_t on comes transition t + k - 1.
    """
    ticks, trials, ahead = len(batch.reward), batch.reward.shape[1], model.config.ahead
    belief = model.encoder(*batch.ticks())[draws.terms]  # [M, B, P]
    further = torch.arange(ahead, device=draws.terms.device)
    when = draws.terms[None] + further[:, None]  # [K, M] the transition that each look-ahead ends with
    counts, when = when < ticks, when.clamp_max(ticks - 1)
    action = batch.action[when].flatten(1, 2)  # [K, M B, ...]
    query = model.asked(belief.flatten(0, 1), action).unflatten(1, (len(draws.terms), trials))  # [K, M, B, Q]
    key = model.answers(batch.next_observation, batch.reward)
    whose = (torch.arange(trials, device=draws.other.device)[:, None] + draws.other) % trials
    others = key[draws.tick, whose]  # [M, B, N, Q]
    scale = model.config.keys**-0.5
    positive = (query * key[when]).sum(-1) * scale
    negative = torch.einsum("kmbq,mbnq->kmbn", query, others) * scale
    if model.config.wrong_rewards:
        negative = torch.cat((negative, wrongly_rewarded(model, batch, draws, when, query) * scale), dim=-1)
    return info_nce(positive, negative, counts[..., None].expand(-1, -1, trials))


def wrongly_rewarded(model: ContrastModel, batch: Trials, draws: ContrastDraws, when: Tensor, query: Tensor) -> Tensor:
    """Scores `[K, M, B, W]` of where transitions `when` `[K, M]` really led, with rewards of other trials.

    Minus infinity where that reward is the real one: nothing is wrong then.
    """
    trials = batch.reward.shape[1]
    further, tick = draws.wrong
    whose = (torch.arange(trials, device=further.device)[:, None] + further) % trials
    reward = batch.reward[tick, whose]  # [M, B, W]
    reward = reward.expand(len(when), *reward.shape)
    led = batch.next_observation[when][..., None, :].expand(*reward.shape, -1)
    scores = (query[..., None, :] * model.answers(led, reward)).sum(-1)
    real = batch.reward[when][..., None]
    return torch.where((reward - real).abs() > SAME * (1.0 + real.abs()), scores, -torch.inf)


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: the defaults, with the view that suits the benchmark."""
    return Config(view=whole_view(benchmark))


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> BeliefAgent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits."""
    if config.fit.trials < 2:
        raise ValueError(f"{NAME} tells a trial's future from other trials': fit.trials must be at least 2")
    return learn(NAME, benchmark, config, ContrastModel, contrast, seed=seed, run=run)


def load(path: Path) -> BeliefAgent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    record, checkpoint = load_config(path), load_checkpoint(path)
    config = read_config(Config, record["config"], LEARNING_RENAMED)
    return restore(NAME, record, config, ContrastModel, checkpoint.tensors)
