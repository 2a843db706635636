"""DPT: a transformer that says what is best where one stands, given what has been seen to happen in the same task.

Source: Lee et al. 2023, "Supervised Pretraining Can Learn In-Context Reinforcement Learning" (Decision-Pretrained
Transformer, arXiv 2306.14892). For a task of the training set, a context D of transitions (s, a, s', r) and a query
state s_q, the network is trained to predict the optimal action a* at s_q (the paper's eq. 2),

    L = - sum over j of log P(a* | s_q, D_j),     D_j the first j transitions of the context,

and at play draws from that prediction, given the trial so far: posterior sampling.

The oracles of the grids are exact, so the labels are (`labels="exact"`). `noisy` labels are, with probability `noise`,
uniform actions; `taken` ones are what the learner did. So what bad labels cost can be told from what partial
observability costs (in DarkKeyToDoor the query does not say whether the key is at hand).

Posterior sampling is of a whole episode: a task is drawn and its policy followed. An action drawn anew at every step is
no such thing: the next draw takes back what the last one meant, and the walk dithers about where it began. Exact Bayes
with the training goals as its prior, drawn from so, finds DarkRoom's outer goals as late as the network does
(`python -m studies.incontext.exact`). The paper's theorem (second-hand here) lets the prediction depend on the states
and optimal actions of the episode so far, P(a* | s_q, D, xi). `answers` does so: beside the query stand the last states
of the episode with the actions that were answered there.

Deviations:
- The query stands behind the context, in place of before it, so that the context's keys and values can be kept while
  queries come and go: each of the `queries` of an update sees the first j transitions, j drawn evenly.
- The context is a stretch of a learner's history, in random order, in place of a random policy's transitions; while
  acting it is the whole trial so far, the running episode included, in its own order.
- Queries are states of the same history, in place of evenly drawn ones; so are the answers' states.
- Answers are steps of the context in which the learner did what the label says; before the newest of them, and in three
  of ten contexts in place of all, any of its steps. So the network learns to go by them, but not where the context has
  shown that they led nowhere. Conditioned on its own actions as if they could not be wrong, a network that once stays
  where no reward is takes that for proof that the goal is there, and stays for good.
- Where actions are a box, histories are the checkpoints of a soft actor-critic in order (`--data sac-history`), labels
  the mean actions of the last, and the prediction a Gaussian.
- When the window is full, its older half is dropped (`context.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metabench import Timestep
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.config import read_config
from metabench_agents.parts.device import Computing, Device
from metabench_agents.parts.run import Run, load_checkpoint, load_config, unpack
from metabench_agents.sequence.incontext.context import (
    ContextBody,
    ContextFitting,
    ContextMemory,
    ContextSettings,
    SeenFeatures,
)
from metabench_agents.sequence.incontext.histories import Histories, draw_stretches, load_histories
from metabench_agents.sequence.incontext.moves import Choices, Moves, Streams, fresh_streams, moves_of
from metabench_agents.sequence.incontext.training import fit_network
from metabench_agents.sequence.transformer import MASKED

NAME = "dpt"
UNSOUND = 0.3  # share of contexts none of whose answers is known to be right


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    data: str = "history"  # quality of the benchmark's data set; or the id or folder of another
    split: str = "train"  # tasks to learn from, of those the data were played on
    skip: int = field(default=4, metadata={"low": 1})  # every so many-th episode of a learner alone: it learns faster
    labels: Literal["exact", "noisy", "taken"] = "exact"  # the oracle's, some of them uniform, or the learner's own
    noise: float = field(default=0.5, metadata={"low": 0.0, "high": 1.0})  # share of uniform ones among noisy labels
    queries: int = field(default=32, metadata={"low": 1})  # of each context in an update
    answers: int = 0  # own last actions of the episode that a query goes by, so that it stays with what it began
    network: ContextSettings = field(default_factory=ContextSettings)  # its sizes
    fitting: ContextFitting = field(default_factory=ContextFitting)  # its training
    sample: bool = True  # play actions drawn from the prediction; the likeliest otherwise


class Transitions(NamedTuple):
    """Transitions, of any leading shape."""

    observation: Tensor  # [..., O]
    action: Tensor  # [...] int64 or [..., A], see `moves`
    reward: Tensor  # [...]
    following: Tensor  # [..., O]


class Answers(NamedTuple):
    """What was answered before, the newest first."""

    observation: Tensor  # [B, K, O] where
    action: Tensor  # [B, K] int64


class Questions(NamedTuple):
    """M queries of B contexts of n transitions each, with K answers."""

    context: Transitions  # [B, n]
    observation: Tensor  # [B, M, O]
    prefix: Tensor  # [M] int64 how many of the transitions each query sees
    label: Tensor  # [B, M] int64 or [B, M, A]
    answers: Answers | tuple[()] = ()
    told: Tensor | tuple[()] = ()  # [M] int64 how many of the answers each query sees


class DecisionNetwork(nn.Module):
    """Transitions, answers and a query to what says the best action: logits, or a Gaussian.

    Args:
        benchmark: Whose observations and actions they are.
        settings: Sizes.
        answers: The most that are given.
    """

    def __init__(self, benchmark: str, settings: ContextSettings, answers: int = 0):
        super().__init__()
        self.moves, self.seen = moves_of(benchmark), SeenFeatures(benchmark)
        if answers and not isinstance(self.moves, Choices):
            raise ValueError(f"--answers are of a choice among actions, and {benchmark} has a box of them")
        self.transition = nn.Linear(2 * self.seen.size + self.moves.size + 1, settings.width)
        self.query = nn.Linear(self.seen.size, settings.width)
        self.body = ContextBody(settings, placed=False, passing=answers + 1)
        self.head = nn.Linear(settings.width, self.moves.outputs)
        self.answers = answers
        if answers:
            self.answer = nn.Linear(self.seen.size + self.moves.size, settings.width)
            self.age = nn.Embedding(answers, settings.width)
            nn.init.normal_(self.age.weight, std=0.02)

    def transitions(self, seen: Transitions) -> Tensor:
        """Their tokens `[..., D]`."""
        done = self.moves.features(seen.action)
        parts = (self.seen(seen.observation), done, seen.reward[..., None], self.seen(seen.following))
        return self.transition(torch.cat(parts, dim=-1))

    def queries(self, observation: Tensor) -> Tensor:
        """Their tokens `[..., D]`."""
        return self.query(self.seen(observation))

    def answered(self, answers: Answers) -> Tensor:
        """Their tokens `[B, K, D]`."""
        done = self.moves.features(answers.action)
        tokens = self.answer(torch.cat((self.seen(answers.observation), done), dim=-1))
        return tokens + self.age.weight[: tokens.shape[1]]

    def forward(self, questions: Questions) -> Tensor:
        """`[B, M, ...]`, what the moves' loss takes."""
        context, queries = self.transitions(questions.context), self.queries(questions.observation)
        if isinstance(questions.answers, Answers):
            assert isinstance(questions.told, Tensor)
            parts = (context, self.answered(questions.answers), queries)
            bias = visible(context.shape[1], questions.prefix, parts[1].shape[1], questions.told)
        else:
            parts, bias = (context, queries), visible(context.shape[1], questions.prefix)
        return self.head(self.body(torch.cat(parts, dim=1), bias)[:, -queries.shape[1] :])


