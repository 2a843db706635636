"""How a decision transformer plays trials: all at once, with a cache of keys and values and a prompt that may change.

Memory is the trial so far, a tuple of ticks, so a belief is a value and never changes. What was computed is kept too:
the cache holds the prompt and the window. When the window is full, all but the last K/2 steps are dropped and those
are computed anew. So the network always sees a stretch of steps it has been trained on (every prefix of every window
was in the loss), at twice the cost of no window at all; to see exactly the last K steps (`sliding`) costs six times
as much, and up to step K there is no difference.

The first steps of a trial, of its first episode alone, are drawn evenly from the action space
(`PlayingSettings.explore`), each trial from a stream of its own number, the same at every play. The network is shown
them as it is shown its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metabench import SlotRng, Timestep
from metabench.evaluation.results import PROTOCOL_VERSION, check_version
from metabench_agents.parts.fast.precision import products
from metabench_agents.sequence.decision_transformer import TOKENS, DecisionTransformer
from metabench_agents.sequence.episodes import Actions, Prompt
from metabench_agents.sequence.targets import Asking
from metabench_agents.sequence.transformer import MASKED, TokenCache, causal


@dataclass(frozen=True)
class PlayingSettings:
    """How a decision transformer acts."""

    explore: int = field(default=-1, metadata={"low": -1})  # steps a trial begins with that are drawn evenly; 0: none,
    # as released; -1: as many as the training data call for (`trials.telling.drawn_steps`)
    sliding: bool = False  # see exactly the last K steps instead of between K/2 and K, at six times the cost


class SequenceTick(NamedTuple):
    """What was seen and done at one tick of B trials."""

    observation: Tensor  # [B, O] in the environment's units
    reward: Tensor  # [B] the one before: where `first`, of the previous episode's last step (zeros under slots-1)
    first: Tensor  # [B] bool: an episode starts here
    time: Tensor  # [B] int64 step of the episode
    togo: Tensor  # [B] what is still asked for: a return divided by the return scale, or a rank
    context: Tensor  # [B, Z]
    action: Tensor  # [B, A] what was done, encoded
    final: Tensor  # [B, O] where `first`, what the previous episode ended in (zeros under slots-1); zeros elsewhere
    memory: Tensor = torch.zeros(0)  # [B, W] what `context` is read from, where more than the last ticks tell it

    @property
    def last_reward(self) -> Tensor:
        """`[B]` the reward of the episode's step before; zeros at its first, as while learning."""
        return torch.where(self.first, 0.0, self.reward)


class SequenceBelief(NamedTuple):
    """All that a sequence agent remembers."""

    ticks: tuple[SequenceTick, ...]  # of the whole trial
    cache: TokenCache | None  # keys and values of the prompt and of the steps from `anchor` on
    anchor: int  # the tick the cache begins with
    prompt: Prompt | None  # scaled; of every trial, used where `prompted`
    prompted: Tensor  # [B] bool
    merit: Tensor  # [B] how good the episode is that the prompt was cut from
    probes: Tensor  # [B, explore, A] encoded actions the trial begins with


class Choice(NamedTuple):
    """Prompts cut from the episodes that have just ended."""

    prompt: Prompt  # raw, [B, L, ...]
    possible: Tensor  # [B] bool: there is one
    merit: Tensor  # [B] kept instead of the present one where it is higher


# (ticks so far, this observation's tick without context) -> the tick with it
Recall = Callable[[tuple[SequenceTick, ...], SequenceTick], SequenceTick]
# (ticks so far, the tick that begins later episodes and tells how those before ended) -> prompts
Choose = Callable[[tuple[SequenceTick, ...], SequenceTick], Choice]


