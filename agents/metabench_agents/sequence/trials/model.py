"""A world model whose z is read from the whole trial, so that it tells the task whatever the behaviour.

Meta-DT's own world model (`world_model.py`) makes z of the last four steps and learns by foretelling the episode it is
in. Where the data's policies know the task, the way they walk tells it as well as the rewards do; z then tells little
once somebody else walks. Here, with reasons:

- A recurrence reads every step of the trial, and is not forgotten where an episode ends: what an earlier step has told
  stays known when later ones tell nothing.
- Steps come in units of their own deviations, and with the *change* of the observation and of the reward: in the
  environment's units a reward that moves by hundredths is lost beside an action.
- z before each step foretells that step's reward (or change of the observation), and that of a step of *another*
  episode of the task, played by any of the data's policies: how its own policy walks is of no use there.

Each is measured in `trials/telling.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.parts.device import Device
from metabench_agents.parts.fast.gru import gru_sequence
from metabench_agents.parts.fast.precision import products
from metabench_agents.parts.run import stream
from metabench_agents.sequence.episodes import Episodes, Siblings
from metabench_agents.sequence.playing import SequenceTick
from metabench_agents.sequence.prompts import Surprise
from metabench_agents.sequence.world_model import ModelTrainer, WorldModelSettings

_CHUNK = 512  # episodes that are read together
_JUDGED = 512  # held-out episodes that a model is judged by, at most
SMALL = 1e-6


class TrialStep(NamedTuple):
    """Steps in the environment's units, with whatever came right before."""

    observation: Tensor  # [..., O]
    action: Tensor  # [..., A]
    reward: Tensor  # [...]
    next_observation: Tensor  # [..., O]
    last_reward: Tensor  # [...] of the step before; whatever it is at an episode's first
    first: Tensor  # [...] bool: the step is its episode's first


