"""The pages: overview, all entries, one page per board, one per submission. Everything from outside is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markdown_it import MarkdownIt

from metabench.leaderboard.ranking import THRESHOLDS, Entry, Row, Table
from metabench.leaderboard.records import Board
from metabench.leaderboard.site.charts import Line, bounds, color, interval_bar, legend, line_chart, number, shade
from metabench.leaderboard.track import TRACKS
from metabench.registry import spec

MAX_LINES = 12  # agents in a chart; the rest are in the table
TIERS = {
    "reproduced": "replayed, and the policies were played again on fresh seeds",
    "replayed": "every piece of every trace was replayed in the simulator",
    "claimed": "nobody has checked it",
}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def card(text: str) -> str:
    """A submission's Markdown as HTML: no markup of its own, no pictures, headings below the page's."""
    tokens = _MARKDOWN.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
    return _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})


def e(value: object) -> str:
    """Escaped for HTML, attributes included."""
    return html.escape(str(value), quote=True)


def page(title: str, body: str, up: str, description: str = "") -> str:
    """A whole page; `up` is the way from it to the site's root."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{e(title)}</title>
<meta name="description" content="{e(description or title)}">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{up}assets/site.css">
<script src="{up}assets/site.js"></script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header class="top"><div class="page">
<a class="name" href="{up}index.html">metabench leaderboards</a>
<nav aria-label="Site"><a href="{up}index.html">Boards</a><a href="{up}entries.html">All entries</a></nav>
<button id="theme" type="button" aria-label="Switch between light and dark" hidden></button>
</div></header>
<main id="main" class="page">
{body}
<footer>Every number on these pages is recomputed from the traces of its submission. The same data as JSON:
<a href="{up}data/overview.json">data/overview.json</a>;
its schemas: <a href="{up}schemas/submission.schema.json">schemas/</a>.
</footer>
</main>
</body>
</html>
"""


def overview(tables: Sequence[Table], entries: Sequence[Entry], boards: Mapping[str, Board]) -> str:
    """The first page."""
    cards = "".join(_board_card(board, [t for t in tables if t.board is board]) for board in boards.values())
    newest = sorted(entries, key=lambda x: (x.submission.date, x.submission.id), reverse=True)[:12]
    meaning = "".join(f"<li>{badge(tier)} {e(words)}</li>" for tier, words in TIERS.items())
    body = f"""
<h1>Leaderboards of meta-reinforcement learning</h1>
<p class="lead">No score without evidence: an entry holds every action, every reward and the simulator's state every
10 steps, and is replayed piece by piece before it is ranked. Tracks that differ in what an agent may use are never
ranked together.</p>
<h2 id="boards">Boards</h2>
<ul class="boards">{cards}</ul>
<h2>Newest entries</h2>
{_entry_table("newest", newest, "")}
<p><a href="entries.html">All {len(entries)} entries</a></p>
<h2>What the badges say</h2>
<ul>{meaning}</ul>
"""
    return page(
        "metabench leaderboards", body, "", "Leaderboards of meta-reinforcement learning with replayable evidence"
    )


def all_entries(entries: Sequence[Entry]) -> str:
    """The page of all entries."""
    ordered = sorted(entries, key=lambda x: (x.submission.date, x.submission.id), reverse=True)
    body = f"<h1>All entries</h1>{filters('entries', TIERS)}{_entry_table('entries', ordered, '')}"
    return page("All entries - metabench leaderboards", body, "")


def board_page(board: Board, tables: Sequence[Table], boards: Mapping[str, Board]) -> str:
    """The page of one board: a section per track."""
    chosen = spec(board.benchmark)
    note = ""
    if board.superseded_by:
        successor = boards[board.superseded_by]
        note = f'<p><strong>Superseded by <a href="{e(successor.id)}.html">{e(successor.title)}</a>.</strong></p>'
    metric = {
        "iqm": "IQM over runs x tasks with a 95 % stratified bootstrap interval",
        "data-efficiency": f"environment steps of training, among those that reach a score of {board.target}; then IQM",
    }[board.metric]
    pins = ", ".join(f"{name} {version}" for name, version in board.pins.items())
    facts = {
        "benchmark": board.benchmark,
        "split": board.split,
        "protocol": f"{board.repeats} x {board.episodes} episodes a task",
        "tasks": str(chosen.table().size(board.split)),
        "pins": pins or "none",
    }
    jump = " · ".join(f'<a href="#{t.track}">{e(t.track)}</a>' for t in tables)
    body = f"""
