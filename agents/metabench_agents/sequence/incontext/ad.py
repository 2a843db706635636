"""AD: a causal transformer that imitates histories of learning, and so learns within its context.

Source: Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation" (arXiv 2210.14215). A
learner's history h = (o_0, a_0, r_0, o_1, ...) runs across its episodes. The network is trained to predict each action
from all that came before it in a stretch of one history (the paper's eq. 3),

    L = - sum over histories, t of log P(a_t | h_{t-c .. t-1}, o_t).

A stretch holds several episodes, so the only way to predict later actions better than earlier ones is to infer how the
learner has improved. At play nothing is updated; the context is the trial so far, never reset between episodes.

Deviations:
- One token per step, of o_t, a_{t-1}, r_{t-1}, where an episode starts and how far it has gone, in place of three: a
  third of the tokens for the same steps, which is what a CPU affords.
- The learners are tabular Q-learners (`metabench.yardsticks.q_learning`), in place of A3C and DQN: the same kind of
  history at tens of millions of steps a minute. Where actions are a box, the history is the checkpoints of a soft
  actor-critic that is shown the task, in order (`--data sac-history`), and the prediction a Gaussian.
- A quarter of the stretches begin with their history (`from_start`): a trial begins with an empty context.
- When the window is full, its older half is dropped (`context.py`), in place of sliding by a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench import Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.run import Run, load_checkpoint, load_config, unpack
from metabench_agents.sequence.incontext.context import (
    ContextBody,
    ContextFitting,
    ContextMemory,
    ContextSettings,
    SeenFeatures,
)
from metabench_agents.sequence.incontext.histories import Histories, draw_stretches, load_histories
from metabench_agents.sequence.incontext.moves import Moves, Streams, fresh_streams, moves_of
from metabench_agents.sequence.incontext.training import fit_network
from metabench_agents.sequence.transformer import causal

NAME = "ad"


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "history"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    skip: int = field(default=4, metadata={"low": 1})  # every so many-th episode of a learner alone: it learns faster
    network: ContextSettings = field(default_factory=ContextSettings)  # its sizes
    fitting: ContextFitting = field(default_factory=ContextFitting)  # its training
    sample: bool = True  # play actions drawn from the prediction; the likeliest otherwise


class Stretch(NamedTuple):
    """K consecutive steps of B histories."""

    observation: Tensor  # [B, K, O]
    last_action: Tensor  # [B, K] int64 of the step before, or [B, K, A]; see `moves` for where there is none
    last_reward: Tensor  # [B, K] likewise; 0 where there is none
    first: Tensor  # [B, K] bool: an episode starts here
    time: Tensor  # [B, K] step of the episode
    action: Tensor  # [B, K] int64 or [B, K, A] what the learner did


class HistoryNetwork(nn.Module):
    """Steps of a history to what says the next action: logits, or a Gaussian."""

    def __init__(self, benchmark: str, settings: ContextSettings):
        super().__init__()
        self.moves, self.horizon = moves_of(benchmark), metabench.spec(benchmark).horizon
        self.seen = SeenFeatures(benchmark)
        self.embed = nn.Linear(self.seen.size + self.moves.size + 3, settings.width)
        self.body = ContextBody(settings, placed=True)
        self.head = nn.Linear(settings.width, self.moves.outputs)

    def tokens(
        self, observation: Tensor, last_action: Tensor, last_reward: Tensor, first: Tensor, time: Tensor
    ) -> Tensor:
        """`[..., D]` from columns `[..., O]` and `[...]`."""
        done = self.moves.features(last_action)
        rest = torch.stack((last_reward, first.float(), time.float() / self.horizon), dim=-1)
        return self.embed(torch.cat((self.seen(observation), done, rest), dim=-1))

    def forward(self, stretch: Stretch) -> Tensor:
        """`[B, K, ...]`, what the moves' loss takes."""
        tokens = self.tokens(*stretch[:-1])
        return self.head(self.body(tokens, causal(tokens.shape[1], tokens.device)))


def loss(network: HistoryNetwork, stretch: Stretch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the learners' actions, a mean over all steps (`moves`); and how often or nearly it is right."""
    return network.moves.loss(network(stretch), stretch.action)


def stretch_of(histories: Histories, rows: Tensor, which: Tensor, moves: Moves) -> Stretch:
    """The steps `rows` `[B, K]` of the histories `which` `[B]`."""
    known = rows > histories.start[which][:, None]
    before = (rows - 1).clamp(min=0)
    return Stretch(
        observation=histories.observation[rows],
        last_action=moves.where(known, histories.action[before]),
        last_reward=torch.where(known, histories.reward[before], 0.0),
        first=histories.first[rows],
        time=histories.time[rows],
        action=moves.label(histories.action[rows]),
    )


class HistoryBelief(NamedTuple):
    """The trial so far."""

    memory: ContextMemory
    time: Tensor  # [B] int64 step of the episode, of the tick to come
    begun: bool
    streams: Streams


class HistoryAgent:
    """Plays as a learner would go on whose history the trial so far is."""

    name, track, privileged = NAME, "offline", False

    def __init__(self, network: HistoryNetwork, sample: bool, protocol: str = PROTOCOL_VERSION):
        self.network, self.sample, self.protocol = network.eval(), sample, protocol
        self.attends = network.body.window  # steps of the trial

    def begin(self, num_trials: int) -> HistoryBelief:
        """Nothing has been seen."""
        nothing = ContextMemory((), None)
        return HistoryBelief(nothing, torch.zeros(num_trials, dtype=torch.int64), False, fresh_streams(num_trials))

    @torch.inference_mode()
    def act(self, step: Timestep, belief: HistoryBelief) -> tuple[np.ndarray, HistoryBelief]:
        """An action for this tick."""
        first = torch.as_tensor(np.asarray(step.first))
        time = torch.where(first, 0, belief.time)
        moves = self.network.moves
        action = moves.taken(step.action)
        token = self.network.tokens(
            torch.as_tensor(np.asarray(step.observation)).float(),
            action if belief.begun else moves.nothing(action),
            torch.as_tensor(np.asarray(step.reward)).float(),
            first,
            time,
        )
        output, memory = self.network.body.read(belief.memory, token[:, None])
        chosen, streams = moves.draw(self.network.head(output), belief.streams, self.sample)
        return chosen, HistoryBelief(memory, time + 1, True, streams)


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> HistoryAgent:
    """Trains on the histories of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network = HistoryNetwork(benchmark, config.network)
    histories = load_histories(benchmark, config.data, config.split, config.skip)
    network.seen.learn_scales(histories.observation)
    fitting = config.fitting

    def draw(generator: torch.Generator) -> Stretch:
        rows, which = draw_stretches(histories, fitting.batch, config.network.window, fitting.from_start, generator)
        return stretch_of(histories, rows, which, network.moves)

    device = Device.of(config)
    fit_network(NAME, network, loss, draw, config.fitting, device, seed=seed, run=run, saved=saved)
    return HistoryAgent(network, config.sample)


def load(path: Path) -> HistoryAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    config = read_config(Config, settings["config"])
    network = HistoryNetwork(settings["benchmark"], config.network)
    unpack(saved.tensors, {"ad": network}, {})
    return HistoryAgent(network, config.sample, settings["protocol"])
