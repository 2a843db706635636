"""RL2 of several seeds in one process: one environment for all slots, one network of stacked parameters."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Device, set_rate
from metabench_agents.parts.layers import watch
from metabench_agents.parts.losses import next_reward_scale
from metabench_agents.parts.memory import Rollout, trial_length, trial_steps
from metabench_agents.parts.run import Checkpoint, Run, pack, stream, unpack
from metabench_agents.parts.seeds import Stack, common_point, save_all
from metabench_agents.rl2.learning import chosen, orders, prepared, row_of
from metabench_agents.rl2.network import Agent, Network, fresh, loss
from metabench_agents.rl2.playing import Reply, empty_rollout, env_seed, play_trials, reply
from metabench_agents.rl2.settings import NAME, Config


class Seeds:
    """Runs of several seeds that learn together: one environment for all slots, one network of stacked parameters.

    Args:
        benchmark: Of all of them.
        config: Likewise.
        seeds: One per run.
        device: Where they learn.
        saved: The checkpoints they continue from, all of one iteration; none where they begin.
    """

    def __init__(
        self, benchmark: str, config: Config, seeds: Sequence[int], device: Device, saved: Sequence[Checkpoint] = ()
    ):
        if config.core != "gru":
            raise ValueError("seeds that learn together remember in a GRU: train the transformer's one by one")
        if config.ppo.target_kl:
            raise ValueError("seeds that learn together all go through every pass: leave out --ppo.target-kl")
        self.config, self.seeds, self.device = config, seeds, device
        self.ticks, trials = trial_length(NAME, benchmark, config.view), config.trials
        parts = 1 if device.kind.type == "cpu" or trials % 2 else 2  # of every seed's slots, each an environment
        slots = len(seeds) * trials
        self.envs = [make_viewed(benchmark, slots // parts, config.view, split=config.split) for _ in range(parts)]
        self.layout = torch.arange(slots).view(len(seeds), parts, -1).transpose(0, 1).flatten()  # seed by seed, in them
        self.networks = [fresh(config, self.envs[0], seed) for seed in seeds]
        self.scales = [point.state["scale"] for point in saved] or [1.0] * len(seeds)
        for network, point in zip(self.networks, saved, strict=False):
            unpack(point.tensors, {"network": network}, {})
        self.stack = Stack(self.networks, device)
        self.optimiser = device.adam(self.stack.parameters.values(), config.ppo.learning_rate, eps=1e-5)
        if saved:
            self.stack.restore(self.optimiser, [point.tensors for point in saved])
        self.batch = empty_rollout(self.networks[0], self.envs[0], self.ticks, slots)
        self.act, self.passes = device.function(self._reply), device.function(self._improve)

    def _split(self, column: Tensor, axis: int, parts: int = 1) -> Tensor:
        """Slots as `[seeds, slots of a seed]`, in front; they lie in `parts`, each with some of every seed."""
        own = column.unflatten(axis, (parts, len(self.seeds), -1)).movedim(axis + 1, 0)
        return own.flatten(axis + 1, axis + 2)

    def _reply(self, seen: tuple[Tensor, ...], hidden: Tensor, noise: Tensor) -> Reply:
        parts = tuple(self._split(column, 0) for column in seen), self._split(hidden, 0), self._split(noise, 0)
        return Reply(*(column.flatten(0, 1) for column in self.stack.call(reply, *parts)))

    def _improve(self, batch: Rollout, order: Tensor, scale: Tensor, left: Tensor | float) -> dict[str, Tensor]:
        """`improve` of every seed; `order` `[epochs, S, B]`, `scale` `[S]`."""
        settings, sums = self.config.ppo, {}
        last = torch.zeros(len(self.seeds), device=self.device.kind)
        set_rate(self.optimiser, settings.learning_rate * left)
        columns = tuple(self._split(column, 1, len(self.envs)) for column in vars(batch).values())
        ready = torch.func.vmap(lambda own, by: prepared(Rollout(*own), settings, by))(columns, scale)

        def of_seed(network: Network, own: Any, advantage: Tensor, target: Tensor, at: Tensor) -> Any:
            return loss(network, *chosen(Rollout(*own), advantage, target, at), settings, settings.entropy * left)

        for rows in (rows for one in order for rows in one.chunk(settings.minibatches, dim=1)):
            with self.device.products():
                total, metrics = self.stack.call(of_seed, columns, *ready, rows)
            norm = self.stack.descend(total, self.optimiser, settings.max_grad_norm)
            last = metrics["kl"].detach()
            for name, value in (metrics | {"grad_norm": norm}).items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        count = settings.epochs * min(settings.minibatches, order.shape[2])
        ends = {"kl_end": last, "steps": torch.full_like(last, count)}
        return {name: value / count for name, value in sums.items()} | ends

    def iterate(self, iteration: int, left: float) -> list[dict[str, float]]:
        """One iteration of every seed; each one's return, scale and metrics."""
        trials, ppo = self.config.trials, self.config.ppo
        slots = [env_seed(seed, iteration) + slot for seed in self.seeds for slot in range(trials)]
        draws, policy = (
            [self.device.generator(stream(seed, iteration, 0)) for seed in self.seeds],
            self.networks[0].policy,
        )

        def draw(*ticks: int) -> Tensor:
            return torch.cat([policy.noise(*ticks, trials, generator=g) for g in draws], dim=-2)[..., self.layout, :]

        with torch.inference_mode():
            seeds = [slots[at] for at in self.layout.tolist()]
            play_trials(self.networks[0], self.envs, self.batch, seeds, draw, self.device, self.act)
        reward, first = (self._split(column, 1, len(self.envs)) for column in (self.batch.reward, self.batch.first))
        self.scales = [
            next_reward_scale(scale, own, ppo.discount, iteration)
            for scale, own in zip(self.scales, reward, strict=True)
        ]
        order = torch.stack([orders(ppo, trials, stream(seed, iteration, 1)) for seed in self.seeds], dim=1)
        told = self.passes(self.batch, order, torch.tensor(self.scales), left)
        columns = {name: value.tolist() for name, value in told.items()}
        self._watch()
        columns |= {"return": (reward.sum((1, 2)) / first.sum((1, 2))).tolist(), "scale": self.scales}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(self.seeds))]

    def _watch(self) -> None:
        """Every seed's scale follows its own observations."""
        if not self.config.network.normalise:
            return
        for index, own in enumerate(self._split(self.batch.observation, 1, len(self.envs))):
            watch((self.networks[index],), own)
            for name, buffer in self.networks[index].named_buffers():
                self.stack.buffers[name][index].copy_(buffer)

    def tensors(self, index: int) -> dict[str, Tensor]:
        """One seed's checkpoint, as its single run would write it."""
        return pack({"network": self.networks[index]}, {}) | self.stack.moments(self.optimiser, index)


