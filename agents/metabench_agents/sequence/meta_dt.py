"""Meta-DT: a decision transformer told the task by a world model's z, and prompted by what surprised that model.

Source: Wang et al. 2024, "Meta-DT: Offline Meta-RL as Conditional Sequence Modeling with World Model Disentanglement"
(arXiv 2410.11448), and the code it was released with (NJU-RL/Meta-DT, d568100).

1. A world model (`world_model.py`) learns from the training tasks' data: the last h = 4 steps give z, and z with the
   step foretells the reward, the next state, or both, whichever varies between the family's tasks.
2. A decision transformer (`decision_transformer.py`) sees the last K steps as (return to go, (s, z), a) and clones
   the actions.
3. Prompt, in few-shot play: the segment of L steps of the agent's own earlier episodes of the trial which the world
   model foretells worst. It stands in front of the window. The first episode of a trial has none, and is the
   zero-shot one; so one agent gives both, and k context episodes are a trial of k + 1 episodes. While learning, the
   prompt is the worst foretold segment of another episode of the window's task; half of the updates are made without
   one.
4. A trial begins with a few drawn actions, which tell the task (`decision_transformer.py` says why);
   `playing.explore=0` leaves them out.
5. What to ask for is learned from the *training* tasks' data (`targets.py`): an expectile of what good episodes still
   bring from here, given z, less the rewards received since. No data of test tasks is read. `target.kind` `"return"`
   asks for one return of the training tasks, `"rank"` for the best rank within a task's own data.

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
  or later, as released: before, the world model knows too little to be surprised. Of several earlier episodes
  the one with the highest return gives the prompt, as in the released code, which draws from the best three. Training
  is shorter than the released one and its learning rate higher (`TransformerFitting`).

Ablations: `world_model.used=False`, `prompt.choice="random"` or `"none"`, `world_model.history` h, `prompt.length` L.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.run import Checkpoint, Run, load_checkpoint, load_config, pack, unpack
from metabench_agents.sequence.decision_transformer import (
    FITTING_RENAMED,
    DecisionTransformer,
    DecisionTransformerSettings,
    TransformerFitting,
    TransformerTrainer,
    restore_transformer,
    train_transformer,
)
from metabench_agents.sequence.episodes import (
    Actions,
    Episodes,
    Prompt,
    Window,
    draw_windows,
    hold_out,
    load_episodes,
    window_of,
)
from metabench_agents.sequence.fitting import blocks
from metabench_agents.sequence.playing import PlayingSettings, SequenceAgent, lookup
from metabench_agents.sequence.prompts import SegmentSettings, SiblingPrompts, Surprise
from metabench_agents.sequence.targets import Asking, TargetSettings, flat_target, return_to_ask
from metabench_agents.sequence.world_model import (
    WorldModel,
    WorldModelSettings,
    contexts,
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
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    target: TargetSettings = field(default_factory=TargetSettings)  # what it asks for
    transformer: DecisionTransformerSettings = field(default_factory=DecisionTransformerSettings)  # its sizes
    fitting: TransformerFitting = field(default_factory=TransformerFitting)  # the transformer's training
    world_model: WorldModelSettings = field(default_factory=WorldModelSettings)  # what gives z
    prompt: SegmentSettings = field(default_factory=SegmentSettings)  # how prompts are cut
    playing: PlayingSettings = field(default_factory=PlayingSettings)  # how it acts
    released: tuple[Released, ...] = ()  # ways of the released code to restore, see above

    def __post_init__(self) -> None:
        for name in self.released:
            if name not in RELEASED_WAYS:
                raise ValueError(f"unknown way {name!r} of the released code; available: {', '.join(RELEASED_WAYS)}")
        if self.target.kind == "rank" and "test-targets" in self.released:
            raise ValueError("test-targets are returns, and the target.kind is a rank: choose one of the two")

    def settled(self, benchmark: str) -> Config:
        """The same with the released sizes for a family where they are left open."""
        return replace(self, transformer=self.transformer.settled(benchmark), prompt=self.prompt.settled(benchmark))


RENAMED = FITTING_RENAMED | {  # settings as they were called before they were grouped
    "width": "transformer.width",
    "updates": "fitting.updates",
    "batch": "fitting.batch",
    "learning_rate": "fitting.learning_rate",
    "decay": "fitting.decay",
    "world_model": "world_model.used",
    "world_width": "world_model.width",
    "world_updates": "world_model.fitting.updates",
    "world_batch": "world_model.fitting.batch",
    "world_learning_rate": "world_model.fitting.learning_rate",
    "world_decay": "world_model.fitting.decay",
    "prompt": "prompt.choice",
    "prompt_length": "prompt.length",
    "prompted": "prompt.share",
}


def _with_prompt(config: Config, number: int, generator: torch.Generator) -> bool:
    if config.prompt.choice == "none":
        return False
    if "warm-up" in config.released:
        return number >= config.fitting.updates // 5
    return bool(torch.rand((), generator=generator) < config.prompt.share)


def _models(benchmark: str, config: Config) -> tuple[Actions, WorldModel | None, DecisionTransformer]:
    """Untrained."""
    chosen = metabench.spec(benchmark)
    family = chosen.family()
    codec = Actions(family.action_space, raw="raw-actions" in config.released)
    columns, model = len(family.observation_fields), None
    if config.world_model.used:
        model = WorldModel(columns, codec.size, config.world_model.settled(type(family).__name__))
    size = 0 if model is None else model.size
    return codec, model, DecisionTransformer(columns, codec.size, chosen.horizon, size, config.transformer)


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
    crossing = "crossing-windows" in config.released
    train_world_model(
        model,
        episodes.take(learn),
        select,
        config.world_model.fitting,
        seed=seed,
        run=run,
        checkpoint=saved,
        crossing=crossing,
        device=Device.of(config),
    )


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> SequenceAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    config = config.settled(benchmark)
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, model, network = _models(benchmark, config)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    before, context = 0, torch.zeros(len(episodes.reward), 0)
    if model is not None:
        before = blocks(config.world_model.fitting.updates)
        _fit_world_model(model, episodes, benchmark, config, seed, run, saved)
        context = contexts(model, episodes, crossing="crossing-windows" in config.released)
    network.learn_scales(episodes, context)
    extra = {"target": return_to_ask(episodes, config.target)} | _task_targets(benchmark, config, codec)
    ways = (config.world_model, config.prompt, config.released)
    prompts = None if config.prompt.choice == "none" else SiblingPrompts(episodes, model, *ways, seed=seed)
    window, short = config.transformer.window, "short-windows" in config.released

    def draw(number: int, generator: torch.Generator) -> tuple[Window, Prompt | None]:
        which, start = draw_windows(episodes, config.fitting.batch, window, generator, short=short)
        seen = window_of(episodes, which, start, window, context)
        if prompts is None or not _with_prompt(config, number, generator):
            return seen, None
        return seen, prompts.draw(which, generator)

    world = {} if model is None else pack({"world": model}, {}) | {"best": torch.zeros(())}
    trainer = TransformerTrainer(network, config.fitting, Device.of(config), ranked=config.target.kind == "rank")
    train_transformer(trainer, draw, seed=seed, run=run, saved=saved, before=before, keep=world | extra)
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
    protocol: str = PROTOCOL_VERSION,
) -> SequenceAgent:
    model = None if model is None else model.eval()
    surprise = Surprise(model, config.world_model, config.prompt, config.released, protocol)
    target: Tensor | Callable[[Tensor], Tensor] = extra["target"]
    if "targets" in extra:
        find, targets = lookup(extra["tasks"].numpy()), extra["targets"]
        target = lambda task: targets[find(task)]  # noqa: E731
    return SequenceAgent(
        network,
        codec,
        NAME,
        Asking(network, config.target, target, config.playing.explore),
        config.playing,
        protocol=protocol,
        recall=None if model is None else surprise.recall,
        choose=None if config.prompt.choice == "none" else surprise.choose,
    )


def load(path: Path) -> SequenceAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    config = read_config(Config, flat_target(settings["config"]), RENAMED)
    codec, model, network = _models(settings["benchmark"], config)
    restore_transformer(saved, network)
    if model is not None:
        unpack(saved.tensors, {"world": model}, {})
    return _agent(codec, model, network, config, saved.tensors, settings["protocol"])
