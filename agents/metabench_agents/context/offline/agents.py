"""From settings and an encoder's loss to a trained agent, and back from its folder: what these algorithms share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from metabench_agents.context.offline.actor_critic import ActorCriticConfig
from metabench_agents.context.offline.data import load_task_data
from metabench_agents.context.offline.encoder import EncoderConfig, TransitionEncoder
from metabench_agents.context.offline.fitting import FittingConfig, OfflineTrainer, fit
from metabench_agents.context.offline.network import OfflineNetwork
from metabench_agents.context.offline.playing import OfflineContextAgent, PlayingConfig, shown_contexts
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Device
from metabench_agents.parts.run import Run, by_part, load_checkpoint, load_config


class OfflineConfig(Protocol):
    """The settings that all of these algorithms have."""

    @property
    def data(self) -> str: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def encoder(self) -> EncoderConfig: ...  # noqa: D102
    @property
    def learning(self) -> ActorCriticConfig: ...  # noqa: D102
    @property
    def fitting(self) -> FittingConfig: ...  # noqa: D102
    @property
    def playing(self) -> PlayingConfig: ...  # noqa: D102


C = TypeVar("C", bound=OfflineConfig)


def train_agent(
    name: str,
    benchmark: str,
    config: OfflineConfig,
    objective: Callable[[TransitionEncoder], nn.Module],
    *,
    seed: int,
    run: Run,
) -> OfflineContextAgent:
    """Trains on the data of the training tasks; continues the run in `run.folder` to the same bits.

    Args:
        name: The algorithm's.
        benchmark: An id.
        config: Its settings.
        objective: Makes the encoder's loss, a module that is a `fitting.Objective`.
        seed: Of networks and draws.
        run: The run.
    """
    saved = run.begin(name, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network = OfflineNetwork(benchmark, config.encoder, config.learning)
    data = load_task_data(benchmark, config.data, config.split, network.actions)
    network.fit_scales(data)
    keep = {}
    if config.playing.context == "shown":  # no other agent reads a test task's data
        number = config.playing.shown
        keep = shown_contexts(benchmark, config.data, config.split, network, number, seed=seed)
    trainer = OfflineTrainer(network, objective(network.encoder), data, config.fitting, Device.of(config))
    fit(trainer, seed=seed, run=run, saved=saved, keep=keep)
    return OfflineContextAgent(name, network, config.playing, keep)


def load_agent(name: str, kind: type[Any], path: Path) -> OfflineContextAgent:
    """The agent of the run in folder `path`; ValueError if there is none.

    Args:
        name: The algorithm's.
        kind: Its `Config`.
        path: The folder.
    """
    settings, saved = load_config(path), load_checkpoint(path).tensors
    config = read_config(kind, settings["config"])
    network = OfflineNetwork(settings["benchmark"], config.encoder, config.learning)
    network.load_state_dict(by_part(saved)["network"])
    return OfflineContextAgent(name, network, config.playing, saved, settings["protocol"])