def visible(context: int, prefix: Tensor, answers: int = 0, told: Tensor | None = None) -> Tensor:
    """`[1, n + K + M, n + K + M]` what may be seen.

    By transitions those before, by an answer itself alone, by a query its prefix, the answers it is told, and itself.
    """
    before = context + answers
    place = torch.arange(before + len(prefix), device=prefix.device)
    last = torch.cat((place[:context], torch.full_like(place[:answers], -1), prefix - 1))  # transition each token sees
    seen = (place[None] <= last[:, None]) & (place[None] < context) | (place[None] == place[:, None])
    if told is not None:
        seen[before:, context:before] = place[None, :answers] < told[:, None]
    return torch.where(seen, 0.0, MASKED)[None]


def loss(network: DecisionNetwork, questions: Questions) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the labels, a mean over all queries (`moves`); and how often or nearly it is right."""
    return network.moves.loss(network(questions), questions.label)


def draw_questions(histories: Histories, config: Config, moves: Moves, generator: torch.Generator) -> Questions:
    """Contexts in random order and queries of the same histories; ValueError where their labels are not known."""
    if config.labels != "taken" and not len(histories.expert):
        raise ValueError(f"{config.data} does not know what the oracle would have done: --labels taken")
    batch, steps, count = config.fitting.batch, config.network.window, config.queries
    if config.answers > steps:
        raise ValueError(f"--answers must be at most the {steps} steps of --network.window, got {config.answers}")
    rows, which = draw_stretches(histories, batch, steps, config.fitting.from_start, generator)
    order = torch.rand(batch, steps, generator=generator).argsort(dim=1)
    rows = rows.gather(1, order)
    query = _anywhere(histories, which, count, generator)
    label = _labels(histories, query, config, moves, generator)
    prefix = torch.randint(steps + 1, (count,), generator=generator)
    answers, told = (), ()
    if config.answers:
        told = torch.randint(config.answers + 1, (count,), generator=generator)
        right = histories.action[rows] == _labels(histories, rows, config, moves, generator)
        answers, rows = _draw_answers(histories, rows, right, config.answers, generator)
    return Questions(
        context=Transitions(
            histories.observation[rows],
            moves.label(histories.action[rows]),
            histories.reward[rows],
            histories.following[rows],
        ),
        observation=histories.observation[query],
        prefix=prefix,
        label=label,
        answers=answers,
        told=told,
    )


def _anywhere(histories: Histories, which: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows `[B, count]` of the histories `which`, evenly drawn."""
    share = torch.rand(len(which), count, generator=generator, dtype=torch.float64)
    return histories.start[which, None] + (share * histories.length[which, None]).long()


