"""Films of an agent: the same agent on several tasks side by side, so that the hidden one shows; its rewards below."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import metabench
from metabench.colors import color_of
from metabench.drawing import INK, LINE, PAPER
from metabench.evaluation.play import Stream
from metabench.evaluation.results import PROTOCOL_VERSION, write_atomically
from metabench.extras import installed
from metabench.registry import spec
from metabench.rng import Array
from metabench.tasks import param_ranges

FORMATS = (".gif", ".webp", ".mp4")
HEAD, STRIP, GAP = 24, 56, 10  # pixels: above a picture, below it, between two
SHOWN = 2  # hidden parameters that are written over a picture
HOLD = 0.8  # seconds that the last picture of an episode stays


class Scene(NamedTuple):
    """One trial of one task, as it was seen."""

    task: int
    label: str  # the hidden parameters in words
    frames: dict[int, Array]  # [H, W, 3] uint8 by moment: starts and ends of episodes, and every so many steps
    rewards: list[float]  # of every moment: what a step brought; NaN at the start of an episode


def spread(benchmark: str, split: str, count: int) -> list[int]:
    """Rows of a split, spread over its table."""
    size = spec(benchmark).table().size(split)
    return sorted({int(row) for row in np.linspace(0, size - 1, min(count, size)).round()})


def play_scene(
    agent: Any,
    benchmark: str,
    split: str,
    task: int,
    episodes: int,
    seed: int,
    every: int = 1,
    steps: int | None = None,
) -> Scene:
    """Plays one trial of a task and keeps a picture of every so many steps; at most `steps` of each episode are shown.

    Raises:
        ValueError: The benchmark has no pictures, or cannot draw them here.
    """
    env = metabench.make(
        benchmark,
        split=split,
        episodes_per_task=episodes,
        expose_task=bool(getattr(agent, "privileged", False)),
        render_mode="rgb_array",
    )
    belief = agent.begin(1)
    observation, _ = env.reset(seed=seed, options={"task": task})
    stream = Stream(observation[None], env.action_space, getattr(agent, "protocol", PROTOCOL_VERSION))
    frames, rewards, left, step = {0: env.render()}, [math.nan], episodes, 0
    try:
        while left:
            action, belief = agent.act(stream.timestep(), belief)
            observation, reward, terminated, truncated, _ = env.step(np.asarray(action)[0])
            step, over, final = step + 1, terminated or truncated, observation[None]
            if steps is None or step <= steps:
                if over or step % every == 0 or step == steps:
                    frames[len(rewards)] = env.render()
                rewards.append(float(reward))
            if over:
                left, step = left - 1, 0
                if left:
                    observation, _ = env.reset()
                    frames[len(rewards)] = env.render()
                    rewards.append(math.nan)
            elif step == steps and left == 1:
                break  # nothing that follows is shown
            stream.advance(np.asarray(action), observation[None], np.array([reward]), np.array([over]), final)
    finally:
        env.close()
    return Scene(task, label_of(benchmark, split, task), frames, rewards)


def label_of(benchmark: str, split: str, task: int) -> str:
    """A task in words: its hidden parameters, where they are few."""
    row = spec(benchmark).table().fixed(split)[task]
    hidden = param_ranges(spec(benchmark).family().context_type)
    told = [f"{name} {value:.3g}" for name, value in zip(hidden, row.context, strict=False)]
    return f"task {task}: {', '.join(told)}" if len(told) <= SHOWN else f"task {task}"


def compose(
    scenes: Sequence[Scene], title: str, agent: str, width: int = 320, columns: int | None = None
) -> list[Image.Image]:
    """The scenes side by side, each with its task above and the rewards so far below; shorter ones wait at their end.

    Args:
        scenes: What to show.
        title: Written above everything.
        agent: Whose colour the rewards have.
        width: Of one scene, in pixels.
        columns: Scenes of a row; by default all, or one where pictures are wide.
    """
    kept = [sorted(scene.frames) for scene in scenes]
    length = max(len(steps) for steps in kept)
    pictures = []
    span = _span(scenes)
    for moment in range(length):
        panels = [
            _panel(scene, steps[min(moment, len(steps) - 1)], span, width, color_of(agent))
            for scene, steps in zip(scenes, kept, strict=True)
        ]
        height = max(panel.height for panel in panels)
        across = columns or (1 if _wide(scenes) else len(panels))  # a road is seen above a road
        rows = -(-len(panels) // across)
        sheet = Image.new("RGB", (across * (width + GAP) + GAP, rows * height + HEAD + GAP), PAPER)
        ImageDraw.Draw(sheet).text((GAP, 6), title, INK, _font(15))
        for index, panel in enumerate(panels):
            sheet.paste(panel, (GAP + index % across * (width + GAP), HEAD + 4 + index // across * height))
        pictures.append(sheet)
    return pictures


def _wide(scenes: Sequence[Scene]) -> bool:
    height, width, _ = scenes[0].frames[0].shape
    return width > 2 * height


def _span(scenes: Sequence[Scene]) -> tuple[float, float]:
    known = [reward for scene in scenes for reward in scene.rewards if not math.isnan(reward)]
    low, high = min(0.0, *known), max(0.0, *known)
    return low, high if high > low else low + 1.0


def _panel(scene: Scene, now: int, span: tuple[float, float], width: int, color: str) -> Image.Image:
    picture = Image.fromarray(scene.frames[now])
    picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    panel = Image.new("RGB", (width, HEAD + picture.height + STRIP), PAPER)
    panel.paste(picture, (0, HEAD))
    draw = ImageDraw.Draw(panel)
    draw.text((0, 5), scene.label, INK, _font(13))
    top, bottom = HEAD + picture.height + 18, HEAD + picture.height + STRIP - 4
    _strip(draw, scene, now, span, (0, top, width - 1, bottom), color)
    return panel


def _strip(
    draw: ImageDraw.ImageDraw,
    scene: Scene,
    now: int,
    span: tuple[float, float],
    box: tuple[int, int, int, int],
    color: str,
) -> None:
    """Reward of every step so far, as bars from zero; an episode's start is a line."""
    left, top, right, bottom = box
    low, high = span
    each = (right - left) / max(1, len(scene.rewards) - 1)

    def up(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    zero = up(0.0)
    draw.line((left, zero, right, zero), LINE, 1)
    total = 0.0
    for k in range(now + 1):
        x, reward = left + k * each, scene.rewards[k]
        if math.isnan(reward):
            total = 0.0
            if k:
                draw.line((x, top, x, bottom), INK, 1)
            continue
        total += reward
        y0, y1 = sorted((zero, up(reward)))
        draw.rectangle((x - max(each, 1.0) / 2, y0, x + max(each, 1.0) / 2 - 0.5, max(y1, y0 + 1)), color)
    draw.text((left, top - 17), f"reward; return so far {total:.1f}", INK, _font(12))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def encode(pictures: Sequence[Image.Image], fps: float, suffix: str, quality: int = 60, colors: int = 64) -> bytes:
    """A film as the bytes of a GIF, WebP or MP4 file; the last picture is held.

    Raises:
        ValueError: For another format.
        ImportError: MP4 without `pip install 'metabench[films]'`.
    """
    if suffix == ".mp4":
        return _mp4(pictures, fps)
    if suffix not in FORMATS:
        raise ValueError(f"films are written as {', '.join(FORMATS)}, not as {suffix or 'a file without a suffix'!r}")
    frame = max(20, round(1000 / fps))
    durations = [frame] * (len(pictures) - 1) + [round(1000 * HOLD) + frame]
    stream = io.BytesIO()
    if suffix == ".gif":
        drawn = [p.convert("P", palette=Image.Palette.ADAPTIVE, colors=colors) for p in pictures]
        more: dict[str, Any] = {"optimize": True, "disposal": 1}
    else:
        drawn, more = list(pictures), {"quality": quality, "method": 4, "minimize_size": False}
    drawn[0].save(
        stream, suffix[1:].upper(), save_all=True, append_images=drawn[1:], duration=durations, loop=0, **more
    )
    return stream.getvalue()


def _mp4(pictures: Sequence[Image.Image], fps: float) -> bytes:
    for module in ("imageio", "imageio_ffmpeg"):
        if not installed(module):
            raise ImportError(
                f"a film as .mp4 needs the package {module.replace('_', '-')}, which is not installed: "
                "pip install 'metabench[films]'; .gif and .webp need nothing",
                name=module,
            )
    import imageio.v2 as imageio

    stream = io.BytesIO()
    even = (pictures[0].width // 2 * 2, pictures[0].height // 2 * 2)  # what the codec can do
    still = [pictures[-1]] * round(HOLD * fps)
    with imageio.get_writer(stream, format="mp4", fps=fps, codec="libx264", macro_block_size=1) as writer:  # pyright: ignore[reportArgumentType]
        for picture in (*pictures, *still):
            writer.append_data(np.asarray(picture.crop((0, 0, *even))))  # pyright: ignore[reportAttributeAccessIssue]
    return stream.getvalue()


def film(
    agent: Any,
    name: str,
    benchmark: str,
    out: Path,
    split: str = "test",
    tasks: Sequence[int] = (0, 1),
    episodes: int | None = None,
    seed: int = 0,
    width: int = 320,
    every: int = 1,
    speed: float = 1.0,
    steps: int | None = None,
) -> int:
    """Films an agent on some tasks and writes the file; how many pictures it has.

    Args:
        agent: The agent.
        name: Its name, for title and colour.
        benchmark: An id.
        out: Where the film goes; its suffix says the format.
        split: Of the tasks.
        tasks: Rows of the split.
        episodes: Of every trial; the benchmark's own by default.
        seed: Of starts and dynamics; all tasks have the same.
        width: Of one task's picture, in pixels.
        every: Steps from one picture to the next.
        speed: How many times faster than the family's own pace.
        steps: How many of each episode are shown; all by default.
    """
    if out.suffix not in FORMATS:
        raise ValueError(f"films are written as {', '.join(FORMATS)}; {out} is none of these")
    chosen = spec(benchmark)
    count = chosen.episodes if episodes is None else episodes
    scenes = [play_scene(agent, chosen.id, split, task, count, seed, every, steps) for task in tasks]
    pictures = compose(scenes, f"{name} on {chosen.id}", name, width)
    fps = speed * chosen.family().render_fps / every
    write_atomically(out, encode(pictures, fps, out.suffix))
    return len(pictures)
