"""Behaviour cloning: what the data's policies do on average where the agent stands, whatever the task. The floor.

A perceptron maps the observation (and the step of the episode) to the action by least squares, on the data of all
training tasks at once. It remembers nothing, asks for nothing and cannot adapt; an offline agent that does not beat
it has made nothing of the task.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metabench
from metabench import Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device, descend, set_rate
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, unpack, updates_done
from metabench_agents.sequence.episodes import Actions, Episodes, load_episodes
from metabench_agents.sequence.fitting import fit

NAME = "bc"


@dataclass(frozen=True)
class CloningFitting:
    """How the perceptron is trained."""

    updates: int = 10_000  # in all
    batch: int = 256  # steps of an update
    learning_rate: float = 1e-3  # Adam's, falling linearly to zero


@dataclass(frozen=True)
class PerceptronSettings:
    """The perceptron's size."""

    width: int = 256  # of both hidden layers


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    perceptron: PerceptronSettings = field(default_factory=PerceptronSettings)  # its size
    fitting: CloningFitting = field(default_factory=CloningFitting)  # its training


class CloningPerceptron(nn.Module):
    """Observation and time to action in [-1, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, observation: int, action: int, horizon: int, settings: PerceptronSettings):
        super().__init__()
        self.horizon = horizon
        self.register_buffer("mean", torch.zeros(observation))
        self.register_buffer("std", torch.ones(observation))
        sizes = (observation + 1, settings.width, settings.width)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.Linear(settings.width, action), nn.Tanh())

    def forward(self, observation: Tensor, time: Tensor) -> Tensor:
        """`[B, O]`, `[B]` int64 to `[B, A]`."""
        when = (time.float() / self.horizon)[:, None]
        return self.body(torch.cat(((observation - self.mean) / self.std, when), dim=1))


def loss(
    network: CloningPerceptron, observation: Tensor, time: Tensor, action: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean squared error of the actions."""
    total = F.mse_loss(network(observation, time), action)
    return total, {"loss": total.detach()}


class CloningAgent:
    """The cloned policy. Belief: the step of the episode."""

    name, track, privileged = NAME, "offline", False

    def __init__(self, network: CloningPerceptron, codec: Actions, protocol: str = PROTOCOL_VERSION):
        self.network, self.codec, self.protocol = network.eval(), codec, protocol

    def begin(self, num_trials: int) -> Tensor:
        """Before the first step."""
        return torch.zeros(num_trials, dtype=torch.int64)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: Tensor) -> tuple[np.ndarray, Tensor]:
        """The action for this observation."""
        time = torch.where(torch.as_tensor(np.asarray(step.first)), 0, belief)
        observation = torch.as_tensor(np.asarray(step.observation)).float()
        return self.codec.to_env(self.network(observation, time)), time + 1


def _network(benchmark: str, config: Config) -> tuple[Actions, CloningPerceptron]:
    chosen = metabench.spec(benchmark)
    codec, columns = Actions(chosen.family().action_space), len(chosen.family().observation_fields)
    return codec, CloningPerceptron(columns, codec.size, chosen.horizon, config.perceptron)


def update_of(
    network: CloningPerceptron, optimiser: torch.optim.Optimizer, episodes: Episodes, device: Device
) -> Callable[[Tensor, Tensor | float], dict[str, Tensor]]:
    """An update as a pure function of the numbers of some steps `[B]` and the learning rate."""
    columns = device.put((*episodes.rows(), episodes.observation, episodes.action))
    rows, first, observation, action = columns
    loss_of = device.compiled(loss)

    def update(pick: Tensor, rate: Tensor | float) -> dict[str, Tensor]:
        set_rate(optimiser, rate)
        with device.products():
            row = rows[pick]
            total, metrics = loss_of(network, observation[row], row - first[pick], action[row])
        descend(total, optimiser)
        return metrics

    return update


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> CloningAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, network = _network(benchmark, config)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    network.mean, network.std = episodes.scale()
    settings, device = config.fitting, Device.of(config)
    device.place(network)
    optimiser, done = device.adam(network.parameters(), settings.learning_rate), 0
    if saved:
        done = updates_done(saved.iteration, 0, settings.updates)
        unpack(saved.tensors, {"bc": network}, {"adam": optimiser})
    number, steps = done, len(episodes.rows()[0])

    def draw(generator: torch.Generator) -> tuple[Tensor, float]:
        nonlocal number
        number += 1
        pick = torch.randint(steps, (settings.batch,), generator=generator)
        return pick, settings.learning_rate * (1.0 - (number - 1) / settings.updates)

    fit(
        run,
        "policy",
        device.updates(update_of(network, optimiser, episodes, device)),
        draw,
        updates=settings.updates,
        seed=seed,
        phase=0,
        before=0,
        done=done,
        tensors=lambda: pack({"bc": network}, {"adam": optimiser}),
    )
    return CloningAgent(network.to("cpu"), codec)


def load(path: Path) -> CloningAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    codec, network = _network(settings["benchmark"], read_config(Config, settings["config"]))
    unpack(saved.tensors, {"bc": network}, {})
    return CloningAgent(network, codec, settings["protocol"])
