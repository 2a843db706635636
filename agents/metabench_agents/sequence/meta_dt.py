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
4. A trial begins with drawn actions where the data say that the cloned mean stands still (`trials.telling.drawn_steps`;
   `decision_transformer.py` says why); `playing.explore` fixes their number, 0 leaves them out.
5. What to ask for is learned from the *training* tasks' data (`targets.py`): an expectile of what good episodes still
   bring from here, given z, less the rewards received since. No data of test tasks is read. `target.kind` `"return"`
   asks for one return of the training tasks, `"rank"` for the best rank within a task's own data.

z that does not tell of the behaviour. The paper's z is made of the last h steps (`world_model.sees=window`, the
default). Where the data's policies know the task, that z tells how they walk: on PointRobot 94 % of the goal's variance
at step 4 under the expert, 9 % under uniform actions. Two deviations let it last:
- `world_model.sees=trial`: a recurrence over all of the trial, episodes included, that has to foretell other episodes
  of the task (`trials/model.py` gives the reasons). Prompts are cut by its errors.
- `world_model.average`: the running mean of the window's z: less noise where every step tells the task. Over the trial,
  or, with `world_model.lasts=episode`, over the episode: the window's z still tells of the behaviour, and a mean over
  all of the agent's own steps takes more of that in the longer a trial lasts (on CheetahVel's training tasks, five
  runs: -90, -110, -121 by episode; forgotten between episodes -90, -78, -85).
