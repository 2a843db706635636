"""Makes the documentation's films: every family's, by its oracle or best agent, two tasks side by side.

    python docs/films.py                 # those that are missing, or whose tasks have changed
    python docs/films.py GridSwitch-v0   # these anew

Beside the films, `films.json` says of each who plays what, the digest of the split it was made with and its sha256; a
test holds that every benchmark has a film, that it is the file that was made, and that its tasks are today's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import metabench
from metabench.evaluation.results import write_atomically
from metabench.plotting.film import compose, encode, play_scene, spread
from metabench.plugins import load_agent
from metabench.registry import spec

FOLDER = Path(__file__).parent / "films"
INDEX = FOLDER / "films.json"
LIMIT = 1_000_000  # bytes of one film


class Shot(NamedTuple):
    """How a benchmark is filmed."""

    agent: str = "oracle"
    rows: tuple[int, ...] = ()  # spread over the split by default
    tasks: int = 2  # how many, where no rows are named
    episodes: int = 1
    every: int = 1
    steps: int | None = None
    width: int = 260
    speed: float = 1.0
    split: str = "test"


SLOW = Shot(every=5, width=240)  # MuJoCo: 200 steps of an episode in 40 pictures
UNTRAINED = SLOW._replace(agent="random", steps=100)  # nobody has been trained there yet
CLASSES = Shot(tasks=5, every=10, steps=300, width=170)  # one of each class that is tested
SHOTS = {
    "GridSwitch-v0": Shot("bayes", rows=(0, 49)),
    "GridNavigation-v0": Shot(episodes=2),
    "DarkRoom-v0": Shot(),
    "DarkKeyToDoor-v0": Shot(),
    "PointRobot-v0": Shot(episodes=2),
    "SparsePointRobot-v0": Shot(episodes=2),
    "HighwayMerge-v0": Shot("adaptive-planner", episodes=2, width=560),
    "HighwayMergeDiscrete-v0": Shot(width=560),
    "HighwayMergeHidas-v0": Shot(width=560),
    "HighwayEnvMerge-v0": Shot("zero", width=560),
    "HighwayEnvMergeDiscrete-v0": Shot("zero", width=560),
    "CheetahDir-v0": SLOW,
    "CheetahVel-v0": SLOW,
    "CheetahDirSwitch-v0": SLOW,
    "CheetahVelSwitch-v0": SLOW,
    "CheetahWindVelSwitch-v0": SLOW._replace(agent="random", steps=100),
    "ReacherGoal-v0": SLOW._replace(every=2),
    "ReacherSwitch-v0": SLOW._replace(every=3),
    "ScratchItch-v0": SLOW._replace(every=4),
    "ScratchItchSwitch-v0": SLOW._replace(every=4),
    "AntDir-v0": UNTRAINED,
    "AntGoal-v0": UNTRAINED,
    "HumanoidDir-v0": UNTRAINED,
    "HopperParam-v0": UNTRAINED,
    "WalkerParam-v0": UNTRAINED,
    "MetaWorld-ML10-v0": CLASSES,
    "MetaWorld-ML45-v0": CLASSES,
}
HERO = "hero"  # the first page's: a trained agent on three tasks
GROUP = "MetaWorld"  # its film has all of its tasks at once
TILE, COLUMNS, MOMENTS = 104, 10, tuple(range(0, 181, 20))


def shoot(benchmark: str, shot: Shot) -> tuple[bytes, dict[str, Any]]:
    """A benchmark's film, with what is to be remembered of it."""
    agent, name, _ = load_agent(shot.agent, benchmark, shot.split, 0)
    rows = shot.rows or tuple(spread(benchmark, shot.split, shot.tasks))
    scenes = [play_scene(agent, benchmark, shot.split, row, shot.episodes, 0, shot.every, shot.steps) for row in rows]
    fps = shot.speed * min(spec(benchmark).family().render_fps / shot.every, 12.0)
    who = "random actions" if name == "random" else name
    pictures = compose(scenes, f"{who} on {benchmark}", name, shot.width)
    told = {"agent": name, "split": shot.split, "rows": list(rows), "digest": spec(benchmark).digests[shot.split]}
    return encode(pictures, fps, ".webp", quality=45), told | {"size": list(pictures[0].size)}