<p class="crumbs"><a href="../index.html">Boards</a> / {e(board.id)}</p>
<h1>{e(board.title)}</h1>
<p class="lead">{e(board.about or chosen.summary)} Ranked by {e(metric)}.</p>
{note}{_facts(facts)}
<p>Tracks: {jump}</p>
{"".join(_track(table) for table in tables)}
<h2>Enter</h2>
<pre>metabench submit runs/{e(board.benchmark)}-AGENT-s* --board {e(board.id)} --authors "YOUR NAME"
metabench verify leaderboards/{e(board.id)}</pre>
<p class="small soft">Tasks of this board: sha256 <code>{e(board.task_digest)}</code></p>
"""
    return page(f"{board.title} - metabench leaderboards", body, "../", board.about)


def entry_page(entry: Entry, row: Row, table: Table) -> str:
    """The page of one submission: what it reached, from what, and what verification found."""
    s, board = entry.submission, table.board
    unit = "IQM, normalised" if table.normalised else "IQM of the return"
    facts = {
        unit: f"{number(row.score.estimate)}",
        "95 % interval": f"{number(row.score.low)} to {number(row.score.high)}",
        "return per episode": f"{row.mean:.2f}",
        "rank": f"{row.rank} of {len(table.rows)}" if row.rank else "unranked",
        "environment steps a run": f"{s.training.env_steps:,}" if s.training.env_steps else "none",
        "hours a run": "not told" if s.training.hours is None else f"{s.training.hours:g}",
    }
    why = f'<p class="soft">Unranked: {e(row.why_unranked)}.</p>' if row.why_unranked else ""
    links = [
        f'<a href="{e(url)}" rel="nofollow noopener">{word}</a>'
        for word, url in (("paper", s.paper), ("code", s.code))
        if url
    ]
    if s.commit:
        links.append(f"commit <code>{e(s.commit[:12])}</code>")
    chart = ""
    if len(row.curve) > 1:
        line = Line(s.title, range(1, len(row.curve) + 1), row.curve.tolist())
        label = "score" if table.normalised else "return"
        drawn = line_chart([line], "Adaptation curve", "episode of the trial", label, whole_x=True)
        chart = f"<figure><figcaption>Adaptation</figcaption>{drawn}</figure>"
    body = f"""
<p class="crumbs"><a href="../../../index.html">Boards</a> /
<a href="../../../boards/{e(board.id)}.html#{e(s.track)}">{e(board.id)}</a> / {e(s.agent)}</p>
<h1>{e(s.title)} <span class="soft">{e(s.version)}</span> {badge(entry.tier)}</h1>
<p class="lead">{e(", ".join(s.authors))} · {e(s.date)} · track {e(s.track)}{" · " if links else ""}{
        " · ".join(links)
    }</p>
{why}{_facts(facts)}
<div class="card">{card(entry.card)}</div>
{f'<div class="figures">{chart}</div>' if chart else ""}
<h2>Verification</h2>
{_verification(entry)}
<h2>Runs</h2>
{_runs(entry)}
<h2>What it was made with</h2>
{
        _pairs(
            {
                **s.versions,
                "instruction sets": ", ".join(s.cpu_flags),
                "hardware of training": s.training.hardware,
                "tasks of evaluation splits used": s.test_tasks,
                **{f"dataset {d.id}": d.sha256 for d in s.training.datasets},
            }
        )
    }