class SequenceAgent:
    """A decision transformer at play.

    Args:
        network: The transformer.
        codec: The encoding of actions.
        name: The agent's name in results.
        asking: What it asks for; where that is a task's own return, the agent is privileged: it must be shown the task.
        settings: How it acts.
        protocol: The version it was trained under; under `slots-1` it knows nothing of how an episode ended.
        recall: Adds z from the trial so far to a tick; None where the network takes none.
        choose: Cuts prompts from the agent's own earlier episodes; None for none.
        demonstrations: Prompts by the task's context `[B, C]`, there from the first step on. Privileged likewise.
        track: The track its results belong to; by default offline, or oracle where it is shown the task.
    """

    def __init__(
        self,
        network: DecisionTransformer,
        codec: Actions,
        name: str,
        asking: Asking,
        settings: PlayingSettings,
        *,
        protocol: str = PROTOCOL_VERSION,
        recall: Recall | None = None,
        choose: Choose | None = None,
        demonstrations: Callable[[Tensor], Prompt] | None = None,
        track: str | None = None,
    ):
        self.network, self.codec, self.name = network.eval(), codec, name
        self.protocol = check_version(protocol)
        self.asking, self.recall, self.choose, self.demonstrations = asking, recall, choose, demonstrations
        self.privileged = asking.privileged or demonstrations is not None
        self.track = track or ("oracle" if self.privileged else "offline")
        self.settings, self.window = settings, network.settings.window
        self.kept = self.window - 1 if settings.sliding else self.window // 2
        self.observation = network.mean.shape[0]

    def begin(self, num_trials: int) -> SequenceBelief:
        """Nothing has been seen."""
        nothing = torch.zeros(num_trials, dtype=torch.bool)
        probes = torch.zeros(num_trials, self.settings.explore, self.codec.size)
        if probes.numel():
            drawn = SlotRng.from_seeds(range(num_trials)).uniform(-1.0, 1.0, tuple(probes.shape[1:]))
            probes = torch.as_tensor(drawn).float() * self.codec.reach
        return SequenceBelief((), None, 0, None, nothing, torch.full((num_trials,), -torch.inf), probes)

    @torch.inference_mode()
    def act(self, step: Timestep, belief: SequenceBelief) -> tuple[np.ndarray, SequenceBelief]:
        """Actions for this tick, and the belief after it."""
        first = torch.as_tensor(np.asarray(step.first))
        seen = torch.as_tensor(np.asarray(step.observation)).float()
        observation, task = seen[:, : self.observation], seen[:, self.observation :]
        tick = self._tick(belief.ticks, step, observation, first, task)
        belief = self._prompts(belief, tick, task)
        full = len(belief.ticks) - belief.anchor >= self.window
        with products("fp32"):
            if belief.cache is None or full or bool(first.any()):
                belief = self._rebuild(belief, bool(first.all()))
            action, cache = self._decide(belief, tick)
        if len(belief.ticks) < belief.probes.shape[1]:
            action = belief.probes[:, len(belief.ticks)]
        ticks = (*belief.ticks, tick._replace(action=action))
        return self.codec.to_env(action), belief._replace(ticks=ticks, cache=cache)

    def _tick(
        self, ticks: tuple[SequenceTick, ...], step: Timestep, observation: Tensor, first: Tensor, task: Tensor
    ) -> SequenceTick:
        """This tick, its action still open."""
        rows, network = len(first), self.network
        reward, final = (torch.as_tensor(np.asarray(x)).float() for x in (step.reward, step.final))
        final = final[:, : self.observation]
        if self.protocol == "slots-1":  # it was trained and measured without: more would only confuse it
            reward, final = torch.where(first, 0.0, reward), torch.zeros_like(final)
        nothing, time = torch.zeros(rows, self.codec.size), torch.zeros(rows, dtype=torch.int64)
        if ticks:
            time = torch.where(first, time, ticks[-1].time + 1)
        tick = SequenceTick(
            observation, reward, first, time, reward, torch.zeros(rows, network.context), nothing, final
        )
        if self.recall is not None:
            tick = self.recall(ticks, tick)
        seen = (observation, tick.last_reward, time, tick.context)
        togo = self.asking.first(*seen, task)
        if ticks:
            togo = self.asking.then(togo, ticks[-1].togo, tick.last_reward, first, len(ticks))
        return tick._replace(togo=togo)

    def _prompts(self, belief: SequenceBelief, tick: SequenceTick, task: Tensor) -> SequenceBelief:
        """Demonstrations at the start of the trial; prompts from own episodes where a later one begins."""
        if not bool(tick.first.any()):
            return belief
        if self.demonstrations is not None and not belief.ticks:
            prompt = self.network.scale_prompt(self.demonstrations(task))
            return belief._replace(prompt=prompt, prompted=torch.ones_like(belief.prompted))
        if self.choose is None or not belief.ticks:
            return belief
        choice = self.choose(belief.ticks, tick)
        better = tick.first & choice.possible & (choice.merit >= belief.merit)
        fresh = self.network.scale_prompt(choice.prompt)
        if belief.prompt is not None:
            pairs = zip(fresh, belief.prompt, strict=True)
            fresh = Prompt(*(torch.where(better.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs))
        merit = torch.where(better, choice.merit, belief.merit)
        return belief._replace(prompt=fresh, prompted=belief.prompted | better, merit=merit)

    def _rebuild(self, belief: SequenceBelief, all_first: bool) -> SequenceBelief:
        """A cache of the prompt and the last steps, computed anew."""
        now, network = len(belief.ticks), self.network
        anchor = now if all_first else max(now - self.kept, belief.anchor)
        prompt = belief.prompt if bool(belief.prompted.any()) else None
        length = 0 if prompt is None else prompt.time.shape[1]
        cache = network.cache(len(belief.prompted), length)
        if prompt is not None:
            tokens = network.prompt_tokens(prompt)
            _, cache = network.body.extend(tokens, causal(tokens.shape[1]), cache, slice(0))
        return belief._replace(cache=cache, anchor=anchor)

    def _decide(self, belief: SequenceBelief, tick: SequenceTick) -> tuple[Tensor, TokenCache]:
        """The action at `tick`: tokens that are not in the cache yet go through the network, then its own two."""
        network, cache = self.network, belief.cache
        assert cache is not None
        prompt = TOKENS * belief.prompt.time.shape[1] if belief.prompt is not None and belief.prompted.any() else 0
        steps = (*belief.ticks[belief.anchor :], tick)
        behind = cache.length - prompt  # tokens of those steps that are in the cache: two of the last one
        known = -(-behind // TOKENS)
        fresh = steps[max(0, known - 1) :]
        new = self._tokens(fresh)[:, 2 if known else 0 : -1]
        bias = self._bias(belief, steps, prompt, new.shape[1])
        output, cache = network.body.extend(new, bias, cache, slice(-1, None))
        return network.act(output)[:, 0], cache

    def _tokens(self, steps: tuple[SequenceTick, ...]) -> Tensor:
        """`[B, 3 n, D]`."""
        columns: dict[str, Tensor] = {
            name: torch.stack([getattr(step, name) for step in steps], dim=1)
            for name in ("observation", "context", "action", "togo", "time")
        }
        network = self.network
        columns["observation"] = network.scaled(columns["observation"])
        columns["time"] = columns["time"].clamp(max=network.horizon - 1)
        return network.tokens(**columns)

    def _bias(self, belief: SequenceBelief, steps: tuple[SequenceTick, ...], prompt: int, new: int) -> Tensor:
        """What the new tokens may see: the prompt where there is one, and the steps of their own episode."""
        total = prompt + TOKENS * len(steps) - 1
        bias = causal(total, begin=total - new)
        first = torch.stack([step.first for step in steps], dim=1)
        first[:, 0] = False  # what stands before the window is gone anyway
        if bool(belief.prompted.all()) and not bool(first.any()):
            return bias
        # A step is hidden where an episode starts after it: the last start that is no later than the newest step.
        started = first.flip(1).cumsum(1).flip(1) - first.long() > 0
        hidden = started.repeat_interleave(TOKENS, dim=1)[:, : total - prompt]
        front = (~belief.prompted)[:, None].expand(-1, prompt)
        return bias + torch.where(torch.cat((front, hidden), dim=1), MASKED, 0.0)[:, None]


def lookup(contexts: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Rows `[B]` of a task table `[n, C]` from exposed contexts `[B, C]`; ValueError for one that is not there."""
    table = torch.as_tensor(np.asarray(contexts, np.float32))

    def find(task: Tensor) -> Tensor:
        distance = torch.cdist(task.double(), table.double(), compute_mode="donot_use_mm_for_euclid_dist")
        gap, row = distance.min(dim=1)
        if bool((gap > 1e-4 * (1.0 + table.abs().max())).any()):
            raise ValueError("the agent was shown a task for which it has no data")
        return row

    return find
