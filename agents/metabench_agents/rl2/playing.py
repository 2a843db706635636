"""Whole trials played by RL2's network: on the CPU, or with the device thinking while environments step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabench.evaluation.play import Stream
from metabench.evaluation.results import PROTOCOL_VERSION
from metabench_agents.parts.decisions import make_viewed
from metabench_agents.parts.device import Ahead, Device
from metabench_agents.parts.layers import GRU, nothing_before
from metabench_agents.parts.memory import Rollout
from metabench_agents.rl2.network import Memory, Network
from metabench_agents.rl2.settings import Config


class Reply(NamedTuple):
    """What a network says to a tick."""

    hidden: Memory  # after it
    value: Tensor  # [B]
    action: Tensor  # [B] or [B, A] in the policy's units
    log_prob: Tensor  # [B]


def reply(network: Network, seen: tuple[Tensor, ...], hidden: Memory, noise: Tensor) -> Reply:
    """One tick, as a pure function: `seen` are the arguments of `Network.tick`, `noise` `[B, A]` picks the action."""
    embedded = network.tick(*seen)
    known, hidden = network.remember(embedded, hidden)
    params, value = network.heads(embedded, known)
    action = network.policy.place(params, noise)
    return Reply(hidden, value, action, network.policy.log_prob(params, action))


Act = Callable[[tuple[Tensor, ...], Memory, Tensor], Reply]
Draw = Callable[..., Tensor]


class Table:
    """A vector environment whose slots play together, and what came of its last tick."""

    def __init__(self, env: Any, seeds: Any, where: slice, hidden: Memory):
        observation, _ = env.reset(seed=seeds)
        self.env, self.where, self.hidden = env, where, hidden
        self.shown = Stream(observation, env.single_action_space)
        self.asked: Ahead | None = None

    def ask(self, act: Act, out: Rollout, t: int, noise: Tensor, device: Device) -> tuple[Tensor, Tensor, Tensor]:
        """Writes down what is seen, and asks for actions; values, actions and log probabilities where they are."""
        step, at = self.shown.timestep(), self.where
        out.observation[t, at] = torch.from_numpy(step.observation)
        out.previous_action[t, at] = torch.from_numpy(step.action)
        out.previous_reward[t, at], out.first[t, at] = torch.from_numpy(step.reward), torch.from_numpy(step.first)
        absent = nothing_before(out.first[t, at], t > 0, PROTOCOL_VERSION)
        seen = (out.observation[t, at], out.previous_action[t, at], out.previous_reward[t, at], out.first[t, at])
        answer = act(tuple(device.put([*seen, absent])), self.hidden, noise)
        self.hidden, self.asked = answer.hidden, Ahead(answer.action)
        return answer.value, answer.action, answer.log_prob

    def play(self, network: Network, out: Rollout, t: int) -> None:
        """Takes the actions, once they are here."""
        assert self.asked is not None
        actions = network.policy.to_env(self.asked.wait())
        observation, raw, terminated, truncated, info = self.env.step(actions)
        out.reward[t, self.where] = torch.from_numpy(raw)
        self.shown.advance(actions, observation, raw, terminated | truncated, info.get("final_obs"))


@torch.inference_mode()
def collect(
    network: Network,
    envs: Any,
    out: Rollout,
    seed: int,
    generator: torch.Generator,
    device: Device | None = None,
    act: Act | None = None,
) -> float:
    """Plays one trial per slot into `out`, which is shown what an agent is; returns the mean return per episode.

    Args:
        network: Whose actions are played.
        envs: A vector environment, or several whose slots follow each other: while one is stepped, the device thinks
            about the others. The trials are the same in either case.
        out: Columns on the CPU. Where `device` is another, its values, actions and log probabilities are replaced by
            columns there.
        seed: Of the first slot, the others counting on from it.
        generator: For the actions.
        device: Where the network is.
        act: `reply` of it, in the device's form.
    """
    device = device or Device()
    draws, slots = device.generator(generator), out.reward.shape[1]
    act = act or (lambda *asked: reply(network, *asked))
    play_trials(
        network, envs, out, seed, lambda *ticks: network.policy.noise(*ticks, slots, generator=draws), device, act
    )
    return float(out.reward.sum()) / float(out.first.sum())


def play_trials(
    network: Network, envs: Any, out: Rollout, seed: int | list[int], draw: Draw, device: Device, act: Act
) -> None:
    """What `collect` says, with a seed for every slot or the first one's, and draws of any kind.

    Args:
        network: Tells of the action space.
        envs: See there.
        out: See there.
        seed: Of the first slot, the others counting on from it; or one for every slot.
        draw: Gives the noise of a tick `[B, A]`, or of so many ticks `[T, B, A]`.
        device: See there.
        act: See there.
    """
    tables, start = [], 0
    envs = envs if isinstance(envs, list) else [envs]
    for env in envs:
        where = slice(start, start + env.num_envs)
        begun = network.begin(env.num_envs, device.kind)
        tables.append(Table(env, seed[where] if isinstance(seed, list) else seed + start, where, begun))
        start = where.stop
    ticks, here = len(out.reward), device.kind.type == "cpu"
    ahead = None if here else draw(ticks)
    rows: list[list[tuple[Tensor, ...]]] = [[] for _ in tables]
    for t in range(ticks):
        noise = draw() if ahead is None else ahead[t]
        for table, said in zip(tables, rows, strict=True):
            if t:
                table.play(network, out, t - 1)
            answer = table.ask(act, out, t, noise[table.where], device)
            if here:
                out.value[t, table.where], out.action[t, table.where], out.log_prob[t, table.where] = answer
            else:
                said.append(answer)
    for table in tables:
        table.play(network, out, ticks - 1)
    if not here:
        columns = [[torch.stack(column) for column in zip(*said, strict=True)] for said in rows]
        out.value, out.action, out.log_prob = (torch.cat(parts, dim=1) for parts in zip(*columns, strict=True))


def vector_envs(benchmark: str, slots: int, config: Config, device: Device) -> list[Any]:
    """One environment of all slots on the CPU, two halves where a device can think while one of them is stepped."""
    sizes = [slots] if device.kind.type == "cpu" or slots < 2 else [slots - slots // 2, slots // 2]
    return [make_viewed(benchmark, size, config.view, split=config.split) for size in sizes]


def acting(network: Network, device: Device) -> Act:
    """`reply` of a network in the device's form; a memory that grows is in no graph, and has it eager."""

    def said(*asked: Any) -> Reply:
        return reply(network, *asked)

    if isinstance(network.core, GRU):
        return device.function(said)

    def eager(*asked: Any) -> Reply:
        with contextlib.nullcontext() if device.kind.type == "cpu" else device.float32():
            return said(*asked)

    return eager


def env_seed(seed: int, iteration: int) -> int:
    """Of an iteration's first slot; slots add up to 2^20, so no two iterations share a stream."""
    return (seed * 2**32 + iteration) * 2**20


def empty_rollout(network: Network, env: Any, ticks: int, trials: int) -> Rollout:
    """Room for one iteration, on the CPU."""
    shape = tuple(env.single_action_space.shape or ())
    return Rollout.empty(ticks, trials, network.scaler.center.shape[0], shape, network.policy.discrete)
