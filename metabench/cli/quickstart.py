"""The main job of `make run`: train RL² on GridSwitch, measure it beside the yardsticks, leave a picture and a page."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from metabench.cli.arguments import at_least
from metabench.cli.console import plain, say, show
from metabench.cli.report import Row, draw, write_page
from metabench.cli.summarise import summary_table
from metabench.cli.train import stoppable
from metabench.evaluation.evaluate import evaluate
from metabench.evaluation.results import Result, write_atomically
from metabench.evaluation.summary import Summary, reference_levels, summarise
from metabench.evaluation.switches import reward_around_switches
from metabench.plotting.film import film, spread
from metabench.plugins import load_plugin, open_run
from metabench.runs import METRICS, RESULT, read_metrics, result_path

BENCHMARK, LEARNER = "GridSwitch-v0", "rl2"
YARDSTICKS = ("random", "win-stay-lose-shift", "bayes", "oracle")
SPLITS = ("test", "ood")
FRAMES = 3_000_000  # environment steps of training
MARGIN = 10.0  # standard errors above random that count as clearly better


def command(name: str = "quickstart", seed: int = 0, frames: int | None = None) -> None:
    """Train RL² on GridSwitch, measure it beside the yardsticks, write a picture and a page: a minute or two.

    Args:
        name: The folder is runs/<name>; one that holds an unfinished run is continued.
        seed: Of the training run.
        frames: Environment steps of training; the quickstart's own by default.
    """
    at_least(0, seed=seed)
    at_least(1, frames=frames)
    quickstart(Path("runs") / name, seed, frames)


def quickstart(folder: Path, seed: int, frames: int | None) -> list[Summary]:
    """Runs the whole loop in `folder`: result.json, metrics.jsonl, report.png, film.webp, report.html.

    Args:
        folder: The run's folder; an unfinished run in it is continued.
        seed: Of the training run.
        frames: Environment steps of training.
    """
    learner: Any = load_plugin(LEARNER)
    config = dataclasses.replace(learner.Config(), frames=frames or FRAMES)
    say(f"[bold]1[/] train {LEARNER} on {BENCHMARK}: {config.frames:,} environment steps, seed {seed}")
    start = time.perf_counter()
    training = open_run(learner, folder)
    with stoppable(training, folder):
        agent = learner.train(BENCHMARK, config, seed=seed, run=training)
    metrics = read_metrics(folder)
    rates = sorted(row["time/frames_per_s"] for row in metrics)
    say(f"  {time.perf_counter() - start:.0f} s, {rates[len(rates) // 2]:,.0f} training frames/s (median)")
    say(f"[bold]2[/] evaluate it and the yardsticks on {' and '.join(SPLITS)}")
    results = _evaluate(agent, seed, folder)
    summaries = [summarise([result]) for result in results]
    show(summary_table(summaries))
    say(_verdict(summaries))
    say("[bold]3[/] write the picture and the page")
    _report(agent, seed, folder, summaries, metrics, dataclasses.asdict(config))
    for name in (RESULT, METRICS, "report.png", "film.webp", "report.html"):
        say(f"  {plain(folder / name)}")
    return summaries


def _evaluate(agent: Any, seed: int, folder: Path) -> list[Result]:
    results = []
    for split in SPLITS:
        learned = evaluate(agent, BENCHMARK, split=split, train_seed=seed, name=LEARNER)
        learned.save(result_path(folder, split))
        results.append(learned)
        for name in YARDSTICKS:
            yardstick: Any = load_plugin(name)
            result = evaluate(yardstick.build(BENCHMARK, split, 0), BENCHMARK, split=split, name=name)
            result.save(folder / "yardsticks" / f"{name}-{split}.json")
            results.append(result)
    return results


def _verdict(summaries: list[Summary]) -> str:
    lines = []
    for split in SPLITS:
        of = {s.agent: s for s in summaries if s.protocol.split == split}
        ours, floor = of[LEARNER], of["random"]
        error = (ours.stderr**2 + floor.stderr**2) ** 0.5
        gap = ours.area - floor.area
        word = "clearly above" if gap > MARGIN * error else "NOT clearly above"
        lines.append(
            f"  {split}: {LEARNER} {ours.area:.1f} is {word} random {floor.area:.1f}, "
            f"by {gap:.1f} or {gap / error:.0f} standard errors"
        )
    return "\n".join(lines)


def _report(
    agent: Any, seed: int, folder: Path, summaries: list[Summary], metrics: list[dict[str, Any]], config: dict[str, Any]
) -> None:
    players = {LEARNER: agent} | {name: _build(name) for name in ("win-stay-lose-shift", "bayes", "oracle")}
    switches = {name: reward_around_switches(player, BENCHMARK) for name, player in players.items()}
    draw(
        folder / "report.png",
        f"{LEARNER} on {BENCHMARK}",
        [(row["frames"], row["return"]) for row in metrics],
        {name: level for name, level in reference_levels(BENCHMARK, "train").items() if name in YARDSTICKS},
        switches,
        LEARNER,
    )
    film(agent, LEARNER, BENCHMARK, folder / "film.webp", tasks=spread(BENCHMARK, "test", 3), width=240)
    rows = [_row(summary) for summary in summaries]
    record = {"benchmark": BENCHMARK, "seed": seed, "rows": [row._asdict() for row in rows]}
    write_atomically(folder / "summary.json", json.dumps(record, indent=2).encode())
    lead = "A hidden goal switches unseen inside the episode; the agent has nothing but its rewards to notice it by."
    command = f"metabench quickstart --name {folder.name} --seed {seed} --frames {config['frames']}"
    write_page(
        folder / "report.html",
        f"{LEARNER} on {BENCHMARK}",
        lead,
        folder / "report.png",
        rows,
        config,
        command,
        LEARNER,
        (folder / "film.webp").read_bytes(),
    )


def _build(name: str) -> Any:
    yardstick: Any = load_plugin(name)
    return yardstick.build(BENCHMARK, "test", 0)


def _row(summary: Summary) -> Row:
    score = summary.score
    assert score is not None, "GridSwitch ships with its references"
    return Row(
        agent=summary.agent,
        split=summary.protocol.split,
        mean=summary.area,
        stderr=summary.stderr,
        normalised=score.estimate,
        low=score.low,
        high=score.high,
        share=summary.share,
    )
