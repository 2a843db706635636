"""GDT: a decision transformer that is told what the rest of an episode looks like, and asked to make that come true.

Source: Furuta et al. 2022, "Generalized Decision Transformer for Offline Hindsight Information Matching" (arXiv
2111.10364), and its code (frt03/generalized_dt, 65b00d2). Where a decision transformer is told the return to go, this
one is told a statistic of the future:

- `categorical` (CDT): the histogram of the rewards from the step on to the end of the episode, in 31 bins;
- `bidirectional` (BDT): what an anti-causal transformer makes of the observations and rewards from the step on to the
  end of the window, learned with the actions.

Its privilege, at play: the statistics are those of a demonstration of the *test* task, the best episode of that task's
data, step by step. Its results stand in the track `prompt-k`. In the paper, tasks are whole target distributions; as an
offline meta-RL agent it was used in the comparison of Meta-DT (arXiv 2410.11448), whose version is not published.

Deviations, with reasons:
- The statistic stands beside the observation in its token, where Meta-DT has z, and the token of the return to go says
  nothing: it is 1 at every step. GDT has the statistic in that token's place.
- The histogram is of rewards, which every family has; the paper also takes state features, the speed for instance.
- The anti-causal transformer sees no further than the window's end, as in the released code, and has the sizes of the
  decision transformer; deviations of that and of its training are those of `DecisionTransformerSettings` and
  `TransformerFitting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import metabench
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.run import Run, load_checkpoint, load_config
from metabench_agents.sequence.decision_transformer import (
    DecisionTransformer,
    DecisionTransformerSettings,
    TransformerFitting,
    TransformerTrainer,
    restore_transformer,
    train_transformer,
)
from metabench_agents.sequence.episodes import (
    Actions,
    Episodes,
    Prompt,
    Window,
    draw_windows,
    load_episodes,
    window_of,
)
from metabench_agents.sequence.playing import PlayingSettings, SequenceAgent, lookup
from metabench_agents.sequence.targets import Asking, TargetSettings
from metabench_agents.sequence.transformer import MASKED, Transformer, causal

NAME, TRACK = "gdt", "prompt-k"


@dataclass(frozen=True)
class StatisticSettings:
    """What is told of the future."""

    kind: Literal["categorical", "bidirectional"] = "categorical"  # a histogram, or what is learned
    bins: int = 31  # of the histogram
    size: int = 16  # of what is learned


@dataclass(frozen=True)
class ShownPlaying(PlayingSettings):
    """How an agent acts that is shown a demonstration."""

    explore: int = 0  # drawn steps a trial begins with; none, for it need not find the task out


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set, demonstrations included; or the id of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    statistic: StatisticSettings = field(default_factory=StatisticSettings)  # what it is told
    transformer: DecisionTransformerSettings = field(default_factory=DecisionTransformerSettings)  # its sizes
    fitting: TransformerFitting = field(default_factory=TransformerFitting)  # the transformer's training
    playing: ShownPlaying = field(default_factory=ShownPlaying)  # how it acts

    def settled(self, benchmark: str) -> Config:
        """The same with the released window for a family where it is left open."""
        return replace(self, transformer=self.transformer.settled(benchmark))


def future_histograms(reward: Tensor, length: Tensor, edges: Tensor) -> Tensor:
    """`[E, T, bins]` the shares of the rewards from each step on to the episode's end that fall into each bin.

    Args:
        reward: `[E, T]`.
        length: `[E]` steps of each episode; behind its end every share is 0.
        edges: `[bins + 1]` ascending; rewards beyond the ends count to the outermost bins.
    """
    bins = len(edges) - 1
    which = (torch.bucketize(reward, edges[1:-1], right=True)).clamp(0, bins - 1)
    there = torch.arange(reward.shape[1], device=reward.device) < length[:, None]
    counts = torch.nn.functional.one_hot(which, bins).float() * there[..., None]
    counts = counts.flip(1).cumsum(1).flip(1)
    return counts / counts.sum(-1, keepdim=True).clamp_min(1.0)


class GeneralizedDT(DecisionTransformer):
    """A decision transformer that is told statistics of the future; the steps' rewards stand in a window's context.

    Args:
        observation: Columns O.
        action: Columns A.
        horizon: Steps of an episode.
        statistic: What is told.
        settings: Sizes.
    """

    edges: Tensor

    def __init__(
        self,
        observation: int,
        action: int,
        horizon: int,
        statistic: StatisticSettings,
        settings: DecisionTransformerSettings,
    ):
        categorical = statistic.kind == "categorical"
        super().__init__(observation, action, horizon, statistic.bins if categorical else statistic.size, settings)
        self.categorical = categorical
        self.register_buffer("edges", torch.linspace(-1.0, 1.0, statistic.bins + 1))
        if not categorical:
            self.step = nn.Linear(observation + 1, settings.width)
            self.future = Transformer(settings)
            self.summary = nn.Linear(settings.width, statistic.size)

    def learn_scales(self, episodes: Episodes, context: Tensor) -> None:
        """Takes scales and the histogram's bins from the training episodes; `context` is not used."""
        super().learn_scales(episodes, torch.zeros(len(episodes.reward), self.context))
        self.context_mean, self.context_std = torch.zeros(self.context), torch.ones(self.context)
        if self.categorical:  # shares are around 1 / bins
            self.context_std /= self.context**0.5
        reward = episodes.reward[episodes.rows()[0]]
        self.edges = torch.linspace(float(reward.min()), float(reward.max()), len(self.edges))

    def statistics(self, observation: Tensor, reward: Tensor, length: Tensor) -> Tensor:
        """`[B, K, Z]` of the steps from each one on to the last.

        Args:
            observation: `[B, K, O]` scaled.
            reward: `[B, K]` of each step.
            length: `[B]` how many of the steps there are.
        """
        if self.categorical:
            return future_histograms(reward, length, self.edges)
        steps = reward.shape[1]
        told = torch.cat((observation, (reward / self.reward_scale)[..., None]), dim=-1).flip(1)
        # Backwards in time what is still to come stands in front; steps behind the end are there too and are hidden.
        missing = torch.arange(steps, device=reward.device) < (steps - length)[:, None]
        bias = causal(steps).to(reward.device) + torch.where(missing, MASKED, 0.0)[:, None]
        return self.summary(self.future(self.step(told), bias)).float().flip(1)

    def forward(self, window: Window, prompt: Prompt | None = None) -> Tensor:
        """Actions `[B, K, A]` for a scaled window whose context is `[B, K, 1]` the steps' rewards, or statistics."""
        if not self.categorical:
            told = self.statistics(window.observation, window.context[..., 0], window.valid.sum(-1))
            window = window._replace(context=told)
        return super().forward(window, prompt)


