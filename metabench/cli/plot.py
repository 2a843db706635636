"""`metabench plot`: runs as pictures: learning curves, profiles, adaptation, who beats whom."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metabench.cli.arguments import missing
from metabench.cli.console import plain, say
from metabench.evaluation.results import write_atomically
from metabench.leaderboard.site.render import environment
from metabench.plotting.curves import TrainedRun, read_run
from metabench.plotting.panels import draw_benchmark
from metabench.plotting.style import new_figure

FORMATS = (".png", ".svg", ".pdf", ".html")


def command(
    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
    ] = (),
    x: Literal["frames", "updates", "seconds"] = "frames",
    out: Path = Path("runs.png"),
) -> None:
    """Plot training runs: learning curves with intervals over runs, and what their results say.

    Runs are put together if agent, benchmark and settings are the same; an agent has one colour everywhere. Beside the
    learning curves stand, for every split that was evaluated: the share of runs x tasks above a score (a performance
    profile), the return of each episode of a trial, and how probably the best beats each of the others.

    Examples:
      metabench plot runs/GridSwitch-v0-* --out curves.png
      metabench plot runs/* --x seconds --out runs.html

    Args:
        runs: Folders of training runs.
        x: What learning is plotted against: environment steps, updates (of agents that learn from data, trained with
            --curve-every), or seconds of training.
        out: Where the picture goes: .png, .svg or .pdf (of several benchmarks one each), or one .html of all.
    """
    if not runs:
        raise ValueError("plot wants folders of training runs: metabench plot runs/GridSwitch-v0-* --out curves.png")
    if out.suffix not in FORMATS:
        raise ValueError(f"plots are written as {', '.join(FORMATS)}; {out} is none of these")
    new_figure(1, 1)  # without matplotlib this is told before anything is read
    for folder in runs:
        if not folder.exists():
            raise missing(folder, "folder of a training run")
    found: dict[str, list[TrainedRun]] = {}
    for folder in runs:
        run = read_run(folder, x)
        found.setdefault(run.benchmark, []).append(run)
    figures = {benchmark: draw_benchmark(benchmark, members, x) for benchmark, members in sorted(found.items())}
    for path in write(figures, out, [str(folder) for folder in runs]):
        say(f"written: {plain(path)}")


def write(figures: dict[str, Any], out: Path, given: Sequence[str]) -> list[Path]:
    """Writes the figures; where they went."""
    if out.suffix == ".html":
        template = environment(Path(__file__).parent / "templates").get_template("plot.html")
        page = template.render(pictures={name: _svg(figure) for name, figure in figures.items()}, runs=given)
        write_atomically(out, page.encode())
        return [out]
    paths = []
    for benchmark, figure in figures.items():
        path = out if len(figures) == 1 else out.with_name(f"{out.stem}-{benchmark}{out.suffix}")
        stream = io.BytesIO()
        figure.savefig(stream, format=out.suffix[1:])
        write_atomically(path, stream.getvalue())
        paths.append(path)
    return paths


def _svg(figure: Any) -> Any:
    from markupsafe import Markup

    stream = io.StringIO()
    figure.savefig(stream, format="svg")
    text = stream.getvalue()
    return Markup(text[text.index("<svg") :])
