"""Training the encoder by whatever loss an algorithm brings, and the policy on the z it gives, many tasks at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metabench_agents.context.actor_critic import find_device, placed
from metabench_agents.context.offline.actor_critic import OfflineLearner
from metabench_agents.context.offline.data import TaskData
from metabench_agents.context.offline.encoder import TransitionEncoder, mean_of_first
from metabench_agents.context.offline.network import OfflineNetwork
from metabench_agents.context.replay import Transitions
from metabench_agents.parts.fast.precision import Precision, products
from metabench_agents.parts.run import Checkpoint, Run, pack, stream, unpack

BLOCK = 100  # updates between two rows of the log
SAVE_SECONDS = 60.0  # a checkpoint at least this often; when it is written does not change what is learned


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
    precision: Precision = "fp32"  # of the products; bf16 is faster where the processor has it
    compile: bool = False  # torch.compile IQL's loss
    device: str = "cpu"  # of the updates: "cpu", "cuda", or "auto"; it plays on the CPU


class Contexts(NamedTuple):
    """What an encoder learns from in one update."""

    tasks: Tensor  # [T] numbers of tasks; some are the same
    seen: Transitions  # [T, C, ...]
    codes: Tensor  # [T, C, L] what the encoder makes of them

    @property
    def z(self) -> Tensor:
        """`[T, L]` of the whole contexts."""
        return self.codes.mean(1)


# (encoder, contexts, generator) -> (loss, metrics); a module, for it may have parameters that learn with the encoder.
Objective = Callable[[TransitionEncoder, Contexts, torch.Generator], tuple[Tensor, dict[str, Tensor]]]


class OfflineTrainer:
    """All that changes in a run.

    Args:
        network: Trained in place; its scales are set already.
        objective: The encoder's loss: a module called like `Objective`.
        data: Of the training tasks.
        config: Sizes and rates.
    """

    def __init__(self, network: OfflineNetwork, objective: nn.Module, data: TaskData, config: FittingConfig):
        self.network, self.objective, self.config = network, objective, config
        self.device = find_device(config.device)
        self.data = data.to(self.device)
        self.learner = OfflineLearner(network.core, config.compile)
        learned = [*network.encoder.parameters(), *objective.parameters()]
        self.encoder = torch.optim.Adam(learned, lr=config.learning_rate, fused=True)

    def update(self, number: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Update `number`: of the encoder alone at first, then of the policy, with the encoder or without."""
        own = self.config
        self._slow_down(number)
        tasks = self.data.draw_tasks(own.tasks, generator)
        seen = self.data.draw(tasks, own.context, generator)
        learns = number < own.ahead or own.together
        with products(own.precision, self.device.type):
            with torch.set_grad_enabled(learns):
                codes = self.network.encoder.codes(seen)
            metrics: dict[str, Tensor] = {}
            if learns:
                metrics = self._represent(Contexts(tasks, seen, codes), generator)
            if number >= own.ahead:
                metrics |= self._improve(tasks, codes.detach(), generator)
        return metrics

    def _represent(self, contexts: Contexts, generator: torch.Generator) -> dict[str, Tensor]:
        total, metrics = self.objective(self.network.encoder, contexts, generator)
        self.encoder.zero_grad(set_to_none=True)
        total.backward()
        self.encoder.step()
        return {"encoder_loss": total.detach()} | metrics

    def _improve(self, tasks: Tensor, codes: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        own = self.config
        lengths = torch.full((len(tasks),), own.context)
        if own.varied:
            lengths = torch.randint(1, own.context + 1, (len(tasks),), generator=generator)
        lengths = torch.where(torch.rand(len(tasks), generator=generator) < own.empty, 0, lengths)
        z = mean_of_first(codes, lengths.to(self.device))
        learning = self.network.core.config
        count = learning.brac.dual_updates + 1 if learning.kind == "brac" else 1
        drawn = self.network.told(self.data.draw(tasks, count * own.batch, generator))
        parts = [Transitions(*part) for part in zip(*(c.split(own.batch, dim=1) for c in drawn), strict=True)]
        return dict(self.learner.update(parts[0], z, parts[1:], generator))

    def _slow_down(self, number: int) -> None:
        own, total = self.config, self.config.ahead + self.config.updates
        if not own.decay:
            return
        learned = total if own.together else max(1, own.ahead)  # updates that the encoder has
        for group in self.encoder.param_groups:
            group["lr"] = own.learning_rate * max(0.0, 1.0 - number / learned)
        self.learner.slow_down(1.0 - max(0, number - own.ahead) / max(1, own.updates))

    def modules(self) -> dict[str, nn.Module]:
        """What is saved; an agent needs the network alone."""
        return {"network": self.network, "objective": self.objective}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """By the names under which their moments are saved."""
        return {"encoder-adam": self.encoder} | {f"{k}-adam": v for k, v in self.learner.optimisers.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What it takes to continue."""
        return pack(self.modules(), self.optimisers())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse."""
        unpack(tensors, self.modules(), self.optimisers())


def fit(
    trainer: OfflineTrainer, *, seed: int, run: Run, saved: Checkpoint | None, keep: Mapping[str, Tensor] | None = None
) -> None:
    """Makes all updates of a run; each depends on parameters, moments, seed and its own number only.

    Args:
        trainer: Its network is trained in place.
        seed: Of the run.
        run: Where log and checkpoints go; checkpoints count blocks of `BLOCK` updates.
        saved: To continue from, to the same bits.
        keep: What else a checkpoint has to hold.
    """
    own, done = trainer.config, 0
    total = own.ahead + own.updates
    if saved:
        done = min(saved.iteration * BLOCK, total)
        trainer.restore(saved.tensors)
    last = time.monotonic()
    optimisers = trainer.optimisers().values()
    with run.progress(total, done, "updates") as advance, placed(trainer.device, trainer.network, *optimisers):
        trainer.objective.to(trainer.device)
        while done < total:
            start, sums, count = time.perf_counter(), {}, min(BLOCK, total - done)
            for number in range(done, done + count):
                for name, value in trainer.update(number, stream(seed, 0, number)).items():
                    sums.setdefault(name, []).append(value.detach())
            done += count
            row = {name: float(torch.stack(values).mean()) for name, values in sums.items()}
            rate = count / (time.perf_counter() - start)
            run.log({"update": done} | row | {"time/updates_per_s": rate})
            advance(done, f"loss {next(iter(row.values())):8.4f}   {rate:6.1f} updates/s")
            if done == total or run.stop_requested or time.monotonic() - last > SAVE_SECONDS:
                run.save(-(-done // BLOCK), dict(keep or {}) | trainer.tensors(), {})
                last = time.monotonic()
        trainer.objective.to("cpu")
