"""The oracle where there is no closed form: one soft actor-critic that sees the task, trained on all tasks at once.

It is the yardstick that stands for 1 on the normalised scale, and the behaviour policy of offline datasets: its
checkpoints along the way, the `stages`, are policies of rising skill. Source of the update: `parts.fast.sac`
(arXiv 1812.05905). Offline meta-RL papers train one SAC per task instead (Meta-DT's collectors: 45 runs of 500,000
steps); one network that is shown the task generalises to tasks it has not played, so test tasks are never trained on.

Tasks come from the training ranges (`fresh`), or with `tasks="legal"` from the whole legal range of every parameter,
so that the yardstick knows its way on the ranges of `ood` too; rows of evaluation tables are never asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

import metabench
from metabench.evaluation.results import Protocol
from metabench_agents.oracle.actor import NAME, PARTS, TrainedOracle, snapshot, to_space
from metabench_agents.oracle.weights import STAGES, Stages
from metabench_agents.parts.device import Ahead, Computing, Device
from metabench_agents.parts.fast.sac import SAC, SACConfig, SeedSAC
from metabench_agents.parts.memory import Replay
from metabench_agents.parts.run import Checkpoint, Run, load_checkpoint, load_config, stream
from metabench_agents.parts.seeds import common_point, save_all


@dataclass(frozen=True)
class Config(Computing):
    """Settings of one training run."""

    frames: int = 1_000_000  # environment steps in all
    slots: int = 64  # episodes played together
    updates: int = 8  # per step of all slots
    random_episodes: int = field(default=1, metadata={"low": 0})  # per slot, before the policy plays
    capacity: int = 1_000_000  # steps kept
    tasks: Literal["fresh", "train", "legal"] = "fresh"  # where training tasks come from
    stage_every: int = 5  # iterations (episodes of all slots) between stages
    sac: SACConfig = field(default_factory=SACConfig)  # the update


def draw_tasks(benchmark: str, tasks: str, count: int, seed: int) -> Any:
    """`count` training tasks for `reset(options={"task": ...})`; None where the environment draws its own."""
    if tasks != "legal":
        return None
    chosen = metabench.spec(benchmark)
    table, family = chosen.table(), chosen.family()
    ranges = list(table.ranges.values())
    rng, picked = np.random.default_rng(seed), []
    while len(picked) < count:
        values = [
            float(rng.integers(int(r.low), int(r.high) + 1)) if r.integer else rng.uniform(r.low, r.high)
            for r in ranges
        ]
        task = dict(zip(table.ranges, values, strict=True))
        context = family.context_type(**{name: np.array([value]) for name, value in task.items()})
        if not family.reject(context):
            picked.append(task)
    return picked


class Alone:
    """One seed: its soft actor-critic, its replay, and how they play and learn."""

    def __init__(self, sac: SAC, replay: Replay, config: Config):
        self.sac, self.replay, self.config = sac, replay, config
        self.updates = sac.updates(replay, config.updates)

    def observe(self, observation: Tensor) -> None:
        """`[B, O]` more observations."""
        self.sac.observe(observation)

    def act(self, observation: Tensor, draws: Sequence[torch.Generator], chance: bool) -> Tensor:
        """Actions `[B, A]`; at random before the policy plays."""
        if chance:
            return torch.rand((len(observation), self.sac.action), generator=draws[0]) * 2.0 - 1.0
        return self.sac.act(observation, draws[0])

    def add(self, *steps: Tensor) -> None:
        """`[B, ...]` steps, as `Replay.add` takes them."""
        self.replay.add(*steps)

    def learn(self, draws: Sequence[torch.Generator]) -> None:
        """The updates that belong to a step of all slots."""
        size = self.config.sac.batch
        for pick in self.replay.picks(self.config.updates, size, draws[0]):
            self.updates.add(pick, torch.randn((2, size, self.sac.action), generator=draws[0]))


class Together:
    """Several seeds as one: slots `[S B]` are the seeds' one after the other."""

    def __init__(self, sacs: Sequence[SAC], replays: Sequence[Replay], config: Config):
        self.sac, self.replays, self.config = SeedSAC(sacs), replays, config
        self.updates = self.sac.updates(replays, config.updates)

    def _split(self, column: Tensor) -> Tensor:
        return column.unflatten(0, (len(self.replays), -1))

    def observe(self, observation: Tensor) -> None:
        """As `Alone.observe`, seed by seed."""
        self.sac.observe(self._split(observation))

    def act(self, observation: Tensor, draws: Sequence[torch.Generator], chance: bool) -> Tensor:
        """As `Alone.act`."""
        own = self._split(observation)
        if chance:
            shape = (own.shape[1], self.sac.action)
            return torch.cat([torch.rand(shape, generator=g) * 2.0 - 1.0 for g in draws])
        return self.sac.act(own, draws).flatten(0, 1)

    def add(self, *steps: Tensor) -> None:
        """As `Alone.add`."""
        for replay, own in zip(self.replays, zip(*(self._split(x) for x in steps), strict=True), strict=True):
            replay.add(*own)

    def learn(self, draws: Sequence[torch.Generator]) -> None:
        """As `Alone.learn`."""
        size, count = self.config.sac.batch, self.config.updates
        drawn = []
        for replay, g in zip(self.replays, draws, strict=True):
            picks = replay.picks(count, size, g)
            drawn.append([(pick, torch.randn((2, size, self.sac.action), generator=g)) for pick in picks])
        for own in zip(*drawn, strict=True):
            self.updates.add(*(torch.stack(column) for column in zip(*own, strict=True)))