- `world_model.relabelled`: copies of the data with the rewards of other training tasks (BOReL's relabelling), in which
  the way one walks tells nothing. It needs the true reward as a function of what is seen; off by default. Without it,
  data whose policies never walk astray (experts, RL^2) show where they walk, not what the rewards say.
What z tells is measured in every training (`trials.telling.invariance`), and logged by behaviour and step.

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

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.run import Checkpoint, Run, blocks, load_checkpoint, load_config, pack, stream, unpack
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
    Siblings,
    Window,
    draw_windows,
    hold_out,
    load_episodes,
    rows_of_windows,
    window_of,
)
from metabench_agents.sequence.playing import PlayingSettings, SequenceAgent, lookup
from metabench_agents.sequence.prompts import SegmentSettings, SiblingPrompts, Surprise, mean_or
from metabench_agents.sequence.targets import Asking, TargetSettings, flat_target, return_to_ask
from metabench_agents.sequence.trials.model import (
    TrialModel,
    TrialSurprise,
    TrialTrainer,
    read_episodes,
    sibling_errors,
    trial_errors,
)
from metabench_agents.sequence.trials.relabelling import in_all_copies, relabelled
from metabench_agents.sequence.trials.telling import drawn_steps, invariance
from metabench_agents.sequence.world_model import (
    EpisodeSteps,
    ModelTrainer,
    WorldModel,
    WorldModelSettings,
    WorldModelTrainer,
    contexts,
    train_model,
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
OF_WINDOWS = (
    "mixed-scales",
    "crossing-windows",
    "late-context",
    "raw-observations",
)  # ways of the window's world model


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
        if self.world_model.sees == "trial":
            if self.world_model.average:
                raise ValueError("world_model.average is of the window's z, and this world model sees the trial")
            for name in set(OF_WINDOWS) & set(self.released):
                raise ValueError(f"the released way {name!r} is of a world model of windows, not of trials")
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
World = WorldModel | TrialModel


def earlier(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON says them, with what went without saying when they were written."""
    world = values.get("world_model")
    if isinstance(world, Mapping):
        return flat_target(values if "sees" in world else {**values, "world_model": {**world, "sees": "window"}})
    return flat_target({"sees": "window", **values})


def _with_prompt(config: Config, number: int, generator: torch.Generator) -> bool:
    if config.prompt.choice == "none":
        return False
    if "warm-up" in config.released:
        return number >= config.fitting.updates // 5
    return bool(torch.rand((), generator=generator) < config.prompt.share)


def _codec(benchmark: str, config: Config) -> Actions:
    return Actions(metabench.spec(benchmark).family().action_space, raw="raw-actions" in config.released)


def _models(benchmark: str, config: Config) -> tuple[Actions, World | None, DecisionTransformer]:
    """Untrained."""
    chosen = metabench.spec(benchmark)
    family, codec = chosen.family(), _codec(benchmark, config)
    columns, model = len(family.observation_fields), None
    if config.world_model.used:
        kind = TrialModel if config.world_model.sees == "trial" else WorldModel
        model = kind(columns, codec.size, config.world_model.settled(type(family).__name__))
    size = 0 if model is None else model.size
    return codec, model, DecisionTransformer(columns, codec.size, chosen.horizon, size, config.transformer)


def _fit_world_model(
    model: World, episodes: Episodes, benchmark: str, config: Config, seed: int, run: Run, saved: Checkpoint | None
) -> None:
    """Trains and selects on training tasks, unless the released ways are asked for."""
    learn, held = hold_out(episodes)
    if not len(held):
        held = learn
    if copies := config.world_model.relabelled:
        learn, held = (in_all_copies(numbers, len(episodes), copies) for numbers in (learn, held))
        codec = _codec(benchmark, config)
        episodes = relabelled(episodes, benchmark, config.split, codec, copies, stream(seed, 4))
    select = episodes.take(held)
    if "test-selection" in config.released:
        learn = torch.arange(len(episodes))
        select = load_episodes(benchmark, config.data, _tested(config.split), _codec(benchmark, config))
    if isinstance(model, TrialModel):
        model.learn_scales(episodes)
        trainer: ModelTrainer = TrialTrainer(model, episodes.take(learn), select, config.world_model, Device.of(config))
    else:
        if "raw-observations" not in config.released:
            model.mean, model.std = episodes.scale()
        crossing = "crossing-windows" in config.released
        own, judge = (EpisodeSteps(part, model, crossing=crossing) for part in (episodes.take(learn), select))
        trainer = WorldModelTrainer(model, own, judge, config.world_model.fitting, Device.of(config))
    train_model(trainer, seed=seed, run=run, checkpoint=saved)


class Beliefs:
    """Z at every row of the data, as if nothing, one or two other episodes of the task had been seen before.

    Args:
        model: The world model; None where there is none, and z has no columns.
        episodes: The data.
        config: Of the run.
        seed: Of the run: which other episodes those are.
    """

    def __init__(self, model: World | None, episodes: Episodes, config: Config, seed: int):
        self.episodes, settings = episodes, config.world_model
        lasts = model is not None and (settings.sees == "trial" or settings.average)
        self.carried = settings.carried if lasts and settings.lasts == "trial" else 0.0
        before = [Siblings(episodes).draw(torch.arange(len(episodes)), stream(seed, 3, k)) for k in range(2)]
        if model is None:
            self.tables = [torch.zeros(len(episodes.reward), 0)]
        elif isinstance(model, TrialModel):
            z, memory = read_episodes(model, episodes)
            self.tables = [z]
            for other in before if self.carried else ():
                z, memory = read_episodes(model, episodes, memory[other])
                self.tables.append(z)
        else:
            z = contexts(model, episodes, crossing="crossing-windows" in config.released)
            self.tables = running_means(z, episodes, before if self.carried else ()) if settings.average else [z]

    @property
    def alone(self) -> Tensor:
        """`[N, Z]` where the episode is the trial's first."""
        return self.tables[0]

    def draw(self, window: Window, which: Tensor, start: Tensor, generator: torch.Generator) -> Window:
        """The window of these episodes with other episodes before it, now and then."""
        if len(self.tables) == 1:
            return window
        count = len(which)
        some = torch.rand(count, generator=generator) < self.carried
        number = torch.randint(1, len(self.tables), (count,), generator=generator) * some
        rows = rows_of_windows(self.episodes, which, start, window.time.shape[1])
        context = window.context.clone()
        for k in range(1, len(self.tables)):
            context[number == k] = self.tables[k][rows[number == k]]
        return window._replace(context=context)


def running_means(z: Tensor, episodes: Episodes, before: Sequence[Tensor]) -> list[Tensor]:
    """The means of z over the steps of an episode up to each row, and with one, two, ... other episodes before it.

    What an episode begins with knows nothing and does not count, but where nothing else is known.

    Args:
        z: `[N, Z]` at every row.
        episodes: Whose rows.
        before: Of each episode, the one before it, and the one before that in that one's turn.
    """
    known = torch.cat((z, torch.ones(len(z), 1)), dim=1).double()
    known[episodes.first] = 0.0
    known[episodes.first + episodes.length] = 0.0  # behind the last step
    total = torch.cumsum(known, dim=0)
    total = (total - torch.repeat_interleave(total[episodes.first], episodes.length + 1, dim=0)).float()
    whole = total[episodes.first + episodes.length]
    carried, tables = torch.zeros_like(whole), [mean_or(total, z)]
    for other in before:
        carried = (carried + whole)[other]
        tables.append(mean_or(total + torch.repeat_interleave(carried, episodes.length + 1, dim=0), z))
    return tables


def _tell(beliefs: Beliefs, episodes: Episodes, benchmark: str, config: Config, run: Run) -> None:
    """Logs what z tells of the tasks, by behaviour and step, and prints it where the run shows anything."""
    tasks = torch.as_tensor(np.asarray(metabench.spec(benchmark).table().rows[config.split], np.float32))
    for name, by_step in invariance(beliefs.alone, episodes, tasks).items():
        run.log({"phase": "invariance", "behaviour": name, "r2": {str(t): round(v, 4) for t, v in by_step.items()}})
        if run.show:
            values = "   ".join(f"{t}: {v:5.2f}" for t, v in by_step.items())
            sys.stderr.write(f"R^2 of the task from z at step   {values}   ({name})\n")


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> SequenceAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    config = config.settled(benchmark)
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, model, network = _models(benchmark, config)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    before, told = 0, saved is not None
    if model is not None:
        before = blocks(config.world_model.updates)
        told = saved is not None and saved.iteration > before
        _fit_world_model(model, episodes, benchmark, config, seed, run, saved)
    beliefs = Beliefs(model, episodes, config, seed)
    if model is not None and not told:
        _tell(beliefs, episodes, benchmark, config, run)
    network.learn_scales(episodes, beliefs.alone)
    extra = {"target": return_to_ask(episodes, config.target)} | _task_targets(benchmark, config, codec)
    extra["explore"] = torch.tensor(_explored(model, beliefs, episodes, config))
    prompts = _prompts(model, beliefs, episodes, config, seed)
    window, short = config.transformer.window, "short-windows" in config.released

    def draw(number: int, generator: torch.Generator) -> tuple[Window, Prompt | None]:
        which, start = draw_windows(episodes, config.fitting.batch, window, generator, short=short)
        seen = window_of(episodes, which, start, window, beliefs.alone)
        seen = beliefs.draw(seen, which, start, generator)
        if prompts is None or not _with_prompt(config, number, generator):
            return seen, None
        return seen, prompts.draw(which, generator)

    world = {} if model is None else pack({"world": model}, {}) | {"best": torch.zeros(())}
    trainer = TransformerTrainer(network, config.fitting, Device.of(config), ranked=config.target.kind == "rank")
    train_transformer(trainer, draw, seed=seed, run=run, saved=saved, before=before, keep=world | extra)
    return _agent(codec, model, network, config, extra)


def _explored(model: World | None, beliefs: Beliefs, episodes: Episodes, config: Config) -> int:
    """How many steps a trial begins with that are drawn."""
    if config.playing.explore >= 0:
        return config.playing.explore
    error = sibling_errors(model, episodes, beliefs.alone) if isinstance(model, TrialModel) else None
    return drawn_steps(episodes, error)


def _prompts(
    model: World | None, beliefs: Beliefs, episodes: Episodes, config: Config, seed: int
) -> SiblingPrompts | None:
    """Prompts while learning; None for none."""
    if config.prompt.choice == "none":
        return None
    error, windows = None, None
    if isinstance(model, TrialModel):
        error = trial_errors(model, episodes, beliefs.alone)
    else:
        windows = model
    ways = (config.world_model, config.prompt, config.released)
    return SiblingPrompts(episodes, windows, *ways, seed=seed, error=error)


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
    model: World | None,
    network: DecisionTransformer,
    config: Config,
    extra: Mapping[str, Tensor],
    protocol: str = PROTOCOL_VERSION,
) -> SequenceAgent:
    ways = (config.world_model, config.prompt, config.released, protocol)
    if isinstance(model, TrialModel):
        surprise: Surprise = TrialSurprise.of(model.eval(), *ways)
    else:
        surprise = Surprise(None if model is None else model.eval(), *ways)
    target: Tensor | Callable[[Tensor], Tensor] = extra["target"]
    if "targets" in extra:
        find, targets = lookup(extra["tasks"].numpy()), extra["targets"]
        target = lambda task: targets[find(task)]  # noqa: E731
    playing = config.playing
    if "explore" in extra:  # not in policies that were made before it was found from the data
        playing = replace(playing, explore=int(extra["explore"]))
    return SequenceAgent(
        network,
        codec,
        NAME,
        Asking(network, config.target, target, playing.explore),
        playing,
        protocol=protocol,
        recall=None if model is None else surprise.recall,
        choose=None if config.prompt.choice == "none" else surprise.choose,
    )


def z_of(agent: SequenceAgent, episodes: Episodes) -> Tensor:
    """Z `[N, Z]` of an agent's world model at every row of episodes, as if each were its trial's first.

    Raises:
        ValueError: If the agent has no world model.
    """
    surprise = getattr(agent.recall, "__self__", None)
    if isinstance(surprise, TrialSurprise):
        return read_episodes(surprise.trial_model, episodes)[0]
    if not isinstance(surprise, Surprise) or surprise.model is None:
        raise ValueError("this agent has no world model, so there is no z")
    z = contexts(surprise.model, episodes, crossing="crossing-windows" in surprise.released)
    return running_means(z, episodes, ())[0] if surprise.average else z


def load(path: Path) -> SequenceAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    config = read_config(Config, earlier(settings["config"]), RENAMED)
    codec, model, network = _models(settings["benchmark"], config)
    restore_transformer(saved, network)
    if model is not None:
        unpack(saved.tensors, {"world": model}, {})
    return _agent(codec, model, network, config, saved.tensors, settings["protocol"])
