"""Prompts: segments of episodes that stand in front of a window, chosen by what surprised the world model.

While learning, for each window, a segment of another episode of its task (`SiblingPrompts`); at play a segment of the
agent's own earlier episodes of the trial (`Surprise`). `meta_dt.py` says which of the released ways change it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from metabench.evaluation.results import PROTOCOL_VERSION, check_version
from metabench_agents.parts.run import stream
from metabench_agents.sequence.decision_transformer import has_short_windows
from metabench_agents.sequence.episodes import Episodes, Prompt, Siblings, prompt_of, segment_sums
from metabench_agents.sequence.playing import Choice, SequenceTick
from metabench_agents.sequence.world_model import StepInContext, WorldModel, WorldModelSettings, errors

P = TypeVar("P", bound="PromptSettings")


@dataclass(frozen=True)
class PromptSettings:
    """What all prompts have."""

    length: int = 0  # steps L of a prompt; 0: as released, 3 on the Param families and 5 elsewhere

    def settled(self: P, benchmark: str) -> P:
        """The same with the released length of the benchmark's family where it is left open."""
        return replace(self, length=self.length or (3 if has_short_windows(benchmark) else 5))


@dataclass(frozen=True)
class SegmentSettings(PromptSettings):
    """Prompts cut from episodes that show the task by chance."""

    choice: Literal["error", "random", "none"] = "error"  # how the segment is chosen
    share: float = 0.5  # of the updates, those that are made with a prompt

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"the share of the updates with a prompt must lie in [0, 1], got {self.share}")