<details><summary>sha256 of every file</summary>{_pairs({"submission.json": entry.sha256, **s.files})}</details>
"""
    return page(f"{s.title} on {board.title} - metabench leaderboards", body, "../../../")


def badge(tier: str) -> str:
    """How far an entry is proven."""
    return f'<span class="badge {e(tier)}" title="{e(TIERS[tier])}">{e(tier)}</span>'


def filters(table: str, tiers: Mapping[str, str]) -> str:
    """The controls over a table; hidden where there is no script."""
    options = "".join(f'<option value="{e(tier)}">{e(tier)}</option>' for tier in tiers)
    return f"""<form class="filters" data-table="{e(table)}" hidden>
<label>Find <input type="search" placeholder="agent or author" aria-controls="{e(table)}"></label>
<label>Tier <select aria-controls="{e(table)}"><option value="">all</option>{options}</select></label>
<span class="soft small" role="status" aria-live="polite"></span></form>"""


def _board_card(board: Board, tables: Sequence[Table]) -> str:
    lines = []
    for table in tables:
        lead = table.rows[0] if table.rows else None
        told = (
            f"{e(lead.entry.submission.title)} <strong>{number(lead.score.estimate)}</strong>"
            if lead
            else "no entry yet"
        )
        lines.append(f"<dt>{e(table.track)}</dt><dd>{told}</dd>")
    old = ' <span class="soft small">(superseded)</span>' if board.superseded_by else ""
    count = sum(len(t.rows) for t in tables)
    entries = f"{count} ranked {'entry' if count == 1 else 'entries'}"
    return f"""<li><h3><a href="boards/{e(board.id)}.html">{e(board.title)}</a>{old}</h3>
