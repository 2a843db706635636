"""Films an agent: plays one trial of a task and writes a GIF.

    python scripts/film.py HighwayMerge-v0 adaptive-planner docs/highway-merge.gif --task 3 --episodes 2
    python scripts/film.py HighwayEnvMerge-v0 random merge.gif

The agent is a yardstick by name, or a folder that `metabench train` has made. Frames come at the family's own pace.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import metabench
from metabench.evaluation.play import Stream
from metabench.plugins import load_agent
from metabench.rng import Array


def frames(agent: Any, benchmark: str, split: str, task: int, episodes: int, seed: int) -> list[Array]:
    """A picture before the first step and after every step, the last one held for a second."""
    privileged = bool(getattr(agent, "privileged", False))
    env = metabench.make(
        benchmark, split=split, episodes_per_task=episodes, expose_task=privileged, render_mode="rgb_array"
    )
    hold, belief = env.metadata["render_fps"], agent.begin(1)
    observation, _ = env.reset(seed=seed, options={"task": task})
    stream, film = Stream(observation[None], env.action_space), [env.render()]
    while episodes:
        action, belief = agent.act(stream.timestep(), belief)
        observation, reward, terminated, truncated, _ = env.step(action[0])
        film.append(env.render())
        over, final = terminated or truncated, observation[None]
        if over:
            film += [film[-1]] * hold
            episodes -= 1
            observation, _ = env.reset()
            film.append(env.render())
        stream.advance(action, observation[None], np.array([reward]), np.array([over]), final)
    return film


def main() -> None:
    """Plays and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark")
    parser.add_argument("agent")
    parser.add_argument("gif", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    agent, *_ = load_agent(given.agent, given.benchmark, given.split, given.seed)
    film = frames(agent, given.benchmark, given.split, given.task, given.episodes, given.seed)
    images = [Image.fromarray(f).convert("P", palette=Image.Palette.ADAPTIVE, colors=64) for f in film]
    pace = 1000 // metabench.make(given.benchmark).metadata["render_fps"]
    with tempfile.NamedTemporaryFile(dir=given.gif.parent, suffix=".gif", delete=False) as file:
        images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=pace, loop=0, optimize=True)
    Path(file.name).chmod(0o644)  # temporary files are private
    Path(file.name).replace(given.gif)
    print(f"{given.gif}: {len(film)} frames of {film[0].shape[1]} x {film[0].shape[0]}")


if __name__ == "__main__":
    main()