def train_seeds(
    benchmark: str, config: Config, *, seeds: Sequence[int], runs: Sequence[Run]
) -> list[Agent | DecidingAgent]:
    """Trains several seeds in one process, each into its own run, as `train` would each of them.

    A seed's numbers are those of its single run up to rounding: the products of all seeds are made together.

    Raises:
        ValueError: In one sentence, if the runs were interrupted at different iterations.
    """
    device = Device.of(config)
    points = [run.begin(NAME, benchmark, config, seed) for run, seed in zip(runs, seeds, strict=True)]
    done, saved = common_point(points)
    learners = Seeds(benchmark, config, seeds, device, saved)
    frames = trial_steps(benchmark) * config.trials
    iterations = -(-config.frames // frames)
    with runs[0].progress(iterations, done, f"iterations of {len(seeds)} seeds") as advance:
        for iteration in range(done, iterations):
            start = time.perf_counter()
            rows = learners.iterate(iteration, 1.0 - iteration / iterations)
            rate = frames * len(seeds) / (time.perf_counter() - start)
            for run, row in zip(runs, rows, strict=True):
                run.log(row_of(iteration, frames, row.pop("return"), row | {"rate": 1.0}, rate / len(seeds)))
            advance(iteration + 1, f"{rate / 1000:5.0f}k frames/s of all seeds")
            if (iteration + 1) % runs[0].checkpoint_every == 0 or iteration + 1 == iterations:
                learners.stack.write_back()
                states = [{"scale": scale, "rate": 1.0} for scale in learners.scales]
                save_all(runs, iteration + 1, [learners.tensors(i) for i in range(len(seeds))], states)
    learners.stack.write_back()
    return [deciding(Agent(network.to("cpu")), benchmark, config.view) for network in learners.networks]
