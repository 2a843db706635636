"""Draws the still and the short film of ScratchItch in the docs: the oracle scratches, the itch moves, it follows.

MUJOCO_GL=egl python -m studies.itch.draw     # writes docs/pictures/scratch_itch.{png,gif}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import metabench
from metabench import Timestep
from metabench.yardsticks.scratch_itch import oracle

FOLDER = Path(__file__).parent.parent.parent / "docs" / "pictures"
ITCH = {"along": 1.45, "around": 0.5, "size": 1.0, "abduction": np.pi / 6, "elbow": np.pi / 2}
THEN = {**ITCH, "along": 0.55, "around": 0.2}  # where it itches after SWITCH steps
SWITCH, FRAMES, STILL = 45, 95, 57
SIDE, COLORS = 360, 96  # pixels and colours of the film


def main() -> None:
    """Plays once and writes both."""
    env = metabench.make("ScratchItch-v0", expose_task=True, render_mode="rgb_array")
    observation, _ = env.reset(seed=1, options={"task": ITCH})
    agent, frames = oracle.build("ScratchItch-v0", "test", 0), []
    belief, first = agent.begin(1), np.ones(1, dtype=bool)
    for t in range(FRAMES):
        frames.append(Image.fromarray(env.render()))
        if t == SWITCH:  # by hand, so that the film shows one switch at a good time
            simulator: Any = env._trials.simulator
            simulator.context = type(simulator.context)(*(np.array([THEN[name]]) for name in env.family.parameters))
        task = np.array([list((ITCH if t < SWITCH else THEN).values())])
        seen = np.concatenate([observation[None, :24], task], axis=1)
        action, belief = agent.act(Timestep(seen, np.zeros((1, 7)), np.zeros(1), first, np.zeros_like(seen)), belief)
        observation, *_ = env.step(action[0])
        first[:] = False
    env.close()
    FOLDER.mkdir(parents=True, exist_ok=True)
    frames[STILL].save(FOLDER / "scratch_itch.png", optimize=True)
    small = [frame.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for frame in frames]
    # One palette for all frames, so that what does not move does not flicker; tool and itch are small, but not in it.
    swatches = [frame.crop((SIDE // 4, SIDE // 5, SIDE // 2, SIDE // 2)).resize((SIDE, SIDE)) for frame in small[::30]]
    sheet = Image.fromarray(np.concatenate([np.asarray(image) for image in (*small[::30], *swatches)]))
    palette = sheet.quantize(COLORS, method=Image.Quantize.MAXCOVERAGE)
    film = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    film[0].save(
        FOLDER / "scratch_itch.gif", save_all=True, append_images=film[1:], duration=100, loop=0, optimize=True
    )
    for name in ("png", "gif"):
        path = FOLDER / f"scratch_itch.{name}"
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
