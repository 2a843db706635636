"""The decision transformer: returns to go, observations and actions are tokens; at each observation it acts.

Sources: Chen et al. 2021 (arXiv 2106.01345); with the world model's z beside the observation and a prompt in front as
released Meta-DT has them (`meta_dt/model.py`); without z, Prompt-DT's way of prompting (Xu et al. 2022, arXiv
2206.13499).

Tokens of a step are (R, s, a) with a learned embedding of the time added, then a layer norm. Prompt tokens have
embeddings of their own and no norm, as released. z joins the observation: Linear(O, 16) and z side by side, then a
linear layer. Observations come scaled; returns to go are divided by the largest absolute return of the training
episodes.

Deviations, with reasons:
- The time embedding starts with a deviation of 0.02, as in GPT-2. Released it starts with torch's default of 1, twenty
  times what observation, action and return add to a token, which then tells little but the time for long.
- z is taken in units of its deviation around its mean: as the world model gives it, it is far smaller than the rest.
- A trial may begin with `playing.explore` actions drawn evenly from the action space; released, there are none. The
  regression clones the *mean* action. Where that mean over tasks is to stand still, rewards tell nothing, z stays what
  it was, and the agent stands until the end: the noise of the behaviour policy, which told the tasks apart in the data,
  is just what a mean leaves out. Where the mean moves, drawn actions cost and tell nothing more: a cheetah falls by
  them. `trials.telling.drawn_steps` decides by the training data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metabench
from metabench_agents.parts.device import Device, descend, set_rate
from metabench_agents.parts.run import Checkpoint, Run, pack, unpack, updates_done
from metabench_agents.sequence.episodes import Actions, Episodes, Prompt, Window
from metabench_agents.sequence.fitting import dropout_key, fit, seed_dropout
from metabench_agents.sequence.transformer import TokenCache, Transformer, TransformerSettings, causal

SHORT_FAMILIES = ("HopperParam", "WalkerParam")  # whose released windows and prompts are shorter
TOKENS = 3  # of a step: return to go, observation, action
EXPECTILE = 0.97  # of the returns to go: near the best where the data are mixed, and no single lucky episode
ASPIRATION_RATE = 1e-3  # learning rate of what to ask for
TIME_STD = 0.02  # of the time embedding at the start, as in GPT-2
STATE_SIZE = 16  # of the observation's own embedding where z stands beside it


def has_short_windows(benchmark: str) -> bool:
    """Whether the released windows and prompts of a benchmark's family are the shorter ones."""
    return benchmark.removeprefix("metabench/").startswith(SHORT_FAMILIES)


@dataclass(frozen=True)
class DecisionTransformerSettings(TransformerSettings):
    """The transformer's sizes, and what it sees; the sizes are the released ones."""

    window: int = 0  # steps K that are seen at once; 0: as released, 8 on the Param families and 20 elsewhere
    sees_actions: bool = True  # whether the window's action tokens tell the actions; released: yes

    def settled(self, benchmark: str) -> DecisionTransformerSettings:
        """The same with the released window of the benchmark's family where it is left open."""
        return replace(self, window=self.window or (8 if has_short_windows(benchmark) else 20))


@dataclass(frozen=True)
class TransformerFitting:
    """How a decision transformer is trained: as two cores can afford it."""

    updates: int = 4_000  # of the transformer; released: 100,000 to 500,000
    batch: int = 64  # windows of an update; released: 128
    learning_rate: float = 5e-4  # AdamW's highest; released: 1e-7 to 1e-4, by family
    warmup: int = 300  # updates until it is reached; released: 10,000
    decay: bool = True  # whether it then falls linearly to zero; released: no
    weight_decay: float = 1e-4  # AdamW's
    max_grad_norm: float = 0.25  # gradient clipping


FITTING_RENAMED = {"fitting.device": "device", "fitting.precision": "precision"}  # where they once stood


