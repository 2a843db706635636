"""Meta-DT: a decision transformer told the task by a world model's z, and prompted by what surprised that model.

Source: Wang et al. 2024, "Meta-DT: Offline Meta-RL as Conditional Sequence Modeling with World Model Disentanglement"
(arXiv 2410.11448), and the code it was released with (NJU-RL/Meta-DT, d568100).

1. A world model (`world_model.py`) learns from the training tasks' data: the last h = 4 steps give z, and z with the
   step foretells the reward, the next state, or both, whichever varies between the family's tasks.
2. A decision transformer (`decision.py`) sees the last K steps as (return to go, (s, z), a) and clones the actions.
3. Prompt, in few-shot play: the segment of L steps of the agent's own earlier episodes of the trial which the world
   model foretells worst. It stands in front of the window. The first episode of a trial has none, and is the
   zero-shot one; so one agent gives both, and k context episodes are a trial of k + 1 episodes. While learning, the
   prompt is the worst foretold segment of another episode of the window's task; half of the updates are made without
   one.
4. A trial begins with a few drawn actions, which tell the task (`decision.py` says why); `explore=0` leaves them out.
5. The return to ask for is learned from the *training* tasks' data: at every step an expectile of what good episodes
   still bring from here, given z (`decision.Aspiration`). No data of test tasks is read. `target="mean"` and `"best"`
   ask for one return instead, the mean or the highest of the training tasks' best ones, less what has come in.

Deviations, with reasons. Where the released code departs from the paper or is wrong, the paper is followed, and
`released` restores its ways one by one:
- `sampled-prompt`: the segment's start is drawn with probability proportional to its error; while acting the error is
  summed to the episode's end instead of over the segment. The paper says the largest error.
- `mixed-scales`: state errors compare a prediction in the environment's units with a normalised observation.
- `crossing-windows`: the h steps before an episode's first ones are the previous episode's last.
- `late-context`: while acting, z is zero at step 0 and that of an empty history until step 3.
- `test-selection`: the world model is selected by its loss on test-task data. Needs the data set's `test` split.
- `test-targets`: the return asked for is the highest in the task's own data, test tasks included. The agent must then
  be shown the task, and its results are filed under the oracle track.
- `raw-actions`: actions are not scaled to [-1, 1], so that on PointRobot the tanh uses a tenth of its range.
- `raw-observations`: the world model sees and foretells observations in the environment's units.
- `short-windows`: windows start at any step and are cut at the episode's end; while acting such ones never occur.
- `warm-up`: the first fifth of the updates is made without prompts and all later ones with one, instead of half and
  half. The released code then needs one training for zero-shot and another for few-shot play. Two more of its faults
  have no switch: rollouts that keep the gradient's graph (no number depends on it), and heuristics on lengths that
  misbehave only for prompts of K steps or of 11, 21, ... steps. Its few-shot play has no fixed budget of context (the
  best of hundreds of episodes of earlier checkpoints on the test task); ours is the trial. Segments begin at step h
  or later, as released: before, the world model knows too little to be surprised. The last reward of an episode is
  never shown to an agent; in the prompt's returns to go it counts as the one before it. Of several earlier episodes
  the one with the highest return gives the prompt, as in the released code, which draws from the best three. Training
  is shorter than the released one and its learning rate higher (`decision.Settings`).

Ablations: `world_model=False`, `prompt="random"`, `prompt="none"`, `history` h, `prompt_length` L.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench import Timestep
from metabench_agents.parts.run import Checkpoint, Run, load_checkpoint, load_config, pack, stream, unpack
from metabench_agents.sequence.decision_transformer import (
    DecisionTransformer,
    Settings,
    Target,
    Trainer,
    asked,
    restore_transformer,
    return_to_ask,
    settled,
    train_transformer,
)
from metabench_agents.sequence.episodes import (
    Actions,
    Episodes,
    Prompt,
    Siblings,
    Window,
    draw_windows,
    hold_out,
    load_episodes,
    prompt_of,
    segment_sums,
    window_of,
)
from metabench_agents.sequence.fitting import blocks
from metabench_agents.sequence.playing import Choice, SequenceAgent, Tick, lookup
from metabench_agents.sequence.world_model import (
    Decoders,
    Training,
    Transition,
    WorldModel,
    contexts,
    decoders_for,
    errors,
    train_world_model,
)

NAME = "meta-dt"
Released = Literal[
    "sampled-prompt",
    "mixed-scales",
    "crossing-windows",
    "late-context",
    "test-selection",
    "test-targets",
    "raw-actions",
    "raw-observations",
    "short-windows",
    "warm-up",
]
RELEASED_WAYS: tuple[Released, ...] = get_args(Released)


@dataclass(frozen=True)
class Config(Settings):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    target: Target = "learned"  # return to ask for: learned, or the mean or highest of the training tasks' best
    world_model: bool = True  # False: no z, and prompts cut at random (ablation)
    decoders: Decoders | Literal["auto"] = "auto"  # what is foretold; auto: what varies between the family's tasks
    history: int = 4  # steps h that z is made of
    context: int = 16  # size of z
    world_width: int = 128  # of the world model's recurrence and layers
    world_updates: int = 20_000  # of the world model; released: 200,000 to 4 million
    world_batch: int = 128  # steps of an update
    world_learning_rate: float = 2e-3  # Adam's highest; released: 1e-3
    world_decay: bool = True  # whether it falls linearly to zero; released: no
    prompt: Literal["error", "random", "none"] = "error"  # how the segment is chosen
    prompt_length: int = 0  # steps L of a prompt; 0: as released, 3 on the Param families and 5 elsewhere
    prompted: float = 0.5  # share of the updates that are made with a prompt
    released: tuple[Released, ...] = ()  # ways of the released code to restore, see above

    def __post_init__(self) -> None:
        for name in self.released:
            if name not in RELEASED_WAYS:
                raise ValueError(f"unknown way {name!r} of the released code; available: {', '.join(RELEASED_WAYS)}")
        if not 0.0 <= self.prompted <= 1.0:
            raise ValueError(f"prompted is a share of the updates and must lie in [0, 1], got {self.prompted}")


class Surprise:
    """The world model at play: z of the trial so far, and the segments it foretold worst."""

    def __init__(self, model: WorldModel | None, config: Config):
        self.model, self.config = model, config
        self.steps = config.history

    def recall(self, ticks: tuple[Tick, ...], now: Tick) -> Tensor:
        """Z `[B, Z]` from the last h steps of the episode; steps before its start are zeros."""
        assert self.model is not None
        past = torch.zeros(self.steps, len(now.first), sum(self.model.encoder.split))
        following = now
        for back in range(1, min(self.steps, len(ticks)) + 1):
            tick = ticks[-back]
            known = now.time >= (self.steps if "late-context" in self.config.released else back)
            row = torch.cat((self.model.scaled(tick.observation), tick.action, following.reward[:, None]), dim=1)
            past[self.steps - back] = row * known[:, None]
            following = tick
        z = self.model.encoder(past)
        return z * (now.time > 0)[:, None] if "late-context" in self.config.released else z

    def choose(self, ticks: tuple[Tick, ...], step: Timestep) -> Choice:
        """The segment of each episode that has just ended, and its return; for rows whose episode has not, nonsense.

        The last step is left out: its reward and what it led to are never shown.
        """
        length, steps = ticks[-1].time + 1, self.config.prompt_length
        ticks = ticks[-int(length.max()) :]
        observation, action, reward, time = (
            torch.stack([getattr(t, name) for t in ticks], 1) for name in ("observation", "action", "reward", "time")
        )
        mine = torch.arange(len(ticks)) >= len(ticks) - length[:, None]  # [B, S] steps of the episode
        got = torch.cat((reward[:, 1:], reward[:, -1:]), dim=1) * mine  # [B, S]
        togo = got.flip(1).cumsum(1).flip(1)
        if len(ticks) <= steps:
            nothing = torch.zeros(len(length), steps)
            empty = Prompt(
                nothing[..., None] * observation[:, :1], nothing[..., None] * action[:, :1], nothing, nothing.long()
            )
            return Choice(empty, nothing[:, 0] > 0, nothing[:, 0])
        score = self._error(observation, action, got)[:, :-1] if self.config.prompt == "error" and self.model else None
        start, possible = self._start(score, mine[:, :-1], time[:, :-1], steps, stream(len(ticks), int(length.sum())))
        rows = start[:, None] + torch.arange(steps)
        pick = torch.arange(len(rows))[:, None]
        prompt = Prompt(observation[pick, rows], action[pick, rows], togo[pick, rows], time[pick, rows])
        return Choice(prompt, possible, togo[torch.arange(len(rows)), len(ticks) - length])

    def _error(self, observation: Tensor, action: Tensor, got: Tensor) -> Tensor:
        """The model's error `[B, S]` at every step; the last one's next observation is unknown and its value no use."""
        assert self.model is not None
        seen, (rows, count) = self.model.scaled(observation), got.shape
        table = torch.cat((seen, action, got[..., None]), dim=-1)
        padded = torch.cat((torch.zeros(rows, self.steps, table.shape[-1]), table), dim=1)
        past = padded.unfold(1, self.steps, 1)[:, :count].permute(3, 0, 1, 2).flatten(1, 2)
        following = torch.cat((seen[:, 1:], seen[:, -1:]), dim=1)
        flat = (x.flatten(0, 1) for x in (seen, action, got, following))
        error = self.model.error(Transition(past, *flat), mixed="mixed-scales" in self.config.released)
        return error.view(rows, count)

    def _start(
        self, score: Tensor | None, mine: Tensor, time: Tensor, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Where segments start `[B]`, and whether there is room for one; drawn evenly without a score."""
        room = mine[:, : mine.shape[1] - steps + 1] & (time[:, : mine.shape[1] - steps + 1] >= self.steps)
        if score is None:
            weight = torch.rand(room.shape, generator=generator)
        elif "sampled-prompt" in self.config.released:  # by exponential races, in proportion to the error to the end
            total = (score * mine).flip(1).cumsum(1).flip(1)[:, : room.shape[1]]
            weight = total / torch.empty_like(total).exponential_(generator=generator)
        else:
            weight = segment_sums(score, steps)
        return torch.where(room, weight, -1.0).argmax(dim=1), room.any(dim=1)


