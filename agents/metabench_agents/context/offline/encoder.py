"""What says the task: each transition is encoded by itself, and z is the mean over the context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metabench
from metabench_agents.context.actor_critic import ActionScale, mlp
from metabench_agents.context.offline.data import Scales, TaskData
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.config import REWARD_FAMILIES
from metabench_agents.parts.features import Features

C = TypeVar("C", bound="EncoderConfig")


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of the encoder."""

    latent: int = 20  # dimensions of z
    hidden: int = 128  # width of its layers; published: 64 to 200
    layers: int = 2  # its hidden layers; published: 2 or 3
    sees: Literal["auto", "reward", "step"] = "auto"  # step: s' beside (s, a, r); auto: where dynamics may differ
    shape: Literal["tanh", "unit", "free"] = "tanh"  # of a transition's code: within [-1, 1], of length 1, or any
    standardised: bool = False  # z in standard deviations over the data's contexts, once the encoder is left alone

    def settled(self: C, benchmark: str) -> C:
        """The same with what it sees decided for the benchmark's family where it is left open."""
        if self.sees != "auto":
            return self
        # what a step leads to tells nothing of the task where only rewards differ
        rewards = type(metabench.spec(benchmark).family()).__name__ in REWARD_FAMILIES
        return replace(self, sees="reward" if rewards else "step")


class TransitionEncoder(nn.Module):
    """Transitions to codes, and contexts to z.

    Args:
        fields: The observation's columns.
        actions: Between the environment's units and the policy's.
        config: Sizes, settled for a family.
    """

    reward_center: Tensor
    reward_scale: Tensor
    step: Tensor
    code_center: Tensor
    code_scale: Tensor

    def __init__(self, fields: Any, actions: ActionScale, config: EncoderConfig):
        super().__init__()
        self.features, self.config, self.actions = Features(fields), config, actions.size
        self.register_buffer("reward_center", torch.zeros(()))
        self.register_buffer("reward_scale", torch.ones(()))
        self.register_buffer("step", torch.ones(self.features.observation))
        if config.standardised:
            self.register_buffer("code_center", torch.zeros(config.latent))
            self.register_buffer("code_scale", torch.ones(config.latent))
        after = self.features.observation if config.sees == "step" else 0
        inputs = self.features.size + actions.size + 1 + after
        self.body = mlp(inputs, config.hidden, config.layers, config.latent)
        last: Any = self.body[-1]
        nn.init.xavier_uniform_(last.weight)  # outputs next to zero would leave all tasks at one place

    def fit_scales(self, data: TaskData) -> None:
        """Takes the units of observations, rewards and steps from the data."""
        self.features.fit(data.all.observation)
        for name, value in Scales.of(data)._asdict().items():
            getattr(self, name).copy_(value)

    def scaled_reward(self, reward: Tensor) -> Tensor:
        """`[...]` in standard deviations from the mean."""
        return (reward - self.reward_center) / self.reward_scale

    def change(self, seen: Transitions) -> Tensor:
        """`[..., O]` what a step changed, in units of what steps change."""
        return (seen.next_observation - seen.observation) / self.step

    def pair(self, seen: Transitions) -> Tensor:
        """`[..., F + A]` what was seen and done."""
        return torch.cat((self.features(seen.observation), seen.action), dim=-1)

    def outcome(self, seen: Transitions) -> Tensor:
        """`[..., P]` what came of it: the reward, and the change where the encoder sees it."""
        reward = self.scaled_reward(seen.reward)[..., None]
        return torch.cat((reward, self.change(seen)), dim=-1) if self.config.sees == "step" else reward

    def facts(self, seen: Transitions) -> Tensor:
        """`[..., F + A + P]` what the encoder is told of transitions."""
        return torch.cat((self.pair(seen), self.outcome(seen)), dim=-1)

    def forward(self, facts: Tensor) -> Tensor:
        """`[..., I]` to codes `[..., L]`."""
        code = self.body(facts).float()
        if self.config.shape == "free":
            return code
        return torch.tanh(code) if self.config.shape == "tanh" else F.normalize(code, dim=-1)

    def codes(self, seen: Transitions) -> Tensor:
        """What each transition says of the task, `[..., L]`; in the units of `standardise`, where that was called."""
        code = self(self.facts(seen))
        return (code - self.code_center) / self.code_scale if self.config.standardised else code

    @torch.no_grad()
    def standardise(self, contexts: Transitions) -> None:
        """From now on the z of contexts `[N, C, ...]` have mean 0 and standard deviation 1."""
        z = self(self.facts(contexts)).mean(1)
        self.code_center.copy_(z.mean(0))
        self.code_scale.copy_(z.std(0).clamp_min(1e-6))


def mean_of_first(codes: Tensor, lengths: Tensor) -> Tensor:
    """Z `[T, L]`: the mean of the first `lengths` `[T]` codes of `[T, C, L]`; zeros where there are none."""
    counts = torch.arange(codes.shape[1], device=codes.device) < lengths[:, None]
    return (codes * counts[..., None]).sum(1) / lengths.clamp_min(1)[:, None]
