"""The trained actor that sees the task: how it acts, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metabench import SlotRng, Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.fast.sac import CLIP, SAC, gaussian

NAME = "sac-oracle"
PARTS = ("center", "inverse", "w1", "b1", "w2", "b2", "w3", "b3")  # of what is kept of an actor, half precision


class TrainedOracle:
    """A trained actor that sees the task.

    Belief: the streams of its noise, or nothing where it takes the mean's action.
    """

    name, privileged = NAME, True

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        space: spaces.Box,
        noise_seed: int | None = None,
        protocol: str = PROTOCOL_VERSION,
    ):
        self.weights = {name: tensor.float() for name, tensor in weights.items()}
        self.actor = [self.weights[name] for name in PARTS[2:]]
        self.low, self.high = np.asarray(space.low), np.asarray(space.high)
        self.noise_seed = noise_seed  # None: the mean's action
        self.protocol = protocol

    def begin(self, num_trials: int) -> Any:
        """Keys and counters of the trials' streams; None without noise."""
        if self.noise_seed is None:
            return None
        return SlotRng.counting(self.noise_seed * 2**32, num_trials).state()

    @torch.inference_mode()
    def act(self, step: Timestep, belief: Any) -> tuple[np.ndarray, Any]:
        """The policy's action for the task it sees."""
        observation = torch.as_tensor(step.observation).float()
        scaled = ((observation - self.weights["center"]) * self.weights["inverse"]).clamp(-CLIP, CLIP)
        mean, log_std = gaussian(self.actor, scaled)
        if belief is not None:
            rng = SlotRng(belief[0], belief[1].copy())
            noise = rng.normal(size=mean.shape[1]).astype(np.float32)
            mean, belief = mean + log_std.exp() * torch.from_numpy(noise), rng.state()
        return to_space(torch.tanh(mean).numpy(), self.low, self.high), belief


def to_space(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions in [-1, 1] as the box has them."""
    return np.clip((high + low) / 2 + (high - low) / 2 * action, low, high).astype(low.dtype)


def snapshot(sac: SAC) -> dict[str, Tensor]:
    """The actor with its scaling in half precision: what a stage keeps."""
    tensors = (sac.center, sac.inverse, *sac.state.actor)
    return {name: tensor.detach().half().clone() for name, tensor in zip(PARTS, tensors, strict=True)}
