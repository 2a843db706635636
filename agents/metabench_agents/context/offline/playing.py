"""How these agents play: z is the mean code of what the trial has brought so far, or of what somebody else has played.

`own`, the honest way: the context is the trial's own transitions, and z is zero before the first. `shown`, the way of
the published evaluations: transitions of the *test task's* offline data, which the agent finds by the task it is shown;
its results stand in the track `prompt-k`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench import SlotRng, Timestep
from metabench.evaluation.results import PROTOCOL_VERSION, check_version
from metabench_agents.context.offline.data import find_task, load_task_data
from metabench_agents.context.offline.network import OfflineNetwork
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.run import stream


@dataclass(frozen=True)
class PlayingConfig:
    """How an agent acts."""

    context: Literal["own", "shown"] = "own"  # shown: of the task's offline data (a privilege: track prompt-k)
    renew: Literal["step", "episode"] = "step"  # when z takes in what has been seen; episode: where one begins
    explore: int = field(default=0, metadata={"low": 0})  # steps a trial begins with that are drawn evenly
    shown: int = 64  # transitions of the task's data that are shown


class OfflineBelief(NamedTuple):
    """What an agent remembers of B trials."""

    total: Tensor  # [B, L] sum of the codes of what has been seen
    known: Tensor  # [B] how many
    z: Tensor  # [B, L] what is acted on
    observation: Tensor  # [B, O] the last one
    ticks: int  # of the trial so far
    probes: Tensor  # [B, explore, A] actions the trial begins with


class OfflineContextAgent:
    """The policy's mean on z.

    Args:
        name: In results.
        network: Trained.
        config: How it acts.
        shown: Where the context is shown: its tasks and transitions, as `shown_contexts` gives them.
        protocol: The version it was trained under. Under `slots-1` it is not told how an episode ended.
    """

    def __init__(
        self,
        name: str,
        network: OfflineNetwork,
        config: PlayingConfig,
        shown: Mapping[str, Tensor] | None = None,
        protocol: str = PROTOCOL_VERSION,
    ):
        self.name, self.network, self.config = name, network.eval(), config
        self.protocol = check_version(protocol)
        self.privileged = config.context == "shown"
        self.track = "prompt-k" if self.privileged else "offline"
        if self.privileged:
            assert shown is not None, "the context is to be shown, and there is none"
            self._find = find_task(shown["shown/tasks"].numpy())
            seen = Transitions.unpack(shown["shown/rows"], network.observation, network.actions.size)
            with torch.inference_mode():
                self._known = network.encoder.codes(seen).mean(1)  # [K, L]

    def begin(self, num_trials: int) -> OfflineBelief:
        """Nothing has been seen."""
        nothing, seen = torch.zeros(num_trials, self.network.latent), torch.zeros(num_trials, self.network.observation)
        probes = torch.zeros(num_trials, self.config.explore, self.network.actions.size)
        if probes.numel():
            drawn = SlotRng.from_seeds(range(num_trials)).uniform(-1.0, 1.0, tuple(probes.shape[1:]))
            probes = torch.as_tensor(drawn).float()
        return OfflineBelief(nothing, torch.zeros(num_trials), nothing, seen, 0, probes)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: OfflineBelief) -> tuple[np.ndarray, OfflineBelief]:
        """Takes in the transition just completed, and acts."""
        seen = torch.as_tensor(np.asarray(step.observation)).float()
        observation, task = seen[:, : self.network.observation], seen[:, self.network.observation :]
        total, count = self._take_in(step, observation, belief)
        z = belief.z
        if self.privileged:
            z = self._known[self._find(task)] if belief.ticks == 0 else z
        elif belief.ticks:
            fresh = total / count.clamp_min(1.0)[:, None]
            first = torch.as_tensor(np.asarray(step.first))[:, None]
            z = fresh if self.config.renew == "step" else torch.where(first, fresh, z)
        action = self.network.act(observation, z)
        if belief.ticks < belief.probes.shape[1]:
            action = belief.probes[:, belief.ticks]
        after = OfflineBelief(total, count, z, observation, belief.ticks + 1, belief.probes)
        return self.network.actions.to_env(action), after

    def _take_in(self, step: Timestep, observation: Tensor, belief: OfflineBelief) -> tuple[Tensor, Tensor]:
        """Sum and number of the codes with one more, where a transition is known."""
        if self.privileged or belief.ticks == 0:
            return belief.total, belief.known
        first = np.asarray(step.first)
        counts = torch.as_tensor(~first if self.protocol == "slots-1" else np.ones_like(first)).float()
        final = torch.as_tensor(np.asarray(step.final)).float()[:, : self.network.observation]
        led_to = torch.where(torch.as_tensor(first)[:, None], final, observation)
        reward = torch.as_tensor(np.asarray(step.reward)).float()
        action = self.network.actions.from_env(np.asarray(step.action))
        seen = Transitions(belief.observation, action, reward, led_to, torch.zeros_like(reward))
        code = self.network.encoder.codes(seen)
        return belief.total + code * counts[:, None], belief.known + counts


def shown_contexts(
    benchmark: str, data: str, split: str, network: OfflineNetwork, number: int, *, seed: int
) -> dict[str, Tensor]:
    """Tasks `[K, C]` and `number` transitions of each one's data `[K, number, W]`, of every split whose data are there.

    Args:
        benchmark: Whose tasks.
        data: The quality or id of the data.
        split: The training tasks', whose data have to be there.
        network: Its units of actions.
        number: How many are shown of each task; drawn evenly from all of its data.
        seed: Of the draws.

    Raises:
        ValueError: The training tasks' data are not there.
    """
    table, tasks, rows = metabench.spec(benchmark).table(), [], []
    for number_of_split, name in enumerate(sorted(table.rows, key=lambda name: (name != split, name))):
        try:
            found = load_task_data(benchmark, data, name, network.actions)
        except ValueError:
            if name == split:
                raise
            continue  # the agent says so when it is shown such a task
        drawn = found.draw(torch.arange(len(found)), number, stream(seed, 2, number_of_split))
        tasks.append(torch.as_tensor(table.rows[name][found.task.numpy()]))
        rows.append(drawn.pack())
    return {"shown/tasks": torch.cat(tasks), "shown/rows": torch.cat(rows)}
