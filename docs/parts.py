"""Pieces of the generated pages: pictures of splits, boards' tables, the papers' claims, the datasets. No Sphinx here."""

from __future__ import annotations

import functools
import html
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import leaders
import numpy as np

from metabench.evaluation.results import Result
from metabench.leaderboard.ranking import Table, rank, read_entries
from metabench.leaderboard.records import Board, read_boards
from metabench.leaderboard.site.charts import number, shade
from metabench.leaderboard.site.heat import heat, leader
from metabench.leaderboard.site.pages import link
from metabench.registry import Spec
from metabench.tasks import param_ranges

HERE = Path(__file__).parent
ROOT = HERE.parent
SPLITS = {"train": "#0072b2", "test": "#d55e00", "ood": "#009e73"}  # where tasks lie, in the pictures of splits
WIDTH, HEIGHT, MARGIN = 420, 250, 44


# -- boards ---------------------------------------------------------------------------------------------------------


@functools.cache
def ranked() -> tuple[dict[str, Board], tuple[Table, ...]]:
    """All boards, and the table of every track of each."""
    root = ROOT / "leaderboards"
    boards = read_boards(root / "boards.toml")
    entries = read_entries(root, boards)
    return dict(boards), tuple(rank(board, track, entries) for board in boards.values() for track in board.tracks)


def heat_table(site: str) -> str:
    """Agents by boards as HTML; `site` is the way to the boards' site."""
    boards, tables = ranked()
    seen = heat(tables, boards)
    head = "".join(
        f'<th scope="col"><a href="{site}boards/{b.id}.html">{html.escape(b.title)}</a></th>' for b in seen.boards
    )
    lines = []
    for agent, cells in seen.lines:
        row = f'<th scope="row">{html.escape(agent)}</th>'
        for cell in cells:
            if cell is None:
                row += "<td></td>"
                continue
            s = cell.row.score
            told = f"95 % interval {number(s.low)} to {number(s.high)}, track {cell.table.track}"
            row += (
                f'<td style="{shade(s.estimate, 0, 1)}"><a href="{site}{link(cell.row.entry)}" title="{told}">'
                f"{s.estimate:.2f}{'†' if cell.old else ''}</a></td>"
            )
        lines.append(f"<tr>{row}</tr>")
    return (
        '<div class="table-wrapper"><table class="heat docutils"><thead><tr><th scope="col">agent</th>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>\n"
    )


def boards_of(benchmark: str) -> str:
    """The boards of a benchmark with what leads them, as Markdown; empty if it has none."""
    _, tables = ranked()
    rows = []
    for table in tables:
        if table.board.benchmark != benchmark:
            continue
        first, site = leader(table), "../boards/"
        name = f'<a href="{site}boards/{table.board.id}.html#{table.track}">{table.board.id}</a>'
        if first is None:
            enter = f'<a href="{site}boards/{table.board.id}.html#enter">no entry yet: enter one</a>'
            rows.append(f"| {name} | {table.track} | {enter} | | |")
            continue
        s, score = first.entry.submission, first.score
        title = f'<a href="{site}{link(first.entry)}">{html.escape(s.title)}</a>'
        shown = f"{number(score.estimate)} ({number(score.low)} to {number(score.high)})"
        rows.append(f"| {name} | {table.track} | {title} | {shown} | {first.entry.tier} |")
    if not rows:
        return ""
    head = "| board | track | leads | score | proof |\n| --- | --- | --- | --- | --- |\n"
    return head + "\n".join(rows) + "\n"


# -- splits ---------------------------------------------------------------------------------------------------------