class Aspiration(nn.Module):
    """The return that good episodes still bring from here: what to ask for where the task's own returns are not known.

    An expectile (0.97) of the returns to go in the training tasks' data, given the observation, the last reward, the
    time, and z where there is one. (Not the last action: it would tell how good the data's policy is, and an agent that
    has once acted badly would ask for bad episodes from then on.) To ask for one fixed return would fail across tasks:
    what is easy near a goal cannot be had far from it, and a return to go that no reward can bring has never been seen
    while learning.
    """

    def __init__(self, observation: int, context: int, width: int):
        super().__init__()
        sizes = (observation + context + 2, width, width)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, observation: Tensor, reward: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """`[...]` the return to go; the last reward is 0 at the first step, time is a share of the episode."""
        last = torch.stack((reward, time), dim=-1)
        return self.body(torch.cat((observation, last, context), dim=-1))[..., 0]


class DecisionTransformer(nn.Module):
    """Windows (and prompts) to actions.

    Args:
        observation: Columns O.
        action: Columns A.
        horizon: Steps of an episode: the size of the time embedding.
        context: Size Z of the world model's z; 0 without one.
        settings: Sizes.
    """

    mean: Tensor
    std: Tensor
    context_mean: Tensor
    context_std: Tensor
    return_scale: Tensor
    reward_scale: Tensor

    def __init__(
        self, observation: int, action: int, horizon: int, context: int, settings: DecisionTransformerSettings
    ):
        super().__init__()
        width = settings.width
        self.settings, self.context, self.horizon = settings, context, horizon
        self.register_buffer("mean", torch.zeros(observation))
        self.register_buffer("std", torch.ones(observation))
        self.register_buffer("context_mean", torch.zeros(context))
        self.register_buffer("context_std", torch.ones(context))
        self.register_buffer("return_scale", torch.ones(()))
        self.register_buffer("reward_scale", torch.ones(()))
        self.time, self.togo, self.action = nn.Embedding(horizon, width), nn.Linear(1, width), nn.Linear(action, width)
        if context:
            self.encode = nn.Linear(observation, STATE_SIZE)
            self.observation = nn.Linear(STATE_SIZE + context, width)
        else:
            self.observation = nn.Linear(observation, width)
        self.norm = nn.LayerNorm(width)
        self.prompt_time, self.prompt_togo = nn.Embedding(horizon, width), nn.Linear(1, width)
        self.prompt_observation, self.prompt_action = nn.Linear(observation, width), nn.Linear(action, width)
        self.body = Transformer(settings)
        self.head = nn.Linear(width, action)
        for table in (self.time, self.prompt_time):
            nn.init.normal_(table.weight, std=TIME_STD)
        self.aspiration = Aspiration(observation, context, width)

    def scaled_context(self, context: Tensor) -> Tensor:
        """The same for z `[..., Z]`."""
        return (context - self.context_mean) / self.context_std

    def learn_scales(self, episodes: Episodes, context: Tensor) -> None:
        """Takes the scales of observations, z, returns and rewards from the training episodes and their z `[N, Z]`."""
        self.mean, self.std = episodes.scale()
        if self.context:
            seen = context[episodes.rows()[0]]
            self.context_mean, self.context_std = seen.mean(dim=0), seen.std(dim=0).clamp_min(1e-6)
        self.return_scale = episodes.returns.abs().max()
        self.reward_scale = episodes.reward.abs().mean().clamp_min(1e-6)

    def aspire(self, observation: Tensor, reward: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """What to ask for, divided by the return scale; observations scaled, rewards as they came."""
        context = self.scaled_context(context)
        return self.aspiration(observation, reward / self.reward_scale, time / self.horizon, context)

    def scaled(self, observation: Tensor) -> Tensor:
        """`[..., O]` in units of the standard deviation around the mean."""
        return (observation - self.mean) / self.std

    def tokens(self, observation: Tensor, context: Tensor, action: Tensor, togo: Tensor, time: Tensor) -> Tensor:
        """`[B, K, ...]`, observations scaled and returns to go divided, to tokens `[B, 3 K, D]`."""
        if not self.settings.sees_actions:
            action = torch.zeros_like(action)
        if self.context:
            context = self.scaled_context(context)
            observation = torch.cat((self.encode(observation), context.to(observation.dtype)), dim=-1)
        when = self.time(time)
        parts = (self.togo(togo[..., None]) + when, self.observation(observation) + when, self.action(action) + when)
        return self.norm(torch.stack(parts, dim=2).flatten(1, 2))

    def prompt_tokens(self, prompt: Prompt) -> Tensor:
        """A prompt, scaled likewise, to tokens `[B, 3 L, D]`."""
        when = self.prompt_time(prompt.time)
        parts = (
            self.prompt_togo(prompt.togo[..., None]) + when,
            self.prompt_observation(prompt.observation) + when,
            self.prompt_action(prompt.action) + when,
        )
        return torch.stack(parts, dim=2).flatten(1, 2)

    def scale_window(self, window: Window) -> Window:
        """A window of raw observations and returns as the network takes them."""
        return window._replace(observation=self.scaled(window.observation), togo=window.togo / self.return_scale)

    def scale_prompt(self, prompt: Prompt) -> Prompt:
        """The same for a prompt."""
        return prompt._replace(observation=self.scaled(prompt.observation), togo=prompt.togo / self.return_scale)

    def act(self, output: Tensor) -> Tensor:
        """Outputs at observation tokens to actions, squashed into [-1, 1]."""
        return torch.tanh(self.head(output).float())

    def forward(self, window: Window, prompt: Prompt | None = None) -> Tensor:
        """Actions `[B, K, A]` for a scaled window, behind a scaled prompt."""
        tokens = self.tokens(window.observation, window.context, window.action, window.togo, window.time)
        front = 0
        if prompt is not None:
            first = self.prompt_tokens(prompt)
            front = first.shape[1]
            tokens = torch.cat((first.to(tokens.dtype), tokens), dim=1)
        # Padding stands behind the episode's end, where causality hides it from every real step.
        return self.act(self.body(tokens, causal(tokens.shape[1], tokens.device), slice(front + 1, None, TOKENS)))

    def cache(self, rows: int, prompt: int) -> TokenCache:
        """Room for a prompt of so many steps and a window."""
        settings = self.settings
        return TokenCache.empty(settings.layers, rows, TOKENS * (prompt + settings.window + 1), settings.width)


def untrained(benchmark: str, settings: DecisionTransformerSettings) -> tuple[Actions, DecisionTransformer]:
    """A network without z for a benchmark, and the encoding of its actions."""
    chosen = metabench.spec(benchmark)
    codec, columns = Actions(chosen.family().action_space), len(chosen.family().observation_fields)
    return codec, DecisionTransformer(columns, codec.size, chosen.horizon, 0, settings)


def loss(network: DecisionTransformer, window: Window, prompt: Prompt | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean squared error of the actions over the steps that are real (Chen et al. 2021); inputs are scaled."""
    error = F.mse_loss(network(window, prompt), window.action, reduction="none").mean(dim=-1)
    valid = window.valid.to(error.dtype)
    total = (error * valid).sum() / valid.sum()
    return total, {"loss": total.detach()}


def aspiration_loss(network: DecisionTransformer, window: Window) -> Tensor:
    """The expectile loss of the returns to go (Newey and Powell 1987): higher ones weigh 0.97, lower ones 0.03."""
    hope = network.aspire(window.observation, window.last_reward, window.time, window.context)
    gap, known = window.togo - hope, window.valid
    weight = torch.where(gap > 0, EXPECTILE, 1.0 - EXPECTILE) * known
    return (weight * gap**2).sum() / known.sum().clamp_min(1)


class TransformerTrainer:
    """AdamW with warm-up and clipping around the loss: one update is one call. The aspiration learns beside it.

    Args:
        network: Trained in place; its scales are set already.
        settings: Updates, batch, rates.
        device: Where it is trained.
        ranked: The windows say their episode's rank instead of returns to go; nothing is left to aspire to.
    """

    def __init__(
        self,
        network: DecisionTransformer,
        settings: TransformerFitting,
        device: Device | None = None,
        *,
        ranked: bool = False,
    ):
        self.device = device = device or Device()
        self.network, self.settings, self.ranked = device.place(network), settings, ranked
        self.parameters = [p for name, p in network.named_parameters() if not name.startswith("aspiration.")]
        self.aspiration = device.adam(network.aspiration.parameters(), ASPIRATION_RATE)
        self.optimiser = device.adam(self.parameters, settings.learning_rate, decay=settings.weight_decay)
        self.loss = device.compiled(loss)
        self.updates = device.updates(self.step)

    def rate(self, number: int) -> float:
        """The learning rate of update `number`, counted from 0."""
        s = self.settings
        left = max(0.0, 1.0 - max(0, number - s.warmup) / max(1, s.updates - s.warmup)) if s.decay else 1.0
        return s.learning_rate * min((number + 1) / max(1, s.warmup), 1.0) * left

    def given(self, window: Window, prompt: Prompt | None, number: int, generator: torch.Generator) -> tuple[Any, ...]:
        """What `step` takes: raw windows and prompts, the learning rate, and what dropout draws from."""
        return window, prompt, self.rate(number), generator if self.device.plain else dropout_key(generator)

    def update(
        self, window: Window, prompt: Prompt | None, number: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """One update on raw windows and prompts; dropout draws from `generator`."""
        return self.step(*self.device.put(self.given(window, prompt, number, generator)))

    def step(
        self, window: Window, prompt: Prompt | None, rate: Tensor | float, draws: torch.Generator | Tensor
    ) -> dict[str, Tensor]:
        """One update as a pure function."""
        network = self.network
        seed_dropout(network, draws)
        set_rate(self.optimiser, rate)
        window = network.scale_window(window)
        if prompt is not None:
            prompt = network.scale_prompt(prompt)
        if self.ranked:
            window = window._replace(togo=window.rank)
        with self.device.products():
            total, metrics = self.loss(network, window, prompt)
        norm = descend(total, self.optimiser, self.settings.max_grad_norm)
        assert norm is not None
        metrics |= {"grad_norm": norm}
        return metrics if self.ranked else metrics | {"aspiration_loss": self._aspire(window)}

    def _aspire(self, window: Window) -> Tensor:
        """One update of the aspiration; its loss."""
        with self.device.float32():
            hope = aspiration_loss(self.network, window)
            descend(hope, self.aspiration)
        return hope.detach()

    def tensors(self) -> dict[str, Tensor]:
        """What it takes to continue."""
        return pack({"dt": self.network}, self._optimisers())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse."""
        unpack(tensors, {"dt": self.network}, self._optimisers())

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"dt-adam": self.optimiser, "ask-adam": self.aspiration}


def train_transformer(
    trainer: TransformerTrainer,
    draw: Callable[[int, torch.Generator], tuple[Window, Prompt | None]],
    *,
    seed: int,
    run: Run,
    saved: Checkpoint | None,
    before: int = 0,
    keep: Mapping[str, Tensor] | None = None,
) -> None:
    """The last phase of a run: updates on what `draw` gives, continued from `saved` to the same bits.

    Args:
        trainer: Its network is trained in place; scales are set already.
        draw: Raw windows and prompts for an update, from its number and its stream.
        seed: Of the run.
        run: Log and checkpoints.
        saved: To continue from.
        before: Blocks of the phases before.
        keep: What else a checkpoint has to hold.
    """
    updates, done = trainer.settings.updates, 0
    if saved and saved.iteration > before:
        done = updates_done(saved.iteration, before, updates)
        trainer.restore(saved.tensors)
    number = done

    def given(generator: torch.Generator) -> tuple[Any, ...]:
        nonlocal number
        number += 1
        return trainer.given(*draw(number - 1, generator), number - 1, generator)

    fit(
        run,
        "transformer",
        trainer.updates,
        given,
        updates=updates,
        seed=seed,
        phase=1,
        before=before,
        done=done,
        tensors=lambda: dict(keep or {}) | trainer.tensors(),
    )
    trainer.network.to("cpu")


def restore_transformer(saved: Checkpoint, network: DecisionTransformer) -> None:
    """A network from a checkpoint; ValueError if the run had not come to it yet."""
    if not any(name.startswith("dt/") for name in saved.tensors):
        raise ValueError("this run has not come to its transformer yet: give its command again to continue it")
    unpack(saved.tensors, {"dt": network}, {})
