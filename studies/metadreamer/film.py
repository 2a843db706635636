"""A film of what MetaDreamer imagines: the last episode of a trial in the simulator, and beside it in its own model.

    python -m studies.metadreamer.film RUN docs/images/highway-merge-imagined.webp

`RUN` is the folder of a run in rounds on HighwayMerge, or a published policy of the board. The agent plays a trial of a
task that it has never met; where its last episode begins, model and simulator start from the same state, the same
policy drives in both, and the model is told nothing but the latent that was inferred from the episodes before.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from metabench_agents.context.acting import GuessingAgent
from torch import Tensor

import metabench
from metabench.evaluation.play import Stream
from metabench.evaluation.results import write_atomically
from metabench.families.highway_merge import HighwayMerge
from metabench.plotting.film import Scene, compose, encode, label_of
from metabench.plugins import load_agent
from metabench.rng import Array

BENCHMARK = "HighwayMerge-v0"
SPLIT = "test"
WIDTH = 400  # pixels of a road


class Episode(NamedTuple):
    """One episode of one task, in the simulator or in the model."""

    states: list[Any]  # of the family, the first included
    rewards: list[float]  # of every step


def last_episode(agent: GuessingAgent, task: int, seed: int) -> tuple[Episode, Tensor, Tensor]:
    """Plays a trial in the simulator; its last episode, the observation that it began with, and the guess there."""
    family, episodes = HighwayMerge(), metabench.spec(BENCHMARK).episodes
    env = metabench.make(BENCHMARK, split=SPLIT, episodes_per_task=episodes)
    belief = agent.begin(1)
    observation, _ = env.reset(seed=seed, options={"task": task})
    stream, left = Stream(observation[None], env.action_space, agent.protocol), episodes
    start, seen, rewards, guess, terminated = observation, [observation], [], torch.zeros(1, 0), False
    while left:
        action, belief = agent.act(stream.timestep(), belief)
        guess = belief.guess.z
        observation, reward, terminated, truncated, _ = env.step(np.asarray(action)[0])
        over, final = terminated or truncated, observation[None]
        seen.append(observation)
        rewards.append(float(reward))
        if over:
            left -= 1
            if left:
                observation, _ = env.reset()
                start, seen, rewards = observation, [observation], []
        stream.advance(np.asarray(action), observation[None], np.array([reward]), np.array([over]), final)
    env.close()
    states = [family.state_of(row[None]) for row in seen]
    if terminated:
        states[-1] = states[-1]._replace(crashed=np.ones(1, dtype=bool))
    return Episode(states, rewards), torch.as_tensor(start[None]), guess


@torch.inference_mode()
def imagined_episode(agent: GuessingAgent, start: Tensor, z: Tensor) -> Episode:
    """The agent's own policy in its own model of the task z `[1, L]`, from the first observation `[1, O]`."""
    family, sight = HighwayMerge(), agent.sight
    core, decoder = agent.network.core, agent.network.model.decoder
    if sight is None:
        raise ValueError("the agent has not learned in its model; take a run of metadreamer with --learner ppo")
    world, alive = decoder.enter(start, z), torch.ones(1, dtype=torch.bool)
    action = torch.zeros(1, core.actions.size)
    episode = Episode([family.state_of(start.numpy())], [])
    for step in range(family.horizon):
        seen = decoder.observe(world)
        if step % sight.view.hold == 0:
            shown = sight(seen, torch.full((1,), step))
            action = core.act(core.see(shown, z), torch.zeros_like(action)).action
        world, reward, alive, _ = decoder.hold(world, action, alive, 1)
        state = family.state_of(decoder.observe(world).numpy())
        episode.states.append(state._replace(crashed=~alive.numpy()))
        episode.rewards.append(float(reward))
        if not alive.any():
            break
    return episode


def scene(episode: Episode, task: int, label: str) -> Scene:
    """Its pictures and rewards."""
    family = HighwayMerge()
    context = family.context_type(*metabench.spec(BENCHMARK).table().rows[SPLIT][task][:, None])
    frames: dict[int, Array] = {k: family.picture(state, context, 0) for k, state in enumerate(episode.states)}
    return Scene(task, label, frames, [math.nan, *episode.rewards])


def make(agent: GuessingAgent, tasks: Sequence[int], seed: int = 0) -> list[Scene]:
    """Two scenes of every task: simulated, imagined."""
    scenes = []
    for task in tasks:
        simulated, start, guess = last_episode(agent, task, seed)
        imagined = imagined_episode(agent, start, guess)
        scenes += [
            scene(simulated, task, f"simulated, {label_of(BENCHMARK, SPLIT, task)}"),
            scene(imagined, task, "imagined, from what the first two episodes told"),
        ]
    return scenes


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run or of a published policy")
    parser.add_argument("out", type=Path, help=".webp, .gif or .mp4")
    parser.add_argument("--tasks", type=int, nargs="+", default=[3, 12], help=f"rows of the split {SPLIT}")
    given = parser.parse_args(arguments)
    agent, *_ = load_agent(given.run, BENCHMARK, SPLIT, 0)
    if not isinstance(agent, GuessingAgent):
        parser.error(f"{given.run} is no run of metadreamer in rounds")
    title = f"{BENCHMARK}: MetaDreamer's third episode, as it was and as it imagines it"
    scenes = make(agent, given.tasks)
    write_atomically(given.out, encode(compose(scenes, title, "metadreamer", WIDTH, columns=2), 8.0, given.out.suffix))
    for shown in scenes:
        print(f"{np.nansum(shown.rewards):5.1f}  {shown.label}")


if __name__ == "__main__":
    main()