def split_picture(chosen: Spec) -> str:
    """Where the tasks of each split lie, by their first two hidden parameters, or by the only one: SVG in a figure."""
    names = list(param_ranges(chosen.family().context_type))[:2]
    table = chosen.table()
    if not names:
        return ""
    points = {split: np.array([task.context[: len(names)] for task in table.fixed(split)]) for split in SPLITS}
    every = np.concatenate([p[:, : len(names)] for p in points.values()])
    low, high = every.min(axis=0), every.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    drawn = []
    for row, (split, color) in enumerate(SPLITS.items()):
        places = []
        for values in np.unique(points[split], axis=0):
            place = (values - low) / span
            x = MARGIN + float(place[0]) * (WIDTH - 2 * MARGIN)
            y = HEIGHT - MARGIN - float(place[1]) * (HEIGHT - 2 * MARGIN) if len(names) > 1 else 80 + 45 * row
            places.append((x, y))
        drawn.append(_dots(places, color) if split == "train" else "".join(_mark(split, *p, color) for p in places))
    more = len(param_ranges(chosen.family().context_type)) - len(names)
    labels = [f"{n} ({_short(a)} to {_short(b)})" for n, a, b in zip(names, low, high, strict=True)]
    legend = "".join(
        _mark(split, MARGIN + 90 * k, 18, color)
        + f'<text x="{MARGIN + 90 * k + 10}" y="22">{split} {table.size(split)}</text>'
        for k, (split, color) in enumerate(SPLITS.items())
    )
    below = f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">{html.escape(labels[0])}</text>'
    if len(labels) > 1:
        below += f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{html.escape(labels[1])}</text>'
    alt = f"Where the tasks of {chosen.id} lie: {', '.join(labels)}"
    note = f" It has {more} more hidden parameters." if more else ""
    return (
        '<figure class="split">'
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{html.escape(alt)}" font-family="sans-serif" font-size="12" fill="#23272e">'
        f"{legend}{''.join(drawn)}{below}</svg>"
        f"<figcaption>Where the tasks of each split lie.{note}</figcaption></figure>\n"
    )


def _dots(places: list[tuple[float, float]], color: str) -> str:
    """Training tasks as one line of round ends: there may be thousands."""
    line = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
    return f'<path d="{line}" stroke="{color}" stroke-width="6.8" stroke-linecap="round" stroke-opacity=".55" fill="none"/>'


def _mark(split: str, x: float, y: float, color: str) -> str:
    if split == "train":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{color}" fill-opacity=".55"/>'
    if split == "test":
        return f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" fill="{color}" fill-opacity=".8"/>'
    return f'<path d="M{x:.1f} {y - 4.6:.1f}l4.4 8h-8.8z" fill="{color}" fill-opacity=".7"/>'


def _short(value: float) -> str:
    return f"{value:.3g}"


# -- the papers' claims ---------------------------------------------------------------------------------------------


def results_page() -> str:
    """What papers claim beside what was found; the numbers come from the studies' records."""
    record = tomllib.loads((HERE / "claims.toml").read_text())
    lines = []
    for claim in record["claim"]:
        values = {name: _value(wanted) for name, wanted in claim.get("values", {}).items()}
        found = claim["found"].format(**values)
        lines.append(f"| {claim['paper']} | {claim['claims']} | {found} | **{claim['verdict']}** | {claim['where']} |")
    table = (
        "| paper | claims | found here | verdict | where |\n| --- | --- | --- | --- | --- |\n" + "\n".join(lines) + "\n"
    )
    boards = f"## What leads the boards\n\n{leaders.LEAD}\n\n{leaders.results_table(ranked()[1])}"
    claims = f"## What papers claim, and what was found\n\n{record['lead']}\n\n::::{{container}} stack\n{table}::::\n"
    return f"# Results\n\n{boards}\n{claims}\n{record['below']}\n"


def _records(wanted: dict[str, Any]) -> list[Path]:
    """Results that a claim rests on: files of a study, or the kept runs of a line of the evidence queue."""
    if "records" in wanted:
        return sorted((ROOT / "studies").glob(wanted["records"]))
    kept = ROOT / "studies" / "evidence"
    return [path for key in _keys(wanted["table"], wanted["run"]) if (path := kept / key / "result.json").exists()]


def _keys(table: str, run: str) -> list[str]:
    """The jobs of a line of a table of the evidence queue."""
    return [job.key() for t in _queue() if t.name == table for row in t.rows if row.name == run for job in row.jobs]


@functools.cache
def _queue() -> list[Any]:
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from studies.evidence import read_queue

    return read_queue()


