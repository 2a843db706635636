"""Training the encoder by whatever loss an algorithm brings, and the policy on the z it gives, many tasks at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from metabench_agents.context.offline.actor_critic import Draws, OfflineLearner
from metabench_agents.context.offline.data import TaskData
from metabench_agents.context.offline.encoder import TransitionEncoder, mean_of_first
from metabench_agents.context.offline.network import OfflineNetwork
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.device import Device, descend, follow, learner, set_rate
from metabench_agents.parts.run import Checkpoint, Run, blocks, in_blocks, pack, stream, unpack, updates_done

STANDARDS = 20  # contexts of each task that say what a standard deviation of z is


@dataclass(frozen=True)
class FittingConfig:
    """How an agent is trained."""

    updates: int = 6_000  # of the policy
    ahead: int = field(default=0, metadata={"low": 0})  # updates of the encoder alone, before
    together: bool = True  # whether the encoder goes on learning while the policy does
    tasks: int = 16  # of an update, drawn with replacement
    batch: int = 32  # transitions of each that the policy learns from; published: 256
    context: int = 64  # transitions of each that the encoder sees
    varied: bool = True  # the policy is given z of contexts of 1 to all of them; published: always of all
    empty: float = 0.05  # share of the tasks of an update whose context is empty for the policy; published: 0
    learning_rate: float = 1e-3  # Adam's, of the encoder; published: 3e-4
    decay: bool = True  # whether all rates fall linearly to zero; published: no


class Contexts(NamedTuple):
    """What an encoder learns from in one update."""

    tasks: Tensor  # [T] numbers of tasks; some are the same
    seen: Transitions  # [T, C, ...]
    codes: Tensor  # [T, C, L] what the encoder makes of them

    @property
    def z(self) -> Tensor:
        """`[T, L]` of the whole contexts."""
        return self.codes.mean(1)


class Objective(Protocol):
    """An encoder's loss: a module, for it may have parameters that learn with the encoder."""

    def draws(self, tasks: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The random numbers that one update on so many contexts takes."""
        ...

    def __call__(
        self, encoder: TransitionEncoder, contexts: Contexts, draws: tuple[Tensor, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and metrics."""
        ...


class Given(NamedTuple):
    """All that one update takes."""

    tasks: Tensor  # [T] numbers of tasks
    seen: Transitions  # [T, C, ...] their contexts
    chance: tuple[Tensor, ...]  # of the objective
    lengths: Tensor  # [T] how many of a context's transitions the policy's z is of
    batches: tuple[Transitions, ...]  # [T, N, ...] each, for the policy; more than one where there is a dual critic
    draws: tuple[Draws, ...]  # of the policy's actions, for each of them
    encoder_rate: float  # of learning
    share: float  # of the policy's own rates


class OfflineTrainer:
    """All that changes in a run.

    Args:
        network: What plays, on the CPU; follows what learns when asked to (`settle`). Its scales are set already.
        objective: The encoder's loss.
        data: Of the training tasks.
        config: Sizes and rates.
        device: Where it is trained.
    """

    def __init__(
        self,
        network: OfflineNetwork,
        objective: Any,
        data: TaskData,
        config: FittingConfig,
        device: Device | None = None,
    ):
        if network.encoder.config.standardised and config.together:
            raise ValueError("encoder.standardised needs an encoder that is left alone: fitting.together false")
        self.network, self.data, self.config, self.device = network, data, config, device or Device()
        self.learns, self.objective = learner(network, self.device), self.device.place(objective)
        self.policy = OfflineLearner(self.learns.core, self.device)
        learned = [*self.learns.encoder.parameters(), *objective.parameters()]
        self.encoder = self.device.adam(learned, config.learning_rate)
        self.ahead = self.device.updates(self._alone)
        self.updates = self.device.updates(self._together if config.together else self._policy)

    def given(self, number: int, generator: torch.Generator) -> Given:
        """What update `number` takes, from its stream."""
        own, learning = self.config, self.network.core.config
        tasks = self.data.draw_tasks(own.tasks, generator)
        seen = self.data.draw(tasks, own.context, generator)
        chance = self.objective.draws(own.tasks, generator)
        lengths = torch.full((own.tasks,), own.context)
        if own.varied:
            lengths = torch.randint(1, own.context + 1, (own.tasks,), generator=generator)
        lengths = torch.where(torch.rand(own.tasks, generator=generator) < own.empty, 0, lengths)
        count = 0 if number < own.ahead else learning.brac.dual_updates + 1 if learning.kind == "brac" else 1
        batches: tuple[Transitions, ...] = ()
        if count:
            drawn = self.data.draw(tasks, count * own.batch, generator)
            parts = zip(*(column.split(own.batch, dim=1) for column in drawn), strict=True)
            batches = tuple(Transitions(*part) for part in parts)
        draws = tuple(Draws.of(batch, generator) for batch in batches) if learning.kind == "brac" else ()
        return Given(tasks, seen, chance, lengths, batches, draws, *self._rates(number))

    def _rates(self, number: int) -> tuple[float, float]:
        own = self.config
        if not own.decay:
            return own.learning_rate, 1.0
        learned = own.ahead + own.updates if own.together else max(1, own.ahead)  # updates that the encoder has
        share = 1.0 - max(0, number - own.ahead) / max(1, own.updates)
        return own.learning_rate * max(0.0, 1.0 - number / learned), share

    def _alone(self, *given: Any) -> dict[str, Tensor]:
        """One update of the encoder."""
        return self._represent(Given(*given))[1]

    def _together(self, *given: Any) -> dict[str, Tensor]:
        """One update of the encoder and of the policy on the z that it had before."""
        now = Given(*given)
        codes, metrics = self._represent(now)
        return metrics | self._improve(now, codes)

    def _policy(self, *given: Any) -> dict[str, Tensor]:
        """One update of the policy alone."""
        now = Given(*given)
        with torch.no_grad(), self.precision():
            codes = self.learns.encoder.codes(now.seen)
        return self._improve(now, codes)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which networks run: a fresh one per loss, because it caches the weights it has cast."""
        return self.device.products() if self.device.precision == "bf16" else self.device.float32()

    def _represent(self, now: Given) -> tuple[Tensor, dict[str, Tensor]]:
        set_rate(self.encoder, now.encoder_rate)
        with self.precision():
            codes = self.learns.encoder.codes(now.seen)
            contexts = Contexts(now.tasks, now.seen, codes)
            total, metrics = self.objective(self.learns.encoder, contexts, now.chance)
        descend(total, self.encoder)
        return codes.detach(), {"encoder_loss": total.detach()} | metrics

    def _improve(self, now: Given, codes: Tensor) -> dict[str, Tensor]:
        z = mean_of_first(codes, now.lengths)
        self.policy.set_rates(now.share)
        batches = [self.learns.told(batch) for batch in now.batches]
        return self.policy.update(batches, z, now.draws)

    def standardise(self, generator: torch.Generator) -> None:
        """Gives the policy z in standard deviations over the data's contexts; the encoder is left alone then."""
        tasks = torch.arange(len(self.data)).repeat(STANDARDS)
        contexts = self.data.draw(tasks, self.config.context, generator)
        device = next(self.learns.encoder.parameters()).device
        self.learns.encoder.standardise(Transitions(*(column.to(device) for column in contexts)))

    def block(self, done: int, count: int, seed: int) -> dict[str, float]:
        """Makes `count` updates after the `done` that are made; their metrics' means."""
        for number in range(done, done + count):
            updates = self.ahead if number < self.config.ahead else self.updates
            if updates is self.updates:
                self.ahead.flush()
            if number == self.config.ahead and self.network.encoder.config.standardised:
                self.standardise(stream(seed, 4))
            updates.add(*self.given(number, stream(seed, 0, number)))
        return self.ahead.means() | self.updates.means()

    def settle(self) -> None:
        """What plays becomes what has learned."""
        follow(self.network, self.learns)

    def _modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "objective": self.objective}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"encoder-adam": self.encoder} | {f"{k}-adam": v for k, v in self.policy.optimisers.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What it takes to continue; an agent needs the network alone."""
        self.settle()
        return pack(self._modules(), self._optimisers())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse."""
        unpack(tensors, self._modules(), self._optimisers())
        follow(self.learns, self.network)


def fit(
    trainer: OfflineTrainer, *, seed: int, run: Run, saved: Checkpoint | None, keep: Mapping[str, Tensor] | None = None
) -> None:
    """Makes all updates of a run; each depends on parameters, moments, seed and its own number only.

    Args:
        trainer: Its network is trained.
        seed: Of the run.
        run: Where log and checkpoints go; checkpoints count blocks of updates.
        saved: To continue from, to the same bits.
        keep: What else a checkpoint has to hold.
    """
    total, done = trainer.config.ahead + trainer.config.updates, 0
    if saved:
        done = updates_done(saved.iteration, 0, total)
        trainer.restore(saved.tensors)

    def save(done: int) -> None:
        run.save(blocks(done), dict(keep or {}) | trainer.tensors(), {})

    def block(start: int, count: int) -> Mapping[str, float]:
        return trainer.block(start, count, seed)

    in_blocks(run, "updates", updates=total, done=done, block=block, save=save)
    trainer.settle()
