"""The oracle where there is no closed form: one soft actor-critic that sees the task, trained on all tasks at once.

It is the yardstick that stands for 1 on the normalised scale, and the behaviour policy of offline datasets: its
checkpoints along the way, the `stages`, are policies of rising skill. Source of the update: `oracle.sac`
(arXiv 1812.05905). Offline meta-RL papers train one SAC per task instead (Meta-DT's collectors: 45 runs of 500,000
steps); one network that is shown the task generalises to tasks it has not played, so test tasks are never trained on.

Tasks come from the training ranges (`fresh`), or with `tasks="legal"` from the whole legal range of every parameter,
so that the yardstick knows its way on the ranges of `ood` too; rows of evaluation tables are never asked for.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import metabench
from metabench import Behaviour, SlotRng, Timestep
from metabench.evaluation.results import Protocol
from metabench_agents.oracle.sac import CLIP, SAC, SACConfig, Transitions, gaussian
from metabench_agents.parts.memory import Replay
from metabench_agents.parts.run import Run, load_checkpoint, load_config, stream

NAME = "sac-oracle"
STAGES = "stages.safetensors"  # in the folder of a run: every stage so far
PARTS = ("center", "inverse", "w1", "b1", "w2", "b2", "w3", "b3")  # of a stage, half precision


@dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    frames: int = 1_000_000  # environment steps in all
    slots: int = 64  # episodes played together
    updates: int = 8  # per step of all slots
    random_episodes: int = 1  # per slot, before the policy plays
    capacity: int = 1_000_000  # steps kept
    tasks: Literal["fresh", "train", "legal"] = "fresh"  # where training tasks come from
    stage_every: int = 5  # iterations (episodes of all slots) between stages
    hidden: int = 256  # width of both hidden layers
    batch: int = 256  # steps of an update
    discount: float = 0.99  # gamma
    critic_rate: float = 1e-3  # Adam's learning rate of the critics and the temperature
    actor_rate: float = 3e-4  # Adam's learning rate of the actor
    entropy: float = 1.0  # target entropy is minus this per action dimension
    bfloat16: bool = False  # matrix products with bfloat16 inputs: faster where the CPU has them in hardware
    compiled: bool = False  # the update as one compiled graph: faster after some thousand updates


class Agent:
    """A trained actor that sees the task.

    Belief: the streams of its noise, or nothing where it takes the mean's action.
    """

    name, privileged = NAME, True

    def __init__(self, weights: Mapping[str, Tensor], space: spaces.Box, noise_seed: int | None = None):
        self.weights = {name: tensor.float() for name, tensor in weights.items()}
        self.actor = [self.weights[name] for name in PARTS[2:]]
        self.low, self.high = np.asarray(space.low), np.asarray(space.high)
        self.noise_seed = noise_seed  # None: the mean's action

    def begin(self, num_trials: int) -> Any:
        """Keys and counters of the trials' streams; None without noise."""
        if self.noise_seed is None:
            return None
        return SlotRng.counting(self.noise_seed * 2**32, num_trials).state()

    @torch.inference_mode()
    def act(self, step: Timestep, belief: Any) -> tuple[np.ndarray, Any]:
        """The policy's action for the task it sees."""
        observation = torch.as_tensor(step.observation).float()
        scaled = ((observation - self.weights["center"]) * self.weights["inverse"]).clamp(-CLIP, CLIP)
        mean, log_std = gaussian(self.actor, scaled)
        if belief is not None:
            rng = SlotRng(belief[0], belief[1].copy())
            noise = rng.normal(size=mean.shape[1]).astype(np.float32)
            mean, belief = mean + log_std.exp() * torch.from_numpy(noise), rng.state()
        return to_space(torch.tanh(mean).numpy(), self.low, self.high), belief


