"""Draws the agents' ideas and the speeds beside peers, from `figures.toml`, as SVG with a ground of its own.

python docs/figures.py     # writes docs/figures/*.svg; a test holds that they are the ones this makes
"""

from __future__ import annotations

import html
import math
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE / "figures"
TOLD: dict[str, Any] = tomllib.loads((HERE / "figures.toml").read_text())
WIDE, HIGH, ACROSS, DOWN, MARGIN = 168, 48, 218, 92, 16  # of a box; from box to box; around all
KINDS = {  # fill, edge, what the kind is
    "seen": ("#f1f3f5", "#6b7280", "seen"),
    "learned": ("#dcecf8", "#0072b2", "learned"),
    "hidden": ("#fdebd9", "#c2560c", "what stands for the task"),
    "loss": ("#e2f3ec", "#00805d", "what it is learned from"),
}
INK = "#23272e"
LOWEST, HIGHEST, BAR, LABELS, SPAN = 0.3, 3000.0, 26, 440, 330  # the speeds' axis; heights and widths of the bars


def idea(name: str) -> str:
    """The picture of an agent's idea."""
    told = TOLD["idea"][name]
    boxes: dict[str, tuple[int, int, str, list[str]]] = {}
    for line in told["boxes"]:
        key, column, row, kind, text = line.split(" ", 4)
        boxes[key] = (MARGIN + ACROSS * int(column), MARGIN + DOWN * int(row), kind, text.split("/"))
    arrows = "".join(_arrow(boxes, arrow) for arrow in told["arrows"])
    drawn = "".join(_box(*box) for box in boxes.values())
    width = max(x for x, *_ in boxes.values()) + WIDE + MARGIN
    height = max(y for _, y, *_ in boxes.values()) + HIGH + MARGIN + 26
    used = [kind for kind in KINDS if any(box[2] == kind for box in boxes.values())]
    if name == "yardsticks":
        used = []
    legend, x = "", MARGIN
    for kind in used:
        fill, edge, what = KINDS[kind]
        legend += f'<rect x="{x}" y="{height - 22}" width="12" height="12" rx="3" fill="{fill}" stroke="{edge}"/>'
        legend += f'<text x="{x + 18}" y="{height - 12}" font-size="12">{what}</text>'
        x += 40 + 7 * len(what)
    return _svg(max(width, x), height if used else height - 20, told["caption"], arrows + drawn + legend)


def _box(x: int, y: int, kind: str, lines: list[str]) -> str:
    fill, edge, _ = KINDS[kind]
    first = y + HIGH / 2 + 5 - 8.5 * (len(lines) - 1)
    texts = "".join(
        f'<text x="{x + WIDE / 2:g}" y="{first + 17 * k:g}" text-anchor="middle">{html.escape(line)}</text>'
        for k, line in enumerate(lines)
    )
    return f'<rect x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="9" fill="{fill}" stroke="{edge}" stroke-width="1.6"/>{texts}'


def _arrow(boxes: dict[str, tuple[int, int, str, list[str]]], arrow: str) -> str:
    ends, _, label = arrow.partition(":")
    one, _, other = ends.partition(">")
    (x, y, *_), (u, v, *_) = boxes[one], boxes[other]
    if x == u:  # above or below
        (a, b), (c, d) = (x + WIDE / 2, y + HIGH * (v > y)), (u + WIDE / 2, v + HIGH * (v < y))
    else:
        a, c = (x + WIDE, u) if u > x else (x, u + WIDE)
        turn = 0 if v == y else (9 if v > y else -9)
        b, d = y + HIGH / 2 + turn, v + HIGH / 2 - turn
    long = math.hypot(c - a, d - b)
    c, d = c - 3 * (c - a) / long, d - 3 * (d - b) / long  # the point of the arrow does not cross the edge
    line = f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="{INK}" stroke-width="1.5" marker-end="url(#tip)"/>'
    if not label:
        return line
    across, up = ((a + c) / 2, (b + d) / 2 - 6) if x != u else (a + 8, (b + d) / 2 + 4)
    anchor = "middle" if x != u else "start"
    size = 11 if x != u else 12
    return (
        line
        + f'<text x="{across:.1f}" y="{up:.1f}" text-anchor="{anchor}" font-size="{size}">{html.escape(label)}</text>'
    )


def speed(group: str) -> str:
    """The bars of a group: how many times a peer's speed, on an axis of powers of ten."""
    told = TOLD["speed"][group]
    rows = []
    one = _place(1.0)
    for k, (label, value, *limit) in enumerate(told["bars"]):
        number, y = number_of(value), MARGIN + BAR * k
        color = "#8a929c" if limit else "#0072b2"
        low, high = sorted((one, _place(number)))
        said = (
            f"{number:.2f} of the limit" if limit else f"{number:,.2g} times" if number < 10 else f"{number:,.0f} times"
        )
        after = _place(number) + 6 if number >= 1 else one + 6
        rows.append(f'<text x="{LABELS - 10}" y="{y + 16}" text-anchor="end">{html.escape(label)}</text>')
        rows.append(
            f'<rect x="{low:.1f}" y="{y + 3}" width="{max(high - low, 2):.1f}" height="{BAR - 8}" rx="2" fill="{color}"/>'
        )
        rows.append(f'<text x="{after:.1f}" y="{y + 16}" font-weight="600">{said}</text>')
    bottom = MARGIN + BAR * len(told["bars"]) + 4
    axis = f'<line x1="{one:.1f}" y1="{MARGIN - 6}" x2="{one:.1f}" y2="{bottom}" stroke="{INK}" stroke-width="1.2"/>'
    for tick in (1, 10, 100, 1000):
        axis += f'<text x="{_place(tick):.1f}" y="{bottom + 14}" text-anchor="middle" font-size="11.5" fill="#5a6472">{tick}</text>'
    return _svg(LABELS + SPAN + 120, bottom + 24, told["caption"], "".join(rows) + axis)


def number_of(value: float | str) -> float:
    """A number, or a quotient of two as `36 / 2.4`."""
    if isinstance(value, str):
        over, _, under = value.partition("/")
        return float(over) / float(under)
    return float(value)


def _place(value: float) -> float:
    share = (math.log(value) - math.log(LOWEST)) / (math.log(HIGHEST) - math.log(LOWEST))
    return LABELS + SPAN * share


def _svg(width: float, height: float, caption: str, drawn: str) -> str:
    tip = (
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto" markerUnits="userSpaceOnUse">'
        f'<path d="M0 0.6L7 4L0 7.4z" fill="{INK}"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13.5" fill="{INK}"><title>{html.escape(caption)}</title>{tip}'
        f'<rect width="100%" height="100%" rx="12" fill="#fff"/>{drawn}</svg>\n'
    )


def figures() -> dict[str, str]:
    """Every file and what stands in it."""
    made = {f"idea-{name}.svg": idea(name) for name in TOLD["idea"]}
    return made | {f"speed-{group}.svg": speed(group) for group in TOLD["speed"]}


def main() -> None:
    """Writes them."""
    FOLDER.mkdir(exist_ok=True)
    made = figures()
    for name, content in made.items():
        (FOLDER / name).write_text(content)
    for path in FOLDER.glob("*.svg"):
        if path.name not in made:
            path.unlink()
    print(f"{len(made)} figures in {FOLDER}")


if __name__ == "__main__":
    main()