class TrialModel(nn.Module):
    """Whole trials to z; z and a step to its reward and to what it leads to.

    Args:
        observation: Columns O.
        action: Columns A.
        settings: Sizes, with the decoders settled; ValueError if they are not.
    """

    mean: Tensor
    std: Tensor
    change: Tensor
    reward_mean: Tensor
    reward_std: Tensor
    reward_change: Tensor

    def __init__(self, observation: int, action: int, settings: WorldModelSettings):
        super().__init__()
        if settings.decoders == "auto":
            raise ValueError("what a world model foretells is still open; settle it for a family, or name the decoders")
        size, width, decoders = settings.context, settings.width, settings.decoders
        self.size, self.width = size, width
        for name, columns in (("mean", observation), ("std", observation), ("change", observation)):
            self.register_buffer(name, torch.zeros(columns) if name == "mean" else torch.ones(columns))
        for name in ("reward_mean", "reward_std", "reward_change"):
            self.register_buffer(name, torch.zeros(()) if name == "reward_mean" else torch.ones(()))
        self.embed = nn.Linear(2 * observation + action + 3, width)
        self.recurrence = nn.GRU(width, width)
        self.out = nn.Linear(width, size)
        self.reward = self._decoder(2 * observation + action + size, width, 1) if decoders != "state" else None
        self.state = self._decoder(observation + action + size, width, observation) if decoders != "reward" else None

    @staticmethod
    def _decoder(inputs: int, width: int, outputs: int) -> nn.Sequential:
        hidden = (nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        return nn.Sequential(*hidden, nn.Linear(width, outputs))

    def learn_scales(self, episodes: Episodes) -> None:
        """Takes means and deviations of observations, rewards and their changes from the training episodes."""
        rows, first = episodes.rows()
        self.mean, self.std = episodes.scale()
        moved = (episodes.observation[rows + 1] - episodes.observation[rows]).std(dim=0)
        self.change = torch.where(moved > SMALL, moved, 1.0)
        reward, later = episodes.reward[rows], rows[rows > first]
        self.reward_mean, self.reward_std = reward.mean(), reward.std().clamp_min(SMALL)
        if len(later) > 1:
            self.reward_change = (episodes.reward[later] - episodes.reward[later - 1]).std().clamp_min(SMALL)

    def features(self, step: TrialStep) -> Tensor:
        """`[..., F]`: everything in units of its deviation; a reward's change is 0 where an episode begins."""
        begins = step.first.float()
        got = (step.reward - self.reward_mean) / self.reward_std
        more = (step.reward - step.last_reward) / self.reward_change * (1.0 - begins)
        moved = (step.next_observation - step.observation) / self.change
        told = torch.stack((got, more, begins), dim=-1)
        return torch.cat(((step.observation - self.mean) / self.std, moved, step.action, told), dim=-1)

    def read(self, step: TrialStep, memory: Tensor) -> Tensor:
        """`[T, B, ...]` steps, read from the memory `[B, W]` on; the memory `[T, B, W]` after each of them."""
        return gru_sequence(self.recurrence, F.relu(self.embed(self.features(step))), memory)

    def foretell(self, z: Tensor, step: TrialStep) -> tuple[Tensor | None, Tensor | None]:
        """The rewards `[...]` and the changes of the observations `[..., O]`, scaled; None for what is not modelled."""
        seen = (step.observation - self.mean) / self.std
        reward = state = None
        if self.reward is not None:
            moved = (step.next_observation - step.observation) / self.change
            reward = self.reward(torch.cat((seen, step.action, moved, z), dim=-1))[..., 0]
        if self.state is not None:
            state = self.state(torch.cat((seen, step.action, z), dim=-1))
        return reward, state

    def misses(self, z: Tensor, step: TrialStep) -> tuple[Tensor | None, Tensor | None]:
        """What was foretold less what came: rewards `[...]` and changes `[..., O]`, scaled."""
        reward, state = self.foretell(z, step)
        if reward is not None:
            reward = reward - (step.reward - self.reward_mean) / self.reward_std
        if state is not None:
            state = state - (step.next_observation - step.observation) / self.change
        return reward, state

    def error(self, z: Tensor, step: TrialStep) -> Tensor:
        """`[...]` |reward foretold - reward| + sum over the columns of |change foretold - change|, scaled."""
        reward, state = self.misses(z, step)
        error = torch.zeros_like(step.reward)
        if reward is not None:
            error = error + reward.abs()
        return error if state is None else error + state.abs().sum(dim=-1)


def steps_of(episodes: Episodes, which: Tensor, time: Tensor) -> TrialStep:
    """Steps `time` (broadcast against `which`) of the episodes `which`."""
    first = episodes.first[which]
    row = first + time
    before = torch.maximum(row - 1, first)
    return TrialStep(
        observation=episodes.observation[row],
        action=episodes.action[row],
        reward=episodes.reward[row],
        next_observation=episodes.observation[row + 1],
        last_reward=episodes.reward[before],
        first=time.expand_as(row) == 0,
    )


def joined(parts: list[TrialStep]) -> TrialStep:
    """Stretches `[T, B, ...]` one after the other."""
    return TrialStep(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def squares(misses: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean squared misses of rewards and of changes (mean over the columns), and each of them."""
    parts = {
        name: miss.square().mean()
        for name, miss in zip(("reward_error", "state_error"), misses, strict=True)
        if miss is not None
    }
    return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}


class Drawn(NamedTuple):
    """What an update learns from: trials of E episodes each, by number."""

    episode: Tensor  # [E, B] int64
    start: Tensor  # [E, B] int64 where a stretch begins
    asked: Tensor  # [F, B] int64 which of the trial's steps have to foretell
    other: Tensor  # [B] int64 another episode of the task
    time: Tensor  # [F, B] int64 which of its steps are foretold


class TrialTrainer(ModelTrainer):
    """Trains a trial model on trials made of episodes of one task.

    A trial is `trial.episodes` episodes of a task, of each a stretch of at most `trial.stretch` steps: half of them
    from the episode's start, half from anywhere. Where an episode is shorter, its last step is read again.

    Args:
        model: Trained in place; its scales are set already.
        learn: Episodes to learn from.
        judge: Episodes to choose the best by.
        settings: Of the world model.
        device: Where it is trained.
    """

    def __init__(
        self,
        model: TrialModel,
        learn: Episodes,
        judge: Episodes,
        settings: WorldModelSettings,
        device: Device | None = None,
    ):
        trial = settings.trial
        rates = {"updates": trial.updates, "learning_rate": trial.learning_rate, "decay": True}
        super().__init__(model, replace(settings.fitting, **rates), device)
        self.trial, self.network, self.learn, self.judge = trial, model, learn, judge
        self.siblings, self.judged = Siblings(learn), Siblings(judge)
        columns = ("observation", "action", "reward", "first", "length")
        self.there = replace(learn, **{name: self.device.put(getattr(learn, name)) for name in columns})
        self.stretch = min(trial.stretch, int(learn.length.max()))
        self.mean_losses = self.device.compiled(trial_losses)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """See `Drawn`."""
        which = torch.randint(len(self.learn), (self.trial.trials,), generator=generator)
        return tuple(self._drawn(self.learn, self.siblings, which, generator))

    def _drawn(self, episodes: Episodes, siblings: Siblings, which: Tensor, generator: torch.Generator) -> Drawn:
        chosen, starts, count = [], [], len(which)
        for number in range(self.trial.episodes):
            chosen.append(which if number == 0 else siblings.draw(which, generator))
            spare = (episodes.length[chosen[-1]] - self.stretch).clamp(min=0) + 1
            start = (torch.rand(count, generator=generator) * spare).long()
            starts.append(torch.where(torch.rand(count, generator=generator) < 0.5, 0, start))
        shape = (self.trial.asked, count)
        asked = torch.randint(self.stretch * self.trial.episodes, shape, generator=generator)
        other = siblings.draw(which, generator)
        time = (torch.rand(shape, generator=generator) * episodes.length[other]).long()
        return Drawn(torch.stack(chosen), torch.stack(starts), asked, other, time)

    def loss(self, *drawn: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared misses on the trials' own next steps, and on steps of one more episode of each task."""
        own, other, metrics = self.mean_losses(self.model, self.there, Drawn(*drawn), self.stretch)
        metrics |= {"sibling_error": other.detach()}
        return own + other if self.trial.siblings else own, metrics

    @torch.inference_mode()
    def held_out(self) -> float:
        """The misses on other episodes' steps (the trials' own without `siblings`), of trials of the held-out episodes.

        The same ones every time.
        """
        generator, count = stream(0), min(len(self.judge), _JUDGED)
        which = torch.randperm(len(self.judge), generator=generator)[:count]
        drawn = self._drawn(self.judge, self.judged, which, generator)
        with products("fp32"):
            own, other, _ = trial_losses(self.network, self.judge, drawn, self.stretch)
            return float(other if self.trial.siblings else own)


def trial_losses(
    model: TrialModel, episodes: Episodes, drawn: Drawn, stretch: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The misses on the trials' own next steps, those on other episodes' steps, and the parts of the former."""
    within = torch.arange(stretch, device=drawn.start.device)[:, None]
    parts = []
    for episode, start in zip(drawn.episode, drawn.start, strict=True):
        time = torch.minimum(start + within, episodes.length[episode] - 1)
        parts.append(steps_of(episodes, episode, time))
    steps = joined(parts)
    nothing = steps.reward.new_zeros(1, len(drawn.other), model.width)
    memory = torch.cat((nothing, model.read(steps, nothing[0])[:-1]))  # before each step
    trial = torch.arange(len(drawn.other), device=drawn.other.device)
    z = model.out(memory[drawn.asked, trial])
    own, metrics = squares(model.misses(z, TrialStep(*(column[drawn.asked, trial] for column in steps))))
    other, _ = squares(model.misses(z, steps_of(episodes, drawn.other, drawn.time)))
    return own, other, metrics


@torch.inference_mode()
def read_episodes(model: TrialModel, episodes: Episodes, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Z `[N, Z]` at every row from the steps before it, and the memory `[E, W]` after every episode.

    The row behind an episode's last step has the z after it.

    Args:
        model: The model.
        episodes: What is read.
        memory: `[E, W]` what each episode begins with; nothing by default.
    """
    z, last = torch.zeros(len(episodes.reward), model.size), torch.zeros(len(episodes), model.width)
    for which in torch.arange(len(episodes)).split(_CHUNK):
        begin = torch.zeros(len(which), model.width) if memory is None else memory[which]
        length = episodes.length[which]
        time = torch.arange(int(length.max()))[:, None]
        steps = steps_of(episodes, which, torch.minimum(time, length - 1))
        after = torch.cat((begin[None], model.read(steps, begin)))
        last[which] = after[length, torch.arange(len(which))]
        inside = torch.arange(len(after))[:, None] <= length
        rows = episodes.first[which] + torch.arange(len(after))[:, None]
        z[rows[inside]] = model.out(after[inside])
    return z, last


@torch.inference_mode()
def trial_errors(model: TrialModel, episodes: Episodes, z: Tensor) -> Tensor:
    """The model's error `[N]` at every row of the episodes; zeros for the rows behind their ends."""
    error = torch.zeros(len(episodes.reward))
    for which in torch.arange(len(episodes)).split(_CHUNK):
        length = episodes.length[which]
        time = torch.arange(int(length.max()))[:, None]
        inside = time < length
        rows = (episodes.first[which] + time)[inside]
        steps = steps_of(episodes, which, torch.minimum(time, length - 1))
        error[rows] = model.error(z[rows], TrialStep(*(column[inside] for column in steps)))
    return error


@torch.inference_mode()
def sibling_errors(model: TrialModel, episodes: Episodes, z: Tensor) -> Tensor:
    """How badly z `[N, Z]` before each row foretells a step of another episode of its task: squared, `[N]`.

    Zeros for the rows behind the episodes' ends.
    """
    generator, error = stream(0), torch.zeros(len(episodes.reward))
    rows, _ = episodes.rows()
    owner = torch.repeat_interleave(torch.arange(len(episodes)), episodes.length)
    asked = Siblings(episodes).draw(owner, generator)
    time = (torch.rand(len(asked), generator=generator) * episodes.length[asked]).long()
    for pick in torch.arange(len(rows)).split(_CHUNK * 128):
        reward, state = model.misses(z[rows[pick]], steps_of(episodes, asked[pick], time[pick]))
        if reward is not None:
            error[rows[pick]] += reward.square()
        if state is not None:
            error[rows[pick]] += state.square().mean(dim=-1)
    return error


class TrialSurprise(Surprise):
    """The trial model at play: its z is kept through the trial; see `Surprise`."""

    trial_model: TrialModel

    @classmethod
    def of(cls, model: TrialModel, *arguments: object) -> TrialSurprise:
        """With the further arguments of `Surprise`."""
        surprise = cls(None, *arguments)  # pyright: ignore[reportArgumentType]
        surprise.trial_model = model
        return surprise

    def recall(self, ticks: tuple[SequenceTick, ...], now: SequenceTick) -> SequenceTick:
        """The tick with z, and with the memory that z is read from."""
        model = self.trial_model
        if not ticks:
            memory = torch.zeros(len(now.first), model.width)
        else:
            last = ticks[-1]
            memory = model.read(TrialStep(*(x[None] for x in self._step(last, now))), last.memory)[0]
            if self.blind:  # how an episode ended is not told
                memory = torch.where(now.first[:, None], last.memory, memory)
            if self.lasts == "episode":
                memory = torch.where(now.first[:, None], 0.0, memory)
        return now._replace(context=model.out(memory), memory=memory)

    @staticmethod
    def _step(tick: SequenceTick, now: SequenceTick) -> TrialStep:
        """The step between two ticks."""
        end = torch.where(now.first[:, None], now.final, now.observation)
        return TrialStep(tick.observation, tick.action, now.reward, end, tick.reward, tick.first)

    @property
    def foretells(self) -> bool:
        """Whether segments can be chosen by their error."""
        return True

    def errors(self, ticks: tuple[SequenceTick, ...], now: SequenceTick) -> Tensor:
        """The model's error `[B, S]` at every step of an episode that has ended; under `slots-1` the last is no use."""
        pairs = zip(ticks, (*ticks[1:], now), strict=True)
        columns = [self.trial_model.error(tick.context, self._step(tick, after)) for tick, after in pairs]
        return torch.stack(columns, dim=1)