def _labels(histories: Histories, rows: Tensor, config: Config, moves: Moves, generator: torch.Generator) -> Tensor:
    """What is taught to be best in the steps `rows`."""
    label = moves.label((histories.action if config.labels == "taken" else histories.expert)[rows])
    return moves.wild(label, config.noise, generator) if config.labels == "noisy" else label


def _draw_answers(
    histories: Histories, rows: Tensor, right: Tensor, most: int, generator: torch.Generator
) -> tuple[Answers, Tensor]:
    """Answers among what the learners did in their contexts, and the contexts' rows with these steps in front.

    Args:
        histories: Where from.
        rows: `[B, n]` of the contexts.
        right: `[B, n]` bool where the learner did what the label says.
        most: K, how many.
        generator: Of all chance.
    """
    sound = torch.randint(most + 1, (len(rows), 1), generator=generator)  # how many, the newest, are known to be right
    sound = torch.where(torch.rand(len(rows), 1, generator=generator) < UNSOUND, 0, sound)
    best, some = (
        (torch.rand(rows.shape, generator=generator) + first).topk(most, dim=1).indices for first in (right, 0.0)
    )
    chosen = torch.where(torch.arange(most) < sound, best, some)
    front = torch.ones_like(rows).scatter_(1, chosen, 0).argsort(dim=1, stable=True)
    answered = rows.gather(1, chosen)
    return Answers(histories.observation[answered], histories.action[answered].long()), rows.gather(1, front)


class DecisionBelief(NamedTuple):
    """The trial so far."""

    memory: ContextMemory
    observation: Tensor | None  # [B, O] of the last tick
    streams: Streams
    answers: Answers | tuple[()] = ()  # of the running episodes
    given: Tensor | tuple[()] = ()  # [B] int64 how many of them there are