def _value(wanted: dict[str, Any]) -> str:
    """A number from records: the mean return of an episode over runs, or how far it is between two others."""
    paths = _records(wanted)
    assert paths, f"there are no records of {wanted}"
    episode = wanted.get("episode")
    means = []
    for path in paths:
        returns = Result.load(path).array()
        means.append(returns.mean() if episode is None else returns[..., episode - 1].mean())
    value = float(np.mean(means))
    if "share" in wanted:
        low, high = wanted["share"]
        return f"{(value - low) / (high - low):.0%}".replace("%", " %")
    return f"{value:.{wanted.get('digits', 1)}f}"


# -- datasets -------------------------------------------------------------------------------------------------------


def datasets() -> list[dict[str, Any]]:
    """What `scripts/generate_datasets.py` has kept of every set."""
    return json.loads((HERE / "datasets.json").read_text())


def dataset_pages() -> dict[str, str]:
    """A page for every set: who played, what came out, how to load it; and the index."""
    sets: dict[str, list[dict[str, Any]]] = {}
    for record in datasets():
        sets.setdefault(record["id"], []).append(record)
    pages = {}
    for id, records in sets.items():
        pages[id.removeprefix("metabench/").replace("/", "-")] = _dataset_page(id, records)
    rows = [
        f"| [{id.removeprefix('metabench/')}]({name}.md) | {sum(r['episodes'] for r in sets[id]):,} | "
        f"{sum(r['bytes'] for r in sets[id]) / 1e6:.1f} MB | {', '.join(r['split'] for r in sets[id])} |"
        for name, id in zip(pages, sets, strict=True)
    ]
    lead = (
        "Sets that were generated once, checked and measured. Every one comes out in the same bytes from its command: "
        '`load_dataset(ID, missing="generate")` makes it where it is not on the disk.\n'
    )
    head = "| set | episodes | size | splits |\n| --- | --- | --- | --- |\n"
    tree = "```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"
    pages["index"] = (
        f"# The datasets\n\n{lead}\n{head}"
        + "\n".join(rows)
        + f"\n\nHow they are made and used: [Offline datasets](../datasets.md).\n\n{tree}"
    )
    return pages


QUALITIES = {
    "random": "uniform actions",
    "medium": "policies a third to a half of the way from random to the oracle",
    "expert": "the oracle, with a little noise",
    "mixed": "medium policies (each task's first 70 episodes) and by the oracle with a little noise (the last 30)",
    "mixed-2": "uniform actions (each task's first 30 episodes), medium policies (40) and the oracle with a little noise (30)",
    "replay": "ten stages from random to expert, in order (noise distillation)",
    "history": "tabular learners from nothing, every episode of each in order",
}


def _dataset_page(id: str, records: Sequence[dict[str, Any]]) -> str:
    from metabench.datasets import DatasetId

    name = DatasetId.parse(id)
    benchmark, quality = name.benchmark.id, name.path.rsplit("/", 1)[-1].split("-v")[0]
    rows = []
    for r in records:
        rows.append(
            f"| `{r['split']}` | {r['tasks']} | {r['episodes']:,} | {r['steps']:,} | {r['mean']:.2f} | {r['low']:.2f} to "
            f"{r['high']:.2f} | {r['bytes'] / 1e6:.1f} MB | {r['seconds']['cpu']:.1f} s | `{r['manifest_sha256'][:16]}` |"
        )
    head = (
        "| split | tasks | episodes | steps | mean return | task means | size | seconds to make | manifest's sha256 |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    seen = "Learners see what agents see." if quality == "history" else "Behaviours see the hidden task."
    levels = name.benchmark.references(records[0]["split"])
    told = ", ".join(f"{level} {levels[level]['mean']:.2f}" for level in ("random", "oracle") if level in levels)
    split = records[0]["split"]
    return f"""# {id.removeprefix("metabench/")}

Played on [{benchmark}](../families/{name.benchmark.group or benchmark}.md) by {QUALITIES.get(quality, quality)}. {seen}

{head}{chr(10).join(rows)}

Returns of an episode. On `{split}` the yardsticks have: {told}. Seconds are of one core.

```python
import metabench

data = metabench.load_dataset("{id}", split="{split}", missing="generate")
```

```bash
{chr(10).join(r["command"] for r in records)}
metabench dataset verify {id} --split {split} --replay 10
```
"""
