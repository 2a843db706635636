"""Prompt-DT: a decision transformer that is shown a piece of a demonstration of its task before it begins.

Source: Xu et al. 2022, "Prompting Decision Transformer for Few-Shot Policy Generalization" (arXiv 2206.13499), and
its code (mxu34/prompt-dt). The prompt is the last L steps but one of a good episode of the same task, in front of the
window, with embeddings of its own. Its privilege: demonstrations of the *test* task, cut from that task's data. Its
results stand in the track `prompt-k` and in no table with agents that have to find the task out. It learns nothing
while it plays.

While learning, the prompt is cut from one of the `demonstrations` best episodes of the window's task, drawn anew each
time; while acting, from the best of them. (The paper's code keeps a separate set of expert episodes for prompts.) The
evaluator shows the task, which is used for nothing but finding its demonstration.

Deviations: those of `decision.Settings` from the released Meta-DT, on which its comparison rests; the return asked
for is learned (`decision.Aspiration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import metabench
from metabench_agents.parts.run import Run, load_checkpoint, load_config
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
    Window,
    draw_windows,
    load_episodes,
    prompt_of,
    window_of,
)
from metabench_agents.sequence.playing import SequenceAgent, lookup

NAME, TRACK = "prompt-dt", "prompt-k"


@dataclass(frozen=True)
class Config(Settings):
    """Settings of one training run."""

    data: str = "mixed"  # quality of the benchmark's data set, prompts included; or the id of another
    target: Target = "learned"  # return to ask for: learned, or the mean or highest of the training tasks' best
    explore: int = 0  # acting: drawn steps a trial begins with; none, for it is shown a demonstration
    prompt_length: int = 0  # steps L of a prompt; 0: as released, 3 on the Param families and 5 elsewhere
    demonstrations: int = 5  # the best so many episodes of a task are its demonstrations


def _network(benchmark: str, config: Config) -> tuple[Actions, DecisionTransformer]:
    chosen = metabench.spec(benchmark)
    codec, columns = Actions(chosen.family().action_space), len(chosen.family().observation_fields)
    return codec, DecisionTransformer(columns, codec.size, chosen.horizon, 0, config)


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
            (torch.as_tensor(table.rows[split][tasks.numpy()]), *cut(episodes, best[:, 0], config.prompt_length))
        )
    names = ("tasks", *Prompt._fields)
    return {
        f"demonstration/{name}": torch.cat(parts) for name, parts in zip(names, zip(*found, strict=True), strict=True)
    }


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> SequenceAgent:
    """Trains on the data of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    config = settled(config, benchmark)
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    codec, network = _network(benchmark, config)
    episodes = load_episodes(benchmark, config.data, config.split, codec)
    nothing, target = torch.zeros(len(episodes.reward), 0), return_to_ask(episodes, config.target)
    network.learn_scales(episodes, nothing)
    tasks, best = best_episodes(episodes, config.demonstrations)

    def draw(number: int, generator: torch.Generator) -> tuple[Window, Prompt]:
        which, start = draw_windows(episodes, config.batch, config.window, generator)
        row = torch.searchsorted(tasks, episodes.task[which])
        one = torch.randint(config.demonstrations, (config.batch,), generator=generator)
        prompt = cut(episodes, best[row, one], config.prompt_length)
        return window_of(episodes, which, start, config.window, nothing), prompt

    keep = {"target": target} | demonstrations(benchmark, config, codec)
    train_transformer(Trainer(network), draw, seed=seed, run=run, saved=saved, keep=keep)
    return _agent(codec, network, keep)


def _agent(codec: Actions, network: DecisionTransformer, kept: Mapping[str, Tensor]) -> SequenceAgent:
    find = lookup(kept["demonstration/tasks"].numpy())
    prompts = [kept[f"demonstration/{name}"] for name in Prompt._fields]

    def demonstrate(task: Tensor) -> Prompt:
        row = find(task)
        return Prompt(*(column[row] for column in prompts))

    return SequenceAgent(network, codec, NAME, asked(kept["target"]), demonstrations=demonstrate, track=TRACK)


def load(path: Path) -> SequenceAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    codec, network = _network(settings["benchmark"], Config(**settings["config"]))
    restore_transformer(saved, network)
    return _agent(codec, network, saved.tensors)