class DecisionAgent:
    """Plays what is best for a task drawn from what it believes, given all transitions of the trial."""

    name, track, privileged = NAME, "offline", False

    def __init__(self, network: DecisionNetwork, sample: bool, protocol: str = PROTOCOL_VERSION):
        self.network, self.sample, self.protocol = network.eval(), sample, protocol
        self.attends = network.body.window  # steps of the trial

    def begin(self, num_trials: int) -> DecisionBelief:
        """Nothing has been seen."""
        return DecisionBelief(ContextMemory((), None), None, fresh_streams(num_trials))

    @torch.inference_mode()
    def act(self, step: Timestep, belief: DecisionBelief) -> tuple[np.ndarray, DecisionBelief]:
        """An action for this tick."""
        network, first = self.network, torch.as_tensor(np.asarray(step.first))
        observation = torch.as_tensor(np.asarray(step.observation)).float()
        tokens, alone = [network.queries(observation)[:, None]], None
        answers, given = belief.answers, belief.given
        if belief.observation is not None:
            action = network.moves.taken(step.action)
            if network.answers:
                answers, given = _answered(belief, action, first, network.answers)
                alone = _told(given)
                tokens.insert(0, network.answered(Answers(*(column[:, : alone.shape[1]] for column in answers))))
            final = torch.as_tensor(np.asarray(step.final)).float()
            came = Transitions(
                belief.observation,
                action,
                torch.as_tensor(np.asarray(step.reward)).float(),
                torch.where(first[:, None], final, observation),
            )
            tokens.insert(0, network.transitions(came)[:, None])
        passing = 1 + (0 if alone is None else alone.shape[1])
        output, memory = network.body.read(belief.memory, torch.cat(tokens, dim=1), passing, alone)
        chosen, streams = network.moves.draw(network.head(output), belief.streams, self.sample)
        return chosen, DecisionBelief(memory, observation, streams, answers, given)


def _answered(belief: DecisionBelief, action: Tensor, first: Tensor, most: int) -> tuple[Answers, Tensor]:
    """The answers of the running episodes with the last one `[B]`, and how many they are; none where one begins."""
    assert belief.observation is not None
    newest = Answers(belief.observation[:, None], action[:, None])
    if not isinstance(belief.answers, Answers) or not isinstance(belief.given, Tensor):
        return newest, torch.where(first, 0, torch.ones_like(action))
    pairs = zip(newest, belief.answers, strict=True)
    answers = Answers(*(torch.cat((new, old), dim=1)[:, :most] for new, old in pairs))
    return answers, torch.where(first, 0, (belief.given + 1).clamp(max=most))


def _told(count: Tensor) -> Tensor:
    """`[1 or B, most]` bool which answers there are, the newest first; one row where all trials have as many."""
    told = torch.arange(int(count.max())) < count[:, None]
    return told[:1] if bool((told == told[:1]).all()) else told


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> DecisionAgent:
    """Trains on the histories of the benchmark's training tasks; continues the run in `run.folder` to the same bits."""
    saved = run.begin(NAME, benchmark, config, seed)
    torch.manual_seed(int(np.random.SeedSequence([seed]).generate_state(1)[0]))
    network = DecisionNetwork(benchmark, config.network, config.answers)
    histories = load_histories(benchmark, config.data, config.split, config.skip)
    network.seen.learn_scales(histories.observation)

    def draw(generator: torch.Generator) -> Questions:
        return draw_questions(histories, config, network.moves, generator)

    device = Device.of(config)
    fit_network(NAME, network, loss, draw, config.fitting, device, seed=seed, run=run, saved=saved)
    return DecisionAgent(network, config.sample)


def load(path: Path) -> DecisionAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path)
    config = read_config(Config, settings["config"])
    network = DecisionNetwork(settings["benchmark"], config.network, config.answers)
    unpack(saved.tensors, {"dpt": network}, {})
    return DecisionAgent(network, config.sample, settings["protocol"])