class Surprise:
    """The world model at play: z of the trial so far, and the segments it foretold worst.

    Args:
        model: The world model; None where there is none, and segments are drawn.
        settings: Its settings: segments begin at step h or later with or without it.
        prompt: How segments are chosen.
        released: Ways of the released code to restore.
        protocol: The version the agent was trained under: under `slots-1` it is not told how an episode ended.
    """

    def __init__(
        self,
        model: WorldModel | None,
        settings: WorldModelSettings,
        prompt: SegmentSettings,
        released: Collection[str] = (),
        protocol: str = PROTOCOL_VERSION,
    ):
        self.model, self.prompt, self.released = model, prompt, released
        self.steps, self.blind = settings.history, check_version(protocol) == "slots-1"
        self.average, self.lasts = settings.average, settings.lasts

    @property
    def foretells(self) -> bool:
        """Whether segments can be chosen by their error."""
        return self.model is not None

    def recall(self, ticks: tuple[SequenceTick, ...], now: SequenceTick) -> SequenceTick:
        """The tick with z: from the last h steps of the episode, steps before its start being zeros.

        With `average`, the mean of all of the trial so far (of the episode, where z lasts no longer), but for those
        that an episode began with, which know nothing; the memory is their sum and their number.
        """
        z = self._last_steps(ticks, now)
        if not self.average:
            return now._replace(context=z)
        total = torch.cat((z, torch.ones(len(z), 1)), dim=1) * (now.time > 0)[:, None]
        if ticks:
            kept = torch.ones_like(now.first) if self.lasts == "trial" else ~now.first
            total = total + ticks[-1].memory * kept[:, None]
        return now._replace(context=mean_or(total, z), memory=total)

    def _last_steps(self, ticks: tuple[SequenceTick, ...], now: SequenceTick) -> Tensor:
        """Z `[B, Z]` of the last h steps."""
        assert self.model is not None
        past = torch.zeros(self.steps, len(now.first), sum(self.model.encoder.split))
        following = now
        for back in range(1, min(self.steps, len(ticks)) + 1):
            tick = ticks[-back]
            known = now.time >= (self.steps if "late-context" in self.released else back)
            row = torch.cat((self.model.scaled(tick.observation), tick.action, following.reward[:, None]), dim=1)
            past[self.steps - back] = row * known[:, None]
            following = tick
        z = self.model.encoder(past)
        return z * (now.time > 0)[:, None] if "late-context" in self.released else z

    def choose(self, ticks: tuple[SequenceTick, ...], now: SequenceTick) -> Choice:
        """The segment of each episode that has just ended, and its return; for rows whose episode has not, nonsense.

        Under `slots-1` nothing tells the last step's reward and what it led to: no segment holds it, and in the returns
        its reward counts as the one before it.
        """
        length, steps = ticks[-1].time + 1, self.prompt.length
        ticks = ticks[-int(length.max()) :]
        count, whole = len(ticks), len(ticks) - self.blind  # steps that are remembered, and those known whole
        observation, action, time = (
            torch.stack([getattr(t, n) for t in ticks], 1) for n in ("observation", "action", "time")
        )
        mine = torch.arange(count) >= count - length[:, None]  # [B, S] steps of the episode
        got = self.rewards(ticks, now) * mine
        togo = got.flip(1).cumsum(1).flip(1)
        if whole < steps:
            nothing = torch.zeros(len(length), steps)
            empty = Prompt(
                nothing[..., None] * observation[:, :1], nothing[..., None] * action[:, :1], nothing, nothing.long()
            )
            return Choice(empty, nothing[:, 0] > 0, nothing[:, 0])
        score = self.errors(ticks, now)[:, :whole] if self.prompt.choice == "error" and self.foretells else None
        chance = stream(count, int(length.sum()))
        start, possible = self._start(score, mine[:, :whole], time[:, :whole], steps, chance)
        rows = start[:, None] + torch.arange(steps)
        pick = torch.arange(len(rows))[:, None]
        prompt = Prompt(observation[pick, rows], action[pick, rows], togo[pick, rows], time[pick, rows])
        return Choice(prompt, possible, togo[torch.arange(len(rows)), count - length])

    def rewards(self, ticks: tuple[SequenceTick, ...], now: SequenceTick) -> Tensor:
        """`[B, S]` the reward of each step; `now` tells the last one's."""
        last = ticks[-1] if self.blind else now
        return torch.stack([tick.reward for tick in (*ticks[1:], last)], dim=1)

    def errors(self, ticks: tuple[SequenceTick, ...], now: SequenceTick) -> Tensor:
        """The model's error `[B, S]` at every step of an episode that has ended; under `slots-1` the last is no use."""
        assert self.model is not None
        observation, action = (torch.stack([getattr(t, name) for t in ticks], 1) for name in ("observation", "action"))
        length = ticks[-1].time + 1
        mine = torch.arange(len(ticks)) >= len(ticks) - length[:, None]
        got = self.rewards(ticks, now) * mine
        seen, (rows, count) = self.model.scaled(observation), got.shape
        table = torch.cat((seen, action, got[..., None]), dim=-1)
        padded = torch.cat((torch.zeros(rows, self.steps, table.shape[-1]), table), dim=1)
        past = padded.unfold(1, self.steps, 1)[:, :count].permute(3, 0, 1, 2).flatten(1, 2)
        end = seen[:, -1:] if self.blind else self.model.scaled(now.final)[:, None]
        following = torch.cat((seen[:, 1:], end), dim=1)
        flat = (x.flatten(0, 1) for x in (seen, action, got, following))
        error = self.model.error(StepInContext(past, *flat), mixed="mixed-scales" in self.released)
        return error.view(rows, count)

    def _start(
        self, score: Tensor | None, mine: Tensor, time: Tensor, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Where segments start `[B]`, and whether there is room for one; drawn evenly without a score."""
        room = mine[:, : mine.shape[1] - steps + 1] & (time[:, : mine.shape[1] - steps + 1] >= self.steps)
        if score is None:
            weight = torch.rand(room.shape, generator=generator)
        elif "sampled-prompt" in self.released:  # by exponential races, in proportion to the error to the end
            total = (score * mine).flip(1).cumsum(1).flip(1)[:, : room.shape[1]]
            weight = total / torch.empty_like(total).exponential_(generator=generator)
        else:
            weight = segment_sums(score, steps)
        return torch.where(room, weight, -1.0).argmax(dim=1), room.any(dim=1)


def mean_or(total: Tensor, other: Tensor) -> Tensor:
    """`[..., Z]` the mean of what `total` `[..., Z + 1]` sums up, its last column being the count; or `other`."""
    count = total[..., -1:]
    return torch.where(count > 0, total[..., :-1] / count.clamp_min(1), other)


class SiblingPrompts:
    """Prompts while learning: for each window, a segment of another episode of its task.

    Args:
        episodes: What windows and prompts are cut from.
        model: See `Surprise`, as for what follows.
        settings: Of the world model.
        prompt: How segments are chosen.
        released: Ways of the released code to restore.
        seed: Of the run.
        error: `[N]` a model's error at every row, where it is known already.
    """

    def __init__(
        self,
        episodes: Episodes,
        model: WorldModel | None,
        settings: WorldModelSettings,
        prompt: SegmentSettings,
        released: Collection[str] = (),
        *,
        seed: int,
        error: Tensor | None = None,
    ):
        self.episodes, self.prompt, self.siblings = episodes, prompt, Siblings(episodes)
        longest = int(episodes.length.max())
        time = torch.arange(longest - prompt.length + 1)
        last = episodes.length[:, None] - prompt.length
        if int(last.min()) < 0:
            raise ValueError(
                f"a prompt of {prompt.length} steps does not fit an episode of {int(episodes.length.min())}"
            )
        self.room = (time >= settings.history) & (time <= last) | (time == last) & (last < settings.history)  # [E, S]
        self.start: Tensor | None = None
        if prompt.choice == "error" and model is not None and error is None:
            crossing, mixed = (name in released for name in ("crossing-windows", "mixed-scales"))
            error = errors(model, episodes, crossing=crossing, mixed=mixed)
        if prompt.choice == "error" and error is not None:
            rows = (episodes.first[:, None] + torch.arange(longest)).clamp(max=len(error) - 1)
            score = segment_sums(error[rows], prompt.length)
            if "sampled-prompt" in released:
                score = score / torch.empty_like(score).exponential_(generator=stream(seed, 2))
            self.start = torch.where(self.room, score, -1.0).argmax(dim=1)

    def draw(self, which: Tensor, generator: torch.Generator) -> Prompt:
        """Raw prompts for windows of the episodes `which`."""
        other = self.siblings.draw(which, generator)
        if self.start is not None:
            start = self.start[other]
        else:
            room = self.room[other]
            start = torch.where(room, torch.rand(room.shape, generator=generator), -1.0).argmax(dim=1)
        return prompt_of(self.episodes, other, start, self.prompt.length)
