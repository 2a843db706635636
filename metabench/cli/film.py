"""`metabench film`: an agent on several tasks side by side."""

from __future__ import annotations

from pathlib import Path

from metabench.cli.arguments import AgentName, Benchmark, at_least
from metabench.cli.console import plain, say
from metabench.cli.evaluate import check_agent
from metabench.plotting.film import film, spread
from metabench.plugins import load_agent
from metabench.registry import spec


def command(
    agent: AgentName,
    benchmark: Benchmark,
    tasks: int = 2,
    rows: tuple[int, ...] = (),
    out: Path = Path("film.gif"),
    split: str = "test",
    episodes: int | None = None,
    seed: int = 0,
    width: int = 320,
    every: int = 1,
    speed: float = 1.0,
    steps: int | None = None,
) -> None:
    """Film an agent: one trial of several tasks side by side, so that the hidden one shows, with the rewards below.

    Examples:
      metabench film bayes GridSwitch-v0 --tasks 3 --out film.gif
      metabench film runs/PointRobot-v0-rl2-s0 PointRobot-v0 --rows 0 4 --out film.webp

    Args:
        agent: The name of a yardstick, the folder of a training run, or BOARD/AGENT: the published policy of a board.
        benchmark: An id; `metabench list` names them all.
        tasks: How many tasks, spread over the split.
        rows: Which tasks, by their row in the split; instead of `--tasks`.
        out: Where the film goes: .gif, .webp, or .mp4 (`pip install 'metabench[films]'`).
        split: A frozen split: test, ood, train.
        episodes: Episodes of a trial; the benchmark's own by default.
        seed: Of starts and dynamics.
        width: Of one task's picture, in pixels.
        every: Steps from one picture to the next.
        speed: How many times faster than the family's own pace.
        steps: How many steps of each episode are shown; all by default.
    """
    chosen = spec(benchmark)
    size = chosen.table().size(split)
    at_least(0, seed=seed)
    at_least(1, tasks=tasks, episodes=episodes, every=every, steps=steps)
    at_least(32, width=width)
    if not speed > 0:
        raise ValueError(f"--speed must be more than 0, got {speed}")
    if wrong := [row for row in rows if not 0 <= row < size]:
        raise ValueError(f"there is no task {wrong[0]} in {split}: {chosen.id} has the tasks 0 to {size - 1} there")
    agent = check_agent(agent)
    player, label, _ = load_agent(agent, chosen.id, split, seed)
    shown = rows or spread(chosen.id, split, tasks)
    count = film(player, label, chosen.id, out, split, shown, episodes, seed, width, every, speed, steps)
    say(f"written: {plain(out)}, {count} pictures of the tasks {', '.join(map(str, shown))}")
