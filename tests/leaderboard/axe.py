"""axe-core, which finds what keeps people out of a page; run where it is at hand.

It is no package of Python's: `npm install --no-save axe-core` in the checkout puts it where it is found, or
METABENCH_AXE names the file `axe.min.js`.
"""

import os
from pathlib import Path

import pytest

PLACES = (
    os.environ.get("METABENCH_AXE", ""),
    Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js",
)


def script():
    """The text of axe-core; skips the test where there is none."""
    for place in PLACES:
        if place and Path(place).is_file():
            return Path(place).read_text()
    pytest.skip("axe-core is not at hand: npm install --no-save axe-core, or METABENCH_AXE=/path/to/axe.min.js")


def violations(page, source):
    """What axe finds on an open page, a line per rule and first element; all of its default rules."""
    page.evaluate(source)  # not by a script's tag: the page may forbid it
    found = page.evaluate("async () => (await axe.run(document)).violations")
    return [
        f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:120]} and {len(one['nodes']) - 1} more"
        for one in found
    ]