def statistics_of(network: GeneralizedDT, episodes: Episodes) -> Tensor:
    """`[N, Z]` what windows hold as context of every row: histograms to the episode's end, or rewards for the learned.

    Rows behind the episodes' ends are zeros.
    """
    if not network.categorical:
        return episodes.reward[:, None]
    out = torch.zeros(len(episodes.reward), network.context)
    for which in torch.arange(len(episodes)).split(256):
        length = episodes.length[which]
        time = torch.arange(int(length.max()))
        rows = episodes.first[which, None] + torch.minimum(time, length[:, None])
        told = future_histograms(episodes.reward[rows], length, network.edges)
        there = time < length[:, None]
        out[rows[there]] = told[there]
    return out


class Demonstrations:
    """The best episode of every task that there are data of, as tensors that are saved with the agent.

    Args:
        tensors: As `of` makes them.
    """

    NAMES = ("tasks", "observation", "reward", "length")

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tasks, self.observation, self.reward, self.length = (tensors[f"demonstration/{n}"] for n in self.NAMES)

    @classmethod
    def of(cls, benchmark: str, config: Config, codec: Actions) -> dict[str, Tensor]:
        """Of every split whose data are there; ValueError if the training tasks' are not."""
        table, found = metabench.spec(benchmark).table(), []
        horizon = metabench.spec(benchmark).horizon
        for split in sorted(table.rows, key=lambda name: name != config.split):
            try:
                episodes = load_episodes(benchmark, config.data, split, codec)
            except ValueError:
                if split == config.split:
                    raise
                continue  # the agent says so when it is shown such a task
            tasks = torch.unique(episodes.task)
            best = torch.stack([cls._best(episodes, task) for task in tasks])
            length = episodes.length[best]
            rows = episodes.first[best, None] + torch.minimum(torch.arange(horizon), length[:, None] - 1)
            shown = torch.as_tensor(table.rows[split][tasks.numpy()])
            found.append((shown, episodes.observation[rows], episodes.reward[rows], length))
        return {
            f"demonstration/{n}": torch.cat(parts) for n, parts in zip(cls.NAMES, zip(*found, strict=True), strict=True)
        }

    @staticmethod
    def _best(episodes: Episodes, task: Tensor) -> Tensor:
        mine = torch.nonzero(episodes.task == task)[:, 0]
        return mine[episodes.returns[mine].argmax()]

    @torch.inference_mode()
    def statistics(self, network: GeneralizedDT) -> Tensor:
        """`[n, T, Z]` what the agent is told at each step of an episode; behind a demonstration's end its last."""
        seen, steps = network.scaled(self.observation), self.reward.shape[1]
        if network.categorical:
            told = network.statistics(seen, self.reward, self.length)
        else:  # no further than a window's end, as while learning
            told = torch.stack([self._from(network, seen, start) for start in range(steps)], dim=1)
        last = torch.minimum(torch.arange(steps), self.length[:, None] - 1)
        return told[torch.arange(len(told))[:, None], last]

    def _from(self, network: GeneralizedDT, seen: Tensor, start: int) -> Tensor:
        part = slice(start, start + network.settings.window)
        left = (self.length - start).clamp(1, network.settings.window)
        return network.statistics(seen[:, part], self.reward[:, part], left.clamp(max=seen[:, part].shape[1]))[:, 0]


