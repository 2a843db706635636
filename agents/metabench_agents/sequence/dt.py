"""DT: a decision transformer that is told nothing of the task but what it is asked for and what it has seen.

Source: Chen et al. 2021, "Decision Transformer" (arXiv 2106.01345). Beside Meta-DT it is the ablation without any
context: the network and its training are the same (`decision_transformer.py`), without z and without prompts. What it
can know of the task is what rewards tell: they change the return that is asked for next. Nothing is kept from one
episode to the next.

Deviations: those of `DecisionTransformerSettings` and `TransformerFitting` from the released Meta-DT; the return asked
for is learned (`targets.py`), where the paper asks for a known return of the one task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.run import Run, load_checkpoint, load_config
from metabench_agents.sequence.decision_transformer import (
    FITTING_RENAMED,
    DecisionTransformer,
    DecisionTransformerSettings,
    TransformerFitting,
    TransformerTrainer,
    restore_transformer,
    train_transformer,
    untrained,
)
from metabench_agents.sequence.episodes import Actions, Window, draw_windows, load_episodes, window_of
from metabench_agents.sequence.playing import PlayingSettings, SequenceAgent
from metabench_agents.sequence.targets import Asking, TargetSettings, flat_target, return_to_ask
from metabench_agents.sequence.trials.telling import drawn_steps

NAME = "dt"


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    target: TargetSettings = field(default_factory=TargetSettings)  # what it asks for
    transformer: DecisionTransformerSettings = field(default_factory=DecisionTransformerSettings)  # its sizes
    fitting: TransformerFitting = field(default_factory=TransformerFitting)  # the transformer's training
    playing: PlayingSettings = field(default_factory=PlayingSettings)  # how it acts

    def settled(self, benchmark: str) -> Config:
        """The same with the released sizes for a family where they are left open."""
        return replace(self, transformer=self.transformer.settled(benchmark))


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> SequenceAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    config = config.settled(benchmark)
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, network = untrained(benchmark, config.transformer)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    nothing, target = torch.zeros(len(episodes.reward), 0), return_to_ask(episodes, config.target)
    network.learn_scales(episodes, nothing)
    window = config.transformer.window

    def draw(number: int, generator: torch.Generator) -> tuple[Window, None]:
        which, start = draw_windows(episodes, config.fitting.batch, window, generator)
        return window_of(episodes, which, start, window, nothing), None

    explore = config.playing.explore if config.playing.explore >= 0 else drawn_steps(episodes)
    keep = {"target": target, "explore": torch.tensor(explore)}
    trainer = TransformerTrainer(network, config.fitting, Device.of(config), ranked=config.target.kind == "rank")
    train_transformer(trainer, draw, seed=seed, run=run, saved=saved, keep=keep)
    return _agent(codec, network, config, keep)


def _agent(
    codec: Actions,
    network: DecisionTransformer,
    config: Config,
    kept: Mapping[str, Tensor],
    protocol: str = PROTOCOL_VERSION,
) -> SequenceAgent:
    playing = config.playing
    if "explore" in kept:  # not in policies that were made before it was found from the data
        playing = replace(playing, explore=int(kept["explore"]))
    asking = Asking(network, config.target, kept["target"], playing.explore)
    return SequenceAgent(network, codec, NAME, asking, playing, protocol=protocol)


def load(path: Path) -> SequenceAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    config = read_config(Config, flat_target(settings["config"]), FITTING_RENAMED)
    codec, network = untrained(settings["benchmark"], config.transformer)
    restore_transformer(saved, network)
    return _agent(codec, network, config, saved.tensors, settings["protocol"])