def collect(
    learner: Alone | Together,
    env: Any,
    config: Config,
    iteration: int,
    tasks: Any,
    seeds: Sequence[int],
    device: Device,
) -> Iterator[np.ndarray]:
    """Plays one episode's length in every slot, learning on the way; yields after every step its rewards.

    On a GPU the updates run while the environments are stepped, and so are made before the step is kept.
    """
    draws, space = [stream(seed, iteration, 0) for seed in seeds], env.single_action_space
    options, slots = None if tasks is None else {"task": tasks}, env.num_envs // len(seeds)
    starts = [(seed * 2**32 + iteration) * 2**20 for seed in seeds]
    first = starts[0] if len(seeds) == 1 else [start + slot for start in starts for slot in range(slots)]
    observation = torch.from_numpy(env.reset(seed=first, options=options)[0]).float()
    learner.observe(observation)
    chance = iteration < config.random_episodes
    while True:
        action = Ahead(learner.act(observation, draws, chance)).wait()
        if not chance and not device.plain:
            learner.learn(draws)
        following, reward, terminated, truncated, info = env.step(to_space(action.numpy(), space.low, space.high))
        last = info.get("final_obs", following)  # where an episode ends, what it ended in
        done = (terminated | truncated)[:, None]
        target = torch.from_numpy(np.where(done, last, following)).float()
        learner.add(observation, action, torch.from_numpy(reward).float(), target, torch.from_numpy(terminated).float())
        observation = torch.from_numpy(following).float()
        learner.observe(observation)
        if not chance and device.plain:
            learner.learn(draws)
        yield reward


def _environment(benchmark: str, config: Config, slots: int) -> Any:
    """Of training; ValueError in one sentence for actions that are no bounded box."""
    split = "train" if config.tasks == "train" else "fresh"
    env = metabench.make_vec(benchmark, slots, split=split, episodes_per_task=1, expose_task=True)
    space = env.single_action_space
    if not isinstance(space, spaces.Box) or not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"{NAME} needs actions in a bounded box, and those of {benchmark} are {space}")
    return env