<p class="small soft">{e(board.about)}<br>{entries}</p><dl>{"".join(lines)}</dl></li>"""


def _entry_table(id: str, entries: Sequence[Entry], up: str) -> str:
    if not entries:
        return '<p class="empty">There is no entry yet.</p>'
    columns = [("agent", "text", ""), ("board", "text", ""), ("track", "text wide", ""), ("authors", "text wide", "")]
    head = _head([*columns, ("date", "", "descending"), ("tier", "text", "")])
    body = "".join(
        f'<tr data-text="{e(_words(x))}" data-tier="{e(x.tier)}">'
        f'<th scope="row"><a href="{up}{link(x)}">{e(x.submission.title)}</a></th>'
        f'<td class="text"><a href="{up}boards/{e(x.submission.board)}.html">{e(x.submission.board)}</a></td>'
        f'<td class="text wide">{e(x.submission.track)}</td>'
        f'<td class="text wide">{e(_people(x))}</td><td>{e(x.submission.date)}</td>'
        f'<td class="text">{badge(x.tier)}</td></tr>'
        for x in entries
    )
    return _region("entries", f'<table id="{e(id)}">{head}<tbody>{body}</tbody></table>')


def _track(table: Table) -> str:
    head = f'<h2 id="{table.track}">{e(table.track)}</h2><p class="soft">{e(TRACKS[table.track].about)}</p>'
    if not table.rows and not table.unranked:
        return head + '<p class="empty">There is no entry yet.</p>'
    parts = [head]
    id = f"ranked-{table.track}"
    if table.rows:
        parts += [filters(id, {t: w for t, w in TIERS.items() if t != "claimed"}), _ranking(id, table, table.rows)]
        parts.append(_figures(table))
        parts.append(_tasks(table))
    if table.unranked:
        count = len(table.unranked)
        parts.append(
            f"<details><summary>{count} unranked {'entry' if count == 1 else 'entries'}: claims, superseded versions"
            f"</summary>{_ranking(f'unranked-{table.track}', table, table.unranked)}</details>"
        )
    return "".join(parts)


def _ranking(id: str, table: Table, rows: Sequence[Row]) -> str:
    several = len(rows[0].curve) > 1
    score = "IQM" if table.normalised else "IQM of return"
    columns: list[tuple[str, str, str | None]] = [("rank", "", ""), ("agent", "text", "")]
    columns += [(score, "", "descending"), ("95 % interval", "text", None), ("", "text wide", None)]
    columns += [("tier", "text", ""), ("return", "wide", "descending")]
    if several:
        columns += [("first episode", "wide", "descending"), ("last episode", "wide", "descending")]
    columns += [("env steps", "", ""), ("datasets", "wide", ""), ("hours", "wide", ""), ("runs", "wide", "descending")]
    columns += [("date", "wide", "descending")]
    low = min(0.0, *(r.score.low for r in rows))
    high = max(*(r.score.high for r in rows), 1.0 if table.normalised else low)
    body = "".join(_ranking_row(table, row, index, low, high, several) for index, row in enumerate(rows))
    return _region(f"{table.track} entries", f'<table id="{e(id)}">{_head(columns)}<tbody>{body}</tbody></table>')


def _ranking_row(table: Table, row: Row, index: int, low: float, high: float, several: bool) -> str:
    s = row.entry.submission
    hours = s.training.hours
    dot = f'<span class="dot" style="background:{color(index)}" aria-hidden="true"></span>' if row.rank else ""
    missed = (
        "" if table.board.target is None or row.reached else ' <span class="small soft">(target not reached)</span>'
    )
    cells = [
        f'<td data-value="{row.rank or ""}">{row.rank or "-"}</td>',
        f'<th scope="row" data-value="{e(s.title)}">{dot}<a href="../{link(row.entry)}">{e(s.title)}</a>{missed}'
        f'<span class="who">{e(_people(row.entry))}</span></th>',
        f'<td data-value="{row.score.estimate!r}"><strong>{number(row.score.estimate)}</strong></td>',
        f'<td class="text">{number(row.score.low)} to {number(row.score.high)}</td>',
        f'<td class="text wide">{interval_bar(row.score, low, high, index, "")}</td>',
        f'<td class="text">{badge(row.entry.tier)}</td>',
        f'<td class="wide" data-value="{row.mean!r}">{row.mean:.2f}</td>',
    ]
    if several:
        for value in (float(row.curve[0]), float(row.curve[-1])):
            cells.append(f'<td class="wide" data-value="{value!r}">{number(value)}</td>')
    steps, sets = s.training.env_steps, len(s.training.datasets)
    spent = ("?" if s.trains else "none") if hours is None else f"{hours:.2g}"
    cells += [
        f'<td data-value="{steps if s.trains else 0}">{big(steps) if steps else "none"}</td>',
        f'<td class="wide" data-value="{sets}">{sets or "none"}</td>',
        f'<td class="wide" data-value="{"" if hours is None else hours}">{spent}</td>',
        f'<td class="wide">{len(s.runs)}</td>',
        f'<td class="wide">{e(s.date)}</td>',
    ]
    return f'<tr data-text="{e(_words(row.entry))}" data-tier="{e(row.entry.tier)}">{"".join(cells)}</tr>'


def _figures(table: Table) -> str:
    rows, parts = table.rows[:MAX_LINES], []
    names = [row.entry.submission.title for row in rows]
    label = "score" if table.normalised else "return"
    if len(rows[0].curve) > 1:
        lines = [Line(n, range(1, len(r.curve) + 1), r.curve.tolist()) for n, r in zip(names, rows, strict=True)]
        levels = [("oracle", 1.0)] if table.normalised and table.track != "oracle" else []
        chart = line_chart(lines, "Adaptation curves", "episode of the trial", label, levels, whole_x=True)
        parts.append(f"<figure><figcaption>Adaptation: {label} by episode</figcaption>{chart}{legend(names)}</figure>")
    if table.normalised:
        lines = [
            Line(n, THRESHOLDS.tolist(), r.profile.tolist())
            for n, r in zip(names, rows, strict=True)
            if r.profile is not None
        ]
        chart = line_chart(lines, "Performance profiles", "score τ", "share of runs x tasks above τ")
        parts.append(f"<figure><figcaption>Performance profile</figcaption>{chart}{legend(names)}</figure>")
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def _tasks(table: Table) -> str:
    rows = table.rows[:MAX_LINES]
    low, high = (0.0, 1.0) if table.normalised else bounds(np.stack([row.tasks for row in rows]))
    count = len(rows[0].tasks)
    head = "".join(f'<th scope="col">{task}</th>' for task in range(count))
    body = "".join(
        f'<tr><th scope="row">{e(row.entry.submission.title)}</th>'
        + "".join(f'<td style="{shade(float(v), low, high)}">{v:.2f}</td>' for v in row.tasks)
        + "</tr>"
        for row in rows
    )
    cells = f'<thead><tr><th class="text">task</th>{head}</tr></thead><tbody>{body}</tbody>'
    return f"""<details><summary>By task ({count} tasks, mean over runs)</summary>
{_region("score by task", f'<table class="tasks">{cells}</table>')}
</details>"""


def _verification(entry: Entry) -> str:
    found = entry.verification
    if found is None:
        return '<p class="soft">Nobody has verified exactly this content.</p>'
    rows = "".join(
        f'<tr><th scope="row">{e(c.name)}</th><td class="text wrap">{e(c.found)}</td></tr>' for c in found.checks
    )
    flags = "".join(f"<li>{e(flag)}</li>" for flag in found.flags)
    look = f"<p>A person should look at this:</p><ul>{flags}</ul>" if flags else ""
    how = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return f"""{look}<div class="scroll"><table><tbody>{rows}</tbody></table></div>
