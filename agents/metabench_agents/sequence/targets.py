"""What a decision transformer asks for at play: a rank, a return, or an expectile of what good episodes still bring.

While learning, a step's token says the episode's return to go, which falls by every reward; so at play what is asked
for falls by the rewards received (Chen et al. 2021). Three ways to know what to ask for on a task whose own returns are
not known:

- `expectile`: what good episodes of the training tasks bring from here, given what is seen of the task (`Aspiration`).
  It is asked for at an episode's first step, and once more when the drawn steps of a trial's first episode are over
  and have told something of the task. `every_step` asks anew at each step instead, whatever has come in: then the
  tokens say what no episode while learning has said. Runs whose settings are flat were made and measured so.
- `return`: one return, from the training tasks' best ones.
- `rank`: the token says where the episode stands among those of its own training task, from 0 to 1, at every step the
  same; asked for is 1. It needs no return of any task. (Returns to go of *prompts* stay what they are.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metabench_agents.sequence.decision_transformer import DecisionTransformer
from metabench_agents.sequence.episodes import Episodes

FLAT: dict[str, dict[str, Any]] = {  # what the one setting of earlier runs meant
    "learned": {"kind": "expectile", "every_step": True},
    "mean": {"kind": "return", "of": "mean"},
    "best": {"kind": "return", "of": "best"},
}


@dataclass(frozen=True)
class TargetSettings:
    """What is asked for."""

    kind: Literal["rank", "return", "expectile"] = "expectile"  # see the docstring of `targets.py`
    of: Literal["mean", "best"] = "mean"  # return: the mean or the highest of the training tasks' best ones
    every_step: bool = False  # expectile: asked anew at every step instead of falling by the rewards received


def flat_target(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON says them, a target that is one word being what it meant; ValueError for an unknown word."""
    word = values.get("target")
    if not isinstance(word, str):
        return dict(values)
    if word not in FLAT:
        raise ValueError(f"unknown target {word!r}; there are {', '.join(FLAT)}")
    return {**values, "target": FLAT[word]}


def return_to_ask(episodes: Episodes, settings: TargetSettings) -> Tensor:
    """The return to ask for, from the training tasks; infinite where it is not one return."""
    if settings.kind != "return":
        return torch.tensor(torch.inf)
    best = episodes.best()
    return best.mean() if settings.of == "mean" else best.max()


class Asking:
    """What is asked for, step by step.

    Args:
        network: Whose aspiration and scales are used.
        settings: The way.
        value: The return to ask for, in the environment's units, where it is one; or a function of the task's context
            `[B, C]`, which goes before the settings.
        explore: Steps a trial begins with that are drawn.
    """

    def __init__(
        self,
        network: DecisionTransformer,
        settings: TargetSettings,
        value: Tensor | Callable[[Tensor], Tensor],
        explore: int,
    ):
        if callable(value) and settings.kind == "rank":
            raise ValueError("an agent that asks for a rank cannot ask for a task's return: choose another target.kind")
        self.network, self.settings, self.value, self.explore = network, settings, value, explore
        self.privileged = callable(value) and not isinstance(value, Tensor)

    def first(self, observation: Tensor, reward: Tensor, time: Tensor, context: Tensor, task: Tensor) -> Tensor:
        """`[B]` what to ask for where nothing has been asked yet, divided by the return scale."""
        network = self.network
        if self.settings.kind == "rank":
            return torch.ones(len(observation))
        if not isinstance(self.value, Tensor):
            return self.value(task) / network.return_scale
        if self.settings.kind == "return":
            return torch.full((len(observation),), float(self.value)) / network.return_scale
        return network.aspire(network.scaled(observation), reward, time, context)

    def then(self, fresh: Tensor, before: Tensor, reward: Tensor, first: Tensor, done: int) -> Tensor:
        """`[B]` what to ask for at a later tick of the trial.

        Args:
            fresh: `[B]` what `first` gives here.
            before: `[B]` what was asked for at the tick before.
            reward: `[B]` what has come in since.
            first: `[B]` bool: an episode starts here.
            done: Ticks of the trial before this one.
        """
        if self.settings.kind == "rank":
            return fresh
        aspires = self.settings.kind == "expectile" and not self.privileged
        if aspires and (self.settings.every_step or done <= self.explore):
            return fresh
        return torch.where(first, fresh, before - reward / self.network.return_scale)