class Member:
    """One seed of a run: what it learns with, and what its folder holds."""

    def __init__(self, run: Run, seed: int, env: Any, config: Config, horizon: int, device: Device):
        columns, self.space = int(np.prod(env.single_observation_space.shape or ())), env.single_action_space
        actions = self.space.shape[0]
        self.run, self.seed, self.config, self.frames = run, seed, config, horizon * config.slots
        self.sac = SAC(columns, actions, config.sac, stream(seed), device)
        capacity = min(config.capacity, config.frames + self.frames)
        self.replay, self.stages = Replay(capacity, columns, actions, device.kind), Stages([], [])

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes up a checkpoint."""
        self.sac.load(checkpoint.tensors)
        self.replay.written = checkpoint.state["written"]
        self.replay.rows[: len(self.replay)] = checkpoint.tensors["replay/rows"].to(self.replay.rows.device)
        self.stages = Stages.load(self.run.folder / STAGES).until(checkpoint.iteration)

    def tell(self, benchmark: str, iteration: int, metrics: dict[str, float], last: bool, seconds: float) -> None:
        """Logs an iteration; every so often keeps a stage."""
        row = {"iteration": iteration + 1, "frames": (iteration + 1) * self.frames} | metrics
        if (iteration + 1) % self.config.stage_every == 0 or last:
            agent = TrainedOracle(snapshot(self.sac), self.space)
            row["return_train"] = training_return(agent, benchmark)
            self.stages = self.stages.add(iteration + 1, int(row["frames"]), row["return_train"], agent.weights)
            self.stages.save(self.run.folder / STAGES)
        self.run.log(row | {"time/seconds": seconds})

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        kept = {f"policy/{name}": part for name, part in snapshot(self.sac).items()}
        kept["replay/rows"] = self.replay.rows[: len(self.replay)]
        return self.sac.tensors() | kept


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> TrainedOracle:
    """Trains on the benchmark's training tasks and returns the agent; continues the run in `run.folder`.

    An iteration is one episode's length of all slots. It depends on what is learned, the replay, the seed and its own
    number.

    Raises:
        ValueError: In one sentence, for actions that are no bounded box.
    """
    return train_seeds(benchmark, config, seeds=(seed,), runs=(run,))[0]


def train_seeds(benchmark: str, config: Config, *, seeds: Sequence[int], runs: Sequence[Run]) -> list[TrainedOracle]:
    """Trains several seeds in one process, each into its own run, as `train` would each of them.

    Raises:
        ValueError: As `train`, and if the runs were interrupted at different iterations.
    """
    device = Device.of(config)
    points = [run.begin(NAME, benchmark, config, seed) for run, seed in zip(runs, seeds, strict=True)]
    done, saved = common_point(points)
    env, horizon = _environment(benchmark, config, config.slots * len(seeds)), metabench.spec(benchmark).horizon
    members = [Member(run, seed, env, config, horizon, device) for run, seed in zip(runs, seeds, strict=True)]
    for member, point in zip(members, saved, strict=False):
        member.restore(point)
    own = ([member.sac for member in members], [member.replay for member in members], config)
    learner = Together(*own) if len(seeds) > 1 else Alone(own[0][0], own[1][0], config)
    iterations = -(-config.frames // (horizon * config.slots))
    with runs[0].progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start, last = time.perf_counter(), iteration + 1 == iterations
            drawn = [draw_tasks(benchmark, config.tasks, config.slots, seed * 2**32 + iteration) for seed in seeds]
            tasks = None if drawn[0] is None else [task for some in drawn for task in some]
            played = collect(learner, env, config, iteration, tasks, seeds, device)
            total = sum(reward for reward, _ in zip(played, range(horizon), strict=False))
            returns = np.reshape(total, (len(seeds), -1)).mean(1)
            if isinstance(learner, Together):
                learner.updates.flush()
                learner.sac.write_back()
            means = learner.updates.mean_tensors()
            for index, member in enumerate(members):
                mine = {name: float(value.reshape(-1)[index]) for name, value in means.items()}
                mine = {"return": float(returns[index])} | mine
                member.tell(benchmark, iteration, mine, last, time.perf_counter() - start)
            advance(iteration + 1, f"return {returns.mean():8.2f}")
            if (iteration + 1) % runs[0].checkpoint_every == 0 or last:
                states = [{"written": member.replay.written} for member in members]
                save_all(runs, iteration + 1, [member.tensors() for member in members], states)
    return [TrainedOracle(member.stages.weights[-1], member.space) for member in members]


def training_return(agent: metabench.Agent[Any], benchmark: str) -> float:
    """Mean return of one episode per task of the split `train`."""
    protocol = Protocol(benchmark=benchmark, split="train", episodes=1, repeats=1, seed=1)
    return float(metabench.evaluate(agent, protocol).array().mean())


def load(path: Path) -> TrainedOracle:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path).tensors
    space: Any = metabench.spec(settings["benchmark"]).family().action_space
    weights = {name: saved[f"policy/{name}"] for name in PARTS}
    return TrainedOracle(weights, space, protocol=settings["protocol"])