<p class="small soft">Verified with {e(how)}. To check it yourself:</p>
<pre>metabench verify leaderboards/{e(entry.submission.place.as_posix())}</pre>"""


def _runs(entry: Entry) -> str:
    rows = "".join(
        f'<tr><th scope="row">{index}</th><td>{"" if run.train_seed is None else run.train_seed}</td>'
        f"<td>{result.protocol.seed}</td><td>{result.array().mean():.2f}</td>"
        f'<td class="text"><code>{e(run.policy_sha256[:16])}…</code></td></tr>'
        for index, (run, result) in enumerate(zip(entry.submission.runs, entry.results.results, strict=True))
    )
    head = (
        '<thead><tr><th class="text">run</th><th>training seed</th><th>evaluation seed</th>'
        '<th>return per episode</th><th class="text">sha256 of the policy</th></tr></thead>'
    )
    return f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'


def _pairs(pairs: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{e(name)}</th><td class="text"><code>{e(value)}</code></td></tr>'
        for name, value in pairs.items()
        if value
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def _facts(facts: Mapping[str, str]) -> str:
    return f'<dl class="facts">{"".join(f"<div><dt>{e(k)}</dt><dd>{e(v)}</dd></div>" for k, v in facts.items())}</dl>'


def _region(label: str, table: str) -> str:
    """A table that scrolls by itself, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{e(label)}">{table}</div>'


def _head(columns: Sequence[tuple[str, str, str | None]]) -> str:
    """Name, classes, and which way the first click sorts ("" is upwards; None: the column is not sorted)."""
    cells = []
    for name, classes, first in columns:
        sortable = "" if first is None else f' data-sort data-first="{first or "ascending"}"'
        cells.append(f'<th scope="col" class="{classes}"{sortable}>{e(name)}</th>')
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def link(entry: Entry) -> str:
    """An entry's page, from the site's root."""
    return f"entries/{e(entry.submission.place.as_posix())}.html"


def big(count: int) -> str:
    """A number of steps in few letters."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def _people(entry: Entry) -> str:
    authors = entry.submission.authors
    return authors[0] if len(authors) == 1 else f"{authors[0]} et al."


def _words(entry: Entry) -> str:
    s = entry.submission
    return " ".join((s.title, s.agent, s.board, s.track, str(s.date), *s.authors)).lower()
