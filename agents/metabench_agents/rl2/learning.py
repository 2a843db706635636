"""RL2's training: trials are played, PPO passes over them."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from metabench_agents.parts.config import read_config
from metabench_agents.parts.decisions import DecidingAgent, deciding, make_viewed
from metabench_agents.parts.device import Device, set_rate
from metabench_agents.parts.layers import watch
from metabench_agents.parts.losses import PPO, gae, next_rate, next_reward_scale
from metabench_agents.parts.memory import Rollout, trial_length, trial_steps
from metabench_agents.parts.passes import passes
from metabench_agents.parts.run import Run, load_checkpoint, load_config, pack, stream, unpack
from metabench_agents.rl2.network import Agent, Network, fresh, loss
from metabench_agents.rl2.playing import acting, collect, empty_rollout, env_seed, vector_envs
from metabench_agents.rl2.settings import NAME, Config


def orders(settings: PPO, trials: int, generator: torch.Generator) -> Tensor:
    """The order of the trials in each of PPO's passes, `[epochs, B]`."""
    return torch.stack([torch.randperm(trials, generator=generator) for _ in range(settings.epochs)])


def prepared(batch: Rollout, settings: PPO, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Normalised advantages and the values' targets, `[T, B]`; rewards are divided by `scale`."""
    end = torch.zeros_like(batch.value[0])
    advantage = gae(batch.reward / scale, batch.value, end, settings.discount, settings.trace)
    target = advantage + batch.value
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8), target


def chosen(batch: Rollout, advantage: Tensor, target: Tensor, rows: Tensor) -> tuple[Rollout, Tensor, Tensor]:
    """Some of the trials."""
    return Rollout(**{n: c.index_select(1, rows) for n, c in vars(batch).items()}), advantage[:, rows], target[:, rows]


def improve(
    network: Network,
    optimiser: torch.optim.Optimizer,
    settings: PPO,
    device: Device,
    batch: Rollout,
    order: Tensor,
    scale: Tensor | float,
    left: Tensor | float,
    rate: Tensor | float = 1.0,
) -> dict[str, Tensor]:
    """PPO's passes over one iteration, as a pure function: all chance is in `order`.

    Args:
        network: Changed in place.
        optimiser: Likewise.
        settings: PPO's.
        device: Whose precision the losses have.
        batch: Whole trials.
        order: `[epochs, B]` of the trials.
        scale: What rewards are divided by.
        left: The share of the training that is left: learning rate and entropy bonus fall with it.
        rate: A factor of the learning rate; see `next_rate`.

    Returns:
        As `passes`.
    """
    set_rate(optimiser, settings.learning_rate * left * rate)
    advantage, target = prepared(batch, settings, scale)

    def loss_of(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return loss(network, *chosen(batch, advantage, target, rows), settings, settings.entropy * left)

    minibatches = (rows for one in order for rows in one.chunk(settings.minibatches))
    return passes(device, optimiser, settings, minibatches, loss_of)


def update(
    network: Network,
    optimiser: torch.optim.Optimizer,
    batch: Rollout,
    settings: PPO,
    scale: float,
    left: float,
    generator: torch.Generator,
    rate: float = 1.0,
) -> dict[str, float]:
    """`improve` on the CPU, with an order of its own."""
    order = orders(settings, batch.reward.shape[1], generator)
    told = improve(network, optimiser, settings, Device(), batch, order, scale, left, rate)
    return {name: float(value) for name, value in told.items()}


def train(benchmark: str, config: Config, *, seed: int, run: Run) -> Agent | DecidingAgent:
    """Trains on the benchmark's tasks and returns the agent; continues the run in `run.folder` to the same bits.

    An iteration depends on nothing but parameters, optimiser, reward scale, seed and its own number.
    """
    device = Device.of(config)
    checkpoint = run.begin(NAME, benchmark, config, seed)
    ticks, steps = trial_length(NAME, benchmark, config.view), trial_steps(benchmark) * config.trials
    envs = vector_envs(benchmark, config.trials, config, device)
    network = device.place(fresh(config, envs[0], seed))
    optimiser = device.adam(network.parameters(), config.ppo.learning_rate, eps=1e-5)
    done, scale, rate = 0, 1.0, 1.0
    if checkpoint:
        done, scale, rate = checkpoint.iteration, checkpoint.state["scale"], checkpoint.state.get("rate", 1.0)
        unpack(checkpoint.tensors, {"network": network}, {"adam": optimiser})
    act = acting(network, device)
    passes = device.function(lambda *given: improve(network, optimiser, config.ppo, device, *given))
    batch = empty_rollout(network, envs[0], ticks, config.trials)
    iterations = -(-config.frames // steps)
    with run.progress(iterations, done, "iterations") as advance:
        for iteration in range(done, iterations):
            start = time.perf_counter()
            draws = stream(seed, iteration, 0)
            mean_return = collect(network, envs, batch, env_seed(seed, iteration), draws, device, act)
            scale = next_reward_scale(scale, batch.reward, config.ppo.discount, iteration)
            order = orders(config.ppo, config.trials, stream(seed, iteration, 1))
            told = passes(batch, order, scale, 1.0 - iteration / iterations, rate)
            metrics = {name: float(value) for name, value in told.items()}
            watch((network,), batch.observation)
            rate = next_rate(rate, metrics["kl_end"], config.ppo)
            speed = steps / (time.perf_counter() - start)
            state = {"scale": scale, "rate": rate}
            run.log(row_of(iteration, steps, mean_return, state | metrics, speed))
            advance(iteration + 1, f"return {mean_return:7.2f}   {speed / 1000:5.0f}k frames/s")
            if (iteration + 1) % run.checkpoint_every == 0 or iteration + 1 == iterations:
                run.save(iteration + 1, pack({"network": network}, {"adam": optimiser}), state)
    return deciding(Agent(network.to("cpu")), benchmark, config.view)


def row_of(
    iteration: int, frames: int, mean_return: float, metrics: dict[str, float], speed: float
) -> dict[str, float]:
    """An iteration's row of the log."""
    head = {"iteration": iteration + 1, "frames": (iteration + 1) * frames, "return": mean_return}
    return head | metrics | {"time/frames_per_s": speed}


def load(path: Path) -> Agent | DecidingAgent:
    """The agent of the run in folder `path`; ValueError if there is none."""
    settings, checkpoint = load_config(path), load_checkpoint(path)
    config = read_config(Config, settings["config"])
    env = make_viewed(settings["benchmark"], 1, config.view)
    network = Network(config.network, env, config.transformer if config.core == "transformer" else None)
    unpack(checkpoint.tensors, {"network": network}, {})
    return deciding(Agent(network, settings["protocol"]), settings["benchmark"], config.view)
