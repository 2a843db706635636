"""Prompt-DT: a decision transformer that is shown a piece of a demonstration of its task before it begins.

Source: Xu et al. 2022, "Prompting Decision Transformer for Few-Shot Policy Generalization" (arXiv 2206.13499), and
its code (mxu34/prompt-dt). The prompt is the last L steps but one of a good episode of the same task, in front of the
window, with embeddings of its own. Its privilege: demonstrations of the *test* task, cut from that task's data. Its
results stand in the track `prompt-k` and in no table with agents that have to find the task out. It learns nothing
while it plays.

While learning, the prompt is cut from one of the `demonstrations` best episodes of the window's task, drawn anew each
time; while acting, from the best of them. (The paper's code keeps a separate set of expert episodes for prompts.) The
evaluator shows the task, which is used for nothing but finding its demonstration.

Deviations: those of `DecisionTransformerSettings` and `TransformerFitting` from the released Meta-DT, on which its
comparison rests; the return asked for is learned (`targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.run import Run, load_checkpoint, load_config
from metabench_agents.sequence.decision_transformer import (
    FITTING_RENAMED,
    DecisionTransformer,
    DecisionTransformerSettings,
    TransformerFitting,
    TransformerTrainer,
    restore_transformer,
    train_transformer,
    untrained,
)
from metabench_agents.sequence.episodes import (
    Actions,
    Episodes,
    Prompt,
    Window,
    draw_windows,
    load_episodes,
    prompt_of,
    window_of,
)
from metabench_agents.sequence.playing import PlayingSettings, SequenceAgent, lookup
from metabench_agents.sequence.prompts import PromptSettings
from metabench_agents.sequence.targets import Asking, TargetSettings, flat_target, return_to_ask

NAME, TRACK = "prompt-dt", "prompt-k"


@dataclass(frozen=True)
class DemonstrationSettings(PromptSettings):
    """Prompts cut from good episodes of the task."""

    demonstrations: int = 5  # the best so many episodes of a task are its demonstrations


@dataclass(frozen=True)
class ShownPlaying(PlayingSettings):
    """How an agent acts that is shown a demonstration."""

    explore: int = 0  # drawn steps a trial begins with; none, for it need not find the task out


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set, prompts included; or the id of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    target: TargetSettings = field(default_factory=TargetSettings)  # what it asks for
    transformer: DecisionTransformerSettings = field(default_factory=DecisionTransformerSettings)  # its sizes
    fitting: TransformerFitting = field(default_factory=TransformerFitting)  # the transformer's training
    prompt: DemonstrationSettings = field(default_factory=DemonstrationSettings)  # what it is shown
    playing: ShownPlaying = field(default_factory=ShownPlaying)  # how it acts

    def settled(self, benchmark: str) -> Config:
        """The same with the released sizes for a family where they are left open."""
        return replace(self, transformer=self.transformer.settled(benchmark), prompt=self.prompt.settled(benchmark))


RENAMED = FITTING_RENAMED | {"prompt_length": "prompt.length"}  # settings as they were called before they were grouped


def best_episodes(episodes: Episodes, count: int) -> tuple[Tensor, Tensor]:
    """The tasks that occur `[k]`, and their best episodes `[k, count]`, best first; repeated where there are fewer."""
    tasks = torch.unique(episodes.task)
    rows = []
    for task in tasks:
        mine = torch.nonzero(episodes.task == task)[:, 0]
        order = mine[torch.argsort(episodes.returns[mine], descending=True, stable=True)]
        rows.append(order[torch.arange(count).clamp(max=len(order) - 1)])
    return tasks, torch.stack(rows)


def cut(episodes: Episodes, which: Tensor, steps: int) -> Prompt:
    """The last `steps` steps but one of these episodes; ValueError if one is not that long."""
    if bool((episodes.length[which] < steps).any()):
        raise ValueError(f"a prompt of {steps} steps does not fit an episode of {int(episodes.length[which].min())}")
    return prompt_of(episodes, which, (episodes.length[which] - steps - 1).clamp(min=0), steps)


def demonstrations(benchmark: str, config: Config, codec: Actions) -> dict[str, Tensor]:
    """Tasks and prompts of every split whose data are there, as tensors to save with the agent."""
    table, found = metabench.spec(benchmark).table(), []
    for split in sorted(table.rows, key=lambda name: name != config.split):
        try:
            episodes = load_episodes(benchmark, config.data, split, codec)
        except ValueError:
            if split == config.split:
                raise
            continue  # the agent says so when it is shown such a task
        tasks, best = best_episodes(episodes, 1)
        found.append(
            (torch.as_tensor(table.rows[split][tasks.numpy()]), *cut(episodes, best[:, 0], config.prompt.length))
        )
    names = ("tasks", *Prompt._fields)
    return {
        f"demonstration/{name}": torch.cat(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)
    }


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> SequenceAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    config = config.settled(benchmark)
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, network = untrained(benchmark, config.transformer)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    nothing, target = torch.zeros(len(episodes.reward), 0), return_to_ask(episodes, config.target)
    network.learn_scales(episodes, nothing)
    tasks, best = best_episodes(episodes, config.prompt.demonstrations)
    window, batch = config.transformer.window, config.fitting.batch

    def draw(number: int, generator: torch.Generator) -> tuple[Window, Prompt]:
        which, start = draw_windows(episodes, batch, window, generator)
        row = torch.searchsorted(tasks, episodes.task[which])
        one = torch.randint(config.prompt.demonstrations, (batch,), generator=generator)
        prompt = cut(episodes, best[row, one], config.prompt.length)
        return window_of(episodes, which, start, window, nothing), prompt

    keep = {"target": target} | demonstrations(benchmark, config, codec)
    trainer = TransformerTrainer(network, config.fitting, Device.of(config), ranked=config.target.kind == "rank")
    train_transformer(trainer, draw, seed=seed, run=run, saved=saved, keep=keep)
    return _agent(codec, network, config, keep)


def _agent(
    codec: Actions,
    network: DecisionTransformer,
    config: Config,
    kept: Mapping[str, Tensor],
    protocol: str = PROTOCOL_VERSION,
) -> SequenceAgent:
    find = lookup(kept["demonstration/tasks"].numpy())
    prompts = [kept[f"demonstration/{name}"] for name in Prompt._fields]

    def demonstrate(task: Tensor) -> Prompt:
        row = find(task)
        return Prompt(*(column[row] for column in prompts))

    return SequenceAgent(
        network,
        codec,
        NAME,
        Asking(network, config.target, kept["target"], config.playing.explore),
        config.playing,
        protocol=protocol,
        demonstrations=demonstrate,
        track=TRACK,
    )


def load(path: Path) -> SequenceAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    config = read_config(Config, flat_target(settings["config"]), RENAMED)
    codec, network = untrained(settings["benchmark"], config.transformer)
    restore_transformer(saved, network)
    return _agent(codec, network, config, saved.tensors, settings["protocol"])