def shoot_group() -> tuple[bytes, dict[str, Any]]:
    """All of Meta-World's tasks in one film, each by its script."""
    members = [chosen for chosen in metabench.specs() if chosen.group == GROUP]
    scenes = []
    for chosen in members:
        agent, *_ = load_agent("oracle", chosen.id, "test", 0)
        scenes.append(play_scene(agent, chosen.id, "test", 0, 1, 0, 10, MOMENTS[-1]).frames)
    rows = -(-len(members) // COLUMNS)
    pictures = []
    for moment in MOMENTS:
        sheet = Image.new("RGB", (COLUMNS * TILE, rows * (TILE + 16)), "white")
        draw = ImageDraw.Draw(sheet)
        for index, (chosen, frames) in enumerate(zip(members, scenes, strict=True)):
            x, y = index % COLUMNS * TILE, index // COLUMNS * (TILE + 16)
            last = max(k for k in frames if k <= moment)
            tile = Image.fromarray(np.asarray(frames[last])).resize((TILE - 4, TILE - 4), Image.Resampling.LANCZOS)
            sheet.paste(tile, (x + 2, y))
            name = chosen.id.removeprefix(f"{GROUP}-").removesuffix("-v0")
            fonts = (ImageFont.load_default(size) for size in range(11, 6, -1))
            font = next((font for font in fonts if font.getlength(name) <= TILE - 4), ImageFont.load_default(6))
            draw.text((x + 2, y + TILE - 2), name, "black", font)
        pictures.append(sheet)
    digests = "".join(chosen.digests["test"] for chosen in members)
    told = {"agent": "oracle", "split": "test", "rows": [0], "digest": hashlib.sha256(digests.encode()).hexdigest()}
    return encode(pictures, 1.5, ".webp", quality=50), told | {"size": list(pictures[0].size)}


def shoot_hero() -> tuple[bytes, dict[str, Any]]:
    """A trained agent on tasks that differ in what is hidden."""
    benchmark, rows = "GridSwitch-v0", (0, 24, 49)
    agent = metabench.load_agent("grid-switch/dynamite")
    scenes = [play_scene(agent, benchmark, "test", row, 1, 0) for row in rows]
    pictures = compose(scenes, "DynaMITE-RL on GridSwitch", "dynamite", 240)
    told = {"agent": "dynamite", "split": "test", "rows": list(rows), "digest": spec(benchmark).digests["test"]}
    return encode(pictures, 10, ".webp", quality=50), told | {"size": list(pictures[0].size)}


def digest_of(name: str) -> str:
    """What a film's tasks are today."""
    if name == HERO:
        return spec("GridSwitch-v0").digests["test"]
    if name != GROUP:
        return spec(name).digests[SHOTS[name].split]
    digests = "".join(chosen.digests["test"] for chosen in metabench.specs() if chosen.group == GROUP)
    return hashlib.sha256(digests.encode()).hexdigest()


def main() -> None:
    """Makes what is asked for, or what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="benchmarks; those whose film is missing by default")
    names = parser.parse_args().names
    known = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    for name in names or [HERO, *SHOTS, GROUP]:
        path = FOLDER / f"{name}.webp"
        if not names and path.exists() and known.get(name, {}).get("digest") == digest_of(name):
            continue
        special = {HERO: shoot_hero, GROUP: shoot_group}
        content, told = special[name]() if name in special else shoot(name, SHOTS[name])
        if len(content) > LIMIT:
            raise SystemExit(
                f"{name}: {len(content):,} bytes, more than {LIMIT:,}: fewer or smaller pictures are needed"
            )
        write_atomically(path, content)
        known = json.loads(INDEX.read_text()) if INDEX.exists() else {}  # another process may have written
        known[name] = told | {"sha256": hashlib.sha256(content).hexdigest()}
        write_atomically(INDEX, (json.dumps(dict(sorted(known.items())), indent=1) + "\n").encode())
        print(f"{path.name}: {len(content):,} bytes", flush=True)


if __name__ == "__main__":
    main()