class Prompter:
    """Prompts while learning: for each window, a segment of another episode of its task."""

    def __init__(self, episodes: Episodes, model: WorldModel | None, config: Config, seed: int):
        self.episodes, self.config, self.siblings = episodes, config, Siblings(episodes)
        longest = int(episodes.length.max())
        time = torch.arange(longest - config.prompt_length + 1)
        last = episodes.length[:, None] - config.prompt_length
        if int(last.min()) < 0:
            raise ValueError(
                f"a prompt of {config.prompt_length} steps does not fit an episode of {int(episodes.length.min())}"
            )
        self.room = (time >= config.history) & (time <= last) | (time == last) & (last < config.history)  # [E, S]
        self.start: Tensor | None = None
        if config.prompt == "error" and model is not None:
            crossing, mixed = (name in config.released for name in ("crossing-windows", "mixed-scales"))
            error = errors(model, episodes, crossing=crossing, mixed=mixed)
            rows = (episodes.first[:, None] + torch.arange(longest)).clamp(max=len(error) - 1)
            score = segment_sums(error[rows], config.prompt_length)
            if "sampled-prompt" in config.released:
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
        return prompt_of(self.episodes, other, start, self.config.prompt_length)


def _with_prompt(config: Config, number: int, generator: torch.Generator) -> bool:
    if config.prompt == "none":
        return False
    if "warm-up" in config.released:
        return number >= config.updates // 5
    return bool(torch.rand((), generator=generator) < config.prompted)