def to_space(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions in [-1, 1] as the box has them."""
    return np.clip((high + low) / 2 + (high - low) / 2 * action, low, high).astype(low.dtype)


def snapshot(sac: SAC) -> dict[str, Tensor]:
    """The actor with its scaling in half precision: what a stage keeps."""
    tensors = (sac.center, sac.inverse, *sac.learner.actor)
    return {name: tensor.detach().half().clone() for name, tensor in zip(PARTS, tensors, strict=True)}


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


def collect(sac: SAC, env: Any, replay: Replay, config: Config, iteration: int, tasks: Any, seed: int) -> Any:
    """Plays one episode's length in every slot, learning on the way; yields after every step its mean reward."""
    generator, space = stream(seed, iteration, 0), env.single_action_space
    options = None if tasks is None else {"task": tasks}
    observation = torch.from_numpy(env.reset(seed=(seed * 2**32 + iteration) * 2**20, options=options)[0]).float()
    sac.observe(observation)
    shape = (env.num_envs, space.shape[0])
    while True:
        if iteration < config.random_episodes:
            action = torch.rand(shape, generator=generator) * 2.0 - 1.0
        else:
            action = sac.act(observation, generator)
        played = to_space(action.numpy(), space.low, space.high)
        following, reward, terminated, truncated, info = env.step(played)
        last = info.get("final_obs", following)  # where an episode ends, what it ended in
        done = (terminated | truncated)[:, None]
        target = torch.from_numpy(np.where(done, last, following)).float()
        replay.add(observation, action, torch.from_numpy(reward).float(), target, torch.from_numpy(terminated).float())
        observation = torch.from_numpy(following).float()
        sac.observe(observation)
        metrics: dict[str, Tensor] = {}
        if iteration >= config.random_episodes:
            for part in replay.sample(config.updates, config.batch, generator):
                metrics = sac.update(Transitions(*part), generator)
        yield float(reward.mean()), metrics


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> Agent:
    """Trains on the benchmark's training tasks and returns the agent; continues the run in `run.folder`.

    An iteration is one episode's length of all slots. It depends on the learner, the replay, the seed and its own
    number.

    Raises:
        ValueError: In one sentence, for actions that are no bounded box.
    """
    checkpoint = run.begin(NAME, benchmark, config, seed)
    split = "train" if config.tasks == "train" else "fresh"
    env = metabench.make_vec(benchmark, config.slots, split=split, episodes_per_task=1, expose_task=True)
    space = env.single_action_space
    if not isinstance(space, spaces.Box) or not np.isfinite([space.low, space.high]).all():
        raise ValueError(f"{NAME} needs actions in a bounded box, and those of {benchmark} are {space}")
    horizon, columns = metabench.spec(benchmark).horizon, int(np.prod(env.single_observation_space.shape or ()))
    settings = SACConfig(
        **{name: getattr(config, name) for name in SACConfig.__dataclass_fields__ if hasattr(config, name)}
    )
    sac = SAC(columns, space.shape[0], settings, stream(seed))
    replay = Replay(min(config.capacity, config.frames + config.slots * horizon), columns, space.shape[0])
    done, stages = 0, Stages([], [])
    if checkpoint:
        done = checkpoint.iteration
        sac.load(checkpoint.tensors)
        replay.written = checkpoint.state["written"]
        replay.rows[: len(replay)] = checkpoint.tensors["replay/rows"]
        stages = Stages.load(run.folder / STAGES).until(done)
    iterations = -(-config.frames // (horizon * config.slots))
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start, total, metrics = time.perf_counter(), 0.0, {}
            tasks = draw_tasks(benchmark, config.tasks, config.slots, seed * 2**32 + iteration)
            played = collect(sac, env, replay, config, iteration, tasks, seed)
            for (reward, latest), _ in zip(played, range(horizon), strict=False):
                total, metrics = total + reward, latest
            row = {"iteration": iteration + 1, "frames": (iteration + 1) * horizon * config.slots, "return": total}
            row |= {name: float(value) for name, value in metrics.items()}
            last = iteration + 1 == iterations
            if (iteration + 1) % config.stage_every == 0 or last:
                agent = Agent(snapshot(sac), space)
                row["return_train"] = training_return(agent, benchmark)
                stages = stages.add(iteration + 1, row["frames"], row["return_train"], agent.weights)
                stages.save(run.folder / STAGES)
            run.log(row | {"time/seconds": time.perf_counter() - start})
            advance(iteration + 1, f"return {total:8.2f}")
            if (iteration + 1) % run.checkpoint_every == 0 or last:
                kept = {f"policy/{name}": part for name, part in snapshot(sac).items()}
                kept["replay/rows"] = replay.rows[: len(replay)]
                run.save(iteration + 1, sac.tensors() | kept, {"written": replay.written})
    return Agent(stages.weights[-1], space)


def training_return(agent: metabench.Agent[Any], benchmark: str) -> float:
    """Mean return of one episode per task of the split `train`."""
    protocol = Protocol(benchmark=benchmark, split="train", episodes=1, repeats=1, seed=1)
    return float(metabench.evaluate(agent, protocol).array().mean())


@dataclass(frozen=True)
class Stages:
    """Actors along one training run, in order, as one file of tensors."""

    records: Sequence[Mapping[str, Any]]  # iteration, frames, mean return on `train`
    weights: Sequence[Mapping[str, Tensor]]

    def add(self, iteration: int, frames: int, level: float, weights: Mapping[str, Tensor]) -> Stages:
        """These and one more."""
        record = {"iteration": iteration, "frames": frames, "return": level}
        half = {name: tensor.half() for name, tensor in weights.items()}
        return Stages([*self.records, record], [*self.weights, half])

    def until(self, iteration: int) -> Stages:
        """Those of the first iterations."""
        kept = [i for i, record in enumerate(self.records) if record["iteration"] <= iteration]
        return self.pick(kept)

    def pick(self, index: Sequence[int]) -> Stages:
        """Those with these indices."""
        return Stages([self.records[i] for i in index], [self.weights[i] for i in index])

    def save(self, path: Path, about: Mapping[str, Any] | None = None) -> None:
        """Writes the file: the old one or the new one, whole, at every moment."""
        tensors = {f"{i}/{name}": t.contiguous() for i, part in enumerate(self.weights) for name, t in part.items()}
        temporary = path.with_name(f".{path.name}.part")
        save_file(
            tensors, temporary, metadata={"stages": json.dumps(list(self.records)), "about": json.dumps(about or {})}
        )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Stages:
        """Reads the file; no stages where there is none."""
        if not path.is_file():
            return cls([], [])
        with safe_open(str(path), framework="pt") as file:  # pyright: ignore[reportPrivateImportUsage]
            records = json.loads(file.metadata()["stages"])
            weights = [{name: file.get_tensor(f"{i}/{name}") for name in PARTS} for i in range(len(records))]
        return cls(records, weights)


def file_hash(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_stages(benchmark: str, path: Path) -> tuple[Stages, Mapping[str, Any]]:
    """The shipped stages and what is said about them; ValueError if they were trained on other observations."""
    stages = Stages.load(path)
    with safe_open(str(path), framework="pt") as file:  # pyright: ignore[reportPrivateImportUsage]
        about = json.loads(file.metadata()["about"])
    family = metabench.spec(benchmark).family()
    columns = len(family.observation_fields) + len(fields(family.context_type))
    if stages.weights[0]["center"].shape[0] != columns:
        raise ValueError(f"{path.name} was trained on other observations than those of {benchmark}")
    return stages, about


def shipped_agent(benchmark: str, path: Path) -> Agent:
    """The best stage that comes with the package, taking its mean action: the yardstick."""
    stages, _ = read_stages(benchmark, path)
    space: Any = metabench.spec(benchmark).family().action_space
    return Agent(stages.weights[-1], space)


def stage_behaviours(benchmark: str, path: Path, quality: str) -> Sequence[Behaviour]:
    """The stages of a quality as behaviour policies with their own noise."""
    stages, about = read_stages(benchmark, path)
    space: Any = metabench.spec(benchmark).family().action_space
    digest = file_hash(path)
    chosen = {"medium": [about["medium"]], "expert": [len(stages.weights) - 1], "replay": range(len(stages.weights))}

    def behaviour(index: int) -> Behaviour:
        frames, weights = stages.records[index]["frames"], stages.weights[index]
        settings = {"stage": index, "weights": path.name}
        name = f"{NAME} after {frames} steps"
        return Behaviour(name, frames, digest, settings, lambda seed: Agent(weights, space, noise_seed=seed))

    return [behaviour(index) for index in chosen[quality]]


def load(path: Path) -> Agent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, saved = load_config(path), load_checkpoint(path).tensors
    space: Any = metabench.spec(settings["benchmark"]).family().action_space
    return Agent({name: saved[f"policy/{name}"] for name in PARTS}, space)
