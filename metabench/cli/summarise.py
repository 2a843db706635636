"""`metabench summarise`: saved results as one line per agent, settings and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from metabench.cli.arguments import missing
from metabench.cli.console import plain, say, show, table
from metabench.evaluation.results import Result
from metabench.evaluation.summary import Comparison, Group, Source, Summary, compare, group, summarise
from metabench.runs import CONFIG, RESULT, is_run, read_record


def command(
    results: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RESULT [RESULT ...]", help_behavior_hint="(required)"),
    ] = (),
) -> None:
    """Summarise saved results: training runs of one agent on one split become one line with an interval over runs.

    Results are put together if agent, settings (config.json beside the result), benchmark, split and protocol are the
    same. A run that is given twice is refused.

    Example: metabench summarise runs/GridSwitch-v0-rl2-s*/result.json

    Args:
        results: Files written by train and evaluate.
    """
    if not results:
        raise ValueError("summarise wants result files: metabench summarise runs/GridSwitch-v0-rl2-s*/result.json")
    groups = group([read(path) for path in results])
    summaries = [summarise(members.results)._replace(agent=members.label) for members in groups]
    for benchmark in dict.fromkeys(s.protocol.benchmark for s in summaries):
        say(f"[bold]{plain(benchmark)}[/]")
        show(summary_table([s for s in summaries if s.protocol.benchmark == benchmark]))
    if comparisons := compare(groups):
        say("\n[bold]the best beside the others, with 95 % intervals[/]")
        for comparison in comparisons:
            say(plain(_compared(comparison)))
    say("\n[bold]what was put together[/]")
    for members in groups:
        for line in _members(members):
            say(line)


def read(path: Path) -> Source:
    """A result with the settings of the run beside it; ValueError in one sentence if there is none."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the results in it: {path / RESULT}")
    if not path.exists():
        raise missing(path, "result file")
    return Source(Result.load(path), str(path), settings_beside(path))


def settings_beside(path: Path) -> Mapping[str, Any] | None:
    """The settings in the run's folder that a result lies in; None if it lies in no run's folder.

    Raises:
        ValueError: If the folder's config.json is no record of a run.
    """
    if not is_run(path.parent):
        return None
    try:
        return read_record(path.parent).config
    except ValueError:
        beside = path.parent / CONFIG
        raise ValueError(f"{beside} is no record of a training run: how was {path} trained?") from None


def _compared(comparison: Comparison) -> str:
    first, second, better, difference = comparison
    protocol = first.results[0].protocol
    text = f"{first.label} beats {second.label} on {protocol.benchmark}, {protocol.split}, in {better.estimate:.0%} "
    text += f"[{better.low:.0%}, {better.high:.0%}] of runs x tasks"
    if difference is None:
        return text
    return text + f"; IQM of returns higher by {difference.estimate:.2f} [{difference.low:.2f}, {difference.high:.2f}]"


def _members(members: Group) -> list[str]:
    first, count = members.results[0], len(members.sources)
    head = f"{members.label} on {first.protocol.benchmark}, {first.protocol.split}: {count} run{'s' * (count > 1)}"
    lines = [plain(head)]
    for source in members.sources:
        seed = source.result.train_seed
        which = f"evaluation seed {source.result.protocol.seed}" if seed is None else f"seed {seed}"
        lines.append(f"  {plain(which)}  {plain(source.place)}")
    return lines


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Agents by return, best first; splits in the order they come."""
    adapts = any(len(s.curve) > 1 for s in summaries)
    several, wins = any(s.runs > 1 for s in summaries), any(s.success is not None for s in summaries)
    bounded = any(s.share is not None for s in summaries)
    columns = ["split", "agent~", *(["runs"] if several else []), "return>"]
    columns += ["first\nepisode>", "last\nepisode>", "regret>"] if adapts else []
    columns += ["success>"] if wins else []
    columns += ["IQM>", "95 % interval>", *(["of Bayes>"] if bounded else [])]
    shown = table(*columns, gap=1)  # eighty characters are enough then
    splits = list(dict.fromkeys(s.protocol.split for s in summaries))
    for s in sorted(summaries, key=lambda s: (splits.index(s.protocol.split), -s.area)):
        cells = [plain(s.protocol.split), plain(s.agent), *([str(s.runs)] if several else [])]
        cells.append(f"{s.area:.2f} ± {s.stderr:.2f}")
        if adapts:
            cells += [f"{s.zero_shot:.2f}", f"{s.few_shot:.2f}", "" if s.regret is None else f"{s.regret:.2f}"]
        cells += ["" if s.success is None else _percent(s.success)] if wins else []
        score = s.score
        cells += ["", ""] if score is None else [f"{score.estimate:.3f}", f"{score.low:.3f} to {score.high:.3f}"]
        cells += ["" if s.share is None else _percent(s.share)] if bounded else []
        shown.add_row(*cells)
    return shown


def _percent(share: float) -> str:
    return f"{round(share, 2) + 0.0:.0%}"  # the sum turns -0 into 0
