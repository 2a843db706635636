"""Sizes and settings of RL2, and those that its reported runs had."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from metabench_agents.parts.attention.ticks import Gate
from metabench_agents.parts.config import for_benchmark
from metabench_agents.parts.device import Computing
from metabench_agents.parts.losses import PPO
from metabench_agents.parts.view import ViewConfig, whole_view

NAME = "rl2"
CoreKind = Literal["gru", "transformer"]


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network."""

    hidden: int = 64  # width of the recurrent core
    embed: int = 64  # width of the tick's embedding
    head: int = 64  # width of the hidden layer before policy and value
    skip: bool = True  # whether the heads see the embedded tick beside the hidden state
    normalise: bool = False  # whether observations without bounds are brought to a running unit scale


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer; its width is `network.hidden`."""

    layers: int = field(default=2, metadata={"low": 1})  # blocks
    heads: int = field(default=4, metadata={"low": 1})  # of attention; they must divide the width
    gate: Gate = "small"  # how layers enter the stream: small (added, from zero on), gru (GTrXL's gates), none (added)


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 3_000_000  # environment steps in all
    trials: int = 128  # trials played together, one per slot
    core: CoreKind = "gru"  # what remembers the trial: gru or transformer
    transformer: TransformerConfig = field(default_factory=TransformerConfig)  # where that is the core
    network: NetworkConfig = field(default_factory=NetworkConfig)  # its sizes
    ppo: PPO = field(default_factory=PPO)  # how policy and value learn; a part of a pass has whole trials
    split: str = "train"  # tasks to learn from; "fresh" for endless ones
    view: ViewConfig = field(default_factory=ViewConfig)  # what is shown, how often it decides


CONTROL: dict[str, Any] = {  # continuous control: calm steps of PPO, observations scaled as they come
    "frames": 2_000_000,
    "trials": 32,
    "network.hidden": 128,
    "network.normalise": True,
    "ppo.learning_rate": 1e-3,
    "ppo.adaptive": True,
    "ppo.target_kl": 0.02,
    "ppo.discount": 0.97,
    "ppo.trace": 0.95,
    "ppo.entropy": 0.002,
    "ppo.epochs": 4,
    "ppo.minibatches": 4,
}
MERGE: dict[str, Any] = {
    "frames": 3_000_000,
    "ppo.learning_rate": 1e-3,
    "ppo.discount": 0.99,
    "ppo.epochs": 4,
    "ppo.entropy": 0.01,
}
RECOMMENDED: dict[str, dict[str, Any]] = {
    "CheetahDir-v0": CONTROL,
    "CheetahDirSwitch-v0": CONTROL,
    "CheetahVel-v0": CONTROL,
    "CheetahVelSwitch-v0": CONTROL,
    "CheetahWindVelSwitch-v0": CONTROL,
    "DarkRoom-v0": {"frames": 10_000_000, "ppo.discount": 0.99, "ppo.entropy": 0.02},
    "HighwayMerge-v0": MERGE,
    "HopperParam-v0": CONTROL,
    "MetaWorld-Push-v0": CONTROL | {"frames": 1_000_000, "trials": 16},
    "MetaWorld-Reach-v0": CONTROL | {"frames": 1_000_000, "trials": 16},
    "ReacherSwitch-v0": CONTROL,
    "ScratchItchSwitch-v0": CONTROL,
    "SparsePointRobot-v0": {"ppo.discount": 0.99},
}


def recommended(benchmark: str) -> Config:
    """The settings that `metabench train` begins with: those of our studies for a benchmark, the defaults elsewhere."""
    return for_benchmark(Config(view=whole_view(benchmark)), RECOMMENDED, benchmark)
