"""The speed page's section on GPUs: a table, a bar chart and the curves, from the record of a run."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from metabench.evaluation.results import write_atomically

FORMS = ("eager", "compiled", "captured", "both")
BEGIN, END = "<!-- gpu: begin, written by make gpu -->", "<!-- gpu: end -->"
PAGE, CHART = "speed.md", "results/gpu/speeds.svg"
COLOURS = {"eager": "#9aa5b1", "compiled": "#e0a458", "captured": "#2a6f97", "both": "#1b4965"}
ROW, BAR, LEFT, WIDE = 16, 12, 300, 380  # pixels of the chart


def rows_of(record: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    """What a stage found."""
    return record["stages"].get(stage, {}).get("rows", [])


def grouped(record: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, dict[str, Any]]]:
    """(work, precision, unit) to its forms."""
    groups: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in rows_of(record, "speeds"):
        groups.setdefault((row["work"], row["precision"], row["unit"]), {})[row["form"]] = row
    return groups


def number(value: float) -> str:
    """A rate in three digits."""
    for size, name in ((1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / (1e6 if size == 1e6 else 1e3):,.3g}{name}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(record: dict[str, Any]) -> str:
    """Rates per second with kernels per unit, a column per form."""
    lines = ["| | precision | " + " | ".join(FORMS) + " | captured / eager |", "| --- | --- " + "| --- " * 5 + "|"]
    for (work, precision, unit), forms in grouped(record).items():
        cells = []
        for form in FORMS:
            row = forms.get(form, {})
            told = f"{number(row['rate'])} ({row['kernels']:,.3g})" if "rate" in row else row.get("missing", "")
            cells.append(told.replace("|", "/"))
        ratio = ""
        if "rate" in forms.get("eager", {}) and "rate" in forms.get("captured", {}):
            ratio = f"{forms['captured']['rate'] / forms['eager']['rate']:.1f}"
        lines.append(f"| {work}, {unit}/s | {precision} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines)


def chart(record: dict[str, Any]) -> str:
    """Bars: each form's rate over eager's, or over the one form there is."""
    y, parts = 24, []
    for (work, precision, unit), forms in grouped(record).items():
        measured = {form: row["rate"] for form, row in forms.items() if "rate" in row}
        if not measured:
            continue
        most = max(measured.values())
        label = html.escape(f"{work} ({precision})")
        parts.append(f'<text x="{LEFT - 8}" y="{y + BAR - 2}" text-anchor="end">{label}</text>')
        for form, value in measured.items():
            width = max(1.0, WIDE * value / most)
            told = html.escape(f"{number(value)} {unit}/s, {form}")
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[form]}"/>'
                f'<text x="{LEFT + width + 4:.1f}" y="{y + BAR - 2}">{told}</text>'
            )
            y += ROW
        y += ROW // 2
    title = html.escape(f"{record['device']}, {record['date']}")
    style = "font:11px sans-serif;background:#fff"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDE + 190}" height="{y + 8}" style="{style}">'
    return f'{head}<title>{title}</title><text x="4" y="14">{title}</text>{"".join(parts)}</svg>\n'


def checks(record: dict[str, Any]) -> str:
    """One sentence on the comparisons with the CPU."""
    rows = rows_of(record, "checks")
    equal = sum(row.get("equal", False) for row in rows)
    worst = max((max(row["parameters"], row["metrics"]) for row in rows if "parameters" in row), default=0.0)
    return (
        f"Metrics and parameters after ten updates equal the CPU's eager ones to 1e-5 in {equal} of {len(rows)} "
        f"comparisons (float32; the largest difference is {worst:.1e})."
    )


def curves(record: dict[str, Any]) -> str:
    """What each short run reached."""
    lines = ["| | device | after seconds | mean of the last returns |", "| --- | --- | --- | --- |"]
    for row in rows_of(record, "curves"):
        last = row["curve"][-5:]
        if last:
            mean = sum(value for _, value in last) / len(last)
            lines.append(f"| {row['run']} | {row['device']} | {last[-1][0]:.0f} | {mean:.2f} |")
    return "\n".join(lines)


def section(record: dict[str, Any]) -> str:
    """The section."""
    return f"""## On a GPU

{record["device"]}, {record["date"]}, torch {record["torch"]}, CUDA {record["cuda"]}: `make gpu`, all forms in one run.
Per second, in brackets kernels per unit. Forms: eager; `torch.compile`; captured, the whole update as a CUDA graph;
both.

{table(record)}

![Rates of the forms]({CHART})

{checks(record)}

{curves(record)}
"""


def write_page(record: dict[str, Any], folder: Path) -> None:
    """Puts the section into the page of `folder` (a page of its own where there is none), the chart beside it."""
    drawn = folder / CHART
    drawn.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(drawn, chart(record).encode())
    page = folder / PAGE
    text = page.read_text() if page.is_file() else f"{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} has no place for the section: a line {BEGIN}, and a line {END}")
    head, _, rest = text.partition(BEGIN)
    written = f"{head}{BEGIN}\n{section(record)}{END}{rest.partition(END)[2]}"
    write_atomically(page, written.encode())
