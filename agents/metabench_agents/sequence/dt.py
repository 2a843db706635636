"""DT: a decision transformer that is told nothing of the task but what it is asked for and what it has seen.

Source: Chen et al. 2021, "Decision Transformer" (arXiv 2106.01345). Beside Meta-DT it is the ablation without any
context: the network and its training are the same (`decision.py`), without z and without prompts. What it can know of
the task is what rewards tell: they change the return that is asked for next. Nothing is kept from one episode to
the next.

Deviations: those of `decision.Settings` from the released Meta-DT; the return asked for is learned
(`decision.Aspiration`), where the paper asks for a known return of the one task.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import metabench
from metabench_agents.parts.run import Run, load_checkpoint, load_config
from metabench_agents.sequence.decision_transformer import (
    DecisionTransformer,
    Settings,
    Target,
    Trainer,
    asked,
    restore_transformer,
    return_to_ask,
    settled,
    train_transformer,
)
from metabench_agents.sequence.episodes import Actions, Window, draw_windows, load_episodes, window_of
from metabench_agents.sequence.playing import SequenceAgent

NAME = "dt"


@dataclass(frozen=True)
class Config(Settings):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    target: Target = "learned"  # return to ask for: learned, or the mean or highest of the training tasks' best


def _network(benchmark: str, config: Config) -> tuple[Actions, DecisionTransformer]:
    chosen = metabench.spec(benchmark)
    codec, columns = Actions(chosen.family().action_space), len(chosen.family().observation_fields)
    return codec, DecisionTransformer(columns, codec.size, chosen.horizon, 0, config)


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> SequenceAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    config = settled(config, benchmark)
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, network = _network(benchmark, config)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    nothing, target = torch.zeros(len(episodes.reward), 0), return_to_ask(episodes, config.target)
    network.learn_scales(episodes, nothing)

    def draw(number: int, generator: torch.Generator) -> tuple[Window, None]:
        which, start = draw_windows(episodes, config.batch, config.window, generator)
        return window_of(episodes, which, start, config.window, nothing), None

    train_transformer(Trainer(network), draw, seed=seed, run=run, saved=saved, keep={"target": target})
    return SequenceAgent(network, codec, NAME, asked(target))


def load(path: Path) -> SequenceAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    codec, network = _network(settings["benchmark"], Config(**settings["config"]))
    restore_transformer(saved, network)
    return SequenceAgent(network, codec, NAME, asked(saved.tensors["target"]))