def _models(benchmark: str, config: Config) -> tuple[Actions, WorldModel | None, DecisionTransformer]:
    """Untrained."""
    chosen = metabench.spec(benchmark)
    family = chosen.family()
    codec = Actions(family.action_space, raw="raw-actions" in config.released)
    columns, model = len(family.observation_fields), None
    if config.world_model:
        decoders = decoders_for(type(family).__name__) if config.decoders == "auto" else config.decoders
        model = WorldModel(
            columns, codec.size, decoders, steps=config.history, size=config.context, width=config.world_width
        )
    size = config.context if config.world_model else 0
    return codec, model, DecisionTransformer(columns, codec.size, chosen.horizon, size, config)


def _fit_world_model(
    model: WorldModel, episodes: Episodes, benchmark: str, config: Config, seed: int, run: Run, saved: Checkpoint | None
) -> None:
    """Trains and selects on training tasks, unless the released ways are asked for."""
    if "raw-observations" not in config.released:
        model.mean, model.std = episodes.scale()
    learn, held = hold_out(episodes)
    if not len(held):
        held = learn
    select = episodes.take(held)
    if "test-selection" in config.released:
        learn = torch.arange(len(episodes))
        codec = _models(benchmark, config)[0]
        select = load_episodes(benchmark, config.data, _tested(config.split), codec)
    settings = Training(config.world_updates, config.world_batch, config.world_learning_rate, config.world_decay)
    crossing = "crossing-windows" in config.released
    train_world_model(
        model, episodes.take(learn), select, settings, seed=seed, run=run, checkpoint=saved, crossing=crossing
    )


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> SequenceAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    config = settled(config, benchmark)
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, model, network = _models(benchmark, config)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    before, context = 0, torch.zeros(len(episodes.reward), 0)
    if model is not None:
        before = blocks(config.world_updates)
        _fit_world_model(model, episodes, benchmark, config, seed, run, saved)
        context = contexts(model, episodes, crossing="crossing-windows" in config.released)
    network.learn_scales(episodes, context)
    extra = {"target": return_to_ask(episodes, config.target)} | _task_targets(benchmark, config, codec)
    prompter = None if config.prompt == "none" else Prompter(episodes, model, config, seed)
    short = "short-windows" in config.released

    def draw(number: int, generator: torch.Generator) -> tuple[Window, Prompt | None]:
        which, start = draw_windows(episodes, config.batch, config.window, generator, short=short)
        window = window_of(episodes, which, start, config.window, context)
        if prompter is None or not _with_prompt(config, number, generator):
            return window, None
        return window, prompter.draw(which, generator)

    world = {} if model is None else pack({"world": model}, {}) | {"best": torch.zeros(())}
    train_transformer(Trainer(network), draw, seed=seed, run=run, saved=saved, before=before, keep=world | extra)
    return _agent(codec, model, network, config, extra)