class GDTAgent(SequenceAgent):
    """A `GeneralizedDT` at play: at every step it is told the demonstration's statistic of the same step.

    Args:
        network: Trained.
        codec: The encoding of actions.
        shown: The demonstrations.
        settings: How it acts.
        protocol: The version it was trained under.
    """

    def __init__(
        self,
        network: GeneralizedDT,
        codec: Actions,
        shown: Demonstrations,
        settings: PlayingSettings,
        protocol: str = PROTOCOL_VERSION,
    ):
        asking = Asking(network, TargetSettings("rank"), torch.ones(()), settings.explore)
        super().__init__(network, codec, NAME, asking, settings, protocol=protocol, track=TRACK)
        self.privileged = True
        self._find, self._told = lookup(shown.tasks.numpy()), shown.statistics(network.eval())

    def _tick(self, ticks: Any, step: Any, observation: Tensor, first: Tensor, task: Tensor) -> Any:
        tick = super()._tick(ticks, step, observation, first, task)
        time = tick.time.clamp(max=self._told.shape[1] - 1)
        return tick._replace(context=self._told[self._find(task), time])


def _untrained(benchmark: str, config: Config) -> tuple[Actions, GeneralizedDT]:
    chosen = metabench.spec(benchmark)
    codec, columns = Actions(chosen.family().action_space), len(chosen.family().observation_fields)
    return codec, GeneralizedDT(columns, codec.size, chosen.horizon, config.statistic, config.transformer)


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> GDTAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    config = config.settled(benchmark)
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, network = _untrained(benchmark, config)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    network.learn_scales(episodes, torch.zeros(0))
    told, window, batch = statistics_of(network, episodes), config.transformer.window, config.fitting.batch

    def draw(number: int, generator: torch.Generator) -> tuple[Window, Prompt | None]:
        which, start = draw_windows(episodes, batch, window, generator)
        seen = window_of(episodes, which, start, window, told)
        return seen._replace(rank=torch.ones_like(seen.rank)), None

    keep = Demonstrations.of(benchmark, config, codec)
    trainer = TransformerTrainer(network, config.fitting, Device.of(config), ranked=True)
    train_transformer(trainer, draw, seed=seed, run=run, saved=saved, keep=keep)
    return GDTAgent(network, codec, Demonstrations(keep), config.playing)


def load(path: Path) -> GDTAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    config = read_config(Config, settings["config"])
    codec, network = _untrained(settings["benchmark"], config)
    restore_transformer(saved, network)
    return GDTAgent(network, codec, Demonstrations(saved.tensors), config.playing, settings["protocol"])