def _tested(split: str) -> str:
    """What a split to learn from is tested on: `test` for `train`, `meta_dt_test` for `meta_dt_train`."""
    return split.replace("train", "test")


def _task_targets(benchmark: str, config: Config, codec: Actions) -> dict[str, Tensor]:
    """For `test-targets`: the tasks of train and test, and the highest return in each one's data."""
    if "test-targets" not in config.released:
        return {}
    table, tasks, targets = metabench.spec(benchmark).table(), [], []
    for split in (config.split, _tested(config.split)):
        episodes = load_episodes(benchmark, config.data, split, codec)
        tasks.append(torch.as_tensor(table.rows[split][torch.unique(episodes.task).numpy()]))
        targets.append(episodes.best())
    return {"tasks": torch.cat(tasks), "targets": torch.cat(targets)}


def _agent(
    codec: Actions,
    model: WorldModel | None,
    network: DecisionTransformer,
    config: Config,
    extra: Mapping[str, Tensor],
) -> SequenceAgent:
    surprise = Surprise(None if model is None else model.eval(), config)
    target: float | Callable[[Tensor], Tensor] | None = asked(extra["target"])
    if "targets" in extra:
        find, targets = lookup(extra["tasks"].numpy()), extra["targets"]
        target = lambda task: targets[find(task)]  # noqa: E731
    return SequenceAgent(
        network,
        codec,
        NAME,
        target,
        recall=None if model is None else surprise.recall,
        choose=None if config.prompt == "none" else surprise.choose,
    )


def load(path: Path) -> SequenceAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    config = Config(**settings["config"] | {"released": tuple(settings["config"]["released"])})
    codec, model, network = _models(settings["benchmark"], config)
    restore_transformer(saved, network)
    if model is not None:
        unpack(saved.tensors, {"world": model}, {})
    return _agent(codec, model, network, config, saved.tensors)
